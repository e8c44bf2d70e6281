//! `gantry repair`: arguments, files and words; the work is in gantry-repair.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use gantry_repair::{Consent, Error, Opening, Plan, Report, Target};
use serde_json::json;

/// Nothing could be done without a person: consent is missing, or the replica is not what it must be.
const REFUSED: u8 = 3;

/// Make a replica boot on its new hardware
///
/// Without --apply or --undo nothing is changed but journals, which are replayed as the replica itself would: the plan is
/// printed. Run it on the target itself (the appliance does), so that the network cards and controllers seen are the ones
/// the replica will meet.
///
/// Exit code: 0 done, or nothing to do; 1 it failed; 3 refused: a person has to decide, the text says what.
#[derive(clap::Args)]
pub struct Args {
    /// The replica's disks in the source's order: whole disks or raw images
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<PathBuf>,

    /// Make a plan; with FILE, keep it there for --apply
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with_all = ["apply", "undo"])]
    plan: Option<Option<PathBuf>>,

    /// Apply a kept plan; refused when the replica or the target changed since it was made
    #[arg(long, value_name = "FILE", conflicts_with = "undo")]
    apply: Option<PathBuf>,

    /// Take the newest repair of this replica back
    #[arg(long)]
    undo: bool,

    /// Keep a copy of this report on the replica, beside the originals
    #[arg(long, value_name = "FILE", requires = "apply")]
    keep_report: Option<PathBuf>,

    /// Agree that the memory of a suspended system is lost
    #[arg(long)]
    void_hibernation: bool,

    /// The system to repair where there are several: disk (counted from 1) and partition
    #[arg(long, value_name = "DISK:PARTITION", value_parser = root_choice)]
    root: Option<(usize, u32)>,

    /// What the replica will run on
    #[arg(long = "for", value_name = "TARGET")]
    target: Option<TargetKind>,

    /// Which card takes the place of which: lines of an old interface name and a new MAC address
    #[arg(long, value_name = "FILE")]
    network_map: Option<PathBuf>,

    /// Print the plan or the report as JSON
    #[arg(long)]
    json: bool,
}

/// What is known of the machine the replica will run on.
#[derive(Clone, Copy, clap::ValueEnum)]
enum TargetKind {
    /// This very machine (the default in the appliance)
    ThisMachine,
    /// Another machine; one network card is assumed (the default elsewhere)
    Unknown,
}

fn root_choice(text: &str) -> Result<(usize, u32), String> {
    let parse = || {
        let (disk, partition) = text.split_once(':')?;
        Some((disk.parse().ok().filter(|d| *d > 0)?, partition.parse().ok()?))
    };
    parse().ok_or_else(|| String::from("expected DISK:PARTITION, such as 1:2"))
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if std::env::var_os(crate::finisher::CHILD).is_some() {
        // A receiver that is gone must not leave somebody behind who writes to its disks.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
            .context("tying repair to its receiver")?;
    }
    match act(&args) {
        Ok(code) => Ok(code),
        Err(error) => {
            let refused = error.downcast_ref::<Error>().is_some_and(Error::needs_a_human);
            if !refused {
                return Err(error);
            }
            eprintln!("gantry: refused: {error:#}");
            Ok(ExitCode::from(REFUSED))
        }
    }
}

fn act(args: &Args) -> anyhow::Result<ExitCode> {
    let target = target(args)?;
    let opening = Opening {
        nodes: args.nodes.clone(),
        root: args.root,
        despite_hibernation: args.void_hibernation,
        ..Opening::default()
    };
    let consent = Consent { void_hibernation: args.void_hibernation };
    if args.undo {
        let place = gantry_repair::undo(&opening)?;
        match args.json {
            true => print(&format!("{}\n", json!({ "undone": place })))?,
            false => print(&format!("the repair recorded in {place} was taken back\n"))?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &args.apply {
        let plan = gantry_repair::apply::read_plan(file)?;
        let kept = args.keep_report.as_deref().map(read_report).transpose()?;
        let id = kept.as_deref().and_then(session).unwrap_or_else(time_name);
        let tell = |line: &str| {
            if !args.json {
                println!("{line}");
            }
        };
        let opening =
            Opening { despite_hibernation: args.void_hibernation || plan.voids_hibernation(), ..opening };
        let apply = gantry_repair::apply::Apply { plan: &plan, id: &id, keep: kept.as_deref(), tell: &tell };
        let report = gantry_repair::apply_plan(&opening, &target, &apply)?;
        show_report(&report, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan = gantry_repair::plan(&opening, &target, consent)?;
    if let Some(Some(file)) = &args.plan {
        keep_plan(file, &plan)?;
    }
    print(&if args.json { plan.to_json()? } else { plan.render() })?;
    Ok(if plan.is_blocked() { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

fn target(args: &Args) -> anyhow::Result<Target> {
    let here = match args.target {
        Some(TargetKind::ThisMachine) => true,
        Some(TargetKind::Unknown) => false,
        None => std::env::var_os("GANTRY_APPLIANCE").is_some(),
    };
    let mut target = if here {
        gantry_repair::target::this_machine(Path::new("/sys")).context("looking at this machine")?
    } else {
        Target::default()
    };
    if let Some(file) = &args.network_map {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        target.network_map =
            gantry_repair::target::network_map(&text).with_context(|| format!("in {}", file.display()))?;
    }
    Ok(target)
}

/// Writes the plan, but only over a plan: `--plan DISK` is easily typed.
fn keep_plan(file: &Path, plan: &Plan) -> anyhow::Result<()> {
    if let Ok(meta) = file.metadata() {
        let is_plan = meta.is_file() && (meta.len() == 0 || gantry_repair::apply::read_plan(file).is_ok());
        if !is_plan {
            bail!("{} exists and is no repair plan: it is not written over", file.display());
        }
    }
    let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let what = || format!("writing the plan {}", file.display());
    let temporary = directory.join(format!(".gantry-plan-{}", std::process::id()));
    std::fs::write(&temporary, plan.to_json()?).with_context(what)?;
    std::fs::rename(&temporary, file).with_context(what)
}

fn read_report(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("reading the report {}", file.display()))
}

/// The session a report names: the record on the replica goes by it.
fn session(report: &str) -> Option<String> {
    let report: serde_json::Value = serde_json::from_str(report).ok()?;
    let session = report.get("report")?.get("session")?.as_str()?;
    let plain = !session.is_empty() && session.chars().all(|c| c.is_ascii_alphanumeric());
    plain.then(|| session.to_string())
}

/// Seconds since 1970: the clock of a machine that was just switched on may be wrong anyway.
fn time_name() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    format!("time-{seconds}")
}

fn show_report(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        return print(&(serde_json::to_string_pretty(report).context("encoding the report")? + "\n"));
    }
    let mut text = String::new();
    for check in &report.checks {
        text.push_str(&format!("checked: {check}\n"));
    }
    text.push_str(&match report.done.len() {
        0 => String::from("nothing to repair\n"),
        n => format!(
            "repaired: {n} changes in {} s, originals in {} on the replica\n",
            report.seconds, report.originals
        ),
    });
    print(&text)
}

/// A reader that is gone is an error to tell, not a panic.
fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("printing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_go_by_the_session() {
        assert_eq!(session("{\"report\":{\"session\":\"ab12\"}}").as_deref(), Some("ab12"));
        for other in ["{\"session\":\"ab12\"}", "{\"report\":{\"session\":\"../x\"}}"] {
            assert_eq!(session(other), None, "{other}");
        }
        assert_eq!(session("no json"), None);
        assert!(time_name().starts_with("time-"));
    }

    #[test]
    fn a_disk_is_not_taken_for_a_plan() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.raw");
        std::fs::write(&image, "a disk").unwrap();
        let plan =
            Plan::from_json(r#"{"format":1,"made_by":"","facts":"","overview":[],"steps":[],"findings":[]}"#)
                .unwrap();
        assert!(keep_plan(&image, &plan).unwrap_err().to_string().contains("is no repair plan"));
        assert_eq!(std::fs::read(&image).unwrap(), b"a disk");
        let file = directory.path().join("plan.json");
        keep_plan(&file, &plan).unwrap();
        keep_plan(&file, &plan).unwrap();
    }

    #[test]
    fn roots_are_named_by_disk_and_partition() {
        assert_eq!(root_choice("1:2"), Ok((1, 2)));
        for bad in ["0:1", "1", "a:b"] {
            assert!(root_choice(bad).is_err());
        }
    }
}
