//! Facts about one disk or image file.

use std::path::Path;

use gantry_disk::blkid::{Area, probe_area, signatures};
use gantry_disk::inventory::Disk;
use gantry_disk::label::HEAD;
use gantry_disk::peek::Peek;
use gantry_disk::pending::Trace;
use gantry_disk::roots::Roots;
use gantry_disk::table::{self, type_name};
use gantry_disk::{DiskError, ErrorKind, Geometry, ReadAt, SectorSize, usage};

use super::facts::{DiskFacts, PartitionFacts, Sources, TableFacts, Unreadable};

/// A disk of this machine: from sysfs, and from the disk itself as far as it can be opened.
pub fn of_machine(sources: &Sources, disk: &Disk) -> DiskFacts {
    let identity = &disk.identity;
    let mut facts = DiskFacts {
        path: identity.path.clone(),
        serial: identity.serial.clone(),
        wwn: identity.wwn.clone(),
        model: identity.model.clone(),
        size: disk.size,
        sector: disk.sector.bytes(),
        physical_sector: disk.physical_sector,
        transport: Some(disk.transport),
        driver: disk.driver.clone(),
        removable: disk.removable,
        read_only: disk.read_only,
        // Without /proc nobody knows; the rules then see a disk that nobody uses, which blocks nothing here.
        uses: usage::in_use(&sources.roots, disk).unwrap_or_default(),
        ..DiskFacts::default()
    };
    let content = Peek::open(Path::new(&identity.path)).and_then(|peek| read_content(&peek, &mut facts));
    if let Err(error) = content {
        facts.unreadable = Some(unreadable(&error));
    }
    facts
}

/// An image file, or a device that is no disk of this machine.
pub fn of_path(path: &Path) -> anyhow::Result<DiskFacts> {
    let peek = Peek::open(path)?;
    let mut facts = DiskFacts {
        path: path.display().to_string(),
        size: peek.size(),
        sector: peek.sector_size().bytes(),
        physical_sector: peek.sector_size().bytes(),
        uses: usage::file_in_use(&Roots::default(), path, true).unwrap_or_default(),
        ..DiskFacts::default()
    };
    if let Err(error) = read_content(&peek, &mut facts) {
        facts.unreadable = Some(unreadable(&error));
    }
    Ok(facts)
}

fn unreadable(error: &DiskError) -> Unreadable {
    let source = error.source.as_ref();
    let permission = source.is_some_and(|source| source.kind() == std::io::ErrorKind::PermissionDenied);
    let reason = source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    Unreadable { permission, reason }
}

fn read_content(peek: &Peek, facts: &mut DiskFacts) -> gantry_disk::Result<()> {
    let path = Path::new(&peek.identity().path);
    if peek.size() < 512 {
        return Ok(());
    }
    let mut first = [0; 512];
    peek.read_at(0, &mut first)?;
    facts.boot_code = first[510..] == [0x55, 0xaa] && first[..3] != [0; 3];
    let mut head = vec![0; HEAD.min(peek.size() as usize)];
    peek.read_at(0, &mut head)?;
    facts.unfinished = Trace::read(&head).is_some();
    match table::read(peek) {
        Ok(Some(table)) => {
            for part in table.partitions.iter().filter(|part| !part.container) {
                let area = Area { offset: part.start, length: part.length, sector: sector_of(peek) };
                facts.partitions.push(PartitionFacts {
                    number: part.number,
                    start: part.start,
                    length: part.length,
                    type_id: part.type_id.clone(),
                    type_name: type_name(&part.type_id).to_owned(),
                    uuid: part.uuid.clone(),
                    name: part.name.clone(),
                    bootable: part.bootable,
                    // A partition beyond the disk's end is a fault of the table, and is told as such.
                    content: probe_area(path, area).unwrap_or_default(),
                });
            }
            facts.table = Some(TableFacts { kind: table.kind, id: table.id, faults: table.faults });
        }
        Ok(None) => {}
        Err(error) if error.kind == ErrorKind::Unsuitable => facts.bad_table = Some(error.operation),
        Err(error) => return Err(error),
    }
    let area = Area { sector: sector_of(peek), ..Area::default() };
    facts.signatures =
        signatures(path, area)?.into_iter().filter(|found| found.usage != "partition table").collect();
    Ok(())
}

/// libblkid asks devices itself; of a file it must be told.
fn sector_of(peek: &Peek) -> Option<SectorSize> {
    (!peek.is_device()).then_some(peek.sector_size())
}
