//! The hash tree of a disk.
//!
//! * A leaf is 64 KiB; its hash is BLAKE3 of its bytes, whatever its offset. The last leaf of a disk is filled up with
//!   zero bytes.
//! * A node is keyed BLAKE3 of its two children, left then right (64 bytes). The key is
//!   `derive_key("gantry 2026 tree node", "")`.
//! * A tree has 2^n leaves, at least 1024; leaves behind the disk's end are zero leaves. Because nodes do not know their
//!   offset, an all-zero subtree of a given height is one constant, so an empty terabyte costs nothing.
//! * The root is keyed BLAKE3 of: top node (32 bytes), size in bytes (u64 LE), sector size (u32 LE), with the key
//!   `derive_key("gantry 2026 tree root", "")`. It binds the geometry.
//!
//! A chunk (1 MiB, 16 leaves) is a subtree of height 4, a group (64 MiB, 64 chunks) one of height 10. Only the nodes of
//! groups are ever held for a whole disk: 32 bytes for 64 MiB. `tests/tree_reference.py` recomputes roots in other words.

use std::sync::LazyLock;

use crate::limits::{CHUNK, GROUP, LEAF, LEAVES_PER_CHUNK};

/// A hash: of a leaf, a node, or a root.
pub type Hash = [u8; 32];

/// Height of a chunk's node above its leaves.
const CHUNK_HEIGHT: usize = LEAVES_PER_CHUNK.trailing_zeros() as usize;
/// Height of a group's node above its leaves.
const GROUP_HEIGHT: usize = CHUNK_HEIGHT + GROUP.trailing_zeros() as usize;
/// Heights for which the zero constants are kept: 2^48 leaves of 64 KiB are more than any disk.
const HEIGHTS: usize = 48;

static NODE_KEY: LazyLock<Hash> = LazyLock::new(|| blake3::derive_key("gantry 2026 tree node", b""));
static ROOT_KEY: LazyLock<Hash> = LazyLock::new(|| blake3::derive_key("gantry 2026 tree root", b""));
static ZERO: LazyLock<[Hash; HEIGHTS]> = LazyLock::new(|| {
    let mut zero = [[0; 32]; HEIGHTS];
    zero[0] = *blake3::hash(&[0; LEAF]).as_bytes();
    for height in 1..HEIGHTS {
        zero[height] = node(&zero[height - 1], &zero[height - 1]);
    }
    zero
});

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = blake3::Hasher::new_keyed(&NODE_KEY);
    hasher.update(left).update(right);
    *hasher.finalize().as_bytes()
}

/// The hash of a leaf of zero bytes.
pub fn zero_leaf() -> Hash {
    ZERO[0]
}

/// The node of a chunk of zero bytes.
pub fn zero_chunk() -> Hash {
    ZERO[CHUNK_HEIGHT]
}

/// The node of a group of zero bytes.
pub fn zero_group() -> Hash {
    ZERO[GROUP_HEIGHT]
}

/// The hashes of a chunk's leaves.
pub type Leaves = [Hash; LEAVES_PER_CHUNK];

/// The leaves of a chunk. `data` is at most 1 MiB; what is missing counts as zero.
pub fn leaves(data: &[u8]) -> Leaves {
    debug_assert!(data.len() as u64 <= CHUNK);
    let mut row = [ZERO[0]; LEAVES_PER_CHUNK];
    for (slot, leaf) in row.iter_mut().zip(data.chunks(LEAF)) {
        if is_zero(leaf) {
            continue;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(leaf).update(&[0; LEAF][leaf.len()..]);
        *slot = *hasher.finalize().as_bytes();
    }
    row
}

/// The node of a chunk with these leaves.
pub fn chunk_of(leaves: &Leaves) -> Hash {
    fold(*leaves)
}

/// The node of a chunk. `data` is at most 1 MiB; what is missing counts as zero.
pub fn chunk(data: &[u8]) -> Hash {
    chunk_of(&leaves(data))
}

/// The node of a group of at most 64 chunks; those that are missing count as zero.
pub fn group(chunks: &[Hash]) -> Hash {
    debug_assert!(chunks.len() as u64 <= GROUP);
    let mut row = [zero_chunk(); GROUP as usize];
    row[..chunks.len()].copy_from_slice(chunks);
    fold(row)
}

/// The node above a full row of equal height.
fn fold<const N: usize>(mut row: [Hash; N]) -> Hash {
    let mut width = N;
    while width > 1 {
        for i in 0..width / 2 {
            row[i] = node(&row[2 * i], &row[2 * i + 1]);
        }
        width /= 2;
    }
    row[0]
}

/// Whether all bytes are zero. The fold over 4 KiB blocks lets the compiler vectorise it: 20 times a byte loop.
pub fn is_zero(data: &[u8]) -> bool {
    data.chunks(4096).all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Number of chunks of a disk of `size` bytes.
pub fn chunks(size: u64) -> u64 {
    size.div_ceil(CHUNK)
}

/// Number of groups of a disk of `size` bytes.
pub fn groups(size: u64) -> u64 {
    size.div_ceil(GROUP * CHUNK)
}

/// The nodes `height` levels above groups: each covers 2^`height` of them, 64 MiB << `height`. Groups behind the last one
/// count as zero. `height` is at most that of the whole tree.
pub fn spans(groups: &[Hash], height: u32) -> Vec<Hash> {
    let mut row = groups.to_vec();
    for level in 0..height as usize {
        let zero = &ZERO[GROUP_HEIGHT + level];
        row = row.chunks(2).map(|pair| node(&pair[0], pair.get(1).unwrap_or(zero))).collect();
    }
    row
}

/// Builds a root from group nodes in order, holding one node a level.
#[derive(Debug, Default)]
pub struct RootBuilder {
    /// `pending[h]` is a finished left node of height `GROUP_HEIGHT + h` that waits for its right sibling.
    pending: Vec<Option<Hash>>,
    count: u64,
}

impl RootBuilder {
    /// Adds the next group's node.
    pub fn push(&mut self, group: &Hash) {
        let mut carry = *group;
        for level in 0.. {
            if level == self.pending.len() {
                self.pending.push(None);
            }
            match self.pending[level].take() {
                Some(left) => carry = node(&left, &carry),
                None => {
                    self.pending[level] = Some(carry);
                    break;
                }
            }
        }
        self.count += 1;
    }

    /// The root of a disk of `size` bytes whose groups have all been pushed.
    pub fn finish(self, size: u64, sector_size: u32) -> Hash {
        debug_assert_eq!(self.count, groups(size));
        let height = self.count.max(1).next_power_of_two().trailing_zeros() as usize;
        let mut top: Option<Hash> = None;
        for level in 0..=height {
            let left = self.pending.get(level).copied().flatten();
            top = match (left, top) {
                (Some(left), Some(right)) => Some(node(&left, &right)),
                (Some(left), None) if level == height => Some(left),
                (Some(left), None) => Some(node(&left, &ZERO[GROUP_HEIGHT + level])),
                (None, Some(right)) if level < height => Some(node(&right, &ZERO[GROUP_HEIGHT + level])),
                (None, top) => top,
            };
        }
        let mut hasher = blake3::Hasher::new_keyed(&ROOT_KEY);
        hasher.update(&top.unwrap_or(zero_group()));
        hasher.update(&size.to_le_bytes()).update(&sector_size.to_le_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// Bytes as people read them: a hash, a session, a tag.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads lower-case hex of just `N` bytes.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, straight: pad to 2^n leaves, hash level by level.
    fn plain_root(data: &[u8], sector_size: u32) -> Hash {
        let leaves = (data.len().div_ceil(LEAF)).next_power_of_two().max(1024);
        let mut padded = data.to_vec();
        padded.resize(leaves * LEAF, 0);
        let mut row: Vec<Hash> = padded.chunks(LEAF).map(|leaf| *blake3::hash(leaf).as_bytes()).collect();
        while row.len() > 1 {
            row = row.chunks(2).map(|pair| node(&pair[0], &pair[1])).collect();
        }
        let mut hasher = blake3::Hasher::new_keyed(&ROOT_KEY);
        hasher.update(&row[0]).update(&(data.len() as u64).to_le_bytes()).update(&sector_size.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    fn streamed_root(data: &[u8], sector_size: u32) -> Hash {
        let mut builder = RootBuilder::default();
        for part in data.chunks((GROUP * CHUNK) as usize) {
            let nodes: Vec<Hash> = part.chunks(CHUNK as usize).map(chunk).collect();
            builder.push(&group(&nodes));
        }
        builder.finish(data.len() as u64, sector_size)
    }

    #[test]
    fn streaming_gives_the_root_of_the_definition() {
        for (size, seed) in
            [(512, 1), (65_536, 2), (1 << 20, 3), ((3 << 20) + 512, 4), (64 << 20, 5), ((193 << 20) + 512, 6)]
        {
            let data: Vec<u8> = (0..size).map(|i: usize| (i * 31 + i / 777 + seed) as u8).collect();
            assert_eq!(streamed_root(&data, 512), plain_root(&data, 512), "size {size}");
        }
    }

    #[test]
    fn hex_is_read_as_it_was_written_and_nothing_else_is() {
        let bytes = [0, 9, 0xa0, 0xff];
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        for other in ["", "0009a0f", "0009a0ff0", "0009A0FF", "0009a0fg", "0009a0\u{e9}"] {
            assert_eq!(unhex::<4>(other), None, "{other}");
        }
    }

    #[test]
    fn spans_are_nodes_of_the_same_tree() {
        let groups: Vec<Hash> = (0..5u8).map(|i| [i; 32]).collect();
        assert_eq!(spans(&groups, 0), groups);
        let pairs = spans(&groups, 1);
        assert_eq!(
            pairs,
            [node(&[0; 32], &[1; 32]), node(&[2; 32], &[3; 32]), node(&[4; 32], &zero_group())]
        );
        let top = spans(&groups, 3);
        let size = 5 * GROUP * CHUNK;
        let mut hasher = blake3::Hasher::new_keyed(&ROOT_KEY);
        hasher.update(&top[0]).update(&size.to_le_bytes()).update(&512u32.to_le_bytes());
        let mut builder = RootBuilder::default();
        groups.iter().for_each(|group| builder.push(group));
        assert_eq!(builder.finish(size, 512), *hasher.finalize().as_bytes());
        assert_eq!(top.len(), 1);
    }

    #[test]
    fn the_root_binds_content_size_and_sector_size() {
        let data = vec![0; 2 << 20];
        let root = streamed_root(&data, 512);
        assert_ne!(root, streamed_root(&data, 4096));
        assert_ne!(root, streamed_root(&data[..(1 << 20) + 512], 512));
        let mut flipped = data.clone();
        flipped[(1 << 20) + 5] = 1;
        assert_ne!(root, streamed_root(&flipped, 512));
    }

    #[test]
    fn zero_chunks_have_the_constant_node() {
        assert_eq!(chunk(&vec![0; CHUNK as usize]), zero_chunk());
        assert_eq!(chunk(&[0; 512]), zero_chunk());
        assert_eq!(group(&[zero_chunk(); 3]), zero_group());
        assert!(is_zero(&[0; 5000]));
        let mut one = vec![0; 70_000];
        one[69_999] = 1;
        assert!(!is_zero(&one));
    }
}
