//! The next start goes to the finished disk: UEFI's BootNext.
//!
//! The boot medium is often first in the boot order and stays attached, so the order alone would start the appliance
//! again. BootNext names one entry for one start, and wins over the order. The entry names the replica's own shim in
//! \EFI\debian, not the fallback path: there fbx64.efi could lie beside it and reset once more (B-26, B-26a). It is also
//! appended to BootOrder, so that the disk starts once the medium is gone.

pub mod device_path;
mod efivars;
pub mod load_option;

use std::fmt;
use std::path::Path;

use gantry_disk::loops::{Loop, Shown};
use gantry_disk::peek::Peek;
use gantry_disk::table::{self, ESP, Kind, Partition};
use gantry_disk::{Geometry, SectorSize};

use self::device_path::{HardDrive, Signature};
use self::efivars::EfiVars;
use self::load_option::LoadOption;
use crate::error::{During, Error, Result};
use crate::mounts::{self, Mounts};
use crate::root::GuestRoot;

/// What was prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handover {
    /// This machine was not started by UEFI: there is nothing to set.
    NotUefi,
    /// BootNext names this entry.
    Entry {
        /// The XXXX of BootXXXX.
        number: u16,
        /// What it starts, as firmware writes it.
        loader: String,
        /// It was there already.
        existed: bool,
    },
}

impl fmt::Display for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUefi => write!(f, "started by BIOS: no boot entry to set"),
            Self::Entry { number, loader, existed } => {
                let how = if *existed { "known" } else { "new" };
                write!(f, "the next start is Boot{number:04X} ({how}): {loader}")
            }
        }
    }
}

/// Makes the firmware start the replica on `disk` (a whole-disk node, finished) next.
///
/// # Errors
/// `Replica` when the disk has no EFI system partition or no loader on it; `Io` when variables cannot be written. The disk
/// itself is not written.
pub fn boot_next(disk: &Path) -> Result<Handover> {
    if !Path::new("/sys/firmware/efi").is_dir() {
        return Ok(Handover::NotUefi);
    }
    let peek = Peek::open(disk)?;
    let table = table::read(&peek)?;
    let missing = |w: &str| Error::Replica(format!("{} has no {w}", disk.display()));
    let table = table.ok_or_else(|| missing("partition table"))?;
    let is_esp = |p: &&Partition| p.type_id == ESP || p.type_id == "0xef";
    let esp = table.partitions.iter().find(is_esp).ok_or_else(|| missing("EFI system partition"))?;
    let (name, loader) = loader(disk, esp, peek.sector_size())?;
    let sector = u64::from(peek.sector_size().bytes());
    let signature = match table.kind {
        Kind::Gpt => Signature::gpt(&esp.uuid),
        Kind::Mbr => Signature::mbr(&table.id),
    };
    let drive = HardDrive {
        partition: esp.number,
        start: esp.start / sector,
        blocks: esp.length / sector,
        signature: signature.ok_or_else(|| missing("readable identity"))?,
    };
    let option = LoadOption { description: name, path: device_path::file_on(&drive, &loader) };
    let vars = EfiVars::open(Path::new("/sys/firmware/efi/efivars"))?;
    let (number, existed) = set(&vars, &option)?;
    Ok(Handover::Entry { number, loader, existed })
}

/// Writes the entry, unless it is there, appends it to BootOrder and names it in BootNext.
fn set(vars: &EfiVars, option: &LoadOption) -> Result<(u16, bool)> {
    let wanted = option.encode()?;
    let entries = vars.boot_entries()?;
    let mut known = None;
    for number in &entries {
        if vars.read(&format!("Boot{number:04X}"))?.as_deref() == Some(&wanted) {
            known = Some(*number);
            break;
        }
    }
    let number = match known {
        Some(number) => number,
        None => {
            let free = (0..=u16::MAX).find(|n| !entries.contains(n));
            let free =
                free.ok_or_else(|| Error::Replica(String::from("the firmware has no free boot entry")))?;
            vars.write(&format!("Boot{free:04X}"), &wanted)?;
            free
        }
    };
    let mut order: Vec<u8> = vars.read("BootOrder")?.unwrap_or_default();
    if !order.chunks_exact(2).any(|n| n == number.to_le_bytes()) {
        order.extend(number.to_le_bytes());
        vars.write("BootOrder", &order)?;
    }
    vars.write("BootNext", &number.to_le_bytes())?;
    Ok((number, known.is_some()))
}

/// The loader to start and the name of its entry: (`debian`, `\EFI\debian\shimx64.efi`).
fn loader(disk: &Path, esp: &Partition, sector: SectorSize) -> Result<(String, String)> {
    mounts::apart(|| {
        let base = tempfile::Builder::new()
            .prefix("gantry-esp-")
            .tempdir()
            .during(|| "making a directory to mount at")?;
        let at = base.path().canonicalize().during(|| "finding the directory to mount at")?;
        let shown = Shown {
            offset: esp.start,
            length: esp.length,
            sector: Some(sector),
            read_only: true,
            ..Shown::default()
        };
        let device = Loop::attach(disk, shown)?;
        let mut mounts = Mounts::default();
        mounts.add(device.node(), &at, "vfat", true)?;
        let root = GuestRoot::new(&at)?;
        let chosen = choose(&root);
        drop(root);
        mounts.undo()?;
        chosen?.ok_or_else(|| {
            Error::Replica(format!("{}: the EFI system partition has no loader", disk.display()))
        })
    })
}

/// shim of a vendor, else GRUB of a vendor, else the fallback path.
fn choose(esp: &GuestRoot) -> Result<Option<(String, String)>> {
    let named = |directory: &str, wanted: &str| -> Result<Option<String>> {
        Ok(esp.list(directory)?.into_iter().find(|n| n.eq_ignore_ascii_case(wanted)))
    };
    let Some(efi) = named("/", "efi")? else { return Ok(None) };
    let directories = esp.list(&format!("/{efi}"))?;
    let vendors = || {
        directories.iter().filter(|d| !d.eq_ignore_ascii_case("boot") && !d.eq_ignore_ascii_case("microsoft"))
    };
    for file in ["shimx64.efi", "grubx64.efi"] {
        for vendor in vendors() {
            if let Some(found) = named(&format!("/{efi}/{vendor}"), file)? {
                return Ok(Some((vendor.clone(), format!("\\{efi}\\{vendor}\\{found}"))));
            }
        }
    }
    for boot in directories.iter().filter(|d| d.eq_ignore_ascii_case("boot")) {
        if let Some(found) = named(&format!("/{efi}/{boot}"), "bootx64.efi")? {
            return Ok(Some((String::from("replica"), format!("\\{efi}\\{boot}\\{found}"))));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(name: &str) -> LoadOption {
        LoadOption { description: name.into(), path: vec![0x7f, 0xff, 4, 0] }
    }

    #[test]
    fn an_entry_is_made_once_and_named_for_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let vars = EfiVars::open(directory.path()).unwrap();
        vars.write("Boot0000", &option("firmware's own").encode().unwrap()).unwrap();
        vars.write("BootOrder", &[0, 0]).unwrap();
        assert_eq!(set(&vars, &option("debian")).unwrap(), (1, false));
        assert_eq!(set(&vars, &option("debian")).unwrap(), (1, true), "the second time it is known");
        assert_eq!(
            vars.read("BootOrder").unwrap().unwrap(),
            [0, 0, 1, 0],
            "the order of what was there stays"
        );
        assert_eq!(vars.read("BootNext").unwrap().unwrap(), [1, 0]);
        assert_eq!(vars.boot_entries().unwrap(), [0, 1]);
    }

    #[test]
    fn shim_comes_before_grub_and_both_before_the_fallback() {
        let directory = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let root = GuestRoot::new(&directory.path().canonicalize().unwrap()).unwrap();
        let chosen = || choose(&root).unwrap().map(|(_, loader)| loader);
        assert_eq!(chosen(), None);
        put("EFI/BOOT/BOOTX64.EFI");
        assert_eq!(chosen().as_deref(), Some("\\EFI\\BOOT\\BOOTX64.EFI"));
        put("EFI/debian/grubx64.efi");
        assert_eq!(chosen().as_deref(), Some("\\EFI\\debian\\grubx64.efi"));
        put("EFI/debian/SHIMX64.EFI");
        assert_eq!(chosen().as_deref(), Some("\\EFI\\debian\\SHIMX64.EFI"));
    }
}
