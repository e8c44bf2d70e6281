//! What an inspection saw. The JSON output is these types, so their names are promises.

use std::path::PathBuf;

use gantry_disk::blkid::{Probe, Signature};
use gantry_disk::inventory::{LeftOut, Transport};
use gantry_disk::machine::Firmware;
use gantry_disk::roots::Roots;
use gantry_disk::table::{Fault, Kind};
use gantry_disk::usage::Use;
use serde::Serialize;

/// Where facts are taken from; made up in tests.
#[derive(Debug, Clone)]
pub struct Sources {
    /// sysfs, procfs, nodes.
    pub roots: Roots,
    /// `/etc/os-release`.
    pub os_release: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Self { roots: Roots::default(), os_release: PathBuf::from("/etc/os-release") }
    }
}

/// Everything that was seen. `machine` is absent when only disks or images were asked about.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Facts {
    pub machine: Option<Machine>,
    pub nics: Vec<Nic>,
    pub disks: Vec<DiskFacts>,
    /// Block devices that are no disks of the machine, with the reason.
    pub left_out: Vec<LeftOut>,
}

/// The machine around the disks. Empty strings: not known.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Machine {
    pub vendor: String,
    pub product: String,
    pub firmware: Firmware,
    /// `None`: no such thing (BIOS), or not readable.
    pub secure_boot: Option<bool>,
    /// Bytes.
    pub memory: u64,
    pub kernel: String,
    pub os: String,
    /// Running from Gantry's own medium.
    pub appliance: bool,
}

/// A network interface with hardware behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Nic {
    pub name: String,
    pub mac: String,
    pub driver: String,
    /// A cable is in and the other end answers.
    pub carrier: bool,
    /// Mb/s, when the link is up.
    pub speed: Option<u64>,
    pub wireless: bool,
}

/// A disk or image file. Sizes and offsets in bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DiskFacts {
    pub path: String,
    pub serial: String,
    pub wwn: String,
    pub model: String,
    pub size: u64,
    pub sector: u32,
    pub physical_sector: u32,
    /// Absent for image files.
    pub transport: Option<Transport>,
    pub driver: String,
    pub removable: bool,
    pub read_only: bool,
    /// Why its content could not be read, if so; then what follows is empty except `uses`.
    pub unreadable: Option<Unreadable>,
    pub table: Option<TableFacts>,
    /// Why its partition table cannot be used.
    pub bad_table: Option<String>,
    pub partitions: Vec<PartitionFacts>,
    /// Signatures on the whole disk, without partition tables: a bare filesystem, a RAID member.
    pub signatures: Vec<Signature>,
    /// Its first sector holds boot code (BIOS).
    pub boot_code: bool,
    /// It holds half a copy that Gantry has begun.
    pub unfinished: bool,
    pub uses: Vec<Use>,
}

/// Why a disk could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// It is only a matter of permission.
    pub permission: bool,
    pub reason: String,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableFacts {
    pub kind: Kind,
    pub id: String,
    pub faults: Vec<Fault>,
}

/// A partition and what it carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PartitionFacts {
    pub number: u32,
    pub start: u64,
    pub length: u64,
    pub type_id: String,
    pub type_name: String,
    pub uuid: String,
    pub name: String,
    pub bootable: bool,
    pub content: Probe,
}

impl DiskFacts {
    /// What it carries, by type: of the whole disk (number 0) and of each partition.
    pub fn contents(&self) -> impl Iterator<Item = (u32, &str)> {
        let whole = self.signatures.iter().map(|found| (0, found.kind.as_str()));
        whole.chain(self.partitions.iter().map(|part| (part.number, part.content.kind.as_str())))
    }
}
