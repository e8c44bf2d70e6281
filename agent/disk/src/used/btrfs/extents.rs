//! What is in use within chunks, and the counts that must agree with it.

use super::chunks::Chunks;
use super::superblock::{MOST_LEVELS, Superblock};
use super::tree::{Key, Root, Trees};
use crate::used::fields::le64;
use crate::used::print::Print;
use crate::used::{Doubt, Ranges};

/// The chunks with what is known of their use.
pub(super) struct Groups<'a> {
    chunks: &'a Chunks,
    groups: Vec<Group>,
}

/// A block group: the use of one chunk.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    /// Bytes that its item calls used; none when no item was found.
    said: Option<u64>,
    /// Bytes of its extents.
    found: u64,
    /// Logical address behind its last extent.
    end: u64,
    /// The gaps between its extents.
    pub gaps: Print,
}

impl<'a> Groups<'a> {
    pub fn new(chunks: &'a Chunks) -> Self {
        let group = |start| Group { end: start, ..Group::default() };
        Self { chunks, groups: chunks.iter().map(|chunk| group(chunk.logical)).collect() }
    }

    /// With the chunk that each has the use of.
    pub fn iter(&self) -> impl Iterator<Item = (&super::chunks::Chunk, &Group)> {
        self.chunks.iter().zip(&self.groups)
    }

    /// Walks the extent tree: adds every extent to `used`, all its copies; and reads block group items where they lie in it.
    pub fn read_extents(&mut self, trees: &Trees<'_>, root: &Root, used: &mut Ranges) -> Result<(), Doubt> {
        let superblock = trees.superblock;
        let items_here = !superblock.has_group_tree();
        trees.walk(root, &mut |key, item| {
            let length = match key.kind {
                Key::EXTENT => key.offset,
                Key::METADATA if key.offset < MOST_LEVELS.into() => superblock.node,
                Key::GROUP if items_here => return self.item(key, item),
                Key::METADATA | Key::GROUP => return Err(Doubt::new("its extent tree holds what it cannot")),
                _ => return Ok(()),
            };
            self.extent(key.object, length, superblock, used)
        })
    }

    /// Walks the tree of block group items.
    pub fn read_items(&mut self, trees: &Trees<'_>, root: &Root) -> Result<(), Doubt> {
        trees.walk(root, &mut |key, item| if key.kind == Key::GROUP { self.item(key, item) } else { Ok(()) })
    }

    fn extent(
        &mut self,
        start: u64,
        length: u64,
        superblock: &Superblock,
        used: &mut Ranges,
    ) -> Result<(), Doubt> {
        let doubt = |what: &str| Doubt::new(format!("extent {start} of {length} bytes {what}"));
        let whole = |number: u64| number.is_multiple_of(superblock.sector);
        let Some((index, chunk)) = self.chunks.find(start, length) else {
            return Err(doubt("lies in no chunk"));
        };
        let group = &mut self.groups[index];
        if length == 0 || !whole(start) || !whole(length) || start < group.end {
            return Err(doubt("is empty, not whole, or overlaps the one before"));
        }
        group.gaps.add(group.end..start);
        group.end = start + length;
        group.found += length;
        for copy in &chunk.copies {
            let at = copy + (start - chunk.logical);
            used.insert(at..at + length);
        }
        Ok(())
    }

    fn item(&mut self, key: Key, item: &[u8]) -> Result<(), Doubt> {
        let doubt = |what: &str| Doubt::new(format!("block group {} {what}", key.object));
        let found = self.chunks.find(key.object, key.offset);
        let Some((index, chunk)) =
            found.filter(|(_, chunk)| chunk.logical == key.object && chunk.length == key.offset)
        else {
            return Err(doubt("is no chunk"));
        };
        if le64(item, 16)? != chunk.kind {
            return Err(doubt("is of another kind than its chunk"));
        }
        self.groups[index].said = Some(le64(item, 0)?);
        Ok(())
    }

    /// Each chunk has a block group that counts what its extents sum up to, and the superblock counts all of them.
    pub fn must_agree(&mut self, superblock: &Superblock) -> Result<(), Doubt> {
        let mut sum = 0;
        for (chunk, group) in self.chunks.iter().zip(&mut self.groups) {
            if group.said != Some(group.found) {
                return Err(Doubt::new(format!(
                    "block group {} counts {:?} bytes and its extents are {}",
                    chunk.logical, group.said, group.found
                )));
            }
            group.gaps.add(group.end..chunk.addresses().end);
            sum += group.found;
        }
        if sum != superblock.bytes_used {
            return Err(Doubt::new(format!(
                "its superblock counts {} bytes and its extents are {sum}",
                superblock.bytes_used
            )));
        }
        Ok(())
    }
}
