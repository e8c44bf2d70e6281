//! Reading a disk that has bad sectors.
//!
//! Where a read fails, it is repeated in smaller pieces around the fault, down to one sector, and that sector is tried
//! [`TRIES`] times: what can be had is had, and the error names the very sector. What then happens to it is the user's
//! decision ([`BadSectors`]). A sector that was given up is zero from then on, without being tried again: each pass must
//! see the same bytes, and every try of a dying disk costs seconds.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::end::{Geometry, Identity, ReadAt, SectorSize};
use crate::error::{DiskError, ErrorKind, Result};

/// How often a sector is tried before it is given up.
const TRIES: usize = 3;
/// Pieces in which a failed read is repeated, in bytes; the last step is a sector.
const STEPS: [usize; 2] = [64 << 10, 4 << 10];
/// Sectors that are given up before the disk is called dying: 8 MiB of 512-byte sectors.
const MOST: usize = 16 << 10;

/// What becomes of a sector that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BadSectors {
    /// The copy stops, and names it.
    #[default]
    Stop,
    /// It is taken as zero, and listed.
    Zero,
}

/// An end whose failing reads are repeated with care.
pub struct Careful {
    end: Arc<dyn ReadAt>,
    policy: BadSectors,
    /// Offsets of sectors that were given up.
    bad: Mutex<BTreeSet<u64>>,
}

impl Careful {
    /// Reads `end` with care.
    pub fn new(end: Arc<dyn ReadAt>, policy: BadSectors) -> Self {
        Self { end, policy, bad: Mutex::default() }
    }

    fn bad(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sector(&self) -> u64 {
        u64::from(self.end.sector_size().bytes())
    }

    /// Byte ranges that were given up and are zero here, ascending, neighbours joined.
    pub fn given_up(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for &start in self.bad().iter() {
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end += self.sector(),
                _ => ranges.push(start..start + self.sector()),
            }
        }
        ranges
    }

    /// Reads in pieces of the first of `steps`, those that fail in pieces of the next.
    fn rescue(&self, offset: u64, buffer: &mut [u8], steps: &[usize]) -> Result<()> {
        let sector = self.sector() as usize;
        let step = steps.first().copied().unwrap_or(sector).max(sector);
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            // Pieces end on borders of their own size, so that the smallest is a sector and not parts of two.
            let length = (step - (at % step as u64) as usize).min(buffer.len() - done);
            let piece = &mut buffer[done..done + length];
            done += length;
            let read = self.read_piece(at, piece, steps.is_empty());
            match read {
                Ok(()) => {}
                Err(error) if !medium(&error) => return Err(error),
                Err(error) if steps.is_empty() => self.give_up(at, piece, error)?,
                Err(_) => self.rescue(at, piece, &steps[1..])?,
            }
        }
        Ok(())
    }

    /// Reads a piece; a single sector several times. Sectors that were given up are not tried.
    fn read_piece(&self, at: u64, piece: &mut [u8], last: bool) -> Result<()> {
        let sector = at / self.sector() * self.sector();
        if self.bad().range(sector..at + piece.len() as u64).next().is_none() {
            let mut outcome = self.end.read_at(at, piece);
            for _ in 1..if last { TRIES } else { 1 } {
                if !outcome.as_ref().is_err_and(medium) {
                    break;
                }
                outcome = self.end.read_at(at, piece);
            }
            return outcome;
        }
        if last {
            piece.fill(0);
            return Ok(());
        }
        let known = std::io::Error::from_raw_os_error(nix::libc::EIO);
        Err(DiskError::io(&self.identity().path, "reading a sector that was given up", known).at(at))
    }

    fn give_up(&self, at: u64, piece: &mut [u8], error: DiskError) -> Result<()> {
        if self.policy == BadSectors::Stop {
            return Err(error);
        }
        let mut bad = self.bad();
        if bad.len() >= MOST {
            let why = format!(
                "reading: {MOST} sectors could not be read: this disk is dying; rescue it onto a healthy one, then send that"
            );
            return Err(DiskError::new(ErrorKind::Unsuitable, &self.end.identity().path, why).at(at));
        }
        bad.insert(at / self.sector() * self.sector());
        piece.fill(0);
        Ok(())
    }
}

/// Whether it is the medium that cannot be read there; a disk that is gone, or a lost network, is another matter.
fn medium(error: &DiskError) -> bool {
    use nix::libc::{EBADMSG, EILSEQ, EIO, ENODATA, EREMOTEIO};
    let code = error.source.as_ref().and_then(std::io::Error::raw_os_error);
    code.is_some_and(|code| [EIO, ENODATA, EREMOTEIO, EILSEQ, EBADMSG].contains(&code))
}

impl Geometry for Careful {
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

impl ReadAt for Careful {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let sector = offset / self.sector() * self.sector();
        if self.bad().range(sector..offset.saturating_add(buffer.len() as u64)).next().is_none() {
            match self.end.read_at(offset, buffer) {
                Err(error) if medium(&error) => {}
                outcome => return outcome,
            }
        }
        self.rescue(offset, buffer, &STEPS)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::ImageFile;

    const MIB: usize = 1 << 20;

    /// Fails where a bad sector is touched; those in `shy` only so many times.
    struct Scratched {
        inner: ImageFile,
        bad: Vec<u64>,
        shy: Vec<(u64, AtomicUsize)>,
        code: i32,
        reads: AtomicUsize,
    }

    impl Geometry for Scratched {
        fn size(&self) -> u64 {
            self.inner.size()
        }
        fn sector_size(&self) -> SectorSize {
            self.inner.sector_size()
        }
        fn identity(&self) -> &Identity {
            self.inner.identity()
        }
    }

    impl ReadAt for Scratched {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let inside = |at: u64| at + 512 > offset && at < offset + buffer.len() as u64;
            let once_more = |left: &AtomicUsize| {
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
            };
            let shy = self.shy.iter().any(|(at, left)| inside(*at) && once_more(left));
            if shy || self.bad.iter().any(|at| inside(*at)) {
                let cause = std::io::Error::from_raw_os_error(self.code);
                return Err(DiskError::io("scratched", "reading", cause).at(offset));
            }
            self.inner.read_at(offset, buffer)
        }
    }

    fn scratched(bad: &[u64], shy: &[(u64, usize)], code: i32) -> (tempfile::NamedTempFile, Arc<Scratched>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0xa5; 2 * MIB]).unwrap();
        let inner = ImageFile::open_source(file.path()).unwrap();
        let shy = shy.iter().map(|(at, times)| (*at, AtomicUsize::new(*times))).collect();
        (file, Arc::new(Scratched { inner, bad: bad.to_vec(), shy, code, reads: AtomicUsize::new(0) }))
    }

    #[test]
    fn only_the_bad_sectors_are_lost_and_they_are_listed() {
        let (_file, disk) = scratched(&[512 * 9, 512 * 10, 1_000_448], &[], nix::libc::EIO);
        let careful = Careful::new(disk.clone(), BadSectors::Zero);
        let mut bytes = vec![0; 2 * MIB];
        careful.read_at(0, &mut bytes).unwrap();
        let lost: Vec<usize> = (0..2 * MIB).filter(|i| bytes[*i] != 0xa5).collect();
        assert!(lost.iter().all(|i| bytes[*i] == 0));
        assert_eq!((lost.len(), lost[0], lost[1023], lost[1024]), (3 * 512, 4608, 5631, 1_000_448));
        assert_eq!(careful.given_up(), [4608..5632, 1_000_448..1_000_960]);
        // Unaligned, inside a bad sector, and without trying it again.
        let before = disk.reads.load(Ordering::Relaxed);
        let mut part = [1; 100];
        careful.read_at(4700, &mut part).unwrap();
        assert_eq!((part, disk.reads.load(Ordering::Relaxed)), ([0; 100], before));
    }

    #[test]
    fn to_stop_names_the_sector() {
        let (_file, disk) = scratched(&[512 * 9], &[], nix::libc::ENODATA);
        let careful = Careful::new(disk, BadSectors::Stop);
        let error = careful.read_at(0, &mut vec![0; MIB]).unwrap_err();
        assert_eq!(error.offset, Some(4608), "{error}");
        assert!(careful.given_up().is_empty());
    }

    #[test]
    fn a_sector_that_comes_at_the_third_try_is_not_lost() {
        // One failure each: the whole read, 64 KiB, 4 KiB, then two of the three tries.
        let (_file, disk) = scratched(&[], &[(512 * 9, 5)], nix::libc::EIO);
        let careful = Careful::new(disk, BadSectors::Stop);
        let mut bytes = vec![0; MIB];
        careful.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0xa5));
    }

    #[test]
    fn a_disk_that_is_gone_is_no_bad_sector() {
        let (_file, disk) = scratched(&[512 * 9], &[], nix::libc::ENXIO);
        let careful = Careful::new(disk.clone(), BadSectors::Zero);
        assert!(careful.read_at(0, &mut vec![0; MIB]).is_err());
        assert_eq!(disk.reads.load(Ordering::Relaxed), 1, "tried once");
    }

    #[test]
    fn a_dying_disk_ends_the_copy() {
        let bad: Vec<u64> = (0..2 * MIB as u64).step_by(512).collect();
        let (_file, disk) = scratched(&bad, &[], nix::libc::EIO);
        let careful = Careful::new(disk, BadSectors::Zero);
        *careful.bad() = (0..MOST as u64 - 10).map(|i| (4096 + i) * 512).collect();
        let error = careful.read_at(0, &mut vec![0; MIB]).unwrap_err();
        assert!(error.to_string().contains("dying"), "{error}");
    }
}
