//! Disk ends and what lies on them.
//!
//! A *disk end* is anything a replication can read from or write to: a block device, a raw image file, an export of
//! an NBD server. [`end`] names the small traits; [`block`], [`mod@file`],
//! [`nbd`] and [`image`] (formats, through qemu) are ends. The rest of the crate answers
//! questions about disks without touching their content: which disks this machine has, what they carry, whether
//! they are in use, how a partition table reads and what it looks like after the disk has grown, and which bytes
//! carry data at all ([`used`]).

pub mod blkid;
pub mod block;
pub mod buffer;
pub mod careful;
pub mod end;
pub mod error;
pub mod extents;
pub mod file;
pub mod image;
pub mod inventory;
mod ioctl;
pub mod label;
pub mod loops;
pub mod machine;
pub mod mark;
pub mod nbd;
pub mod peek;
pub mod pending;
pub mod relation;
pub mod roots;
pub mod schedule;
pub mod size;
pub mod survey;
pub mod table;
#[cfg(test)]
mod testing;
pub mod usage;
pub mod used;
pub mod view;

pub use block::BlockDevice;
pub use careful::{BadSectors, Careful};
pub use end::{Geometry, Identity, ReadAt, SectorSize, WriteAt};
pub use error::{DiskError, ErrorKind, Result};
pub use extents::Extent;
pub use file::ImageFile;
pub use image::FormattedImage;
pub use nbd::NbdDisk;
