//! Two ends on the loopback, image files, and a proxy between them that can cut.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each file uses its share")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_disk::{BadSectors, Geometry, ImageFile, ReadAt, WriteAt};
use gantry_replicate::commit::{FinishDisk, Finisher};
use gantry_replicate::receiver::{ReceiveOptions, TargetDisk, receive};
use gantry_replicate::sender::{SendOptions, Sent, send};
use gantry_replicate::{Event, Events, Report};
use gantry_wire::{Code, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

pub const MIB: u64 = 1 << 20;

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
        let mut at = 0;
        while at < source_size {
            let length = (MIB + 512 * (random.next() % 4096)).min(source_size - at);
            let mut bytes = vec![0; length as usize];
            match random.next() % 4 {
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
    pub task: JoinHandle<anyhow::Result<Report>>,
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
    (log, events): (Log, Events),
) -> Receiver {
    let options = ReceiveOptions {
        listen,
        code: code(),
        job: *b"testjob1",
        code_valid,
        disks,
        committed: None,
        machine: "target".into(),
        software: "test".into(),
    };
    let task = tokio::spawn(receive(options, Box::new(NoRepair), events));
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
    start_sender_as(end, address, code, BadSectors::Stop)
}

pub fn start_sender_with(
    end: Arc<dyn ReadAt>,
    address: SocketAddr,
    bad_sectors: BadSectors,
) -> (JoinHandle<anyhow::Result<Sent>>, Log) {
    start_sender_as(end, address, code(), bad_sectors)
}

fn start_sender_as(
    end: Arc<dyn ReadAt>,
    address: SocketAddr,
    code: Code,
    bad_sectors: BadSectors,
) -> (JoinHandle<anyhow::Result<Sent>>, Log) {
    let (log, events) = Log::new();
    let options = SendOptions {
        address: address.to_string(),
        code,
        disks: vec![end],
        bad_sectors,
        map: Vec::new(),
        streams: 2,
        unchanged: Box::new(|| Ok(())),
        machine: "source".into(),
        software: "test".into(),
    };
    (tokio::spawn(send(options, events)), log)
}

pub fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Passes connections on until it is told to cut them all; each generation comes from another loopback address.
pub struct Proxy {
    pub address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    cut: tokio::sync::watch::Sender<u8>,
    bytes: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind(anywhere()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = tokio::sync::watch::Sender::new(1);
        let proxy = Self { address, to: Arc::new(Mutex::new(to)), cut: cut.clone(), bytes: Arc::default() };
        let (to, count) = (Arc::clone(&proxy.to), Arc::clone(&proxy.bytes));
        tokio::spawn(async move {
            loop {
                let (here, _) = listener.accept().await.unwrap();
                let (to, count) = (*to.lock().unwrap(), Arc::clone(&count));
                let mut cuts = cut.subscribe();
                let from = [127, 0, 1, *cuts.borrow_and_update()];
                tokio::spawn(async move {
                    let socket = tokio::net::TcpSocket::new_v4().unwrap();
                    socket.bind((from, 0).into()).unwrap();
                    let Ok(there) = socket.connect(to).await else { return };
                    tokio::select! {
                        _ = cuts.changed() => {}
                        () = carry(here, there, &count) => {}
                    }
                });
            }
        });
        proxy
    }

    /// Breaks every connection, without a farewell.
    pub fn cut_all(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// New connections go there.
    pub fn redirect(&self, to: SocketAddr) {
        *self.to.lock().unwrap() = to;
    }

    /// Bytes that have crossed towards the receiver.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes have crossed.
    pub async fn passed(&self, bytes: u64) {
        while self.bytes() < bytes {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn carry(mut here: tokio::net::TcpStream, mut there: tokio::net::TcpStream, count: &AtomicU64) {
    let (mut here_in, mut here_out) = here.split();
    let (mut there_in, mut there_out) = there.split();
    let up = async {
        let mut buffer = vec![0; 65536];
        loop {
            let n = here_in.read(&mut buffer).await.unwrap_or(0);
            if n == 0 || there_out.write_all(&buffer[..n]).await.is_err() {
                break;
            }
            count.fetch_add(n as u64, Ordering::Relaxed);
        }
        drop(there_out.shutdown().await);
    };
    let down = async {
        drop(tokio::io::copy(&mut there_in, &mut here_out).await);
        drop(here_out.shutdown().await);
    };
    tokio::join!(up, down);
}

/// A disk end that misbehaves on purpose, in the ways that are set; by itself it is sound.
pub struct Troubled {
    inner: ImageFile,
    bad_byte: Option<u64>,
    life: AtomicU64,
    good_flushes: AtomicU64,
}

impl Troubled {
    fn over(inner: ImageFile) -> Self {
        Self { inner, bad_byte: None, life: AtomicU64::new(u64::MAX), good_flushes: AtomicU64::new(u64::MAX) }
    }
    /// A source that cannot be read at one byte.
    pub fn unreadable(path: &Path, byte: u64) -> Arc<Self> {
        Arc::new(Self { bad_byte: Some(byte), ..Self::over(ImageFile::open_source(path).unwrap()) })
    }
    /// A target that dies after so many writes, zeroes and flushes, as if its machine had lost power: from then on every
    /// one of them fails. What was written before stays.
    pub fn mortal(path: &Path, operations: u64) -> Arc<Self> {
        let life = AtomicU64::new(operations);
        Arc::new(Self { life, ..Self::over(ImageFile::open_target(path).unwrap()) })
    }
    /// A target of which one flush fails, after so many good ones.
    pub fn stumbling(path: &Path, good: u64) -> Arc<Self> {
        let good_flushes = AtomicU64::new(good);
        Arc::new(Self { good_flushes, ..Self::over(ImageFile::open_target(path).unwrap()) })
    }
    pub fn is_dead(&self) -> bool {
        self.life.load(Ordering::Relaxed) == 0
    }
    fn live(&self) -> gantry_disk::Result<()> {
        let alive = self.life.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let gone =
            || gantry_disk::DiskError::io("mortal", "living", std::io::Error::other("the machine is off"));
        alive.map(drop).map_err(|_| gone())
    }
    fn eio(&self, operation: &str) -> gantry_disk::DiskError {
        gantry_disk::DiskError::io(
            &self.inner.identity().path,
            operation,
            std::io::Error::from_raw_os_error(5),
        )
    }
}

impl Geometry for Troubled {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn sector_size(&self) -> gantry_disk::SectorSize {
        self.inner.sector_size()
    }
    fn identity(&self) -> &gantry_disk::Identity {
        self.inner.identity()
    }
}

impl ReadAt for Troubled {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> gantry_disk::Result<()> {
        match self.bad_byte {
            Some(at) if at >= offset && at < offset + buffer.len() as u64 => {
                Err(self.eio("reading 4096 bytes").at(at))
            }
            _ => self.inner.read_at(offset, buffer),
        }
    }
}

impl WriteAt for Troubled {
    fn write_at(&self, offset: u64, data: &[u8]) -> gantry_disk::Result<()> {
        self.live()?;
        self.inner.write_at(offset, data)
    }
    fn zero_at(&self, offset: u64, length: u64) -> gantry_disk::Result<()> {
        self.live()?;
        self.inner.zero_at(offset, length)
    }
    fn flush(&self) -> gantry_disk::Result<()> {
        self.live()?;
        if self.good_flushes.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Err(self.eio("flushing"));
        }
        self.inner.flush()
    }
}
