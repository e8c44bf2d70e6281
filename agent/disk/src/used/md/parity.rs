//! Where RAID 5 and 6 put what.

use std::ops::Range;

/// How RAID 5 and 6 place their chunks. Source: the layouts of `raid5_compute_sector` in the kernel's drivers/md/raid5.c, by
/// their numbers: 0 left-asymmetric, 1 right-asymmetric, 2 left-symmetric (the usual one), 3 right-symmetric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::used) struct Parity {
    /// Bytes of a chunk.
    pub chunk: u64,
    /// Disks' worth of parity: 1 or 2.
    pub disks: u64,
    /// 0 to 3.
    pub layout: u32,
}

impl Parity {
    /// Where byte `at` of the array lies among `members`: which, where in it, and how many bytes follow there.
    pub(in crate::used) fn locate(self, at: u64, members: u64) -> (usize, u64, u64) {
        let data = members - self.disks;
        let (index, within) = (at / self.chunk, at % self.chunk);
        let (row, number) = (index / data, index % data);
        let turn = row % members;
        let parity = if self.layout.is_multiple_of(2) { members - 1 - turn } else { turn };
        let member = if self.layout >= 2 {
            // Symmetric: data go on behind the parity, around the end.
            (parity + self.disks + number) % members
        } else {
            // Asymmetric: data in order, parity left out. The second parity is behind the first, or on the first disk.
            let second = if self.disks == 2 { (parity + 1) % members } else { parity };
            let skipped = |member| member == parity || member == second;
            let mut order = (0..members).filter(|&member| !skipped(member));
            order.nth(usize::try_from(number).unwrap_or(0)).unwrap_or(0)
        };
        (usize::try_from(member).unwrap_or(0), row * self.chunk + within, self.chunk - within)
    }

    /// The rows that a range of the array touches, as a range of each member: data and parity.
    pub(in crate::used) fn rows(self, range: &Range<u64>, members: u64) -> Range<u64> {
        let row = self.chunk * (members - self.disks);
        range.start / row * self.chunk..range.end.div_ceil(row) * self.chunk
    }
}
