//! From verified bytes to a machine that starts here: the transforms for another disk size, repair, the mark.

mod child;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use gantry_disk::label::HEAD;
use gantry_disk::machine::smbios_uuid;
use gantry_disk::mark::{self, Mark, Moment};
use gantry_disk::roots::Roots;
use gantry_disk::table::relocate::relocate;
use gantry_disk::view::{View, remove_leftover};
use gantry_replicate::commit::{FinishDisk, Finisher};
use gantry_replicate::kept::{Kept, prepare};
use gantry_replicate::{Event, Events, Report};
use gantry_wire::Stage;
use gantry_wire::limits::DISKS;

use crate::witness::Witness;

/// Set for `gantry repair` when it is the child of a receiver.
pub const CHILD: &str = "GANTRY_REPAIR_CHILD";

/// Removes what a receiver that was killed during repair has left: views of its disks (the loop devices under them go by
/// themselves). Only for the appliance, where nobody else makes such things.
pub fn clear_leftovers(events: &Events) {
    for name in (0..DISKS).map(view_name) {
        match remove_leftover(&name) {
            Ok(false) => {}
            Ok(true) => {
                events.tell(Event::Stage { text: format!("an old view of a disk, {name}, was removed") });
            }
            // It shows as a use of its disk, which is then refused.
            Err(error) => events.tell(Event::Stage { text: format!("an old view of a disk stays: {error}") }),
        }
    }
}

/// The view of the disk with this index.
fn view_name(disk: usize) -> String {
    format!("gantry{disk}")
}

/// Where plan and report lie while repair is at work.
const RUN: &str = "/run/gantry";
/// How long planning, and then applying, may take. A program of the guest has less (`gantry_repair::apply`): its own
/// error, with its words, comes first.
const REPAIR_LIMIT: Duration = Duration::from_secs(30 * 60);

/// The finisher of `receive` and `copy`.
#[derive(Default)]
pub struct Finish {
    /// Where the source is of this host, too.
    pub witness: Option<Witness>,
    /// Repair and mark: only in the appliance on the target itself.
    pub appliance: bool,
    /// Whether repair may void a hibernation image.
    pub void_hibernation: bool,
    /// Tag of the pairing code, for the mark.
    pub job: String,
}

impl Finisher for Finish {
    fn finish(
        &self,
        disks: &mut [FinishDisk],
        report: &mut Report,
        tell: &dyn Fn(Stage, &str),
    ) -> Result<()> {
        if let Some(witness) = &self.witness {
            witness.unchanged()?;
        }
        for disk in disks.iter_mut() {
            grow(disk, report)?;
        }
        if !self.appliance {
            return Ok(());
        }
        tell(Stage::Repairing, "repairing the replica");
        repair(disks, self.void_hibernation, report, tell)?;
        if let Some(boot) = disks.first_mut() {
            match self.mark(boot, &report.session) {
                Ok(text) | Err(text) => {
                    tell(Stage::Repairing, &text);
                    report.transforms.push(text);
                }
            }
        }
        Ok(())
    }
}

/// Moves the end of a GPT to the end of a larger disk.
fn grow(disk: &mut FinishDisk, report: &mut Report) -> Result<()> {
    let Some((0, head)) = disk.pieces.first_mut() else { bail!("{}: the head is not held", disk.path) };
    let head_size = head.len().min(HEAD);
    let moved = relocate(&mut head[..head_size], disk.source_size, disk.size, disk.sector_size)?;
    for (offset, length) in moved.zero {
        put(disk, offset, &vec![0; length as usize])?;
    }
    for (offset, bytes) in moved.tail_writes {
        put(disk, offset, &bytes)?;
    }
    report.transforms.extend(moved.notes.into_iter().map(|note| format!("{}: {note}", disk.path)));
    Ok(())
}

/// Changes held bytes.
fn put(disk: &mut FinishDisk, offset: u64, bytes: &[u8]) -> Result<()> {
    let end = offset + bytes.len() as u64;
    let piece =
        disk.pieces.iter_mut().find(|(start, held)| offset >= *start && end <= *start + held.len() as u64);
    let (start, held) =
        piece.with_context(|| format!("{}: byte {offset} is not held in memory", disk.path))?;
    let at = (offset - *start) as usize;
    held[at..at + bytes.len()].copy_from_slice(bytes);
    Ok(())
}

/// Shows the disks as they will be, and runs `gantry repair` on them: plan, then apply.
fn repair(
    disks: &mut [FinishDisk],
    void_hibernation: bool,
    report: &mut Report,
    tell: &dyn Fn(Stage, &str),
) -> Result<()> {
    let mut views = Vec::new();
    for (i, disk) in disks.iter().enumerate() {
        views.push(View::open(
            &view_name(i),
            Path::new(&disk.path),
            disk.size,
            disk.sector_size,
            &disk.pieces,
        )?);
    }
    let nodes: Vec<PathBuf> = views.iter().map(|view| view.node().to_owned()).collect();
    let outcome = run_repair(&nodes, void_hibernation, report, tell);
    for (disk, view) in disks.iter_mut().zip(views) {
        match view.close() {
            Ok(closed) => (disk.pieces, disk.written) = (closed.pieces, closed.written),
            // What stopped repair is the first cause; a view that does not close is often only what follows.
            Err(error) if outcome.is_err() => tell(Stage::Repairing, &error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    outcome
}

fn run_repair(
    nodes: &[PathBuf],
    void_hibernation: bool,
    report: &mut Report,
    tell: &dyn Fn(Stage, &str),
) -> Result<()> {
    let run = Path::new(RUN);
    let (plan, kept) = (run.join("plan.json"), run.join("report.json"));
    let consent = void_hibernation.then_some("--void-hibernation".as_ref());
    gantry(&["repair", "--plan"], &plan, consent.as_slice(), nodes, tell).context("planning the repair")?;
    let text = fs::read_to_string(&plan).with_context(|| format!("reading {}", plan.display()))?;
    report.repair = serde_json::from_str(&text).context("reading the plan")?;
    let mut so_far = report.clone();
    prepare(&mut so_far)?;
    fs::write(&kept, serde_json::to_vec_pretty(&Kept::new(so_far)?)?)
        .with_context(|| format!("writing {}", kept.display()))?;
    let keep = ["--keep-report".as_ref(), kept.as_os_str()];
    gantry(&["repair", "--apply"], &plan, &keep, nodes, tell).context("applying the repair")
}

/// Runs this program again as a child: what repair runs of the guest's can then never hold our disks or memory.
fn gantry(
    words: &[&str],
    plan: &Path,
    more: &[&std::ffi::OsStr],
    nodes: &[PathBuf],
    tell: &dyn Fn(Stage, &str),
) -> Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.env(CHILD, "1").args(words).arg(plan).args(more).args(nodes);
    child::run(command, REPAIR_LIMIT, &|line| tell(Stage::Repairing, line))
}

impl Finish {
    /// Puts the mark onto the boot disk, so that our medium starts it on this very machine. Both outcomes are words.
    fn mark(&self, disk: &mut FinishDisk, session: &str) -> Result<String, String> {
        let no = |why: String| format!("no mark on {}: {why}; the boot order must start it", disk.path);
        let uuid = smbios_uuid(&Roots::default()).map_err(|error| no(error.to_string()))?;
        let mark = Mark::new(session, &self.job, &uuid, Moment::of(SystemTime::now()));
        let Some((0, head)) = disk.pieces.first_mut() else {
            return Err(no("its head is not held".to_owned()));
        };
        mark::place(head, disk.sector_size, &mark).map_err(|reason| no(reason.to_string()))?;
        Ok(format!(
            "{}: marked to be started by the Gantry medium on this machine, for a day at most",
            disk.path
        ))
    }
}
