//! Whether this machine is using a disk right now, and how much has been written to it.
//!
//! A disk is in use when it, one of its partitions, or a device stacked on one of these (dm, md, bcache: sysfs
//! `holders`, followed to the top) is mounted, is swap, backs a loop device, or belongs to a mounted btrfs. ZFS and
//! others that claim a device without leaving a trace in sysfs are caught by [`claimed`].

mod counter;
mod mounts;

use std::collections::VecDeque;
use std::fmt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub use counter::{WriteCounter, write_counter};
pub(crate) use mounts::mount_sources;
use serde::{Deserialize, Serialize};

use crate::error::{DiskError, ErrorKind, Result};
use crate::inventory::{DeviceNumber, Disk, partitions};
use crate::roots::{Roots, attribute, names_in};

/// One way in which a disk is in use. `device` is the node that is used: the disk, a partition or a device on top.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Use {
    /// A filesystem on it is mounted.
    Mounted {
        /// The node in use.
        device: String,
        /// Where.
        at: String,
    },
    /// The kernel swaps to it.
    Swap {
        /// The node in use.
        device: String,
    },
    /// Another block device is built on it.
    Held {
        /// The node in use.
        device: String,
        /// What holds it: "md array md0", "device-mapper volume vg-root".
        by: String,
    },
    /// A loop device is attached to it.
    Loop {
        /// The node in use.
        device: String,
        /// The loop device.
        by: String,
    },
    /// It cannot be opened exclusively, and sysfs does not say why.
    Claimed {
        /// The node in use.
        device: String,
    },
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { device, at } => write!(f, "{device} is mounted on {at}"),
            Self::Swap { device } => write!(f, "{device} is used as swap"),
            Self::Held { device, by } => write!(f, "{device} is part of {by}"),
            Self::Loop { device, by } => write!(f, "{device} is attached to {by}"),
            Self::Claimed { device } => {
                write!(f, "{device} is claimed by something that sysfs does not name (ZFS, another copy?)")
            }
        }
    }
}

/// Everything that uses `disk` now; empty when it is free. Needs no privilege.
pub fn in_use(roots: &Roots, disk: &Disk) -> Result<Vec<Use>> {
    let mut uses = Vec::new();
    uses_of(roots, &mounts::Mounts::read(roots)?, &disk.name, &mut uses);
    Ok(uses)
}

/// What uses an image file: loop devices on it, and what uses those. One that only reads does another reader no harm.
pub fn file_in_use(roots: &Roots, file: &Path, only_read: bool) -> Result<Vec<Use>> {
    let mounts = mounts::Mounts::read(roots)?;
    let mut uses = Vec::new();
    for by in mounts.loops_on(file) {
        if only_read && attribute(&roots.block(&by).join("ro")).as_deref() == Some("1") {
            continue;
        }
        uses.push(Use::Loop { device: file.display().to_string(), by: by.clone() });
        uses_of(roots, &mounts, &by, &mut uses);
    }
    Ok(uses)
}

/// What uses the device with this name in `/sys/block`, its partitions, and what is built on them.
fn uses_of(roots: &Roots, mounts: &mounts::Mounts, name: &str, uses: &mut Vec<Use>) {
    let mut seen = vec![name.to_owned()];
    let mut queue = VecDeque::from([name.to_owned()]);
    while let Some(name) = queue.pop_front() {
        let mut layers = vec![(name.clone(), number_of(roots, &name), roots.block(&name))];
        layers.extend(
            partitions(roots, &name).into_iter().map(|part| (part.name, Some(part.number), part.folder)),
        );
        for (layer, number, folder) in layers {
            let device = roots.node(&layer).display().to_string();
            mounts.uses_of(&layer, number, &device, uses);
            for holder in names_in(&folder.join("holders")) {
                uses.push(Use::Held { device: device.clone(), by: holder_words(roots, &holder) });
                // A chain of holders cannot be a loop, but a made-up or racing sysfs may look like one.
                if !seen.contains(&holder) {
                    seen.push(holder.clone());
                    queue.push_back(holder);
                }
            }
        }
    }
}

fn number_of(roots: &Roots, name: &str) -> Option<DeviceNumber> {
    DeviceNumber::parse(&attribute(&roots.block(name).join("dev"))?)
}

fn holder_words(roots: &Roots, holder: &str) -> String {
    let folder = roots.block(holder);
    if let Some(name) = attribute(&folder.join("dm/name")) {
        return format!("device-mapper volume {name} ({holder})");
    }
    if holder.starts_with("md") {
        return format!("md array {holder}");
    }
    holder.to_owned()
}

/// Whether something has claimed the disk or a partition of it: an exclusive open fails with EBUSY. Nothing is read.
///
/// # Errors
/// The errors of opening: usually no permission.
pub fn claimed(path: &Path) -> Result<bool> {
    let opened =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(path);
    match opened {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(true),
        Err(error) => Err(DiskError::io(path.display().to_string(), "opening exclusively", error)),
    }
}

/// [`in_use`], with [`claimed`] asked when sysfs shows nothing. What is asked before a source is opened.
pub fn free_or_why(roots: &Roots, disk: &Disk) -> Result<Vec<Use>> {
    let mut uses = in_use(roots, disk)?;
    if uses.is_empty() && claimed(Path::new(&disk.identity.path))? {
        uses.push(Use::Claimed { device: disk.identity.path.clone() });
    }
    Ok(uses)
}

impl Use {
    /// What a person does to end it.
    fn remedy(&self) -> String {
        match self {
            Self::Mounted { at, .. } => format!("umount {}", quoted(at)),
            Self::Swap { device } => format!("swapoff {device}"),
            Self::Held { by, .. } => match by.strip_prefix("md array ") {
                Some(array) => format!("mdadm --stop /dev/{array}"),
                None if by.starts_with("device-mapper") => format!("vgchange -an or dmsetup remove for {by}"),
                None => format!("stop or unmount {by}"),
            },
            Self::Loop { by, .. } => format!("losetup -d /dev/{by}"),
            Self::Claimed { device } => format!("stop what claims {device} (zpool export?)"),
        }
    }

    /// The running system stands on it: it cannot be ended while that runs.
    fn is_vital(&self) -> bool {
        matches!(self, Self::Mounted { at, .. } if ["/", "/usr", "/var"].contains(&at.as_str()))
    }
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+@:".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// An `InUse` error that names every use, and what to do about it: the topmost use is the first to be ended.
pub fn refusal(name: &str, uses: &[Use]) -> DiskError {
    let list = uses.iter().map(Use::to_string).collect::<Vec<_>>().join("; ");
    let remedy = if uses.iter().any(Use::is_vital) {
        "this system runs from it: boot this machine from the Gantry medium".to_owned()
    } else {
        let steps = uses.iter().rev().map(Use::remedy).collect::<Vec<_>>().join(", then ");
        format!("free it ({steps}), or boot this machine from the Gantry medium")
    };
    DiskError::new(ErrorKind::InUse, name, format!("the disk is in use: {list}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{fake::Machine, scan};

    fn words(machine: &Machine) -> Vec<String> {
        let disk = scan(&machine.roots).unwrap().disks.remove(0);
        let dev = format!("{}/", machine.roots.dev.display());
        in_use(&machine.roots, &disk).unwrap().iter().map(|used| used.to_string().replace(&dev, "")).collect()
    }

    fn with_partitions() -> Machine {
        let machine = Machine::new();
        let disk = machine.ata("sda", "8:0", "QM1");
        machine.partition(&disk, "sda1", "8:1");
        machine.partition(&disk, "sda2", "8:2");
        machine
    }

    #[test]
    fn a_free_disk_is_free() {
        assert_eq!(words(&with_partitions()), Vec::<String>::new());
    }

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let machine = with_partitions();
        let dev = machine.roots.dev.display();
        machine.put(
            "proc/self/mountinfo",
            format!(
                "30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
                 31 1 8:17 / /other rw - ext4 /dev/sdb1 rw\n\
                 32 1 0:44 /@home /home\\040dir rw - btrfs {dev}/sda2 rw\n"
            ),
        );
        assert_eq!(words(&machine), ["sda1 is mounted on /", "sda2 is mounted on /home dir"]);
    }

    #[test]
    fn every_member_of_a_mounted_btrfs_is_in_use() {
        let machine = with_partitions();
        machine.put("proc/self/mountinfo", "32 1 0:44 / /srv rw - btrfs /dev/sdz rw\n");
        machine.put("sys/fs/btrfs/1234-uuid/devices/sda2/dev", "8:2\n");
        assert_eq!(words(&machine), ["sda2 is part of the mounted btrfs 1234-uuid"]);
    }

    #[test]
    fn swap_and_loop_devices_count() {
        let machine = with_partitions();
        let dev = machine.roots.dev.display().to_string();
        machine
            .put("proc/swaps", format!("Filename Type Size Used Priority\n{dev}/sda2 partition 100 0 -2\n"));
        machine.device("loop3", "virtual", "7:3", 8);
        machine.put("sys/devices/virtual/block/loop3/loop/backing_file", format!("{dev}/sda1\n"));
        let mut words = words(&machine);
        words.sort();
        assert_eq!(words, ["sda1 is attached to loop3", "sda2 is used as swap"]);
    }

    #[test]
    fn holders_are_followed_to_the_mount_at_the_top() {
        let machine = with_partitions();
        let dev = machine.roots.dev.display().to_string();
        machine.put("sys/block/sda/sda2/holders/md0", "");
        let md = machine.device("md0", "virtual", "9:0", 8);
        machine.put(&format!("{md}/holders/dm-0"), "");
        let dm = machine.device("dm-0", "virtual", "252:0", 8);
        machine.put(&format!("{dm}/dm/name"), "vg-root\n");
        machine.put(&format!("{dm}/holders/md0"), "");
        machine.put("proc/self/mountinfo", "30 1 252:0 / / rw - ext4 /dev/mapper/vg-root rw\n");
        let words = words(&machine);
        assert_eq!(words[0], "sda2 is part of md array md0");
        assert_eq!(words[1], "md0 is part of device-mapper volume vg-root (dm-0)");
        assert_eq!(words[2], "dm-0 is mounted on /", "{dev}");
    }

    #[test]
    fn a_refusal_says_what_to_do_and_in_which_order() {
        let disk = scan(&with_partitions().roots).unwrap().disks.remove(0);
        let words = |uses: &[Use]| refusal(&disk.identity.path, uses).operation;
        let device = || "/dev/sda2".to_owned();
        let held = Use::Held { device: device(), by: "device-mapper volume vg-srv (dm-0)".to_owned() };
        let mounted = |at: &str| Use::Mounted { device: "/dev/mapper/vg-srv".to_owned(), at: at.to_owned() };
        assert_eq!(
            words(&[held.clone(), mounted("/srv/it's")]),
            "the disk is in use: /dev/sda2 is part of device-mapper volume vg-srv (dm-0); /dev/mapper/vg-srv is mounted on \
             /srv/it's; free it (umount '/srv/it'\\''s', then vgchange -an or dmsetup remove for device-mapper volume \
             vg-srv (dm-0)), or boot this machine from the Gantry medium"
        );
        for (used, step) in [
            (Use::Swap { device: device() }, "(swapoff /dev/sda2)"),
            (Use::Loop { device: device(), by: "loop3".to_owned() }, "(losetup -d /dev/loop3)"),
            (Use::Held { device: device(), by: "md array md0".to_owned() }, "(mdadm --stop /dev/md0)"),
            (Use::Claimed { device: device() }, "zpool export"),
        ] {
            assert!(words(&[used]).contains(step), "{step}");
        }
        let root = words(&[held, mounted("/")]);
        assert!(root.ends_with("runs from it: boot this machine from the Gantry medium"), "{root}");
    }

    #[test]
    fn a_node_that_is_not_there_is_an_error_and_a_file_is_not_claimed() {
        assert!(claimed(Path::new("/nonexistent/disk")).is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!claimed(file.path()).unwrap());
    }

    /// Needs root: the negative control of [`claimed`].
    #[test]
    fn a_device_that_somebody_has_taken_is_claimed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let device = crate::loops::Loop::attach(file.path(), crate::loops::Shown::default()).unwrap();
        assert!(!claimed(device.node()).unwrap());
        let taken = crate::BlockDevice::open_target(device.node(), crate::Identity::default()).unwrap();
        assert!(claimed(device.node()).unwrap());
        drop(taken);
        assert!(!claimed(device.node()).unwrap());
    }
}
