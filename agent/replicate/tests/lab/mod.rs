//! Two ends on the loopback and image files; in rooms of their own a proxy, disks and peers that misbehave.
#![allow(dead_code, unused_imports, clippy::unwrap_used, reason = "tests; each file uses its share")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_disk::{BadSectors, ImageFile, ReadAt, WriteAt};
use gantry_replicate::commit::{FinishDisk, Finisher};
use gantry_replicate::receiver::{ReceiveOptions, TargetDisk, receive};
use gantry_replicate::sender::{SendOptions, Sent, send};
use gantry_replicate::throttle::Throttle;
use gantry_replicate::{Event, Events, Kept, Report};
use gantry_wire::{Code, Stage};
use tokio::task::JoinHandle;

mod disks;
mod journal;
mod peer;
mod proxy;

pub use disks::{Operation, Troubled};
pub use journal::{Entry, Journal};
pub use peer::{FakeReceiver, FakeSender, Point, Say, Spoils, disk_info};
pub use proxy::{Proxy, Trouble};

pub const MIB: u64 = 1 << 20;

/// Of random tests: by the clock, or as GANTRY_SEED says. Printed.
pub fn seed() -> u64 {
    let given = std::env::var("GANTRY_SEED").ok().and_then(|text| text.parse().ok());
    let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into();
    let seed = given.unwrap_or_else(clock);
    println!("GANTRY_SEED={seed}");
    seed
}

/// Whether the long form of a test is wanted.
pub fn slow() -> bool {
    std::env::var_os("GANTRY_SLOW").is_some()
}

/// Leaves the replica as it is.
pub struct NoRepair;
impl Finisher for NoRepair {
    fn finish(&self, _: &mut [FinishDisk], _: &mut Report, _: &dyn Fn(Stage, &str)) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A source image with data, holes and repeats; a target full of junk.
pub struct Images {
    pub dir: tempfile::TempDir,
    pub source: PathBuf,
    pub target: PathBuf,
}

impl Images {
    pub fn new(source_size: u64, target_size: u64, seed: u64) -> Self {
        println!("seed {seed}");
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        let mut random = Random(seed);
        let image = ImageFile::create(&source, source_size).unwrap();
        // Bytes that hardly cross: never much more than half, or a test that waits for some to pass waits for ever.
        let (mut at, mut light) = (0, 0);
        while at < source_size {
            let length = (MIB + 512 * (random.next() % 4096)).min(source_size - at);
            let mut bytes = vec![0; length as usize];
            let kind = if 2 * light > at { 3 } else { random.next() % 4 };
            light += if kind < 2 { length } else { 0 };
            match kind {
                0 => {}
                1 => bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (i / 300) as u8),
                _ => bytes
                    .chunks_mut(8)
                    .for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()[..c.len()])),
            }
            image.write_at(at, &bytes).unwrap();
            at += length;
        }
        image.flush().unwrap();
        let junk: Vec<u8> = (0..target_size).map(|i| (i % 253) as u8 | 1).collect();
        std::fs::write(&target, junk).unwrap();
        Self { dir, source, target }
    }

    /// Every byte of source and target, to be compared with later.
    pub fn contents(&self) -> [Vec<u8>; 2] {
        [&self.source, &self.target].map(|path| std::fs::read(path).unwrap())
    }

    pub fn assert_equal(&self) {
        let (source, target) = (std::fs::read(&self.source).unwrap(), std::fs::read(&self.target).unwrap());
        let differs = source.iter().zip(&target).position(|(a, b)| a != b);
        assert_eq!(differs, None, "first differing byte");
    }
}

/// A small generator: the same seed gives the same numbers for ever.
pub struct Random(pub u64);
impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Events as they came, and a way to wait for one.
#[derive(Clone)]
pub struct Log(pub Arc<Mutex<Vec<Event>>>);
impl Log {
    pub fn new() -> (Self, Events) {
        Self::with(|_| {})
    }
    /// `hook` runs where the event happens: what it does is done before the end that tells goes on.
    pub fn with(hook: impl Fn(&Event) + Send + Sync + 'static) -> (Self, Events) {
        let log = Self(Arc::default());
        let sink = log.clone();
        let tell = move |event: &Event| {
            hook(event);
            sink.0.lock().unwrap().push(event.clone());
        };
        (log, Events::new(tell))
    }
    pub async fn wait<T>(&self, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
        for _ in 0..1200 {
            if let Some(found) = self.0.lock().unwrap().iter().find_map(&mut pick) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("waited 30 s in vain; events: {:?}", self.0.lock().unwrap());
    }
    pub fn epochs(&self) -> u64 {
        self.0.lock().unwrap().iter().filter(|e| matches!(e, Event::Epoch { .. })).count() as u64
    }
    pub async fn address(&self) -> SocketAddr {
        self.wait(|e| match e {
            Event::Listening { address } => address.parse().ok(),
            _ => None,
        })
        .await
    }
}

pub fn code() -> Code {
    Code::from_random([7; 10])
}

pub struct Receiver {
    pub task: JoinHandle<anyhow::Result<Kept>>,
    pub log: Log,
    pub address: SocketAddr,
}

pub async fn start_receiver(end: Arc<dyn WriteAt>, listen: SocketAddr) -> Receiver {
    start_receiver_with(end, listen, Duration::from_secs(600), Log::new()).await
}

pub async fn start_receiver_with(
    end: Arc<dyn WriteAt>,
    listen: SocketAddr,
    code_valid: Duration,
    log: (Log, Events),
) -> Receiver {
    start_receiver_as(vec![TargetDisk::usable(end)], listen, code_valid, log).await
}

pub async fn start_receiver_on(disks: Vec<TargetDisk>, log: (Log, Events)) -> Receiver {
    start_receiver_as(disks, anywhere(), Duration::from_secs(600), log).await
}

async fn start_receiver_as(
    disks: Vec<TargetDisk>,
    listen: SocketAddr,
    code_valid: Duration,
    log: (Log, Events),
) -> Receiver {
    let options = ReceiveOptions { code_valid, ..receive_options(disks) };
    start_receiver_at(listen, options, Box::new(NoRepair), log).await
}

/// A listener there.
pub fn bound(address: SocketAddr) -> std::net::TcpListener {
    std::net::TcpListener::bind(address).unwrap()
}

/// A receiver's options, to be changed.
pub fn receive_options(disks: Vec<TargetDisk>) -> ReceiveOptions {
    ReceiveOptions {
        code: code(),
        job: *b"testjob1",
        code_valid: Duration::from_secs(600),
        disks,
        committed: None,
        machine: "target".into(),
        software: "test".into(),
    }
}

pub async fn start_receiver_by(
    options: ReceiveOptions,
    finisher: Box<dyn Finisher>,
    log: (Log, Events),
) -> Receiver {
    start_receiver_at(anywhere(), options, finisher, log).await
}

async fn start_receiver_at(
    listen: SocketAddr,
    options: ReceiveOptions,
    finisher: Box<dyn Finisher>,
    (log, events): (Log, Events),
) -> Receiver {
    let task = tokio::spawn(receive(bound(listen), options, finisher, events));
    let address = log.address().await;
    Receiver { task, log, address }
}

pub fn target(path: &Path) -> Arc<dyn WriteAt> {
    Arc::new(ImageFile::open_target(path).unwrap())
}

pub fn source(path: &Path) -> Arc<dyn ReadAt> {
    Arc::new(ImageFile::open_source(path).unwrap())
}

pub fn start_sender(
    end: Arc<dyn ReadAt>,
    address: SocketAddr,
    code: Code,
) -> (JoinHandle<anyhow::Result<Sent>>, Log) {
    start_sender_as(end, address, code, BadSectors::Stop, Throttle::unlimited())
}

pub fn start_throttled_sender(
    end: Arc<dyn ReadAt>,
    address: SocketAddr,
    throttle: &Throttle,
) -> (JoinHandle<anyhow::Result<Sent>>, Log) {
    start_sender_as(end, address, code(), BadSectors::Stop, throttle.clone())
}

pub fn start_sender_with(
    end: Arc<dyn ReadAt>,
    address: SocketAddr,
    bad_sectors: BadSectors,
) -> (JoinHandle<anyhow::Result<Sent>>, Log) {
    start_sender_as(end, address, code(), bad_sectors, Throttle::unlimited())
}

fn start_sender_as(
    end: Arc<dyn ReadAt>,
    address: SocketAddr,
    code: Code,
    bad_sectors: BadSectors,
    throttle: Throttle,
) -> (JoinHandle<anyhow::Result<Sent>>, Log) {
    let (log, events) = Log::new();
    let options = SendOptions { code, bad_sectors, throttle, ..send_options(vec![end], address) };
    (tokio::spawn(send(options, events)), log)
}

/// A sender's options, to be changed.
pub fn send_options(disks: Vec<Arc<dyn ReadAt>>, address: SocketAddr) -> SendOptions {
    SendOptions {
        address: address.to_string(),
        code: code(),
        disks,
        whole: false,
        bad_sectors: BadSectors::Stop,
        map: Vec::new(),
        streams: 2,
        throttle: Throttle::unlimited(),
        unchanged: Box::new(|| Ok(())),
        machine: "source".into(),
        software: "test".into(),
    }
}

pub fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}
