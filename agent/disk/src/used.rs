//! Which bytes of a disk carry data.
//!
//! A copy that skips what a filesystem calls free is many times faster and is wrong for ever when the filesystem was not
//! believed with good reason. So a map needs positive evidence (law 7): the filesystem says that it was left cleanly,
//! two of its own records of free space agree, and the checksums it has are right. Everything else is a [`Doubt`],
//! and what is in doubt is copied whole, with the reason shown. Under-copying is the one fault that cannot be forgiven;
//! copying too much is a matter of speed.
//!
//! Each mapper is one function, `map`, from a [`Window`] to the [`Ranges`] of it that are used. It reads little (bitmaps
//! and trees, never data), in bounded memory and with every on-disk number checked. It trusts nothing it was not told by
//! the disk itself. Two things only the caller can know:
//!
//! * The disk must be *quiet*: cold, not mounted, or frozen since before the map was made, with all later writes tracked.
//!   A map of a live filesystem is worthless however clean it looks.
//! * In a hot migration the swap of the source is being written and read. Its content is not wanted, and
//!   the tracker reports the writes; the map of a swap area is only right because nobody will swap it in again.
//!
//! [`used_maps`] goes through whole disks: partition tables, volume groups, arrays, down to the filesystems, and back up to the
//! bytes of the disks. Filesystems are recognised by libblkid, which knows many more than are mapped here: what it
//! takes for something else, or for several things, is not looked into.
//!
//! What a boot loader may use is always used: the start of each partition, the gaps between them, head and tail of the disk.

mod bitmap;
pub mod btrfs;
mod checksum;
pub mod ext;
mod fields;
mod identify;
mod lvm;
mod md;
pub mod ntfs;
mod print;
mod ranges;
mod space;
pub mod swap;
mod whole;
mod window;
pub mod xfs;

pub use ranges::Ranges;
pub use whole::{Part, UsedMap, UsedMaps, used_maps};
pub use window::{MOST_READ, Window};

use crate::error::DiskError;

/// Why a filesystem's map is not to be had, and all of it is copied: a clause for a person that follows the name of the
/// filesystem: "it is not clean: its journal must be replayed".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Doubt {
    /// The clause.
    pub reason: String,
    /// A sleeping system was found. What it holds in memory belongs to all disks of the machine: all are copied whole.
    pub hibernated: bool,
}

impl Doubt {
    /// A doubt about one filesystem or volume.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hibernated: false }
    }

    /// A doubt about the whole machine: its memory sleeps on this disk.
    pub fn hibernated(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hibernated: true }
    }
}

/// A read error is a doubt: the copy will meet it again and report it as its options say.
impl From<DiskError> for Doubt {
    fn from(error: DiskError) -> Self {
        let cause = error.source.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::new(format!("its metadata cannot be read: {error}{cause}"))
    }
}
