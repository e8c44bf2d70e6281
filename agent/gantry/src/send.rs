//! `gantry send`: gives this machine's disks.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use gantry_disk::BadSectors;
use gantry_disk::size::human;
use gantry_replicate::Event;
use gantry_replicate::sender::{SendOptions, Sent, send};
use gantry_replicate::throttle::{Schedule, Throttle, clock};
use serde_json::json;

use crate::control::{Control, Role};
use crate::priority::Priority;
use crate::report::{self, Keep};
use crate::witness::Witness;
use crate::{address, ends, events, machine, pairing};

/// Send this machine's disks to a receiver.
///
/// The source is only read. Disks that are in use are refused: boot the machine from the Gantry medium.
/// Exit codes: 0 the receiver has committed; 3 refused, a person must change something; 1 anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Where the receiver listens; without a port 7878.
    #[arg(value_name = "ADDRESS[:PORT]")]
    address: String,
    /// Disks by path, serial number or WWN, raw images, FORMAT:PATH (qcow2, vmdk, vhdx, vdi, raw), or NBD URIs; all disks but
    /// boot media if none is named.
    #[arg(value_name = "DISK")]
    disks: Vec<String>,
    /// Read the pairing code from a file, or from standard input with "-", instead of asking.
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
    /// Put a source disk onto a target disk, both by path or serial number; may be repeated.
    #[arg(long = "map", value_name = "SOURCE=TARGET", value_parser = parse_map)]
    map: Vec<(String, String)>,
    /// Data connections.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    streams: u8,
    /// Read and copy also what the source's filesystems do not use.
    #[arg(long)]
    whole: bool,
    /// What to do about sectors that cannot be read: stop there, or take them as zero and list them in the report.
    #[arg(long, value_name = "stop|zero", default_value = "stop", value_parser = machine::bad_sectors)]
    bad_sectors: BadSectors,
    /// Send no faster: bytes a second with K, M, G or T (1024), like 20M; none; or windows of local time, like
    /// 08:00-18:00=20M,else=none. `gantry limit` changes it while this runs.
    #[arg(long, value_name = "RATE|SCHEDULE", default_value = "none")]
    limit: Schedule,
    /// Read the source no faster; written as for --limit.
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

fn parse_map(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').or_else(|| text.split_once(':'));
    let (source, target) = pair.ok_or_else(|| format!("{text}: write SOURCE=TARGET"))?;
    Ok((source.to_owned(), target.to_owned()))
}

pub fn run(args: Args) -> Result<ExitCode> {
    let json = args.json;
    match work(args) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(machine::fail(json, &error)),
    }
}

fn work(args: Args) -> Result<()> {
    args.priority.apply()?;
    let note = clock::check(&[&args.limit, &args.read_limit])?;
    let address = address::typed(&args.address)?;
    args.keep.prepare()?;
    let code = pairing::read(args.code_file.as_deref())?;
    let sources = ends::sources(&args.disks)?;
    let disks = sources.iter().map(|source| Arc::clone(&source.end)).collect();
    let witness = Witness::of(&sources)?;
    let throttle = Throttle::new(args.limit, args.read_limit);
    let (_control, events) = Control::open(Role::Send, Some(throttle.clone()), &events::sink(args.json));
    if let Some(text) = note {
        events.tell(Event::Stage { text: text.to_owned() });
    }
    let options = SendOptions {
        address,
        code,
        disks,
        whole: args.whole,
        bad_sectors: args.bad_sectors,
        map: args.map,
        streams: args.streams,
        throttle,
        unchanged: Box::new(move || witness.unchanged()),
        machine: machine::name(),
        software: machine::software(),
    };
    let runtime = machine::runtime()?;
    let sent = runtime.block_on(send(options, events))?;
    let Sent { kept, wire_bytes, resent_chunks } = sent;
    if args.json {
        events::done(&kept, &json!({ "wire_bytes": wire_bytes, "resent_chunks": resent_chunks }));
        return args.keep.keep(&kept);
    }
    let report = &kept.report;
    for disk in &report.disks {
        events::say(&format!("{} -> {}: root {}", disk.source.path, disk.target.path, disk.root));
    }
    machine::show_bad_sectors(report);
    report::keys(&kept).iter().for_each(|line| events::say(line));
    let (wire, again) = (human(wire_bytes), human(resent_chunks << 20));
    events::say(&format!(
        "sent {wire}, {again} of disk twice; the target has committed; this machine is unchanged"
    ));
    events::say(&format!("{}; a reset of this machine would start the old system", report::state(report)));
    args.keep.keep(&kept)
}
