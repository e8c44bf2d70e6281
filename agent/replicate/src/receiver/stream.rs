//! One data stream: checks each frame against the laws and gives it to a disk thread.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use gantry_wire::Message;
use gantry_wire::message::{Extent, PassKind};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::epoch::Work;
use super::session::SessionDisk;
use super::work::{Incoming, IncomingPatch, write_chunk, write_patch, write_zeroes};
use crate::chunkset::ChunkSet;
use crate::link::{LinkReader, SILENCE};
use crate::pool::Queue;

/// Marks chunks as come; none may come twice in one pass.
pub fn claim(set: &mut ChunkSet, first: u64, count: u64) -> Result<()> {
    for index in first..first + count {
        ensure!(set.insert(index), "chunk {index} came twice in one pass");
    }
    Ok(())
}

/// Serves one data stream: checks each frame and gives it to a thread.
pub struct Stream {
    /// The session's disks.
    pub disks: Arc<Vec<SessionDisk>>,
    /// The epoch it belongs to.
    pub epoch: u64,
    /// Number of the newest pass, and its kind while it is open.
    pub open_pass: watch::Receiver<(u32, Option<PassKind>)>,
    /// The disk threads.
    pub queue: Queue,
    /// Where what was done is told.
    pub report: mpsc::UnboundedSender<Work>,
}

impl Stream {
    /// The kind of pass `number`, which must be the open one. A frame may overtake its StartPass, which comes on the
    /// control link: then it waits. A frame of an older pass is refused (law 4).
    async fn kind_of(&mut self, number: u32) -> Result<PassKind> {
        let arrived = self.open_pass.wait_for(|(open, _)| *open >= number);
        let arrived = timeout(SILENCE, arrived).await.context("a frame without a pass")?;
        match *arrived.context("the epoch is over")? {
            (open, Some(kind)) if open == number => Ok(kind),
            (open, _) => bail!("a frame of pass {number}, but pass {open} is open or done"),
        }
    }

    /// Serves the stream until it fails; then the epoch is told, and ends.
    pub async fn serve(mut self, mut reader: LinkReader) {
        let error = loop {
            let step = match reader.receive_any().await {
                Ok(message) => self.take(message).await,
                Err(error) => Err(error.context("data stream")),
            };
            if let Err(error) = step {
                break error;
            }
        };
        drop(self.report.send(Work::Failed(error)));
    }

    async fn take(&mut self, message: Message) -> Result<()> {
        let (epoch, pass, index, extent, frame) = match message {
            Message::Chunk { epoch, pass, disk, index, encoding, length, node, data } => {
                let frame = Frame::Chunk(Incoming { index, encoding, length, node, data });
                (epoch, pass, disk, Extent { first: index, count: 1 }, frame)
            }
            Message::Zeroes { epoch, pass, disk, extent, unused } => {
                (epoch, pass, disk, extent, Frame::Zeroes { unused })
            }
            Message::Patch { epoch, pass, disk, index, leaves, encoding, node, data } => {
                let frame = Frame::Patch(IncomingPatch { index, leaves, encoding, node, data });
                (epoch, pass, disk, Extent { first: index, count: 1 }, frame)
            }
            other => bail!("message {} has no place on a data stream", other.tag()),
        };
        ensure!(epoch == self.epoch, "a frame of epoch {epoch} in epoch {}", self.epoch);
        let kind = self.kind_of(pass).await?;
        let disk = self
            .disks
            .get(usize::from(index))
            .with_context(|| format!("disk {index} is not in this session"))?;
        ensure!(
            extent.first + extent.count <= disk.chunks(),
            "chunks behind the end of {}",
            disk.source.path
        );
        match (kind, &frame) {
            (PassKind::Full, Frame::Chunk(_) | Frame::Zeroes { .. }) => {
                claim(&mut disk.known().claimed, extent.first, extent.count)?;
            }
            (PassKind::Compare, Frame::Patch(patch)) => {
                disk.known().asked.take(patch.index, patch.leaves)?;
            }
            _ => bail!("a frame that has no place in this pass"),
        }
        let (disks, report) = (Arc::clone(&self.disks), self.report.clone());
        let job = move || {
            let disk = &disks[usize::from(index)];
            let done = match &frame {
                Frame::Chunk(chunk) => write_chunk(disk, chunk),
                Frame::Patch(patch) => write_patch(disk, patch),
                Frame::Zeroes { unused } => write_zeroes(disk, extent, *unused),
            };
            drop(report.send(match done {
                Ok(()) => Work::Written { disk: index, extent },
                Err(error) => Work::Failed(error),
            }));
        };
        ensure!(self.queue.submit(job).await, "the disk threads are gone");
        Ok(())
    }
}

/// What a frame carries.
enum Frame {
    Chunk(Incoming),
    Patch(IncomingPatch),
    Zeroes { unused: bool },
}
