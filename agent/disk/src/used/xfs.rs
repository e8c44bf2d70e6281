//! XFS, versions 4 and 5.
//!
//! The space of an XFS is cut into allocation groups of the same size. Each keeps its free space twice: in a B+tree by block
//! and in one by length. Used is what neither calls free, so blocks that a group holds back for its own trees (the free
//! list), its headers, the log inside the filesystem and all data are used without being looked for.
//!
//! The evidence: the log ends with the record of an unmount; all copies of the superblock have the same geometry; the two
//! trees of each group hold the same extents, which sum up to what the group's header says, and all groups to what the
//! superblock says. On version 5 every block also names itself (checksum, place, owner, filesystem).
//!
//! Cost: three reads and a few for the log on an empty group of up to a tebibyte. A group of version 5 with a million
//! free extents has some four thousand tree blocks of each kind.
//!
//! Sources: the kernel's documentation of the on-disk format ("XFS Algorithms & Data Structures", 3rd edition), and what
//! xfs_repair checks.

mod group;
mod log;
mod superblock;
mod tree;

use superblock::Superblock;

use super::{Doubt, Ranges, Window};

/// The used ranges of an XFS that fills `window`.
///
/// # Errors
/// A [`Doubt`] for everything that is not clean, whole and known.
pub fn map(window: &Window<'_>) -> Result<Ranges, Doubt> {
    let superblock = Superblock::read(window)?;
    log::must_be_clean(window, &superblock)?;
    let mut used = Ranges::default();
    let mut free = 0;
    for number in 0..superblock.geometry.groups {
        free += group::map(window, &superblock, number, &mut used)?;
    }
    if free != superblock.free {
        return Err(Doubt::new(format!(
            "its superblock counts {} free blocks and its groups {free}",
            superblock.free
        )));
    }
    used.insert(superblock.geometry.bytes()..window.size());
    Ok(used)
}
