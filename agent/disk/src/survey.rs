//! What a disk carries, before anyone is allowed to erase it (law 2).
//!
//! A disk is blank only when nothing at all is found: no signature, no partition table (not even a damaged one), no label
//! of a session, and no byte other than zero in the first MiB, the last MiB and a thousand samples between. At most 6 MiB
//! are read of a device. A file is blank when none of its data extents holds a byte other than zero.

mod bytes;
mod stencil;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use stencil::{Look, survey_end};

use crate::blkid::{Area, Probe, probe_area, signatures};
use crate::end::{Geometry, Identity, ReadAt};
use crate::error::{DiskError, ErrorKind, Result};
use crate::label::{HEAD, LabelStage};
use crate::peek::Peek;
use crate::pending::Trace;
use crate::size::human;
use crate::table::{self, Kind, Table, type_name};

/// One thing that lives on a disk. Its text is for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Finding {
    /// A partition table.
    Table {
        /// Its kind.
        kind: Kind,
        /// How many partitions it has.
        partitions: usize,
    },
    /// A partition table that cannot be used.
    BadTable {
        /// Why.
        reason: String,
    },
    /// A partition.
    Partition {
        /// Its number.
        number: u32,
        /// Bytes.
        size: u64,
        /// What its entry says it is.
        purpose: String,
        /// GPT name, or empty.
        name: String,
        /// What it carries.
        content: Probe,
    },
    /// A signature on the whole disk.
    Signature {
        /// "ext4", "LVM2_member", …
        kind: String,
        /// Label, or empty.
        label: String,
    },
    /// The label of a replication that was not finished.
    Label {
        /// The session that owns the disk, 32 hex digits.
        session: String,
        /// How far it had come: "receiving", "repairing", "committing".
        stage: String,
        /// Size of the source disk in bytes.
        source_size: u64,
        /// Which of the session's disks this is, from 1.
        disk: u8,
        /// How many it has.
        disks: u8,
    },
    /// A byte that is not zero.
    Data {
        /// Where.
        at: u64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { kind, partitions } => {
                let kind = if *kind == Kind::Gpt { "GPT" } else { "MBR" };
                let plural = if *partitions == 1 { "" } else { "s" };
                write!(f, "{kind} partition table with {partitions} partition{plural}")
            }
            Self::BadTable { reason } => write!(f, "a partition table that cannot be used: {reason}"),
            Self::Partition { number, size, purpose, name, content } => {
                write!(f, "partition {number}: {}, {purpose}", human(*size))?;
                if !name.is_empty() {
                    write!(f, " \"{name}\"")?;
                }
                write!(f, ", {}", content_words(content))
            }
            Self::Signature { kind, label } if label.is_empty() => write!(f, "{kind} on the whole disk"),
            Self::Signature { kind, label } => write!(f, "{kind} \"{label}\" on the whole disk"),
            Self::Label { session, stage, source_size, disk, disks } => write!(
                f,
                "unfinished replica (session {session}, {stage}): disk {disk} of {disks}, from a disk of {}",
                human(*source_size)
            ),
            Self::Data { at } => write!(f, "data at byte {at}"),
        }
    }
}

/// What a probe found, in words: `ext4 "root"`.
pub fn content_words(probe: &Probe) -> String {
    if probe.ambivalent {
        return "several contradicting signatures".to_owned();
    }
    match (probe.kind.as_str(), probe.label.as_str()) {
        ("", _) if probe.table.is_empty() => "nothing known".to_owned(),
        ("", _) => format!("a {} partition table", probe.table),
        (kind, "") => kind.to_owned(),
        (kind, label) => format!("{kind} \"{label}\""),
    }
}

/// What a disk carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// Nothing was found: it may be written without asking.
    pub blank: bool,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// More partitions than this are counted but not looked into.
const MOST_PROBED: usize = 128;

/// Looks at the device or file at `path`.
pub fn survey(path: &Path) -> Result<Survey> {
    let disk = Peek::open(path)?;
    let mut findings = Vec::new();
    let mut table = None;
    if disk.size() > 0 {
        findings.extend(label_of(&disk)?);
        match table::read(&disk) {
            Ok(found) => table = found,
            Err(error) if error.kind == ErrorKind::Unsuitable => {
                findings.push(Finding::BadTable { reason: error.operation });
            }
            Err(error) => return Err(error),
        }
        if let Some(table) = &table {
            findings.extend(table_findings(path, table)?);
        }
        let sector = (!disk.is_device()).then_some(disk.sector_size());
        for found in signatures(path, Area { sector, ..Area::default() })? {
            if found.usage == "partition table" && (table.is_some() || !findings.is_empty()) {
                continue;
            }
            findings.push(Finding::Signature { kind: found.kind, label: found.label });
        }
        let at = if disk.is_device() { bytes::in_samples(&disk)? } else { bytes::in_extents(&disk)? };
        // The place says something only to someone who has nothing better to go by.
        findings.extend(at.filter(|_| findings.is_empty()).map(|at| Finding::Data { at }));
    }
    Ok(Survey { blank: findings.is_empty(), findings })
}

/// The label in the first MiB.
fn label_of(disk: &dyn ReadAt) -> Result<Option<Finding>> {
    let length = disk.size().min(HEAD as u64);
    let mut head = vec![0; usize::try_from(length).unwrap_or(0)];
    disk.read_at(0, &mut head)?;
    let trace = Trace::read(&head);
    Ok(trace.as_ref().map(Trace::label).map(|label| Finding::Label {
        session: label.session.iter().map(|byte| format!("{byte:02x}")).collect(),
        stage: match label.stage {
            LabelStage::Receiving => "receiving",
            LabelStage::Repairing => "repairing",
            LabelStage::Committing => "committing",
        }
        .to_owned(),
        source_size: label.source_size,
        disk: label.disk.saturating_add(1),
        disks: label.disks,
    }))
}

fn table_findings(path: &Path, table: &Table) -> Result<Vec<Finding>> {
    let real = || table.partitions.iter().filter(|part| !part.container);
    let mut findings = vec![Finding::Table { kind: table.kind, partitions: real().count() }];
    for part in real().take(MOST_PROBED) {
        let area = Area { offset: part.start, length: part.length, sector: None };
        findings.push(Finding::Partition {
            number: part.number,
            size: part.length,
            purpose: type_name(&part.type_id).to_owned(),
            name: part.name.clone(),
            // A partition that lies outside the disk cannot be probed; its entry is finding enough.
            content: probe_area(path, area).unwrap_or_default(),
        });
    }
    Ok(findings)
}

impl Survey {
    /// The refusal to write to a disk that carries something: what lives there, and how to allow it all the same.
    pub fn refusal(&self, identity: &Identity, size: u64) -> DiskError {
        let mut text = format!("refused, because it is not blank ({}):", human(size));
        for finding in &self.findings {
            text.push_str(&format!("\n  {finding}"));
        }
        text.push_str(&format!("\nTo erase all of that, name it: --erase {}", erase_name(identity)));
        DiskError::new(ErrorKind::NotBlank, &identity.path, text)
    }
}

/// What `--erase` should be given: the serial, else the WWN, else the path.
pub fn erase_name(identity: &Identity) -> String {
    let name = [&identity.serial, &identity.wwn, &identity.path].into_iter().find(|name| !name.is_empty());
    let name = name.cloned().unwrap_or_default();
    if name.contains(|c: char| c.is_whitespace()) { format!("'{name}'") } else { name }
}

#[cfg(test)]
mod tests;
