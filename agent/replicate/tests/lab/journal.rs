//! A disk in memory that remembers every write, zero and flush, so that a loss of power at any moment can be shown.
//!
//! What a flush has covered is on the medium. Of what came later a disk with a cache keeps any part, sector by sector:
//! [`Journal::after_power_loss`] makes such a state.

use std::sync::Mutex;

use gantry_disk::{Geometry, Identity, ReadAt, Result, SectorSize, WriteAt};
use gantry_wire::Extent;

use super::Random;

const SECTOR: usize = 512;

/// What happened.
pub enum Entry {
    /// Bytes were written (or zeroed).
    Write(u64, Vec<u8>),
    /// A flush ended; it covers the entries before this one.
    Flush(usize),
    /// The sender heard that these chunks are durable.
    Acknowledged(Vec<Extent>),
    /// The sender heard of the commit.
    Committed,
}

/// The disk.
pub struct Journal {
    before: Vec<u8>,
    identity: Identity,
    state: Mutex<(Vec<u8>, Vec<Entry>)>,
    /// A disk whose flush does nothing: the fault that the test must see.
    careless: bool,
}

impl Journal {
    pub fn new(before: Vec<u8>, careless: bool) -> Self {
        let identity = Identity { path: "journal".to_owned(), ..Identity::default() };
        let state = Mutex::new((before.clone(), Vec::new()));
        Self { before, identity, state, careless }
    }

    /// Puts a mark where the log ends now.
    pub fn mark(&self, entry: Entry) {
        self.state.lock().unwrap().1.push(entry);
    }

    /// What happened.
    pub fn log(&self) -> Vec<Entry> {
        std::mem::take(&mut self.state.lock().unwrap().1)
    }

    /// The medium when power fails after `log`: all that a flush covered, and of the rest each sector for which `keep`
    /// says so.
    pub fn after_power_loss(&self, log: &[Entry], mut keep: impl FnMut() -> bool) -> Vec<u8> {
        let mut bytes = self.before.clone();
        let flushed = log.iter().filter_map(|entry| match entry {
            Entry::Flush(covers) => Some(*covers),
            _ => None,
        });
        let flushed = flushed.max().unwrap_or(0);
        for (i, entry) in log.iter().enumerate() {
            let Entry::Write(offset, data) = entry else { continue };
            let start = *offset as usize;
            if i < flushed {
                bytes[start..start + data.len()].copy_from_slice(data);
                continue;
            }
            // Where a write begins inside a sector, that sector is torn off with the part that lies in it.
            let mut at = 0;
            while at < data.len() {
                let step = (SECTOR - (start + at) % SECTOR).min(data.len() - at);
                if keep() {
                    bytes[start + at..start + at + step].copy_from_slice(&data[at..at + step]);
                }
                at += step;
            }
        }
        bytes
    }

    /// The three kinds of states that are looked at: everything was written, nothing more was, or some sectors were.
    pub fn states(&self, log: &[Entry], random: &mut Random) -> [Vec<u8>; 3] {
        let some = self.after_power_loss(log, || random.next().is_multiple_of(2));
        [self.after_power_loss(log, || true), self.after_power_loss(log, || false), some]
    }
}

impl Geometry for Journal {
    fn size(&self) -> u64 {
        self.before.len() as u64
    }
    fn sector_size(&self) -> SectorSize {
        SectorSize::B512
    }
    fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadAt for Journal {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len() as u64, "reading")?;
        let start = offset as usize;
        buffer.copy_from_slice(&self.state.lock().unwrap().0[start..start + buffer.len()]);
        Ok(())
    }
}

impl WriteAt for Journal {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len() as u64, "writing")?;
        let (bytes, log) = &mut *self.state.lock().unwrap();
        let start = offset as usize;
        bytes[start..start + data.len()].copy_from_slice(data);
        log.push(Entry::Write(offset, data.to_vec()));
        Ok(())
    }
    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.write_at(offset, &vec![0; length as usize])
    }
    fn flush(&self) -> Result<()> {
        let (_, log) = &mut *self.state.lock().unwrap();
        if !self.careless {
            log.push(Entry::Flush(log.len()));
        }
        Ok(())
    }
}
