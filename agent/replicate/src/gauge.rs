//! How fast work is done, and how long yet: from looks at a number that grows.
//!
//! What is looked at may grow in steps: under a low limit four threads bring four groups of 64 MiB at nearly the same
//! moment, and then nothing for minutes. So the pace is taken from step to step, over the steps of the last minute and at
//! least the last [`FEWEST`], and between two steps the time left counts down. A changed limit shows within a minute or
//! so many steps. A step that is overdue lowers the pace, so a standstill shows too.

use std::collections::VecDeque;
use std::time::Duration;

use crate::progress::Figures;

/// "Now" is so long.
const NOW: Duration = Duration::from_secs(5);
/// The steps of this time make the pace.
const RECENT: Duration = Duration::from_secs(60);
/// And at least so many of them.
const FEWEST: usize = 4;
/// Less running time than this says nothing about what is to come.
const LEAST: Duration = Duration::from_secs(2);
/// What is kept is this far apart, so that it is little, whoever looks however often.
const SAMPLE: Duration = Duration::from_millis(400);

/// Running time, work done and bytes sent until then.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    at: Duration,
    work: u64,
    sent: u64,
}

/// The recent past of a disk, or of all.
#[derive(Default)]
pub struct Gauge {
    /// Of the last seconds.
    samples: VecDeque<Sample>,
    /// Looks that saw more work than the one before; until there are two of them also the first of all, which saw none.
    steps: VecDeque<Sample>,
    /// The first step with work, and when the last was seen.
    span: Option<(Sample, Duration)>,
}

impl Gauge {
    /// Takes a look at `now` of the running time; fills in rates and time left. `needed` is all the work there is, where
    /// that is known.
    pub fn look(&mut self, now: Duration, work: u64, needed: Option<u64>, figures: &mut Figures) {
        let sample = Sample { at: now, work, sent: figures.sent };
        keep(&mut self.samples, sample, NOW, 1);
        let newest = match self.steps.back() {
            Some(newest) if work <= newest.work => *newest,
            _ => {
                keep(&mut self.steps, sample, RECENT, FEWEST);
                // A disk that is not the first has waited for its turn.
                if self.steps.len() > 2 && self.steps.front().is_some_and(|first| first.work == 0) {
                    self.steps.pop_front();
                }
                sample
            }
        };
        let busy = needed.is_none_or(|needed| work < needed);
        let (rate, sending) = since(self.samples.front(), sample);
        figures.sending = sending as u64;
        figures.mean = self.mean(sample, newest, busy) as u64;
        let pace = self.pace(now, newest);
        // Steps farther apart than "now" is long would show as nothing, and now and then as far too much.
        let stepped = pace.as_ref().filter(|pace| busy && pace.interval > NOW);
        figures.rate = stepped.map_or(rate, |pace| pace.rate) as u64;
        figures.left = match needed.map(|needed| needed.saturating_sub(work)) {
            Some(0) => Some(0),
            Some(left) if now >= LEAST => pace.filter(|pace| pace.rate >= 1.0).map(|pace| {
                let seconds = left as f64 / pace.rate - pace.waited.as_secs_f64();
                seconds.max(0.0).round() as u64
            }),
            _ => None,
        };
    }

    /// Over the whole phase: from the first step on if there was another, else from the beginning.
    fn mean(&mut self, sample: Sample, newest: Sample, busy: bool) -> f64 {
        if newest.work == 0 {
            return 0.0;
        }
        let (first, until) = self.span.get_or_insert((newest, newest.at));
        if busy || newest.at > *until {
            *until = if busy { sample.at } else { newest.at };
        }
        match newest.work > first.work {
            true => per_second(newest.work - first.work, until.saturating_sub(first.at)),
            false => per_second(newest.work, *until),
        }
    }

    /// How fast the last steps were; nothing before the first.
    fn pace(&self, now: Duration, newest: Sample) -> Option<Pace> {
        let oldest = self.steps.front().filter(|oldest| newest.work > oldest.work)?;
        let intervals = u32::try_from(self.steps.len().saturating_sub(1)).unwrap_or(u32::MAX).max(1);
        let interval = newest.at.saturating_sub(oldest.at) / intervals;
        let waited = now.saturating_sub(newest.at).min(interval);
        let (rate, _) = since(Some(oldest), Sample { at: now.saturating_sub(waited), ..newest });
        Some(Pace { rate, interval, waited })
    }
}

/// How fast steps follow each other.
struct Pace {
    /// Work a second.
    rate: f64,
    /// From step to step.
    interval: Duration,
    /// Since the last, at most an interval: what is more is a delay, and part of the rate.
    waited: Duration,
}

/// Keeps a sample: those of the last `time`, one that is older, and at least `fewest`.
fn keep(samples: &mut VecDeque<Sample>, sample: Sample, time: Duration, fewest: usize) {
    if samples.back().is_none_or(|last| sample.at.saturating_sub(last.at) >= SAMPLE) {
        samples.push_back(sample);
    }
    while samples.len() > fewest + 1
        && samples.get(1).is_some_and(|one| sample.at.saturating_sub(one.at) >= time)
    {
        samples.pop_front();
    }
}

/// Work and bytes sent a second.
fn since(from: Option<&Sample>, to: Sample) -> (f64, f64) {
    let from = from.copied().unwrap_or_default();
    let time = to.at.saturating_sub(from.at);
    (per_second(to.work.saturating_sub(from.work), time), per_second(to.sent.saturating_sub(from.sent), time))
}

fn per_second(bytes: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { bytes as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_keeps_a_bounded_past() {
        let mut gauge = Gauge::default();
        for tick in 0..100_000 {
            gauge.look(Duration::from_millis(tick * 10), tick, Some(1 << 40), &mut Figures::default());
        }
        assert!(gauge.steps.len() <= 200 && gauge.samples.len() <= 20);
    }
}
