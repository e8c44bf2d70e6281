//! A token bucket. Pure: time comes from the caller.

use std::time::Duration;

use gantry_disk::schedule::Rate;

/// Seconds of its rate that a bucket saves up while nobody takes: enough to make up for a late wake-up, and 2 % over ten
/// seconds.
const BURST: f64 = 0.2;

/// What may be taken, in bytes; less than nothing after a take.
#[derive(Debug, Default)]
pub struct Bucket {
    balance: f64,
    /// When the balance was struck.
    at: Duration,
}

impl Bucket {
    /// Takes `bytes` at `now` (since any fixed moment) if the bucket is not in debt, else says how long it will be.
    ///
    /// The rate is that of this moment: nothing else is remembered of another one, so a new rate counts at once.
    pub fn take(&mut self, now: Duration, rate: Option<Rate>, bytes: u64) -> Result<(), Duration> {
        let since = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let Some(rate) = rate else {
            self.balance = 0.0;
            return Ok(());
        };
        let rate = rate.bytes_per_second() as f64;
        self.balance = (self.balance + rate * since).min(rate * BURST);
        if self.balance < 0.0 {
            // Rounded up: a debt of less than a nanosecond must not become a wait of none.
            return Err(Duration::from_secs_f64(-self.balance / rate) + Duration::from_micros(1));
        }
        self.balance -= bytes as f64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 64 << 10;

    fn rate(text: &str) -> Option<Rate> {
        Some(text.parse().unwrap())
    }

    /// Takes pieces from `from` to `to` (seconds) as fast as it may, waking `late` after each wait; bytes taken.
    fn drain(bucket: &mut Bucket, from: f64, to: f64, rate: Option<Rate>, late: f64) -> f64 {
        let (mut now, mut taken) = (Duration::from_secs_f64(from), 0);
        let late = Duration::from_secs_f64(late);
        while now < Duration::from_secs_f64(to) {
            match bucket.take(now, rate, PIECE) {
                Ok(()) => taken += PIECE,
                // A waiter looks again after a while even if the wait is longer.
                Err(wait) => now += wait.min(Duration::from_millis(200)) + late,
            }
        }
        taken as f64
    }

    #[test]
    fn ten_seconds_are_exact_whatever_the_rate_and_the_clock() {
        for text in ["128K", "1M", "20M", "1G", "5000001"] {
            for late in [0.0, 0.001, 0.05] {
                let rate = rate(text);
                let wanted = rate.unwrap().bytes_per_second() as f64 * 10.0;
                let taken = drain(&mut Bucket::default(), 0.0, 10.0, rate, late);
                // One piece and the burst are all that it may be off.
                let off = (taken - wanted).abs();
                assert!(off <= wanted * 0.02 + PIECE as f64, "{text}, {late} s late: {taken} of {wanted}");
            }
        }
    }

    #[test]
    fn a_bucket_without_a_rate_would_be_found_out() {
        let mut bucket = Bucket::default();
        for _ in 0..1000 {
            bucket.take(Duration::from_secs(1), None, 1 << 40).unwrap();
        }
        let mut limited = Bucket::default();
        limited.take(Duration::ZERO, rate("1M"), PIECE).unwrap();
        assert!(limited.take(Duration::ZERO, rate("1M"), PIECE).is_err());
    }

    #[test]
    fn an_hour_of_idling_saves_up_no_more_than_the_burst() {
        let mut bucket = Bucket::default();
        let taken = drain(&mut bucket, 3600.0, 3600.001, rate("10M"), 0.0);
        assert!(taken <= 0.2 * 10.0 * 1048576.0 + 2.0 * PIECE as f64, "{taken}");
    }

    #[test]
    fn a_new_rate_counts_for_those_who_wait_already() {
        let mut bucket = Bucket::default();
        bucket.take(Duration::ZERO, rate("1K"), 1 << 20).unwrap();
        let wait = bucket.take(Duration::from_millis(1), rate("1K"), PIECE).unwrap_err();
        assert!(wait > Duration::from_secs(1000), "{wait:?}");
        assert!(bucket.take(Duration::from_millis(200), rate("100M"), PIECE).is_ok(), "raised");

        let mut bucket = Bucket::default();
        drain(&mut bucket, 0.0, 5.0, rate("100M"), 0.0);
        let taken = drain(&mut bucket, 5.0, 15.0, rate("1M"), 0.0);
        assert!((taken / 10485760.0 - 1.0).abs() < 0.05, "lowered: {taken}");

        let mut bucket = Bucket::default();
        bucket.take(Duration::ZERO, rate("1K"), 1 << 20).unwrap();
        bucket.take(Duration::from_millis(1), None, PIECE).unwrap();
        assert!(
            bucket.take(Duration::from_millis(2), rate("1M"), PIECE).is_ok(),
            "a debt ends with its limit"
        );
    }
}
