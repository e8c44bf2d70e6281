//! Partitions opened as loop devices.
//!
//! One way for disks, device-mapper nodes and image files, also on kernels that read no partition tables. A device
//! is let go by the kernel when its last user is gone, so nothing stays behind when repair is killed.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::error::{During, Error, Result};
use crate::ioctl;

/// An area of a disk as a block device, while this value lives.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Opens `length` bytes at `offset` of a disk or image.
    pub fn open(disk: &Path, offset: u64, length: u64, sector: u32, read_only: bool) -> Result<Self> {
        let backing = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(disk)
            .during(|| format!("opening {}", disk.display()))?;
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")
            .during(|| "opening /dev/loop-control (is the loop module there?)")?;
        // Others may take the free device before it is bound: then the next one is asked for.
        for _ in 0..64 {
            let number = ioctl::free_loop(&control).during(|| "asking for a free loop device")?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            if !path.exists() {
                let node =
                    mknod(&path, SFlag::S_IFBLK, Mode::from_bits_truncate(0o600), makedev(7, number.into()));
                node.or_else(|e| if e == nix::Error::EEXIST { Ok(()) } else { Err(e) })
                    .during(|| format!("making {}", path.display()))?;
            }
            let device = OpenOptions::new()
                .read(true)
                .write(!read_only)
                .open(&path)
                .during(|| format!("opening {}", path.display()))?;
            match ioctl::bind_loop(&device, &backing, offset, length, sector, read_only) {
                Ok(()) => return Ok(Self { path, _open: device }),
                Err(e) if e.kind() == ErrorKind::ResourceBusy => {}
                Err(e) => {
                    return Err(Error::io(format!("binding {} to {}", path.display(), disk.display()), e));
                }
            }
        }
        Err(Error::Replica(String::from("no free loop device: others take them faster")))
    }

    /// The device node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Major and minor number.
    pub fn number(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let meta = self.path.metadata().during(|| format!("looking at {}", self.path.display()))?;
        if !meta.file_type().is_block_device() {
            return Err(Error::Replica(format!("{} is no block device", self.path.display())));
        }
        Ok(meta.rdev())
    }
}
