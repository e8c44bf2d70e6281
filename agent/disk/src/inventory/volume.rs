//! Volumes: block devices that are no disks of this machine, but are named by a person.

use std::fs;
use std::path::Path;

use super::{DeviceNumber, Disk, Inventory, look, names, select};
use crate::error::{DiskError, ErrorKind, Result};
use crate::roots::{Roots, number};

/// What `name` means: a disk by the rules of `select`, or a volume by its path.
///
/// # Errors
/// Those of `select`; `Unsuitable` for a block device that is neither: a partition, a boot medium, a drive without a medium.
pub fn named(roots: &Roots, inventory: &Inventory, name: &str) -> Result<Disk> {
    let missing = match select(&inventory.disks, name) {
        Ok(disk) => return Ok(disk.clone()),
        Err(error) => error,
    };
    match DeviceNumber::of_node(Path::new(name.trim())) {
        Some(number) if missing.kind == ErrorKind::Missing => numbered(roots, number).map_err(|why| {
            DiskError::new(ErrorKind::Unsuitable, name, format!("this cannot be used: {why}"))
        }),
        _ => Err(missing),
    }
}

/// The volume with this number, or why it is none.
fn numbered(roots: &Roots, device: DeviceNumber) -> Result<Disk, String> {
    let link = roots.sys.join(format!("dev/block/{}:{}", device.major, device.minor));
    let folder = fs::canonicalize(&link).map_err(|error| format!("{}: {error}", link.display()))?;
    let name_of = |folder: &Path| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name_of(&folder);
    if folder.join("partition").exists() {
        let disk = roots.node(&folder.parent().map(name_of).unwrap_or_default());
        return Err(format!("it is a partition; name the whole disk, {}", disk.display()));
    }
    let identity = names::identity(roots, &name, roots.node(&name).display().to_string());
    let size = number(&roots.block(&name).join("size")).unwrap_or(0).saturating_mul(512);
    look(roots, &name, &identity, size, true).map_err(|why| why.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{fake::Machine, scan};

    fn device(machine: &Machine, major: u32, minor: u32) -> Result<Disk, String> {
        numbered(&machine.roots, DeviceNumber { major, minor })
    }

    #[test]
    fn a_volume_is_an_end_only_by_name() {
        let machine = Machine::new();
        for (name, number) in [("loop0", "7:0"), ("md127", "9:127"), ("zd16", "230:16"), ("ublkb0", "259:9")]
        {
            machine.device(name, "virtual", number, 2048);
        }
        let dm = machine.device("dm-3", "virtual", "252:3", 2048);
        machine.put(&format!("{dm}/dm/name"), "vg0-srv\n");
        machine.put(&format!("{dm}/dm/uuid"), "LVM-abc\n");
        machine.put("dev/mapper/vg0-srv", "");
        assert_eq!(scan(&machine.roots).unwrap().disks, []);
        for (major, minor, node) in [
            (7, 0, "loop0"),
            (9, 127, "md127"),
            (230, 16, "zd16"),
            (259, 9, "ublkb0"),
            (252, 3, "mapper/vg0-srv"),
        ] {
            let disk = device(&machine, major, minor).unwrap();
            assert_eq!(disk.identity.path, machine.roots.dev.join(node).display().to_string());
            assert_eq!(disk.size, 1 << 20);
        }
        assert_eq!(device(&machine, 252, 3).unwrap().identity.serial, "LVM-abc", "its number may change");
    }

    #[test]
    fn what_is_neither_disk_nor_volume_says_so() {
        let machine = Machine::new();
        let disk = machine.ata("sda", "8:0", "QM1");
        machine.partition(&disk, "sda2", "8:2");
        machine.device("sr0", "pci0000:00/ata2", "11:0", 8);
        machine.device("loop5", "virtual", "7:5", 0);
        let why = |major, minor| device(&machine, major, minor).unwrap_err();
        let whole = machine.roots.dev.join("sda").display().to_string();
        assert_eq!(why(8, 2), format!("it is a partition; name the whole disk, {whole}"));
        assert_eq!(why(11, 0), "optical drive");
        assert_eq!(why(7, 5), "no medium");
        assert!(why(99, 0).contains("99:0"));
    }
}
