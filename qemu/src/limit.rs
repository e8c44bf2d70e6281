//! How long a wait may take.

use std::time::Duration;

/// The environment variable that scales every limit; see [`Limit::quiet`].
const SLOW: &str = "GANTRY_SLOW";

/// A quiet machine's figure is multiplied by this when [`SLOW`] is not set: under load, emulation takes up to four times as long.
const DEFAULT_FACTOR: f64 = 4.0;

/// The longest time something may take before it counts as failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit(Duration);

impl Limit {
    /// The limit for something that takes `seconds` on a quiet machine without KVM, scaled by `GANTRY_SLOW` (default 4).
    #[must_use]
    pub fn quiet(seconds: u32) -> Self {
        Self::scaled(seconds, std::env::var(SLOW).ok().as_deref())
    }

    /// The limit as a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        self.0
    }

    fn scaled(seconds: u32, factor: Option<&str>) -> Self {
        let factor = factor.and_then(|text| text.parse::<f64>().ok()).filter(|f| f.is_finite() && *f >= 0.1);
        Self(Duration::from_secs_f64(f64::from(seconds) * factor.unwrap_or(DEFAULT_FACTOR).min(100.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_comes_from_the_environment_and_nonsense_means_the_default() {
        for (factor, seconds) in [
            (None, 40),
            (Some("1"), 10),
            (Some("2.5"), 25),
            (Some("fast"), 40),
            (Some("NaN"), 40),
            (Some("-3"), 40),
        ] {
            assert_eq!(Limit::scaled(10, factor).duration(), Duration::from_secs(seconds), "{factor:?}");
        }
    }
}
