//! Many readings of a disk at once, and what a group of it hashes to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gantry_disk::ReadAt;
use gantry_wire::limits::{CHUNK, GROUP, LEAVES_PER_CHUNK};
use gantry_wire::tree::{self, Hash, Leaves};
use tokio_util::sync::CancellationToken;

use crate::buffer::with_buffer;
use crate::event::{Event, Events};
use crate::progress::{Course, Done, Meter};
use crate::throttle::{Reads, Throttle};

const THREADS: usize = 4;
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Reads a group of a disk of which the first `size` bytes count; the leaves of its chunks. Stands still in a pause.
pub fn leaves(disk: &(impl ReadAt + ?Sized), size: u64, group: u64, reads: &Reads) -> Result<Vec<Leaves>> {
    leaves_but(|_| false, disk, size, group, reads)
}

/// The same, but chunks that are `spare` are zero without being read.
pub fn leaves_but(
    spare: impl Fn(u64) -> bool,
    disk: &(impl ReadAt + ?Sized),
    size: u64,
    group: u64,
    reads: &Reads,
) -> Result<Vec<Leaves>> {
    let stop = tree::chunks(size).min((group + 1) * GROUP);
    let read = |index: u64| {
        if spare(index) {
            return Ok([tree::zero_leaf(); LEAVES_PER_CHUNK]);
        }
        reads.hold()?;
        with_buffer(CHUNK.min(size - index * CHUNK) as usize, |bytes| {
            disk.read_at(index * CHUNK, bytes)?;
            Ok(tree::leaves(bytes))
        })
    };
    (group * GROUP..stop).map(read).collect()
}

/// The node of a group with these leaves.
pub fn node_of(leaves: &[Leaves]) -> Hash {
    tree::group(&leaves.iter().map(tree::chunk_of).collect::<Vec<_>>())
}

/// Runs `work` over what `next` gives, on several threads; begins nothing in a pause. Stops at the first error, and ends
/// `reads` then: nobody must sleep through it. `work` tells what it has done.
pub fn sweep<T>(
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

/// Reading that nobody limits or holds.
pub fn free() -> Reads {
    Throttle::unlimited().reads(CancellationToken::new())
}

/// The same for `total` bytes of a disk that are read freely. `work` says how many chunks it has done.
pub fn sweep_freely<T>(
    phase: &'static str,
    (disk, total): (&str, u64),
    next: impl Fn() -> Option<T> + Sync,
    events: &Events,
    work: impl Fn(T, &Reads) -> Result<u64> + Sync,
) -> Result<()> {
    let (disk, need) = (disk.to_owned(), Some(total));
    let course = Course { disk, total, before: 0, need, tally: Arc::default() };
    let reads = free();
    sweep(Meter::new(phase, vec![course]), next, &reads, events, |item, tell| {
        let chunks = work(item, &reads)?;
        tell(Done { chunks, skipped: 0 });
        Ok(())
    })
}
