//! Copy and verify on one host: the same replica, the same tree, the same commit, no network.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gantry_disk::buffer::AlignedBuffer;
use gantry_disk::label::{Label, LabelStage};
use gantry_disk::{ReadAt, WriteAt};
use gantry_wire::limits::CHUNK;
use gantry_wire::tree::{self, Hash, RootBuilder};

use crate::commit::{Finisher, finish};
use crate::event::{Event, Events};
use crate::random;
use crate::replica::Replica;
use crate::report::{DiskReport, Report};

const THREADS: usize = 4;
/// Chunks that one thread takes in a row.
const RUN: u64 = 8;
/// Read-backs that find differences before the target is called unreliable.
const ROUNDS: u32 = 8;
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Copies `source` onto `target`: written, flushed, read back, compared, and only then given its head.
pub fn copy(
    source: &dyn ReadAt,
    target: Arc<dyn WriteAt>,
    finisher: &dyn Finisher,
    software: &str,
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
    replica.blank_and_label(&label)?;
    let chunks = tree::chunks(size);
    let nodes = Mutex::new(vec![tree::zero_chunk(); chunks as usize]);
    let set = |index: u64, node: Hash| {
        nodes.lock().unwrap_or_else(PoisonError::into_inner)[index as usize] = node;
    };
    let mut report = Report { version: 1, software: software.to_owned(), ..Report::default() };
    report.boot = "not proven".to_owned();

    let began = Instant::now();
    let all: Vec<u64> = (0..chunks).collect();
    sweep("copy", &all, size, events, |index, buffer| {
        let node = transfer(source, &replica, index, buffer)?;
        set(index, node);
        Ok(())
    })?;
    replica.flush()?;
    report.phase("copy", began);
    events.tell(Event::PassDone { phase: "copy", differing: 0 });

    let began = Instant::now();
    let mut suspects = all;
    let mut rewritten = 0;
    for round in 0.. {
        ensure!(round < ROUNDS, "{}: does not keep what is written to it", replica.end().identity().path);
        let differing = Mutex::new(Vec::new());
        sweep("compare", &suspects, size, events, |index, buffer| {
            let bytes = &mut buffer[..length_of(size, index)];
            replica.read_at(index * CHUNK, bytes)?;
            let expected = nodes.lock().unwrap_or_else(PoisonError::into_inner)[index as usize];
            if tree::chunk(bytes) != expected {
                differing.lock().unwrap_or_else(PoisonError::into_inner).push(index);
                if transfer(source, &replica, index, buffer)? != expected {
                    bail!(
                        "{}: changed while it was being copied, at byte {}",
                        source.identity().path,
                        index * CHUNK
                    );
                }
            }
            Ok(())
        })?;
        replica.flush()?;
        suspects = differing.into_inner().unwrap_or_else(PoisonError::into_inner);
        rewritten += suspects.len() as u64;
        events.tell(Event::PassDone { phase: "compare", differing: suspects.len() as u64 });
        if suspects.is_empty() {
            break;
        }
    }
    report.phase("compare", began);

    let mut root = RootBuilder::default();
    nodes.into_inner().unwrap_or_else(PoisonError::into_inner).iter().for_each(|node| root.push(node));
    let root = tree::hex(&root.finish(size, sector.bytes()));
    let (from, to) = (source.identity(), replica.end().identity().clone());
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
    let tell = |_, text: &str| events.tell(Event::Stage { text: text.to_owned() });
    finish(&[&replica], &[label], finisher, &mut report, &tell)?;
    events.tell(Event::Committed);
    Ok(report)
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
    /// Chunks that differ, by byte offset, ascending.
    pub differing: Vec<u64>,
}

/// Compares two ends over the size of the smaller one.
pub fn verify(first: &dyn ReadAt, second: &dyn ReadAt, events: &Events) -> Result<Comparison> {
    let size = first.size().min(second.size());
    let chunks: Vec<u64> = (0..tree::chunks(size)).collect();
    let nodes = Mutex::new(vec![(tree::zero_chunk(), tree::zero_chunk()); chunks.len()]);
    sweep("compare", &chunks, size, events, |index, buffer| {
        let bytes = &mut buffer[..length_of(size, index)];
        first.read_at(index * CHUNK, bytes)?;
        let one = tree::chunk(bytes);
        second.read_at(index * CHUNK, bytes)?;
        let two = tree::chunk(bytes);
        nodes.lock().unwrap_or_else(PoisonError::into_inner)[index as usize] = (one, two);
        Ok(())
    })?;
    let nodes = nodes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (mut one, mut two) = (RootBuilder::default(), RootBuilder::default());
    for (a, b) in &nodes {
        one.push(a);
        two.push(b);
    }
    Ok(Comparison {
        first: tree::hex(&one.finish(size, first.sector_size().bytes())),
        second: tree::hex(&two.finish(size, second.sector_size().bytes())),
        compared: size,
        differing: chunks
            .iter()
            .filter(|i| nodes[**i as usize].0 != nodes[**i as usize].1)
            .map(|i| i * CHUNK)
            .collect(),
    })
}

fn length_of(size: u64, index: u64) -> usize {
    CHUNK.min(size - index * CHUNK) as usize
}

fn transfer(source: &dyn ReadAt, replica: &Replica, index: u64, buffer: &mut AlignedBuffer) -> Result<Hash> {
    let bytes = &mut buffer[..length_of(source.size(), index)];
    source.read_at(index * CHUNK, bytes)?;
    if tree::is_zero(bytes) {
        replica.zero_at(index * CHUNK, bytes.len() as u64)?;
        return Ok(tree::zero_chunk());
    }
    replica.write_at(index * CHUNK, bytes)?;
    Ok(tree::chunk(bytes))
}

/// Runs `work` over the chunks on several threads, runs of chunks at a time; stops at the first error.
fn sweep(
    phase: &'static str,
    chunks: &[u64],
    size: u64,
    events: &Events,
    work: impl Fn(u64, &mut AlignedBuffer) -> Result<()> + Sync,
) -> Result<()> {
    thread_local! {
        static BUFFER: RefCell<AlignedBuffer> = RefCell::new(AlignedBuffer::new(CHUNK as usize));
    }
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let failure = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let total = (chunks.len() as u64 * CHUNK).min(size);
    let report = || {
        let done = (done.load(Ordering::Relaxed) * CHUNK).min(total);
        events.tell(Event::Progress { phase, done, total, sent: 0 });
    };
    let worker = || {
        while !stop.load(Ordering::Relaxed) {
            let start = next.fetch_add(RUN, Ordering::Relaxed);
            let run = chunks.iter().skip(start as usize).take(RUN as usize);
            if run.len() == 0 {
                break;
            }
            for index in run {
                if let Err(error) = BUFFER.with_borrow_mut(|buffer| work(*index, buffer)) {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    stop.store(true, Ordering::Relaxed);
                    return;
                }
                done.fetch_add(1, Ordering::Relaxed);
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
