//! From facts to findings: pure, one small function a rule. Every code stands in the table of `docs/inspect.md`, and a test
//! holds the two together.

use gantry_disk::table::{ESP, Fault, Kind};
use gantry_disk::usage::Use;
use serde::Serialize;

use super::facts::{DiskFacts, Facts};
use gantry_disk::machine::Firmware;

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is in the way; worth knowing.
    Ready,
    /// It crosses, but something needs a person's eye.
    Warning,
    /// It cannot cross as it is.
    Blocked,
}

impl Severity {
    /// The exit code of a verdict.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ready => 0,
            Self::Warning => 10,
            Self::Blocked => 11,
        }
    }

    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Warning => "warning",
            Self::Blocked => "blocked",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name, documented.
    pub code: &'static str,
    /// How much it weighs.
    pub severity: Severity,
    /// The disk, partition or machine it is about.
    pub subject: String,
    /// What is so.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// All codes with their severity: the table of the documentation.
pub const CODES: &[(&str, Severity)] = &[
    ("no-disk", Severity::Blocked),
    ("not-seen", Severity::Warning),
    ("unreadable", Severity::Blocked),
    ("in-use", Severity::Ready),
    ("unfinished-replica", Severity::Blocked),
    ("hibernated", Severity::Blocked),
    ("not-repaired-yet", Severity::Warning),
    ("firmware-raid", Severity::Blocked),
    ("end-metadata", Severity::Warning),
    ("sector-4kn", Severity::Warning),
    ("table-unusable", Severity::Blocked),
    ("table-damaged", Severity::Warning),
    ("mbr-beyond-2tib", Severity::Warning),
    ("nothing-to-boot", Severity::Warning),
    ("same-disk-twice", Severity::Warning),
    ("no-network", Severity::Blocked),
];

/// The heaviest finding decides.
pub fn verdict(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ready)
}

/// All findings, heaviest first.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = machine_rules(facts);
    for disk in &facts.disks {
        for rule in DISK_RULES {
            findings.extend(rule(disk));
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

type DiskRule = fn(&DiskFacts) -> Vec<Finding>;

const DISK_RULES: &[DiskRule] = &[
    not_read,
    in_use,
    unfinished,
    hibernated,
    not_repaired_yet,
    firmware_raid,
    end_metadata,
    sector_4kn,
    table_faults,
];

fn finding(code: &'static str, subject: impl Into<String>, text: impl Into<String>, remedy: &str) -> Finding {
    let known = CODES.iter().find(|(name, _)| *name == code);
    // A code that is missing from the table would be a fault of ours; it must not pass as harmless.
    let severity = known.map_or(Severity::Blocked, |(_, severity)| *severity);
    Finding { code, severity, subject: subject.into(), text: text.into(), remedy: remedy.to_owned() }
}

fn machine_rules(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(machine) = &facts.machine else {
        return findings;
    };
    if facts.disks.is_empty() {
        let remedy = "load the driver of the disk controller (Gantry's own medium has them all), or switch RAID mode to AHCI";
        findings.push(finding("no-disk", "machine", "no disk was found", remedy));
    }
    if facts.nics.iter().all(|nic| nic.wireless) {
        let remedy = "connect a wired network card that Linux has a driver for";
        findings.push(finding("no-network", "machine", "no wired network card was found", remedy));
    }
    let read = facts.disks.iter().all(|disk| disk.unreadable.is_none()) && !facts.disks.is_empty();
    let esp =
        |disk: &DiskFacts| disk.partitions.iter().any(|part| part.type_id == ESP || part.type_id == "0xef");
    let (boots, what) = match machine.firmware {
        Firmware::Uefi => (facts.disks.iter().any(esp), "an EFI system partition"),
        Firmware::Bios => (facts.disks.iter().any(|disk| disk.boot_code), "boot code in its first sector"),
    };
    if read && !boots {
        let text = format!("no disk has {what}, as this machine's firmware needs it");
        let remedy =
            "check how this machine starts (another firmware mode, network, a disk that is not seen here)";
        findings.push(finding("nothing-to-boot", "machine", text, remedy));
    }
    for (at, disk) in facts.disks.iter().enumerate() {
        let same = |other: &&DiskFacts| !disk.wwn.is_empty() && other.wwn == disk.wwn;
        if let Some(other) = facts.disks[..at].iter().find(same) {
            let text = format!("it has the same WWN as {}: two paths to one disk", other.path);
            findings.push(finding(
                "same-disk-twice",
                &disk.path,
                text,
                "send it once: name the disks that are to be sent",
            ));
        }
    }
    findings
}

fn not_read(disk: &DiskFacts) -> Vec<Finding> {
    disk.unreadable
        .iter()
        .map(|why| {
            if why.permission {
                let remedy = "run gantry inspect as root, outside of any container";
                finding(
                    "not-seen",
                    &disk.path,
                    "its content was not looked at, for lack of permission",
                    remedy,
                )
            } else {
                let remedy = "check cables and the disk's health (smartctl); a copy would stop there";
                finding("unreadable", &disk.path, format!("it cannot be read: {}", why.reason), remedy)
            }
        })
        .collect()
}

fn in_use(disk: &DiskFacts) -> Vec<Finding> {
    if disk.uses.is_empty() {
        return Vec::new();
    }
    let first: Vec<String> = disk.uses.iter().map(Use::to_string).take(3).collect();
    let more = disk.uses.len().saturating_sub(first.len());
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    let remedy = "start the machine from Gantry's medium for the crossing";
    vec![finding(
        "in-use",
        &disk.path,
        format!("in use by the running system: {}{more}", first.join("; ")),
        remedy,
    )]
}

fn unfinished(disk: &DiskFacts) -> Vec<Finding> {
    if !disk.unfinished {
        return Vec::new();
    }
    let text = "it holds half a copy that Gantry has begun, and no system";
    vec![finding("unfinished-replica", &disk.path, text, "let its crossing come to its end first")]
}

fn hibernated(disk: &DiskFacts) -> Vec<Finding> {
    let images = disk.contents().filter(|(_, kind)| *kind == "swsuspend");
    images
        .map(|(number, _)| {
            let remedy = "start it once more and shut it down, or agree to voiding the image on the replica: gantry.hibernated=void at the target, or gantry repair --void-hibernation";
            finding("hibernated", place(disk, number), "it holds the memory of a hibernated system", remedy)
        })
        .collect()
}

/// What this version crosses whole but does not repair by itself.
fn not_repaired_yet(disk: &DiskFacts) -> Vec<Finding> {
    let words = |kind: &str| match kind {
        "LVM2_member" => Some("LVM"),
        "linux_raid_member" => Some("Linux RAID (md)"),
        "crypto_LUKS" => Some("LUKS encryption"),
        "BitLocker" => Some("BitLocker encryption"),
        "btrfs" => Some("btrfs"),
        "xfs" => Some("XFS"),
        "zfs_member" => Some("ZFS"),
        "bcache" => Some("bcache"),
        "ntfs" => Some("NTFS (Windows)"),
        _ => None,
    };
    let mut findings: Vec<Finding> = Vec::new();
    for (number, word) in disk.contents().filter_map(|(number, kind)| Some((number, words(kind)?))) {
        let text = format!(
            "{word}: it crosses bit by bit, but a system on it is not repaired automatically by this version"
        );
        let remedy = "if the system starts from it: install the target's drivers (virtio) on the source before the crossing";
        findings.push(finding("not-repaired-yet", place(disk, number), text, remedy));
    }
    findings
}

/// RAID that a controller's firmware defines; its metadata lies at the end of each member.
fn firmware_raid(disk: &DiskFacts) -> Vec<Finding> {
    let kinds = disk.signatures.iter().map(|found| found.kind.as_str());
    kinds
        .filter(|kind| kind.ends_with("_raid_member") && *kind != "linux_raid_member")
        .map(|kind| {
            let text = format!("a member of a firmware RAID ({}); a target without that firmware cannot put it together", kind.trim_end_matches("_raid_member"));
            finding("firmware-raid", &disk.path, text, "break up a mirror in the controller's setup first, or copy the array's volume from the live system")
        })
        .collect()
}

fn end_metadata(disk: &DiskFacts) -> Vec<Finding> {
    let remedy = "use a target disk of exactly the same size";
    let mut findings = Vec::new();
    let ldm = ["0x42", "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "af9b60a0-1431-4f62-bc68-3311714a69ad"];
    if disk.partitions.iter().any(|part| ldm.contains(&part.type_id.as_str())) {
        let text = "a Windows dynamic disk (LDM): its database lies at the disk's end";
        findings.push(finding("end-metadata", &disk.path, text, remedy));
    }
    if disk
        .signatures
        .iter()
        .any(|found| found.kind == "linux_raid_member" && found.offset.is_some_and(|at| at > 1 << 20))
    {
        let text = "a whole-disk member of a Linux RAID with its metadata at the end (0.90 or 1.0)";
        findings.push(finding("end-metadata", &disk.path, text, remedy));
    }
    findings
}

fn sector_4kn(disk: &DiskFacts) -> Vec<Finding> {
    if disk.sector == 512 {
        return Vec::new();
    }
    let text = format!("sectors of {} bytes; tables and filesystems count in them", disk.sector);
    vec![finding("sector-4kn", &disk.path, text, "give the target a disk with the same logical sector size")]
}

fn table_faults(disk: &DiskFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(reason) = &disk.bad_table {
        let remedy = "repair the table first (gdisk, testdisk), or copy to a target of exactly the same size";
        findings.push(finding("table-unusable", &disk.path, reason.as_str(), remedy));
    }
    let Some(table) = &disk.table else {
        return findings;
    };
    for fault in &table.faults {
        if *fault == Fault::BeyondMbr {
            let remedy = "nothing is lost by crossing; convert to GPT to use the space behind 2 TiB";
            findings.push(finding("mbr-beyond-2tib", &disk.path, fault.to_string(), remedy));
            continue;
        }
        let remedy = match (table.kind, fault) {
            (_, Fault::PrimaryDead { .. }) => {
                "restore the primary GPT on the source (gdisk: recovery menu); a larger target is refused until then"
            }
            (Kind::Gpt, Fault::BackupNotAtEnd { .. } | Fault::ProtectiveSize | Fault::BackupDead { .. }) => {
                "sgdisk -e on the source, or nothing: a larger target gets a new backup"
            }
            _ => "look at it with fdisk or gdisk before the crossing",
        };
        findings.push(finding("table-damaged", &disk.path, fault.to_string(), remedy));
    }
    findings
}

fn place(disk: &DiskFacts, number: u32) -> String {
    if number == 0 { disk.path.clone() } else { format!("{} partition {number}", disk.path) }
}
