use std::path::Path;
use std::process::Command;

use gantry_disk::blkid::{Probe, Signature};
use gantry_disk::table::{ESP, Fault, Kind};
use gantry_disk::usage::Use;

use super::facts::{DiskFacts, Facts, Machine, Nic, PartitionFacts, TableFacts, Unreadable};
use super::rules::{CODES, Severity, judge, verdict};
use super::*;
use gantry_disk::machine::Firmware;

/// A machine that has nothing wrong with it.
fn sound() -> Facts {
    let part = |number, type_id: &str, kind: &str| PartitionFacts {
        number,
        type_id: type_id.to_owned(),
        content: Probe { kind: kind.to_owned(), ..Probe::default() },
        ..PartitionFacts::default()
    };
    let disk = DiskFacts {
        path: "/dev/sda".to_owned(),
        wwn: "naa.5".to_owned(),
        size: 500_000_000_000,
        sector: 512,
        boot_code: true,
        table: Some(TableFacts { kind: Kind::Gpt, id: String::new(), faults: vec![] }),
        partitions: vec![
            part(1, ESP, "vfat"),
            part(2, "0fc63daf-8483-4772-8e79-3d69d8477de4", "ext4"),
            part(3, "", "swap"),
        ],
        ..DiskFacts::default()
    };
    let nic = Nic { name: "eth0".to_owned(), ..Nic::default() };
    Facts { machine: Some(Machine::default()), nics: vec![nic], disks: vec![disk], left_out: vec![] }
}

/// The codes that a change to a sound machine brings.
fn codes(change: impl FnOnce(&mut Facts)) -> Vec<&'static str> {
    let mut facts = sound();
    change(&mut facts);
    judge(&facts).iter().map(|finding| finding.code).collect()
}

fn content(kind: &'static str) -> impl FnOnce(&mut Facts) {
    move |facts| facts.disks[0].partitions[1].content.kind = kind.to_owned()
}

fn signature(kind: &'static str, offset: u64) -> impl FnOnce(&mut Facts) {
    move |facts| {
        facts.disks[0].signatures = vec![Signature {
            kind: kind.to_owned(),
            offset: Some(offset),
            usage: "raid".to_owned(),
            label: String::new(),
            uuid: String::new(),
        }];
    }
}

fn fault(fault: Fault) -> impl FnOnce(&mut Facts) {
    move |facts| facts.disks[0].table.as_mut().unwrap().faults = vec![fault]
}

#[test]
fn a_sound_machine_is_ready() {
    assert_eq!(codes(|_| {}), Vec::<&str>::new());
    assert_eq!(verdict(&judge(&sound())).exit_code(), 0);
    assert_eq!(codes(|facts| facts.machine.as_mut().unwrap().firmware = Firmware::Uefi), Vec::<&str>::new());
}

#[test]
fn each_trouble_has_its_code_and_only_that() {
    assert_eq!(codes(|facts| facts.disks.clear()), ["no-disk"]);
    assert_eq!(codes(|facts| facts.nics.clear()), ["no-network"]);
    assert_eq!(codes(|facts| facts.nics[0].wireless = true), ["no-network"]);
    let unreadable = |permission| Some(Unreadable { permission, reason: "no".to_owned() });
    assert_eq!(codes(|facts| facts.disks[0].unreadable = unreadable(true)), ["not-seen"]);
    assert_eq!(codes(|facts| facts.disks[0].unreadable = unreadable(false)), ["unreadable"]);
    let mounted = Use::Mounted { device: "/dev/sda2".to_owned(), at: "/".to_owned() };
    assert_eq!(codes(|facts| facts.disks[0].uses = vec![mounted]), ["in-use"]);
    assert_eq!(codes(content("swsuspend")), ["hibernated"]);
    for kind in ["LVM2_member", "linux_raid_member", "crypto_LUKS", "btrfs", "xfs", "ntfs", "BitLocker"] {
        assert_eq!(codes(content(kind)), ["not-repaired-yet"], "{kind}");
    }
    assert_eq!(codes(signature("isw_raid_member", 499_999_999_000)), ["firmware-raid"]);
    assert_eq!(codes(signature("ddf_raid_member", 499_999_999_000)), ["firmware-raid"]);
    assert_eq!(codes(signature("linux_raid_member", 499_999_930_000)), ["not-repaired-yet", "end-metadata"]);
    assert_eq!(codes(signature("linux_raid_member", 4096)), ["not-repaired-yet"]);
    assert_eq!(codes(|facts| facts.disks[0].partitions[2].type_id = "0x42".to_owned()), ["end-metadata"]);
    assert_eq!(codes(|facts| facts.disks[0].sector = 4096), ["sector-4kn"]);
    assert_eq!(codes(|facts| facts.disks[0].bad_table = Some("broken".to_owned())), ["table-unusable"]);
    assert_eq!(codes(fault(Fault::PrimaryDead { reason: String::new() })), ["table-damaged"]);
    assert_eq!(codes(fault(Fault::BeyondMbr)), ["mbr-beyond-2tib"]);
    assert_eq!(codes(|facts| facts.disks[0].boot_code = false), ["nothing-to-boot"]);
    let no_esp = |facts: &mut Facts| {
        facts.machine.as_mut().unwrap().firmware = Firmware::Uefi;
        facts.disks[0].partitions.remove(0);
    };
    assert_eq!(codes(no_esp), ["nothing-to-boot"]);
    let twice = |facts: &mut Facts| {
        let other = DiskFacts { path: "/dev/sdb".to_owned(), ..facts.disks[0].clone() };
        facts.disks.push(other);
    };
    assert_eq!(codes(twice), ["same-disk-twice"]);
}

#[test]
fn the_heaviest_finding_decides_and_comes_first() {
    let mut facts = sound();
    facts.disks[0].sector = 4096;
    assert_eq!(verdict(&judge(&facts)).exit_code(), 10);
    facts.disks[0].partitions[2].content.kind = "swsuspend".to_owned();
    let findings = judge(&facts);
    assert_eq!((findings[0].code, verdict(&findings).exit_code()), ("hibernated", 11));
    let text = report::text(&facts, &findings, Severity::Blocked);
    let last = text.lines().last().unwrap();
    assert_eq!(
        last,
        "Verdict: blocked: 1 finding must be solved first. 465.6 GiB in about 1 h 23 min at 100 MB/s."
    );
}

/// The documentation's table and the program's are the same.
#[test]
fn every_code_is_documented_with_its_severity() {
    let page = include_str!("../../../../docs/inspect.md");
    let documented: Vec<(&str, &str)> = page
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            Some((cells.next()?.trim().trim_end_matches('`'), cells.next()?.trim()))
        })
        .collect();
    let own: Vec<(&str, &str)> = CODES.iter().map(|(code, severity)| (*code, severity.word())).collect();
    assert_eq!(documented, own);
}

#[test]
fn an_image_file_is_inspected_and_its_json_has_the_promised_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "label: dos\n2048,40960,83,*\n,,82\n").unwrap();
    let input = std::fs::File::open(&script).unwrap();
    let made = Command::new("/usr/sbin/sfdisk").arg("-q").arg(&path).stdin(input).status();
    assert!(made.unwrap().success());
    let facts = gather(&Sources::default(), &[path.display().to_string()]).unwrap();
    assert_eq!(facts.disks[0].partitions.len(), 2);
    assert!(facts.machine.is_none());
    let findings = judge(&facts);
    let document: serde_json::Value =
        serde_json::from_str(&report::json(&facts, &findings, verdict(&findings)).unwrap()).unwrap();
    for key in [
        "gantry_inspect",
        "verdict",
        "exit_code",
        "estimate",
        "findings",
        "machine",
        "nics",
        "disks",
        "left_out",
    ] {
        assert!(document.get(key).is_some(), "{key}");
    }
    assert_eq!(document["disks"][0]["partitions"][0]["type_id"], "0x83");
    assert_eq!(document["disks"][0]["table"]["kind"], "mbr");
}

#[test]
fn a_hibernated_image_is_blocked() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swap.img");
    std::fs::File::create(&path).unwrap().set_len(16 << 20).unwrap();
    assert!(Command::new("/usr/sbin/mkswap").arg("-q").arg(&path).status().unwrap().success());
    let name = [path.display().to_string()];
    let code = |name: &[String]| verdict(&judge(&gather(&Sources::default(), name).unwrap())).exit_code();
    assert_eq!(code(&name), 0);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"S1SUSPEND\0", 4086).unwrap();
    assert_eq!(code(&name), 11);
}

#[test]
fn a_name_that_means_nothing_is_an_error_that_lists_the_disks() {
    let error = gather(&Sources::default(), &["no-such-disk".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("no disk is called that"), "{error}");
}

/// Whatever machine the tests run on: it ends well, in text and JSON, and reads only.
#[test]
fn this_machine_is_inspected_in_seconds() {
    let started = std::time::Instant::now();
    let facts = gather(&Sources::default(), &[]).unwrap();
    let findings = judge(&facts);
    let text = report::text(&facts, &findings, verdict(&findings));
    assert!(text.lines().last().unwrap().starts_with("Verdict: "), "{text}");
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    assert!(Path::new("/proc").exists());
}
