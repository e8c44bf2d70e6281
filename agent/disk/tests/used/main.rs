//! Used maps, proven by poison against real filesystems. One program, so that all kinds share one harness.

#![expect(clippy::unwrap_used, reason = "a proof that cannot go on stops")]

mod btrfs;
mod ext;
mod lvm;
mod md;
mod ntfs;
mod poison;
mod whole;
mod xfs;
