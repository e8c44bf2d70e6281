//! Copy and verify on one host: the same replica, the same tree, the same commit, no network.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gantry_disk::label::{Label, LabelStage};
use gantry_disk::{BadSectors, Geometry, ReadAt, WriteAt};
use gantry_wire::Extent;
use gantry_wire::limits::{CHUNK, GROUP};
use gantry_wire::tree::{self, Hash, Leaves};
use tokio_util::sync::CancellationToken;

use crate::buffer::with_buffer;
use crate::chunkset::ChunkSet;
use crate::commit::{Finisher, finish};
use crate::event::{Event, Events};
use crate::groups::GroupNodes;
use crate::patch::{differing, ranges};
use crate::progress::{Course, Done, Meter};
use crate::random;
use crate::replica::Replica;
use crate::report::{DiskReport, Report, SourceFacts, clock};
use crate::source::{Run, Source};
use crate::throttle::{Reads, Throttle};

const THREADS: usize = 4;
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
    /// How fast the source may be read; kept by the caller, it can be changed while this runs.
    pub throttle: Throttle,
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
    let source = &Source::new(source, options.bad_sectors)?;
    source.check_fit(replica.end().size())?;
    replica.label_and_blank(&label)?;
    let mut report = Report { version: 1, software: options.software.clone(), ..Report::default() };
    report.boot = "not proven".to_owned();

    let reads = &options.throttle.reads(CancellationToken::new());
    if !options.base {
        let began = Instant::now();
        transfer(source, &replica, reads, events)?;
        report.phase("copy", began);
        events.tell(Event::PassDone { phase: "copy", differing: 0 });
    }

    let began = Instant::now();
    let rewritten = compare(source, &replica, reads, events)?;
    report.phase("compare", began);

    let root = tree::hex(&source.root()?);
    let (from, to) = (source.end().identity(), replica.end().identity().clone());
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
    report.clock = clock();
    report.source =
        SourceFacts { software: options.software.clone(), clock: report.clock, disks: vec![source.facts()] };
    let tell = |_, text: &str| events.tell(Event::Stage { text: text.to_owned() });
    finish(&[&replica], &[label], finisher, &mut report, &tell)?;
    events.tell(Event::Committed);
    Ok(report)
}

/// The full pass.
fn transfer(source: &Source, replica: &Replica, reads: &Reads, events: &Events) -> Result<()> {
    let none = ChunkSet::new(source.chunks());
    let meter = Meter::new("copy", vec![source.full_course(&none)]);
    let runs = Mutex::new(source.runs(none));
    let next = || runs.lock().unwrap_or_else(PoisonError::into_inner).next();
    sweep(meter, next, reads, events, |run, tell| {
        let Extent { first, count } = run.extent();
        match run {
            Run::Zero(extent) => {
                source.learn_zero(extent)?;
                let stop = ((first + count) * CHUNK).min(source.end().size());
                replica.zero_at(first * CHUNK, stop - first * CHUNK)?;
                tell(Done { chunks: count, skipped: count });
            }
            Run::Data(_) => (first..first + count).try_for_each(|index| {
                source.read(index, reads, |bytes, _| {
                    match tree::is_zero(bytes) {
                        true => replica.zero_at(index * CHUNK, bytes.len() as u64)?,
                        false => replica.write_at(index * CHUNK, bytes)?,
                    }
                    tell(Done { chunks: 1, skipped: 0 });
                    Ok(())
                })
            })?,
        }
        Ok(())
    })?;
    Ok(replica.flush()?)
}

/// Reads the target back until it is as the source was; the number of chunks that were written again.
fn compare(source: &Source, replica: &Replica, reads: &Reads, events: &Events) -> Result<u64> {
    let (mut suspects, mut rewritten): (Vec<u64>, u64) = ((0..source.groups().count()).collect(), 0);
    for _ in 0..ROUNDS {
        let (again, chunks) = (Mutex::new(Vec::new()), AtomicU64::new(0));
        let total = suspects.iter().map(|group| source.groups().chunks_of(*group).1 * CHUNK).sum();
        let meter =
            Meter::new("compare", vec![Course { total, need: Some(total), ..source.compare_course() }]);
        let queue = Mutex::new(suspects.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        sweep(meter, next, reads, events, |group, tell| {
            let differ = compare_group(source, replica, group, reads)?;
            if differ > 0 {
                chunks.fetch_add(differ, Ordering::Relaxed);
                again.lock().unwrap_or_else(PoisonError::into_inner).push(group);
            }
            tell(Done { chunks: source.groups().chunks_of(group).1, skipped: 0 });
            Ok(())
        })?;
        replica.flush()?;
        let found = chunks.into_inner();
        rewritten += found;
        events.tell(Event::PassDone { phase: "compare", differing: found });
        suspects = again.into_inner().unwrap_or_else(PoisonError::into_inner);
        if suspects.is_empty() {
            return Ok(rewritten);
        }
    }
    bail!("{}: does not keep what is written to it", replica.end().identity().path)
}

/// Reads a group of the target back; writes the leaves again that differ. The number of chunks that had such.
fn compare_group(source: &Source, replica: &Replica, group: u64, reads: &Reads) -> Result<u64> {
    let ours = leaves(replica, source.end().size(), group, reads)?;
    if source.groups().node(group) == Some(node_of(&ours)) {
        return Ok(0);
    }
    let theirs = source.leaves(group, reads)?;
    let (first, _) = source.groups().chunks_of(group);
    let mut chunks = 0;
    for (index, (ours, theirs)) in (first..).zip(ours.iter().zip(&theirs)) {
        let length = source.groups().chunk_length(index);
        for range in ranges(differing(ours, theirs), length) {
            with_buffer(range.len(), |bytes| -> Result<()> {
                source.read_again(index, theirs, std::slice::from_ref(&range), reads, bytes)?;
                Ok(replica.write_at(index * CHUNK + range.start as u64, bytes)?)
            })?;
        }
        chunks += u64::from(ours != theirs);
    }
    Ok(chunks)
}

/// Reads a group of a disk of which the first `size` bytes count; the leaves of its chunks. Stands still in a pause.
fn leaves(disk: &(impl ReadAt + ?Sized), size: u64, group: u64, reads: &Reads) -> Result<Vec<Leaves>> {
    let stop = tree::chunks(size).min((group + 1) * GROUP);
    let read = |index: u64| {
        reads.hold()?;
        with_buffer(CHUNK.min(size - index * CHUNK) as usize, |bytes| {
            disk.read_at(index * CHUNK, bytes)?;
            Ok(tree::leaves(bytes))
        })
    };
    (group * GROUP..stop).map(read).collect()
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

/// Compares two ends over the size of the smaller one, every byte.
pub fn verify(first: &dyn ReadAt, second: &dyn ReadAt, events: &Events) -> Result<Comparison> {
    let size = first.size().min(second.size());
    let nodes = [(); 2].map(|()| Mutex::new(GroupNodes::new(size)));
    let (count, places) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let queue = Mutex::new(0..tree::groups(size));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let disk = first.identity().path.clone();
    let course = Course { disk, total: size, before: 0, need: Some(size), tally: Arc::default() };
    let reads = Throttle::unlimited().reads(CancellationToken::new());
    sweep(Meter::new("compare", vec![course]), next, &reads, events, |group, tell| {
        let (one, two) = (leaves(first, size, group, &reads)?, leaves(second, size, group, &reads)?);
        for (nodes, leaves) in nodes.iter().zip([&one, &two]) {
            nodes.lock().unwrap_or_else(PoisonError::into_inner).set(group, node_of(leaves));
        }
        for (index, _) in (group * GROUP..).zip(one.iter().zip(&two)).filter(|(_, (one, two))| one != two) {
            count.fetch_add(1, Ordering::Relaxed);
            let mut places = places.lock().unwrap_or_else(PoisonError::into_inner);
            // Groups come nearly in order: what is dropped here lies behind what is kept, or nearly so.
            if places.len() < LISTED {
                places.push(index * CHUNK);
            }
        }
        tell(Done { chunks: one.len() as u64, skipped: 0 });
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

/// Runs `work` over what `next` gives, on several threads; begins nothing in a pause. Stops at the first error, and ends
/// `reads` then: nobody must sleep through it. `work` tells what it has done.
fn sweep<T>(
    mut meter: Meter,
    next: impl Fn() -> Option<T> + Sync,
    reads: &Reads,
    events: &Events,
    work: impl Fn(T, &dyn Fn(Done)) -> Result<()> + Sync,
) -> Result<()> {
    let done = Mutex::new(Done::default());
    let failure = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let mut report = || {
        let progress = meter.look(reads.are_held(), &[*done.lock().unwrap_or_else(PoisonError::into_inner)]);
        events.tell(Event::Progress(progress));
    };
    let tell = |more: Done| {
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.chunks += more.chunks;
        done.skipped += more.skipped;
    };
    let worker = || {
        while !stop.load(Ordering::Relaxed)
            && let Some(item) = next()
        {
            if let Err(error) = reads.hold().map_err(anyhow::Error::from).and_then(|()| work(item, &tell)) {
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                stop.store(true, Ordering::Relaxed);
                reads.end();
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
        Some(error) => Err(error).with_context(|| format!("{} stopped", meter.phase())),
        None => Ok(()),
    }
}
