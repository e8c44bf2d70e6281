//! What the receiver's threads do with what arrives: write a chunk, write leaves, zero chunks.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use gantry_disk::{DiskError, WriteAt};
use gantry_wire::limits::CHUNK;
use gantry_wire::message::{Encoding, Extent, Fault};
use gantry_wire::tree::{self, Hash};
use tokio::time::error::Elapsed;

use super::session::SessionDisk;
use crate::buffer::with_buffer;
use crate::pack::unpack;
use crate::patch::ranges;

/// A chunk as it came.
pub struct Incoming {
    /// Chunk number.
    pub index: u64,
    /// How its bytes travelled.
    pub encoding: Encoding,
    /// Bytes it must have.
    pub length: u32,
    /// Its node.
    pub node: Hash,
    /// What travelled.
    pub data: Vec<u8>,
}

/// Leaves of a chunk as they came.
pub struct IncomingPatch {
    /// Chunk number.
    pub index: u64,
    /// Which leaves, a bit each.
    pub leaves: u16,
    /// How their bytes travelled.
    pub encoding: Encoding,
    /// The node of their bytes as a chunk of their own.
    pub node: Hash,
    /// What travelled.
    pub data: Vec<u8>,
}

/// Unpacks, checks and writes a chunk.
pub fn write_chunk(disk: &SessionDisk, chunk: &Incoming) -> Result<()> {
    let name = || format!("chunk {} of {}", chunk.index, disk.source.path);
    let length = disk.chunk_length(chunk.index) as usize;
    ensure!(chunk.length as usize == length, "{}: {} bytes, not {length}", name(), chunk.length);
    with_buffer(length, |bytes| {
        unpack(chunk.encoding, &chunk.data, &chunk.node, bytes).with_context(name)?;
        disk.forget(chunk.index, 1);
        Ok(disk.replica.write_at(chunk.index * CHUNK, bytes)?)
    })
}

/// Unpacks, checks and writes leaves of a chunk.
pub fn write_patch(disk: &SessionDisk, patch: &IncomingPatch) -> Result<()> {
    let name = || format!("leaves of chunk {} of {}", patch.index, disk.source.path);
    let ranges = ranges(patch.leaves, disk.chunk_length(patch.index) as usize);
    with_buffer(ranges.iter().map(Range::len).sum(), |bytes| {
        unpack(patch.encoding, &patch.data, &patch.node, bytes).with_context(name)?;
        disk.forget(patch.index, 1);
        let mut rest = &*bytes;
        for range in ranges {
            let (part, behind) = rest.split_at(range.len());
            rest = behind;
            let at = patch.index * CHUNK + range.start as u64;
            match tree::is_zero(part) {
                true => disk.replica.zero_at(at, part.len() as u64)?,
                false => disk.replica.write_at(at, part)?,
            }
        }
        Ok(())
    })
}

/// Makes chunks zero, and remembers those that are unused.
pub fn write_zeroes(disk: &SessionDisk, extent: Extent, unused: bool) -> Result<()> {
    let start = extent.first * CHUNK;
    let stop = ((extent.first + extent.count) * CHUNK).min(disk.source.size);
    disk.forget(extent.first, extent.count);
    disk.replica.zero_at(start, stop - start)?;
    if unused {
        let mut known = disk.known();
        for index in extent.first..extent.first + extent.count {
            known.unused.insert(index);
        }
    }
    Ok(())
}

/// Whether a failure lies with this end's disk, with the network, or with what the peer sent.
pub fn fault_of(error: &anyhow::Error) -> Fault {
    if error.chain().any(|cause| cause.is::<DiskError>()) {
        Fault::Disk
    } else if error.chain().any(|cause| cause.is::<std::io::Error>() || cause.is::<Elapsed>()) {
        Fault::Internal
    } else {
        Fault::Protocol
    }
}
