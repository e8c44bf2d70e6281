//! Tree blocks, and walks through whole trees.

use super::chunks::Chunks;
use super::superblock::{MOST_LEVELS, Superblock};
use crate::used::fields::{le32, le64};
use crate::used::{Doubt, Window};

/// Bytes of a block's header, of an item's head in a leaf, of a pointer in a node, of a key.
const HEADER: usize = 101;
const ITEM: usize = 25;
const POINTER: usize = 33;
pub(super) const KEY: usize = 17;

/// What an item is found by. Trees are sorted by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub object: u64,
    pub kind: u8,
    pub offset: u64,
}

impl Key {
    pub const ROOT: u8 = 132;
    pub const EXTENT: u8 = 168;
    pub const METADATA: u8 = 169;
    pub const GROUP: u8 = 192;
    pub const FREE_INFO: u8 = 198;
    pub const FREE_EXTENT: u8 = 199;
    pub const FREE_BITMAP: u8 = 200;
    pub const DEVICE_EXTENT: u8 = 204;
    pub const DEVICE: u8 = 216;
    pub const CHUNK: u8 = 228;
    pub const REPLACE: u8 = 250;

    /// Reads a key.
    pub fn read(bytes: &[u8], at: usize) -> Result<Self, Doubt> {
        let offset = le64(bytes, at + 9)?;
        Ok(Self { object: le64(bytes, at)?, kind: bytes[at + 8], offset })
    }
}

/// Where a tree starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Root {
    /// Number of the tree: the owner of its blocks.
    pub tree: u64,
    pub logical: u64,
    /// 0 for a leaf.
    pub level: u8,
    /// Commit that wrote it.
    pub generation: u64,
}

/// A visit of an item: its key and content.
pub(super) type Visit<'v> = &'v mut dyn FnMut(Key, &[u8]) -> Result<(), Doubt>;

/// A way to all trees.
pub(super) struct Trees<'a> {
    pub window: &'a Window<'a>,
    pub superblock: &'a Superblock,
    pub chunks: &'a Chunks,
}

/// A block as its parent describes it.
struct Expected {
    root: Root,
    /// The first key in it, but for the root.
    first: Option<Key>,
}

impl Trees<'_> {
    /// Visits the items of a tree in order. Ends on any disk: levels fall and keys rise, so no block is seen twice.
    pub fn walk(&self, root: &Root, visit: Visit<'_>) -> Result<(), Doubt> {
        if root.level >= MOST_LEVELS {
            return Err(Doubt::new(format!("tree {} would have {} levels", root.tree, root.level)));
        }
        self.block(&Expected { root: *root, first: None }, &mut None, visit)
    }

    fn block(&self, expected: &Expected, last: &mut Option<Key>, visit: Visit<'_>) -> Result<(), Doubt> {
        let root = &expected.root;
        let doubt = |what: &str| Doubt::new(format!("block {} of tree {} {what}", root.logical, root.tree));
        let bytes = self.read(root).map_err(|what| doubt(&what))?;
        let count = le32(&bytes, 96)? as usize;
        let entry = if root.level == 0 { ITEM } else { POINTER };
        // Only a tree that is empty has an empty block.
        if count > (bytes.len() - HEADER) / entry
            || (count == 0 && (root.level > 0 || expected.first.is_some()))
        {
            return Err(doubt("has an impossible number of entries"));
        }
        for index in 0..count {
            let at = HEADER + index * entry;
            let key = Key::read(&bytes, at)?;
            if index == 0 && expected.first.is_some_and(|first| first != key) {
                return Err(doubt("does not start as its parent says"));
            }
            if root.level > 0 {
                let (logical, generation) = (le64(&bytes, at + KEY)?, le64(&bytes, at + KEY + 8)?);
                let child = Root { logical, generation, level: root.level - 1, ..*root };
                self.block(&Expected { root: child, first: Some(key) }, last, visit)?;
                continue;
            }
            if last.is_some_and(|last| last >= key) {
                return Err(doubt("is out of order"));
            }
            *last = Some(key);
            let start = HEADER.saturating_add(le32(&bytes, at + KEY)? as usize);
            let end = start.saturating_add(le32(&bytes, at + KEY + 4)? as usize);
            visit(key, bytes.get(start..end).ok_or_else(|| doubt("has an item outside itself"))?)?;
        }
        Ok(())
    }

    fn read(&self, root: &Root) -> Result<Vec<u8>, String> {
        let node = self.superblock.node;
        let places = self.chunks.locate(root.logical, node).ok_or("lies in no chunk")?;
        let bytes = self.window.read(places[0], node).map_err(|doubt| format!("cannot be read: {doubt}"))?;
        if !self.superblock.checksum.fits(&bytes) {
            return Err("has a wrong checksum".to_owned());
        }
        let number = |at| le64(&bytes, at).map_err(|doubt| doubt.reason);
        let named = bytes.get(32..48) == Some(&self.superblock.uuid)
            && number(48)? == root.logical
            && number(80)? == root.generation
            && root.generation <= self.superblock.generation
            && number(88)? == root.tree
            && bytes.get(100) == Some(&root.level);
        if !named {
            return Err("is another block: filesystem, place, commit, owner or level differ".to_owned());
        }
        Ok(bytes)
    }
}
