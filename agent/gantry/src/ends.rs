//! From names on the command line to open disk ends, past all the rules that protect what is on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use gantry_disk::inventory::{Disk, Inventory, is_called, named, scan, select};
use gantry_disk::label::{HEAD, parse};
use gantry_disk::machine::smbios_uuid;
use gantry_disk::mark::{self, Mark};
use gantry_disk::peek::Peek;
use gantry_disk::pending::Trace;
use gantry_disk::roots::Roots;
use gantry_disk::survey::{Look, survey, survey_end};
use gantry_disk::usage::{Use, file_in_use, free_or_why, in_use, refusal};
use gantry_disk::{
    BlockDevice, DiskError, ErrorKind, FormattedImage, Identity, ImageFile, NbdDisk, ReadAt, WriteAt,
};
use gantry_replicate::receiver::TargetDisk;
use gantry_wire::code::{job, job_tag};
use gantry_wire::{Code, DiskInfo};

use crate::names::EndName;

/// What to do about disks that carry something.
#[derive(Debug, Clone, Default)]
pub struct EraseRule {
    /// Serial numbers, WWNs, paths or URIs that may be erased.
    pub erase: Vec<String>,
    /// Those that carry an older copy of the source: they may be erased too, but only what differs crosses.
    pub base: Vec<String>,
    /// The code came from the kernel line: only blank disks (law 13).
    pub blank_only: bool,
}

/// An end to be read.
pub struct Source {
    /// The end.
    pub end: Arc<dyn ReadAt>,
    /// The block device of this machine that it is; none for a file or what is behind a server.
    pub disk: Option<Disk>,
}

/// The disks of this machine, or those named, for sending. A name may be a volume, an image or an export: see [`EndName`].
pub fn sources(names: &[String]) -> Result<Vec<Source>> {
    let roots = Roots::default();
    let inventory = scan(&roots).context("listing the disks of this machine")?;
    let mut ends = Vec::new();
    for chosen in choose(&roots, &inventory, names)? {
        ends.push(match chosen {
            Chosen::File(path) => {
                must_be_free(&roots, &path, true)?;
                Source { end: Arc::new(ImageFile::open_source(&path)?), disk: None }
            }
            Chosen::Elsewhere(name) => Source { end: elsewhere(&name)?, disk: None },
            Chosen::Disk(disk) => {
                let uses = free_or_why(&roots, &disk)?;
                if !uses.is_empty() {
                    return Err(refusal(&disk.identity.path, &uses).into());
                }
                let path = PathBuf::from(&disk.identity.path);
                let open = match inventory.disks.contains(&disk) {
                    true => BlockDevice::open_source,
                    false => BlockDevice::open_volume_source,
                };
                Source { end: Arc::new(open(&path, disk.identity.clone())?), disk: Some(disk) }
            }
        });
    }
    if ends.is_empty() {
        bail!("this machine has no disk to send (boot media and virtual devices do not count)");
    }
    ends.iter().try_for_each(|source| must_be_whole(&*source.end))?;
    Ok(ends)
}

/// No loop device may write to an image that is read, and none may be on one that is written.
fn must_be_free(roots: &Roots, image: &Path, only_read: bool) -> Result<()> {
    let uses = file_in_use(roots, image, only_read)?;
    match uses.is_empty() {
        true => Ok(()),
        false => Err(refusal(&image.display().to_string(), &uses).into()),
    }
}

/// Half a copy is no source.
fn must_be_whole(end: &dyn ReadAt) -> Result<()> {
    match Trace::read(&head_of(end)?) {
        None => Ok(()),
        Some(_) => {
            let why = "it holds an unfinished replica, and no system: let its crossing come to its end first";
            Err(DiskError::new(ErrorKind::Unsuitable, &end.identity().path, why).into())
        }
    }
}

/// The disks of this machine, or those named, for receiving. Those that must not be written are not opened, and say why.
pub fn targets(names: &[String], rule: &EraseRule, code: &Code) -> Result<Vec<TargetDisk>> {
    let roots = Roots::default();
    let inventory = scan(&roots).context("listing the disks of this machine")?;
    for (option, names) in [("--erase", &rule.erase), ("--base", &rule.base)] {
        // A name that means no disk, or two, is a mistake to be told before anything is erased.
        choose(&roots, &inventory, names).context(option)?;
    }
    let taken = choose(&roots, &inventory, names)?.into_iter().map(|chosen| match chosen {
        Chosen::File(path) => take_file(&path, rule),
        Chosen::Elsewhere(name) => take_elsewhere(&name, rule),
        Chosen::Disk(disk) => take_disk(&roots, &disk, rule),
    });
    let taken = taken.collect::<Result<Vec<_>>>()?;
    let traces = taken.iter().map(|taken| trace(&taken.target)).collect::<Result<Vec<_>>>()?;
    let mut targets = Vec::new();
    for (taken, trace) in taken.into_iter().zip(&traces) {
        let ours = trace.as_ref().is_some_and(|trace| trace.may_be_taken_up(&job(code), &traces));
        targets.push(if ours { taken.target } else { taken.unless_forbidden(rule)? });
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
        let head = head_of(&Peek::open(Path::new(&target.info.path)).ok()?).ok()?;
        let mark = mark::read(&head)
            .filter(|mark| mark.uuid.eq_ignore_ascii_case(&uuid) && mark.job == job_tag(code))?;
        parse(&head).is_none().then(|| (target.info.path.clone(), mark))
    })
}

enum Chosen {
    /// A disk of this machine, or a volume that was named.
    Disk(Disk),
    File(PathBuf),
    /// Behind an NBD server: somebody else's, or qemu's for an image of a format.
    Elsewhere(EndName),
}

fn choose(roots: &Roots, inventory: &Inventory, names: &[String]) -> Result<Vec<Chosen>> {
    if names.is_empty() {
        let fixed = inventory.disks.iter().filter(|disk| !disk.removable);
        return Ok(fixed.cloned().map(Chosen::Disk).collect());
    }
    let one = |name: &String| {
        Ok(match EndName::parse(name)? {
            EndName::Plain(path) | EndName::Raw(path) if path.is_file() => Chosen::File(path),
            EndName::Plain(path) | EndName::Raw(path) => {
                Chosen::Disk(named(roots, inventory, &path.to_string_lossy())?)
            }
            name => Chosen::Elsewhere(name),
        })
    };
    names.iter().map(one).collect()
}

/// Opens what is behind an NBD server to read it.
fn elsewhere(name: &EndName) -> Result<Arc<dyn ReadAt>> {
    Ok(match name {
        EndName::Server(address) => Arc::new(NbdDisk::open_source(address)?),
        EndName::Image(image) => Arc::new(FormattedImage::open_source(image)?),
        EndName::Plain(path) | EndName::Raw(path) => Arc::new(ImageFile::open_reader(path)?),
    })
}

fn head_of(disk: &dyn ReadAt) -> Result<Vec<u8>> {
    let mut head = vec![0; HEAD.min(disk.size() as usize)];
    disk.read_at(0, &mut head)?;
    Ok(head)
}

/// What the disk says of a session that did not end.
fn trace(target: &TargetDisk) -> Result<Option<Trace>> {
    let Some(end) = &target.end else { return Ok(None) };
    Ok(Trace::read(&head_of(&**end)?))
}

/// A target that nobody else can take any more. It is taken before it is looked at, and let go when it is refused: from the
/// first question on nobody can mount it, build on it or write to it, and what was found stays true.
struct Taken {
    target: TargetDisk,
    /// It may be overwritten whatever it carries.
    named: bool,
    /// How much of it is looked at through its server; what has a path of its own is looked at there.
    look: Option<Look>,
}

impl Taken {
    /// `called` says whether the end is among names.
    fn new(
        end: Arc<dyn WriteAt>,
        called: impl Fn(&[String]) -> bool,
        rule: &EraseRule,
        look: Option<Look>,
    ) -> Self {
        let base = called(&rule.base);
        let target = TargetDisk { base, ..TargetDisk::usable(end) };
        Self { target, named: base || called(&rule.erase), look }
    }

    /// The target, refused if the erase rule forbids it.
    fn unless_forbidden(self, rule: &EraseRule) -> Result<TargetDisk> {
        let Some(end) = &self.target.end else { return Ok(self.target) };
        let identity = end.identity();
        let found = match self.look {
            Some(look) => survey_end(&**end, look)?,
            None => survey(Path::new(&identity.path))?,
        };
        if found.blank {
            return Ok(self.target);
        }
        if self.named && rule.blank_only {
            let why = "carries something, and a code from the kernel line is only for blank disks";
            return Ok(refused(self.target.info, why.to_owned()));
        }
        if self.named {
            let findings: String = found.findings.iter().map(|finding| format!("\n  {finding}")).collect();
            eprintln!("disk {}: may be overwritten although it carries:{findings}", identity.path);
            return Ok(self.target);
        }
        let why = found.refusal(identity, end.size()).operation;
        Ok(refused(self.target.info, why))
    }
}

/// Whether `name` is one of `names`.
fn is_among(names: &[String], name: &EndName) -> bool {
    names.iter().any(|other| EndName::parse(other).is_ok_and(|other| other.means(name)))
}

fn take_file(path: &Path, rule: &EraseRule) -> Result<Taken> {
    must_be_free(&Roots::default(), path, false)?;
    let end = Arc::new(ImageFile::open_target(path)?);
    let name = EndName::Raw(path.to_owned());
    Ok(Taken::new(end, |names| is_among(names, &name), rule, None))
}

/// Takes what is behind an NBD server. Only the server can tell what it carries.
fn take_elsewhere(name: &EndName, rule: &EraseRule) -> Result<Taken> {
    let (end, look): (Arc<dyn WriteAt>, Look) = match name {
        EndName::Server(address) => (Arc::new(NbdDisk::open_target(address)?), Look::Samples),
        EndName::Image(image) => (Arc::new(FormattedImage::open_target(image)?), Look::Everything),
        EndName::Plain(path) | EndName::Raw(path) => return take_file(path, rule),
    };
    Ok(Taken::new(end, |names| is_among(names, name), rule, Some(look)))
}

fn take_disk(roots: &Roots, disk: &Disk, rule: &EraseRule) -> Result<Taken> {
    let path = PathBuf::from(&disk.identity.path);
    let refuse = |why: String| {
        let info = DiskInfo {
            path: disk.identity.path.clone(),
            serial: disk.identity.serial.clone(),
            model: disk.identity.model.clone(),
            size: disk.size,
            sector_size: disk.sector.bytes(),
            refusal: String::new(),
        };
        Ok(Taken { target: refused(info, why), named: false, look: None })
    };
    // Sources are set read-only, and stay so when a sender is started again; a target must be writable.
    if disk.read_only {
        return refuse(format!(
            "is read-only; if it was a source before: blockdev --setrw {}",
            path.display()
        ));
    }
    let taken = BlockDevice::open_target(&path, disk.identity.clone());
    // Asked for even if the disk could be taken: a loop device claims nothing.
    let mut uses = in_use(roots, disk)?;
    let end = match taken {
        Ok(end) if uses.is_empty() => end,
        Ok(_) => return refuse(refusal(&disk.identity.path, &uses).operation),
        Err(error) if error.kind == ErrorKind::InUse => {
            if uses.is_empty() {
                uses.push(Use::Claimed { device: disk.identity.path.clone() });
            }
            return refuse(refusal(&disk.identity.path, &uses).operation);
        }
        Err(error) => return Err(error.into()),
    };
    let called = |names: &[String]| names.iter().any(|name| is_called(disk, name));
    Ok(Taken::new(Arc::new(end), called, rule, None))
}

fn refused(info: DiskInfo, refusal: String) -> TargetDisk {
    TargetDisk { info: DiskInfo { refusal, ..info }, end: None, base: false }
}

/// Opens an end only to read it: devices past the page cache, so that what is compared is the medium.
pub fn reader(name: &str) -> Result<Arc<dyn ReadAt>> {
    match EndName::parse(name)? {
        EndName::Plain(path) | EndName::Raw(path) if !path.is_file() => device(&path),
        name => elsewhere(&name),
    }
}

/// A disk by path, serial number or WWN, or any other block device by path.
fn device(name: &Path) -> Result<Arc<dyn ReadAt>> {
    let disks = scan(&Roots::default()).context("listing the disks of this machine")?.disks;
    let (path, identity) = match select(&disks, &name.to_string_lossy()) {
        Ok(disk) => (PathBuf::from(&disk.identity.path), disk.identity.clone()),
        Err(_) if name.exists() => (name.to_owned(), Identity::default()),
        Err(error) => return Err(error.into()),
    };
    Ok(Arc::new(BlockDevice::open_reader(&path, identity)?))
}

/// Makes a target as large as its source, if `name` is that of a file that does not exist.
pub fn create(name: &EndName, size: u64) -> Result<Option<Arc<dyn WriteAt>>> {
    let missing = |path: &Path| !path.exists() && !path.starts_with("/dev");
    Ok(match name {
        EndName::Image(image) if missing(&image.path) => Some(Arc::new(FormattedImage::create(image, size)?)),
        EndName::Plain(path) | EndName::Raw(path) if missing(path) => {
            let disks = scan(&Roots::default())?.disks;
            // A serial number is no file to be made.
            match select(&disks, &path.to_string_lossy()) {
                Ok(_) => None,
                Err(_) => Some(Arc::new(ImageFile::create(path, size)?)),
            }
        }
        _ => None,
    })
}
