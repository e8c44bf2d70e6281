//! What a source says about its zeroes spares reading it; what a target says is never asked for.
#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::sync::Arc;

use gantry_disk::{
    BadSectors, DiskError, ErrorKind, Extent, Geometry, Identity, ImageFile, ReadAt, Result, SectorSize,
    WriteAt,
};
use gantry_replicate::Events;
use gantry_replicate::local::{CopyOptions, copy, verify};
use gantry_replicate::throttle::Throttle;

use lab::{MIB, NoRepair};

/// An image that cannot be read in `[2 MiB + 100, 4 MiB + 100)`, and may say that these bytes are zero.
struct Half {
    image: ImageFile,
    says_so: bool,
}

const ZERO: std::ops::Range<u64> = 2 * MIB + 100..4 * MIB + 100;

impl Geometry for Half {
    fn size(&self) -> u64 {
        self.image.size()
    }
    fn sector_size(&self) -> SectorSize {
        self.image.sector_size()
    }
    fn identity(&self) -> &Identity {
        self.image.identity()
    }
}

impl ReadAt for Half {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        // Chunks with an edge of the range are read as a whole, so only the one inside must not be.
        if offset == 3 * MIB {
            return Err(DiskError::new(ErrorKind::Io, "half", "reading what is known to be zero").at(offset));
        }
        self.image.read_at(offset, buffer)
    }
    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        let zero = |at| self.says_so && ZERO.contains(&at);
        let borders = [offset, ZERO.start, ZERO.end, offset + length];
        let pairs = borders.windows(2).filter(|pair| pair[0] < pair[1]);
        Ok(pairs.map(|p| Extent { offset: p[0], length: p[1] - p[0], zero: zero(p[0]) }).collect())
    }
}

impl WriteAt for Half {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.image.write_at(offset, data)
    }
    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.image.zero_at(offset, length)
    }
    fn flush(&self) -> Result<()> {
        self.image.flush()
    }
}

fn half(folder: &std::path::Path, name: &str, says_so: bool) -> Half {
    let image = ImageFile::create(&folder.join(name), 6 * MIB).unwrap();
    image.write_at(0, &vec![1; 6 * MIB as usize]).unwrap();
    image.zero_at(ZERO.start, ZERO.end - ZERO.start).unwrap();
    Half { image, says_so }
}

fn options() -> CopyOptions {
    CopyOptions {
        base: false,
        whole: false,
        bad_sectors: BadSectors::Stop,
        throttle: Throttle::unlimited(),
        machine: String::new(),
        software: String::new(),
    }
}

#[test]
fn zeroes_that_are_known_are_not_read_and_arrive() {
    let folder = tempfile::tempdir().unwrap();
    let source = half(folder.path(), "source", true);
    let target = || {
        let image = ImageFile::create(&folder.path().join("target"), 6 * MIB).unwrap();
        image.write_at(0, &vec![0xee; 6 * MIB as usize]).unwrap();
        Arc::new(image)
    };
    let source = Arc::new(source);
    let report = copy(source.clone(), target(), &options(), &NoRepair, &Events::nowhere()).unwrap();
    let image = ImageFile::open_source(&folder.path().join("target")).unwrap();
    let found = verify(&source.image, &image, true, &Events::nowhere()).unwrap();
    assert_eq!(found.differing, 0, "{found:?}");
    assert_eq!(found.first, report.disks[0].root, "the root counts them as zeroes");

    std::fs::remove_file(folder.path().join("target")).unwrap();
    let silent = Half { says_so: false, ..Arc::into_inner(source).unwrap() };
    let error = copy(Arc::new(silent), target(), &options(), &NoRepair, &Events::nowhere()).unwrap_err();
    assert!(format!("{error:#}").contains("known to be zero"), "{error:#}");
}

#[test]
fn a_target_is_read_back_whatever_it_says_about_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let source = ImageFile::create(&folder.path().join("source"), 6 * MIB).unwrap();
    let target = Arc::new(half(folder.path(), "target", true));
    let error = copy(Arc::new(source), target, &options(), &NoRepair, &Events::nowhere()).unwrap_err();
    assert!(format!("{error:#}").contains("at byte 3145728"), "{error:#}");
}
