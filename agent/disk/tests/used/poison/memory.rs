//! A disk in memory that can be damaged.

use std::path::Path;
use std::sync::Mutex;

use gantry_disk::used::{Doubt, Ranges, Window};
use gantry_disk::{DiskError, ErrorKind, Geometry, Identity, ReadAt, SectorSize};

use super::{Random, Subject};

/// The bytes of a disk.
pub struct Memory {
    pub bytes: Vec<u8>,
    identity: Identity,
    read: Mutex<Ranges>,
}

impl Memory {
    /// A disk with these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        let identity = Identity { path: "memory".to_owned(), ..Identity::default() };
        Self { bytes, identity, read: Mutex::default() }
    }
}

impl Geometry for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn sector_size(&self) -> SectorSize {
        SectorSize::B512
    }
    fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadAt for Memory {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), DiskError> {
        self.check(offset, buffer.len() as u64, "reading")?;
        self.read.lock().unwrap().insert(offset..offset + buffer.len() as u64);
        let start = usize::try_from(offset).unwrap();
        let Some(bytes) = self.bytes.get(start..start + buffer.len()) else {
            return Err(DiskError::new(ErrorKind::Range, "memory", "reading"));
        };
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// How much is damaged.
pub enum Damage {
    /// One bit.
    Bit,
    /// Up to 512 bytes become random.
    Bytes,
}

/// All that a mapper reads of an image.
pub fn looked_at(subject: &dyn Subject, image: &Path) -> Ranges {
    let disk = Memory::new(std::fs::read(image).unwrap());
    subject.map(&Window::whole(&disk)).unwrap();
    disk.read.into_inner().unwrap()
}

/// Damages copies of an image `times` at places in `areas` and maps each. A map of a damaged filesystem must hold all
/// that the map of the sound one holds; most are doubts. How many maps and how many doubts there were.
pub fn damage(
    subject: &dyn Subject,
    image: &Path,
    random: &mut Random,
    damage: &Damage,
    areas: &Ranges,
    times: u64,
) -> (u64, u64) {
    let mut disk = Memory::new(std::fs::read(image).unwrap());
    let sound = subject.map(&Window::whole(&disk)).unwrap();
    let (mut maps, mut doubts) = (0, 0);
    for _ in 0..times {
        let at = place(random, areas);
        let length = match damage {
            Damage::Bit => 1,
            Damage::Bytes => (1 + random.below(512) as usize).min(disk.bytes.len() - at),
        };
        let before = disk.bytes[at..at + length].to_vec();
        for byte in &mut disk.bytes[at..at + length] {
            *byte = match damage {
                Damage::Bit => *byte ^ 1 << random.below(8),
                Damage::Bytes => random.next() as u8,
            };
        }
        let found: Result<Ranges, Doubt> = subject.map(&Window::whole(&disk));
        match found {
            Ok(map) => {
                let lost = map.complement(disk.size()).find(|gap| sound.touches(gap.clone()));
                assert!(lost.is_none(), "{length} bytes damaged at {at}: the map lost something in {lost:?}");
                maps += 1;
            }
            Err(_) => doubts += 1,
        }
        disk.bytes[at..at + length].copy_from_slice(&before);
    }
    (maps, doubts)
}

/// A byte in the areas, each area as likely as the others.
fn place(random: &mut Random, areas: &Ranges) -> usize {
    let index = random.below(areas.count() as u64) as usize;
    let area = areas.iter().nth(index).unwrap();
    (area.start + random.below(area.end - area.start)) as usize
}
