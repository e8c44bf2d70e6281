//! What is kept of a replication: which disk became which, what they hashed to, what was changed afterwards.

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
    /// Each disk.
    pub disks: Vec<DiskReport>,
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

/// One phase.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Phase {
    /// "full", "compare", "repair", "commit".
    pub name: String,
    /// Seconds.
    pub seconds: f64,
}

impl Report {
    /// Adds a phase that began at `since`.
    pub fn phase(&mut self, name: &str, since: std::time::Instant) {
        self.phases.push(Phase { name: name.to_owned(), seconds: since.elapsed().as_secs_f64() });
    }
}
