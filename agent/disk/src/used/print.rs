//! Whether two walks in different orders saw the same extents, without holding them.

use std::ops::Range;

/// A set of extents, as far as two records need to agree on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Print {
    /// How many.
    pub count: u64,
    /// Their lengths' sum.
    pub sum: u64,
    /// The longest.
    pub longest: u64,
    /// The sum of a mixture of each extent's bits: the same for the same set in any order.
    mixed: u64,
}

impl Print {
    /// Adds an extent; an empty one changes nothing.
    pub fn add(&mut self, extent: Range<u64>) {
        if extent.is_empty() {
            return;
        }
        let length = extent.end - extent.start;
        self.count += 1;
        self.sum = self.sum.saturating_add(length);
        self.longest = self.longest.max(length);
        self.mixed = self.mixed.wrapping_add(mix(mix(extent.start) ^ length));
    }
}

/// splitmix64's finaliser: damage that happens to keep a sum of mixtures has a chance of one in 2^64.
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(extents: &[(u64, u64)]) -> Print {
        let mut print = Print::default();
        extents.iter().for_each(|&(start, length)| print.add(start..start + length));
        print
    }

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        let one = print(&[(1, 5), (10, 3), (20, 4)]);
        assert_eq!(one, print(&[(20, 4), (1, 5), (10, 3), (7, 0)]));
        assert_eq!((one.count, one.sum, one.longest), (3, 12, 5));
        // The same count, sum and longest, and another place or other pairs.
        assert_ne!(one, print(&[(1, 5), (11, 3), (20, 4)]));
        assert_ne!(one, print(&[(1, 5), (10, 4), (20, 3)]));
    }
}
