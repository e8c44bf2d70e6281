//! What a filesystem does not use is neither read nor sent, and is zero in the replica.
#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_disk::used::{UsedMaps, used_maps};
use gantry_disk::{BadSectors, Extent, Geometry, Identity, ImageFile, ReadAt, Result, SectorSize, WriteAt};
use gantry_replicate::local::{CopyOptions, copy, verify};
use gantry_replicate::report::{Compared, DiskReport};
use gantry_replicate::throttle::Throttle;
use gantry_replicate::{Event, Events};
use lab::*;

const SIZE: u64 = 96 * MIB;
/// Nobody's bytes, where no file lies.
const JUNK: u8 = 0xa5;

fn run(program: &str, arguments: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program).args(arguments).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

/// An ext4 over the whole of a disk that was full of junk, with a file of some MiB; and a target full of other junk.
fn images() -> Images {
    let images = Images::new(SIZE, SIZE, 1);
    let tree = images.dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let mut random = Random(5);
    let bytes: Vec<u8> = (0..20 * MIB / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    std::fs::write(tree.join("file"), bytes).unwrap();
    std::fs::write(&images.source, vec![JUNK; SIZE as usize]).unwrap();
    let (tree, image) = (tree.display().to_string(), images.source.display().to_string());
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "nodiscard", "-d", &tree, &image]);
    images
}

/// The filesystem of the source was not left cleanly.
fn spoil(image: &Path) {
    run("debugfs", &["-w", "-R", "set_super_value state 0", &image.display().to_string()]);
}

fn maps(image: &Path) -> UsedMaps {
    used_maps(&[&ImageFile::open_source(image).unwrap()])
}

/// The replica is the source where it is used, and zero elsewhere (in whole leaves).
fn assert_used_only(images: &Images) {
    let (source, target) = (std::fs::read(&images.source).unwrap(), std::fs::read(&images.target).unwrap());
    let used = maps(&images.source).disks[0].used.round_out(64 << 10, SIZE);
    for range in used.iter() {
        let range = range.start as usize..range.end as usize;
        assert!(source[range.clone()] == target[range.clone()], "{range:?}");
    }
    for gap in used.complement(SIZE) {
        assert!(target[gap.start as usize..gap.end as usize].iter().all(|byte| *byte == 0), "{gap:?}");
    }
    run("e2fsck", &["-fn", &images.target.display().to_string()]);
    let folder = images.dir.path();
    let out = folder.join("out").display().to_string();
    run("debugfs", &["-R", &format!("dump /file {out}"), &images.target.display().to_string()]);
    assert!(std::fs::read(out).unwrap() == std::fs::read(folder.join("tree/file")).unwrap());
}

fn options(whole: bool) -> CopyOptions {
    CopyOptions {
        base: false,
        whole,
        bad_sectors: BadSectors::Stop,
        throttle: Throttle::unlimited(),
        machine: String::new(),
        software: String::new(),
    }
}

fn assert_told(disk: &DiskReport) {
    assert_eq!(disk.compared, Compared::Used);
    let [part] = disk.parts.as_slice() else { panic!("{:?}", disk.parts) };
    assert!(part.kind == "ext4" && part.used > 20 * MIB && part.used < 50 * MIB, "{part:?}");
}

/// A disk that counts the bytes that are read of it.
struct Counting {
    image: ImageFile,
    read: AtomicU64,
}

impl Counting {
    fn new(image: ImageFile) -> Arc<Self> {
        Arc::new(Self { image, read: AtomicU64::new(0) })
    }
    fn count(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

impl Geometry for Counting {
    fn size(&self) -> u64 {
        self.image.size()
    }
    fn sector_size(&self) -> SectorSize {
        self.image.sector_size()
    }
    fn identity(&self) -> &Identity {
        self.image.identity()
    }
}

impl ReadAt for Counting {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.image.read_at(offset, buffer)
    }
    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.image.extents(offset, length)
    }
}

impl WriteAt for Counting {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.image.write_at(offset, data)
    }
    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.image.zero_at(offset, length)
    }
    fn flush(&self) -> Result<()> {
        self.image.flush()
    }
}

#[test]
fn a_copy_leaves_out_what_no_file_uses() {
    let images = images();
    let used = maps(&images.source).disks[0].used.total();
    let from = Counting::new(ImageFile::open_source(&images.source).unwrap());
    let to = Counting::new(ImageFile::open_target(&images.target).unwrap());
    let (log, events) = Log::new();
    let report = copy(from.clone(), to.clone(), &options(false), &NoRepair, &events).unwrap();
    assert_told(&report.disks[0]);
    let told = |event: &Event| matches!(event, Event::Part(part) if part.kind == "ext4");
    assert!(log.0.lock().unwrap().iter().any(told));
    // Whole leaves of the source, whole chunks of the target; head and tail of the target more than once.
    let most = used + 16 * MIB;
    assert!(from.count() < most && to.count() < most, "{} and {} of {used}", from.count(), to.count());
    assert_used_only(&images);

    let compare = |whole: bool| {
        let ends = [&images.source, &images.target].map(|path| ImageFile::open_reader(path).unwrap());
        verify(&ends[0], &ends[1], whole, &Events::nowhere()).unwrap()
    };
    let found = compare(false);
    assert_eq!(
        (found.differing, &found.first, &found.second),
        (0, &report.disks[0].root, &report.disks[0].root)
    );
    assert!(found.compared < most && compare(true).differing > 10);
    // The negative control: a byte that somebody uses.
    let place = maps(&images.source).disks[0].used.iter().find(|range| range.start > 8 * MIB).unwrap().start;
    let file = OpenOptions::new().read(true).write(true).open(&images.target).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 4], place).unwrap();
    assert_eq!(compare(false).places, [place / MIB * MIB]);
}

#[test]
fn whole_means_whole_and_so_does_doubt() {
    for doubt in [false, true] {
        let images = images();
        if doubt {
            spoil(&images.source);
        }
        let (from, to) = (source(&images.source), target(&images.target));
        let report = copy(from, to, &options(!doubt), &NoRepair, &Events::nowhere()).unwrap();
        images.assert_equal();
        let told: Vec<_> = report.disks[0].parts.iter().map(|part| part.doubt.contains("clean")).collect();
        assert_eq!(told, if doubt { vec![true] } else { vec![] }, "{:?}", report.disks[0].parts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unused_crosses_as_a_word_and_is_not_read_back() {
    let images = images();
    let used = maps(&images.source).disks[0].used.total();
    let to = Counting::new(ImageFile::open_target(&images.target).unwrap());
    let receiver = start_receiver(to.clone(), anywhere()).await;
    let (sender, _) = start_sender(source(&images.source), receiver.address, code());
    let sent = sender.await.unwrap().unwrap();
    let kept = receiver.task.await.unwrap().unwrap();
    assert_eq!(sent.kept, kept);
    assert_told(&kept.report.disks[0]);
    assert!(sent.wire_bytes < used + MIB, "{} of {used}", sent.wire_bytes);
    assert!(to.count() < used + 16 * MIB, "{} of {used}", to.count());
    assert_used_only(&images);
}

/// The fault to catch: a disk that does not do what it says where somebody uses it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_is_read_back() {
    let images = images();
    let used = maps(&images.source).disks[0].used.clone();
    let place =
        used.iter().find(|range| range.start > 8 * MIB && range.end - range.start > MIB).unwrap().start;
    let path = images.target.clone();
    let spoil = move |event: &Event| {
        if matches!(event, Event::PassDone { phase: "full", .. }) {
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, place).unwrap();
            file.write_all_at(&[byte[0] ^ 4], place).unwrap();
        }
    };
    let valid = std::time::Duration::from_secs(600);
    let receiver = start_receiver_with(target(&images.target), anywhere(), valid, Log::with(spoil)).await;
    let (sender, _) = start_sender(source(&images.source), receiver.address, code());
    sender.await.unwrap().unwrap();
    let kept = receiver.task.await.unwrap().unwrap();
    assert_eq!(kept.report.disks[0].rewritten_chunks, 1);
    assert_used_only(&images);
}

/// A receiver that was started again has zeroed nothing itself: it reads everything back.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_started_again_trusts_nothing() {
    let images = images();
    let first = start_receiver(target(&images.target), anywhere()).await;
    let (sender, _) = start_sender(source(&images.source), first.address, code());
    let done = |event: &Event| matches!(event, Event::PassDone { phase: "full", .. }).then_some(());
    first.log.wait(done).await;
    first.task.abort();
    drop(first.task.await);
    sender.abort();
    // Somebody writes where nobody uses anything.
    let gap = maps(&images.source).disks[0]
        .used
        .complement(SIZE)
        .find(|gap| gap.end - gap.start > 4 * MIB)
        .unwrap();
    let file = OpenOptions::new().write(true).open(&images.target).unwrap();
    file.write_all_at(&[7; 4096], gap.start + 2 * MIB).unwrap();
    let taken = async {
        // Its threads let go of the disk a moment after it.
        loop {
            match ImageFile::open_target(&images.target) {
                Ok(image) => return Arc::new(image),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    };
    let second = start_receiver(taken.await, anywhere()).await;
    let (sender, _) = start_sender(source(&images.source), second.address, code());
    sender.await.unwrap().unwrap();
    second.task.await.unwrap().unwrap();
    assert_used_only(&images);
}
