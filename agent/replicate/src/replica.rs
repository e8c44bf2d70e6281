//! A target disk while it is being made: the disk end, with head and tail held in memory.
//!
//! Held ranges ("pieces") are: the first MiB, the last MiB of the source's extent, and the last MiB of the disk; they
//! overlap when the disks are of one size. Writes into a piece go to memory, reads come from memory; the medium under
//! them holds the label and zeroes until the commit. So a half-made disk neither boots nor shows an old table.

use std::sync::{Arc, PoisonError, RwLock};

use gantry_disk::label::{HEAD, Label};
use gantry_disk::size::human;
use gantry_disk::{DiskError, ErrorKind, Geometry, Identity, ReadAt, Result, SectorSize, WriteAt};

struct Piece {
    offset: u64,
    bytes: RwLock<Vec<u8>>,
    length: u64,
}

/// A target disk whose head and tail are in memory.
pub struct Replica {
    end: Arc<dyn WriteAt>,
    source_size: u64,
    pieces: Vec<Piece>,
}

/// Bytes held in memory, by offset.
pub type Pieces = Vec<(u64, Vec<u8>)>;

enum Part<'a> {
    Held(&'a Piece, usize),
    Medium(u64),
}

impl Replica {
    /// Takes a disk end for a source of `source_size` bytes. Nothing is written yet.
    pub fn new(end: Arc<dyn WriteAt>, source_size: u64, source_sector: SectorSize) -> Result<Self> {
        let refuse = |why: String| Err(DiskError::new(ErrorKind::Unsuitable, &end.identity().path, why));
        if end.size() < source_size {
            let (short, source) = (human(source_size - end.size()), human(source_size));
            return refuse(format!(
                "taking the replica: {short} too small for a source of {source}: take a larger disk"
            ));
        }
        if end.sector_size() != source_sector {
            let (ours, theirs) = (end.sector_size().bytes(), source_sector.bytes());
            return refuse(format!(
                "taking the replica: its sectors are {ours} bytes, the source's {theirs}"
            ));
        }
        if source_size == 0 || !source_size.is_multiple_of(u64::from(source_sector.bytes())) {
            return refuse(format!("taking the replica: {source_size} bytes are no whole number of sectors"));
        }
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let size = end.size();
        let tail = |end_at: u64| (end_at.saturating_sub(HEAD as u64), end_at);
        for (start, stop) in [(0, size.min(HEAD as u64)), tail(source_size), tail(size)] {
            match ranges.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(stop),
                _ => ranges.push((start, stop)),
            }
        }
        let pieces = ranges
            .into_iter()
            .map(|(start, stop)| Piece {
                offset: start,
                length: stop - start,
                bytes: RwLock::new(vec![0; (stop - start) as usize]),
            })
            .collect();
        Ok(Self { end, source_size, pieces })
    }

    /// The disk underneath.
    pub fn end(&self) -> &Arc<dyn WriteAt> {
        &self.end
    }

    /// Bytes of the source.
    pub fn source_size(&self) -> u64 {
        self.source_size
    }

    /// First act on a disk (law 3): the label, flush, then all else that is held is made zero on the medium, flush. In this
    /// order whatever was there, an old system or a commit that was broken off, cannot start any more before the first byte of it
    /// goes; and a disk of a session that is taken up is never without a name.
    pub fn label_and_blank(&self, label: &Label) -> Result<()> {
        self.relabel(label)?;
        let sector = u64::from(self.end.sector_size().bytes());
        for piece in &self.pieces {
            let skip = if piece.offset == 0 { sector.min(piece.length) } else { 0 };
            self.end.zero_at(piece.offset + skip, piece.length - skip)?;
        }
        self.end.write_at(Label::MAP_OFFSET, &label.map_block())?;
        self.end.flush()
    }

    /// Rewrites the commit record: one sector, then a flush.
    pub fn relabel(&self, label: &Label) -> Result<()> {
        self.end.write_at(0, &label.sector_0(self.end.sector_size().bytes() as usize))?;
        self.end.flush()
    }

    /// Copies of all held ranges.
    pub fn pieces(&self) -> Pieces {
        let read = |piece: &Piece| piece.bytes.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.pieces.iter().map(|piece| (piece.offset, read(piece))).collect()
    }

    /// Puts changed held ranges back; offsets and lengths must be those of [`Replica::pieces`].
    pub fn set_pieces(&self, pieces: Pieces) -> Result<()> {
        for (offset, bytes) in pieces {
            let place = self.pieces.iter().find(|p| p.offset == offset && p.length == bytes.len() as u64);
            let Some(piece) = place else {
                let why = format!("taking back {} bytes that were never held", bytes.len());
                return Err(DiskError::new(ErrorKind::Range, &self.end.identity().path, why).at(offset));
            };
            *piece.bytes.write().unwrap_or_else(PoisonError::into_inner) = bytes;
        }
        Ok(())
    }

    /// Walks `[offset, offset + length)` in parts that lie in one piece or on the medium alone.
    fn walk(
        &self,
        offset: u64,
        length: u64,
        mut part: impl FnMut(Part<'_>, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let stop = offset + length;
        let mut at = offset;
        while at < stop {
            let inside = self.pieces.iter().find(|p| at >= p.offset && at < p.offset + p.length);
            let (kind, until) = match inside {
                Some(piece) => {
                    (Part::Held(piece, (at - piece.offset) as usize), stop.min(piece.offset + piece.length))
                }
                None => {
                    let next = self.pieces.iter().map(|p| p.offset).filter(|o| *o > at).min().unwrap_or(stop);
                    (Part::Medium(at), stop.min(next))
                }
            };
            part(kind, at - offset, until - at)?;
            at = until;
        }
        Ok(())
    }
}

impl Geometry for Replica {
    fn size(&self) -> u64 {
        self.end.size()
    }
    fn sector_size(&self) -> SectorSize {
        self.end.sector_size()
    }
    fn identity(&self) -> &Identity {
        self.end.identity()
    }
}

impl ReadAt for Replica {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len() as u64, "reading")?;
        self.walk(offset, buffer.len() as u64, |part, at, length| {
            let slice = &mut buffer[at as usize..(at + length) as usize];
            match part {
                Part::Medium(disk_at) => self.end.read_at(disk_at, slice)?,
                Part::Held(piece, from) => {
                    let bytes = piece.bytes.read().unwrap_or_else(PoisonError::into_inner);
                    slice.copy_from_slice(&bytes[from..from + slice.len()]);
                }
            }
            Ok(())
        })
    }
}

impl WriteAt for Replica {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len() as u64, "writing")?;
        self.walk(offset, data.len() as u64, |part, at, length| {
            let slice = &data[at as usize..(at + length) as usize];
            match part {
                Part::Medium(disk_at) => self.end.write_at(disk_at, slice)?,
                Part::Held(piece, from) => {
                    let mut bytes = piece.bytes.write().unwrap_or_else(PoisonError::into_inner);
                    bytes[from..from + slice.len()].copy_from_slice(slice);
                }
            }
            Ok(())
        })
    }

    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length, "zeroing")?;
        self.walk(offset, length, |part, _, length| {
            match part {
                Part::Medium(disk_at) => self.end.zero_at(disk_at, length)?,
                Part::Held(piece, from) => {
                    let mut bytes = piece.bytes.write().unwrap_or_else(PoisonError::into_inner);
                    bytes[from..from + length as usize].fill(0);
                }
            }
            Ok(())
        })
    }

    fn flush(&self) -> Result<()> {
        self.end.flush()
    }
}

#[cfg(test)]
mod tests {
    use gantry_disk::ImageFile;
    use gantry_disk::label::{LabelStage, parse};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn replica(target: u64, source: u64) -> (tempfile::TempDir, Replica) {
        let dir = tempfile::tempdir().unwrap();
        let image = ImageFile::create(&dir.path().join("target"), target).unwrap();
        image.write_at(0, &vec![0xee; target as usize]).unwrap();
        (dir, Replica::new(Arc::new(image), source, SectorSize::B512).unwrap())
    }

    fn label() -> Label {
        Label {
            session: [1; 16],
            job: [2; 8],
            stage: LabelStage::Receiving,
            epoch: 1,
            disk: 0,
            disks: 1,
            source_size: 6 * MIB,
            sector_size: 512,
            map: "{}".into(),
        }
    }

    #[test]
    fn heads_and_tails_stay_off_the_medium() {
        let (_dir, replica) = replica(10 * MIB, 6 * MIB);
        replica.label_and_blank(&label()).unwrap();
        let data: Vec<u8> = (0..6 * MIB).map(|i| (i % 251) as u8).collect();
        replica.write_at(0, &data).unwrap();
        let mut back = vec![0; data.len()];
        replica.read_at(0, &mut back).unwrap();
        assert!(back == data, "the replica reads as the source");
        let mut medium = vec![0; 10 * MIB as usize];
        replica.end().read_at(0, &mut medium).unwrap();
        assert_eq!(parse(&medium).unwrap(), label());
        let m = MIB as usize;
        assert!(medium[m..5 * m] == data[m..5 * m], "the middle is on the medium");
        assert!(medium[5 * m..6 * m].iter().all(|b| *b == 0), "the source's tail is not");
        assert!(medium[6 * m..9 * m].iter().all(|b| *b == 0xee), "behind the source nothing is touched");
        assert!(medium[9 * m..].iter().all(|b| *b == 0), "the disk's tail is blank");
    }

    #[test]
    fn a_small_disk_is_one_piece_and_a_smaller_one_is_refused() {
        let (_dir, replica) = replica(2 * MIB, 2 * MIB);
        assert_eq!(replica.pieces().len(), 1);
        let end = Arc::clone(replica.end());
        let error = Replica::new(Arc::clone(&end), 3 * MIB, SectorSize::B512).err().unwrap();
        assert!(
            error.to_string().contains("1 MiB too small for a source of 3 MiB: take a larger disk"),
            "{error}"
        );
        for size in [0, 1000] {
            let error = Replica::new(Arc::clone(&end), size, SectorSize::B512).err().unwrap();
            assert!(error.to_string().contains("no whole number of sectors"), "{error}");
        }
        let error = Replica::new(end, MIB, SectorSize::try_from(4096).unwrap()).err().unwrap();
        assert!(error.to_string().contains("sectors are 512 bytes, the source's 4096"), "{error}");
    }
}
