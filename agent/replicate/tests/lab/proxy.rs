//! A proxy between two ends that cuts, holds and spoils bytes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::{Random, anywhere};

/// What is done to the bytes that a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// One bit is flipped.
    Flip,
    /// Half of them are dropped.
    Drop,
    /// They come twice.
    Repeat,
    /// The second half comes before the first.
    Swap,
}

/// Passes connections on, in the ways that are set; each generation comes from another loopback address.
#[derive(Clone)]
pub struct Proxy {
    pub address: SocketAddr,
    to: Arc<Mutex<SocketAddr>>,
    cut: watch::Sender<u8>,
    /// Connections with a smaller number are held.
    held: watch::Sender<u64>,
    connections: Arc<AtomicU64>,
    came_from: Arc<Mutex<BTreeSet<IpAddr>>>,
    /// Bytes towards the receiver, and towards the sender.
    bytes: Arc<[AtomicU64; 2]>,
    /// Which direction is spoilt once, when so many bytes have passed.
    trouble: Arc<Mutex<Option<Planned>>>,
}

/// A direction, the bytes that pass before, what happens then, and its chance.
type Planned = (usize, u64, Trouble, Random);

impl Proxy {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(anywhere()).await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            to: Arc::new(Mutex::new(to)),
            cut: watch::Sender::new(1),
            held: watch::Sender::new(0),
            connections: Arc::default(),
            came_from: Arc::default(),
            bytes: Arc::default(),
            trouble: Arc::default(),
        };
        let serving = proxy.clone();
        tokio::spawn(async move {
            loop {
                let (here, _) = listener.accept().await.unwrap();
                tokio::spawn(serving.clone().connection(here));
            }
        });
        proxy
    }

    async fn connection(self, here: TcpStream) {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let mut cuts = self.cut.subscribe();
        let from = [127, 0, 1, *cuts.borrow_and_update()];
        let carry = async {
            self.go(number).await;
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((from, 0).into()).unwrap();
            let to = *self.to.lock().unwrap();
            let Ok(mut there) = socket.connect(to).await else { return };
            self.came_from.lock().unwrap().insert(there.local_addr().unwrap().ip());
            let mut here = here;
            let ((here_in, here_out), (there_in, there_out)) = (here.split(), there.split());
            tokio::join!(self.pump(number, 0, here_in, there_out), self.pump(number, 1, there_in, here_out));
        };
        tokio::select! {
            _ = cuts.changed() => {}
            () = carry => {}
        }
    }

    async fn pump(&self, number: u64, way: usize, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
        let mut buffer = vec![0; 65536];
        loop {
            let n = from.read(&mut buffer).await.unwrap_or(0);
            self.go(number).await;
            let bytes = self.spoilt(way, &buffer[..n]);
            if n == 0 || to.write_all(&bytes).await.is_err() {
                break;
            }
            self.bytes[way].fetch_add(n as u64, Ordering::Relaxed);
        }
        drop(to.shutdown().await);
    }

    /// Waits while this connection is held.
    async fn go(&self, number: u64) {
        drop(self.held.subscribe().wait_for(|held| number >= *held).await);
    }

    fn spoilt(&self, way: usize, bytes: &[u8]) -> Vec<u8> {
        let mut spoilt = bytes.to_vec();
        let mut trouble = self.trouble.lock().unwrap();
        let passed = self.bytes[way].load(Ordering::Relaxed) + bytes.len() as u64;
        let Some((_, _, kind, mut random)) = trouble.take_if(|(to, at, ..)| *to == way && passed > *at)
        else {
            return spoilt;
        };
        let half = bytes.len() / 2;
        match kind {
            Trouble::Flip => spoilt[random.next() as usize % bytes.len()] ^= 1 << (random.next() % 8),
            Trouble::Drop => spoilt.truncate(half),
            Trouble::Repeat => spoilt.extend_from_slice(bytes),
            Trouble::Swap => spoilt.rotate_left(half.max(1)),
        }
        spoilt
    }

    /// Spoils what passes after `at` more bytes towards the receiver (way 0) or the sender (way 1), once.
    pub fn spoil(&self, way: usize, at: u64, trouble: Trouble, random: Random) {
        let at = self.bytes[way].load(Ordering::Relaxed) + at;
        *self.trouble.lock().unwrap() = Some((way, at, trouble, random));
    }

    /// Whether what was to be spoilt has been.
    pub fn has_spoilt(&self) -> bool {
        self.trouble.lock().unwrap().is_none()
    }

    /// Holds back what is under way on every connection there is; new ones pass.
    pub fn hold_these(&self) {
        self.held.send_replace(self.connections.load(Ordering::Relaxed));
    }

    /// Holds back everything, also on connections to come.
    pub fn hold_all(&self) {
        self.held.send_replace(u64::MAX);
    }

    /// Lets everything go that was held.
    pub fn release(&self) {
        self.held.send_replace(0);
    }

    /// Breaks every connection, without a farewell.
    pub fn cut_all(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// New connections go there.
    pub fn redirect(&self, to: SocketAddr) {
        *self.to.lock().unwrap() = to;
    }

    /// The addresses that the receiver has seen connections from.
    pub fn came_from(&self) -> BTreeSet<IpAddr> {
        self.came_from.lock().unwrap().clone()
    }

    /// Bytes that have crossed towards the receiver.
    pub fn bytes(&self) -> u64 {
        self.bytes[0].load(Ordering::Relaxed)
    }

    /// Waits until so many bytes have crossed.
    pub async fn passed(&self, bytes: u64) {
        while self.bytes() < bytes {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
