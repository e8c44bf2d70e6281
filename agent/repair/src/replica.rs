//! The replica, opened: disks read, the system found, its mount tree made.
//!
//! Order matters (I-40, rule `hibernation`): tables and swap signatures are read first, because a suspended system must
//! not be mounted without consent; then journals are replayed; then each candidate is looked at, read-only; then the
//! chosen tree is checked; only then it is mounted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gantry_disk::SectorSize;
use gantry_disk::loops::{Loop, Shown};

use crate::config::fstab;
use crate::disks;
use crate::error::{During, Error, Result};
use crate::ext;
use crate::facts::{Disk, Facts, PartitionRef};
use crate::mounts::Mounts;
use crate::names::{self, Meaning};
use crate::root::GuestRoot;

/// Where a user says the system to repair is: disk (counted from 1) and partition.
pub type RootChoice = Option<(usize, u32)>;

/// How a replica is opened.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// Whole disks or images, in the source's order.
    pub nodes: Vec<PathBuf>,
    /// Mounted for writing.
    pub write: bool,
    /// Filesystems are checked before they are mounted (a plan does; applying it relies on the plan's check).
    pub check: bool,
    /// The system to repair, where there are several.
    pub root: RootChoice,
    /// Opened although it holds a hibernation image.
    pub despite_hibernation: bool,
}

/// An open replica. Lives in the mounts of the calling thread; see [`crate::mounts::apart`].
#[derive(Debug)]
pub struct Replica {
    /// The nodes as given.
    pub nodes: Vec<PathBuf>,
    /// Disks read.
    pub disks: Vec<Disk>,
    /// What is mounted where in the guest, / first.
    pub mounted: Vec<(String, PartitionRef)>,
    /// The guest's files.
    pub root: GuestRoot,
    mounts: Mounts,
    loops: BTreeMap<PartitionRef, Loop>,
    _base: tempfile::TempDir,
}

/// Mount points repair needs, besides /; each when fstab has it.
fn is_needed(at: &str) -> bool {
    ["/boot", "/efi", "/usr", "/var", "/etc", "/lib"].iter().any(|n| at == *n || at.starts_with(&format!("{n}/")))
        && !at.starts_with("/var/lib/") // databases and images of containers; nothing repair looks into
        && !at.starts_with("/var/log")
}

impl Replica {
    /// Opens the replica.
    ///
    /// # Errors
    /// `Refused` for a suspended system without consent, damage, no system or several.
    pub fn open(how: &Opening) -> Result<Self> {
        let disks = how.nodes.iter().map(|n| disks::read(n)).collect::<Result<Vec<_>>>()?;
        if !how.despite_hibernation {
            refuse_hibernated(&disks)?;
        }
        let base = tempfile::Builder::new()
            .prefix("gantry-repair-")
            .tempdir()
            .during(|| "making a directory to mount at")?;
        let at = base.path().canonicalize().during(|| "finding the directory to mount at")?.join("root");
        std::fs::create_dir(&at).during(|| "making a directory to mount at")?;
        let mut loops = BTreeMap::new();
        let root = find_root(how, &disks, &mut loops, &at)?;
        let tree = tree(how, &disks, &mut loops, &at, root)?;
        if how.check {
            for (_, reference) in &tree {
                check(&disks, &loops, *reference)?;
            }
        }
        let mut mounts = Mounts::default();
        mount_one(&mut mounts, &disks, &loops, root, &at, !how.write)?;
        let guest = GuestRoot::new(&at)?;
        for (point, reference) in tree.iter().filter(|(point, _)| point != "/") {
            if !guest.is_directory(point)? {
                return Err(Error::Replica(format!(
                    "fstab mounts {reference} at {point}, which does not exist"
                )));
            }
            let real = guest.real(point)?;
            mount_one(
                &mut mounts,
                &disks,
                &loops,
                *reference,
                &at.join(real.trim_start_matches('/')),
                !how.write,
            )?;
        }
        Ok(Self { nodes: how.nodes.clone(), disks, mounted: tree, root: guest, mounts, loops, _base: base })
    }

    /// Device numbers of the mounted partitions (and the rest of the guest's that are open) with the names udev would give.
    pub fn devices(&self) -> Result<Vec<(u64, Vec<String>)>> {
        let one = |(reference, device): (&PartitionRef, &Loop)| {
            let partition = partition(&self.disks, *reference)?;
            let links = [
                ("by-uuid", &partition.uuid),
                ("by-label", &partition.label),
                ("by-partuuid", &partition.partuuid),
            ];
            let plain =
                |v: &str| !v.is_empty() && v.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            let links = links.iter().filter(|(_, v)| plain(v)).map(|(d, v)| format!("{d}/{v}")).collect();
            Ok((device.number()?, links))
        };
        self.loops.iter().map(one).collect()
    }

    /// Opens every partition that carries something, so that the guest's programs see what they would see at home.
    pub fn open_all(&mut self) -> Result<()> {
        let all: Vec<PartitionRef> = references(&self.disks).collect();
        for reference in all {
            let has_uuid = partition(&self.disks, reference).is_ok_and(|p| !p.uuid.is_empty());
            if has_uuid && !self.loops.contains_key(&reference) {
                self.loops.insert(reference, open_loop(&self.nodes, &self.disks, reference)?);
            }
        }
        Ok(())
    }

    /// Unmounts, checks every filesystem that was mounted, and makes the disks' content durable.
    pub fn close_and_check(self) -> Result<()> {
        let Self { nodes, disks, mounted, root, mut mounts, loops, _base } = self;
        drop(root);
        mounts.undo()?;
        for (_, reference) in &mounted {
            check(&disks, &loops, *reference)?;
        }
        for device in loops.values() {
            let file = std::fs::File::open(device.node())
                .during(|| format!("opening {}", device.node().display()))?;
            file.sync_all().during(|| format!("flushing {}", device.node().display()))?;
        }
        drop(loops);
        for node in &nodes {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(node)
                .during(|| format!("opening {}", node.display()))?;
            file.sync_all().during(|| format!("flushing {}", node.display()))?;
        }
        Ok(())
    }

    /// Unmounts; for a replica that was only looked at.
    pub fn close(self) -> Result<()> {
        let Self { root, mut mounts, loops, _base, .. } = self;
        drop(root);
        let outcome = mounts.undo();
        drop(loops);
        outcome
    }
}

fn references(disks: &[Disk]) -> impl Iterator<Item = PartitionRef> + '_ {
    disks
        .iter()
        .enumerate()
        .flat_map(|(disk, d)| d.partitions.iter().map(move |p| PartitionRef { disk, number: p.number }))
}

fn partition(disks: &[Disk], reference: PartitionRef) -> Result<&crate::facts::Partition> {
    disks
        .get(reference.disk)
        .and_then(|d| d.partitions.iter().find(|p| p.number == reference.number))
        .ok_or_else(|| Error::Replica(format!("there is no {reference}")))
}

fn refuse_hibernated(disks: &[Disk]) -> Result<()> {
    for reference in references(disks) {
        if let Some(signature) = &partition(disks, reference)?.hibernation {
            return Err(Error::Refused(format!(
                "{reference} holds a hibernation image ({signature}): this system was suspended, not shut down. Start the \
                 source once, shut it down and copy again; or give up what was in its memory with --void-hibernation (a target in the appliance: gantry.hibernated=void)"
            )));
        }
    }
    Ok(())
}

fn open_loop(nodes: &[PathBuf], disks: &[Disk], reference: PartitionRef) -> Result<Loop> {
    let p = partition(disks, reference)?;
    let sector = SectorSize::try_from(disks[reference.disk].sector_size).ok();
    let shown = Shown { offset: p.start, length: p.length, sector, ..Shown::default() };
    Ok(Loop::attach(&nodes[reference.disk], shown)?)
}

fn mount_one(
    mounts: &mut Mounts,
    disks: &[Disk],
    loops: &BTreeMap<PartitionRef, Loop>,
    reference: PartitionRef,
    at: &Path,
    read_only: bool,
) -> Result<()> {
    let device = loops.get(&reference).ok_or_else(|| Error::Replica(format!("{reference} is not open")))?;
    mounts.add(device.node(), at, &partition(disks, reference)?.content, read_only)
}

fn check(disks: &[Disk], loops: &BTreeMap<PartitionRef, Loop>, reference: PartitionRef) -> Result<()> {
    let Some(device) = loops.get(&reference).filter(|_| is_ext(disks, reference)) else { return Ok(()) };
    ext::check(device.node(), &reference.to_string())
}

fn is_ext(disks: &[Disk], reference: PartitionRef) -> bool {
    partition(disks, reference).is_ok_and(|p| matches!(p.content.as_str(), "ext2" | "ext3" | "ext4"))
}

/// Replays journals, looks into every ext filesystem and returns the one with a Linux root on it (I-10).
fn find_root(
    how: &Opening,
    disks: &[Disk],
    loops: &mut BTreeMap<PartitionRef, Loop>,
    at: &Path,
) -> Result<PartitionRef> {
    let mut found = Vec::new();
    let candidates: Vec<PartitionRef> = references(disks).filter(|r| is_ext(disks, *r)).collect();
    for reference in candidates {
        if let Some((disk, number)) = how.root
            && (reference.disk + 1, reference.number) != (disk, number)
        {
            continue;
        }
        let device = open_loop(&how.nodes, disks, reference)?;
        let kind = &partition(disks, reference)?.content;
        ext::replay(device.node(), kind, at)?;
        let mut mounts = Mounts::default();
        mounts.add(device.node(), at, kind, true)?;
        let guest = GuestRoot::new(at)?;
        let is_root = guest.is_directory("/etc")?
            && (guest.is_directory("/bin")? || guest.is_directory("/usr/bin")?)
            && (guest.exists("/etc/fstab")? || guest.exists("/etc/hosts")?);
        drop(guest);
        mounts.undo()?;
        if is_root {
            found.push(reference);
        }
        loops.insert(reference, device);
    }
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Error::Refused(no_root(disks))),
        several => {
            let list: Vec<String> =
                several.iter().map(|r| format!("--root {}:{}", r.disk + 1, r.number)).collect();
            Err(Error::Refused(format!(
                "several systems were found; name the one to repair: {}",
                list.join(" or ")
            )))
        }
    }
}

fn no_root(disks: &[Disk]) -> String {
    let mut seen: Vec<String> = Vec::new();
    for reference in references(disks) {
        let content = partition(disks, reference).map(|p| p.content.as_str()).unwrap_or_default();
        seen.push(format!("{reference}: {}", if content.is_empty() { "nothing known" } else { content }));
    }
    if seen.is_empty() {
        seen.push(String::from("no partitions"));
    }
    format!(
        "no Linux system on an ext filesystem in a partition was found ({}); other layouts are not repaired yet",
        seen.join(", ")
    )
}

/// The mount tree by the guest's fstab, parents first; opens what it needs.
fn tree(
    how: &Opening,
    disks: &[Disk],
    loops: &mut BTreeMap<PartitionRef, Loop>,
    at: &Path,
    root: PartitionRef,
) -> Result<Vec<(String, PartitionRef)>> {
    let mut mounts = Mounts::default();
    mount_one(&mut mounts, disks, loops, root, at, true)?;
    let guest = GuestRoot::new(at)?;
    let text = guest.read("/etc/fstab", 1 << 20)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let esp_point = ["/boot/efi", "/efi"].into_iter().find(|p| guest.is_directory(p).unwrap_or(false));
    drop(guest);
    mounts.undo()?;

    // The same reading of names as the rules': on facts that know no more than this yet.
    let mut facts = Facts { disks: disks.to_vec(), ..Facts::default() };
    facts.system.root = root;
    facts.system.files.insert(String::from("/etc/fstab"), text.clone());
    let mut tree = vec![(String::from("/"), root)];
    for entry in fstab::entries(&text).filter(|e| is_needed(e.at)) {
        let reference = match names::meaning(&facts, entry.spec, Some(entry.kind)) {
            Meaning::Hardware(r) | Meaning::Stable(Some(r)) => r,
            _ if !entry.is_awaited() => continue,
            Meaning::NoDisk => continue,
            Meaning::Unknown(why) => {
                return Err(Error::Refused(format!("{} cannot be found: {why}", entry.at)));
            }
            Meaning::Stable(None) => {
                return Err(Error::Refused(format!(
                    "{} lies on {}, which is on none of the disks",
                    entry.at, entry.spec
                )));
            }
        };
        let content = &partition(disks, reference)?.content;
        if !matches!(content.as_str(), "ext2" | "ext3" | "ext4" | "vfat") {
            return Err(Error::Refused(format!("{} is {content}, which is not repaired yet", entry.at)));
        }
        tree.push((entry.at.to_string(), reference));
    }
    let esp = references(disks).find(|r| {
        partition(disks, *r)
            .is_ok_and(|p| p.content == "vfat" && (p.kind == gantry_disk::table::ESP || p.kind == "0xef"))
    });
    if let (Some(esp), Some(point)) = (esp, esp_point)
        && !tree.iter().any(|(_, r)| *r == esp)
    {
        tree.push((point.to_string(), esp));
    }
    tree.sort_by_key(|(point, _)| point.len());
    for (_, reference) in &tree {
        if !loops.contains_key(reference) {
            let device = open_loop(&how.nodes, disks, *reference)?;
            loops.insert(*reference, device);
        }
        if is_ext(disks, *reference) {
            let device = &loops[reference];
            ext::replay(device.node(), &partition(disks, *reference)?.content, at)?;
        }
    }
    Ok(tree)
}
