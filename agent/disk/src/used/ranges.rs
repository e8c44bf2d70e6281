//! Which bytes are used: sorted, merged ranges in bounded memory.

use std::collections::BTreeMap;
use std::ops::Range;

/// Byte ranges, sorted, not empty, neither overlapping nor touching.
///
/// At most `limit` of them are held. Beyond that the smallest gaps are closed, so that a badly fragmented disk costs some
/// copying and never memory. Because of that this type can only stand for what is *used*: a set of free ranges that
/// grew by closing gaps would be under-copying. A mapper that is told about free space starts with everything
/// ([`Ranges::whole`]) and takes it away ([`Ranges::remove`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// Start to end.
    spans: BTreeMap<u64, u64>,
    limit: usize,
}

/// The most ranges held unless said otherwise: some 50 MiB of memory.
const LIMIT: usize = 1 << 20;

impl Default for Ranges {
    fn default() -> Self {
        Self::with_limit(LIMIT)
    }
}

impl Ranges {
    /// No ranges, and another limit than the usual one (at least one range).
    pub fn with_limit(limit: usize) -> Self {
        Self { spans: BTreeMap::new(), limit: limit.max(1) }
    }

    /// All of `0..size`.
    pub fn whole(size: u64) -> Self {
        let mut ranges = Self::default();
        ranges.insert(0..size);
        ranges
    }

    /// Adds a range; an empty one changes nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Only the range that starts last at or before ours can reach into it from the left.
        if let Some((&before, &reach)) = self.spans.range(..=start).next_back()
            && reach >= start
        {
            start = before;
            end = end.max(reach);
        }
        while let Some((&next, &reach)) = self.spans.range(start..=end).next() {
            self.spans.remove(&next);
            end = end.max(reach);
        }
        self.spans.insert(start, end);
        self.keep_limit();
    }

    /// Takes a range away. Where the limit is passed, gaps (perhaps this very one) are closed again.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let from = match self.spans.range(..range.start).next_back() {
            Some((&start, &end)) if end > range.start => start,
            _ => range.start,
        };
        while let Some((&start, &end)) = self.spans.range(from..range.end).next() {
            self.spans.remove(&start);
            if start < range.start {
                self.spans.insert(start, range.start);
            }
            if end > range.end {
                self.spans.insert(range.end, end);
                break;
            }
            if start < range.start {
                // The left rest was put back under the same key; go on behind it.
                return self.remove(range.start..range.end);
            }
        }
        self.keep_limit();
    }

    /// Adds all of `other`, moved by `by` bytes.
    pub fn insert_all(&mut self, other: &Self, by: u64) {
        for range in other.iter() {
            self.insert(range.start.saturating_add(by)..range.end.saturating_add(by));
        }
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.spans.iter().map(|(&start, &end)| start..end)
    }

    /// The gaps in `0..size`, in ascending order: what carries no data.
    pub fn complement(&self, size: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = 0;
        let edges = self.iter().chain(std::iter::once(size..u64::MAX));
        edges
            .map(move |range| {
                let gap = at.min(size)..range.start.min(size);
                at = range.end;
                gap
            })
            .filter(|gap| !gap.is_empty())
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// What is used of `within`, in ascending order.
    pub fn inside(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.spans.range(..within.start).next_back().map_or(within.start, |(&start, _)| start);
        let spans = self.spans.range(first..within.end.max(first));
        spans
            .map(move |(&start, &end)| start.max(within.start)..end.min(within.end))
            .filter(|part| !part.is_empty())
    }

    /// Bytes inside `range`.
    pub fn total_in(&self, range: &Range<u64>) -> u64 {
        self.inside(range.clone()).map(|part| part.end - part.start).sum()
    }

    /// How many ranges.
    pub fn count(&self) -> usize {
        self.spans.len()
    }

    /// Whether the byte at `offset` is used.
    pub fn contains(&self, offset: u64) -> bool {
        self.spans.range(..=offset).next_back().is_some_and(|(_, &end)| end > offset)
    }

    /// Whether all bytes of `range` are used.
    pub fn covers(&self, range: Range<u64>) -> bool {
        range.is_empty()
            || self.spans.range(..=range.start).next_back().is_some_and(|(_, &end)| end >= range.end)
    }

    /// Whether any byte of `range` is used.
    pub fn touches(&self, range: Range<u64>) -> bool {
        !range.is_empty()
            && self.spans.range(..range.end).next_back().is_some_and(|(_, &end)| end > range.start)
    }

    /// Grown to whole units of `granularity` bytes, but not beyond `size`.
    pub fn round_out(&self, granularity: u64, size: u64) -> Self {
        let unit = granularity.max(1);
        let mut rounded = Self::with_limit(self.limit);
        for range in self.iter() {
            let end = range.end.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
            rounded.insert(range.start / unit * unit..end.min(size).max(range.end));
        }
        rounded
    }

    /// Closes the smallest gaps, a quarter of them at once, so that the work for each range stays constant.
    fn keep_limit(&mut self) {
        if self.spans.len() <= self.limit {
            return;
        }
        let mut gaps: Vec<u64> =
            self.iter().zip(self.iter().skip(1)).map(|(left, right)| right.start - left.end).collect();
        let surplus = self.spans.len() - (self.limit - self.limit / 4);
        let largest_closed = match gaps.get(surplus - 1) {
            Some(_) => *gaps.select_nth_unstable(surplus - 1).1,
            None => u64::MAX,
        };
        let mut kept = BTreeMap::new();
        let mut last: Option<Range<u64>> = None;
        for (start, end) in std::mem::take(&mut self.spans) {
            last = match last {
                Some(open) if start - open.end <= largest_closed => Some(open.start..end),
                Some(open) => {
                    kept.insert(open.start, open.end);
                    Some(start..end)
                }
                None => Some(start..end),
            };
        }
        kept.extend(last.map(|open| (open.start, open.end)));
        self.spans = kept;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a set of bytes would do, byte by byte.
    fn model(steps: &[(bool, u64, u64)]) -> Vec<bool> {
        let mut bytes = vec![false; 300];
        for &(add, start, length) in steps {
            bytes[start as usize..(start + length) as usize].fill(add);
        }
        bytes
    }

    fn apply(ranges: &mut Ranges, steps: &[(bool, u64, u64)]) {
        for &(add, start, length) in steps {
            if add { ranges.insert(start..start + length) } else { ranges.remove(start..start + length) }
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(bool, u64, u64)>> {
        prop::collection::vec((prop::bool::weighted(0.7), 0u64..250, 0u64..50), 0..40)
    }

    proptest! {
        #[test]
        fn ranges_are_a_set_of_bytes(steps in steps()) {
            let mut ranges = Ranges::default();
            apply(&mut ranges, &steps);
            let model = model(&steps);
            for (at, &used) in (0u64..).zip(&model) {
                prop_assert_eq!(ranges.contains(at), used, "byte {}", at);
                prop_assert_eq!(ranges.touches(at..at + 1), used);
                let next = model.get(at as usize + 1).is_some_and(|&next| next);
                prop_assert_eq!(ranges.covers(at..at + 2), used && next);
            }
            let count = |part: std::ops::Range<usize>| model[part].iter().filter(|&&used| used).count() as u64;
            prop_assert_eq!(ranges.total_in(&(70..220)), count(70..220));
            for (at, &used) in (0u64..).zip(&model) {
                prop_assert_eq!(ranges.inside(70..220).any(|part| part.contains(&at)), used && (70..220).contains(&at));
            }
            prop_assert_eq!(ranges.total(), model.iter().filter(|&&used| used).count() as u64);
            let list: Vec<_> = ranges.iter().collect();
            prop_assert!(list.iter().all(|range| !range.is_empty()));
            prop_assert!(list.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", list);
            let gaps: Vec<_> = ranges.complement(300).collect();
            for (at, &used) in (0u64..).zip(&model) {
                prop_assert_eq!(gaps.iter().any(|gap| gap.contains(&at)), !used);
            }
            prop_assert!(ranges.complement(100).all(|gap| gap.end <= 100 && !gap.is_empty()));
        }

        /// The fault to catch: a limit that loses used bytes.
        #[test]
        fn a_limit_adds_bytes_and_never_loses_one(steps in steps(), limit in 1usize..6) {
            let mut ranges = Ranges::with_limit(limit);
            let mut exact = Ranges::default();
            for step in &steps {
                apply(&mut ranges, std::slice::from_ref(step));
                apply(&mut exact, std::slice::from_ref(step));
                prop_assert!(ranges.count() <= limit);
                if step.0 {
                    prop_assert!(exact.iter().all(|range| (range.start..range.end).all(|at| ranges.contains(at))));
                }
            }
            prop_assert!(exact.iter().all(|range| (range.start..range.end).all(|at| ranges.contains(at))));
        }

        #[test]
        fn rounding_out_covers_and_stays_inside(steps in steps(), unit in 1u64..70) {
            let mut ranges = Ranges::default();
            apply(&mut ranges, &steps);
            let rounded = ranges.round_out(unit, 300);
            for at in 0..300 {
                let block = at / unit * unit;
                prop_assert_eq!(rounded.contains(at), ranges.touches(block..(block + unit).min(300)));
            }
            prop_assert!(!rounded.contains(300));
        }
    }

    #[test]
    fn the_smallest_gaps_are_closed_first() {
        let mut ranges = Ranges::with_limit(4);
        for start in [0, 100, 103, 300, 305] {
            ranges.insert(start..start + 2);
        }
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [0..2, 100..105, 300..307]);
    }

    #[test]
    fn ends_of_the_number_range_are_safe() {
        let mut ranges = Ranges::whole(u64::MAX);
        ranges.insert(u64::MAX - 5..u64::MAX);
        ranges.remove(10..20);
        assert_eq!(ranges.round_out(4096, u64::MAX).total(), u64::MAX);
        assert!(ranges.complement(u64::MAX).eq(std::iter::once(10..20)));
        let mut moved = Ranges::default();
        moved.insert_all(&ranges, 100);
        assert!(moved.contains(100) && !moved.contains(115) && moved.contains(120));
    }
}
