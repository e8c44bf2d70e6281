//! The network between source and target, with a hand on the cable.
//!
//! A TCP proxy on the host: the source dials it, it dials the port that leads into the target. A test can cut all connections,
//! refuse new ones, hold everything back, slow it down, and count bytes. Threads only; they end with the proxy.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

/// How often a held pump looks whether it may go on.
const TICK: Duration = Duration::from_millis(20);
/// The longest that dialling the target may take.
const DIAL: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct State {
    /// Both ends of every connection that is up.
    connections: Mutex<Vec<TcpStream>>,
    refuse: AtomicBool,
    hold: AtomicBool,
    ended: AtomicBool,
    accepted: AtomicU64,
    to_target: AtomicU64,
    to_source: AtomicU64,
}

impl State {
    fn connections(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        for stream in self.connections().drain(..) {
            // One that has ended by itself is cut already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A running proxy; dropping it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and leads every connection to `target`.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening for the source")?;
        let address = listener.local_addr().context("asking for the proxy's address")?;
        let state = Arc::new(State::default());
        let serving = Arc::clone(&state);
        std::thread::Builder::new()
            .name("proxy".into())
            .spawn(move || accept(&listener, target, &serving))
            .context("starting the proxy")?;
        Ok(Self { address, state })
    }

    /// The port that the source dials, on the host.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts every connection that is up. New ones are taken.
    pub fn cut(&self) {
        self.state.cut();
    }

    /// Refuses new connections (or takes them again): they are closed as soon as they are made.
    pub fn refuse(&self, refuse: bool) {
        self.state.refuse.store(refuse, Ordering::SeqCst);
    }

    /// Holds back all bytes without closing anything, as a cable does that was pulled; or lets them go on.
    pub fn hold(&self, hold: bool) {
        self.state.hold.store(hold, Ordering::SeqCst);
    }

    /// Bytes that went to the target and to the source.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.state.to_target.load(Ordering::SeqCst), self.state.to_source.load(Ordering::SeqCst))
    }

    /// How many connections the source has made.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.state.cut();
        // The accepting thread sees the flag with its next connection: this one.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.ended.load(Ordering::SeqCst) {
            return;
        }
        match stream {
            Ok(source) if !state.refuse.load(Ordering::SeqCst) => {
                state.accepted.fetch_add(1, Ordering::SeqCst);
                if let Err(error) = join(source, target, state) {
                    eprintln!("proxy: {error:#}");
                }
            }
            Ok(_) => {}
            Err(error) => eprintln!("proxy: accepting: {error}"),
        }
    }
}

/// Dials the target and starts one pump in each direction.
fn join(source: TcpStream, target: SocketAddr, state: &Arc<State>) -> Result<()> {
    let target = TcpStream::connect_timeout(&target, DIAL).with_context(|| format!("dialling {target}"))?;
    let copy = |stream: &TcpStream| stream.try_clone().context("doubling a socket");
    for stream in [&source, &target] {
        stream.set_nodelay(true).context("setting a socket's options")?;
        state.connections().push(copy(stream)?);
    }
    let ways = [(copy(&source)?, copy(&target)?, true), (target, source, false)];
    for (from, to, to_target) in ways {
        let state = Arc::clone(state);
        std::thread::Builder::new()
            .name("pump".into())
            .spawn(move || pump(from, to, &state, to_target))
            .context("starting a pump")?;
    }
    Ok(())
}

/// Moves bytes one way until an end closes or the cable is cut; the end is passed on.
fn pump(mut from: TcpStream, mut to: TcpStream, state: &State, to_target: bool) {
    let counter = if to_target { &state.to_target } else { &state.to_source };
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = match from.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        while state.hold.load(Ordering::SeqCst) && !state.ended.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
        }
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
        counter.fetch_add(length as u64, Ordering::SeqCst);
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that sends everything back.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut back = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut stream, &mut back);
                    let _ = back.shutdown(Shutdown::Write);
                });
            }
        });
        address
    }

    fn dial(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn answer(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text)?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).map(|()| back)
    }

    #[test]
    fn bytes_cross_both_ways_and_are_counted_and_the_end_is_passed_on() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut stream = dial(&proxy);
        assert_eq!(answer(&mut stream, b"hello").unwrap(), b"hello");
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!((proxy.bytes(), proxy.accepted()), ((5, 5), 1));
    }

    #[test]
    fn a_cut_ends_what_is_up_and_lets_the_next_one_through() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut stream = dial(&proxy);
        answer(&mut stream, b"hello").unwrap();
        proxy.cut();
        assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
        assert_eq!(answer(&mut dial(&proxy), b"again").unwrap(), b"again");
    }

    #[test]
    fn refusing_and_holding_back_end_when_they_are_told_to() {
        let proxy = Proxy::start(echo()).unwrap();
        proxy.refuse(true);
        assert!(answer(&mut dial(&proxy), b"x").is_err());
        proxy.refuse(false);
        let mut stream = dial(&proxy);
        answer(&mut stream, b"1").unwrap();
        proxy.hold(true);
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(answer(&mut stream, b"2").is_err());
        proxy.hold(false);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut late = [0; 1];
        stream.read_exact(&mut late).unwrap();
        assert_eq!(&late, b"2");
    }
}
