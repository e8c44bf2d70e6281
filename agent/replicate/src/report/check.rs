//! Whether a report can be true: it comes from a file or a peer, and must fit its limits and itself.

use gantry_disk::SectorSize;
use gantry_wire::limits::{CHUNK, DISK_BYTES, DISKS, GROUP};
use gantry_wire::tree::unhex;

use super::{
    After, Compared, DiskReport, NamedMachine, Part, Report, SourceDiskFacts, SourceFacts, State, VERSION,
    ahead,
};

/// How much there is of each at most, of all disks together. With these a report fits into its frame
/// ([`gantry_wire::limits::REPORT`]), unless an end makes the most of several; that is seen before the commit.
pub mod limits {
    /// Bytes of a text: what the wire takes.
    pub const TEXT: usize = gantry_wire::limits::TEXT;
    /// Bytes of a text among the facts of the source: there may be many.
    pub const WORDS: usize = 256;
    /// Bytes of the facts of the source, as JSON.
    pub const FACTS: usize = 768 << 10;
    /// Partitions and volumes.
    pub const PARTS: usize = 512;
    /// Bad ranges: as many as one disk may have before it is called dying.
    pub const BAD: usize = 16384;
    /// Changed ranges; more are told as fewer and larger ones.
    pub const CHANGED: usize = 2048;
    /// Nodes.
    pub const NODES: usize = 2048;
    /// Phases.
    pub const PHASES: usize = 16;
    /// Sentences.
    pub const TRANSFORMS: usize = 1024;
}

/// Checks a report against the limits and against itself; says what does not fit.
///
/// # Errors
/// In words: which disk, which field.
pub fn check(report: &Report) -> Result<(), String> {
    if report.version != VERSION {
        let found = report.version;
        return Err(format!("its layout is version {found}, this program reads version {VERSION}"));
    }
    check_state(report)?;
    check_machines(&report.source, &report.target)?;
    if report.state != State::Forgotten
        && report.clock_offset != ahead(report.target.clock, report.source.clock)
    {
        return Err(format!("its clocks are not {} s apart", report.clock_offset));
    }
    let afters = || report.disks.iter().filter_map(|disk| disk.after.as_ref());
    within("disks", report.disks.len(), DISKS)?;
    within("phases", report.phases.len(), limits::PHASES)?;
    within("transforms", report.transforms.len(), limits::TRANSFORMS)?;
    within("nodes", afters().map(|after| after.nodes.len()).sum(), limits::NODES)?;
    within("changed ranges", afters().map(|after| after.changed.len()).sum(), limits::CHANGED)?;
    let texts = [&report.session].into_iter().chain(&report.transforms);
    texts
        .chain(report.phases.iter().map(|phase| &phase.name))
        .try_for_each(|text| check_text(text, limits::TEXT))?;
    let sizes: Vec<u64> = report.disks.iter().map(|disk| disk.source.size).collect();
    check_facts(&SourceFacts::from(report), &sizes)?;
    for (number, disk) in (1..).zip(&report.disks) {
        check_disk(disk, report.state).map_err(|why| format!("disk {number}: {why}"))?;
    }
    Ok(())
}

/// What the source's end says of its disks, of these sizes.
///
/// # Errors
/// In words: which disk, which field.
pub fn check_facts(facts: &SourceFacts, sizes: &[u64]) -> Result<(), String> {
    if facts.disks.len() != sizes.len() {
        return Err(format!("facts of {} disks, not {}", facts.disks.len(), sizes.len()));
    }
    within("bad ranges", facts.disks.iter().map(|disk| disk.bad_sectors.len()).sum(), limits::BAD)?;
    let parts: usize = facts.disks.iter().map(|disk| disk.parts.len()).sum();
    within("partitions and volumes", parts + facts.volumes.len(), limits::PARTS)?;
    facts.volumes.iter().try_for_each(|volume| check_part(volume, u64::MAX))?;
    check_text(&facts.software, limits::WORDS)?;
    for (number, (disk, size)) in (1..).zip(facts.disks.iter().zip(sizes)) {
        check_disk_facts(disk, *size).map_err(|why| format!("disk {number}: {why}"))?;
    }
    Ok(())
}

fn within(what: &str, found: usize, limit: usize) -> Result<(), String> {
    match found <= limit {
        true => Ok(()),
        false => Err(format!("{found} {what}, {limit} at most")),
    }
}

/// A text is of one line and steers nothing: it is shown, and nothing in it may look like a line of ours.
fn check_text(text: &str, limit: usize) -> Result<(), String> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("a text with the control character {c:?}")),
        None => within("bytes of text", text.len(), limit),
    }
}

/// A text as a report holds it: one line, at most `most` bytes.
pub fn line(text: &str, most: usize) -> String {
    let mut line = text.replace(char::is_control, "?");
    line.truncate(line.floor_char_boundary(most));
    line
}

/// The state, and what there is of the rest in it.
fn check_state(report: &Report) -> Result<(), String> {
    let words = report.state.words();
    if report.state == State::Unfinished {
        return Err("it is of a session that did not end".to_owned());
    }
    if report.disks.is_empty() != (report.state == State::Forgotten) {
        return Err(format!("{} disks, and its state is {words:?}", report.disks.len()));
    }
    let planned = matches!(report.state, State::Repairing | State::Repaired);
    match (planned, report.repair.is_null()) {
        (true, true) => Err(format!("its state is {words:?}, and no repair is in it")),
        (false, false) => Err(format!("its state is {words:?}, and a repair is in it")),
        _ => Ok(()),
    }
}

fn check_machines(source: &NamedMachine, target: &NamedMachine) -> Result<(), String> {
    for machine in [source, target] {
        let NamedMachine { name, software, clock: _, key } = machine;
        [name, software].into_iter().try_for_each(|text| check_text(text, limits::TEXT))?;
        if !key.is_empty() && unhex::<32>(key).is_none() {
            return Err(format!("{key:?} is no key"));
        }
    }
    match !source.key.is_empty() && source.key == target.key {
        true => Err("both ends have one key: one of them has made all of it".to_owned()),
        false => Ok(()),
    }
}

fn check_disk_facts(disk: &SourceDiskFacts, size: u64) -> Result<(), String> {
    let SourceDiskFacts { wwn, compared, doubt, parts, bad_sectors } = disk;
    check_ranges("bad", bad_sectors, size)?;
    [wwn, doubt].into_iter().try_for_each(|text| check_text(text, limits::WORDS))?;
    if *compared == Compared::Whole && !(parts.is_empty() && doubt.is_empty()) {
        return Err("all of it was compared, and used maps were looked at".to_owned());
    }
    parts.iter().try_for_each(|part| check_part(part, size))
}

fn check_part(part: &Part, end: u64) -> Result<(), String> {
    let Part { name, offset, length, kind, used, doubt } = part;
    [name, kind, doubt].into_iter().try_for_each(|text| check_text(text, limits::WORDS))?;
    match offset.checked_add(*length) {
        Some(stop) if stop <= end && used <= length => Ok(()),
        _ => Err(format!("a part of {length} bytes at byte {offset}, of which {used} are used")),
    }
}

/// Ranges are ascending, apart, and lie before `end`.
fn check_ranges(what: &str, ranges: &[(u64, u64)], end: u64) -> Result<(), String> {
    let mut reach = 0;
    for (offset, length) in ranges {
        match offset.checked_add(*length) {
            Some(stop) if *offset >= reach && *length > 0 && stop <= end => reach = stop,
            _ => return Err(format!("a {what} range of {length} bytes at byte {offset}")),
        }
    }
    Ok(())
}

fn check_disk(disk: &DiskReport, state: State) -> Result<(), String> {
    let (size, target) = (disk.source.size, disk.target.size);
    if size == 0 || size.max(target) > DISK_BYTES || target < size {
        return Err(format!("sizes of {size} and {target} bytes"));
    }
    if SectorSize::try_from(disk.sector_size).is_err() {
        return Err(format!("sectors of {} bytes", disk.sector_size));
    }
    let names = [&disk.source, &disk.target].into_iter().flat_map(|n| [&n.path, &n.serial, &n.wwn, &n.model]);
    names.into_iter().try_for_each(|text| check_text(text, limits::TEXT))?;
    check_hash(&disk.root)?;
    match (&disk.after, state == State::Repairing) {
        (Some(after), false) => check_after(disk, after),
        (None, true) => Ok(()),
        (Some(_), true) => Err("it is being repaired, and is told as it was committed".to_owned()),
        (None, false) => Err("it is not told as it was committed".to_owned()),
    }
}

fn check_hash(text: &str) -> Result<(), String> {
    unhex::<32>(text).map(drop).ok_or_else(|| format!("{text:?} is no hash"))
}

fn check_after(disk: &DiskReport, after: &After) -> Result<(), String> {
    let size = disk.source.size;
    check_text(&after.known_by, limits::TEXT)?;
    check_ranges("changed", &after.changed, disk.target.size)?;
    [&after.root].into_iter().chain(&after.nodes).try_for_each(|hash| check_hash(hash))?;
    if after.root != disk.root && after.changed.iter().all(|(offset, _)| *offset >= size) {
        return Err("its roots differ, and nothing was changed".to_owned());
    }
    let group = GROUP * CHUNK;
    let whole = (group..=DISK_BYTES).contains(&after.span) && after.span.is_power_of_two();
    if !whole || size.div_ceil(after.span) != after.nodes.len() as u64 {
        return Err(format!("{} nodes of {} bytes each for a disk of {size}", after.nodes.len(), after.span));
    }
    match &after.behind {
        Some(behind) => {
            let stop = behind.offset.checked_add(behind.length);
            let here = behind.offset >= size && behind.length > 0 && behind.length <= CHUNK;
            match here && stop == Some(disk.target.size) && unhex::<32>(&behind.blake3).is_some() {
                true => Ok(()),
                false => Err(format!("{} bytes behind the source at byte {}", behind.length, behind.offset)),
            }
        }
        None if disk.target.size > size => Err("nothing is told of what is behind the source".to_owned()),
        None => Ok(()),
    }
}
