//! Loop devices: a file, or a part of a disk, as a block device of its own. A leaf: ioctls with `unsafe`.
//!
//! Attached by one LOOP_CONFIGURE (Linux 5.8), so a device with the wrong offset or size is never seen by anyone. The
//! kernel detaches it when its last user is gone (autoclear): dropping it is enough, and nothing stays behind when we are
//! killed. Where nobody makes device nodes (no devtmpfs, no udev), the node is made here.

#![expect(unsafe_code, reason = "ioctls")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::end::SectorSize;
use crate::error::{DiskError, Result};

/// `struct loop_info64` of `<linux/loop.h>`.
#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `<linux/loop.h>`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// The major number of all loop devices (`<linux/major.h>`).
const LOOP_MAJOR: u64 = 7;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// The requests, by their numbers in `<linux/loop.h>`.
mod request {
    nix::ioctl_none_bad!(ctl_get_free, 0x4c82);
    nix::ioctl_write_ptr_bad!(configure, 0x4c0a, super::LoopConfig);
}

/// What part of the backing file is shown, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// First byte.
    pub offset: u64,
    /// Bytes; 0 for all the rest.
    pub length: u64,
    /// Logical sector size of the loop device; the default is 512.
    pub sector: Option<SectorSize>,
    /// Refuse writes. Only then the backing file is opened read-only.
    pub read_only: bool,
    /// Go round the page cache of the backing file or device, where it can.
    pub direct: bool,
}

/// An attached loop device; detached when it is dropped and nobody else uses it.
#[derive(Debug)]
pub struct Loop {
    node: PathBuf,
    device: File,
}

/// Another process may take the free device first; so many times that is tried again.
const RACES: usize = 64;

impl Loop {
    /// Attaches `backing`, a file or block device.
    pub fn attach(backing: &Path, shown: Shown) -> Result<Self> {
        let name = backing.display().to_string();
        let failed = |operation: &str, error| DiskError::io(&name, operation, error);
        let mut options = OpenOptions::new();
        options.read(true).write(!shown.read_only);
        let file = options.open(backing).map_err(|error| failed("opening for a loop device", error))?;
        let control = File::open("/dev/loop-control").map_err(|error| {
            DiskError::io("/dev/loop-control", "opening (is the loop driver loaded?)", error)
        })?;
        for _ in 0..RACES {
            // SAFETY: the request takes no argument and returns a number.
            let number = unsafe { request::ctl_get_free(control.as_raw_fd()) }
                .map_err(|error| failed("asking for a free loop device", error.into()))?;
            let node = PathBuf::from(format!("/dev/loop{number}"));
            make_node(&node, number.unsigned_abs().into())?;
            let device = options.open(&node).map_err(|error| {
                DiskError::io(node.display().to_string(), "opening the loop device", error)
            })?;
            match configure(&device, &file, shown) {
                Ok(()) => return Ok(Self { node, device }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => continue,
                Err(error) => return Err(failed("attaching to a loop device", error).at(shown.offset)),
            }
        }
        Err(failed("attaching to a loop device", io::Error::from(io::ErrorKind::ResourceBusy)))
    }

    /// Its node, "/dev/loop7".
    pub fn node(&self) -> &Path {
        &self.node
    }

    /// Its device number, as in `st_rdev`.
    pub fn number(&self) -> Result<u64> {
        let metadata = self.device.metadata();
        let failed =
            |error| DiskError::io(self.node.display().to_string(), "looking at the loop device", error);
        metadata.map(|metadata| metadata.rdev()).map_err(failed)
    }

    /// Writes everything through to the backing file and detaches.
    ///
    /// # Errors
    /// Of the flush: then what was written last may be lost. The device is detached all the same.
    pub fn detach(self) -> Result<()> {
        self.device.sync_all().map_err(|error| {
            DiskError::io(self.node.display().to_string(), "flushing the loop device", error)
        })
    }
}

fn make_node(node: &Path, minor: u64) -> Result<()> {
    if node.exists() {
        return Ok(());
    }
    match mknod(node, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, makedev(LOOP_MAJOR, minor)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => {
            Err(DiskError::io(node.display().to_string(), "making the loop device's node", error.into()))
        }
    }
}

fn configure(device: &File, file: &File, shown: Shown) -> io::Result<()> {
    let flags = LO_FLAGS_AUTOCLEAR
        | if shown.read_only { LO_FLAGS_READ_ONLY } else { 0 }
        | if shown.direct { LO_FLAGS_DIRECT_IO } else { 0 };
    let config = LoopConfig {
        fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
        block_size: shown.sector.unwrap_or(SectorSize::B512).bytes(),
        info: LoopInfo64 {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: shown.offset,
            sizelimit: shown.length,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the pointer is to a live struct of the layout that the request reads; both descriptors are open.
    unsafe { request::configure(device.as_raw_fd(), &config) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_have_the_kernels_sizes() {
        assert_eq!((size_of::<LoopInfo64>(), size_of::<LoopConfig>()), (232, 304));
    }

    #[test]
    fn a_part_of_a_file_is_a_device() {
        use std::io::{Read, Write};
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..16384u32).map(|at| (at / 512) as u8).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let shown =
            Shown { offset: 4096, length: 8192, sector: Some(4096.try_into().unwrap()), ..Shown::default() };
        let attached = Loop::attach(file.path(), shown).unwrap();
        let mut content = Vec::new();
        File::open(attached.node()).unwrap().read_to_end(&mut content).unwrap();
        assert_eq!(content, bytes[4096..12288]);
        OpenOptions::new().write(true).open(attached.node()).unwrap().write_all(&[0xee; 4096]).unwrap();
        let name = attached.node().file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            attached.number().unwrap(),
            File::open(attached.node()).unwrap().metadata().unwrap().rdev()
        );
        let backing = format!("/sys/block/{name}/loop/backing_file");
        let ours =
            || std::fs::read_to_string(&backing).is_ok_and(|text| Path::new(text.trim()) == file.path());
        assert!(ours(), "attached");
        attached.detach().unwrap();
        assert!(!ours(), "detached");
        let after = std::fs::read(file.path()).unwrap();
        assert_eq!((after[4095], after[4096], after[8191], after[8192]), (7, 0xee, 0xee, 16));

        let read_only = Loop::attach(file.path(), Shown { read_only: true, ..Shown::default() }).unwrap();
        let written =
            OpenOptions::new().write(true).open(read_only.node()).and_then(|mut node| node.write(&[0; 512]));
        assert!(written.is_err(), "a read-only loop device takes no writes");
    }

    #[test]
    fn what_is_not_there_is_an_error_with_its_name() {
        let error = Loop::attach(Path::new("/nonexistent/image"), Shown::default()).unwrap_err();
        assert_eq!(error.device, "/nonexistent/image");
    }
}
