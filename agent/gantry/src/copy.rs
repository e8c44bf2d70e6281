//! `gantry copy`: any disk end to any disk end on one host.

use std::process::ExitCode;

use anyhow::{Result, bail};
use gantry_disk::BadSectors;
use gantry_disk::relation::relation;
use gantry_disk::roots::Roots;
use gantry_disk::size::human;
use gantry_replicate::Event;
use gantry_replicate::Kept;
use gantry_replicate::local::{CopyOptions, copy};
use gantry_replicate::throttle::{Schedule, Throttle, clock};
use serde_json::json;

use crate::control::{Control, Role};
use crate::ends::{self, EraseRule};
use crate::finisher::Finish;
use crate::names::EndName;
use crate::priority::Priority;
use crate::report::Keep;
use crate::witness::Witness;
use crate::{events, machine};

/// Copy a disk or image onto another, read it back, compare, and only then make it bootable.
///
/// Formats are never guessed; images with backing files are refused. Exit codes: 0 copied and verified; 3 refused; 1
/// anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Disk by path, serial number or WWN, raw image, FORMAT:PATH (qcow2, vmdk, vhdx, vdi, raw), or NBD URI.
    source: String,
    /// The same. An image file that does not exist is made, as large as the source.
    target: String,
    /// The target may be erased although it carries something: name it again, by serial number, WWN, path or URI.
    #[arg(long, value_name = "DISK")]
    erase: Vec<String>,
    /// The target carries an older copy of the source: compare, and write only what differs. Name it again, as for --erase.
    #[arg(long, value_name = "DISK")]
    base: Vec<String>,
    /// Read and copy also what the source's filesystems do not use.
    #[arg(long)]
    whole: bool,
    /// What to do about sectors that cannot be read: stop there, or take them as zero and list them in the report.
    #[arg(long, value_name = "stop|zero", default_value = "stop", value_parser = machine::bad_sectors)]
    bad_sectors: BadSectors,
    /// Read the source no faster: bytes a second with K, M, G or T (1024), like 20M; none; or windows of local time,
    /// like 08:00-18:00=20M,else=none. `gantry limit --read` changes it while this runs.
    #[arg(long, value_name = "RATE|SCHEDULE", default_value = "none")]
    read_limit: Schedule,
    /// How much this gives way to the other programs of a live host.
    #[arg(long, value_enum, default_value = "normal")]
    priority: Priority,
    #[command(flatten)]
    keep: Keep,
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
    args.priority.apply()?;
    let note = clock::check(&[&args.read_limit])?;
    args.keep.prepare()?;
    let (from, to) = (EndName::parse(&args.source)?, EndName::parse(&args.target)?);
    if from.means(&to) {
        return Err(
            machine::Refused(format!("{} and {} are the same thing", args.source, args.target)).into()
        );
    }
    if let (Some(source), Some(target)) = (from.path(), to.path())
        && source.exists()
        && target.exists()
        && let Some(why) = relation(&Roots::default(), source, target)?.refusal(source, target)
    {
        return Err(machine::Refused(why).into());
    }
    let source = ends::sources(std::slice::from_ref(&args.source))?.remove(0);
    let (witness, source) = (Witness::of([&source])?, source.end);
    let (target, base) = if let Some(new) = ends::create(&to, source.size())? {
        (new, false)
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
    let finisher = Finish { witness: Some(witness), ..Finish::default() };
    let throttle = Throttle::new(Schedule::default(), args.read_limit.clone());
    let (_control, events) = Control::open(Role::Copy, Some(throttle.clone()), &events::sink(args.json));
    if let Some(text) = note {
        events.tell(Event::Stage { text: text.to_owned() });
    }
    let options = CopyOptions {
        base,
        whole: args.whole,
        bad_sectors: args.bad_sectors,
        throttle,
        machine: machine::name(),
        software: machine::software(),
    };
    let report = copy(source, target, &options, &finisher, &events)?;
    let kept = Kept::new(report)?;
    if args.json {
        events::done(&kept, &json!({}));
        return args.keep.keep(&kept);
    }
    machine::show_bad_sectors(&kept.report);
    for disk in &kept.report.disks {
        let size = human(disk.source.size);
        let (source, target) = (&disk.source.path, &disk.target.path);
        events::say(&format!("copied and verified {size} of {source} onto {target}"));
    }
    args.keep.keep(&kept)
}
