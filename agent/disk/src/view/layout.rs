//! Which stretch of a view comes from where: pure arithmetic.

use crate::end::SectorSize;

/// Where a stretch comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The disk itself.
    Disk,
    /// The piece with this number.
    Piece(usize),
}

/// A stretch of a view. All numbers in 512-byte units, as device-mapper counts whatever the sector size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// First unit in the view.
    pub start: u64,
    /// Units.
    pub length: u64,
    /// Where it comes from.
    pub part: Part,
    /// First unit there.
    pub offset: u64,
}

/// The stretches of a view of a disk of `size` bytes with `pieces` (offset, length in bytes, any order) laid over it.
///
/// # Errors
/// A piece that is empty, is not whole sectors, lies outside the disk or overlaps another.
pub fn layout(size: u64, sector: SectorSize, pieces: &[(u64, u64)]) -> Result<Vec<Stretch>, String> {
    let unit = u64::from(sector.bytes());
    if size == 0 || !size.is_multiple_of(unit) {
        return Err(format!("a disk of {size} bytes is not a whole number of {unit}-byte sectors"));
    }
    let mut sorted: Vec<(usize, u64, u64)> =
        pieces.iter().enumerate().map(|(number, &(offset, length))| (number, offset, length)).collect();
    sorted.sort_by_key(|&(_, offset, _)| offset);
    let mut stretches = Vec::new();
    let mut at = 0;
    for (number, offset, length) in sorted {
        let end = offset.checked_add(length).filter(|&end| end <= size);
        let Some(end) = end else {
            return Err(format!(
                "a piece of {length} bytes at {offset} lies outside the disk of {size} bytes"
            ));
        };
        if length == 0 || !length.is_multiple_of(unit) || !offset.is_multiple_of(unit) {
            return Err(format!("a piece of {length} bytes at {offset} is not whole {unit}-byte sectors"));
        }
        if offset < at {
            return Err(format!("the piece at {offset} overlaps the one before, which ends at {at}"));
        }
        if offset > at {
            stretches.push(stretch(at, offset, Part::Disk, at));
        }
        stretches.push(stretch(offset, end, Part::Piece(number), 0));
        at = end;
    }
    if at < size {
        stretches.push(stretch(at, size, Part::Disk, at));
    }
    Ok(stretches)
}

fn stretch(start: u64, end: u64, part: Part, offset: u64) -> Stretch {
    Stretch { start: start / 512, length: (end - start) / 512, part, offset: offset / 512 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn rows(size: u64, pieces: &[(u64, u64)]) -> Vec<(u64, u64, Part, u64)> {
        let stretches = layout(size, SectorSize::B512, pieces).unwrap();
        stretches.iter().map(|s| (s.start, s.length, s.part, s.offset)).collect()
    }

    #[test]
    fn head_and_tail_lie_around_the_disk() {
        assert_eq!(
            rows(10 * MIB, &[(0, MIB), (9 * MIB, MIB)]),
            [(0, 2048, Part::Piece(0), 0), (2048, 16384, Part::Disk, 2048), (18432, 2048, Part::Piece(1), 0)]
        );
        assert_eq!(rows(MIB, &[]), [(0, 2048, Part::Disk, 0)]);
        assert_eq!(rows(MIB, &[(0, MIB)]), [(0, 2048, Part::Piece(0), 0)]);
        assert_eq!(
            rows(2 * MIB, &[(MIB, MIB), (0, MIB)]),
            [(0, 2048, Part::Piece(1), 0), (2048, 2048, Part::Piece(0), 0)]
        );
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let refused = |pieces: &[(u64, u64)]| layout(10 * MIB, 4096.try_into().unwrap(), pieces).unwrap_err();
        assert!(refused(&[(0, MIB), (4096, MIB)]).contains("overlaps"));
        assert!(refused(&[(0, 512)]).contains("whole 4096"));
        assert!(refused(&[(512, 4096)]).contains("whole 4096"));
        assert!(refused(&[(0, 0)]).contains("whole 4096"));
        assert!(refused(&[(9 * MIB, 2 * MIB)]).contains("outside"));
        assert!(refused(&[(u64::MAX, 4096)]).contains("outside"));
        assert!(layout(1000, SectorSize::B512, &[]).is_err() && layout(0, SectorSize::B512, &[]).is_err());
    }

    proptest! {
        /// Every unit of the disk is shown once, in order, and each piece whole.
        #[test]
        fn the_view_is_as_large_as_the_disk_without_gaps(gaps in prop::collection::vec((0u64..5, 1u64..5), 0..6), rest in 0u64..4) {
            let mut pieces = Vec::new();
            let mut at = 0;
            for (gap, length) in gaps {
                pieces.push(((at + gap) * 4096, length * 4096));
                at += gap + length;
            }
            let size = (at + rest).max(1) * 4096;
            let stretches = layout(size, 4096.try_into().unwrap(), &pieces).unwrap();
            let mut reach = 0;
            for stretch in &stretches {
                prop_assert_eq!(stretch.start, reach);
                prop_assert!(stretch.length > 0);
                match stretch.part {
                    Part::Disk => prop_assert_eq!(stretch.offset, stretch.start),
                    Part::Piece(number) => {
                        prop_assert_eq!((stretch.start * 512, stretch.length * 512), pieces[number]);
                        prop_assert_eq!(stretch.offset, 0);
                    }
                }
                reach += stretch.length;
            }
            prop_assert_eq!(reach * 512, size);
        }
    }
}
