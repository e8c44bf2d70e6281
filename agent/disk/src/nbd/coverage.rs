//! Which bytes of a read have been delivered: each exactly once, or the reply is wrong.

use std::collections::BTreeMap;

/// Ranges delivered so far, by start; touching ones are joined, so that an honest server's take one entry.
#[derive(Debug, Default)]
pub(super) struct Coverage(BTreeMap<u64, u64>);

impl Coverage {
    /// Adds `[start, start + length)`; false when it is empty or a byte of it was there.
    pub(super) fn add(&mut self, start: u64, length: u64) -> bool {
        let Some(end) = start.checked_add(length).filter(|end| *end > start) else { return false };
        let before = self.0.range(..end).next_back().map(|(s, e)| (*s, *e));
        if before.is_some_and(|(_, stop)| stop > start) {
            return false;
        }
        let start = match before {
            Some((first, stop)) if stop == start => first,
            _ => start,
        };
        let end = self.0.remove(&end).unwrap_or(end);
        self.0.insert(start, end);
        true
    }

    /// The first byte of `[start, end)` that is missing.
    pub(super) fn gap(&self, start: u64, end: u64) -> Option<u64> {
        let until = self.0.get(&start).copied().unwrap_or(start);
        (until < end).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_of_pieces_is_whole() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut coverage = Coverage::default();
            for piece in order {
                assert!(coverage.add(100 + piece * 10, 10));
            }
            assert_eq!(coverage.gap(100, 130), None);
            assert_eq!(coverage.0.len(), 1);
            assert_eq!(coverage.gap(100, 131), Some(130));
        }
    }

    #[test]
    fn overlaps_gaps_and_nothing_are_found() {
        let mut coverage = Coverage::default();
        assert!(coverage.add(10, 10));
        for (start, length) in [(10, 10), (5, 6), (19, 1), (0, 100), (12, 3), (30, 0), (u64::MAX, 2)] {
            assert!(!coverage.add(start, length), "{start} {length}");
        }
        assert!(coverage.add(30, 10));
        assert_eq!(coverage.gap(10, 40), Some(20));
        assert_eq!(coverage.gap(0, 40), Some(0));
        assert!(coverage.add(20, 10));
        assert_eq!(coverage.gap(10, 40), None);
    }
}
