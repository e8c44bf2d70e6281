//! `gantry receive`: takes a machine onto this machine's disks.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow};
use gantry_repair::handover;
use gantry_replicate::receiver::{CodeVoid, ReceiveOptions, receive};
use gantry_replicate::report::{NamedMachine, State, VERSION, clock};
use gantry_replicate::{Event, Events, Kept, Report};
use gantry_wire::{Code, DiskInfo};
use serde_json::json;

use crate::address::PORT;
use crate::control::{Control, Role};
use crate::ends::{self, EraseRule};
use crate::finisher::{Finish, clear_leftovers};
use crate::names::EndName;
use crate::report::Keep;
use crate::{events, machine, pairing, report};

/// Receive a machine: write it, verify it, repair it, commit it.
///
/// Prints an address and a pairing code for `gantry send`. A disk that carries anything is refused until it is named by
/// --erase. Exit codes: 0 committed and the sender knows; 3 refused, a person must change something; 1 anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Disks by path, serial number or WWN, raw images, FORMAT:PATH (qcow2, vmdk, vhdx, vdi, raw), or NBD URIs; all disks but
    /// boot media if none is named.
    #[arg(value_name = "DISK")]
    disks: Vec<String>,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], PORT)))]
    listen: SocketAddr,
    /// A disk that may be erased although it carries something, by serial number, WWN or path; may be repeated.
    #[arg(long, value_name = "DISK")]
    erase: Vec<String>,
    /// A disk that carries an older copy of the source (brought by courier, restored from a backup, an earlier replica):
    /// it is compared and only what differs crosses (head and tail, a MiB each, always do). It may be overwritten like one
    /// named by --erase; may be repeated.
    #[arg(long, value_name = "DISK")]
    base: Vec<String>,
    /// Where the pairing code is, or is to be kept for a restart; without it a new one is made.
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
    /// Minutes within which the first pairing must come.
    #[arg(long, value_name = "MINUTES", default_value_t = 720)]
    code_valid: u64,
    /// Take only blank disks, whatever --erase says.
    #[arg(long)]
    blank_only: bool,
    #[command(flatten)]
    keep: Keep,
    /// Print events as JSON, one a line.
    #[arg(long)]
    json: bool,
    /// Run as the appliance's child: repair the replica, mark it, prepare the hand-over.
    #[arg(long, hide = true)]
    appliance: bool,
    /// Let repair void a hibernation image on the replica: what was in the source's memory is given up.
    #[arg(long, hide = true, requires = "appliance")]
    void_hibernation: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let json = args.json;
    match work(args) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(machine::fail(json, &error)),
    }
}

fn work(args: Args) -> Result<()> {
    args.keep.prepare()?;
    let events = events::sink(args.json);
    if args.appliance {
        clear_leftovers(&events);
    }
    let appliance_code = PathBuf::from("/run/gantry/code");
    let code_file = args.code_file.or(args.appliance.then_some(appliance_code));
    let code = pairing::keep(code_file.as_deref())?;
    let remedy = remedy(args.appliance, args.blank_only);
    let rule = EraseRule { erase: args.erase, base: args.base, blank_only: args.blank_only };
    // Repair works through device-mapper.
    let own = |name: &String| matches!(EndName::parse(name), Ok(EndName::Plain(_)));
    if let Some(name) = args.disks.iter().find(|name| args.appliance && !own(name)) {
        return Err(
            machine::Refused(format!("{name}: the appliance receives onto its own disks only")).into()
        );
    }
    rule.erase.iter().chain(&rule.base).try_for_each(|name| is_taken(name, &args.disks))?;
    let disks = ends::targets(&args.disks, &rule, &code)?;
    disks.iter().for_each(|disk| show_target(args.json, &disk.info));
    let committed = ends::committed_mark(&disks, &code);
    if committed.is_some() {
        let text = "this job was committed before; the sender will be told".to_owned();
        events.tell(Event::Stage { text });
    } else if disks.iter().all(|disk| disk.end.is_none()) {
        return Err(machine::Refused("no disk may take a replica: see above".to_owned()).into());
    }
    // Before the code is shown: it is good for nothing if another program has the port.
    let listener = listen(args.listen)?;
    show_code(args.json, &code, args.code_valid);
    if code_file.is_none() && !args.json {
        events::say("keep the code with --code-file FILE to be able to start this again");
    }
    let (boot_disk, mark) = committed.unzip();
    let finisher = Finish {
        witness: None,
        appliance: args.appliance,
        void_hibernation: args.void_hibernation,
        job: gantry_wire::code::job_tag(&code),
    };
    let options = ReceiveOptions {
        job: gantry_wire::code::job(&code),
        code,
        code_valid: Duration::from_secs(args.code_valid * 60),
        disks,
        committed: mark.map(|mark| forgotten(mark.session)),
        machine: machine::name(),
        software: machine::software(),
    };
    let runtime = machine::runtime()?;
    let (_control, heard) = Control::open(Role::Receive, None, &events);
    let kept = runtime.block_on(receive(listener, options, Box::new(finisher), heard));
    drop(runtime);
    // Finishing voids the code, as wrong tries and time do.
    let void = kept.as_ref().err().is_none_or(|error| error.is::<CodeVoid>());
    if void
        && let Some(path) = &code_file
        && let Err(error) = std::fs::remove_file(path)
    {
        let text = format!("the used code could not be removed: {}: {error}", path.display());
        events.tell(Event::Stage { text });
    }
    let kept = kept.map_err(|error| match error.downcast::<CodeVoid>() {
        Ok(void) => machine::Refused(format!("{void}: {remedy}")).into(),
        Err(error) => error,
    })?;
    if args.appliance {
        let boot_disk = kept.report.disks.first().map(|disk| disk.target.path.clone()).or(boot_disk);
        prepare_handover(boot_disk, &events);
    }
    match args.json {
        true => events::done(&kept, &json!({})),
        false => show(&kept),
    }
    // Last: a report that cannot be kept must not keep the replica from being started.
    args.keep.keep(&kept)
}

/// A file, an image or an export is a target only if it is named as one; permission to erase it does not do that.
fn is_taken(permitted: &str, disks: &[String]) -> Result<()> {
    let name = EndName::parse(permitted)?;
    let disk = matches!(&name, EndName::Plain(path) if !path.is_file());
    if disk || disks.iter().any(|other| EndName::parse(other).is_ok_and(|other| other.means(&name))) {
        return Ok(());
    }
    let why = format!("{permitted}: it may be erased, but is no target: name it as a disk, too: {permitted}");
    Err(machine::Refused(why).into())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let port = address.port().checked_add(1).unwrap_or(PORT);
    TcpListener::bind(address).map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            let other = SocketAddr::new(address.ip(), port);
            machine::Refused(format!(
                "listening on {address}: another program does; end it, or take another port: --listen {other}"
            ))
            .into()
        }
        ErrorKind::AddrNotAvailable => {
            machine::Refused(format!("listening on {address}: this machine does not have that address"))
                .into()
        }
        _ => anyhow!(error).context(format!("listening on {address}")),
    })
}

fn show_target(json: bool, disk: &DiskInfo) {
    let DiskInfo { path, serial, model, size, sector_size: _, refusal } = disk;
    if json {
        events::object(&json!({
            "event": "target", "path": path, "serial": serial, "model": model, "size": size, "refusal": refusal,
        }));
    } else if refusal.is_empty() {
        events::say(&format!("disk {path}: may take a replica"));
    } else {
        events::say(&format!("disk {path}: {refusal}"));
    }
}

/// `valid`: minutes within which the first pairing must come.
fn show_code(json: bool, code: &Code, valid: u64) {
    match json {
        true => events::object(&json!({ "event": "code", "code": code.reveal(), "valid": valid * 60 })),
        false => events::say(&format!("pairing code: {}", code.reveal())),
    }
}

/// What to do about a code that is void. One that stands on the kernel line comes back with the next start: there is
/// nowhere to keep that it is void but the disks, and those are not ours yet.
fn remedy(appliance: bool, from_kernel_line: bool) -> &'static str {
    match (appliance, from_kernel_line) {
        (false, _) => "start the receiver again: it makes a new code",
        (true, false) => "reset this machine: it makes a new code",
        (true, true) => {
            "reset this machine with another gantry.code= on the kernel line; with the same one the code would count again"
        }
    }
}

/// All that is known after a restart of a session that was committed before it.
fn forgotten(session: String) -> Report {
    let (name, software, clock) = (machine::name(), machine::software(), clock());
    let target = NamedMachine { name, software, clock, ..NamedMachine::default() };
    Report { version: VERSION, state: State::Forgotten, session, target, ..Report::default() }
}

fn show(kept: &Kept) {
    let report = &kept.report;
    for disk in &report.disks {
        events::say(&format!("{} -> {}: root {}", disk.source.path, disk.target.path, disk.root));
        if let Some(after) = disk.after.as_ref().filter(|after| after.root != disk.root) {
            events::say(&format!("{}: root {} after the changes", disk.target.path, after.root));
        }
    }
    machine::show_bad_sectors(report);
    for note in &report.transforms {
        events::say(&format!("changed for this disk: {note}"));
    }
    for phase in &report.phases {
        events::say(&format!("phase {}: {:.1} s", phase.name, phase.milliseconds as f64 / 1000.0));
    }
    report::keys(kept).iter().for_each(|line| events::say(line));
    events::say(&report::state(report));
}

/// UEFI: the next start goes to the replica's own loader. A failure is said, not fatal: the mark is the second way.
fn prepare_handover(boot_disk: Option<String>, events: &Events) {
    let Some(disk) = boot_disk else { return };
    let text = match handover::boot_next(std::path::Path::new(&disk)) {
        Ok(outcome) => format!("hand-over: {outcome}"),
        Err(error) => format!("hand-over: the firmware could not be told to start {disk}: {error:#}"),
    };
    events.tell(Event::Stage { text });
}
