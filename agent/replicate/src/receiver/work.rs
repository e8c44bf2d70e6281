//! What the receiver's threads do with a message: write a chunk, zero chunks, compare chunks.

use std::cell::RefCell;

use anyhow::{Context, Result, bail, ensure};
use gantry_disk::buffer::AlignedBuffer;
use gantry_disk::{DiskError, ReadAt, WriteAt};
use gantry_wire::limits::CHUNK;
use gantry_wire::message::{Encoding, Extent, Fault};
use gantry_wire::tree::{self, Hash};
use tokio::time::error::Elapsed;

use super::session::SessionDisk;

thread_local! {
    // One aligned chunk a thread, so that O_DIRECT neither copies nor allocates.
    static BUFFER: RefCell<AlignedBuffer> = RefCell::new(AlignedBuffer::new(CHUNK as usize));
}

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

/// Unpacks, checks and writes a chunk.
pub fn write_chunk(disk: &SessionDisk, chunk: &Incoming) -> Result<()> {
    let length = disk.chunk_length(chunk.index) as usize;
    ensure!(
        chunk.length as usize == length,
        "chunk {} has {} bytes, not {length}",
        chunk.index,
        chunk.length
    );
    BUFFER.with_borrow_mut(|buffer| {
        let bytes = &mut buffer[..length];
        match chunk.encoding {
            Encoding::Raw => {
                ensure!(
                    chunk.data.len() == length,
                    "chunk {} carries {} bytes",
                    chunk.index,
                    chunk.data.len()
                );
                bytes.copy_from_slice(&chunk.data);
            }
            Encoding::Zstd => {
                // The output is bounded by the buffer, whatever the frame claims.
                let made = zstd::bulk::decompress_to_buffer(&chunk.data, bytes);
                let made = made.with_context(|| format!("unpacking chunk {}", chunk.index))?;
                ensure!(made == length, "chunk {} unpacks to {made} bytes, not {length}", chunk.index);
            }
        }
        if tree::chunk(bytes) != chunk.node {
            bail!("chunk {} of {} arrived damaged", chunk.index, disk.source.path);
        }
        forget(disk, chunk.index, 1);
        Ok(disk.replica.write_at(chunk.index * CHUNK, bytes)?)
    })
}

/// Makes chunks zero.
pub fn write_zeroes(disk: &SessionDisk, extent: Extent) -> Result<()> {
    let start = extent.first * CHUNK;
    let stop = ((extent.first + extent.count) * CHUNK).min(disk.source.size);
    forget(disk, extent.first, extent.count);
    Ok(disk.replica.zero_at(start, stop - start)?)
}

/// Nothing is known of a chunk from the moment a write to it begins.
fn forget(disk: &SessionDisk, first: u64, count: u64) {
    let mut known = disk.known();
    for index in first..first + count {
        known.durable.remove(index);
        known.verified.remove(index);
    }
}

/// Reads chunks back and compares them with the source's nodes. Bit i of the answer: chunk `first + i` differs.
pub fn compare(disk: &SessionDisk, first: u64, nodes: &[Hash]) -> Result<u64> {
    let mut differing = 0;
    for (i, node) in nodes.iter().enumerate() {
        let index = first + i as u64;
        {
            let known = disk.known();
            if known.verified.contains(index) && known.nodes[index as usize] == *node {
                continue;
            }
        }
        let ours = BUFFER.with_borrow_mut(|buffer| -> Result<Hash, DiskError> {
            let bytes = &mut buffer[..disk.chunk_length(index) as usize];
            disk.replica.read_at(index * CHUNK, bytes)?;
            Ok(tree::chunk(bytes))
        })?;
        let mut known = disk.known();
        if ours == *node {
            known.nodes[index as usize] = ours;
            known.durable.insert(index);
            known.verified.insert(index);
        } else {
            known.verified.remove(index);
            known.rewritten += 1;
            differing |= 1 << i;
        }
    }
    Ok(differing)
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
