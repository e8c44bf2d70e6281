//! A set of chunk indices of one disk: a bit a chunk, 128 KiB for a terabyte.

use gantry_wire::Extent;

/// A set of chunks below a fixed length.
#[derive(Debug, Clone)]
pub struct ChunkSet {
    words: Vec<u64>,
    length: u64,
    count: u64,
}

impl ChunkSet {
    /// An empty set for `length` chunks.
    pub fn new(length: u64) -> Self {
        Self { words: vec![0; length.div_ceil(64) as usize], length, count: 0 }
    }

    /// Number of chunks in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether every chunk of the disk is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.length
    }

    /// Whether `index` is in the set.
    pub fn contains(&self, index: u64) -> bool {
        index < self.length && self.words[(index / 64) as usize] & (1 << (index % 64)) != 0
    }

    /// Adds a chunk; false if it was there or lies outside.
    pub fn insert(&mut self, index: u64) -> bool {
        if index >= self.length || self.contains(index) {
            return false;
        }
        self.words[(index / 64) as usize] |= 1 << (index % 64);
        self.count += 1;
        true
    }

    /// Takes a chunk out; false if it was not there.
    pub fn remove(&mut self, index: u64) -> bool {
        if !self.contains(index) {
            return false;
        }
        self.words[(index / 64) as usize] &= !(1 << (index % 64));
        self.count -= 1;
        true
    }

    /// Puts every chunk into the set.
    pub fn fill(&mut self) {
        for index in 0..self.length {
            self.insert(index);
        }
    }

    /// Empties the set.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }

    /// The runs of chunks in the set, at most `limit` of them (a shorter list claims less, which is safe).
    pub fn extents(&self, limit: usize) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        for index in (0..self.length).filter(|index| self.contains(*index)) {
            let full = runs.len() == limit;
            match runs.last_mut() {
                Some(run) if run.first + run.count == index => run.count += 1,
                _ if full => break,
                _ => runs.push(Extent { first: index, count: 1 }),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_and_counted() {
        let mut set = ChunkSet::new(130);
        for index in [0, 1, 2, 64, 65, 129] {
            assert!(set.insert(index));
        }
        assert!(!set.insert(64), "twice");
        assert!(!set.insert(130), "outside");
        let runs: Vec<(u64, u64)> = set.extents(10).iter().map(|e| (e.first, e.count)).collect();
        assert_eq!(runs, [(0, 3), (64, 2), (129, 1)]);
        assert_eq!(set.extents(2).len(), 2);
        assert!(set.remove(64) && !set.remove(64));
        assert_eq!(set.count(), 5);
        assert!(!set.contains(4000));
    }
}
