//! A disk of which some pieces come from memory: law 3's view of a finished replica.
//!
//! Until commit the target's head and tail hold a label and zeros; the real ones are in memory. Repair must see, and may
//! change, the disk as it will be. A view shows it: a device-mapper node that is linear to the disk, except for the pieces,
//! which are files on a memory filesystem behind loop devices. What is written to the pieces comes back from
//! [`View::close`]; everything else goes straight to the disk, and is recorded ([`record`]): what was written to the disk comes
//! back too.
//!
//! The device-mapper ioctls are made here ([`dm`]) instead of by the dmsetup program: no second program and library to carry,
//! no udev cookies to switch off, and errors that say which step failed. Without udev nobody makes `/dev/mapper/NAME`, so
//! that node is made here too.
//!
//! The disk itself also comes through a loop device, with direct I/O. Device-mapper claims what its tables name, and a disk that
//! the receiver holds with O_EXCL cannot be claimed twice; a loop device claims nothing. So the receiver goes on holding
//! its disk while repair works on the view, and nobody slips in between. The disk's own page cache knows nothing of what
//! is written through the view, so it is emptied before and after.

mod dm;
mod layout;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

pub use layout::{Part, Stretch, layout};
use record::Recorder;
pub use record::Written;

use crate::end::SectorSize;
use crate::error::{DiskError, ErrorKind, Result};
use crate::loops::{Loop, Shown};

/// Where the nodes of views are.
const FOLDER: &str = "/dev/mapper";
/// Where pieces are kept: a memory filesystem in the appliance.
const MEMORY: &str = "/run";

/// An open view. Dropped without [`View::close`], it is removed and the pieces are lost.
#[derive(Debug)]
pub struct View {
    node: PathBuf,
    name: String,
    disk: PathBuf,
    through: Option<Loop>,
    record: Option<Recorder>,
    /// Why there is no record.
    unrecorded: String,
    pieces: Vec<Piece>,
    open: bool,
}

/// What a view gives when it is closed.
#[derive(Debug)]
pub struct Closed {
    /// The pieces as they are now.
    pub pieces: Vec<(u64, Vec<u8>)>,
    /// What was written to the disk itself.
    pub written: Written,
}

#[derive(Debug)]
struct Piece {
    offset: u64,
    file: PathBuf,
    device: Option<Loop>,
}

impl View {
    /// Shows `disk` (of `size` bytes) with `pieces` (offset, bytes) over it as `/dev/mapper/NAME`. The caller should hold the
    /// disk exclusively: the view does not.
    ///
    /// # Errors
    /// Pieces that overlap, are not whole sectors or lie outside; no loop driver or device-mapper.
    pub fn open(
        name: &str,
        disk: &Path,
        size: u64,
        sector: SectorSize,
        pieces: &[(u64, Vec<u8>)],
    ) -> Result<Self> {
        let plain = !name.is_empty()
            && name.len() < 100
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        if !plain {
            return Err(DiskError::new(
                ErrorKind::Unsuitable,
                name,
                "a view's name is letters, digits and '-'",
            ));
        }
        let lengths: Vec<_> = pieces.iter().map(|(offset, bytes)| (*offset, bytes.len() as u64)).collect();
        let stretches = layout(size, sector, &lengths)
            .map_err(|reason| DiskError::new(ErrorKind::Range, disk.display().to_string(), reason))?;
        drop_cache(disk)?;
        let through = Loop::attach(disk, Shown { sector: Some(sector), direct: true, ..Shown::default() })?;
        let record = Recorder::begin(name, through.node(), size);
        let unrecorded = record.as_ref().err().map(record::why_not).unwrap_or_default();
        let mut view = Self {
            node: Path::new(FOLDER).join(name),
            name: name.to_owned(),
            disk: disk.to_path_buf(),
            record: record.ok(),
            unrecorded,
            through: Some(through),
            pieces: Vec::new(),
            open: false,
        };
        for (number, (offset, bytes)) in pieces.iter().enumerate() {
            let file = Path::new(MEMORY).join(format!("gantry-view-{name}-{number}"));
            fs::write(&file, bytes).map_err(|error| {
                DiskError::io(file.display().to_string(), "keeping a piece in memory", error)
            })?;
            view.pieces.push(Piece { offset: *offset, file: file.clone(), device: None });
            let device = Loop::attach(&file, Shown { sector: Some(sector), ..Shown::default() })?;
            if let Some(piece) = view.pieces.last_mut() {
                piece.device = Some(device);
            }
        }
        let targets: Vec<dm::Target> = stretches.iter().map(|stretch| view.target(stretch)).collect();
        let device = dm::create(name, &targets)
            .map_err(|error| DiskError::io(view.node.display().to_string(), error.step, error.source))?;
        view.open = true;
        make_node(&view.node, device)?;
        Ok(view)
    }

    fn target(&self, stretch: &Stretch) -> dm::Target {
        let of = |device: Option<&Loop>| device.map(|device| device.node().display().to_string());
        let source = match (stretch.part, &self.record) {
            (Part::Disk, Some(record)) => Some(record.origin.clone()),
            (Part::Disk, None) => of(self.through.as_ref()),
            (Part::Piece(number), _) => of(self.pieces.get(number).and_then(|piece| piece.device.as_ref())),
        };
        // All of them were attached before the targets are made.
        let parameters = format!("{} {}", source.unwrap_or_default(), stretch.offset);
        dm::Target { start: stretch.start, length: stretch.length, kind: "linear", parameters }
    }

    /// The node to work on.
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// Flushes, removes the view and gives the pieces as they are now, and what was written to the disk.
    ///
    /// # Errors
    /// A flush that failed (then what repair wrote is not to be trusted); something that still has the view open.
    pub fn close(mut self) -> Result<Closed> {
        let node = self.node.display().to_string();
        OpenOptions::new()
            .write(true)
            .open(&self.node)
            .and_then(|device| device.sync_all())
            .map_err(|error| DiskError::io(&node, "flushing the view", error))?;
        self.remove()?;
        let written = match self.record.take() {
            Some(record) => record.end()?,
            None => Written::Unknown(std::mem::take(&mut self.unrecorded)),
        };
        if let Some(through) = self.through.take() {
            through.detach()?;
        }
        let mut contents = Vec::new();
        for piece in &mut self.pieces {
            if let Some(device) = piece.device.take() {
                device.detach()?;
            }
            let bytes = fs::read(&piece.file).map_err(|error| {
                DiskError::io(piece.file.display().to_string(), "reading a piece back", error)
            })?;
            contents.push((piece.offset, bytes));
        }
        drop_cache(&self.disk)?;
        Ok(Closed { pieces: contents, written })
    }

    fn remove(&mut self) -> Result<()> {
        if self.open {
            remove(&self.name, &self.node)?;
            self.open = false;
        }
        Ok(())
    }
}

/// Removes a view that a process which was killed has left behind; whether there was one.
///
/// # Errors
/// `InUse`: somebody still has it open.
pub fn remove_leftover(name: &str) -> Result<bool> {
    if !dm::is_available() {
        return Ok(false);
    }
    let view = match remove(name, &Path::new(FOLDER).join(name)) {
        Ok(()) => true,
        Err(error) if is_missing(&error) => false,
        Err(error) => return Err(error),
    };
    Ok(record::remove_leftovers(name)? || view)
}

/// Removes a device without a node; whether there was one.
fn remove_device(name: &str) -> Result<bool> {
    match dm::remove(name).map_err(|error| DiskError::io(name, error.step, error.source)) {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_missing(error: &DiskError) -> bool {
    error.source.as_ref().is_some_and(|source| source.raw_os_error() == Some(libc::ENXIO))
}

fn remove(name: &str, node: &Path) -> Result<()> {
    let path = node.display().to_string();
    dm::remove(name).map_err(|error| {
        let held = error.source.raw_os_error() == Some(libc::EBUSY);
        let kind = if held { ErrorKind::InUse } else { ErrorKind::Io };
        DiskError { kind, ..DiskError::io(&path, error.step, error.source) }
    })?;
    match fs::remove_file(node) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DiskError::io(&path, "removing the view's node", error))
        }
        _ => Ok(()),
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("gantry: {error}");
        }
        self.record = None;
        self.through = None;
        for piece in &mut self.pieces {
            piece.device = None;
            if let Err(error) = fs::remove_file(&piece.file) {
                eprintln!("gantry: {}: removing a piece: {error}", piece.file.display());
            }
        }
    }
}

/// Makes the node, over an old one that a view of the same name may have left behind.
fn make_node(node: &Path, device: u64) -> Result<()> {
    use nix::sys::stat::{Mode, SFlag, mknod};
    let failed = |error| DiskError::io(node.display().to_string(), "making the view's node", error);
    match fs::remove_file(node) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    if let Some(folder) = node.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    mknod(node, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, device).map_err(|error| failed(error.into()))
}

/// Writes back and forgets what the page cache holds of a block device.
fn drop_cache(disk: &Path) -> Result<()> {
    let failed = |error| DiskError::io(disk.display().to_string(), "emptying its cache", error);
    let device = File::open(disk).map_err(failed)?;
    if !device.metadata().map_err(failed)?.file_type().is_block_device() {
        return Err(DiskError::new(
            ErrorKind::Unsuitable,
            disk.display().to_string(),
            "a view needs a block device",
        ));
    }
    device.sync_all().map_err(failed)?;
    dm::flush_buffers(device.as_raw_fd()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_paths_are_refused_before_anything_is_done() {
        for name in ["", "../x", "a/b", "a b", "ä"] {
            let error = View::open(name, Path::new("/dev/null"), 4096, SectorSize::B512, &[]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unsuitable, "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_no_leftover() {
        assert!(!remove_leftover("gantry-nothing").unwrap());
    }

    #[test]
    fn only_block_devices_can_be_viewed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = View::open("gantry-test", file.path(), 4096, SectorSize::B512, &[]).unwrap_err();
        assert!(error.to_string().contains("block device"), "{error}");
    }
}
