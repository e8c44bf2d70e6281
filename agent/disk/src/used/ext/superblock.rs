//! The superblock: what the filesystem looks like, and whether it says that it is clean.
//! Source of the layout: the kernel's Documentation/filesystems/ext4/super.rst.

use crate::used::checksum::crc32c;
use crate::used::fields::{le16, le32, le64};
use crate::used::{Doubt, Window};

/// Byte of the superblock, whatever the block size.
pub(super) const PLACE: u64 = 1024;
const LENGTH: u64 = 1024;

pub(super) mod compat {
    pub const JOURNAL: u32 = 0x4;
    pub const SPARSE_SUPER2: u32 = 0x200;
    /// Those that do not change where blocks are: directory preallocation, imagic inodes, journal, attributes, resize inode,
    /// directory index, sparse_super2, fast commit, stable inodes, orphan file.
    pub const KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x200 | 0x400 | 0x800 | 0x1000;
}

pub(super) mod incompat {
    pub const RECOVER: u32 = 0x4;
    pub const JOURNAL_DEVICE: u32 = 0x8;
    pub const META_BG: u32 = 0x10;
    pub const BIT64: u32 = 0x80;
    pub const MMP: u32 = 0x100;
    pub const CHECKSUM_SEED: u32 = 0x2000;
    /// File types, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, checksum seed, large directories, inline data,
    /// encryption, case folding.
    pub const KNOWN: u32 =
        0x2 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;
}

pub(super) mod ro_compat {
    pub const SPARSE_SUPER: u32 = 0x1;
    pub const GDT_CHECKSUM: u32 = 0x10;
    pub const BIGALLOC: u32 = 0x200;
    pub const METADATA_CHECKSUM: u32 = 0x400;
    pub const ORPHANS: u32 = 0x1_0000;
    /// Sparse superblocks, large files, b-tree directories, huge files, checksums of descriptors, many subdirectories, extra
    /// inode fields, quota, bigalloc, metadata checksums, read-only, project quota, verity.
    pub const KNOWN: u32 =
        0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x8000;
}

/// What the mapper needs of it. Numbers are checked against each other and the window.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    /// Bytes of a block.
    pub block: u64,
    /// Blocks of a cluster: 1 without bigalloc.
    pub ratio: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// First block of group 0.
    pub first: u64,
    /// Blocks of a group; a multiple of 8 clusters.
    pub group_blocks: u64,
    /// Groups.
    pub groups: u64,
    /// Free blocks, as the superblock counts them (descriptors count clusters).
    pub free: u64,
    /// Inodes of a group.
    pub group_inodes: u64,
    /// Bytes of an inode.
    pub inode_size: u64,
    /// Bytes of a group descriptor.
    pub descriptor: u64,
    /// Blocks kept behind the descriptors for growing.
    pub reserved: u64,
    /// The first meta group whose descriptors lie in its own groups; `u64::MAX` without meta_bg.
    pub first_meta: u64,
    /// The two groups with copies, for sparse_super2.
    pub backups: [u64; 2],
    pub compat: u32,
    pub incompat: u32,
    pub ro_compat: u32,
    pub uuid: [u8; 16],
    /// Where the checksums of metadata start.
    pub seed: u32,
    /// Inode of the journal.
    pub journal: u64,
    /// Block of the multi-mount protection.
    pub mmp: u64,
}

impl Superblock {
    /// Reads and checks it.
    pub(super) fn read(window: &Window<'_>) -> Result<Self, Doubt> {
        let raw = window.read(PLACE, LENGTH)?;
        if le16(&raw, 0x38)? != 0xef53 {
            return Err(Doubt::new("its superblock has no signature"));
        }
        // Revision 0 has no features, and what follows the first 84 bytes means nothing.
        let dynamic = le32(&raw, 0x4c)? > 0;
        let feature = |at| if dynamic { le32(&raw, at) } else { Ok(0) };
        let (compat, incompat, ro_compat) = (feature(0x5c)?, feature(0x60)?, feature(0x64)?);
        let checksums = ro_compat & ro_compat::METADATA_CHECKSUM != 0;
        if checksums && crc32c(u32::MAX, &[&raw[..0x3fc]]) != le32(&raw, 0x3fc)? {
            return Err(Doubt::new("its superblock has a wrong checksum"));
        }
        refuse_features(compat, incompat, ro_compat)?;
        refuse_dirty(&raw, dynamic)?;

        let wide = incompat & incompat::BIT64 != 0;
        let count = |low, high| -> Result<u64, Doubt> {
            Ok(u64::from(le32(&raw, low)?) | if wide { u64::from(le32(&raw, high)?) << 32 } else { 0 })
        };
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&raw[0x68..0x78]);
        let seed = match incompat & incompat::CHECKSUM_SEED != 0 {
            true => le32(&raw, 0x270)?,
            false => crc32c(u32::MAX, &[&uuid]),
        };
        let bigalloc = ro_compat & ro_compat::BIGALLOC != 0;
        let log_block = limited(le32(&raw, 0x18)?, 6, "block size")?;
        let log_cluster = match bigalloc {
            true => limited(le32(&raw, 0x1c)?, 29, "cluster size")?,
            false => log_block,
        };
        let meta_bg = incompat & incompat::META_BG != 0;
        let superblock = Self {
            block: 1024 << log_block,
            ratio: 1 << log_cluster.checked_sub(log_block).ok_or_else(|| odd("cluster size"))?,
            blocks: count(0x4, 0x150)?,
            first: u64::from(le32(&raw, 0x14)?),
            group_blocks: u64::from(le32(&raw, 0x20)?),
            groups: 0,
            free: count(0xc, 0x158)?,
            group_inodes: u64::from(le32(&raw, 0x28)?),
            inode_size: if dynamic { u64::from(le16(&raw, 0x58)?) } else { 128 },
            descriptor: if wide { u64::from(le16(&raw, 0xfe)?) } else { 32 },
            reserved: if dynamic { u64::from(le16(&raw, 0xce)?) } else { 0 },
            first_meta: if meta_bg { u64::from(le32(&raw, 0x104)?) } else { u64::MAX },
            backups: [u64::from(le32(&raw, 0x24c)?), u64::from(le32(&raw, 0x250)?)],
            compat,
            incompat,
            ro_compat,
            uuid,
            seed,
            journal: u64::from(le32(&raw, 0xe0)?),
            mmp: le64(&raw, 0x168)?,
        };
        let clusters = if bigalloc { u64::from(le32(&raw, 0x24)?) } else { superblock.group_blocks };
        superblock.checked(window, clusters)
    }

    /// Numbers that contradict each other or the window are doubts. Everything the mapper multiplies is bounded here.
    fn checked(mut self, window: &Window<'_>, clusters: u64) -> Result<Self, Doubt> {
        let bits = self.block * 8;
        if clusters == 0
            || clusters > bits
            || !clusters.is_multiple_of(8)
            || clusters * self.ratio != self.group_blocks
        {
            return Err(odd("group size"));
        }
        if self.first > 1 || self.first >= self.blocks || (self.block * self.ratio > 1024 && self.first != 0)
        {
            return Err(odd("first block"));
        }
        let bytes = self.blocks.checked_mul(self.block).ok_or_else(|| odd("size"))?;
        if bytes > window.size() {
            return Err(Doubt::new(format!("it is larger ({bytes} bytes) than what it lies in")));
        }
        self.groups = (self.blocks - self.first).div_ceil(self.group_blocks);
        if self.group_inodes == 0 || self.group_inodes > bits {
            return Err(odd("number of inodes"));
        }
        let sound = |size: u64, least| size.is_power_of_two() && (least..=self.block).contains(&size);
        if !sound(self.inode_size, 128) {
            return Err(odd("inode size"));
        }
        if self.descriptor != 32 && (!sound(self.descriptor, 64) || self.descriptor > 1024) {
            return Err(odd("descriptor size"));
        }
        if self.descriptor == 32 && self.incompat & incompat::BIT64 != 0 {
            return Err(odd("descriptor size"));
        }
        Ok(self)
    }

    /// Clusters of a group, but for the last one.
    pub(super) fn group_clusters(&self) -> u64 {
        self.group_blocks / self.ratio
    }

    /// Descriptors in a block.
    pub(super) fn descriptors_in_block(&self) -> u64 {
        self.block / self.descriptor
    }

    /// Whether descriptors carry checksums: only then the flags for uninitialised groups count.
    pub(super) fn descriptors_are_checked(&self) -> bool {
        self.ro_compat & (ro_compat::GDT_CHECKSUM | ro_compat::METADATA_CHECKSUM) != 0
    }

    /// Whether bitmaps carry checksums.
    pub(super) fn bitmaps_are_checked(&self) -> bool {
        self.ro_compat & ro_compat::METADATA_CHECKSUM != 0
    }

    /// Whether the group holds a copy of the superblock.
    pub(super) fn has_copy(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat & compat::SPARSE_SUPER2 != 0 {
            return self.backups.contains(&group);
        }
        if self.ro_compat & ro_compat::SPARSE_SUPER == 0 || group == 1 {
            return true;
        }
        [3, 5, 7].iter().any(|&base| {
            let mut power: u64 = base;
            while power < group {
                power *= base;
            }
            power == group
        })
    }
}

fn odd(what: &str) -> Doubt {
    Doubt::new(format!("its superblock has an impossible {what}"))
}

fn limited(number: u32, limit: u32, what: &str) -> Result<u32, Doubt> {
    if number > limit { Err(odd(what)) } else { Ok(number) }
}

fn refuse_features(compat: u32, incompat: u32, ro_compat: u32) -> Result<(), Doubt> {
    if incompat & incompat::JOURNAL_DEVICE != 0 {
        return Err(Doubt::new("it is the journal of another filesystem"));
    }
    if incompat & incompat::RECOVER != 0 {
        return Err(Doubt::new("it is not clean: its journal must be replayed"));
    }
    if ro_compat & ro_compat::ORPHANS != 0 {
        return Err(Doubt::new("it is not clean: deleted files wait to be released"));
    }
    let unknown = [
        ("compatible", compat & !compat::KNOWN),
        ("incompatible", incompat & !incompat::KNOWN),
        ("read-only compatible", ro_compat & !ro_compat::KNOWN),
    ];
    for (name, bits) in unknown {
        if bits != 0 {
            return Err(Doubt::new(format!("it has {name} features that are not known here ({bits:#x})")));
        }
    }
    Ok(())
}

fn refuse_dirty(raw: &[u8], dynamic: bool) -> Result<(), Doubt> {
    let state = le16(raw, 0x3a)?;
    if state & 2 != 0 || (dynamic && le32(raw, 0x194)? != 0) {
        return Err(Doubt::new("it has recorded errors: let e2fsck look at it"));
    }
    if state != 1 {
        return Err(Doubt::new("it is not clean: it was not unmounted"));
    }
    if dynamic && le32(raw, 0xe8)? != 0 {
        return Err(Doubt::new("it is not clean: deleted files wait to be released"));
    }
    Ok(())
}
