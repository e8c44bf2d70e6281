//! Applying a plan: originals first, then the edits in order, then the check.
//!
//! The check is the strongest there is without booting: the facts are taken anew and the rules must have nothing left to
//! propose; the images are read, not believed; the filesystems are checked after they are unmounted.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::disks;
use crate::edit::{Edit, WantedImage, digest};
use crate::error::{During, Error, Result};
use crate::facts::{PartitionRef, Target};
use crate::inspect;
use crate::isolate::Guest;
use crate::originals::Keeper;
use crate::plan::Plan;
use crate::replica::{Opening, Replica};
use crate::root::GuestRoot;
use crate::rules::{self, Consent, Finding};

/// An image takes 4 s on a quiet machine and ten times that under emulation; this is for the slowest with all drivers. Less
/// than a receiver gives to all of repair, so that the error names the program.
const IMAGE_LIMIT: Duration = Duration::from_secs(1200);
/// The plain swap signature (version 1 areas, all since Linux 2.2).
const SWAP_SIGNATURE: &[u8; disks::SIGNATURE] = b"SWAPSPACE2";

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What the replica is.
    pub overview: Vec<String>,
    /// Each edit: rule and what it did.
    pub done: Vec<Done>,
    /// Warnings and notes of the plan.
    pub findings: Vec<Finding>,
    /// Where on the replica the originals are; empty when nothing was changed.
    pub originals: String,
    /// Checks that passed.
    pub checks: Vec<String>,
    /// Seconds in all.
    pub seconds: f64,
}

/// One edit that was applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Rule.
    pub rule: String,
    /// What, in a line.
    pub what: String,
    /// Unified diff, when it was text.
    pub diff: String,
    /// Seconds it took.
    pub seconds: f64,
}

/// What to apply.
pub struct Apply<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Names the record kept on the replica.
    pub id: &'a str,
    /// A report to be kept beside the originals.
    pub keep: Option<&'a str>,
    /// Told each step as it begins.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

/// Applies a plan to the replica it was made for.
///
/// # Errors
/// `Refused` for a blocked plan, `Stale` when the replica or the target changed since, `Guest` when a program of the guest
/// or the check afterwards failed. After an error the originals are on the replica.
pub fn apply(how: &Opening, target: &Target, what: &Apply<'_>) -> Result<Report> {
    let begun = Instant::now();
    let plan = what.plan;
    if plan.is_blocked() {
        return Err(Error::Refused(plan.blockers()));
    }
    let mut report =
        Report { overview: plan.overview.clone(), findings: plan.findings.clone(), ..Report::default() };
    if plan.steps.is_empty() && what.keep.is_none() {
        report.checks.push(String::from("nothing to do"));
        return Ok(report);
    }
    let mut replica = Replica::open(&Opening { write: true, check: false, ..how.clone() })?;
    let facts = inspect::facts(&replica, target)?;
    if facts.digest()? != plan.facts {
        return Err(Error::Stale(String::from(
            "the replica or the target changed since the plan was made: plan again",
        )));
    }
    replica.open_all()?;
    let mut keeper = Keeper::begin(&replica.root, what.id, &plan.facts)?;
    if let Some(text) = what.keep {
        let path = format!("{}/report.json", keeper.directory());
        replica.root.replace(&path, &mut text.as_bytes(), 0o600)?;
    }
    for step in &plan.steps {
        let begun = Instant::now();
        let edit = &step.proposed.edit;
        (what.tell)(&edit.summary());
        perform(&replica, &mut keeper, edit).map_err(|e| with_place(e, keeper.directory()))?;
        report.done.push(Done {
            rule: step.proposed.rule.clone(),
            what: edit.summary(),
            diff: step.diff.clone(),
            seconds: seconds(begun),
        });
    }
    report.originals = keeper.directory().to_string();
    // Facts are taken before the record is closed, so that a failed check leaves it open.
    report.checks.extend(check(&replica, target)?);
    keeper.end()?;
    replica.close_and_check()?;
    report.checks.push(String::from("filesystems are sound after unmounting"));
    report.seconds = seconds(begun);
    Ok(report)
}

/// Tenths are enough for people.
fn seconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 10.0).round() / 10.0
}

fn with_place(error: Error, directory: &str) -> Error {
    match error {
        Error::Guest(text) => {
            Error::Guest(format!("{text}\n(originals are kept in {directory} on the replica)"))
        }
        other => other,
    }
}

/// The facts anew: no rule may have anything left to propose.
fn check(replica: &Replica, target: &Target) -> Result<Vec<String>> {
    // Swap signatures are read with the disks, which were read at the start.
    let disks = replica.nodes.iter().map(|n| disks::read(n)).collect::<Result<Vec<_>>>()?;
    let mut facts = inspect::facts(replica, target)?;
    facts.disks = disks;
    let (left, _) = rules::run(&facts, Consent::default());
    if let Some(first) = left.edits.first() {
        return Err(Error::Guest(format!(
            "the check failed: after repair there is still to do: {}",
            first.edit.summary()
        )));
    }
    let mut checks = vec![String::from("a second plan is empty")];
    for kernel in &facts.system.kernels {
        if let Some(image) = &kernel.image {
            let wanted = rules::wanted_modules(kernel).len();
            checks.push(format!("{}: all {wanted} drivers of likely targets are in it", image.path));
        }
    }
    Ok(checks)
}

fn perform(replica: &Replica, keeper: &mut Keeper<'_>, edit: &Edit) -> Result<()> {
    let guest = &replica.root;
    for path in edit.touches() {
        keeper.keep(path)?;
    }
    match edit {
        Edit::WriteFile { path, before, text } => {
            expect(replica, path, before.as_deref())?;
            make_parent(guest, path)?;
            guest.replace(path, &mut text.as_bytes(), 0o644)?;
        }
        Edit::RemoveFile { path, before } => {
            expect(replica, path, Some(before))?;
            guest.remove(path)?;
        }
        Edit::CopyFile { from, to, digest } => {
            expect(replica, from, Some(digest))?;
            let missing = || Error::Stale(format!("{from} is gone from the replica: plan again"));
            let mut content = guest.regular(from)?.ok_or_else(missing)?;
            make_parent(guest, to)?;
            guest.replace(to, &mut content, 0o644)?;
        }
        Edit::UpdateInitramfs { images } => {
            let devices = replica.devices()?;
            for image in images {
                let output = update_initramfs(replica, devices.clone(), image)?;
                keeper.manifest.output.push_str(&output);
            }
        }
        Edit::VoidHibernation { partition, file, signature } => {
            void_hibernation(replica, keeper, *partition, file.as_deref(), signature)?;
        }
    }
    for path in edit.touches() {
        keeper.note(path)?;
    }
    Ok(())
}

fn make_parent(guest: &GuestRoot, path: &str) -> Result<()> {
    path.rsplit_once('/').map_or(Ok(()), |(directory, _)| guest.create_directory(directory, 0o755))
}

/// Refuses when a file is not what the plan saw.
fn expect(replica: &Replica, path: &str, wanted: Option<&str>) -> Result<()> {
    let now = replica.root.read(path, 1 << 30)?.map(|content| digest(&content));
    if now.as_deref() != wanted {
        return Err(Error::Stale(format!(
            "{path} on the replica is not what the plan was made from: plan again"
        )));
    }
    Ok(())
}

/// The guest's own generator, apart. What it left is judged by the check, not by its words.
fn update_initramfs(
    replica: &Replica,
    devices: Vec<(u64, Vec<String>)>,
    image: &WantedImage,
) -> Result<String> {
    let guest = Guest { root: replica.root.mounted_at(), devices, limit: IMAGE_LIMIT };
    let mode = if image.exists { "-u" } else { "-c" };
    let outcome = guest.run("/usr/sbin/update-initramfs", &[mode, "-k", &image.kernel])?;
    if !outcome.status.success() {
        return Err(Error::Guest(format!(
            "update-initramfs for {} failed ({}):\n{}",
            image.kernel,
            outcome.status,
            outcome.output.trim_end()
        )));
    }
    Ok(outcome.output)
}

fn void_hibernation(
    replica: &Replica,
    keeper: &mut Keeper<'_>,
    partition: PartitionRef,
    file: Option<&str>,
    signature: &str,
) -> Result<()> {
    let place = file.map_or_else(|| partition.to_string(), str::to_string);
    let (target, start) = match file {
        Some(file) => {
            let open = replica.root.open(file, nix::fcntl::OFlag::O_RDWR)?;
            (open.ok_or_else(|| Error::Stale(format!("{place} is gone: plan again")))?, 0)
        }
        None => {
            let node: &Path = &replica.nodes[partition.disk];
            let start = replica.disks[partition.disk]
                .partitions
                .iter()
                .find(|p| p.number == partition.number)
                .map(|p| p.start);
            let open = std::fs::OpenOptions::new().read(true).write(true).open(node);
            let missing = || Error::Stale(format!("{place} is gone: plan again"));
            (open.during(|| format!("opening {}", node.display()))?, start.ok_or_else(missing)?)
        }
    };
    let what = || format!("voiding the hibernation image in {place}");
    let mut page = [0_u8; disks::PAGE as usize];
    target.read_exact_at(&mut page, start).during(what)?;
    let end = page.len() - disks::SIGNATURE;
    if disks::hibernation_signature(&page[end..]).as_deref() != Some(signature) {
        return Err(Error::Stale(format!("{place} no longer holds the hibernation image: plan again")));
    }
    // The sector with the signature; the rest of the swap header is not changed by suspending.
    let sector = page.len() - 512;
    keeper.keep_bytes(partition, file, sector as u64, &page[sector..])?;
    target.write_all_at(SWAP_SIGNATURE, start + end as u64).during(what)?;
    target.sync_all().during(what)
}

/// Reads a plan file.
pub fn read_plan(path: &Path) -> Result<Plan> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(64 << 20).read_to_string(&mut text))
        .during(|| format!("reading the plan {}", path.display()))?;
    Plan::from_json(&text)
}
