//! From names on the command line to open disk ends, past all the rules that protect what is on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use gantry_disk::inventory::{Disk, is_called, scan, select};
use gantry_disk::label::{HEAD, parse};
use gantry_disk::machine::smbios_uuid;
use gantry_disk::mark::{self, Mark};
use gantry_disk::peek::Peek;
use gantry_disk::roots::Roots;
use gantry_disk::survey::survey;
use gantry_disk::usage::{Use, free_or_why, in_use, refusal};
use gantry_disk::{BlockDevice, ErrorKind, Geometry, Identity, ImageFile, ReadAt};
use gantry_replicate::receiver::{TargetDisk, disk_info};
use gantry_wire::code::{job, job_tag};
use gantry_wire::{Code, DiskInfo};

/// What to do about disks that carry something.
#[derive(Debug, Clone, Default)]
pub struct EraseRule {
    /// Serial numbers, WWNs or paths that may be erased.
    pub erase: Vec<String>,
    /// Those that carry an older copy of the source: they may be erased too, but only what differs crosses.
    pub base: Vec<String>,
    /// The code came from the kernel line: only blank disks (law 13).
    pub blank_only: bool,
}

/// The disks of this machine, or those named, for sending. A name may be an image file.
pub fn sources(names: &[String]) -> Result<Vec<Arc<dyn ReadAt>>> {
    let roots = Roots::default();
    let inventory = scan(&roots).context("listing the disks of this machine")?;
    let mut ends: Vec<Arc<dyn ReadAt>> = Vec::new();
    for chosen in choose(&inventory.disks, names)? {
        match chosen {
            Chosen::File(path) => ends.push(Arc::new(ImageFile::open_source(&path)?)),
            Chosen::Disk(disk) => {
                let uses = free_or_why(&roots, disk)?;
                if !uses.is_empty() {
                    return Err(refusal(disk, &uses).into());
                }
                let path = PathBuf::from(&disk.identity.path);
                ends.push(Arc::new(BlockDevice::open_source(&path, disk.identity.clone())?));
            }
        }
    }
    if ends.is_empty() {
        bail!("this machine has no disk to send (boot media and virtual devices do not count)");
    }
    Ok(ends)
}

/// The disks of this machine, or those named, for receiving. Those that must not be written are not opened, and say why.
pub fn targets(names: &[String], rule: &EraseRule, code: &Code) -> Result<Vec<TargetDisk>> {
    let roots = Roots::default();
    let inventory = scan(&roots).context("listing the disks of this machine")?;
    for (option, names) in [("--erase", &rule.erase), ("--base", &rule.base)] {
        for name in names.iter().filter(|name| !Path::new(name).is_file()) {
            // A name that means no disk, or two, is a mistake to be told before anything is erased.
            select(&inventory.disks, name).context(option)?;
        }
    }
    let mut targets = Vec::new();
    for chosen in choose(&inventory.disks, names)? {
        targets.push(match chosen {
            Chosen::File(path) => file_target(&path, rule, code)?,
            Chosen::Disk(disk) => disk_target(&roots, disk, rule, code)?,
        });
    }
    if targets.is_empty() {
        bail!(
            "this machine has no disk that could take a replica (boot media and virtual devices do not count)"
        );
    }
    Ok(targets)
}

/// The disk that carries the mark of this very job and machine, if it was committed before this process was started. A
/// disk that still carries a label was not, whatever else is on it. Dates play no part: clocks may be wrong.
pub fn committed_mark(targets: &[TargetDisk], code: &Code) -> Option<(String, Mark)> {
    let uuid = smbios_uuid(&Roots::default()).ok()?;
    targets.iter().find_map(|target| {
        let head = head_of(Path::new(&target.info.path)).ok()?;
        let mark = mark::read(&head)
            .filter(|mark| mark.uuid.eq_ignore_ascii_case(&uuid) && mark.job == job_tag(code))?;
        parse(&head).is_none().then(|| (target.info.path.clone(), mark))
    })
}

enum Chosen<'a> {
    Disk(&'a Disk),
    File(PathBuf),
}

fn choose<'a>(disks: &'a [Disk], names: &[String]) -> Result<Vec<Chosen<'a>>> {
    if names.is_empty() {
        return Ok(disks.iter().filter(|disk| !disk.removable).map(Chosen::Disk).collect());
    }
    let one = |name: &String| {
        let path = Path::new(name);
        if path.is_file() {
            Ok(Chosen::File(path.to_owned()))
        } else {
            Ok(Chosen::Disk(select(disks, name)?))
        }
    };
    names.iter().map(one).collect()
}

fn head_of(path: &Path) -> Result<Vec<u8>> {
    let disk = Peek::open(path)?;
    let mut head = vec![0; HEAD.min(disk.size() as usize)];
    disk.read_at(0, &mut head)?;
    Ok(head)
}

/// Why the erase rule forbids this disk, if it does.
fn forbidden(
    path: &Path,
    identity: &Identity,
    size: u64,
    named: bool,
    rule: &EraseRule,
    code: &Code,
) -> Result<Option<String>> {
    if parse(&head_of(path)?).is_some_and(|label| label.job == job(code)) {
        return Ok(None);
    }
    let found = survey(path)?;
    if found.blank {
        return Ok(None);
    }
    if named && rule.blank_only {
        return Ok(Some(
            "carries something, and a code from the kernel line is only for blank disks".to_owned(),
        ));
    }
    if named {
        let findings: String = found.findings.iter().map(|finding| format!("\n  {finding}")).collect();
        eprintln!("disk {}: may be overwritten although it carries:{findings}", identity.path);
        return Ok(None);
    }
    Ok(Some(found.refusal(identity, size).operation))
}

/// The file is locked before it is looked at, and let go when it is refused: what was found stays true.
fn file_target(path: &Path, rule: &EraseRule, code: &Code) -> Result<TargetDisk> {
    let end = ImageFile::open_target(path)?;
    let same = |name: &String| {
        std::fs::canonicalize(name).is_ok_and(|named| path.canonicalize().is_ok_and(|p| p == named))
    };
    let base = rule.base.iter().any(same);
    let named = base || rule.erase.iter().any(same);
    match forbidden(path, end.identity(), end.size(), named, rule, code)? {
        Some(why) => Ok(refused(disk_info(&end), why)),
        None => Ok(TargetDisk { base, ..TargetDisk::usable(Arc::new(end)) }),
    }
}

/// The disk is taken exclusively before it is looked at, and let go when it is refused: from the first question on nobody
/// can mount it or build on it.
fn disk_target(roots: &Roots, disk: &Disk, rule: &EraseRule, code: &Code) -> Result<TargetDisk> {
    let path = PathBuf::from(&disk.identity.path);
    let info = DiskInfo {
        path: disk.identity.path.clone(),
        serial: disk.identity.serial.clone(),
        model: disk.identity.model.clone(),
        size: disk.size,
        sector_size: disk.sector.bytes(),
        refusal: String::new(),
    };
    // Sources are set read-only, and stay so when a sender is started again; a target must be writable.
    if disk.read_only {
        return Ok(refused(info, "is read-only".to_owned()));
    }
    let taken = BlockDevice::open_target(&path, disk.identity.clone());
    // Asked for even if the disk could be taken: a loop device claims nothing.
    let mut uses = in_use(roots, disk)?;
    let end = match taken {
        Ok(end) if uses.is_empty() => end,
        Ok(_) => return Ok(refused(info, refusal(disk, &uses).operation)),
        Err(error) if error.kind == ErrorKind::InUse => {
            if uses.is_empty() {
                uses.push(Use::Claimed { device: disk.identity.path.clone() });
            }
            return Ok(refused(info, refusal(disk, &uses).operation));
        }
        Err(error) => return Err(error.into()),
    };
    let called = |names: &[String]| names.iter().any(|name| is_called(disk, name));
    let base = called(&rule.base);
    let named = base || called(&rule.erase);
    match forbidden(&path, &disk.identity, disk.size, named, rule, code)? {
        Some(why) => Ok(refused(info, why)),
        None => Ok(TargetDisk { base, ..TargetDisk::usable(Arc::new(end)) }),
    }
}

fn refused(info: DiskInfo, refusal: String) -> TargetDisk {
    TargetDisk { info: DiskInfo { refusal, ..info }, end: None, base: false }
}

/// Opens an end only to read it: devices past the page cache, so that what is compared is the medium.
pub fn reader(name: &str) -> Result<Box<dyn ReadAt>> {
    let path = Path::new(name);
    Ok(match path.is_file() {
        true => Box::new(ImageFile::open_source(path)?),
        false => Box::new(BlockDevice::open_reader(path, Identity::default())?),
    })
}
