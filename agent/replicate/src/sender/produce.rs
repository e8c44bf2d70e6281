//! What the sender's threads do: read chunks, hash them, make frames of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, bail};
use gantry_wire::message::{Encoding, Extent};
use gantry_wire::tree::{self, Leaves};
use gantry_wire::{DiskInfo, Message};
use tokio::sync::mpsc;

use crate::buffer::with_buffer;
use crate::chunkset::ChunkSet;
use crate::pack::pack;
use crate::patch::ranges;
use crate::progress::{Tally, add};
use crate::receiver::disk_info;
use crate::source::{Run, Source};
use crate::throttle::Reads;

/// A source disk and what has crossed of it.
pub struct SourceDisk {
    /// The disk.
    pub source: Source,
    /// As it is told to the other end.
    pub info: DiskInfo,
    /// Chunks that have crossed at least once in a full pass.
    sent: Mutex<ChunkSet>,
    /// Chunks that crossed more than once.
    pub resent: AtomicU64,
}

/// A message on its way to a data stream.
pub struct Frame {
    /// As it crosses.
    pub bytes: Vec<u8>,
    /// Where it is counted when it has crossed.
    pub tally: Arc<Tally>,
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
    /// A disk of which nothing has crossed.
    pub fn new(source: Source) -> Self {
        let (info, sent) = (disk_info(source.end()), ChunkSet::new(source.chunks()).into());
        Self { source, info, sent, resent: AtomicU64::new(0) }
    }

    /// Puts the frames of a full pass into the channel: data one by one, zeroes by run.
    pub fn produce(&self, stamp: Stamp, run: Run, reads: &Reads, frames: &mpsc::Sender<Frame>) -> Result<()> {
        let Extent { first, count } = run.extent();
        if let Run::Zero(extent) | Run::Unused(extent) = run {
            self.source.learn_zero(extent)?;
            self.count(extent);
            return self.put_zeroes(stamp, extent, matches!(run, Run::Unused(_)), frames);
        }
        let Stamp { epoch, pass, disk } = stamp;
        let mut zeroes = Extent { first, count: 0 };
        for index in first..first + count {
            let frame = self.source.read(index, reads, |bytes, node| {
                let (encoding, data) = match node == tree::zero_chunk() {
                    true => return Ok(None),
                    false => self.pack(bytes),
                };
                let length = bytes.len() as u32;
                Ok(Some(Message::Chunk { epoch, pass, disk, index, encoding, length, node, data }))
            })?;
            self.count(Extent { first: index, count: 1 });
            match frame {
                None => zeroes.count += 1,
                Some(frame) => {
                    self.put_zeroes(stamp, zeroes, false, frames)?;
                    zeroes = Extent { first: index + 1, count: 0 };
                    self.put(&frame, frames)?;
                }
            }
        }
        self.put_zeroes(stamp, zeroes, false, frames)
    }

    /// Chunks cross; counts those that have crossed before.
    fn count(&self, extent: Extent) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let again = (extent.first..extent.first + extent.count).filter(|index| !sent.insert(*index)).count();
        self.resent.fetch_add(again as u64, Ordering::Relaxed);
    }

    /// Reads the leaves in `wanted` of a chunk whose leaves were `known`, and puts their frame into the channel.
    pub fn patch(
        &self,
        stamp: Stamp,
        index: u64,
        known: &Leaves,
        wanted: u16,
        reads: &Reads,
        frames: &mpsc::Sender<Frame>,
    ) -> Result<()> {
        let ranges = ranges(wanted, self.source.groups().chunk_length(index));
        let frame = with_buffer(ranges.iter().map(std::ops::Range::len).sum(), |bytes| -> Result<Message> {
            self.source.read_again(index, known, &ranges, reads, bytes)?;
            let ((encoding, data), node) = (self.pack(bytes), tree::chunk(bytes));
            let Stamp { epoch, pass, disk } = stamp;
            Ok(Message::Patch { epoch, pass, disk, index, leaves: wanted, encoding, node, data })
        })?;
        self.put(&frame, frames)
    }

    fn put_zeroes(
        &self,
        stamp: Stamp,
        extent: Extent,
        unused: bool,
        frames: &mpsc::Sender<Frame>,
    ) -> Result<()> {
        if extent.count == 0 {
            return Ok(());
        }
        let Stamp { epoch, pass, disk } = stamp;
        self.put(&Message::Zeroes { epoch, pass, disk, extent, unused }, frames)
    }

    fn put(&self, message: &Message, frames: &mpsc::Sender<Frame>) -> Result<()> {
        let frame = Frame { bytes: message.to_frame(), tally: Arc::clone(&self.source.tally) };
        if frames.blocking_send(frame).is_err() {
            bail!("the data streams are closed");
        }
        Ok(())
    }

    fn pack(&self, bytes: &[u8]) -> (Encoding, Vec<u8>) {
        let (encoding, data) = pack(bytes);
        add(&self.source.tally.saved, (bytes.len() - data.len()) as u64);
        (encoding, data)
    }
}
