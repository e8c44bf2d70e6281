//! A part of a disk, read within bounds.

use std::cell::Cell;

use super::Doubt;
use crate::end::ReadAt;
use crate::size::human;

/// The most one read may bring.
pub const MOST_READ: u64 = 16 << 20;

/// A partition or volume as a mapper sees it. Offsets are bytes from its start.
///
/// All reading is bounded: one read by [`MOST_READ`], all reads together by a sixteenth of the size and 64 MiB, which
/// no sound metadata needs, so a loop through damaged structures ends with a doubt.
pub struct Window<'a> {
    disk: &'a dyn ReadAt,
    start: u64,
    size: u64,
    reads: Cell<u64>,
    bytes: Cell<u64>,
}

impl<'a> Window<'a> {
    /// All of a disk.
    pub fn whole(disk: &'a dyn ReadAt) -> Self {
        Self { disk, start: 0, size: disk.size(), reads: Cell::new(0), bytes: Cell::new(0) }
    }

    /// `size` bytes from `start` of a disk.
    ///
    /// # Errors
    /// A part that reaches beyond the disk.
    pub fn part(disk: &'a dyn ReadAt, start: u64, size: u64) -> Result<Self, Doubt> {
        match start.checked_add(size) {
            Some(end) if end <= disk.size() => {
                Ok(Self { disk, start, size, reads: Cell::new(0), bytes: Cell::new(0) })
            }
            _ => Err(Doubt::new(format!("{} from byte {start} reach beyond the disk", human(size)))),
        }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Sector size and names of the disk it is a part of.
    pub fn disk(&self) -> &'a dyn ReadAt {
        self.disk
    }

    /// How many reads there were, and how many bytes they brought.
    pub fn cost(&self) -> (u64, u64) {
        (self.reads.get(), self.bytes.get())
    }

    /// Reads `length` bytes at `offset`.
    ///
    /// # Errors
    /// Read errors, bytes outside the window, a read or a sum of reads beyond the bounds.
    pub fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, Doubt> {
        if length > MOST_READ {
            return Err(Doubt::new(format!("a structure of {length} bytes at byte {offset} is too large")));
        }
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(Doubt::new(format!(
                "byte {offset} (and {length} more) lies outside its {} bytes",
                self.size
            )));
        }
        let bytes = self.bytes.get() + length;
        if bytes > self.size / 16 + (64 << 20) {
            return Err(Doubt::new("its metadata do not end"));
        }
        self.bytes.set(bytes);
        self.reads.set(self.reads.get() + 1);
        let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
        self.disk.read_at(self.start + offset, &mut buffer)?;
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;

    #[test]
    fn a_window_shows_its_part_and_nothing_else() {
        let disk = Memory::new((0..=255).cycle().take(4096).collect(), 512);
        let window = Window::part(&disk, 512, 1024).unwrap();
        assert_eq!(window.read(5, 3).unwrap(), [5, 6, 7]);
        assert_eq!(window.read(1020, 4).unwrap(), [252, 253, 254, 255]);
        assert!(window.read(1021, 4).is_err() && window.read(u64::MAX, 4).is_err());
        assert_eq!(window.cost(), (2, 7));
        assert!(Window::part(&disk, 4000, 97).is_err() && Window::part(&disk, u64::MAX, 2).is_err());
        assert_eq!((Window::whole(&disk).size(), Window::whole(&disk).disk().size()), (4096, 4096));
    }

    #[test]
    fn reading_without_end_is_a_doubt() {
        let disk = Memory::new(vec![0; 32 << 20], 512);
        let window = Window::whole(&disk);
        assert!(window.read(0, MOST_READ + 1).is_err());
        let reads = (0..100).take_while(|_| window.read(0, MOST_READ).is_ok()).count();
        assert_eq!(reads, 4);
    }
}
