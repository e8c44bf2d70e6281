//! Evidence beside the superblock's flags that nobody has anything left to write: the journal and the multi-mount protection.
//! Source of the layouts: the kernel's Documentation/filesystems/ext4/journal.rst, ifork.rst and mmp.rst.

use super::groups::{self, Group};
use super::superblock::{Superblock, compat, incompat};
use crate::used::fields::{be32, le16, le32};
use crate::used::{Doubt, Window};

const JOURNAL_MAGIC: u32 = 0xc03b_3998;
const EXTENT_MAGIC: u16 = 0xf30a;
/// The deepest extent tree the kernel makes.
const DEEPEST: usize = 5;

/// A doubt unless the journal is empty and no other machine holds the filesystem.
pub(super) fn check(window: &Window<'_>, superblock: &Superblock) -> Result<(), Doubt> {
    if superblock.incompat & incompat::MMP != 0 {
        let raw = block(window, superblock, superblock.mmp)?;
        if le32(&raw, 0)? != 0x004d_4d50 || le32(&raw, 4)? != 0xff4d_4d50 {
            return Err(Doubt::new(
                "it is not clean: its multi-mount protection says that a machine is using it",
            ));
        }
    }
    if superblock.compat & compat::JOURNAL == 0 {
        return Ok(());
    }
    if superblock.journal == 0 {
        return Err(Doubt::new("its journal is on another device"));
    }
    let raw = journal_head(window, superblock)?;
    if be32(&raw, 0)? != JOURNAL_MAGIC || !matches!(be32(&raw, 4)?, 3 | 4) {
        return Err(Doubt::new("its journal cannot be read"));
    }
    if be32(&raw, 0x1c)? != 0 {
        return Err(Doubt::new("it is not clean: its journal is not empty"));
    }
    if be32(&raw, 0x20)? != 0 {
        return Err(Doubt::new("its journal has recorded an error: let e2fsck look at it"));
    }
    Ok(())
}

fn block(window: &Window<'_>, superblock: &Superblock, number: u64) -> Result<Vec<u8>, Doubt> {
    if number >= superblock.blocks {
        return Err(Doubt::new(format!("it names block {number}, which it does not have")));
    }
    window.read(number * superblock.block, superblock.block)
}

/// The first block of the journal, through its inode.
fn journal_head(window: &Window<'_>, superblock: &Superblock) -> Result<Vec<u8>, Doubt> {
    let index = superblock.journal - 1;
    let number = index / superblock.group_inodes;
    let Some(group) = groups::one(window, superblock, number)? else {
        return Err(Doubt::new("its journal has an impossible inode"));
    };
    let Group { inode_table, .. } = group;
    let at = inode_table * superblock.block + index % superblock.group_inodes * superblock.inode_size;
    let inode = window.read(at, 128)?;
    let mut node = inode[0x28..0x64].to_vec();
    if le16(&node, 0)? != EXTENT_MAGIC {
        return block(window, superblock, u64::from(le32(&node, 0)?));
    }
    for _ in 0..=DEEPEST {
        // The first entry, behind the header, covers the first block: of a leaf (high half, low half of the place) or of
        // an index (low half, high half).
        if le16(&node, 0)? != EXTENT_MAGIC || le16(&node, 2)? == 0 || le32(&node, 12)? != 0 {
            break;
        }
        let (low, high) = if le16(&node, 6)? == 0 { (20, 18) } else { (16, 20) };
        let place = u64::from(le32(&node, low)?) | u64::from(le16(&node, high)?) << 32;
        let leaf = le16(&node, 6)? == 0;
        node = block(window, superblock, place)?;
        if leaf {
            return Ok(node);
        }
    }
    Err(Doubt::new("its journal cannot be found"))
}
