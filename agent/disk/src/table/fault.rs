//! What can be wrong with a table that can still be read.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Kind, Table};

/// A fault of a partition table. Its text is for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// The table was read from the backup at the disk's end.
    PrimaryDead {
        /// Why the primary is no good.
        reason: String,
    },
    /// The backup is no good.
    BackupDead {
        /// Why.
        reason: String,
    },
    /// The backup lies before the end: the disk has grown, or was copied from a smaller one.
    BackupNotAtEnd {
        /// Byte at which the backup header lies.
        at: u64,
    },
    /// Both copies are good and differ.
    CopiesDiffer,
    /// The MBR lists partitions beside the protective one; BIOS systems and Windows may go by them.
    HybridMbr,
    /// The protective MBR's partition does not span the disk.
    ProtectiveSize,
    /// A good GPT without a protective MBR: Linux and UEFI ignore it.
    NoProtectiveMbr,
    /// A good GPT under an MBR that is in force.
    StaleGpt,
    /// An entry that ends before it starts; it is left out.
    BadEntry {
        /// Its number.
        number: u32,
    },
    /// The chain of logical partitions is broken; later ones are not seen.
    BrokenChain {
        /// Why.
        reason: String,
    },
    /// A partition reaches beyond the disk.
    OutsideDisk {
        /// Its number.
        number: u32,
    },
    /// A partition lies outside the range that the GPT allows.
    OutsideUsable {
        /// Its number.
        number: u32,
    },
    /// Two partitions share bytes.
    Overlap {
        /// One.
        a: u32,
        /// The other.
        b: u32,
    },
    /// Two partitions have the same PARTUUID.
    SameUuid {
        /// One.
        a: u32,
        /// The other.
        b: u32,
    },
    /// The disk is larger than an MBR can describe.
    BeyondMbr,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PrimaryDead { reason } => {
                write!(f, "the primary GPT is no good ({reason}); read from the backup")
            }
            Self::BackupDead { reason } => write!(f, "the backup GPT is no good ({reason})"),
            Self::BackupNotAtEnd { at } => {
                write!(f, "the backup GPT lies at byte {at}, not at the disk's end")
            }
            Self::CopiesDiffer => f.write_str("primary and backup GPT differ"),
            Self::HybridMbr => f.write_str("hybrid MBR: it lists partitions beside the GPT"),
            Self::ProtectiveSize => f.write_str("the protective MBR does not span the disk"),
            Self::NoProtectiveMbr => f.write_str("a GPT without a protective MBR: most systems ignore it"),
            Self::StaleGpt => f.write_str("an old GPT lies under the MBR that is in force"),
            Self::BadEntry { number } => write!(f, "partition {number} ends before it starts"),
            Self::BrokenChain { reason } => write!(f, "the chain of logical partitions is broken ({reason})"),
            Self::OutsideDisk { number } => write!(f, "partition {number} reaches beyond the disk's end"),
            Self::OutsideUsable { number } => {
                write!(f, "partition {number} lies outside the GPT's usable range")
            }
            Self::Overlap { a, b } => write!(f, "partitions {a} and {b} overlap"),
            Self::SameUuid { a, b } => write!(f, "partitions {a} and {b} have the same PARTUUID"),
            Self::BeyondMbr => f.write_str("an MBR can describe only the first 2^32 sectors of this disk"),
        }
    }
}

/// Faults that follow from where the partitions lie.
pub(super) fn of_layout(table: &Table, disk_size: u64) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut real: Vec<_> = table.partitions.iter().filter(|part| !part.container).collect();
    faults.extend(
        table
            .partitions
            .iter()
            .filter(|p| p.end() > disk_size)
            .map(|p| Fault::OutsideDisk { number: p.number }),
    );
    real.sort_by_key(|part| part.start);
    let mut reach: Option<(u64, u32)> = None;
    for part in real {
        if let Some((end, number)) = reach
            && part.start < end
        {
            faults.push(Fault::Overlap { a: number.min(part.number), b: number.max(part.number) });
        }
        if reach.is_none_or(|(end, _)| part.end() > end) {
            reach = Some((part.end(), part.number));
        }
    }
    let mut uuids: Vec<_> = table.partitions.iter().map(|part| (&part.uuid, part.number)).collect();
    uuids.sort();
    for pair in uuids.windows(2) {
        if pair[0].0 == pair[1].0 {
            faults.push(Fault::SameUuid { a: pair[0].1, b: pair[1].1 });
        }
    }
    if table.kind == Kind::Mbr && disk_size / u64::from(table.sector.bytes()) > 1 << 32 {
        faults.push(Fault::BeyondMbr);
    }
    faults
}
