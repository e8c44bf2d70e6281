//! The mark: how a boot medium knows that a disk of this very machine is a finished replica and may be started.
//!
//! The medium's GRUB loads it with `load_env`, so it is a GRUB environment block: a first line, `key=value` lines, and `#`
//! up to 1024 bytes. It lies 4096 bytes before the end of the first MiB, in front of where every partitioning tool of the last
//! fifteen years starts the first partition and behind all that a boot loader embeds there (GRUB's core image has some
//! 60 to 100 KiB). It is written only where nobody's bytes are: outside all partitions, over zeros or an older mark.
//!
//! It is the last thing that is written to the disk, when LBA 0 is final ([`crate::pending`]): a disk with a mark starts.
//!
//! It ends: `day1` and `day2` are the only dates on which it counts, and on `day2` only before `hour` (by the machine's own
//! clock in UTC, which is all that GRUB has). So it lives a day at most, at least 23 hours. A clock that jumps can end it
//! early, and can revive it only on the same two dates.

mod date;
mod free;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use date::{Date, Moment};

use crate::end::SectorSize;

/// Where the mark lies on a disk, in bytes.
pub const OFFSET: usize = (1 << 20) - 4096;
/// Its length: what GRUB makes of every environment block.
pub const LENGTH: usize = 1024;

const FIRST_LINE: &[u8] = b"# GRUB Environment Block\n";

/// A mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The session that made the replica: 32 hex digits.
    pub session: String,
    /// Tag of the job, made from the pairing code: 16 hex digits.
    pub job: String,
    /// SMBIOS UUID of the machine that may start the disk, lower case.
    pub uuid: String,
    /// The day on which it was made.
    pub day1: Date,
    /// The day after.
    pub day2: Date,
    /// On `day2` it counts only while the hour is below this.
    pub hour: u8,
}

/// Why a mark was not written. The disk boots all the same where the firmware is told (BootNext) or the medium is taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The head is shorter than a MiB.
    ShortHead,
    /// A partition covers the place.
    InPartition(u32),
    /// A table in the head cannot be read, so nobody knows whose the place is.
    BadTable(String),
    /// Something else is there.
    NotZero(usize),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShortHead => f.write_str("the disk's head is shorter than 1 MiB"),
            Self::InPartition(number) => write!(f, "partition {number} covers the place of the mark"),
            Self::BadTable(reason) => write!(f, "the partition table cannot be read ({reason})"),
            Self::NotZero(at) => write!(f, "something lies at byte {at}, where the mark would go"),
        }
    }
}

impl Mark {
    /// A mark that counts from `now` for a day at most.
    pub fn new(session: &str, job: &str, uuid: &str, now: Moment) -> Self {
        let text = |text: &str| text.to_ascii_lowercase();
        Self {
            session: text(session),
            job: text(job),
            uuid: text(uuid),
            day1: now.date,
            day2: now.date.next(),
            hour: now.hour,
        }
    }

    /// Whether it counts for the machine with this SMBIOS UUID at this moment: the rule that the medium's GRUB follows.
    pub fn is_live(&self, uuid: &str, now: Moment) -> bool {
        let in_time = now.date == self.day1 || (now.date == self.day2 && now.hour < self.hour);
        in_time && !self.uuid.is_empty() && self.uuid.eq_ignore_ascii_case(uuid)
    }

    /// The 1024 bytes.
    pub fn encode(&self) -> [u8; LENGTH] {
        let Self { session, job, uuid, day1, day2, hour } = self;
        let text = format!(
            "gantry_mark=1\ngantry_session={session}\ngantry_job={job}\ngantry_uuid={uuid}\n\
             gantry_day1={day1}\ngantry_day2={day2}\ngantry_hour={hour}\n"
        );
        let mut block = [b'#'; LENGTH];
        // Some 250 bytes; were a value ever too long, its end is cut and the mark does not read back.
        for (place, byte) in block.iter_mut().zip(FIRST_LINE.iter().chain(text.as_bytes())) {
            *place = *byte;
        }
        block
    }

    /// Reads a mark. `None` for anything else.
    pub fn decode(block: &[u8]) -> Option<Self> {
        let body = block.get(..LENGTH)?.strip_prefix(FIRST_LINE)?;
        let text = std::str::from_utf8(body).ok()?;
        let value = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix("gantry_")?.strip_prefix(key)?.strip_prefix('='))
        };
        if value("mark")? != "1" {
            return None;
        }
        Some(Self {
            session: value("session")?.to_owned(),
            job: value("job")?.to_owned(),
            uuid: value("uuid")?.to_owned(),
            day1: Date::parse(value("day1")?)?,
            day2: Date::parse(value("day2")?)?,
            hour: value("hour")?.parse().ok().filter(|&hour| hour < 24)?,
        })
    }
}

/// Writes `mark` into `head`, the first MiB of a disk that already holds its final partition table.
///
/// # Errors
/// The place is not free; `head` is then unchanged.
pub fn place(head: &mut [u8], sector: SectorSize, mark: &Mark) -> Result<(), Reason> {
    free_place(head, sector)?;
    head[OFFSET..OFFSET + LENGTH].copy_from_slice(&mark.encode());
    Ok(())
}

/// Whether the place is nobody's: there in `head`, outside all partitions, and zero or a mark.
pub(crate) fn free_place(head: &[u8], sector: SectorSize) -> Result<(), Reason> {
    let place = head.get(OFFSET..OFFSET + LENGTH).ok_or(Reason::ShortHead)?;
    free::check(head, sector)?;
    match place.iter().position(|&byte| byte != 0) {
        Some(at) if Mark::decode(place).is_none() => Err(Reason::NotZero(OFFSET + at)),
        _ => Ok(()),
    }
}

/// The mark in `head`, if there is one, live or not.
pub fn read(head: &[u8]) -> Option<Mark> {
    Mark::decode(head.get(OFFSET..OFFSET + LENGTH)?)
}

/// Makes the place of a mark zero again; whether there was one.
pub fn clear(head: &mut [u8]) -> bool {
    if read(head).is_none() {
        return false;
    }
    head[OFFSET..OFFSET + LENGTH].fill(0);
    true
}

#[cfg(test)]
mod tests;
