//! Limits as people write them: a rate, or rates by time of day. Pure.
//!
//! ```text
//! 20M                             always
//! none                            never
//! 08:00-18:00=20M,else=none       by windows of local time; a window may go over midnight
//! ```
//!
//! K, M, G and T are powers of 1024, as for `rsync --bwlimit`, `pv --rate-limit` and `curl --limit-rate`, and a rate
//! counts bytes a second.

use std::fmt;
use std::str::FromStr;

/// The slowest rate: below it a person means a pause.
const LEAST: u64 = 1 << 10;
/// The fastest rate, far beyond any disk: what is multiplied with it stays within 64 bits.
const MOST: u64 = 1 << 44;
/// The most windows: two an hour. What a schedule is written as stays short, whoever wrote it.
const WINDOWS: usize = 48;
/// Minutes of a day.
const DAY: u16 = 24 * 60;
const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// Bytes a second; from 1 KiB to 16 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// The number.
    pub fn bytes_per_second(self) -> u64 {
        self.0
    }
}

/// Why a limit was not understood, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadLimit(String);

impl FromStr for Rate {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, BadLimit> {
        let form =
            || BadLimit(format!("'{text}' is no rate: bytes a second with K, M, G or T (1024), like 20M"));
        let shift_of = |letter: char| UNITS.iter().find(|(unit, _)| letter.eq_ignore_ascii_case(unit));
        let (number, shift) = match text.chars().last().and_then(shift_of) {
            Some((_, shift)) => (&text[..text.len() - 1], *shift),
            None => (text, 0),
        };
        // Only digits and a point: a float's other forms (1e9, inf) are no way to write a rate.
        if !number.starts_with(|c: char| c.is_ascii_digit())
            || !number.chars().all(|c| c.is_ascii_digit() || c == '.')
        {
            return Err(form());
        }
        let number: f64 = number.parse().map_err(|_| form())?;
        let bytes = number * (1_u64 << shift) as f64;
        if bytes < LEAST as f64 {
            let why = format!("'{text}' is less than 1K bytes a second; to stop for a while: gantry pause");
            return Err(BadLimit(why));
        }
        if bytes > MOST as f64 {
            return Err(BadLimit(format!("'{text}' is more than 16T bytes a second; for no limit: none")));
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0.trailing_zeros() >= *shift) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A stretch of the day, in minutes; it ends at or before its start when it goes over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    start: u16,
    end: u16,
    limit: Option<Rate>,
}

impl Window {
    fn contains(&self, minute: u16) -> bool {
        match self.start < self.end {
            true => (self.start..self.end).contains(&minute),
            false => minute >= self.start || minute < self.end,
        }
    }
}

/// How fast it may be, and when. No window holds a minute of another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    windows: Vec<Window>,
    otherwise: Option<Rate>,
}

impl Schedule {
    /// The limit at a minute of the day (0 to 1439), local time; nothing for no limit.
    pub fn at(&self, minute: u16) -> Option<Rate> {
        let window = self.windows.iter().find(|window| window.contains(minute));
        window.map_or(self.otherwise, |window| window.limit)
    }

    /// Whether the time of day matters.
    pub fn has_windows(&self) -> bool {
        !self.windows.is_empty()
    }
}

fn limit(text: &str) -> Result<Option<Rate>, BadLimit> {
    if text == "none" { Ok(None) } else { text.parse().map(Some) }
}

/// A time of day in minutes; 24:00 is the end of the day.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| match text.len() {
        1 | 2 if text.chars().all(|c| c.is_ascii_digit()) => text.parse::<u16>().ok(),
        _ => None,
    };
    let (hour, minute) = (number(hour)?, number(minute).filter(|minute| *minute < 60)?);
    Some(hour * 60 + minute).filter(|minute| *minute <= DAY)
}

fn window(when: &str, limit: Option<Rate>) -> Result<Window, BadLimit> {
    let times = when.split_once('-').and_then(|(start, end)| minute(start).zip(minute(end)));
    match times {
        Some((start, _)) if start == DAY => {
            Err(BadLimit(format!("'{when}': a window begins at 00:00, not at 24:00")))
        }
        Some((start, end)) if start == end => Err(BadLimit(format!("'{when}' is an empty window"))),
        Some((start, end)) => Ok(Window { start, end, limit }),
        None => Err(BadLimit(format!("'{when}' is no window: write HH:MM-HH:MM=RATE"))),
    }
}

impl FromStr for Schedule {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, BadLimit> {
        if !text.contains('=') {
            return Ok(Self { windows: Vec::new(), otherwise: limit(text)? });
        }
        let (mut schedule, mut otherwise) = (Self::default(), None);
        for part in text.split(',') {
            let Some((when, rate)) = part.split_once('=') else {
                return Err(BadLimit(format!("'{part}' is no window: write HH:MM-HH:MM=RATE or else=RATE")));
            };
            let limit = limit(rate)?;
            if when == "else" {
                if otherwise.replace(limit).is_some() {
                    return Err(BadLimit("'else' is given twice".to_owned()));
                }
                continue;
            }
            if schedule.windows.len() == WINDOWS {
                return Err(BadLimit(format!("'{when}' is one window too many: {WINDOWS} are the most")));
            }
            let new = window(when, limit)?;
            let clash =
                (0..DAY).find(|m| new.contains(*m) && schedule.windows.iter().any(|w| w.contains(*m)));
            if let Some(m) = clash {
                let why = format!("'{when}' overlaps another window at {:02}:{:02}", m / 60, m % 60);
                return Err(BadLimit(why));
            }
            schedule.windows.push(new);
        }
        schedule.otherwise = otherwise.flatten();
        Ok(schedule)
    }
}

/// As it is parsed.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |limit: &Option<Rate>| limit.map_or("none".to_owned(), |rate| rate.to_string());
        for Window { start, end, limit } in &self.windows {
            let (from, to) = ((start / 60, start % 60), (end / 60, end % 60));
            write!(f, "{:02}:{:02}-{:02}:{:02}={},", from.0, from.1, to.0, to.1, word(limit))?;
        }
        let otherwise = if self.has_windows() { "else=" } else { "" };
        write!(f, "{otherwise}{}", word(&self.otherwise))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bytes_in_powers_of_1024() {
        for (text, bytes, shown) in [
            ("1K", 1024, "1K"),
            ("1024", 1024, "1K"),
            ("20M", 20 << 20, "20M"),
            ("20m", 20 << 20, "20M"),
            ("1.5M", 3 << 19, "1536K"),
            ("1000000", 1_000_000, "1000000"),
            ("2G", 2 << 30, "2G"),
            ("16T", 1 << 44, "16T"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.bytes_per_second(), rate.to_string().as_str()), (bytes, shown), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_with_the_reason() {
        for (text, part) in [
            ("", "no rate"),
            ("M", "no rate"),
            ("20MB", "no rate"),
            ("20Mbit", "no rate"),
            ("-5M", "no rate"),
            ("1e9", "no rate"),
            ("1.2.3M", "no rate"),
            (".5M", "no rate"),
            ("inf", "no rate"),
            ("5 M", "no rate"),
            ("5é", "no rate"),
            ("0", "gantry pause"),
            ("1023", "gantry pause"),
            ("17T", "none"),
            ("99999999999999999999999999999", "none"),
        ] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn the_minute_decides() {
        let rows: [(&str, &[(u16, &str)]); 5] = [
            ("none", &[(0, "-"), (1439, "-")]),
            ("20M", &[(0, "20M"), (720, "20M"), (1439, "20M")]),
            ("08:00-18:00=20M,else=none", &[(479, "-"), (480, "20M"), (1079, "20M"), (1080, "-")]),
            (
                "22:30-6:00=100M,else=5M",
                &[(0, "100M"), (359, "100M"), (360, "5M"), (1349, "5M"), (1350, "100M")],
            ),
            (
                "else=1M,00:00-08:00=none,18:00-24:00=9M",
                &[(0, "-"), (480, "1M"), (1079, "1M"), (1080, "9M"), (1439, "9M")],
            ),
        ];
        for (text, expected) in rows {
            let schedule: Schedule = text.parse().unwrap();
            for (minute, rate) in expected {
                let found = schedule.at(*minute).map_or("-".to_owned(), |rate| rate.to_string());
                assert_eq!(found, *rate, "{text} at {minute}");
            }
            assert_eq!(schedule.to_string().parse::<Schedule>().unwrap(), schedule, "{text} shown and read");
        }
    }

    #[test]
    fn a_time_that_no_window_names_has_no_limit_unless_said() {
        let schedule: Schedule = "08:00-18:00=20M".parse().unwrap();
        assert_eq!((schedule.at(0), schedule.at(600).unwrap().to_string().as_str()), (None, "20M"));
    }

    #[test]
    fn so_many_windows_and_no_more() {
        let windows = |count: u16| {
            let window = |i: u16| {
                format!("{:02}:{:02}-{:02}:{:02}=17592186044415,", i / 60, i % 60, (i + 1) / 60, (i + 1) % 60)
            };
            (0..count).map(window).collect::<String>() + "else=17592186044415"
        };
        let most: Schedule = windows(48).parse().unwrap();
        assert!(most.to_string().len() < 2048, "{} bytes", most.to_string().len());
        let error = windows(49).parse::<Schedule>().unwrap_err().to_string();
        assert!(error.contains("00:48-00:49") && error.contains("48 are the most"), "{error}");
    }

    #[test]
    fn malformed_schedules_are_refused_with_the_reason() {
        for (text, part) in [
            ("08:00-18:00=20M,17:59-19:00=1M", "overlaps another window at 17:59"),
            ("22:00-06:00=1M,05:00-07:00=2M", "overlaps another window at 05:00"),
            ("08:00-18:00=1M,08:00-18:00=1M", "overlaps"),
            ("08:00-08:00=1M", "empty"),
            ("24:00-08:00=1M", "begins at 00:00"),
            ("08:00-24:01=1M", "no window"),
            ("08:60-09:00=1M", "no window"),
            ("8-18=1M", "no window"),
            ("008:00-18:00=1M", "no window"),
            ("08:00-18:00=", "no rate"),
            ("08:00-18:00=20M,", "no window"),
            ("08:00-18:00", "no rate"),
            ("else=1M,else=1M", "twice"),
            ("08:00-18:00=20M;else=none", "no rate"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
