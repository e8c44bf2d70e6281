//! Copy and verify on one host: the same replica, the same tree, the same commit, no network.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gantry_disk::label::{Label, LabelStage};
use gantry_disk::{BadSectors, Careful, DiskError, Geometry, ReadAt, WriteAt};
use gantry_wire::limits::CHUNK;
use gantry_wire::tree::{self, Hash, Leaves};

use crate::buffer::with_buffer;
use crate::commit::{Finisher, finish};
use crate::event::{Event, Events};
use crate::groups::GroupNodes;
use crate::patch::{differing, ranges};
use crate::random;
use crate::replica::Replica;
use crate::report::{DiskReport, Report, SourceDiskFacts, SourceFacts, clock};

const THREADS: usize = 4;
/// Chunks that one thread takes in a row.
const RUN: u64 = 8;
/// Read-backs that find differences before the target is called unreliable.
const ROUNDS: u32 = 8;
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// How a copy is set up.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The target carries an older copy: what is equal is not written.
    pub base: bool,
    /// What becomes of sectors that cannot be read.
    pub bad_sectors: BadSectors,
    /// What the software is called, for the report.
    pub software: String,
}

/// Copies `source` onto `target`: written, flushed, read back, compared, and only then given its head.
pub fn copy(
    source: Arc<dyn ReadAt>,
    target: Arc<dyn WriteAt>,
    options: &CopyOptions,
    finisher: &dyn Finisher,
    events: &Events,
) -> Result<Report> {
    let source = &Careful::new(source, options.bad_sectors);
    let (size, sector) = (source.size(), source.sector_size());
    let replica = Replica::new(target, size, sector)?;
    let session = random::bytes()?;
    let label = Label {
        session,
        job: *b"copy\0\0\0\0",
        stage: LabelStage::Receiving,
        epoch: 1,
        disk: 0,
        disks: 1,
        source_size: size,
        sector_size: sector.bytes(),
        map: serde_json::json!({ "source": source.identity().path }).to_string(),
    };
    replica.blank_and_label(&label)?;
    let mut report = Report { version: 1, software: options.software.clone(), ..Report::default() };
    report.boot = "not proven".to_owned();

    let copied = Copied { source, replica: &replica, groups: GroupNodes::new(size).into() };
    if !options.base {
        let began = Instant::now();
        copied.transfer_all(events)?;
        report.phase("copy", began);
        events.tell(Event::PassDone { phase: "copy", differing: 0 });
    }

    let began = Instant::now();
    let rewritten = copied.compare(events)?;
    report.phase("compare", began);

    let root = copied.groups().root(sector.bytes()).context("not every group was compared")?;
    let (root, from, to) = (tree::hex(&root), source.identity(), replica.end().identity().clone());
    events.tell(Event::Verified { disk: to.path.clone(), root: root.clone() });
    report.disks = vec![DiskReport {
        source: from.path.clone(),
        source_serial: from.serial.clone(),
        target: to.path,
        target_serial: to.serial,
        size,
        sector_size: sector.bytes(),
        root,
        rewritten_chunks: rewritten,
    }];
    let given_up =
        source.given_up().into_iter().map(|range| (range.start, range.end - range.start)).collect();
    let facts = SourceDiskFacts { path: from.path.clone(), bad_sectors: given_up };
    report.clock = clock();
    report.source =
        SourceFacts { software: options.software.clone(), clock: report.clock, disks: vec![facts] };
    let tell = |_, text: &str| events.tell(Event::Stage { text: text.to_owned() });
    finish(&[&replica], &[label], finisher, &mut report, &tell)?;
    events.tell(Event::Committed);
    Ok(report)
}

/// A copy at work.
struct Copied<'a> {
    source: &'a Careful,
    replica: &'a Replica,
    /// What was read of the source.
    groups: Mutex<GroupNodes>,
}

impl Copied<'_> {
    fn groups(&self) -> MutexGuard<'_, GroupNodes> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The full pass.
    fn transfer_all(&self, events: &Events) -> Result<()> {
        let (size, chunks) = (self.source.size(), tree::chunks(self.source.size()));
        sweep("copy", chunks.div_ceil(RUN), size, events, |run, done| {
            for index in run * RUN..chunks.min((run + 1) * RUN) {
                self.transfer(index)?;
                done.fetch_add(CHUNK, Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(self.replica.flush()?)
    }

    /// Reads a chunk of the source and writes it.
    fn transfer(&self, index: u64) -> Result<()> {
        let length = self.groups().chunk_length(index);
        let node = with_buffer(length, |bytes| -> Result<Hash> {
            self.source.read_at(index * CHUNK, bytes)?;
            match tree::is_zero(bytes) {
                true => self.replica.zero_at(index * CHUNK, bytes.len() as u64)?,
                false => self.replica.write_at(index * CHUNK, bytes)?,
            }
            Ok(tree::chunk(bytes))
        })?;
        let mut groups = self.groups();
        if let Some((group, node)) = groups.add(index, node) {
            groups.set(group, node);
        }
        Ok(())
    }

    /// Reads the target back until it is as the source was; the number of chunks that were written again.
    fn compare(&self, events: &Events) -> Result<u64> {
        let size = self.source.size();
        let (mut suspects, mut rewritten): (Vec<u64>, u64) = ((0..tree::groups(size)).collect(), 0);
        for _ in 0..ROUNDS {
            let (again, chunks) = (Mutex::new(Vec::new()), AtomicU64::new(0));
            sweep("compare", suspects.len() as u64, size, events, |i, done| {
                let group = suspects[i as usize];
                let differ = self.compare_group(group)?;
                if differ > 0 {
                    chunks.fetch_add(differ, Ordering::Relaxed);
                    again.lock().unwrap_or_else(PoisonError::into_inner).push(group);
                }
                done.fetch_add(self.groups().chunks_of(group).1 * CHUNK, Ordering::Relaxed);
                Ok(())
            })?;
            self.replica.flush()?;
            let found = chunks.into_inner();
            rewritten += found;
            events.tell(Event::PassDone { phase: "compare", differing: found });
            suspects = again.into_inner().unwrap_or_else(PoisonError::into_inner);
            if suspects.is_empty() {
                return Ok(rewritten);
            }
        }
        bail!("{}: does not keep what is written to it", self.replica.end().identity().path)
    }

    /// Reads a group of the target back; writes the leaves again that differ. The number of chunks that had such.
    fn compare_group(&self, group: u64) -> Result<u64> {
        let known = self.groups().node(group);
        let ours = leaves(self.replica, &self.groups, group)?;
        if known == Some(node_of(&ours)) {
            return Ok(0);
        }
        let theirs = leaves(self.source, &self.groups, group)?;
        let now = node_of(&theirs);
        let (first, _) = self.groups().chunks_of(group);
        let (path, byte) = (&self.source.identity().path, first * CHUNK);
        ensure!(
            known.is_none_or(|known| known == now),
            "{path}: changed while it was being copied, at or behind byte {byte}"
        );
        self.groups().set(group, now);
        let mut chunks = 0;
        for (index, (ours, theirs)) in (first..).zip(ours.iter().zip(&theirs)) {
            let bits = differing(ours, theirs);
            chunks += u64::from(bits != 0);
            let length = self.groups().chunk_length(index);
            for range in ranges(bits, length) {
                let at = index * CHUNK + range.start as u64;
                with_buffer(range.len(), |bytes| -> Result<(), DiskError> {
                    self.source.read_at(at, bytes)?;
                    self.replica.write_at(at, bytes)
                })?;
            }
        }
        Ok(chunks)
    }
}

/// Reads a group; the leaves of its chunks.
fn leaves<T: ReadAt + ?Sized>(
    disk: &T,
    groups: &Mutex<GroupNodes>,
    group: u64,
) -> Result<Vec<Leaves>, DiskError> {
    let length = |index| groups.lock().unwrap_or_else(PoisonError::into_inner).chunk_length(index);
    let (first, count) = groups.lock().unwrap_or_else(PoisonError::into_inner).chunks_of(group);
    let read = |index: u64| {
        with_buffer(length(index), |bytes| {
            disk.read_at(index * CHUNK, bytes)?;
            Ok(tree::leaves(bytes))
        })
    };
    (first..first + count).map(read).collect()
}

fn node_of(leaves: &[Leaves]) -> Hash {
    tree::group(&leaves.iter().map(tree::chunk_of).collect::<Vec<_>>())
}

/// What a comparison found.
#[derive(Debug)]
pub struct Comparison {
    /// Root of the first end over the compared bytes, hex.
    pub first: String,
    /// Root of the second end over the same bytes, hex.
    pub second: String,
    /// Compared bytes: the size of the smaller end.
    pub compared: u64,
    /// How many chunks (1 MiB) differ.
    pub differing: u64,
    /// The first of them, at most [`LISTED`], by byte offset, ascending.
    pub places: Vec<u64>,
}

/// Places that a [`Comparison`] lists.
pub const LISTED: usize = 4096;

/// Compares two ends over the size of the smaller one.
pub fn verify(first: &dyn ReadAt, second: &dyn ReadAt, events: &Events) -> Result<Comparison> {
    let size = first.size().min(second.size());
    let nodes = [(); 2].map(|()| Mutex::new(GroupNodes::new(size)));
    let (count, places) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    sweep("compare", tree::groups(size), size, events, |group, done| {
        let one = leaves(first, &nodes[0], group)?;
        let two = leaves(second, &nodes[1], group)?;
        for (nodes, leaves) in nodes.iter().zip([&one, &two]) {
            nodes.lock().unwrap_or_else(PoisonError::into_inner).set(group, node_of(leaves));
        }
        let start = group * gantry_wire::limits::GROUP;
        for (index, (one, two)) in (start..).zip(one.iter().zip(&two)) {
            if one != two {
                count.fetch_add(1, Ordering::Relaxed);
                let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
                // Groups come nearly in order: what is dropped here lies behind what is kept, or nearly so.
                if places.len() < LISTED {
                    places.push(index * CHUNK);
                }
            }
        }
        done.fetch_add(one.len() as u64 * CHUNK, Ordering::Relaxed);
        Ok(())
    })?;
    let root = |nodes: &Mutex<GroupNodes>, disk: &dyn ReadAt| {
        let nodes = nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let root = nodes.root(disk.sector_size().bytes()).context("not every group was read")?;
        anyhow::Ok(tree::hex(&root))
    };
    let mut places = places.into_inner().unwrap_or_else(PoisonError::into_inner);
    places.sort_unstable();
    Ok(Comparison {
        first: root(&nodes[0], first)?,
        second: root(&nodes[1], second)?,
        compared: size,
        differing: count.into_inner(),
        places,
    })
}

/// Runs `work` over `items` on several threads; stops at the first error. `work` adds the bytes that it has done.
fn sweep(
    phase: &'static str,
    items: u64,
    size: u64,
    events: &Events,
    work: impl Fn(u64, &AtomicU64) -> Result<()> + Sync,
) -> Result<()> {
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failure = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let report = || {
        let done = done.load(Ordering::Relaxed).min(size);
        events.tell(Event::Progress { phase, done, total: size, sent: 0 });
    };
    let worker = || {
        while !stop.load(Ordering::Relaxed) {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= items {
                break;
            }
            if let Err(error) = work(item, &done) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        let mut told = Instant::now();
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                report();
            }
        }
    });
    report();
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error).with_context(|| format!("{phase} stopped")),
        None => Ok(()),
    }
}
