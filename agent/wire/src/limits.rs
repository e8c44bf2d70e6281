//! The limits that every length, offset and count from a peer is checked against.

/// Unit of transfer: bytes in a chunk.
pub const CHUNK: u64 = 1 << 20;
/// Unit of hashing: bytes in a leaf.
pub const LEAF: usize = 64 << 10;
/// Leaves in a chunk.
pub const LEAVES_PER_CHUNK: usize = CHUNK as usize / LEAF;
/// Largest payload of a frame: a raw chunk, its header, and room for a badly compressing one.
pub const FRAME_PAYLOAD: usize = CHUNK as usize + 4096;
/// Largest frame before pairing: nobody unpaired makes us hold more than this.
pub const UNPAIRED_PAYLOAD: usize = 256;
/// Disks of one machine.
pub const DISKS: usize = 64;
/// Bytes of a text field.
pub const TEXT: usize = 1024;
/// Bytes of the committed report: it goes in one frame.
pub const REPORT: usize = CHUNK as usize;
/// Extents in one list.
pub const EXTENTS: usize = 32 << 10;
/// Chunks in a group: 64 MiB, the unit in which hashes are kept, so that a terabyte costs half a MiB of memory.
pub const GROUP: u64 = 64;
/// Largest disk: 16 PiB, so that offsets never overflow.
pub const DISK_BYTES: u64 = 1 << 54;
/// Most data streams of an epoch.
pub const STREAMS: u8 = 16;
