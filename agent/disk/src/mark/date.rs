//! Dates as GRUB's `datehook` has them: UTC, no padding.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A day of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Date {
    /// Year.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

/// An hour of a day, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The day.
    pub date: Date,
    /// 0 to 23.
    pub hour: u8,
}

impl Moment {
    /// From a clock. Times before 1970 are 1970.
    pub fn of(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let hour = u8::try_from(seconds % 86400 / 3600).unwrap_or(0);
        let mut date = Date { year: 1970, month: 1, day: 1 };
        let mut days = seconds / 86400;
        while days >= date.days_in_year() && date.year < u16::MAX {
            days -= date.days_in_year();
            date.year += 1;
        }
        for _ in 0..days.min(366) {
            date = date.next();
        }
        Self { date, hour }
    }
}

impl Date {
    /// The day after.
    pub fn next(self) -> Self {
        let Self { year, month, day } = self;
        if day < self.days_in_month() {
            Self { year, month, day: day + 1 }
        } else if month < 12 {
            Self { year, month: month + 1, day: 1 }
        } else {
            Self { year: year.saturating_add(1), month: 1, day: 1 }
        }
    }

    /// Reads "2026-1-9".
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let date = Self {
            year: parts.next()?.parse().ok()?,
            month: parts.next()?.parse().ok()?,
            day: parts.next()?.parse().ok()?,
        };
        let real = (1..=12).contains(&date.month) && date.day >= 1 && date.day <= date.days_in_month();
        (real && parts.next().is_none() && date.to_string() == text).then_some(date)
    }

    fn is_leap(self) -> bool {
        self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400))
    }

    fn days_in_year(self) -> u64 {
        if self.is_leap() { 366 } else { 365 }
    }

    fn days_in_month(self) -> u8 {
        match self.month {
            4 | 6 | 9 | 11 => 30,
            2 if self.is_leap() => 29,
            2 => 28,
            _ => 31,
        }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_agree_with_date_of_coreutils() {
        let table = [
            (0, "1970-1-1", 0),
            (951_782_400, "2000-2-29", 0),
            (1_709_251_199, "2024-2-29", 23),
            (1_767_225_599, "2025-12-31", 23),
            (1_767_225_600, "2026-1-1", 0),
            (4_107_542_400, "2100-3-1", 0),
        ];
        for (seconds, date, hour) in table {
            let moment = Moment::of(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!((moment.date.to_string().as_str(), moment.hour), (date, hour));
            let text = crate::testing::good("date", &["-u", "-d", &format!("@{seconds}"), "+%Y-%-m-%-d"]);
            assert_eq!(text.trim(), date);
        }
    }

    #[test]
    fn only_real_unpadded_dates_are_read() {
        assert_eq!(Date::parse("2026-11-23").unwrap().next().to_string(), "2026-11-24");
        assert_eq!(Date::parse("2026-12-31").unwrap().next().to_string(), "2027-1-1");
        for text in ["", "2026-02-03", "2026-2-30", "2026-13-1", "2026-0-1", "2026-1-1-1", "x-1-1", "2026-1"]
        {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }
}
