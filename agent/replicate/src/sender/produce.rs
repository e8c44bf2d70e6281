//! What the sender's threads do: read chunks, hash them, make frames of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use gantry_disk::{BadSectors, Careful, Geometry, ReadAt};
use gantry_wire::limits::{CHUNK, GROUP, LEAF};
use gantry_wire::message::{Encoding, Extent};
use gantry_wire::tree::{self, Hash, Leaves};
use gantry_wire::{DiskInfo, Message};
use tokio::sync::mpsc;

use crate::buffer::with_buffer;
use crate::chunkset::ChunkSet;
use crate::groups::GroupNodes;
use crate::patch::ranges;
use crate::receiver::disk_info;
use crate::report::SourceDiskFacts;
use crate::stop::Stop;

/// Fast enough for a gigabit on one slow core, and most of what a higher level saves.
const ZSTD_LEVEL: i32 = 1;

/// A source disk and what is known of it.
pub struct SourceDisk {
    end: Careful,
    /// As it is told to the other end.
    pub info: DiskInfo,
    /// What this process has read of it.
    groups: Mutex<GroupNodes>,
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
    pub fn new(end: Arc<dyn ReadAt>, bad_sectors: BadSectors) -> Self {
        let info = disk_info(&*end);
        let end = Careful::new(end, bad_sectors);
        let (groups, sent) = (GroupNodes::new(info.size), ChunkSet::new(tree::chunks(info.size)));
        Self { end, info, groups: groups.into(), sent: sent.into(), resent: AtomicU64::new(0) }
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        tree::chunks(self.info.size)
    }

    /// What is known of it.
    pub fn groups(&self) -> MutexGuard<'_, GroupNodes> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What only this end knows of it.
    pub fn facts(&self) -> SourceDiskFacts {
        let bad_sectors = self.end.given_up().into_iter().map(|range| (range.start, range.end - range.start));
        SourceDiskFacts { path: self.info.path.clone(), bad_sectors: bad_sectors.collect() }
    }

    /// The root, once every chunk has been read.
    pub fn root(&self) -> Result<Hash> {
        let root = self.groups().root(self.end.sector_size().bytes());
        root.with_context(|| format!("{} was not read as a whole", self.info.path))
    }

    /// Reads a chunk and gives it to `work`.
    fn read<T>(&self, index: u64, work: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let length = self.groups().chunk_length(index);
        with_buffer(length, |bytes| {
            self.end.read_at(index * CHUNK, bytes)?;
            Ok(work(bytes))
        })
    }

    /// The source must not change while it is copied; `known` is what was read before.
    fn changed(&self, known: Hash, now: Hash, byte: u64) -> Result<()> {
        if known == now {
            return Ok(());
        }
        let disk = &self.info.path;
        let text = format!("{disk}: the source changed while it was being copied, at or behind byte {byte}");
        Err(Stop(text).into())
    }

    /// A group's node is known now: it must be what it was.
    fn learn(&self, group: u64, node: Hash) -> Result<()> {
        let known = {
            let mut groups = self.groups();
            let known = groups.node(group);
            groups.set(group, node);
            known
        };
        self.changed(known.unwrap_or(node), node, group * GROUP * CHUNK)
    }

    /// Reads a group; the leaves of its chunks.
    pub fn leaves(&self, group: u64) -> Result<Vec<Leaves>> {
        let (first, count) = self.groups().chunks_of(group);
        let rows = (first..first + count).map(|index| self.read(index, tree::leaves));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        self.learn(group, tree::group(&rows.iter().map(tree::chunk_of).collect::<Vec<_>>()))?;
        Ok(rows)
    }

    /// Reads chunks for a full pass and puts their frames into the channel: data one by one, zeroes by run.
    pub fn produce(&self, stamp: Stamp, extent: Extent, frames: &mpsc::Sender<Vec<u8>>) -> Result<()> {
        let Stamp { epoch, pass, disk } = stamp;
        let mut zeroes = Extent { first: extent.first, count: 0 };
        for index in extent.first..extent.first + extent.count {
            let (node, frame) = self.read(index, |bytes| {
                let node = tree::chunk(bytes);
                if node == tree::zero_chunk() {
                    return (node, None);
                }
                let (encoding, data) = pack(bytes);
                let length = bytes.len() as u32;
                (node, Some(Message::Chunk { epoch, pass, disk, index, encoding, length, node, data }))
            })?;
            let group = self.groups().add(index, node);
            if let Some((group, node)) = group {
                self.learn(group, node)?;
            }
            if !self.sent.lock().unwrap_or_else(PoisonError::into_inner).insert(index) {
                self.resent.fetch_add(1, Ordering::Relaxed);
            }
            match frame {
                None => zeroes.count += 1,
                Some(frame) => {
                    put_zeroes(stamp, zeroes, frames)?;
                    zeroes = Extent { first: index + 1, count: 0 };
                    put(&frame, frames)?;
                }
            }
        }
        put_zeroes(stamp, zeroes, frames)
    }

    /// Reads the leaves in `wanted` of a chunk whose leaves were `known`, and puts their frame into the channel.
    pub fn patch(
        &self,
        stamp: Stamp,
        index: u64,
        known: &Leaves,
        wanted: u16,
        frames: &mpsc::Sender<Vec<u8>>,
    ) -> Result<()> {
        let length = self.groups().chunk_length(index);
        let start = index * CHUNK;
        let frame = with_buffer(length, |bytes| -> Result<Message> {
            let mut filled = 0;
            for range in ranges(wanted, length) {
                let part = &mut bytes[filled..filled + range.len()];
                self.end.read_at(start + range.start as u64, part)?;
                for (i, leaf) in part.chunks(LEAF).enumerate() {
                    let at = range.start + i * LEAF;
                    self.changed(known[at / LEAF], tree::leaves(leaf)[0], start + at as u64)?;
                }
                filled += range.len();
            }
            let node = tree::chunk(&bytes[..filled]);
            let (encoding, data) = pack(&bytes[..filled]);
            let Stamp { epoch, pass, disk } = stamp;
            Ok(Message::Patch { epoch, pass, disk, index, leaves: wanted, encoding, node, data })
        })?;
        put(&frame, frames)
    }
}

fn put_zeroes(stamp: Stamp, extent: Extent, frames: &mpsc::Sender<Vec<u8>>) -> Result<()> {
    if extent.count == 0 {
        return Ok(());
    }
    let Stamp { epoch, pass, disk } = stamp;
    put(&Message::Zeroes { epoch, pass, disk, extent }, frames)
}

fn put(message: &Message, frames: &mpsc::Sender<Vec<u8>>) -> Result<()> {
    if frames.blocking_send(message.to_frame()).is_err() {
        bail!("the data streams are closed");
    }
    Ok(())
}

/// Less than 5 % gain does not pay for the unpacking: then bytes travel as they are.
fn pack(bytes: &[u8]) -> (Encoding, Vec<u8>) {
    let packed = zstd::bulk::compress(bytes, ZSTD_LEVEL).ok();
    match packed.filter(|packed| packed.len() < bytes.len() - bytes.len() / 20) {
        Some(packed) => (Encoding::Zstd, packed),
        None => (Encoding::Raw, bytes.to_vec()),
    }
}
