//! How far a phase is, how fast it goes, and how long yet.
//!
//! Time left is estimated from *work*, not from position: a disk of which half need not be read is half way when half of
//! the other half was read and has arrived. [`Course::need`] says how much work there is, [`Gauge`] how fast it is done.
//! A pause counts as no time at all.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gantry_wire::limits::CHUNK;
use serde::{Deserialize, Serialize};

use crate::gauge::Gauge;

/// What has happened to a disk in this process, in bytes; whoever does it counts it.
#[derive(Debug, Default)]
pub struct Tally {
    /// Read from the source.
    pub read: AtomicU64,
    /// Known to be zero or unused, and not read.
    pub skipped: AtomicU64,
    /// Sent on the data streams; at a receiver, written.
    pub sent: AtomicU64,
    /// Not sent because compression made it smaller.
    pub saved: AtomicU64,
}

/// Adds to a count.
pub fn add(counter: &AtomicU64, bytes: u64) {
    counter.fetch_add(bytes, Ordering::Relaxed);
}

/// How far a disk, or all of them, are. Bytes, bytes a second, seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Bytes of disk done in this phase.
    pub done: u64,
    /// Bytes of disk in this phase.
    pub total: u64,
    /// Read from the source in this process.
    pub read: u64,
    /// Known to be zero or unused, and not read, in this process.
    pub skipped: u64,
    /// Sent on the data streams in this process; at a receiver, written.
    pub sent: u64,
    /// Not sent, in this process, because compression made it smaller.
    pub saved: u64,
    /// Work done a second, over the last seconds.
    pub rate: u64,
    /// The same over the whole phase, pauses left out.
    pub mean: u64,
    /// Sent a second, over the last seconds: what a limit of the wire is compared with.
    pub sending: u64,
    /// Seconds until the end of this phase; none when it cannot be told yet.
    pub left: Option<u64>,
}

/// How far a phase is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// "full", "compare", "copy" or "after" (reading back what was changed).
    pub phase: Cow<'static, str>,
    /// Whether somebody has paused it.
    pub paused: bool,
    /// All disks together.
    #[serde(flatten)]
    pub sum: Figures,
    /// Each disk.
    pub disks: Vec<DiskProgress>,
}

/// How far a disk is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskProgress {
    /// As its end calls it.
    pub disk: String,
    /// How far.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What is done of a disk in a phase, in chunks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    /// All that is done, also before the phase began.
    pub chunks: u64,
    /// Those of them that took no time in this phase, because nothing had to be read.
    pub skipped: u64,
}

/// A disk on its way through a phase.
pub struct Course {
    /// As its end calls it.
    pub disk: String,
    /// Bytes of disk in this phase.
    pub total: u64,
    /// Chunks that are done before it begins.
    pub before: u64,
    /// Bytes that take time: neither done before nor skipped. None where this end cannot know.
    pub need: Option<u64>,
    /// Its counts.
    pub tally: Arc<Tally>,
}

/// Watches a phase.
pub struct Meter {
    phase: &'static str,
    began: Instant,
    /// When it was last looked at, and the running time until then.
    last: Duration,
    running: Duration,
    courses: Vec<(Course, Gauge)>,
    sum: Gauge,
}

impl Meter {
    /// The phase begins now.
    pub fn new(phase: &'static str, courses: Vec<Course>) -> Self {
        let courses = courses.into_iter().map(|course| (course, Gauge::default())).collect();
        let (began, sum) = (Instant::now(), Gauge::default());
        Self { phase, began, last: Duration::ZERO, running: Duration::ZERO, courses, sum }
    }

    /// The phase that is watched.
    pub fn phase(&self) -> &'static str {
        self.phase
    }

    /// How far it is: what is done of each disk.
    pub fn look(&mut self, paused: bool, done: &[Done]) -> Progress {
        self.look_at(self.began.elapsed(), paused, done)
    }

    fn look_at(&mut self, now: Duration, paused: bool, done: &[Done]) -> Progress {
        if !paused {
            self.running += now.saturating_sub(self.last);
        }
        self.last = now;
        let (mut sum, mut work, mut needed) = (Figures::default(), 0, Some(0));
        let mut disks = Vec::new();
        for ((course, gauge), done) in self.courses.iter_mut().zip(done) {
            let tally = &course.tally;
            let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let mut figures = Figures {
                done: bytes(done.chunks).min(course.total),
                total: course.total,
                read: count(&tally.read),
                skipped: count(&tally.skipped),
                sent: count(&tally.sent),
                saved: count(&tally.saved),
                ..Figures::default()
            };
            let chunks = done.chunks.saturating_sub(course.before).saturating_sub(done.skipped);
            let worked = bytes(chunks).min(course.need.unwrap_or(course.total));
            gauge.look(self.running, worked, course.need, &mut figures);
            work += worked;
            needed = needed.zip(course.need).map(|(all, need)| all + need);
            sum.done += figures.done;
            sum.total += figures.total;
            sum.read += figures.read;
            sum.skipped += figures.skipped;
            sum.sent += figures.sent;
            sum.saved += figures.saved;
            disks.push(DiskProgress { disk: course.disk.clone(), figures });
        }
        self.sum.look(self.running, work, needed, &mut sum);
        if paused {
            for figures in disks.iter_mut().map(|disk: &mut DiskProgress| &mut disk.figures).chain([&mut sum])
            {
                (figures.rate, figures.sending) = (0, 0);
            }
        }
        Progress { phase: self.phase.into(), paused, sum, disks }
    }
}

fn bytes(chunks: u64) -> u64 {
    chunks.saturating_mul(CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const TICK: f64 = 0.5;

    /// What an estimate goes by.
    #[derive(Clone, Copy, PartialEq)]
    enum By {
        Work,
        Position,
    }

    /// A disk of 1000 MiB; a MiB that must be read takes `cost(second)` seconds, a skipped one nothing; they arrive in steps
    /// of so many MiB. Looks every half second; seconds to the end and the estimate, from 20 % of the time on.
    #[derive(Clone, Copy)]
    struct Simulated {
        skipped: fn(u64) -> bool,
        cost: fn(f64) -> f64,
        step: u64,
    }

    const EVEN: Simulated = Simulated { skipped: |_| false, cost: |_| 0.1, step: 1 };

    impl Simulated {
        fn run(&self, by: By) -> Vec<(f64, Option<u64>)> {
            let skipped = (0..1000).filter(|index| (self.skipped)(*index)).count() as u64;
            let need = if by == By::Work { 1000 - skipped } else { 1000 } * MIB;
            let course = Course { total: 1000 * MIB, need: Some(need), ..course("a") };
            let mut meter = Meter::new("copy", vec![course]);
            let (mut time, mut tick, mut looks) = (0.0, 0.0, Vec::new());
            let (mut done, mut arrived) = (Done::default(), Done::default());
            for index in 0..1000 {
                while tick <= time {
                    let now = Duration::from_secs_f64(tick);
                    looks.push((tick, meter.look_at(now, false, &[arrived]).sum.left));
                    tick += TICK;
                }
                done.chunks += 1;
                done.skipped += u64::from((self.skipped)(index) && by == By::Work);
                time += if (self.skipped)(index) { 0.0 } else { (self.cost)(time) };
                if done.chunks.is_multiple_of(self.step) {
                    arrived = done;
                }
            }
            let end = time;
            looks.retain(|(at, _)| *at >= 0.2 * end);
            looks.into_iter().map(|(at, left)| (end - at, left)).collect()
        }

        /// How far off the worst estimate is, as a share of the truth; seconds near the end are not judged by share.
        fn worst(&self, by: By) -> f64 {
            let slack = 2.0 * (self.cost)(0.0).max(1.0);
            let off = |(truth, left): (f64, Option<u64>)| match left {
                None => f64::INFINITY,
                Some(left) => ((left as f64 - truth).abs() - slack).max(0.0) / truth.max(0.01),
            };
            self.run(by).into_iter().map(off).fold(0.0, f64::max)
        }
    }

    #[test]
    fn time_left_is_true_within_a_quarter_after_a_fifth() {
        assert!(EVEN.worst(By::Work) < 0.25);
        assert!(EVEN.worst(By::Position) < 0.25);
        let halves: [fn(u64) -> bool; 4] =
            [|i| i >= 500, |i| i < 500, |i| i % 2 == 0, |i| (i / 100) % 2 == 0];
        for (case, skipped) in halves.into_iter().enumerate() {
            let worst = Simulated { skipped, ..EVEN }.worst(By::Work);
            assert!(worst < 0.25, "half skipped, case {case}: {worst}");
        }
        // Uneven seconds around a constant mean.
        let uneven = Simulated { cost: |time| 0.1 * (1.0 + 0.6 * (time * 2.0).sin()), ..EVEN };
        assert!(uneven.worst(By::Work) < 0.25);
    }

    #[test]
    fn an_estimate_by_position_would_be_found_out() {
        let behind = Simulated { skipped: |i| i >= 500, ..EVEN };
        assert!(behind.worst(By::Position) > 0.25, "zeroes at the end");
        let between = Simulated { skipped: |i| (i / 250) % 2 == 0, ..EVEN };
        assert!(between.worst(By::Position) > 0.25, "zeroes in between");
    }

    /// Under a limit groups arrive together, with minutes in between: a rate of the last minute would be nothing, and now
    /// and then four times too much.
    #[test]
    fn steps_that_are_minutes_apart_give_a_rate_and_a_time_all_the_same() {
        let slow = Simulated { cost: |_| 4.0, step: 64, ..EVEN };
        assert!(slow.worst(By::Work) < 0.25, "{}", slow.worst(By::Work));
        let mut meter = Meter::new("compare", vec![course("a")]);
        let look = |meter: &mut Meter, second| {
            meter.look_at(Duration::from_secs(second), false, &[done(second / 100 * 10)]).sum
        };
        for second in 0..=250 {
            look(&mut meter, second);
        }
        let between = look(&mut meter, 260);
        assert_eq!((between.rate, between.mean, between.left), (MIB / 10, 10 * MIB / 160, Some(740)));
        // A step that does not come: slower and slower, and the time left grows.
        let mut stalled = |second| meter.look_at(Duration::from_secs(second), false, &[done(20)]).sum;
        let (soon, late) = (stalled(600), stalled(3600));
        assert!(soon.rate < MIB / 20 && late.rate < soon.rate && late.left > soon.left, "{soon:?} {late:?}");
    }

    #[test]
    fn an_end_that_does_not_know_the_work_tells_no_time() {
        let course = Course { need: None, ..course("a") };
        let mut meter = Meter::new("full", vec![course]);
        let look = |meter: &mut Meter, second| {
            meter.look_at(Duration::from_secs(second), false, &[done(second)]).sum
        };
        for second in 0..=10 {
            look(&mut meter, second);
        }
        let figures = look(&mut meter, 11);
        assert_eq!((figures.rate, figures.mean, figures.left), (MIB, MIB, None));
    }

    #[test]
    fn a_changed_pace_shows_within_a_minute() {
        let slower = Simulated { cost: |time| if time < 40.0 { 0.1 } else { 0.4 }, ..EVEN };
        let looks = slower.run(By::Work);
        let late = looks.iter().filter(|(truth, _)| *truth < 140.0 && *truth > 20.0);
        for (truth, left) in late {
            let left = left.unwrap() as f64;
            assert!((left / truth - 1.0).abs() < 0.25, "{left} for {truth}");
        }
        let (truth, left) = looks[0];
        assert!((left.unwrap() as f64 / truth - 1.0).abs() > 0.25, "before the change nobody can know");
    }

    fn course(disk: &str) -> Course {
        Course {
            disk: disk.into(),
            total: 100 * MIB,
            before: 0,
            need: Some(100 * MIB),
            tally: Arc::default(),
        }
    }

    fn done(chunks: u64) -> Done {
        Done { chunks, skipped: 0 }
    }

    #[test]
    fn a_pause_is_no_time() {
        let course = course("a");
        let tally = Arc::clone(&course.tally);
        let mut meter = Meter::new("full", vec![course]);
        let at = Duration::from_secs;
        meter.look_at(at(0), false, &[done(0)]);
        for second in 1..=10 {
            add(&tally.sent, MIB / 2);
            meter.look_at(at(second), false, &[done(second)]);
        }
        for second in 11..=3610 {
            meter.look_at(at(second), true, &[done(10)]);
        }
        let paused = meter.look_at(at(3611), true, &[done(10)]);
        assert!(paused.paused);
        let Figures { rate, sending, mean, left, .. } = paused.sum;
        assert_eq!((rate, sending, mean, left), (0, 0, MIB, Some(90)));
        add(&tally.sent, MIB / 2);
        let after = meter.look_at(at(3612), false, &[done(11)]);
        let figures = after.sum;
        assert_eq!((figures.rate, figures.mean, figures.sending), (MIB, MIB, MIB / 2));
        assert_eq!(figures.left, Some(89));
        assert_eq!(after.disks[0].figures, figures);
    }

    #[test]
    fn each_disk_has_its_own_figures_and_the_sum_is_all() {
        let (one, two) = (course("a"), course("b"));
        let second = Arc::clone(&two.tally);
        let mut meter = Meter::new("full", vec![one, two]);
        let at = Duration::from_secs;
        meter.look_at(at(0), false, &[done(0), done(0)]);
        for i in 1..=50 {
            meter.look_at(at(i), false, &[done(2 * i), done(0)]);
        }
        let half = meter.look_at(at(50), false, &[done(100), done(0)]);
        assert_eq!((half.disks[0].figures.left, half.disks[1].figures.left), (Some(0), None));
        assert_eq!(half.sum.left, Some(50));
        add(&second.saved, 7);
        (51..60).for_each(|i| drop(meter.look_at(at(i), false, &[done(100), done(i - 50)])));
        let later = meter.look_at(at(60), false, &[done(100), done(10)]);
        assert_eq!((later.disks[0].figures.mean, later.disks[1].figures.mean), (2 * MIB, MIB));
        assert_eq!((later.disks[0].figures.rate, later.disks[1].figures.rate), (0, MIB));
        assert_eq!((later.sum.done, later.sum.total, later.sum.saved), (110 * MIB, 200 * MIB, 7));
    }

    #[test]
    fn what_was_there_before_is_no_work() {
        let course = Course { before: 60, need: Some(40 * MIB), ..course("a") };
        let mut meter = Meter::new("full", vec![course]);
        meter.look_at(Duration::ZERO, false, &[done(60)]);
        let progress = meter.look_at(Duration::from_secs(10), false, &[done(80)]);
        assert_eq!((progress.sum.rate, progress.sum.left), (2 * MIB, Some(10)));
    }
}
