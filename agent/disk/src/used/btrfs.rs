//! Btrfs on one device.
//!
//! Nothing in a Btrfs is overwritten in place: the superblock names trees of one commit, and those are consistent whether
//! or not the filesystem was unmounted. What fsync promised after that commit is in the log tree, whose blocks no extent
//! tree knows yet; a filesystem that has one is in doubt.
//!
//! Space is given out twice. Chunks map logical addresses to the device (here one copy, or two: DUP); what belongs to no chunk
//! is free but for the first MiB and the superblock's copies. Within chunks the extent tree lists every extent in use.
//!
//! The evidence: every block of a tree names itself (checksum, place, owner, filesystem, commit) and has the first key that
//! its parent says; the chunk tree and the device tree hold the same pieces of the device; each chunk has a block group whose
//! count of used bytes is the sum of its extents, and the superblock's count is the sum of those; where there is a free space
//! tree, it calls free exactly what the extent tree leaves out.
//!
//! Cost: the extent tree, some 50 bytes for each extent.
//!
//! Source: the on-disk format page of the Btrfs documentation and the kernel's `btrfs_tree.h` (structures only).

mod checksum;
mod chunks;
mod extents;
mod free;
mod superblock;
mod tree;

use superblock::Superblock;
use tree::{Key, Root, Trees};

use super::fields::le64;
use super::{Doubt, Ranges, Window};

/// What boot loaders may use: no chunk starts before it.
const BOOT: u64 = 1 << 20;

/// Numbers of the trees.
const EXTENT_TREE: u64 = 2;
const DEVICE_TREE: u64 = 4;
const FREE_SPACE_TREE: u64 = 10;
const BLOCK_GROUP_TREE: u64 = 11;

/// The used ranges of a Btrfs that fills `window`.
///
/// # Errors
/// A [`Doubt`] for everything that is not whole and known.
pub fn map(window: &Window<'_>) -> Result<Ranges, Doubt> {
    let superblock = Superblock::read(window)?;
    let mut used = Ranges::default();
    used.insert(0..BOOT.min(window.size()));
    for place in superblock.copies() {
        used.insert(place..place + superblock::SIZE);
    }
    used.insert(superblock.device_bytes..window.size());

    let chunks = chunks::read(window, &superblock)?;
    let trees = Trees { window, superblock: &superblock, chunks: &chunks };
    let roots = Roots::read(&trees)?;
    chunks::agree_with_device(&trees, &roots.named(DEVICE_TREE)?)?;
    let mut groups = extents::Groups::new(&chunks);
    groups.read_extents(&trees, &roots.named(EXTENT_TREE)?, &mut used)?;
    if superblock.has_group_tree() {
        groups.read_items(&trees, &roots.named(BLOCK_GROUP_TREE)?)?;
    }
    groups.must_agree(&superblock)?;
    if superblock.has_valid_free_space_tree() {
        free::must_agree(&trees, &roots.named(FREE_SPACE_TREE)?, &groups)?;
    }
    Ok(used)
}

/// The roots of those trees that have one of a kind.
struct Roots(Vec<Root>);

impl Roots {
    fn read(trees: &Trees<'_>) -> Result<Self, Doubt> {
        let mut roots = Vec::new();
        trees.walk(&trees.superblock.roots, &mut |key, item| {
            let wanted = [EXTENT_TREE, DEVICE_TREE, FREE_SPACE_TREE, BLOCK_GROUP_TREE];
            if key.kind == Key::ROOT && key.offset == 0 && wanted.contains(&key.object) {
                let level = item.get(238).copied().ok_or_else(|| Doubt::new("a root item is too short"))?;
                let (generation, logical) = (le64(item, 160)?, le64(item, 176)?);
                roots.push(Root { tree: key.object, logical, level, generation });
            }
            Ok(())
        })?;
        Ok(Self(roots))
    }

    fn named(&self, tree: u64) -> Result<Root, Doubt> {
        let found = self.0.iter().find(|root| root.tree == tree);
        found.copied().ok_or_else(|| Doubt::new(format!("it has no tree {tree}")))
    }
}
