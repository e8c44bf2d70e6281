//! What is kept of a replication: which disk became which, what they hashed to, what was changed afterwards.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The report of a session or a local copy. Sizes and counts are bytes unless named otherwise; times are seconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Version of this layout: 1.
    pub version: u32,
    /// Session id in hex; empty for a local copy.
    pub session: String,
    /// The source machine.
    pub source_machine: String,
    /// The target machine.
    pub target_machine: String,
    /// Version of the software that wrote this.
    pub software: String,
    /// Clock of the machine that wrote this, in seconds since 1970, when all was verified.
    pub clock: u64,
    /// Each disk.
    pub disks: Vec<DiskReport>,
    /// What the sender said of the source when all was verified.
    pub source: SourceFacts,
    /// Changes that were made to the verified bytes so that they fit the target disk, one sentence each.
    pub transforms: Vec<String>,
    /// What repair did, as it reported; null when it did not run.
    pub repair: serde_json::Value,
    /// How long each phase took.
    pub phases: Vec<Phase>,
    /// "not proven" until somebody has seen the machine boot.
    pub boot: String,
}

/// One disk of a report.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DiskReport {
    /// Source node or file.
    pub source: String,
    /// Source serial number.
    pub source_serial: String,
    /// Target node or file.
    pub target: String,
    /// Target serial number.
    pub target_serial: String,
    /// Bytes of the source.
    pub size: u64,
    /// Logical sector size.
    pub sector_size: u32,
    /// Root of the hash tree, equal at both ends, in hex.
    pub root: String,
    /// Chunks (1 MiB) that differed when the medium was read back, and were written again. Not 0 after the first
    /// full pass means that the target did not keep what it was given.
    pub rewritten_chunks: u64,
}

/// What only the sender knows, in the order of the report's disks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SourceFacts {
    /// Version of its software.
    pub software: String,
    /// Its clock, in seconds since 1970, when all was verified; beside [`Report::clock`] it shows how far they are apart.
    pub clock: u64,
    /// Each disk.
    pub disks: Vec<SourceDiskFacts>,
}

/// What only the sender knows of a disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SourceDiskFacts {
    /// Node or file.
    pub path: String,
    /// Byte ranges that could not be read and are zero in the replica: offset and length.
    pub bad_sectors: Vec<(u64, u64)>,
}

/// One phase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phase {
    /// "full", "compare", "repair", "commit".
    pub name: String,
    /// Seconds.
    pub seconds: f64,
}

/// Seconds since 1970 by this machine's clock, which may be wrong.
pub fn clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Report {
    /// Adds a phase that began at `since`.
    pub fn phase(&mut self, name: &str, since: std::time::Instant) {
        self.phases.push(Phase { name: name.to_owned(), seconds: since.elapsed().as_secs_f64() });
    }
}
