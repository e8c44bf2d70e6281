//! The whole disks of this machine, from sysfs.
//!
//! Everything is taken from `/sys/block`: it needs no privilege, no udev and no open device. What is not a disk of
//! this machine is left out with a reason, so that a person who misses one learns why: loop, RAM and zram devices,
//! optical and floppy drives, device-mapper, md and other stacked devices, drives without a medium, and boot media,
//! that is any medium whose ISO 9660 volume id is the one our own media carry.
//!
//! What software makes out of disks and files (an LV, a zvol, an md array, a loop device) is a *volume*: never taken by
//! itself, because its disks are there too, but as good as a disk for whoever names it ([`named`]).

#[cfg(test)]
pub(crate) mod fake;
mod medium;
mod names;
mod select;
mod volume;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use medium::{VOLUME_ID, carries_boot_medium};
pub use names::Transport;
pub use select::{describe, is_called, select};
pub use volume::named;

use crate::end::{Identity, SectorSize};
use crate::error::{DiskError, Result};
use crate::roots::{Roots, attribute, names_in, number};

/// A block device's number, as in sysfs `dev` and in `/proc/self/mountinfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceNumber {
    /// Driver.
    pub major: u32,
    /// Device or partition of that driver.
    pub minor: u32,
}

impl DeviceNumber {
    /// Reads "8:1".
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// The number of the block device whose node, or a link to it, is at `path`.
    pub fn of_node(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
        meta.file_type().is_block_device().then_some(Self { major, minor })
    }
}

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The kernel's name: "sda", "nvme0n1".
    pub name: String,
    /// Path, serial, WWN and model.
    pub identity: Identity,
    /// Number of its node.
    pub number: DeviceNumber,
    /// Bytes.
    pub size: u64,
    /// Logical sector size.
    pub sector: SectorSize,
    /// Physical sector size in bytes.
    pub physical_sector: u32,
    /// How it is attached.
    pub transport: Transport,
    /// The driver of its controller ("ahci", "virtio_blk"); empty when sysfs names none.
    pub driver: String,
    /// The kernel refuses writes.
    pub read_only: bool,
    /// The medium can be taken out.
    pub removable: bool,
}

/// A block device that is not counted as a disk, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Path, serial, WWN and model.
    #[serde(flatten)]
    pub identity: Identity,
    /// Bytes; 0 without a medium.
    pub size: u64,
    /// The reason, for a person.
    pub reason: String,
    /// It is a medium that this appliance starts from. Never a target.
    pub boot_medium: bool,
}

/// What `/sys/block` holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Disks, in natural order of their names (sda, sdb, sdaa).
    pub disks: Vec<Disk>,
    /// Everything else.
    pub left_out: Vec<LeftOut>,
}

/// Lists the whole disks of the machine. Only `/sys` not being there is an error.
pub fn scan(roots: &Roots) -> Result<Inventory> {
    let folder = roots.sys.join("block");
    let entries = fs::read_dir(&folder)
        .map_err(|source| DiskError::io(folder.display().to_string(), "listing block devices", source))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    let mut inventory = Inventory::default();
    for name in names {
        let identity = names::identity(roots, &name, roots.node(&name).display().to_string());
        let size = number(&roots.block(&name).join("size")).unwrap_or(0).saturating_mul(512);
        match look(roots, &name, &identity, size, false) {
            Ok(disk) => inventory.disks.push(disk),
            Err(Why { reason, boot_medium }) => {
                inventory.left_out.push(LeftOut { identity, size, reason, boot_medium });
            }
        }
    }
    Ok(inventory)
}

/// Why an entry is no disk.
struct Why {
    reason: String,
    boot_medium: bool,
}

/// One entry of `/sys/block`: a disk, or why it is none. `volumes`: one of these will do, too.
fn look(roots: &Roots, name: &str, identity: &Identity, size: u64, volumes: bool) -> Result<Disk, Why> {
    let folder = roots.block(name);
    let leave = |reason: &str, boot_medium| Why { reason: reason.to_owned(), boot_medium };
    let has_our_medium = || medium::carries_boot_medium(&roots.node(name)).unwrap_or(false);

    if let Some((reason, volume)) = class_of_no_disk(name)
        && !(volume && volumes)
    {
        let optical = name.starts_with("sr") && has_our_medium();
        return Err(leave(if optical { "boot medium (optical)" } else { reason }, optical));
    }
    let device = fs::canonicalize(&folder).unwrap_or_else(|_| folder.clone());
    let virtuals = roots.sys.canonicalize().unwrap_or_default().join("devices/virtual/block");
    if device.starts_with(virtuals) && !volumes {
        return Err(leave("virtual device", false));
    }
    if number(&folder.join("hidden")) == Some(1) {
        return Err(leave("hidden path of a multipath device", false));
    }
    if size == 0 {
        return Err(leave("no medium", false));
    }
    let number_of = attribute(&folder.join("dev")).and_then(|text| DeviceNumber::parse(&text));
    let Some(device_number) = number_of else {
        return Err(leave("no device number in sysfs", false));
    };
    let sector = number(&folder.join("queue/logical_block_size")).unwrap_or(512);
    let Some(sector) = u32::try_from(sector).ok().and_then(|bytes| SectorSize::try_from(bytes).ok()) else {
        return Err(leave(&format!("sectors of {sector} bytes are not supported"), false));
    };
    if has_our_medium() {
        return Err(leave("boot medium (a disk or USB stick that carries the Gantry image)", true));
    }
    let physical =
        number(&folder.join("queue/physical_block_size")).and_then(|bytes| u32::try_from(bytes).ok());
    let (transport, driver) = names::attachment(roots, name);
    Ok(Disk {
        name: name.to_owned(),
        identity: identity.clone(),
        number: device_number,
        size,
        sector,
        physical_sector: physical.unwrap_or(sector.bytes()),
        transport,
        driver,
        read_only: number(&folder.join("ro")) == Some(1),
        removable: number(&folder.join("removable")) == Some(1),
    })
}

/// Devices that are no disks of a machine, whatever their size: what they are, and whether they are volumes.
fn class_of_no_disk(name: &str) -> Option<(&'static str, bool)> {
    let numbered = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let table: &[(&str, &str, bool)] = &[
        ("loop", "loop device", true),
        ("ram", "RAM disk", true),
        ("zram", "compressed RAM disk", true),
        ("sr", "optical drive", false),
        ("fd", "floppy drive", false),
        ("dm-", "device-mapper device", true),
        ("md", "md array", true),
        ("nbd", "network block device", true),
        ("bcache", "bcache device", true),
        ("drbd", "DRBD device", true),
        ("rbd", "Ceph block device", true),
        ("zd", "ZFS volume", true),
        ("mtdblock", "flash partition", false),
    ];
    if name.starts_with("mmcblk") && (name.contains("boot") || name.ends_with("rpmb")) {
        return Some(("boot area of an eMMC", false));
    }
    if name.starts_with("md_") {
        return Some(("md array", true));
    }
    table.iter().find(|(prefix, ..)| numbered(prefix)).map(|(_, what, volume)| (*what, *volume))
}

/// A partition of a disk as the kernel sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelPartition {
    /// "sda1".
    pub name: String,
    /// Its node's number.
    pub number: DeviceNumber,
    /// Its folder in sysfs.
    pub(crate) folder: PathBuf,
}

/// The partitions the kernel has made for the disk called `name`.
pub fn partitions(roots: &Roots, name: &str) -> Vec<KernelPartition> {
    let folder = roots.block(name);
    names_in(&folder)
        .into_iter()
        .filter(|entry| folder.join(entry).join("partition").exists())
        .filter_map(|entry| {
            let folder = folder.join(&entry);
            let number = DeviceNumber::parse(&attribute(&folder.join("dev"))?)?;
            Some(KernelPartition { name: entry, number, folder })
        })
        .collect()
}

#[cfg(test)]
mod tests;
