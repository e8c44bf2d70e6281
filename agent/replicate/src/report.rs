//! What is kept of a replication: which disk became which, what they hashed to, what was changed afterwards.
//!
//! `docs/report.md` is the table of these fields. All numbers are whole, so that the bytes that are signed
//! ([`crate::kept`]) are the same whoever writes them. Sizes, offsets and lengths are bytes; moments are seconds since 1970
//! by the clock of the machine that is named, which may be wrong.

use std::time::{Instant, SystemTime};

use gantry_disk::{Careful, Geometry, Identity, SectorSize};
use gantry_wire::limits::{CHUNK, DISK_BYTES, DISKS, GROUP};
use serde::{Deserialize, Serialize};

/// The layout that this build writes and reads.
pub const VERSION: u32 = 2;

/// The report of a session or a local copy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// How far it came.
    pub state: State,
    /// Session id in hex; empty for a local copy.
    pub session: String,
    /// The machine that gave.
    pub source: Machine,
    /// The machine that took.
    pub target: Machine,
    /// Seconds by which the target's clock is ahead of the source's; the time on the wire counts as difference.
    pub clock_offset: i64,
    /// The target's clock when the session began and when it had committed; [`Machine::clock`] is between.
    pub began: u64,
    /// See [`Report::began`]; 0 until then.
    pub committed: u64,
    /// Each disk.
    pub disks: Vec<DiskReport>,
    /// Changes that were made to the verified bytes so that they fit the target disk, one sentence each.
    pub transforms: Vec<String>,
    /// The plan that repair applied, with its diffs; null when it did not run.
    pub repair: serde_json::Value,
    /// How long each phase took.
    pub phases: Vec<Phase>,
}

/// How far a replica came. More than these is proven by evidence that lies elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It is being made.
    #[default]
    #[serde(rename = "unfinished")]
    Unfinished,
    /// Every disk is what the source was, and whole.
    #[serde(rename = "verified, not repaired, boot not proven")]
    Verified,
    /// It was verified, then repaired.
    #[serde(rename = "repaired, boot not proven")]
    Repaired,
    /// Committed by a receiver that was started again before its sender knew: what it had to report is lost.
    #[serde(rename = "committed, details lost in a restart of the receiver")]
    Forgotten,
}

impl State {
    /// As the report spells it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Verified => "verified, not repaired, boot not proven",
            Self::Repaired => "repaired, boot not proven",
            Self::Forgotten => "committed, details lost in a restart of the receiver",
        }
    }
}

/// One end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Vendor, product and host name.
    pub name: String,
    /// Name and version of the software.
    pub software: String,
    /// Its clock when all was verified.
    pub clock: u64,
}

/// A disk by its names at its end; empty strings are unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    /// Node or file.
    pub path: String,
    /// Serial number.
    pub serial: String,
    /// World Wide Name.
    pub wwn: String,
    /// Model.
    pub model: String,
    /// Bytes.
    pub size: u64,
}

/// One disk of a report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskReport {
    /// The source disk.
    pub source: Disk,
    /// The target disk.
    pub target: Disk,
    /// Logical sector size.
    pub sector_size: u32,
    /// What of the source was read and compared.
    pub compared: Compared,
    /// What was not read because it is unused, and is zero in the replica.
    pub skipped: Vec<Skipped>,
    /// Ranges that could not be read and are zero in the replica: offset and length.
    pub bad_sectors: Vec<(u64, u64)>,
    /// Chunks (1 MiB) that differed when the medium was read back, and were written again. Not 0 after the first
    /// full pass means that the target did not keep what it was given.
    pub rewritten_chunks: u64,
    /// Root of the hash tree before transforms and repair, equal at both ends, in hex.
    pub root: String,
    /// The same disk after transforms and repair, as it was committed.
    pub after: After,
}

/// What of a disk was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compared {
    /// Every byte.
    #[default]
    Whole,
    /// What used maps name, and all that lies between filesystems.
    Used,
}

/// A part of a disk that was left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// First byte of the partition or volume.
    pub offset: u64,
    /// Its length.
    pub length: u64,
    /// What is there: "ext4", "swap".
    pub kind: String,
    /// Bytes of it that were read.
    pub used: u64,
    /// The evidence, in words.
    pub why: String,
}

/// A disk after transforms and repair.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct After {
    /// Root of the hash tree over as many bytes as the source has, in hex.
    pub root: String,
    /// Ranges that were changed since [`DiskReport::root`]: offset and length, ascending, apart, in multiples of 64 KiB.
    pub changed: Vec<(u64, u64)>,
    /// How they are known: "recorded" as they were written, or why the whole disk was read again instead.
    pub known_by: String,
    /// Bytes that were read back for this.
    pub read: u64,
    /// Bytes that each of `nodes` covers: 64 MiB times a power of two.
    pub span: u64,
    /// Nodes of the hash tree after the changes, in hex: they tell where a disk differs later.
    pub nodes: Vec<String>,
    /// On a larger disk: what was written behind the source's last byte.
    pub behind: Option<Behind>,
}

/// Bytes behind the extent of the source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Behind {
    /// Where.
    pub offset: u64,
    /// How many, at most 1 MiB.
    pub length: u64,
    /// Their BLAKE3, in hex.
    pub blake3: String,
}

/// What only the sender knows, in the order of the report's disks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SourceFacts {
    /// Version of its software.
    pub software: String,
    /// Its clock, in seconds since 1970, when all was verified.
    pub clock: u64,
    /// Each disk.
    pub disks: Vec<SourceDiskFacts>,
}

/// What only the sender knows of a disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SourceDiskFacts {
    /// World Wide Name.
    pub wwn: String,
    /// See [`DiskReport::compared`].
    pub compared: Compared,
    /// See [`DiskReport::skipped`].
    pub skipped: Vec<Skipped>,
    /// See [`DiskReport::bad_sectors`].
    pub bad_sectors: Vec<(u64, u64)>,
}

/// One phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// "full", "compare", "copy", "repair", "after", "commit".
    pub name: String,
    /// How long.
    pub milliseconds: u64,
}

/// Seconds since 1970 by this machine's clock, which may be wrong.
pub fn clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Disk {
    /// A disk end.
    pub fn of(end: &(impl Geometry + ?Sized)) -> Self {
        let Identity { path, serial, wwn, model } = end.identity().clone();
        Self { path, serial, wwn, model, size: end.size() }
    }
}

impl SourceDiskFacts {
    /// What is known of a disk that was read as a whole.
    pub fn of(disk: &Careful) -> Self {
        let given_up = disk.given_up().into_iter().map(|range| (range.start, range.end - range.start));
        let wwn = disk.identity().wwn.clone();
        Self { wwn, bad_sectors: given_up.collect(), ..Self::default() }
    }
}

impl Report {
    /// Adds the time since `began` to a phase: however often it was begun anew, it is told once.
    pub fn phase(&mut self, name: &str, began: Instant) {
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match self.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.milliseconds = phase.milliseconds.saturating_add(milliseconds),
            None => self.phases.push(Phase { name: name.to_owned(), milliseconds }),
        }
    }

    /// All is verified, now: takes what the sender knows.
    ///
    /// # Errors
    /// It says what cannot be; in words.
    pub fn verified(&mut self, facts: SourceFacts) -> Result<(), String> {
        self.target.clock = clock();
        self.source.software = facts.software;
        self.source.clock = facts.clock;
        self.clock_offset = self.target.clock.cast_signed().wrapping_sub(facts.clock.cast_signed());
        if facts.disks.len() != self.disks.len() {
            return Err(format!("facts of {} disks, not {}", facts.disks.len(), self.disks.len()));
        }
        for (disk, facts) in self.disks.iter_mut().zip(facts.disks) {
            disk.source.wwn = facts.wwn;
            disk.compared = facts.compared;
            disk.skipped = facts.skipped;
            disk.bad_sectors = facts.bad_sectors;
            check_source(disk)?;
        }
        Ok(())
    }
}

/// How much there is of each at most.
pub mod limits {
    /// Parts of one disk that were skipped.
    pub const SKIPPED: usize = 1024;
    /// Bad ranges of one disk.
    pub const BAD: usize = 16384;
    /// Changed ranges of all disks together; more are told as fewer and larger ones.
    pub const CHANGED: usize = 2048;
    /// Nodes of all disks together.
    pub const NODES: usize = 2048;
    /// Phases.
    pub const PHASES: usize = 16;
    /// Sentences.
    pub const TRANSFORMS: usize = 1024;
}

/// Checks what came from outside against the limits and against itself; says what does not fit.
///
/// # Errors
/// In words: which disk, which field.
pub fn check(report: &Report) -> Result<(), String> {
    let within = |what: &str, found: usize, limit: usize| match found <= limit {
        true => Ok(()),
        false => Err(format!("{found} {what}, {limit} at most")),
    };
    if report.version != VERSION {
        let found = report.version;
        return Err(format!("its layout is version {found}, this program reads version {VERSION}"));
    }
    within("disks", report.disks.len(), DISKS)?;
    within("phases", report.phases.len(), limits::PHASES)?;
    within("transforms", report.transforms.len(), limits::TRANSFORMS)?;
    within("nodes", report.disks.iter().map(|disk| disk.after.nodes.len()).sum(), limits::NODES)?;
    for (number, disk) in (1..).zip(&report.disks) {
        check_disk(disk).map_err(|why| format!("disk {number}: {why}"))?;
    }
    Ok(())
}

/// What the source's end said of a disk.
fn check_source(disk: &DiskReport) -> Result<(), String> {
    let size = disk.source.size;
    check_ranges("bad", &disk.bad_sectors, limits::BAD, size)?;
    if disk.skipped.len() > limits::SKIPPED {
        return Err(format!("{} skipped parts, {} at most", disk.skipped.len(), limits::SKIPPED));
    }
    disk.skipped.iter().try_for_each(|part| check_ranges("skipped", &[(part.offset, part.length)], 1, size))
}

/// Ranges are ascending, apart, and lie before `end`.
fn check_ranges(what: &str, ranges: &[(u64, u64)], limit: usize, end: u64) -> Result<(), String> {
    if ranges.len() > limit {
        return Err(format!("{} {what} ranges, {limit} at most", ranges.len()));
    }
    let mut reach = 0;
    for (offset, length) in ranges {
        match offset.checked_add(*length) {
            Some(stop) if *offset >= reach && *length > 0 && stop <= end => reach = stop,
            _ => return Err(format!("a {what} range of {length} bytes at byte {offset}")),
        }
    }
    Ok(())
}

fn check_disk(disk: &DiskReport) -> Result<(), String> {
    let (size, after) = (disk.source.size, &disk.after);
    if size == 0 || size.max(disk.target.size) > DISK_BYTES || disk.target.size < size {
        return Err(format!("sizes of {size} and {} bytes", disk.target.size));
    }
    if SectorSize::try_from(disk.sector_size).is_err() {
        return Err(format!("sectors of {} bytes", disk.sector_size));
    }
    check_source(disk)?;
    check_ranges("changed", &after.changed, limits::CHANGED, disk.target.size)?;
    let mut hashes = [&disk.root, &after.root].into_iter().chain(&after.nodes);
    if let Some(bad) = hashes.find(|hash| unhex::<32>(hash).is_none()) {
        return Err(format!("{bad:?} is no hash"));
    }
    let group = GROUP * CHUNK;
    let whole = after.span >= group && (after.span / group).is_power_of_two() && after.span % group == 0;
    if !whole || size.div_ceil(after.span) != after.nodes.len() as u64 {
        return Err(format!("{} nodes of {} bytes each for a disk of {size}", after.nodes.len(), after.span));
    }
    if let Some(behind) = &after.behind {
        let stop = behind.offset.checked_add(behind.length);
        let fits = behind.offset >= size && behind.length <= CHUNK && stop == Some(disk.target.size);
        if !fits || unhex::<32>(&behind.blake3).is_none() {
            return Err(format!("{} bytes behind the source at byte {}", behind.length, behind.offset));
        }
    }
    Ok(())
}

/// Reads lower-case hex of just `N` bytes.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}
