//! Limits and pauses of a running replication, and what is told of its progress.

#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gantry_disk::{BadSectors, Geometry, Identity, ImageFile, ReadAt, SectorSize, WriteAt};
use gantry_replicate::local::{CopyOptions, copy};
use gantry_replicate::receiver::TargetDisk;
use gantry_replicate::throttle::{Schedule, Throttle};
use gantry_replicate::{Event, Progress};
use lab::*;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const KIB: u64 = 1 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

fn throttle(wire: &str, read: &str) -> Throttle {
    Throttle::new(wire.parse().unwrap(), read.parse().unwrap())
}

fn progress(log: &Log, phase: &str) -> Vec<Progress> {
    let told = log.0.lock().unwrap();
    let of_phase = |event: &Event| match event {
        Event::Progress(progress) if progress.phase == phase => Some(progress.clone()),
        _ => None,
    };
    told.iter().filter_map(of_phase).collect()
}

/// Waits until so many more progress events of a phase were told.
async fn ticks(log: &Log, phase: &str, count: usize) {
    let before = progress(log, phase).len();
    let told = async {
        while progress(log, phase).len() < before + count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, told).await.unwrap_or_else(|_| panic!("no progress of the {phase} pass is told"));
}

/// Waits for the second epoch of a sender that goes on.
async fn second_epoch<T>(log: &Log, sender: &JoinHandle<T>) {
    let dialled = async {
        while log.epochs() < 2 {
            assert!(!sender.is_finished());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, dialled).await.unwrap_or_else(|_| panic!("the lost link was not noticed"));
}

/// The slowest limit holds, a new one lets go at once: the same test is its own control.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_and_can_be_lifted_while_it_runs() {
    for wire in [true, false] {
        let images = Images::new(24 * MIB, 24 * MIB, 7);
        let receiver = start_receiver(target(&images.target), anywhere()).await;
        let proxy = Proxy::start(receiver.address).await;
        let throttle = if wire { throttle("1K", "none") } else { throttle("none", "1K") };
        let (sender, log) = start_throttled_sender(source(&images.source), proxy.address, &throttle);
        ticks(&log, "full", 4).await;
        // A piece before the limit bites, and what the control link says.
        assert!(proxy.bytes() < 256 * KIB, "{} bytes crossed", proxy.bytes());
        let told = progress(&log, "full").pop().unwrap().sum;
        assert!(told.sent <= 128 * KIB && (wire || told.read == 0), "{told:?}");
        if wire { throttle.wire() } else { throttle.read() }.set(Schedule::default());
        sender.await.unwrap().unwrap();
        receiver.task.await.unwrap().unwrap();
        images.assert_equal();
        assert!(proxy.bytes() > 4 * MIB, "lifted, all of it crossed");
    }
}

/// Never faster than the limit, however the time is measured; how close to it, the bucket's own tests say.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_crosses_than_the_limit_allows() {
    let images = Images::new(24 * MIB, 24 * MIB, 8);
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let proxy = Proxy::start(receiver.address).await;
    let throttle = throttle("3M", "none");
    let (sender, log) = start_throttled_sender(source(&images.source), proxy.address, &throttle);
    log.wait(|event| matches!(event, Event::Epoch { .. }).then_some(())).await;
    let (began, before) = (std::time::Instant::now(), proxy.bytes());
    while proxy.bytes() < 6 * MIB && !sender.is_finished() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let most = 3.0 * 1048576.0 * (began.elapsed().as_secs_f64() + 0.2) * 1.03 + 192.0 * 1024.0;
        let crossed = proxy.bytes() - before;
        assert!((crossed as f64) < most, "{crossed} bytes in {:?}", began.elapsed());
    }
    throttle.wire().set(Schedule::default());
    sender.await.unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
}

/// Waits until nothing but pings crosses; the bytes until then.
async fn quiet(proxy: &Proxy) -> u64 {
    loop {
        let before = proxy.bytes();
        tokio::time::sleep(Duration::from_millis(300)).await;
        if proxy.bytes() == before {
            return before;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_keeps_the_link_and_only_pings_cross() {
    let images = Images::new(96 * MIB, 96 * MIB, 9);
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let proxy = Proxy::start(receiver.address).await;
    let throttle = Throttle::unlimited();
    let (sender, log) = start_throttled_sender(source(&images.source), proxy.address, &throttle);
    proxy.passed(4 * MIB).await;
    throttle.pause(true);
    let held = quiet(&proxy).await;
    // Two pings: the link is alive although nothing is sent for longer than an idle link may say nothing.
    let mut pings = 0;
    let mut last = held;
    while pings < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = proxy.bytes();
        pings += u64::from(now > last);
        last = now;
    }
    assert!(last - held < 512, "{} bytes crossed in the pause", last - held);
    assert!(!sender.is_finished());
    let told = progress(&log, "full").pop().unwrap();
    assert!(told.paused && told.sum.done < told.sum.total, "{told:?}");
    throttle.pause(false);
    sender.await.unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
    assert_eq!(log.epochs(), 1, "the link was never lost");
    assert!(proxy.bytes() > last + MIB, "the rest crossed after the pause");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_in_a_pause_is_made_anew_and_still_paused() {
    let images = Images::new(96 * MIB, 96 * MIB, 10);
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let proxy = Proxy::start(receiver.address).await;
    let throttle = Throttle::unlimited();
    let (sender, log) = start_throttled_sender(source(&images.source), proxy.address, &throttle);
    proxy.passed(4 * MIB).await;
    throttle.pause(true);
    quiet(&proxy).await;
    proxy.cut_all();
    second_epoch(&log, &sender).await;
    ticks(&log, "full", 2).await;
    assert!(progress(&log, "full").pop().unwrap().paused);
    throttle.pause(false);
    sender.await.unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    images.assert_equal();
    let written: Vec<u64> = progress(&receiver.log, "full").iter().map(|told| told.sum.sent).collect();
    assert!(written.is_sorted() && written[0] < written[written.len() - 1], "in this process: {written:?}");
}

/// More groups than readers and their queue take: what waits for them must not keep the link and the person waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_compare_whose_readers_are_held_still_sees_the_link_break_and_tells_how_far_it_is() {
    let (groups, folder) = (12, tempfile::tempdir().unwrap());
    let [from, to] = ["source", "target"].map(|name| folder.path().join(name));
    for path in [&from, &to] {
        let image = ImageFile::create(path, groups * 64 * MIB).unwrap();
        (0..groups).for_each(|group| image.write_at((group * 64 + 9) * MIB, &[7; 4096]).unwrap());
    }
    let base = TargetDisk { base: true, ..TargetDisk::usable(target(&to)) };
    let receiver = start_receiver_on(vec![base], Log::new()).await;
    let proxy = Proxy::start(receiver.address).await;
    let throttle = throttle("none", "1K");
    let (sender, log) = start_throttled_sender(source(&from), proxy.address, &throttle);
    ticks(&log, "compare", 2).await;
    throttle.pause(true);
    ticks(&log, "compare", 2).await;
    assert!(progress(&log, "compare").pop().unwrap().paused);
    proxy.cut_all();
    second_epoch(&log, &sender).await;
    throttle.read().set(Schedule::default());
    throttle.pause(false);
    sender.await.unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
}

/// A target that pauses the copy when its first chunk is read back, and counts the chunks that are.
struct Pausing {
    image: ImageFile,
    throttle: Throttle,
    chunks: AtomicU64,
}

impl Geometry for Pausing {
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

impl ReadAt for Pausing {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> gantry_disk::Result<()> {
        if buffer.len() as u64 == MIB && self.chunks.fetch_add(1, Ordering::Relaxed) == 0 {
            self.throttle.pause(true);
        }
        self.image.read_at(offset, buffer)
    }
}

impl WriteAt for Pausing {
    fn write_at(&self, offset: u64, data: &[u8]) -> gantry_disk::Result<()> {
        self.image.write_at(offset, data)
    }
    fn zero_at(&self, offset: u64, length: u64) -> gantry_disk::Result<()> {
        self.image.zero_at(offset, length)
    }
    fn flush(&self) -> gantry_disk::Result<()> {
        self.image.flush()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_a_copy_in_the_middle_of_a_group_that_it_reads_back() {
    let images = Images::new(200 * MIB, 200 * MIB, 12);
    let throttle = Throttle::unlimited();
    let image = ImageFile::open_target(&images.target).unwrap();
    let end = Arc::new(Pausing { image, throttle: throttle.clone(), chunks: AtomicU64::new(0) });
    let options = CopyOptions {
        base: false,
        whole: false,
        bad_sectors: BadSectors::Stop,
        throttle: throttle.clone(),
        machine: String::new(),
        software: String::new(),
    };
    let (from, to, (log, events)) = (source(&images.source), end.clone(), Log::new());
    let copying = tokio::task::spawn_blocking(move || copy(from, to, &options, &NoRepair, &events));
    log.wait(|event| matches!(event, Event::Progress(told) if told.paused).then_some(())).await;
    ticks(&log, "compare", 2).await;
    // A chunk that was begun by each of four threads, and one that had been let through.
    let chunks = end.chunks.load(Ordering::Relaxed);
    // First, or a test that fails would wait for the copy's threads for ever.
    throttle.pause(false);
    assert!(chunks <= 8, "{chunks} chunks were read in the pause");
    copying.await.unwrap().unwrap();
    images.assert_equal();
    assert!(end.chunks.load(Ordering::Relaxed) > 190, "all of it was read back");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_counts_what_was_read_sent_and_saved() {
    let images = Images::new(40 * MIB + 512, 41 * MIB, 11);
    let receiver = start_receiver(target(&images.target), anywhere()).await;
    let (sender, log) = start_sender(source(&images.source), receiver.address, code());
    let sent = sender.await.unwrap().unwrap();
    receiver.task.await.unwrap().unwrap();
    let full = progress(&log, "full").pop().unwrap();
    let sum = full.sum;
    assert_eq!((sum.done, sum.total, sum.read), (40 * MIB + 512, 40 * MIB + 512, 40 * MIB + 512));
    assert_eq!((sum.sent, sum.left), (sent.wire_bytes, Some(0)));
    // What was read was sent, was zero, or was saved: frames have headers, zeroes nearly nothing.
    assert!(sum.saved > MIB && sum.sent + sum.saved < sum.read, "{sum:?}");
    assert_eq!((full.disks.len(), full.disks[0].figures), (1, sum));
    let there = progress(&receiver.log, "full").pop().unwrap();
    assert_eq!((there.sum.done, there.sum.total), (sum.done, sum.total));
    assert_eq!(there.disks[0].disk, images.target.display().to_string());
    // How much of the rest is zero, a receiver cannot know; what it has read back, it does.
    assert!(progress(&receiver.log, "full").iter().all(|there| there.sum.left.is_none()));
    let compared = progress(&receiver.log, "compare").pop().unwrap().sum;
    assert_eq!((compared.done, compared.left), (sum.done, Some(0)));
}
