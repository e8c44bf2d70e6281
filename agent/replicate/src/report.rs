//! What is kept of a replication: which disk became which, what they hashed to, what was changed afterwards.
//!
//! `docs/report.md` is the table of these fields. All numbers are whole, so that the bytes that are signed
//! ([`crate::kept`]) are the same whoever writes them. Sizes, offsets and lengths are bytes; moments are seconds since 1970
//! by the clock of the machine that is named, which may be wrong.

use std::time::{Instant, SystemTime};

use gantry_disk::{Geometry, Identity};
use serde::{Deserialize, Serialize};

mod check;

pub use self::check::{check, check_facts, limits, line};

/// The layout that this build writes and reads.
pub const VERSION: u32 = 2;

/// The report of a session or a local copy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// How far it came.
    pub state: State,
    /// Session id in hex; empty for a local copy.
    pub session: String,
    /// The machine that gave.
    pub source: NamedMachine,
    /// The machine that took.
    pub target: NamedMachine,
    /// Seconds by which the target's clock is ahead of the source's; the time on the wire counts as difference.
    pub clock_offset: i64,
    /// The target's clock when the session began and when it had committed; [`NamedMachine::clock`] is between.
    pub began: u64,
    /// See [`Report::began`]; 0 until then.
    pub committed: u64,
    /// Each disk.
    pub disks: Vec<DiskReport>,
    /// Volumes and arrays on the source's disks.
    pub volumes: Vec<Part>,
    /// Changes that were made to the verified bytes so that they fit the target disk, one sentence each.
    pub transforms: Vec<String>,
    /// The plan that repair applied, with its diffs; null when it did not run.
    pub repair: serde_json::Value,
    /// How long each phase took.
    pub phases: Vec<Phase>,
}

/// How far a replica came. More than these is proven by evidence that lies elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It is being made: nobody keeps it.
    #[default]
    #[serde(rename = "unfinished")]
    Unfinished,
    /// Verified; transforms and repair are at work. What repair keeps on the replica itself says this.
    #[serde(rename = "verified, being repaired")]
    Repairing,
    /// Every disk is what the source was, and whole.
    #[serde(rename = "verified, not repaired, boot not proven")]
    Verified,
    /// It was verified, then repaired.
    #[serde(rename = "repaired, boot not proven")]
    Repaired,
    /// Committed by a receiver that was started again before its sender knew: what it had to report is lost.
    #[serde(rename = "committed, details lost in a restart of the receiver")]
    Forgotten,
}

impl State {
    /// As the report spells it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Repairing => "verified, being repaired",
            Self::Verified => "verified, not repaired, boot not proven",
            Self::Repaired => "repaired, boot not proven",
            Self::Forgotten => "committed, details lost in a restart of the receiver",
        }
    }
}

/// The machine at one end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NamedMachine {
    /// Vendor, product and host name.
    pub name: String,
    /// Name and version of the software.
    pub software: String,
    /// Its clock when all was verified.
    pub clock: u64,
    /// Ed25519 public key of its process in this session, in hex: its signature is by this one ([`crate::kept`]). Empty for a
    /// local copy, and for a source that is not known any more.
    pub key: String,
}

/// A disk by its names at its end; empty strings are unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NamedDisk {
    /// Node or file.
    pub path: String,
    /// Serial number.
    pub serial: String,
    /// World Wide Name.
    pub wwn: String,
    /// Model.
    pub model: String,
    /// Bytes.
    pub size: u64,
}

/// One disk of a report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskReport {
    /// The source disk.
    pub source: NamedDisk,
    /// The target disk.
    pub target: NamedDisk,
    /// Logical sector size.
    pub sector_size: u32,
    /// What of the source was read and compared.
    pub compared: Compared,
    /// Why all of the disk was, although used maps were wanted; else empty.
    pub doubt: String,
    /// What lies on it: what was not used was not read, and is zero in the replica.
    pub parts: Vec<Part>,
    /// Ranges that could not be read and are zero in the replica: offset and length.
    pub bad_sectors: Vec<(u64, u64)>,
    /// Chunks (1 MiB) that differed when the medium was read back, and were written again. Not 0 after the first
    /// full pass means that the target did not keep what it was given.
    pub rewritten_chunks: u64,
    /// Root of the hash tree before transforms and repair, equal at both ends, in hex.
    pub root: String,
    /// The same disk after transforms and repair, as it was committed; none while it is [`State::Repairing`].
    pub after: Option<After>,
}

/// What of a disk was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compared {
    /// Every byte.
    #[default]
    Whole,
    /// What used maps name, and all that lies between filesystems.
    Used,
}

/// A partition or volume, as its used map was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// "/dev/sda partition 2", "vg0/root".
    pub name: String,
    /// First byte on the disk; 0 for a volume.
    pub offset: u64,
    /// Its length.
    pub length: u64,
    /// What is there: "ext4", "swap"; empty when nothing is known.
    pub kind: String,
    /// Bytes of it that carry data.
    pub used: u64,
    /// Why all of it was taken as used; empty when its filesystem's records of free space were believed.
    pub doubt: String,
}

impl From<&gantry_disk::used::Part> for Part {
    fn from(part: &gantry_disk::used::Part) -> Self {
        let gantry_disk::used::Part { name, start, size, kind, used, doubt } = part.clone();
        Self { name, offset: start, length: size, kind, used, doubt: doubt.unwrap_or_default() }
    }
}

/// A disk after transforms and repair.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct After {
    /// Root of the hash tree over as many bytes as the source has, in hex.
    pub root: String,
    /// Ranges that were changed since [`DiskReport::root`]: offset and length, ascending, apart, in multiples of 64 KiB.
    pub changed: Vec<(u64, u64)>,
    /// How they are known: "recorded" as they were written, or why the whole disk was read again instead.
    pub known_by: String,
    /// Bytes that were read back for this.
    pub read: u64,
    /// Bytes that each of `nodes` covers: 64 MiB times a power of two.
    pub span: u64,
    /// Nodes of the hash tree after the changes, in hex: they tell where a disk differs later.
    pub nodes: Vec<String>,
    /// On a larger disk: what was written behind the source's last byte.
    pub behind: Option<Behind>,
}

/// Bytes behind the extent of the source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Behind {
    /// Where.
    pub offset: u64,
    /// How many, at most 1 MiB.
    pub length: u64,
    /// Their BLAKE3, in hex.
    pub blake3: String,
}

/// What only the sender knows, in the order of the report's disks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// Version of its software.
    pub software: String,
    /// Its clock, in seconds since 1970, when all was verified.
    pub clock: u64,
    /// Each disk.
    pub disks: Vec<SourceDiskFacts>,
    /// See [`Report::volumes`].
    pub volumes: Vec<Part>,
}

/// What only the sender knows of a disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceDiskFacts {
    /// World Wide Name.
    pub wwn: String,
    /// See [`DiskReport::compared`].
    pub compared: Compared,
    /// See [`DiskReport::doubt`].
    pub doubt: String,
    /// See [`DiskReport::parts`].
    pub parts: Vec<Part>,
    /// See [`DiskReport::bad_sectors`].
    pub bad_sectors: Vec<(u64, u64)>,
}

/// One phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// "full", "compare", "copy", "repair", "after", "commit".
    pub name: String,
    /// How long.
    pub milliseconds: u64,
}

/// Seconds since 1970 by this machine's clock, which may be wrong.
pub fn clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl NamedDisk {
    /// A disk end.
    pub fn of(end: &(impl Geometry + ?Sized)) -> Self {
        let Identity { path, serial, wwn, model } = end.identity().clone();
        Self { path, serial, wwn, model, size: end.size() }
    }
}

impl SourceFacts {
    /// What is known now. Texts are cut where a report would not take them.
    pub fn new(software: &str, mut disks: Vec<SourceDiskFacts>, mut volumes: Vec<Part>) -> Self {
        let cut = |text: &mut String| *text = line(text, limits::WORDS);
        let mut room = limits::PARTS;
        for disk in &mut disks {
            [&mut disk.wwn, &mut disk.doubt].into_iter().for_each(cut);
            disk.parts.truncate(room);
            room -= disk.parts.len();
        }
        volumes.truncate(room);
        let parts = disks.iter_mut().flat_map(|disk| &mut disk.parts).chain(&mut volumes);
        parts.flat_map(|part| [&mut part.name, &mut part.kind, &mut part.doubt]).for_each(cut);
        Self { software: line(software, limits::WORDS), clock: clock(), disks, volumes }
    }

    /// As they cross, in JSON.
    ///
    /// # Errors
    /// They contradict the sizes of the disks, or are more than a report takes; in words.
    pub fn bytes(&self, sizes: &[u64]) -> Result<Vec<u8>, String> {
        check_facts(self, sizes)?;
        let bytes = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        check_length(bytes)
    }

    /// Reads what has crossed. Whether it can be true, [`check_facts`] says.
    ///
    /// # Errors
    /// It is too long or no facts; in words.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(check_length(bytes)?).map_err(|error| error.to_string())
    }
}

impl From<&Report> for SourceFacts {
    fn from(report: &Report) -> Self {
        let disks = report.disks.iter().map(SourceDiskFacts::from).collect();
        let (software, volumes) = (report.source.software.clone(), report.volumes.clone());
        Self { software, clock: report.source.clock, disks, volumes }
    }
}

impl From<&DiskReport> for SourceDiskFacts {
    fn from(disk: &DiskReport) -> Self {
        let DiskReport { source, compared, doubt, parts, bad_sectors, .. } = disk;
        Self {
            wwn: source.wwn.clone(),
            compared: *compared,
            doubt: doubt.clone(),
            parts: parts.clone(),
            bad_sectors: bad_sectors.clone(),
        }
    }
}

impl Report {
    /// Adds the time since `began` to a phase: however often it was begun anew, it is told once.
    pub fn phase(&mut self, name: &str, began: Instant) {
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match self.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.milliseconds = phase.milliseconds.saturating_add(milliseconds),
            None => self.phases.push(Phase { name: name.to_owned(), milliseconds }),
        }
    }

    /// All is verified, now: takes what the sender knows.
    ///
    /// # Errors
    /// It says what cannot be; in words.
    pub fn verified(&mut self, facts: SourceFacts) -> Result<(), String> {
        let sizes: Vec<u64> = self.disks.iter().map(|disk| disk.source.size).collect();
        check_facts(&facts, &sizes)?;
        self.target.clock = clock();
        self.source.software = facts.software;
        self.source.clock = facts.clock;
        self.clock_offset = ahead(self.target.clock, facts.clock);
        self.volumes = facts.volumes;
        for (disk, facts) in self.disks.iter_mut().zip(facts.disks) {
            disk.source.wwn = facts.wwn;
            disk.compared = facts.compared;
            disk.doubt = facts.doubt;
            disk.parts = facts.parts;
            disk.bad_sectors = facts.bad_sectors;
        }
        Ok(())
    }
}

fn check_length<T: AsRef<[u8]>>(facts: T) -> Result<T, String> {
    match facts.as_ref().len() {
        length if length <= limits::FACTS => Ok(facts),
        length => Err(format!("{length} bytes of facts, {} at most", limits::FACTS)),
    }
}

/// Seconds by which one clock is ahead of another.
fn ahead(clock: u64, other: u64) -> i64 {
    clock.cast_signed().wrapping_sub(other.cast_signed())
}
