//! What of a source's disk has arrived in a full pass, as far as the receiver says so.

use anyhow::{Result, ensure};
use gantry_disk::Geometry;
use gantry_wire::Extent;

use crate::chunkset::ChunkSet;
use crate::progress::Done;
use crate::source::Source;

/// What has arrived of a disk.
pub struct Arrived {
    chunks: ChunkSet,
    /// Those that are known to be zero, of what arrived in this pass.
    skipped: u64,
}

impl Arrived {
    /// These were there before.
    pub fn new(chunks: ChunkSet) -> Self {
        Self { chunks, skipped: 0 }
    }

    /// The receiver has acknowledged these. They lie on the disk, each comes once: so however many extents it names, what
    /// they cost has an end, and what is shown of the progress cannot pass the whole.
    pub fn acknowledge(&mut self, source: &Source, extents: &[Extent]) -> Result<()> {
        let disk = &source.end().identity().path;
        for &Extent { first, count } in extents {
            let on_disk = first < source.chunks() && count <= source.chunks() - first;
            ensure!(on_disk, "{count} chunks of {disk} from {first} on are acknowledged, behind its end");
            for index in first..first + count {
                ensure!(self.chunks.insert(index), "chunk {index} of {disk} is acknowledged twice");
            }
            self.skipped += source.zeroes_of(Extent { first, count });
        }
        Ok(())
    }

    /// How far that is.
    pub fn done(&self) -> Done {
        Done { chunks: self.chunks.count(), skipped: self.skipped }
    }
}
