//! Copy and verify on one host: the same replica, the same tree, the same commit, no network.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use gantry_disk::label::{Label, LabelStage};
use gantry_disk::used::Ranges;
use gantry_disk::{BadSectors, Geometry, ReadAt, WriteAt};
use gantry_wire::Extent;
use gantry_wire::limits::{CHUNK, GROUP, LEAF};
use gantry_wire::tree;
use tokio_util::sync::CancellationToken;

use crate::buffer::with_buffer;
use crate::chunkset::ChunkSet;
use crate::commit::{Finisher, Verified, finish};
use crate::event::{Event, Events};
use crate::groups::GroupNodes;
use crate::masked::Masked;
use crate::patch::{differing, ranges};
use crate::progress::{Course, Done, Meter};
use crate::random;
use crate::replica::Replica;
use crate::report::{DiskReport, NamedDisk, NamedMachine, Report, SourceFacts, VERSION, clock};
use crate::source::{Run, Source, Sources, mapped, sources};
use crate::sweep::{leaves, leaves_but, node_of, sweep, sweep_freely};
use crate::throttle::{Reads, Throttle};

/// Read-backs that find differences before the target is called unreliable.
const ROUNDS: u32 = 8;

/// How a copy is set up.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The target carries an older copy: what is equal is not written.
    pub base: bool,
    /// Whether also what is unused is read.
    pub whole: bool,
    /// What becomes of sectors that cannot be read.
    pub bad_sectors: BadSectors,
    /// How fast the source may be read; kept by the caller, it can be changed while this runs.
    pub throttle: Throttle,
    /// What this machine is called, for the report.
    pub machine: String,
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
    let Sources { disks, volumes } = sources(&[source], options.bad_sectors, options.whole, events)?;
    let source = disks.first().context("no source")?;
    source.check_fit(replica.end().size())?;
    replica.label_and_blank(&label)?;
    let (name, software) = (options.machine.clone(), options.software.clone());
    let machine = NamedMachine { name, software, ..NamedMachine::default() };
    let (source_machine, began) = (machine.clone(), clock());
    let mut report =
        Report { version: VERSION, source: source_machine, target: machine, began, ..Report::default() };

    let reads = &options.throttle.reads(CancellationToken::new());
    if !options.base {
        let began = Instant::now();
        transfer(source, &replica, reads, events)?;
        report.phase("copy", began);
        events.tell(Event::PassDone { phase: "copy", differing: 0 });
    }

    let began = Instant::now();
    let rewritten = compare(source, &replica, !options.base, reads, events)?;
    report.phase("compare", began);

    let root = tree::hex(&source.root()?);
    let to = replica.end();
    events.tell(Event::Verified { disk: to.identity().path.clone(), root: root.clone() });
    report.disks = vec![DiskReport {
        source: NamedDisk::of(source.end()),
        target: NamedDisk::of(&**to),
        sector_size: sector.bytes(),
        root,
        rewritten_chunks: rewritten,
        ..DiskReport::default()
    }];
    let facts = SourceFacts::new(&options.software, vec![source.facts()], volumes);
    report.verified(facts).map_err(anyhow::Error::msg)?;
    let tell = |_, text: &str| events.tell(Event::Stage { text: text.to_owned() });
    let groups = source.groups().clone();
    finish(&[Verified { replica: &replica, label, groups }], finisher, &mut report, &tell, events)?;
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
            Run::Zero(extent) | Run::Unused(extent) => {
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

/// Reads the target back until it is as the source was; the number of chunks that were written again. What is unused need
/// not be read back where this process has `blanked` it.
fn compare(source: &Source, replica: &Replica, blanked: bool, reads: &Reads, events: &Events) -> Result<u64> {
    let (mut suspects, mut rewritten): (Vec<u64>, u64) = ((0..source.groups().count()).collect(), 0);
    for _ in 0..ROUNDS {
        let (again, chunks) = (Mutex::new(Vec::new()), AtomicU64::new(0));
        let total = suspects.iter().map(|group| source.groups().chunks_of(*group).1 * CHUNK).sum();
        let meter =
            Meter::new("compare", vec![Course { total, need: Some(total), ..source.compare_course() }]);
        let queue = Mutex::new(suspects.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        sweep(meter, next, reads, events, |group, tell| {
            let differ = compare_group(source, replica, group, blanked, reads)?;
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
fn compare_group(
    source: &Source,
    replica: &Replica,
    group: u64,
    blanked: bool,
    reads: &Reads,
) -> Result<u64> {
    let spare = |index: u64| blanked && source.is_unused(index);
    let ours = leaves_but(spare, replica, source.end().size(), group, reads)?;
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

/// What a comparison found.
#[derive(Debug)]
pub struct Comparison {
    /// Root of the first end over the compared bytes, hex.
    pub first: String,
    /// Root of the second end over the same bytes, hex.
    pub second: String,
    /// Bytes of both that were read and compared; what no filesystem of the first end uses counts as zero in both.
    pub compared: u64,
    /// How many chunks (1 MiB) differ.
    pub differing: u64,
    /// The first of them, at most [`LISTED`], by byte offset, ascending.
    pub places: Vec<u64>,
}

/// Places that a [`Comparison`] lists.
pub const LISTED: usize = 4096;

/// Compares two ends over the size of the smaller one: what the filesystems of the first use, or every byte of the `whole`.
pub fn verify(first: &dyn ReadAt, second: &dyn ReadAt, whole: bool, events: &Events) -> Result<Comparison> {
    let size = first.size().min(second.size());
    let used =
        if whole { Ranges::whole(first.size()) } else { mapped(&[first], events).disks.remove(0).used };
    let wanted = &used.round_out(LEAF as u64, first.size());
    let (first, second) = (&Masked { end: first, wanted }, &Masked { end: second, wanted });
    let nodes = [(); 2].map(|()| Mutex::new(GroupNodes::new(size)));
    let (count, places) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let queue = Mutex::new(0..tree::groups(size));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    sweep_freely("compare", (&first.identity().path, size), next, events, |group, reads| {
        let (one, two) = (leaves(first, size, group, reads)?, leaves(second, size, group, reads)?);
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
        Ok(one.len() as u64)
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
        compared: wanted.total_in(&(0..size)),
        differing: count.into_inner(),
        places,
    })
}
