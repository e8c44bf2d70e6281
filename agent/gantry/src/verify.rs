//! `gantry verify`: compares two disk ends, or disks with a kept report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use gantry_disk::ReadAt;
use gantry_replicate::against::{Standing, compare};
use gantry_replicate::local::verify;
use gantry_replicate::report::{DiskReport, Report};
use serde_json::json;

use crate::machine::Refused;
use crate::{ends, events, machine, report};

/// Compare two disks or images byte by byte, or disks with a kept report.
///
/// Two ends: prints the root of each. With --report: the signatures of the report are checked, then each disk named is read
/// and compared with it; without a disk the report is shown. A disk goes by its serial number if the report has it, else by
/// the order in which they are named.
/// Exit codes: 0 equal (with a report: as committed, or as the source was; which of both is said); 4 they differ; 3 refused,
/// also when a signature is broken; 1 anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Disk by path, serial number or WWN, raw image, FORMAT:PATH (qcow2, vmdk, vhdx, vdi, raw), or NBD URI: two, or with
    /// --report at most as many as the report has.
    #[arg(value_name = "DISK")]
    disks: Vec<String>,
    /// A report that send, receive or copy has kept.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Sign the report with this SSH key when nothing was found against it: FILE.sig is made.
    #[arg(long, value_name = "KEY", requires = "report")]
    sign_with: Option<PathBuf>,
    /// Print events and the outcome as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// Exit code: the two differ.
const DIFFERENT: u8 = 4;
/// Differing places that are listed.
const SHOWN: usize = 16;

pub fn run(args: Args) -> Result<ExitCode> {
    match work(&args) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::from(DIFFERENT)),
        Err(error) => Ok(machine::fail(args.json, &error)),
    }
}

fn work(args: &Args) -> Result<bool> {
    match (&args.report, &args.disks[..]) {
        (Some(file), disks) => against_report(args, file, disks),
        (None, [first, second]) => against_each_other(args.json, first, second),
        (None, disks) => {
            bail!(Refused(format!("{} ends to compare: name two, or a report with --report", disks.len())))
        }
    }
}

fn against_each_other(json: bool, one: &str, two: &str) -> Result<bool> {
    let (first, second) = (ends::reader(one)?, ends::reader(two)?);
    let found = verify(&*first, &*second, &events::sink(json))?;
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
        let (one, two, compared) = (first.size(), second.size(), found.compared);
        events::say(&format!("sizes differ: {one} and {two} bytes; compared the first {compared}"));
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

fn against_report(args: &Args, file: &Path, names: &[String]) -> Result<bool> {
    let (bytes, read) = report::read(file)?;
    let signatures = report::signatures(&read)?;
    let told = &read.kept.report;
    if names.is_empty() && !args.json {
        events::say(report::render(told)?.trim_end());
    }
    if !args.json {
        signatures.iter().for_each(|line| events::say(line));
    }
    let disks = names.iter().map(|name| ends::reader(name)).collect::<Result<Vec<_>>>()?;
    let mut found = Vec::new();
    for ((name, disk), told) in names.iter().zip(&disks).zip(matching(told, &disks)?) {
        let outcome = compare(&**disk, told, &events::sink(args.json))?;
        if !args.json {
            show(name, &**disk, told, &outcome.state);
        }
        let (state, places) = match outcome.state {
            Standing::After => ("as committed", Vec::new()),
            Standing::Before => ("as the source", Vec::new()),
            Standing::Neither(places) => ("differs", places),
        };
        found.push(json!({ "disk": name, "root": outcome.root, "state": state, "places": places }));
    }
    let equal = found.iter().all(|disk| disk["state"] != "differs");
    if args.json {
        events::object(&json!({
            "event": "checked", "equal": equal, "signatures": signatures, "disks": found, "report": told,
        }));
    }
    match &args.sign_with {
        Some(key) if equal => report::sign_file(key, file, &bytes)?,
        Some(_) => bail!(Refused("a disk differs from the report: it is not signed".to_owned())),
        None => {}
    }
    Ok(equal)
}

/// The disk of the report that each of these is.
fn matching<'a>(told: &'a Report, disks: &[Arc<dyn ReadAt>]) -> Result<Vec<&'a DiskReport>> {
    if disks.len() > told.disks.len() {
        let (named, known) = (disks.len(), told.disks.len());
        bail!(Refused(format!("{named} disks are named, the report has {known}")));
    }
    let by_serial = |disk: &dyn ReadAt| {
        let serial = &disk.identity().serial;
        let is_it = |told: &&DiskReport| told.target.serial == *serial || told.source.serial == *serial;
        told.disks.iter().find(|told| !serial.is_empty() && is_it(told))
    };
    let found: Vec<_> = disks
        .iter()
        .zip(&told.disks)
        .map(|(disk, in_order)| by_serial(&**disk).unwrap_or(in_order))
        .collect();
    let twice = (1..found.len()).any(|i| found[..i].iter().any(|other| std::ptr::eq(*other, found[i])));
    if twice {
        bail!(Refused(
            "two of the disks are one and the same in the report: name them in its order".to_owned()
        ));
    }
    Ok(found)
}

fn show(name: &str, disk: &dyn ReadAt, told: &DiskReport, state: &Standing) {
    let (serial, known) = (&disk.identity().serial, [&told.target.serial, &told.source.serial]);
    if !serial.is_empty() && !known.contains(&serial) {
        events::say(&format!("{name}: its serial number {serial} is not in the report; compared by order"));
    }
    match state {
        Standing::After => events::say(&format!("{name}: as it was committed")),
        Standing::Before => events::say(&format!("{name}: as the source was, before transforms and repair")),
        Standing::Neither(places) => {
            events::say(&format!("{name}: NOT as it was committed, in {} places", places.len()));
            for (offset, length) in places.iter().take(SHOWN) {
                events::say(&format!("{name}: differs within {length} bytes at byte {offset}"));
            }
            if places.len() > SHOWN {
                events::say(&format!("... and in {} more", places.len() - SHOWN));
            }
            events::say(
                "A machine that runs changes its disk: if this one was started since, that is all it need be. If it was \
                 not, the disk is damaged or somebody wrote to it.",
            );
        }
    }
}
