//! What the sender's threads do: read chunks, hash them, make frames of them.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use gantry_disk::ReadAt;
use gantry_disk::buffer::AlignedBuffer;
use gantry_wire::limits::CHUNK;
use gantry_wire::message::{Encoding, Extent};
use gantry_wire::tree::{self, Hash, RootBuilder};
use gantry_wire::{DiskInfo, Message};
use tokio::sync::mpsc;

use crate::chunkset::ChunkSet;
use crate::receiver::disk_info;
use crate::stop::Stop;

/// Fast enough for a gigabit on one slow core, and most of what a higher level saves.
const ZSTD_LEVEL: i32 = 1;

thread_local! {
    static BUFFER: RefCell<AlignedBuffer> = RefCell::new(AlignedBuffer::new(CHUNK as usize));
}

/// A source disk and what is known of it.
pub struct SourceDisk {
    end: std::sync::Arc<dyn ReadAt>,
    /// As it is told to the other end.
    pub info: DiskInfo,
    /// Nodes of the chunks that this process has read.
    nodes: Mutex<Vec<Option<Hash>>>,
    /// Chunks that have crossed at least once in a full pass.
    sent: Mutex<ChunkSet>,
    /// Chunks that crossed more than once.
    pub resent: AtomicU64,
}

/// Which epoch and pass a frame belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Epoch.
    pub epoch: u64,
    /// Pass.
    pub pass: u32,
    /// Index of the disk in the session.
    pub disk: u16,
}

impl SourceDisk {
    /// A disk of which nothing has been read.
    pub fn new(end: std::sync::Arc<dyn ReadAt>) -> Self {
        let info = disk_info(&*end);
        let chunks = tree::chunks(info.size);
        let nodes = Mutex::new(vec![None; chunks as usize]);
        Self { end, info, nodes, sent: Mutex::new(ChunkSet::new(chunks)), resent: AtomicU64::new(0) }
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        tree::chunks(self.info.size)
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Option<Hash>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a chunk and gives it to `f` with its node. A chunk that was read before must not have changed since.
    fn read<T>(&self, index: u64, f: impl FnOnce(&[u8], Hash) -> Result<T>) -> Result<T> {
        BUFFER.with_borrow_mut(|buffer| {
            let length = CHUNK.min(self.info.size - index * CHUNK) as usize;
            let bytes = &mut buffer[..length];
            self.end.read_at(index * CHUNK, bytes)?;
            let node = tree::chunk(bytes);
            let known = self.nodes()[index as usize].replace(node);
            if known.is_some_and(|known| known != node) {
                let (disk, offset) = (&self.info.path, index * CHUNK);
                let text = format!(
                    "{disk}: the source changed while it was being copied, within 1 MiB of byte {offset}"
                );
                return Err(Stop(text).into());
            }
            f(bytes, node)
        })
    }

    /// The node of a chunk, from memory or by reading.
    fn node(&self, index: u64) -> Result<Hash> {
        let known = self.nodes()[index as usize];
        match known {
            Some(node) => Ok(node),
            None => self.read(index, |_, node| Ok(node)),
        }
    }

    /// Nodes of consecutive chunks.
    pub fn digests(&self, first: u64, count: u64) -> Result<Vec<Hash>> {
        (first..first + count).map(|index| self.node(index)).collect()
    }

    /// The root, once every chunk has been read.
    pub fn root(&self) -> Result<Hash> {
        let mut root = RootBuilder::default();
        for (index, node) in self.nodes().iter().enumerate() {
            root.push(
                node.as_ref()
                    .with_context(|| format!("chunk {index} of {} was never read", self.info.path))?,
            );
        }
        Ok(root.finish(self.info.size, self.end.sector_size().bytes()))
    }

    /// Reads chunks and puts their frames into the channel: data one by one, zeroes by run.
    pub fn produce(&self, stamp: Stamp, extent: Extent, frames: &mpsc::Sender<Vec<u8>>) -> Result<()> {
        let mut zeroes = Extent { first: extent.first, count: 0 };
        for index in extent.first..extent.first + extent.count {
            let frame = self.read(index, |bytes, node| {
                let zero = node == tree::zero_chunk() && tree::is_zero(bytes);
                Ok((!zero).then(|| chunk_frame(stamp, index, bytes, node)))
            })?;
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            if !sent.insert(index) {
                self.resent.fetch_add(1, Ordering::Relaxed);
            }
            drop(sent);
            match frame {
                None => zeroes.count += 1,
                Some(frame) => {
                    put_zeroes(stamp, zeroes, frames)?;
                    zeroes = Extent { first: index + 1, count: 0 };
                    put(frame, frames)?;
                }
            }
        }
        put_zeroes(stamp, zeroes, frames)
    }
}

fn put_zeroes(stamp: Stamp, extent: Extent, frames: &mpsc::Sender<Vec<u8>>) -> Result<()> {
    if extent.count == 0 {
        return Ok(());
    }
    let Stamp { epoch, pass, disk } = stamp;
    put(Message::Zeroes { epoch, pass, disk, extent }.to_frame(), frames)
}

fn put(frame: Vec<u8>, frames: &mpsc::Sender<Vec<u8>>) -> Result<()> {
    if frames.blocking_send(frame).is_err() {
        bail!("the data streams are closed");
    }
    Ok(())
}

fn chunk_frame(stamp: Stamp, index: u64, bytes: &[u8], node: Hash) -> Vec<u8> {
    let packed = zstd::bulk::compress(bytes, ZSTD_LEVEL).ok();
    // Less than 5 % gain does not pay for the unpacking.
    let packed = packed.filter(|packed| packed.len() < bytes.len() - bytes.len() / 20);
    let (encoding, data) = match packed {
        Some(packed) => (Encoding::Zstd, packed),
        None => (Encoding::Raw, bytes.to_vec()),
    };
    let Stamp { epoch, pass, disk } = stamp;
    Message::Chunk { epoch, pass, disk, index, encoding, length: bytes.len() as u32, node, data }.to_frame()
}
