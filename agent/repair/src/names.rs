//! What the source's device names mean on the replica.
//!
//! `/dev/sda1` was true on the source: a bus, an order of disks, a partition number. Only the partition number travels.
//! Which disk a letter meant is decided by evidence, never by the letter: the name that fstab or GRUB gives for / is on
//! the disk where / was found; a name on the only disk there is; and a name whose partition exists and carries what
//! fstab says it does. Without evidence a name is reported, not guessed. (L-46 to L-49)

use std::sync::LazyLock;

use regex::Regex;

use crate::config::{fstab, grub};
use crate::facts::{Facts, PartitionRef};

/// What a device specification turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Already a name that stays: UUID=, LABEL=, PARTUUID=, /dev/mapper ..; with the partition when it is one of ours.
    Stable(Option<PartitionRef>),
    /// A name that changes with the hardware, and the partition it meant.
    Hardware(PartitionRef),
    /// A name that changes with the hardware and that nothing here answers to; why.
    Unknown(String),
    /// No disk: proc, tmpfs, a server, a CD drive.
    NoDisk,
}

/// A name such as /dev/sdb3 taken apart.
struct HardwareName {
    /// Groups names of one disk: `sdb`, `nvme0n1`, `by-id/ata-X`.
    disk: String,
    partition: Option<u32>,
}

static KERNEL_NAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^/dev/((?:sd|hd|vd|xvd)[a-z]{1,3}|(?:nvme\d+n\d+|mmcblk\d+|cciss/c\d+d\d+)p)(\d+)?$").ok()
});
static LINK_NAME: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"^/dev/disk/(by-(?:id|path)/.+?)(?:-part(\d+))?$").ok());

fn hardware_name(spec: &str) -> Option<HardwareName> {
    let whole = Regex::new(r"^/dev/(nvme\d+n\d+|mmcblk\d+)$").ok()?;
    if let Some(found) = whole.captures(spec) {
        return Some(HardwareName { disk: found[1].to_string(), partition: None });
    }
    for pattern in [&KERNEL_NAME, &LINK_NAME] {
        if let Some(found) = pattern.as_ref().and_then(|p| p.captures(spec)) {
            let disk = found[1].strip_suffix('p').filter(|d| d.ends_with(|c: char| c.is_ascii_digit()));
            return Some(HardwareName {
                disk: disk.unwrap_or(&found[1]).to_string(),
                partition: found.get(2).and_then(|n| n.as_str().parse().ok()),
            });
        }
    }
    None
}

/// Finds out what `spec` means. `filesystem` is what the place it was read from says it is (`ext4`, `swap`), when it does.
pub fn meaning(facts: &Facts, spec: &str, filesystem: Option<&str>) -> Meaning {
    if let Some((tag, value)) = spec.split_once('=') {
        let value = value.trim_matches('"');
        return match tag {
            "UUID" => {
                Meaning::Stable(find(facts, |p| !p.uuid.is_empty() && p.uuid.eq_ignore_ascii_case(value)))
            }
            "LABEL" => Meaning::Stable(find(facts, |p| !p.label.is_empty() && p.label == value)),
            "PARTUUID" => Meaning::Stable(find(facts, |p| p.partuuid.eq_ignore_ascii_case(value))),
            "PARTLABEL" => Meaning::Stable(find(facts, |p| !p.name.is_empty() && p.name == value)),
            _ => Meaning::NoDisk,
        };
    }
    for (prefix, tag) in [("by-uuid", "UUID"), ("by-label", "LABEL"), ("by-partuuid", "PARTUUID")] {
        if let Some(value) = spec.strip_prefix(&format!("/dev/disk/{prefix}/")) {
            return meaning(facts, &format!("{tag}={value}"), filesystem);
        }
    }
    let Some(name) = hardware_name(spec) else {
        return if ["/dev/mapper/", "/dev/md", "/dev/dm-"].iter().any(|p| spec.starts_with(p)) {
            Meaning::Stable(None)
        } else {
            Meaning::NoDisk
        };
    };
    let Some(number) = name.partition else {
        return Meaning::Unknown(format!("{spec} names a whole disk"));
    };
    match disk_of(facts, &name.disk) {
        Some(disk) => {
            let reference = PartitionRef { disk, number };
            match facts.partition(reference) {
                None => Meaning::Unknown(format!("{spec}: disk {} has no partition {number}", disk + 1)),
                Some(p) if !fits(&p.content, filesystem) => Meaning::Unknown(format!(
                    "{spec}: {reference} carries {}, not {}",
                    if p.content.is_empty() { "nothing known" } else { &p.content },
                    filesystem.unwrap_or("that")
                )),
                Some(_) => Meaning::Hardware(reference),
            }
        }
        None => Meaning::Unknown(format!("nothing shows which disk {spec} was on")),
    }
}

/// Which disk a name such as `sda` meant.
fn disk_of(facts: &Facts, name: &str) -> Option<usize> {
    let root = facts.system.root.disk;
    let named_root = root_names(facts);
    if named_root.iter().any(|n| n == name) {
        return Some(root);
    }
    if facts.disks.len() == 1 {
        // One disk, and / goes by another hardware name: this one was a disk that did not come along.
        return named_root.is_empty().then_some(0);
    }
    // Several disks: letters in the order the disks were given, where that order agrees with what is known of /.
    let letter = |n: &str| n.strip_prefix("sd").or(n.strip_prefix("vd")).map(str::to_string);
    let index = |n: &str| letter(n).filter(|l| l.len() == 1).map(|l| usize::from(l.as_bytes()[0] - b'a'));
    let agrees = named_root.iter().filter_map(|n| index(n)).all(|i| i == root);
    index(name).filter(|i| agrees && *i < facts.disks.len())
}

/// Hardware names of the disk that / is on, as the guest's own configuration gives them.
fn root_names(facts: &Facts) -> Vec<String> {
    let fstab = facts.file("/etc/fstab").unwrap_or_default();
    let from_fstab = fstab::entries(fstab).find(|e| e.at == "/").map(|e| e.spec.to_string());
    let grub = facts.file(grub::CONFIG).unwrap_or_default();
    let from_grub = grub::root_arguments(grub);
    let mut names: Vec<_> = from_fstab
        .into_iter()
        .chain(from_grub)
        .filter_map(|spec| hardware_name(&spec))
        .filter(|n| n.partition == Some(facts.system.root.number))
        .map(|n| n.disk)
        .collect();
    names.dedup();
    names
}

fn fits(content: &str, wanted: Option<&str>) -> bool {
    match wanted {
        None | Some("auto") => true,
        Some(w) if w.starts_with("ext") => content.starts_with("ext"),
        Some("swap") => content.starts_with("sw"),
        Some("vfat" | "msdos") => content == "vfat",
        Some(w) => w == content,
    }
}

fn find(facts: &Facts, is: impl Fn(&crate::facts::Partition) -> bool) -> Option<PartitionRef> {
    facts.partitions().find(|(_, p)| is(p)).map(|(r, _)| r)
}

/// The name that stays for a partition: UUID= of what it carries, else PARTUUID=.
pub fn stable(facts: &Facts, reference: PartitionRef) -> Option<String> {
    let p = facts.partition(reference)?;
    let twice =
        |is: &dyn Fn(&crate::facts::Partition) -> bool| facts.partitions().filter(|(_, p)| is(p)).count() > 1;
    if !p.uuid.is_empty() && !twice(&|q| q.uuid == p.uuid) {
        return Some(format!("UUID={}", p.uuid));
    }
    (!p.partuuid.is_empty() && !twice(&|q| q.partuuid == p.partuuid))
        .then(|| format!("PARTUUID={}", p.partuuid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn names_are_read_by_evidence() {
        let facts = testing::bios();
        let p = |number| PartitionRef { disk: 0, number };
        let unknown = |m: &Meaning| matches!(m, Meaning::Unknown(_));
        assert_eq!(meaning(&facts, "/dev/sda1", Some("ext4")), Meaning::Hardware(p(1)));
        assert_eq!(meaning(&facts, "/dev/sda5", Some("swap")), Meaning::Hardware(p(5)));
        assert_eq!(meaning(&facts, "/dev/disk/by-uuid/1111-root", None), Meaning::Stable(Some(p(1))));
        assert_eq!(meaning(&facts, "UUID=gone", None), Meaning::Stable(None));
        assert_eq!(meaning(&facts, "/dev/mapper/vg-root", None), Meaning::Stable(None));
        assert_eq!(meaning(&facts, "proc", None), Meaning::NoDisk);
        assert_eq!(meaning(&facts, "/dev/sr0", Some("iso9660")), Meaning::NoDisk);
        assert!(unknown(&meaning(&facts, "/dev/sda7", Some("ext4"))), "no such partition");
        assert!(unknown(&meaning(&facts, "/dev/sda5", Some("ext4"))), "carries swap");
        assert!(unknown(&meaning(&facts, "/dev/sdb1", Some("ext4"))), "a disk that did not come along");
        assert!(unknown(&meaning(&facts, "/dev/sda", None)), "a whole disk");
    }

    #[test]
    fn nvme_and_by_path_names_are_taken_apart() {
        let parts = |s: &str| hardware_name(s).map(|n| (n.disk, n.partition));
        assert_eq!(parts("/dev/nvme0n1p3"), Some(("nvme0n1".into(), Some(3))));
        assert_eq!(parts("/dev/nvme0n1"), Some(("nvme0n1".into(), None)));
        assert_eq!(parts("/dev/sdab12"), Some(("sdab".into(), Some(12))));
        assert_eq!(
            parts("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part2"),
            Some(("by-path/pci-0000:00:1f.2-ata-1".into(), Some(2)))
        );
        assert_eq!(parts("/dev/disk/by-label/x"), None);
    }
}
