//! `gantry copy`: any disk end to any disk end on one host.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use gantry_disk::inventory::{scan, select};
use gantry_disk::relation::relation;
use gantry_disk::roots::Roots;
use gantry_disk::size::human;
use gantry_disk::{BadSectors, ImageFile, WriteAt};
use gantry_replicate::local::{CopyOptions, copy};
use serde_json::json;

use crate::ends::{self, EraseRule};
use crate::finisher::Finish;
use crate::{events, machine};

/// Copy a disk or image onto another, read it back, compare, and only then make it bootable.
///
/// A target file that does not exist is made, as large as the source. Exit codes: 0 copied and verified; 3 refused; 1
/// anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Disk by path, serial number or WWN, or an image file.
    source: String,
    /// Disk by path, serial number or WWN, or an image file.
    target: String,
    /// The target may be erased although it carries something: name it again, by serial number, WWN or path.
    #[arg(long, value_name = "DISK")]
    erase: Vec<String>,
    /// The target carries an older copy of the source: compare, and write only what differs. Name it again, as for --erase.
    #[arg(long, value_name = "DISK")]
    base: Vec<String>,
    /// What to do about sectors that cannot be read: stop there, or take them as zero and list them in the report.
    #[arg(long, value_name = "stop|zero", default_value = "stop", value_parser = machine::bad_sectors)]
    bad_sectors: BadSectors,
    /// Keep the report as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print events as JSON, one a line.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    match work(&args) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(machine::fail(args.json, &error)),
    }
}

fn work(args: &Args) -> Result<()> {
    let (source_path, target_path) = (Path::new(&args.source), Path::new(&args.target));
    let related = target_path.exists() && source_path.exists();
    if related
        && let Some(why) =
            relation(&Roots::default(), source_path, target_path)?.refusal(source_path, target_path)
    {
        return Err(machine::Refused(why).into());
    }
    let source = ends::sources(std::slice::from_ref(&args.source))?.remove(0);
    let named = select(&scan(&Roots::default())?.disks, &args.target).is_ok();
    let new = !named && !target_path.exists() && !target_path.starts_with("/dev");
    let (target, base): (Arc<dyn WriteAt>, bool) = if new {
        (Arc::new(ImageFile::create(target_path, source.size())?), false)
    } else {
        // A code stands for a job whose label would be taken up again; a copy has none.
        let code = gantry_wire::Code::from_random(gantry_replicate::random::bytes()?);
        let rule = EraseRule { erase: args.erase.clone(), base: args.base.clone(), blank_only: false };
        let target = ends::targets(std::slice::from_ref(&args.target), &rule, &code)?.remove(0);
        match target.end {
            Some(end) => (end, target.base),
            None => bail!(machine::Refused(format!("{}: {}", target.info.path, target.info.refusal))),
        }
    };
    let finisher = Finish { appliance: false, job: String::new() };
    let options = CopyOptions { base, bad_sectors: args.bad_sectors, software: machine::software() };
    let report = copy(source, target, &options, &finisher, &events::sink(args.json))?;
    events::keep_report(args.report.as_deref(), &report)?;
    if args.json {
        events::object(&json!({ "event": "done", "report": report }));
        return Ok(());
    }
    machine::show_bad_sectors(&report.source);
    for disk in &report.disks {
        let size = human(disk.size);
        events::say(&format!("copied and verified {size} of {} onto {}", disk.source, disk.target));
    }
    Ok(())
}
