//! Real block devices by name: what this machine is using is refused with the remedy, volumes are ends like disks.
#![allow(clippy::unwrap_used, reason = "tests; they need root and loop devices")]

mod scratch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_disk::inventory::DeviceNumber;
use gantry_disk::loops::{Loop, Shown};
use scratch::*;

/// Runs another's tool, which must succeed.
fn good(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed (scripts/setup): {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output));
}

/// An image as a block device.
fn attach(image: &Path) -> Loop {
    Loop::attach(image, Shown::default()).unwrap()
}

fn node(device: &Loop) -> String {
    device.node().display().to_string()
}

/// Undone when it is dropped, before the device that it uses is let go.
struct Undo(&'static str, String);

impl Drop for Undo {
    fn drop(&mut self) {
        let status = Command::new(self.0).arg(&self.1).status();
        assert!(
            status.is_ok_and(|status| status.success()) || std::thread::panicking(),
            "{} {}",
            self.0,
            self.1
        );
    }
}

/// A new filesystem on the device, mounted in the scratch folder.
fn mounted(scratch: &Scratch, device: &str) -> (Undo, String) {
    let place = scratch.path("mnt");
    fs::create_dir_all(&place).unwrap();
    let place = place.display().to_string();
    good("mke2fs", &["-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", device]);
    good("mount", &["-t", "ext4", device, &place]);
    let undo = Undo("umount", place.clone());
    fs::write(format!("{place}/ledger"), "in the red").unwrap();
    good("sync", &["-f", &place]);
    (undo, place)
}

/// All that must not change: the bytes behind the device, what was written to it so far, and whether it may be written to.
fn state(image: &Path, device: &str) -> (Vec<u8>, String, String) {
    let number = DeviceNumber::of_node(Path::new(device)).unwrap();
    let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", number.major, number.minor));
    let stat = fs::read_to_string(folder.join("stat")).unwrap();
    let written = stat.split_whitespace().nth(6).unwrap().to_owned();
    (fs::read(image).unwrap(), written, fs::read_to_string(folder.join("ro")).unwrap())
}

/// Every command that is given the disk refuses it, with these words, and neither it nor what it was to be copied to or from
/// has changed.
fn all_refuse(scratch: &Scratch, image: &Path, device: &str, words: &[&str]) {
    all_refuse_it_as(device, scratch, image, device, words);
}

/// The same by another name: that of the image behind the device.
fn all_refuse_it_as(name: &str, scratch: &Scratch, image: &Path, device: &str, words: &[&str]) {
    let (other, code) = (scratch.path("other"), scratch.path("code").display().to_string());
    fs::write(&other, vec![7; 24 * MIB]).unwrap();
    fs::write(&code, gantry_wire::Code::from_random([3; 10]).reveal()).unwrap();
    let other = other.display().to_string();
    let made = scratch.path("made");
    let before = state(image, device);
    for arguments in [
        &["send", "--code-file", &code, "127.0.0.1:9", name][..],
        &["receive", "--listen", "127.0.0.1:0", "--erase", name, name],
        &["copy", name, made.to_str().unwrap()],
        &["copy", "--erase", name, &other, name],
        &["export", "--listen", "127.0.0.1:0", name],
    ] {
        let refused = gantry(arguments, &[]);
        let said = text(&refused);
        assert_eq!(refused.status.code(), Some(3), "{arguments:?}: {said}");
        for part in words {
            assert!(said.contains(part), "{arguments:?}: {part:?}: {said}");
        }
    }
    assert!(state(image, device) == before, "the disk was written, or set read-only");
    assert!(!made.exists());
    assert!(fs::read(&other).unwrap() == vec![7; 24 * MIB]);
}

/// Both ways: something onto the device, and the device into a file.
fn is_an_end(scratch: &Scratch, device: &str, seed: u64) {
    let size = Command::new("blockdev").args(["--getsize64", device]).output().unwrap();
    let size = text(&size).trim().parse::<usize>().unwrap();
    let (source, back) = (scratch.source(size, seed), scratch.path("back"));
    let unnamed = gantry(&["copy", source.to_str().unwrap(), device], &[]);
    assert_eq!(unnamed.status.code(), Some(3), "it carries something: {}", text(&unnamed));
    assert!(text(&unnamed).contains("--erase"), "{}", text(&unnamed));
    let onto = gantry(&["copy", "--erase", device, source.to_str().unwrap(), device], &[]);
    assert_eq!(onto.status.code(), Some(0), "{}", text(&onto));
    let from = gantry(&["copy", device, back.to_str().unwrap()], &[]);
    assert_eq!(from.status.code(), Some(0), "{}", text(&from));
    assert!(same(&source, &back));
    assert!(fs::OpenOptions::new().write(true).open(device).is_ok(), "given back as it was");
    fs::remove_file(back).unwrap();
}

fn image(scratch: &Scratch, size: usize) -> PathBuf {
    let path = scratch.path("image");
    fs::write(&path, vec![0; size]).unwrap();
    path
}

#[test]
fn a_mounted_disk_is_refused_by_all_until_it_is_unmounted() {
    let scratch = Scratch::new();
    let image = image(&scratch, 24 * MIB);
    let device = attach(&image);
    let (mount, place) = mounted(&scratch, &node(&device));
    let (at, remedy) = (format!("is mounted on {place}"), format!("umount {place}"));
    let medium = "boot this machine from the Gantry medium";
    all_refuse(&scratch, &image, &node(&device), &["the disk is in use", &at, &remedy, medium]);
    let (name, attached) = (image.display().to_string(), format!("is attached to {}", &node(&device)[5..]));
    all_refuse_it_as(
        &name,
        &scratch,
        &image,
        &node(&device),
        &["the disk is in use", &attached, &at, &remedy],
    );
    drop(mount);
    is_an_end(&scratch, &node(&device), 41);
}

#[test]
fn a_disk_that_is_swapped_to_is_refused_by_all() {
    let scratch = Scratch::new();
    let image = image(&scratch, 12 * MIB);
    let device = attach(&image);
    let node = node(&device);
    good("mkswap", &["-q", &node]);
    good("swapon", &[&node]);
    let swap = Undo("swapoff", node.clone());
    let (used, remedy) = (format!("{node} is used as swap"), format!("swapoff {node}"));
    all_refuse(&scratch, &image, &node, &[&used, &remedy]);
    drop(swap);
    is_an_end(&scratch, &node, 42);
}

/// A loop device is never taken by itself, only by name.
#[test]
fn a_machine_crosses_from_one_loop_device_onto_another() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.source(24 * MIB, 43), scratch.old_disk(24 * MIB));
    let before = fs::read(&source).unwrap();
    let (from, onto) = (attach(&source), attach(&target));
    let (from, onto) = (node(&from), node(&onto));
    let code = scratch.path("code").display().to_string();
    let listen = ["receive", "--listen", "127.0.0.1:0", "--code-file", &code, "--erase", &onto, &onto];
    let mut receiver = Running::start(&listen, &[]);
    let address = receiver.wait_for("listening on").trim_start_matches("listening on ").to_owned();
    let map = format!("{from}={onto}");
    let sent = gantry(&["send", "--code-file", &code, "--map", &map, &address, &from], &[]);
    assert_eq!(sent.status.code(), Some(0), "{}", text(&sent));
    assert_eq!(receiver.child.wait().unwrap().code(), Some(0));
    good("cmp", &[&from, &onto]);
    assert!(fs::read(&source).unwrap() == before);
}

#[test]
fn a_boot_medium_is_refused_whatever_it_is_called() {
    let scratch = Scratch::new();
    let mut bytes = vec![0; 24 * MIB];
    bytes[32768..32774].copy_from_slice(b"\x01CD001");
    bytes[32808..32840].copy_from_slice(b"GANTRY                          ");
    let image = scratch.path("image");
    fs::write(&image, bytes).unwrap();
    let device = attach(&image);
    all_refuse(&scratch, &image, &node(&device), &["this cannot be used: boot medium"]);
}

/// A volume group on a loop device. LVM sees that device alone, and no udev is needed.
struct Volumes {
    group: String,
    config: String,
}

impl Volumes {
    fn new(device: &Loop) -> Option<Self> {
        if let Err(error) = fs::File::open("/dev/mapper/control") {
            // The kernels of some build machines have none, and nothing can give them one.
            eprintln!("not run: /dev/mapper/control: {error}");
            return None;
        }
        let node = node(device);
        let config = format!(
            "devices{{use_devicesfile=0 scan=[\"/dev\"] filter=[\"a|^{node}$|\",\"r|.*|\"]}} \
             activation{{udev_sync=0 udev_rules=0}} backup{{backup=0 archive=0}}"
        );
        let volumes = Self { group: format!("gantrytest{}", std::process::id()), config };
        volumes.lvm(&["pvcreate", "-y", &node]);
        volumes.lvm(&["vgcreate", &volumes.group, &node]);
        Some(volumes)
    }
    fn lvm(&self, arguments: &[&str]) {
        let output = Command::new("lvm").args(arguments).args(["--config", &self.config]).output();
        let output = output.unwrap_or_else(|error| panic!("lvm2 is needed (scripts/setup): {error}"));
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    }
    /// Makes an active volume; its name under /dev.
    fn volume(&self, name: &str) -> String {
        self.lvm(&["lvcreate", "-y", "-Wn", "-Zn", "-L", "24m", "-n", name, &self.group]);
        format!("/dev/{}/{name}", self.group)
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What made the test fail may keep a volume busy, too.
            let off = ["vgchange", "-an", &self.group, "--config", &self.config];
            drop(Command::new("lvm").args(off).status());
        } else {
            self.lvm(&["vgchange", "-an", &self.group]);
        }
    }
}

#[test]
fn a_logical_volume_is_an_end_until_it_is_mounted() {
    let scratch = Scratch::new();
    let image = image(&scratch, 96 * MIB);
    let device = attach(&image);
    let Some(volumes) = Volumes::new(&device) else { return };
    let (used, free) = (volumes.volume("used"), volumes.volume("free"));
    let (mount, place) = mounted(&scratch, &used);
    let at = format!("/dev/mapper/{}-used is mounted on {place}", volumes.group);
    all_refuse(&scratch, &image, &used, &[&at, &format!("umount {place}")]);
    let held = format!("is part of device-mapper volume {}-used", volumes.group);
    let steps = format!("(umount {place}, then vgchange -an or dmsetup remove for");
    all_refuse(&scratch, &image, &node(&device), &[&held, &at, &steps]);

    let old = Command::new("mke2fs").args(["-q", "-t", "ext4", &free]).status().unwrap();
    assert!(old.success());
    is_an_end(&scratch, &free, 44);
    assert_eq!(
        fs::read_to_string(format!("{place}/ledger")).unwrap(),
        "in the red",
        "its neighbour is not touched"
    );
    drop(mount);
    // By its other name.
    is_an_end(&scratch, &format!("/dev/mapper/{}-used", volumes.group), 45);
}

/// What one Gantry writes, no other one reads; and what is half written is no source, whoever asks.
#[test]
fn what_is_being_received_is_no_source_and_neither_is_what_is_left_of_it() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.source(24 * MIB, 5), scratch.old_disk(24 * MIB));
    let [code, made] = ["code", "made"].map(|name| scratch.path(name).display().to_string());
    let name = target.display().to_string();
    let no_source = |words: &str| {
        for arguments in [
            &["send", "--code-file", &code, "127.0.0.1:9", &name][..],
            &["copy", &name, &made],
            &["export", "--listen", "127.0.0.1:0", &name],
        ] {
            let refused = gantry(arguments, &[]);
            let said = text(&refused);
            assert!(refused.status.code() == Some(3) && said.contains(words), "{arguments:?}: {said}");
        }
        assert!(!Path::new(&made).exists());
    };
    let arguments = ["receive", "--listen", "127.0.0.1:0", "--code-file", &code, "--erase", &name, &name];
    let mut receiver = Running::start(&arguments, &[]);
    let line = receiver.wait_for("listening on");
    no_source("another Gantry is writing");
    let address = format!("127.0.0.1:{}", line.rsplit(':').next().unwrap());
    let mut sender = Running::start(&["send", "--limit", "4M", "--code-file", &code, &address], &[&source]);
    receiver.wait_for("epoch 1 begins");
    sender.kill();
    receiver.kill();
    no_source("unfinished replica");
    let looked_at = gantry(&["inspect", &name], &[]);
    assert_eq!(looked_at.status.code(), Some(11), "{}", text(&looked_at));
    assert!(text(&looked_at).contains("unfinished-replica"), "{}", text(&looked_at));
}

/// A source is read-only while it is read. Whoever makes it writable again and writes is seen, and no replica is made of it.
#[test]
fn a_source_that_is_written_to_ends_the_copy() {
    use std::io::{Seek, SeekFrom, Write};
    for writes in [false, true] {
        let scratch = Scratch::new();
        let source = scratch.source(24 * MIB, 44);
        let device = attach(&source);
        let mut held = fs::OpenOptions::new().write(true).open(device.node()).unwrap();
        let made = scratch.path("made").display().to_string();
        let arguments = ["copy", "--json", "--whole", "--read-limit", "8M", &node(&device), &made];
        let mut copy = Running::start(&arguments, &[]);
        copy.wait_for("progress");
        if writes {
            good("blockdev", &["--setrw", &node(&device)]);
            held.seek(SeekFrom::Start(20 * MIB as u64)).unwrap();
            held.write_all(&[1; 4096]).unwrap();
            held.sync_all().unwrap();
        }
        let said = copy.wait_for(if writes { "failed" } else { "done" });
        assert!(!writes || said.contains("written to while it was being copied"), "{said}");
        assert_eq!(copy.child.wait().unwrap().code(), Some(if writes { 3 } else { 0 }));
    }
}
