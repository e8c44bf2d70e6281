//! The leaves of a chunk that cross in a compare pass: which bytes they are, and how they are packed one behind the other.

use std::ops::Range;

use gantry_wire::limits::{LEAF, LEAVES_PER_CHUNK};
use gantry_wire::tree::Leaves;

/// Bit i is set when leaf i differs.
pub fn differing(ours: &Leaves, theirs: &Leaves) -> u16 {
    (0..LEAVES_PER_CHUNK).filter(|i| ours[*i] != theirs[*i]).fold(0, |bits, i| bits | 1 << i)
}

/// Byte ranges of the leaves in `bits` within a chunk of `length` bytes; neighbours are joined. Leaves behind the end of
/// the chunk give nothing.
pub fn ranges(bits: u16, length: usize) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for i in (0..LEAVES_PER_CHUNK).filter(|i| bits & 1 << i != 0) {
        let leaf = (i * LEAF).min(length)..((i + 1) * LEAF).min(length);
        match ranges.last_mut() {
            _ if leaf.is_empty() => {}
            Some(last) if last.end == leaf.start => last.end = leaf.end,
            _ => ranges.push(leaf),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_become_joined_ranges_cut_at_the_end() {
        const K: usize = 1024;
        assert_eq!(ranges(0b111_0000_0000_0010, 1024 * K), [64 * K..128 * K, 768 * K..960 * K]);
        assert_eq!(ranges(0x8003, 100 * K), vec![0..100 * K]);
        assert_eq!(ranges(1 << 15, 100 * K), []);
        let zero = [[0; 32]; LEAVES_PER_CHUNK];
        let mut one = zero;
        one[3][31] = 1;
        assert_eq!((differing(&zero, &zero), differing(&zero, &one)), (0, 8));
    }
}
