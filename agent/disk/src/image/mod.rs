//! Image formats as disk ends: qcow2, VMDK, VHDX and VDI, through `qemu-nbd` on a Unix socket of our own.
//!
//! The format is given by whoever names the image, never found out: a guest can write any header into a raw disk, and an
//! image of its making could then name this host's files as its content. For the same reason an image of a given format is
//! looked at before any of qemu's programs opens it ([`header`]), asked about by `qemu-img info`, and refused when it has a
//! backing file, a parent, other extents than itself, or is encrypted. Both programs then run confined ([`confine`]): they can
//! open that one image and nothing else, have no network, and die with us.

mod confine;
mod header;
mod program;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use self::header::refusal;
use self::program::{Server, create, info};
use crate::end::{Geometry, Identity, ReadAt, SectorSize, WriteAt};
use crate::error::{DiskError, ErrorKind, Result};
use crate::extents::Extent;
use crate::nbd::NbdDisk;

/// A format of image files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// QEMU's own, versions 2 and 3.
    Qcow2,
    /// VMware's, in one file.
    Vmdk,
    /// Hyper-V's.
    Vhdx,
    /// VirtualBox's.
    Vdi,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Qcow2, Self::Vmdk, Self::Vhdx, Self::Vdi];

    /// As on the command line, as a file's extension, and as qemu calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
        }
    }
}

/// A format and a path: "qcow2:disk.img".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// Its format.
    pub format: Format,
    /// Where it is.
    pub path: PathBuf,
}

impl FromStr for ImageName {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (format, path) = text.split_once(':').ok_or(())?;
        let format = Format::ALL.into_iter().find(|known| known.name() == format).ok_or(())?;
        Ok(Self { format, path: path.into() })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.format.name(), self.path.display())
    }
}

/// An open image. Must be opened on a thread that lives as long as it: the kernel ties `qemu-nbd` to that thread.
#[derive(Debug)]
pub struct FormattedImage {
    // Dropped first: says goodbye to the server before that is killed.
    disk: NbdDisk,
    server: Server,
}

impl FormattedImage {
    /// Opens an image that is only read. qemu refuses one that is being written to by others.
    pub fn open_source(name: &ImageName) -> Result<Self> {
        Self::open(name, false)
    }

    /// Opens an existing image for writing; qemu's lock keeps others out.
    pub fn open_target(name: &ImageName) -> Result<Self> {
        Self::open(name, true)
    }

    /// Makes an image of `size` bytes that allocates what is written; an existing file is refused.
    pub fn create(name: &ImageName, size: u64) -> Result<Self> {
        let what = "creating the image";
        File::create_new(&name.path).map_err(|e| DiskError::io(name.to_string(), what, e))?;
        let made = absolute(name).and_then(|path| create(name, &path, size));
        let made = made.and_then(|()| Self::open_target(name));
        made.inspect_err(|_| {
            // It was made a moment ago; the first error is what matters.
            let _ = std::fs::remove_file(&name.path);
        })
    }

    fn open(name: &ImageName, writable: bool) -> Result<Self> {
        let path = absolute(name)?;
        let io = |error| DiskError::io(name.to_string(), "opening the image", error);
        let file = File::open(&path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(refused(name, "this is not a regular file"));
        }
        if let Some(why) = refusal(name.format, &file, writable).map_err(io)? {
            return Err(refused(name, &why));
        }
        info(name, &path)?;
        let server = Server::start(name, &path, writable)?;
        let disk = server.connect(name, writable)?;
        Ok(Self { disk, server })
    }

    /// Adds what qemu-nbd said, if anything, to an error.
    fn told<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| self.server.explain(error))
    }
}

/// The path without links: qemu then takes it for nothing but a path, and it is the one that is allowed.
fn absolute(name: &ImageName) -> Result<PathBuf> {
    let io = |error| DiskError::io(name.to_string(), "finding the image", error);
    Path::new(&name.path).canonicalize().map_err(io)
}

fn refused(name: &ImageName, why: &str) -> DiskError {
    DiskError::new(ErrorKind::Unsuitable, name.to_string(), format!("opening the image: {why}"))
}

impl Geometry for FormattedImage {
    fn size(&self) -> u64 {
        self.disk.size()
    }
    fn sector_size(&self) -> SectorSize {
        self.disk.sector_size()
    }
    fn identity(&self) -> &Identity {
        self.disk.identity()
    }
}

impl ReadAt for FormattedImage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.told(self.disk.read_at(offset, buffer))
    }
    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.told(self.disk.extents(offset, length))
    }
}

impl WriteAt for FormattedImage {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.told(self.disk.write_at(offset, data))
    }
    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.told(self.disk.zero_at(offset, length))
    }
    fn flush(&self) -> Result<()> {
        self.told(self.disk.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_format_and_path() {
        let name: ImageName = "vmdk:/a:b".parse().unwrap();
        assert_eq!((name.format, name.path.as_path()), (Format::Vmdk, Path::new("/a:b")));
        assert_eq!(name.to_string(), "vmdk:/a:b");
        for other in ["/dev/sda", "raw:x", "QCOW2:x", "./qcow2:x", "nbd://h/qcow2:x"] {
            assert!(other.parse::<ImageName>().is_err(), "{other}");
        }
    }
}
