//! How fast a replication may be, and whether it goes on at all: limits for the wire and for reading, and a pause.
//!
//! A [`Throttle`] is shared by everything of one replication and may be changed at any moment from any thread. Whoever is
//! about to send or to read takes its bytes first, in pieces of [`PIECE`]. Who has to wait looks again after [`LOOK`] at
//! the latest: that one rule makes a new limit, a pause, its end and the border of a window of time count within a
//! second for those who wait already, without anybody being told.
//!
//! A pause stops work, not the connection: the control link's tasks take nothing here, so its pings go on.

mod bucket;
pub mod clock;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use gantry_disk::schedule::{Rate, Schedule};
use tokio::sync::Mutex as Turn;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::bucket::Bucket;

/// Bytes that are taken at once: small enough that a slow link flows evenly.
pub const PIECE: usize = 64 << 10;
/// Who waits looks again after so long.
const LOOK: Duration = Duration::from_millis(200);

/// The limits and the pause of one replication. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Throttle(Arc<Shared>);

struct Shared {
    wire: Limit,
    read: Limit,
    paused: AtomicBool,
    /// A clock that nobody sets.
    began: Instant,
    /// Held by the stream that waits for its piece; the next ones queue up behind it, so each gets its share.
    turn: Turn<()>,
}

impl Throttle {
    /// Starts with these limits.
    pub fn new(wire: Schedule, read: Schedule) -> Self {
        Self(Arc::new(Shared {
            wire: Limit::new(wire),
            read: Limit::new(read),
            paused: AtomicBool::new(false),
            began: Instant::now(),
            turn: Turn::default(),
        }))
    }

    /// No limits.
    pub fn unlimited() -> Self {
        Self::new(Schedule::default(), Schedule::default())
    }

    /// The limit of bytes sent.
    pub fn wire(&self) -> &Limit {
        &self.0.wire
    }

    /// The limit of bytes read from the source.
    pub fn read(&self) -> &Limit {
        &self.0.read
    }

    /// Stops reading and sending, or lets them go on.
    pub fn pause(&self, paused: bool) {
        self.0.paused.store(paused, Ordering::Relaxed);
    }

    /// Whether it was stopped.
    pub fn is_paused(&self) -> bool {
        self.0.paused.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes (at most [`PIECE`], or the flow gets uneven) may be sent. Cancel-safe.
    pub async fn send(&self, bytes: usize) {
        let _turn = self.0.turn.lock().await;
        while let Err(wait) = self.ask(&self.0.wire, bytes) {
            tokio::time::sleep(wait).await;
        }
    }

    /// For those who read until `over`.
    pub fn reads(&self, over: CancellationToken) -> Reads {
        Reads { throttle: self.clone(), over }
    }

    fn ask(&self, limit: &Limit, bytes: usize) -> Result<(), Duration> {
        if self.is_paused() {
            return Err(LOOK);
        }
        limit.take(self.0.began.elapsed(), bytes).map_err(|wait| wait.min(LOOK))
    }
}

/// One limit: what was asked for, and what has been taken.
pub struct Limit(Mutex<(Schedule, Bucket)>);

impl Limit {
    fn new(schedule: Schedule) -> Self {
        Self(Mutex::new((schedule, Bucket::default())))
    }

    fn state(&self) -> MutexGuard<'_, (Schedule, Bucket)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from now on.
    pub fn set(&self, schedule: Schedule) {
        self.state().0 = schedule;
    }

    /// What was asked for.
    pub fn schedule(&self) -> Schedule {
        self.state().0.clone()
    }

    /// The limit at this moment.
    pub fn now(&self) -> Option<Rate> {
        now(&self.state().0)
    }

    fn take(&self, clock: Duration, bytes: usize) -> Result<(), Duration> {
        let (schedule, bucket) = &mut *self.state();
        bucket.take(clock, now(schedule), bytes as u64)
    }
}

fn now(schedule: &Schedule) -> Option<Rate> {
    schedule.at(if schedule.has_windows() { clock::minute_of_day() } else { 0 })
}

/// What somebody waited to read for is over.
#[derive(Debug, thiserror::Error)]
#[error("nobody needs what was to be read")]
pub struct Over;

/// What readers of a source ask before each read; they are threads, and wait as such.
#[derive(Clone)]
pub struct Reads {
    throttle: Throttle,
    over: CancellationToken,
}

impl Reads {
    /// Waits until so many bytes may be read. An error when what they were for is over: a thread that slept through it
    /// would hold up the end of its pool.
    pub fn take(&self, bytes: usize) -> Result<(), Over> {
        for start in (0..bytes).step_by(PIECE) {
            self.wait(|throttle| throttle.ask(&throttle.0.read, PIECE.min(bytes - start)))?;
        }
        Ok(())
    }

    /// Waits for the end of a pause, before work that is not limited.
    pub fn hold(&self) -> Result<(), Over> {
        self.wait(|throttle| if throttle.is_paused() { Err(LOOK) } else { Ok(()) })
    }

    /// Whether somebody has paused them.
    pub fn are_held(&self) -> bool {
        self.throttle.is_paused()
    }

    /// What they were for is over.
    pub fn end(&self) {
        self.over.cancel();
    }

    fn wait(&self, ask: impl Fn(&Throttle) -> Result<(), Duration>) -> Result<(), Over> {
        while let Err(wait) = ask(&self.throttle) {
            std::thread::sleep(wait);
            if self.over.is_cancelled() {
                return Err(Over);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (wire, read) = (self.0.wire.schedule(), self.0.read.schedule());
        write!(f, "Throttle {{ wire: {wire}, read: {read}, paused: {} }}", self.is_paused())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Streams that send without end, and what each has sent; they end with the test.
    fn streams(throttle: &Throttle, count: usize) -> Vec<Arc<AtomicU64>> {
        (0..count)
            .map(|_| {
                let (throttle, sent) = (throttle.clone(), Arc::new(AtomicU64::new(0)));
                let counter = Arc::clone(&sent);
                tokio::spawn(async move {
                    loop {
                        throttle.send(PIECE).await;
                        counter.fetch_add(PIECE as u64, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                    }
                });
                sent
            })
            .collect()
    }

    fn sum(streams: &[Arc<AtomicU64>]) -> u64 {
        streams.iter().map(|sent| sent.load(Ordering::Relaxed)).sum()
    }

    fn limited(text: &str) -> Throttle {
        Throttle::new(text.parse().unwrap(), Schedule::default())
    }

    #[tokio::test(start_paused = true)]
    async fn streams_share_the_limit_and_each_gets_as_much() {
        let throttle = limited("5M");
        let streams = streams(&throttle, 4);
        tokio::time::sleep(10 * SECOND).await;
        let total = sum(&streams) as f64;
        assert!((total / (50.0 * 1048576.0) - 1.0).abs() < 0.03, "{total}");
        let each: Vec<_> = streams.iter().map(|sent| sent.load(Ordering::Relaxed)).collect();
        assert!(each.iter().max().unwrap() - each.iter().min().unwrap() <= 2 * PIECE as u64, "{each:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_counts_within_a_second() {
        let throttle = limited("1K");
        let streams = streams(&throttle, 4);
        tokio::time::sleep(100 * SECOND).await;
        assert!(sum(&streams) <= 3 * PIECE as u64, "{}", sum(&streams));
        throttle.wire().set("10M".parse().unwrap());
        tokio::time::sleep(SECOND).await;
        let before = sum(&streams);
        assert!(before > 7 << 20, "raised: {before} in the first second");
        throttle.wire().set("1M".parse().unwrap());
        tokio::time::sleep(SECOND).await;
        let second = sum(&streams) - before;
        tokio::time::sleep(10 * SECOND).await;
        let ten = sum(&streams) - before - second;
        assert!(second < 3 << 20, "lowered: {second} in the first second");
        assert!((ten as f64 / (10.0 * 1048576.0) - 1.0).abs() < 0.03, "{ten}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_in_a_pause_and_none_of_it_is_made_up_for() {
        let throttle = limited("10M");
        let streams = streams(&throttle, 2);
        tokio::time::sleep(SECOND).await;
        throttle.pause(true);
        let before = sum(&streams);
        assert!(before > 0, "it ran before");
        tokio::time::sleep(3600 * SECOND).await;
        assert_eq!(sum(&streams), before);
        throttle.pause(false);
        tokio::time::sleep(SECOND).await;
        let after = sum(&streams) - before;
        assert!(after > 7 << 20 && after <= 13 << 20, "{after} in the second after the pause");
    }

    #[test]
    fn readers_wait_as_long_as_the_limit_says() {
        let throttle = Throttle::new(Schedule::default(), "2M".parse().unwrap());
        let began = Instant::now();
        let reads = throttle.reads(CancellationToken::new());
        thread::scope(|scope| {
            (0..4).for_each(|_| drop(scope.spawn(|| reads.take(256 << 10).unwrap())));
        });
        // A MiB at two a second; late wake-ups of a busy machine only make it longer.
        assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
        let began = Instant::now();
        Throttle::unlimited().reads(CancellationToken::new()).take(1 << 30).unwrap();
        assert!(began.elapsed() < 10 * SECOND, "no limit, no wait");
    }

    #[test]
    fn a_reader_that_is_held_goes_on_after_the_pause_and_ends_with_its_epoch() {
        let throttle = Throttle::unlimited();
        throttle.pause(true);
        let held = [true, false].map(|take| {
            let reads = throttle.reads(CancellationToken::new());
            let wait = reads.clone();
            (thread::spawn(move || if take { wait.take(1) } else { wait.hold() }), reads)
        });
        assert!(held.iter().all(|(thread, _)| !thread.is_finished()));
        let over = throttle.reads(CancellationToken::new());
        over.end();
        assert!(over.take(1).is_err(), "over while paused");
        throttle.pause(false);
        held.into_iter().for_each(|(thread, _)| thread.join().unwrap().unwrap());
        over.take(1).unwrap();
    }
}
