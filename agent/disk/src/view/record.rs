//! What is written through a view, recorded by the kernel while it is written.
//!
//! Device-mapper knows how to keep an old state of a device: before a chunk of the origin is written for the first time, its
//! old bytes go to a second device, and a table there says which chunks these are. That table is all that is wanted here.
//! So of the second device only the parts where the table lies are real, in memory; the old bytes go to a `zero` target,
//! which forgets them. The record costs 16 bytes for each 64 KiB that are written, is exact, and cannot be outrun: a write
//! goes on only when it is in the table. (blktrace drops what nobody fetches in time; dm-era keeps four bytes for every
//! block of the disk; dm-log-writes keeps all data.) It costs a read of each chunk before its first write: for 200
//! MiB in a row 2 to 9 seconds on an emulated processor, for 500 scattered blocks with 50 syncs 0.2 to 2.
//!
//! ```text
//!   view ── linear ── NAME-origin (snapshot-origin) ── loop ── disk
//!                     NAME-snapshot (snapshot) ─┐        nobody reads it; while it is there, the origin records
//!                     NAME-log  ← ── ── ── ── ──┘        table: linear ── loop ── file in memory; the rest: zero
//! ```
//!
//! The layout is that of `dm-snap-persistent.c`, version 1, in chunks: a header, then again and again one chunk of table and
//! as many chunks of old bytes as it has entries. A table is full when it does not end in a zero entry. When anything goes
//! wrong in between, the kernel drops the snapshot and lets the origin go on: then the record is worth nothing, and says so.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::dm::{self, Target};
use super::{MEMORY, remove_device};
use crate::error::{DiskError, Result};
use crate::loops::{Loop, Shown};

/// Bytes of a chunk, and of one table: a leaf of the hash tree.
const CHUNK: u64 = 64 << 10;
/// The same in 512-byte units.
const UNITS: u64 = CHUNK / 512;
/// Entries of a table.
const ENTRIES: u64 = CHUNK / 16;
/// Tables at most: 16 GiB can be recorded. What is beyond makes the record void.
const TABLES: u64 = 64;

/// What was written to a disk past the pieces of its view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Just these bytes: multiples of 64 KiB, ascending, apart.
    Ranges(Vec<Range<u64>>),
    /// Nobody knows; why.
    Unknown(String),
}

/// A record at work. Dropped without [`Recorder::end`], it is removed.
#[derive(Debug)]
pub(super) struct Recorder {
    names: Names,
    size: u64,
    file: PathBuf,
    log: Option<Loop>,
    /// What the view lies on, as device-mapper takes it.
    pub origin: String,
}

/// The devices, in the order in which they are removed.
#[derive(Debug, Clone)]
struct Names {
    origin: String,
    snapshot: String,
    log: String,
}

impl Names {
    fn of(view: &str) -> Self {
        let name = |what| format!("{view}-{what}");
        Self { origin: name("origin"), snapshot: name("snapshot"), log: name("log") }
    }
    fn all(&self) -> [&str; 3] {
        [&self.origin, &self.snapshot, &self.log]
    }
}

/// Removes what the view of that name may have left; the view itself must be gone.
pub(super) fn remove_leftovers(view: &str) -> Result<bool> {
    let removed = Names::of(view).all().map(remove_device);
    removed.into_iter().try_fold(false, |any, one| Ok(one? || any))
}

impl Recorder {
    /// Records what is written to `disk`, a loop device of `size` bytes, through what [`Recorder::origin`] names.
    pub fn begin(view: &str, disk: &Path, size: u64) -> Result<Self> {
        let file = Path::new(MEMORY).join(format!("gantry-view-{view}-log"));
        let failed = |error| DiskError::io(file.display().to_string(), "making a record of writes", error);
        let tables = tables(size);
        File::create(&file).and_then(|made| made.set_len((1 + tables) * CHUNK)).map_err(failed)?;
        let mut recorder =
            Self { names: Names::of(view), size, file: file.clone(), log: None, origin: String::new() };
        let log = Loop::attach(&file, Shown::default())?;
        let names = &recorder.names;
        let at = create(&names.log, &log_table(tables, log.node()))?;
        recorder.log = Some(log);
        let units = size / 512;
        let whole = |kind, parameters| [Target { start: 0, length: units, kind, parameters }];
        let disk = disk.display();
        // The snapshot before its origin: an origin asks for the chunk size of its snapshots when it starts.
        create(&names.snapshot, &whole("snapshot", format!("{disk} {at} P {UNITS}")))?;
        recorder.origin = create(&names.origin, &whole("snapshot-origin", disk.to_string()))?;
        Ok(recorder)
    }

    /// Ends the record; the view must be gone.
    ///
    /// # Errors
    /// Something of it cannot be removed. That a record is not whole is no error: it is [`Written::Unknown`].
    pub fn end(mut self) -> Result<Written> {
        remove_device(&self.names.origin)?;
        let status = dm::status(&self.names.snapshot).map_err(|error| error.source.to_string());
        remove_device(&self.names.snapshot)?;
        remove_device(&self.names.log)?;
        if let Some(log) = self.log.take() {
            log.detach()?;
        }
        let failed = |error| DiskError::io(self.file.display().to_string(), "reading the record", error);
        let bytes = fs::read(&self.file).map_err(failed)?;
        let read = status.and_then(|status| read(&bytes, &status, self.size));
        Ok(read.map_or_else(|why| Written::Unknown(format!("the record of writes: {why}")), Written::Ranges))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        for name in self.names.all() {
            if let Err(error) = remove_device(name) {
                eprintln!("gantry: {error}");
            }
        }
        self.log = None;
        if let Err(error) = fs::remove_file(&self.file) {
            eprintln!("gantry: {}: removing a record: {error}", self.file.display());
        }
    }
}

fn create(name: &str, targets: &[Target]) -> Result<String> {
    let device =
        dm::create(name, targets).map_err(|failed| DiskError::io(name, failed.step, failed.source))?;
    Ok(format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device)))
}

/// Tables for a disk of `size` bytes: one more than are filled, because the kernel clears the next one early.
fn tables(size: u64) -> u64 {
    (size.div_ceil(CHUNK) / ENTRIES + 1).min(TABLES)
}

/// The log device: header and tables lie one behind the other in the file that `node` shows.
fn log_table(tables: u64, node: &Path) -> Vec<Target> {
    let linear = |start: u64, length: u64, offset: u64| Target {
        start: start * UNITS,
        length: length * UNITS,
        kind: "linear",
        parameters: format!("{} {}", node.display(), offset * UNITS),
    };
    let forgotten = |start: u64| Target {
        start: start * UNITS,
        length: ENTRIES * UNITS,
        kind: "zero",
        parameters: String::new(),
    };
    (0..tables)
        .flat_map(|table| {
            let at = 1 + table * (ENTRIES + 1);
            let real = if table == 0 { linear(0, 2, 0) } else { linear(at, 1, 1 + table) };
            [real, forgotten(at + 1)]
        })
        .collect()
}

/// What the record says, if it is whole: `status` is what the kernel said of the snapshot at the end.
fn read(file: &[u8], status: &str, size: u64) -> Result<Vec<Range<u64>>, String> {
    // "units allocated/units of the device units of tables"
    let allocated = status.split_once('/').and_then(|(units, _)| units.parse::<u64>().ok());
    let allocated = allocated.ok_or_else(|| format!("the kernel says {status:?}"))? / UNITS;
    // The next chunk that is free: behind the header, the tables so far, and one chunk for each entry.
    let behind = allocated.checked_sub(2).ok_or("the kernel has allocated nothing")?;
    let entries = behind - behind / (ENTRIES + 1);
    let word = |at: usize| file.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    if [word(0), word(4), word(8), word(12)] != [Some(0x7041_6e53), Some(1), Some(1), Some(UNITS as u32)] {
        return Err("its header is not as it must be".to_owned());
    }
    let chunks = size.div_ceil(CHUNK);
    let long = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
    let rows = file.get(CHUNK as usize..).unwrap_or_default().chunks_exact(16);
    let mut old: Vec<u64> = rows.take_while(|row| long(&row[8..]) != 0).map(|row| long(&row[..8])).collect();
    if old.len() as u64 != entries {
        return Err(format!("it holds {} places, the kernel has written {entries}", old.len()));
    }
    if let Some(chunk) = old.iter().find(|chunk| **chunk >= chunks) {
        return Err(format!("it names chunk {chunk} of {chunks}"));
    }
    old.sort_unstable();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for chunk in old {
        let (start, end) = (chunk * CHUNK, ((chunk + 1) * CHUNK).min(size));
        match ranges.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    Ok(ranges)
}

/// Why there is no record, in words.
pub(super) fn why_not(error: &DiskError) -> String {
    let cause = error.source.as_ref().map(|source| format!(": {source}")).unwrap_or_default();
    format!("writes could not be recorded (are the modules dm-snapshot and dm-zero there?): {error}{cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// As the kernel writes it: a header, tables, and what it says at the end.
    fn record(old: &[u64]) -> (Vec<u8>, String) {
        let mut file = vec![0; ((1 + TABLES) * CHUNK) as usize];
        for (word, value) in [0x7041_6e53u32, 1, 1, 128].iter().enumerate() {
            file[word * 4..word * 4 + 4].copy_from_slice(&value.to_le_bytes());
        }
        let mut free = 2;
        for (entry, old) in old.iter().enumerate() {
            let at = CHUNK as usize + entry * 16;
            file[at..at + 8].copy_from_slice(&old.to_le_bytes());
            file[at + 8..at + 16].copy_from_slice(&u64::to_le_bytes(free));
            free += 1;
            if free % (ENTRIES + 1) == 1 {
                free += 1;
            }
        }
        (file, format!("{}/1000000 384", free * UNITS))
    }

    #[test]
    fn a_record_is_read_as_ranges() {
        let (file, status) = record(&[9, 3, 4, 15]);
        let chunk = |n: u64| n * CHUNK;
        assert_eq!(
            read(&file, &status, MIB - 512).unwrap(),
            [chunk(3)..chunk(5), chunk(9)..chunk(10), chunk(15)..MIB - 512]
        );
        let (file, status) = record(&[]);
        assert_eq!(read(&file, &status, MIB).unwrap(), []);
        for count in [ENTRIES - 1, ENTRIES, ENTRIES + 1, 3 * ENTRIES + 5] {
            let old: Vec<u64> = (0..count).map(|n| n * 2).collect();
            let (file, status) = record(&old);
            assert_eq!(read(&file, &status, 1 << 40).unwrap().len() as u64, count);
        }
    }

    #[test]
    fn a_record_that_is_not_whole_is_none() {
        let (good, status) = record(&[1, 2, 3]);
        let refused = |file: &[u8], status: &str| read(file, status, MIB).unwrap_err();
        assert!(refused(&good, "Invalid").contains("Invalid"));
        assert!(refused(&good, "Overflow").contains("Overflow"));
        let (_, more) = record(&[1, 2, 3, 4]);
        assert!(refused(&good, &more).contains("3 places, the kernel has written 4"));
        let mut void = good.clone();
        void[4] = 0;
        assert!(refused(&void, &status).contains("header"));
        assert!(refused(&[], &status).contains("header"));
        assert!(refused(&good, "0/1 1").contains("nothing"));
        let (outside, status) = record(&[16]);
        assert!(refused(&outside, &status).contains("chunk 16 of 16"));
    }

    #[test]
    fn the_log_is_real_where_the_tables_are() {
        let table = log_table(3, Path::new("/dev/loop7"));
        let mut reach = 0;
        for target in &table {
            assert_eq!(target.start, reach);
            reach += target.length;
        }
        assert_eq!(reach, (1 + 3 * (ENTRIES + 1)) * UNITS);
        let real: Vec<_> = table.iter().filter(|t| t.kind == "linear").collect();
        assert_eq!(real[0].parameters, "/dev/loop7 0");
        assert_eq!((real[2].start, real[2].length), ((1 + 2 * 4097) * 128, 128));
        assert_eq!(real[2].parameters, format!("/dev/loop7 {}", 3 * 128));
        assert_eq!([tables(CHUNK), tables(ENTRIES * CHUNK), tables(1 << 50)], [1, 2, TABLES]);
    }
}
