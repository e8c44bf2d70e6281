//! The replica's disks as facts: tables, contents, boot code, hibernation images.

use std::os::unix::fs::FileExt;
use std::path::Path;

use gantry_disk::blkid;
use gantry_disk::peek::Peek;
use gantry_disk::table::{self, Kind, Table};
use gantry_disk::{Geometry, ReadAt};

use crate::error::{During, Error, Result};
use crate::facts::{BootCode, Disk, Partition, TableKind};

/// Signatures of a suspended system where a swap area has SWAPSPACE2: in-kernel (old and new), uswsusp, its compressed form.
pub const HIBERNATION: &[&str] = &["S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001"];
/// The swap signature ends a page of this size (x86).
pub const PAGE: u64 = 4096;
/// Bytes of the signature at the page's end.
pub const SIGNATURE: usize = 10;

/// Reads what lies on a disk or image.
pub fn read(node: &Path) -> Result<Disk> {
    let disk = Peek::open(node)?;
    let found = table::read(&disk)?;
    let mut facts = Disk {
        size: disk.size(),
        sector_size: disk.sector_size().bytes(),
        boot_code: boot_code(&disk)?,
        ..Disk::default()
    };
    if let Some(found) = found {
        facts.table = Some(match found.kind {
            Kind::Gpt => TableKind::Gpt,
            Kind::Mbr => TableKind::Mbr,
        });
        facts.id.clone_from(&found.id);
        facts.partitions = partitions(node, &found)?;
    }
    Ok(facts)
}

fn partitions(node: &Path, table: &Table) -> Result<Vec<Partition>> {
    let usable = table.partitions.iter().filter(|p| !p.container && p.length > 0);
    usable
        .map(|p| {
            let probe = blkid::probe(node, p.start, p.length)?;
            Ok(Partition {
                number: p.number,
                start: p.start,
                length: p.length,
                kind: p.type_id.clone(),
                partuuid: p.uuid.clone(),
                name: p.name.clone(),
                hibernation: hibernation(node, p.start)?,
                content: probe.kind,
                uuid: probe.uuid,
                label: probe.label,
            })
        })
        .collect()
}

/// The signature of a hibernation image in the swap area that begins at `start` of a disk or file.
pub fn hibernation(node: &Path, start: u64) -> Result<Option<String>> {
    let mut signature = [0_u8; SIGNATURE];
    let file = std::fs::File::open(node).during(|| format!("opening {}", node.display()))?;
    match file.read_exact_at(&mut signature, start + PAGE - SIGNATURE as u64) {
        Ok(()) => Ok(hibernation_signature(&signature)),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(Error::io(format!("reading the swap signature on {}", node.display()), e)),
    }
}

/// The name of a hibernation signature, when it is one.
pub fn hibernation_signature(signature: &[u8]) -> Option<String> {
    let text: String = signature.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect();
    HIBERNATION.iter().find(|known| text == **known).map(|known| (*known).to_string())
}

/// What a BIOS would start. Offsets are those of GRUB's boot.S: the word at 0x5C is the first sector of the core image.
fn boot_code(disk: &Peek) -> Result<BootCode> {
    let mut sector = [0_u8; 512];
    if disk.size() < 1024 {
        return Ok(BootCode::None);
    }
    disk.read_at(0, &mut sector)?;
    if sector[510..] != [0x55, 0xAA] || sector[..440].iter().all(|b| *b == 0) {
        return Ok(BootCode::None);
    }
    if !sector.windows(5).any(|w| w == b"GRUB ") {
        return Ok(BootCode::Other);
    }
    let mut word = [0; 8];
    word.copy_from_slice(&sector[0x5C..0x64]);
    let core_sector = u64::from_le_bytes(word);
    let mut core = [0_u8; 512];
    let inside = core_sector.checked_mul(512).filter(|o| *o >= 512 && o.saturating_add(512) <= disk.size());
    if let Some(offset) = inside {
        disk.read_at(offset, &mut core)?;
    }
    // diskboot.S says so while it loads the rest.
    let core_present = core.windows(7).any(|w| w == b"loading");
    Ok(BootCode::Grub { core_sector, core_present })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_of_suspended_systems_are_known() {
        assert_eq!(hibernation_signature(b"S1SUSPEND\0").as_deref(), Some("S1SUSPEND"));
        assert_eq!(hibernation_signature(b"LINHIB0001").as_deref(), Some("LINHIB0001"));
        assert_eq!(hibernation_signature(b"SWAPSPACE2"), None);
        assert_eq!(hibernation_signature(&[0; 10]), None);
    }
}
