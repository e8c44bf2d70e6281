//! `gantry verify`: compares two disk ends, or disks with a kept report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use gantry_disk::ReadAt;
use gantry_disk::size::human;
use gantry_replicate::against::{Found, Standing, compare, fits};
use gantry_replicate::local::verify;
use gantry_replicate::report::{DiskReport, Report};
use serde_json::{Value, json};

use crate::machine::Refused;
use crate::report::Signed;
use crate::{ends, events, machine, report};

/// Compare two disks or images, or disks with a kept report.
///
/// Two ends: what the filesystems of the first use is compared, as `copy` and `send` transfer it; --whole compares every
/// byte. Prints the root of each. With --report: the signatures of the report are checked, then each disk named is read
/// and compared with it; without a disk the report is shown. A disk goes by its serial number if that is one disk's of the
/// report, else by the order in which they are named.
/// Exit codes: 0 equal (with a report: as committed); 4 they differ; 5 with a report: as the source was, before transforms
/// and repair; 3 refused, also when a signature is broken; 1 anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Disk by path, serial number or WWN, raw image, FORMAT:PATH (qcow2, vmdk, vhdx, vdi, raw), or NBD URI: two, or with
    /// --report at most as many as the report has.
    #[arg(value_name = "DISK")]
    disks: Vec<String>,
    /// Compare every byte of two ends, also what no filesystem uses.
    #[arg(long, conflicts_with = "report")]
    whole: bool,
    /// A report that send, receive or copy has kept.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Refuse a report that has not been signed by both ends, as that of a copy on one host.
    #[arg(long, requires = "report")]
    signed: bool,
    /// Sign the report with this SSH key when nothing was found against it: FILE.sig is made. The key is tried first.
    #[arg(long, value_name = "KEY", requires = "report")]
    sign_with: Option<PathBuf>,
    /// Print events and the outcome as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// Differing places that are listed.
const SHOWN: usize = 16;

/// What was found; of several disks the worst counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// Equal, or as committed.
    Equal,
    /// As the source was, which is not as committed.
    Before,
    /// Something differs.
    Different,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Equal => Self::SUCCESS,
            Outcome::Before => Self::from(5),
            Outcome::Different => Self::from(4),
        }
    }
}

pub fn run(args: Args) -> Result<ExitCode> {
    match work(&args) {
        Ok(outcome) => Ok(outcome.into()),
        Err(error) => Ok(machine::fail(args.json, &error)),
    }
}

fn work(args: &Args) -> Result<Outcome> {
    match (&args.report, &args.disks[..]) {
        (Some(file), disks) => against_report(args, file, disks),
        (None, [first, second]) => Ok(match against_each_other(args, first, second)? {
            true => Outcome::Equal,
            false => Outcome::Different,
        }),
        (None, disks) => {
            bail!(Refused(format!("{} ends to compare: name two, or a report with --report", disks.len())))
        }
    }
}

fn against_each_other(args: &Args, one: &str, two: &str) -> Result<bool> {
    let json = args.json;
    let (first, second) = (ends::reader(one)?, ends::reader(two)?);
    let found = verify(&*first, &*second, args.whole, &events::sink(json))?;
    let same_size = first.size() == second.size();
    let equal = same_size && found.differing == 0;
    if json {
        events::object(&json!({
            "event": "compared", "equal": equal, "compared": found.compared, "first": found.first,
            "second": found.second, "differing": found.differing, "places": found.places,
        }));
        return Ok(equal);
    }
    events::say(&format!("{one}: root {}", found.first));
    events::say(&format!("{two}: root {}", found.second));
    if !same_size {
        let (one, two) = (first.size(), second.size());
        events::say(&format!(
            "sizes differ: {one} and {two} bytes; compared up to the end of the smaller one"
        ));
    }
    let size = first.size().min(second.size());
    if found.compared < size {
        let (compared, size) = (human(found.compared), human(size));
        events::say(&format!(
            "compared {compared} of {size}: what filesystems use; --whole compares every byte"
        ));
    }
    for offset in found.places.iter().take(SHOWN) {
        events::say(&format!("differ in the MiB at byte {offset}"));
    }
    if found.differing > SHOWN as u64 {
        events::say(&format!("... and in {} more MiB", found.differing - SHOWN as u64));
    }
    events::say(if equal { "equal" } else { "NOT equal" });
    Ok(equal)
}

fn against_report(args: &Args, file: &Path, names: &[String]) -> Result<Outcome> {
    if let Some(key) = &args.sign_with {
        report::try_key(key)?;
    }
    let (bytes, kept) = report::read(file)?;
    let signed = Signed::of(&kept)?;
    let told = &kept.report;
    if !args.json {
        let shown = if names.is_empty() { report::render(told) } else { Vec::new() };
        shown.iter().chain(&signed.lines()).for_each(|line| events::say(line));
    }
    if args.signed && !signed.is_whole() {
        bail!(Refused("the report is not signed by both ends".to_owned()));
    }
    let disks = names.iter().map(|name| ends::reader(name)).collect::<Result<Vec<_>>>()?;
    let pairs = matching(told, &disks)?;
    // Before any is read, which may take hours.
    disks.iter().zip(&pairs).try_for_each(|(disk, told)| fits(&**disk, told).map(drop))?;
    let mut found = Vec::new();
    let mut outcome = Outcome::Equal;
    for ((name, disk), told) in names.iter().zip(&disks).zip(pairs) {
        let compared = compare(&**disk, told, &events::sink(args.json))?;
        if !args.json {
            show(name, &**disk, told, &compared.state);
        }
        outcome = outcome.max(outcome_of(&compared.state));
        found.push(disk_json(name, compared));
    }
    if args.json {
        events::object(&json!({
            "event": "checked", "equal": outcome == Outcome::Equal, "signatures": signed.json(), "disks": found,
            "report": json!(kept)["report"],
        }));
    }
    match &args.sign_with {
        Some(key) if outcome == Outcome::Equal => report::sign_file(key, file, &bytes)?,
        Some(_) => bail!(Refused("a disk is not as it was committed: the report is not signed".to_owned())),
        None => {}
    }
    Ok(outcome)
}

fn outcome_of(state: &Standing) -> Outcome {
    match state {
        Standing::After | Standing::AfterButTail => Outcome::Equal,
        Standing::Before => Outcome::Before,
        Standing::Neither(_) => Outcome::Different,
    }
}

fn disk_json(name: &str, found: Found) -> Value {
    let (state, places) = match found.state {
        Standing::After => ("as committed", Vec::new()),
        Standing::AfterButTail => ("as committed, tail not compared", Vec::new()),
        Standing::Before => ("as the source", Vec::new()),
        Standing::Neither(places) => ("differs", places),
    };
    json!({ "disk": name, "root": found.root, "state": state, "places": places })
}

/// The disk of the report that each of these is: first those whose serial number is that of one disk alone, here and in the
/// report; the others take what is left of it, in order.
fn matching<'a>(told: &'a Report, disks: &[Arc<dyn ReadAt>]) -> Result<Vec<&'a DiskReport>> {
    if disks.len() > told.disks.len() {
        let (named, known) = (disks.len(), told.disks.len());
        bail!(Refused(format!("{named} disks are named, the report has {known}")));
    }
    let serial = |disk: &Arc<dyn ReadAt>| disk.identity().serial.clone();
    let by_serial = |disk: &Arc<dyn ReadAt>| {
        let serial = Some(serial(disk)).filter(|serial| !serial.is_empty())?;
        let alone = disks.iter().filter(|other| other.identity().serial == serial).count() == 1;
        let is_it = |told: &DiskReport| told.target.serial == serial || told.source.serial == serial;
        let mut known = (0..told.disks.len()).filter(|index| is_it(&told.disks[*index]));
        known.next().filter(|_| alone && known.next().is_none())
    };
    let mut places: Vec<Option<usize>> = disks.iter().map(by_serial).collect();
    for (number, place) in places.iter().enumerate() {
        if place.is_some() && places[..number].contains(place) {
            let path = &disks[number].identity().path;
            bail!(Refused(format!(
                "{path} and another of these disks are the two sides of one disk of the report: check one at a time"
            )));
        }
    }
    for number in 0..places.len() {
        if places[number].is_none() {
            places[number] = (0..told.disks.len()).find(|index| !places.contains(&Some(*index)));
        }
    }
    Ok(places.into_iter().flatten().filter_map(|index| told.disks.get(index)).collect())
}

fn show(name: &str, disk: &dyn ReadAt, told: &DiskReport, state: &Standing) {
    let (serial, known) = (&disk.identity().serial, [&told.target.serial, &told.source.serial]);
    if !serial.is_empty() && !known.contains(&serial) {
        events::say(&format!("{name}: its serial number {serial} is not in the report; compared by order"));
    }
    let length = told.source.size;
    match state {
        Standing::After => events::say(&format!("{name}: as it was committed")),
        Standing::AfterButTail => events::say(&format!(
            "{name}: as it was committed over the {length} bytes that the source has. What was committed behind them, such \
             as the backup of a GPT, has its place on a disk of {} bytes and was NOT compared",
            told.target.size
        )),
        Standing::Before => events::say(&format!(
            "{name}: as the source was, before transforms and repair; NOT as it was committed"
        )),
        Standing::Neither(places) => {
            events::say(&format!("{name}: NOT as it was committed, in {} places", places.len()));
            for (offset, length) in places.iter().take(SHOWN) {
                events::say(&format!("{name}: differs within {length} bytes at byte {offset}"));
            }
            if places.len() > SHOWN {
                events::say(&format!("... and in {} more", places.len() - SHOWN));
            }
            events::say(
                "A machine that runs changes its disk, and so does a repair: if this one was started or repaired since, \
                 that is all it need be. If it was not, the disk is damaged or somebody wrote to it.",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use gantry_disk::{Geometry, Identity, SectorSize};
    use gantry_replicate::report::NamedDisk;

    use super::*;

    struct Serial(Identity);
    impl Geometry for Serial {
        fn size(&self) -> u64 {
            1
        }
        fn sector_size(&self) -> SectorSize {
            SectorSize::B512
        }
        fn identity(&self) -> &Identity {
            &self.0
        }
    }
    impl ReadAt for Serial {
        fn read_at(&self, _: u64, _: &mut [u8]) -> gantry_disk::Result<()> {
            Ok(())
        }
    }

    /// Source and target serials of a report's disks, those of the disks named, and where each belongs.
    fn places(told: &[(&str, &str)], named: &[&str]) -> Result<Vec<usize>> {
        let disk = |serial: &str| NamedDisk { serial: serial.into(), ..NamedDisk::default() };
        let pair = |(source, target): &(&str, &str)| DiskReport {
            source: disk(source),
            target: disk(target),
            ..DiskReport::default()
        };
        let report = Report { disks: told.iter().map(pair).collect(), ..Report::default() };
        let open = |serial: &&str| {
            let identity = Identity { serial: (*serial).into(), ..Identity::default() };
            Arc::new(Serial(identity)) as Arc<dyn ReadAt>
        };
        let disks: Vec<_> = named.iter().map(open).collect();
        let found = matching(&report, &disks)?;
        let place = |disk: &&DiskReport| report.disks.iter().position(|told| std::ptr::eq(told, *disk));
        Ok(found.iter().filter_map(place).collect())
    }

    #[test]
    fn disks_go_by_serial_numbers_that_are_one_disks_and_else_by_order() {
        let told = [("s1", "t1"), ("s2", "t2"), ("", "")];
        assert_eq!(places(&told, &["t2", "t1"]).unwrap(), [1, 0]);
        assert_eq!(places(&told, &["s2"]).unwrap(), [1]);
        assert_eq!(places(&told, &["", "t1", "x"]).unwrap(), [1, 0, 2], "the others take what is left");
        assert_eq!(places(&told, &["", ""]).unwrap(), [0, 1]);
        // Cheap enclosures give all their disks one number.
        assert_eq!(places(&[("d", "d"), ("d", "d")], &["d", "d"]).unwrap(), [0, 1]);
        assert_eq!(places(&[("", "d"), ("", "d")], &["d"]).unwrap(), [0]);
        for (named, why) in
            [(&["s1", "t1"][..], "two sides of one disk"), (&["", "", "", ""], "the report has 3")]
        {
            let error = places(&told, named).unwrap_err();
            assert!(error.is::<Refused>() && error.to_string().contains(why), "{error}");
        }
    }
}
