//! What is known of a disk end without reading it: which ranges read as zero.
//!
//! Only positive knowledge counts (law 7): a hole of a file, an extent that an NBD server flags as zero. Everything
//! else is data, and is read.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::end::ReadAt;
use crate::error::{DiskError, ErrorKind, Result};

/// Extents in one answer at most: a file can have a hole in every other block.
pub const MOST: usize = 4096;
/// Bytes that [`walk`] asks about at a time; a multiple of every block size, and NBD can ask for no more than 4 GiB.
const STEP: u64 = 1 << 30;

/// A range of a disk end, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// How long it is; never 0 in an answer.
    pub length: u64,
    /// It is known to read as zero. False: not known, so it counts as data.
    pub zero: bool,
}

impl Extent {
    /// Where it ends: its offset is part of a checked range, so this cannot overflow.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// Appends a range; one that goes on where the last ended, and is of its kind, makes that longer.
pub fn append(extents: &mut Vec<Extent>, next: Extent) {
    match extents.last_mut() {
        Some(last) if last.zero == next.zero && last.end() == next.offset => last.length += next.length,
        _ => extents.push(next),
    }
}

/// All extents of `disk`, asked for piece by piece: memory is bounded by [`MOST`].
pub fn walk(disk: &dyn ReadAt, mut each: impl FnMut(Extent) -> Result<()>) -> Result<()> {
    let size = disk.size();
    let mut at = 0;
    while at < size {
        let before = at;
        for extent in disk.extents(at, STEP.min(size - at))? {
            if extent.offset != at || extent.length > size - at {
                let why = "asking which ranges are zero: the answer has gaps or reaches beyond the end";
                return Err(DiskError::new(ErrorKind::Unsuitable, &disk.identity().path, why).at(at));
            }
            at = extent.end();
            each(extent)?;
        }
        if at == before {
            let why = "asking which ranges are zero: the answer is empty";
            return Err(DiskError::new(ErrorKind::Unsuitable, &disk.identity().path, why).at(at));
        }
    }
    Ok(())
}

/// Data and holes of a file, for [`ReadAt::extents`]. Filesystems without holes show one extent of data.
pub(crate) fn of_file(file: &File, name: &str, offset: u64, length: u64) -> Result<Vec<Extent>> {
    let stop = offset + length;
    let mut extents = Vec::new();
    let mut at = offset;
    while at < stop && extents.len() < MOST {
        let data = seek(file, name, at, Whence::SeekData)?.unwrap_or(stop).clamp(at, stop);
        if data > at {
            append(&mut extents, Extent { offset: at, length: data - at, zero: true });
        }
        if data < stop {
            // A hole that was just called data would bring us back to the same place: it counts as data.
            let hole = seek(file, name, data, Whence::SeekHole)?.unwrap_or(stop).min(stop);
            let hole = if hole > data { hole } else { stop };
            append(&mut extents, Extent { offset: data, length: hole - data, zero: false });
            at = hole;
        } else {
            at = stop;
        }
    }
    Ok(extents)
}

/// The next data or hole; `None` at the end of the file.
fn seek(file: &File, name: &str, from: u64, whence: Whence) -> Result<Option<u64>> {
    let offset = i64::try_from(from).unwrap_or(i64::MAX);
    match lseek(file, offset, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(DiskError::io(name, "looking for holes", io::Error::from(error)).at(from)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::end::{Geometry, Identity, SectorSize, WriteAt};
    use crate::file::ImageFile;

    fn of(disk: &dyn ReadAt) -> Vec<(u64, u64, bool)> {
        let mut found = Vec::new();
        walk(disk, |extent| {
            append(&mut found, extent);
            Ok(())
        })
        .unwrap();
        found.iter().map(|extent| (extent.offset, extent.length, extent.zero)).collect()
    }

    #[test]
    fn holes_of_a_file_are_zero_and_everything_else_is_data() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let image = ImageFile::create(&folder.path().join("image"), 3 << 30).unwrap();
        assert_eq!(of(&image), [(0, 3 << 30, true)]);
        image.write_at(1 << 20, &[7; 65536]).unwrap();
        image.write_at((3 << 30) - 65536, &[7; 65536]).unwrap();
        image.write_at(8 << 20, &[0; 65536]).unwrap();
        let data = (8 << 20, 65536, false);
        let found = of(&image);
        assert_eq!(found[1], (1 << 20, 65536, false));
        assert!(found.contains(&data), "zeroes that were written are not known to be zero: {found:?}");
        assert_eq!(found.last(), Some(&((3 << 30) - 65536, 65536, false)));
        assert_eq!(found.len(), 6);
    }

    /// Says about itself whatever it is told to.
    struct Liar(Vec<Extent>, Identity);
    impl Geometry for Liar {
        fn size(&self) -> u64 {
            8192
        }
        fn sector_size(&self) -> SectorSize {
            SectorSize::B512
        }
        fn identity(&self) -> &Identity {
            &self.1
        }
    }
    impl ReadAt for Liar {
        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
        fn extents(&self, _: u64, _: u64) -> Result<Vec<Extent>> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn answers_that_cannot_be_are_errors() {
        let extent = |offset, length| Extent { offset, length, zero: true };
        assert!(walk(&Liar(vec![extent(0, 8192)], Identity::default()), |_| Ok(())).is_ok());
        let lies = [
            vec![],
            vec![extent(4096, 4096)],
            vec![extent(0, 4096), extent(0, 4096)],
            vec![extent(0, 8193)],
            vec![extent(0, 0)],
        ];
        for lie in lies {
            assert!(walk(&Liar(lie.clone(), Identity::default()), |_| Ok(())).is_err(), "{lie:?}");
        }
    }
}
