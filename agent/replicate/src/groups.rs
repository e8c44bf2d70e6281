//! What is known of a disk's content: the node of each group of 64 chunks (64 MiB), 32 bytes each.
//!
//! Chunks are hashed in whatever order threads read them; a group's node can be made when all of its chunks are there.
//! Until then their nodes wait in an open group. Threads read forwards, so only a few groups are open at a time; one that is
//! left behind (some of its chunks were not read in this sweep) gives way to newer ones and stays unknown, which costs
//! a second reading of 64 MiB and never a wrong answer. So memory is 32 bytes for 64 MiB of disk, half a MiB a terabyte.

use std::collections::BTreeMap;

use gantry_wire::limits::{CHUNK, GROUP};
use gantry_wire::tree::{self, Hash, RootBuilder};

use crate::chunkset::ChunkSet;

/// Groups that may be open at once.
const OPEN: usize = 64;

/// The nodes of a disk's groups.
#[derive(Debug, Clone)]
pub struct GroupNodes {
    size: u64,
    nodes: Vec<Hash>,
    known: ChunkSet,
    open: BTreeMap<u64, OpenGroup>,
}

#[derive(Debug, Clone)]
struct OpenGroup {
    nodes: Box<[Hash; GROUP as usize]>,
    have: u64,
}

impl GroupNodes {
    /// Nothing is known of a disk of `size` bytes.
    pub fn new(size: u64) -> Self {
        let groups = tree::groups(size);
        Self {
            size,
            nodes: vec![tree::zero_group(); groups as usize],
            known: ChunkSet::new(groups),
            open: BTreeMap::new(),
        }
    }

    /// Number of groups.
    pub fn count(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// First chunk of a group, and the number of its chunks: 64, or fewer in the last one.
    pub fn chunks_of(&self, group: u64) -> (u64, u64) {
        let first = group * GROUP;
        (first, GROUP.min(tree::chunks(self.size).saturating_sub(first)))
    }

    /// The node of a group, if it is known.
    pub fn node(&self, group: u64) -> Option<Hash> {
        self.known.contains(group).then(|| self.nodes[group as usize])
    }

    /// Sets the node of a group.
    pub fn set(&mut self, group: u64, node: Hash) {
        self.nodes[group as usize] = node;
        self.known.insert(group);
    }

    /// From now on nothing is known of the group of chunk `index`.
    pub fn forget(&mut self, index: u64) {
        self.known.remove(index / GROUP);
    }

    /// A new sweep begins: what the last one has left open will not be completed.
    pub fn begin_sweep(&mut self) {
        self.open.clear();
    }

    /// Adds the node of a chunk that was read; the group and its node when it was the last one missing.
    pub fn add(&mut self, index: u64, node: Hash) -> Option<(u64, Hash)> {
        let (group, (_, count)) = (index / GROUP, self.chunks_of(index / GROUP));
        let open = self
            .open
            .entry(group)
            .or_insert_with(|| OpenGroup { nodes: Box::new([tree::zero_chunk(); GROUP as usize]), have: 0 });
        open.nodes[(index % GROUP) as usize] = node;
        open.have |= 1 << (index % GROUP);
        if u64::from(open.have.count_ones()) == count {
            let done = self.open.remove(&group)?;
            return Some((group, tree::group(&done.nodes[..])));
        }
        if self.open.len() > OPEN {
            self.open.pop_first();
        }
        None
    }

    /// The root, once every group is known.
    pub fn root(&self, sector_size: u32) -> Option<Hash> {
        if !self.known.is_full() {
            return None;
        }
        let mut root = RootBuilder::default();
        self.nodes.iter().for_each(|node| root.push(node));
        Some(root.finish(self.size, sector_size))
    }

    /// How high above groups nodes are of which at most `most` (at least 1) cover the disk.
    pub fn height(&self, most: usize) -> u32 {
        let mut height = 0;
        while self.nodes.len().div_ceil(1 << height) > most.max(1) {
            height += 1;
        }
        height
    }

    /// The nodes of this height, each of which covers 64 MiB << `height`. Every group must be known.
    pub fn spans(&self, height: u32) -> Vec<Hash> {
        tree::spans(&self.nodes, height)
    }

    /// Bytes of chunk `index`; only the last may be short.
    pub fn chunk_length(&self, index: u64) -> usize {
        CHUNK.min(self.size - index * CHUNK) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(i: u64) -> Hash {
        *blake3::hash(&i.to_le_bytes()).as_bytes()
    }

    #[test]
    fn a_group_is_known_when_its_last_chunk_came_in_any_order() {
        let size = 70 * CHUNK + 512;
        let mut groups = GroupNodes::new(size);
        assert_eq!((groups.count(), groups.chunks_of(1)), (2, (64, 7)));
        let nodes: Vec<Hash> = (0..71).map(node).collect();
        let order = (0..71).map(|i| (i * 29 + 5) % 71);
        let mut done = Vec::new();
        for index in order {
            done.extend(groups.add(index, nodes[index as usize]));
        }
        done.sort();
        assert_eq!(done, [(0, tree::group(&nodes[..64])), (1, tree::group(&nodes[64..]))]);
        assert_eq!(groups.root(512), None, "nothing was set yet");
        done.iter().for_each(|(group, node)| groups.set(*group, *node));
        assert!(groups.root(512).is_some());
        groups.forget(69);
        assert_eq!((groups.node(0), groups.node(1)), (Some(done[0].1), None));
    }

    #[test]
    fn spans_are_as_fine_as_their_number_allows() {
        let mut groups = GroupNodes::new(5 * GROUP * CHUNK - 512);
        (0..5).for_each(|group| groups.set(group, node(group)));
        let span = |most| {
            let height = groups.height(most);
            (height, groups.spans(height).len())
        };
        assert_eq!(
            [span(5), span(4), span(3), span(2), span(1), span(0)],
            [(0, 5), (1, 3), (1, 3), (2, 2), (3, 1), (3, 1)]
        );
    }

    #[test]
    fn groups_that_are_left_behind_stay_unknown_and_take_no_room() {
        let mut groups = GroupNodes::new(GROUP * CHUNK * 1000);
        for group in 0..1000 {
            assert_eq!(groups.add(group * GROUP + 3, node(group)), None);
        }
        assert!(groups.open.len() <= OPEN + 1);
    }
}
