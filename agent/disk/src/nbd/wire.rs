//! A byte stream to the other side on which every wait ends at a deadline.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use rustls::{ClientConnection, StreamOwned};

use super::address::Place;

/// Limit for dialling and shaking hands.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(20);
/// An idle connection is probed after this many seconds, and then as often as [`PROBES`] says.
const IDLE: u32 = 30;
const PROBE_EVERY: u32 = 10;
const PROBES: u32 = 3;

/// A socket whose reads and writes fail with `TimedOut` at the deadline, however the other side drips.
#[derive(Debug)]
pub(super) struct Timed {
    socket: Socket,
    deadline: Instant,
}

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// A second handle to the same connection.
    pub(super) fn handle(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(tcp) => Self::Tcp(tcp.try_clone()?),
            Self::Unix(unix) => Self::Unix(unix.try_clone()?),
        })
    }

    /// Ends the connection for all its handles.
    pub(super) fn hang_up(&self) {
        // It fails only for a connection that has ended already.
        let _ = match self {
            Self::Tcp(tcp) => tcp.shutdown(Shutdown::Both),
            Self::Unix(unix) => unix.shutdown(Shutdown::Both),
        };
    }
}

impl Timed {
    /// A connection that was accepted; the first deadline is [`HANDSHAKE`].
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, deadline: Instant::now() + HANDSHAKE }
    }

    /// Dials within [`HANDSHAKE`], which is the first deadline.
    pub(super) fn dial(place: &Place) -> io::Result<Self> {
        let deadline = Instant::now() + HANDSHAKE;
        let socket = match place {
            Place::Tcp(host, port) => Socket::Tcp(dial_tcp(host, *port, deadline)?),
            Place::Unix(path) => Socket::Unix(dial_unix(path)?),
        };
        Ok(Self { socket, deadline })
    }

    /// From now on everything must be over in this time.
    pub(super) fn limit(&mut self, time: Duration) {
        self.deadline = Instant::now() + time;
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(silent()) } else { Ok(left) }
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// The kernel reports a timed-out socket as "would block".
fn plain(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { silent() } else { error }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = Some(self.left()?);
        match &mut self.socket {
            Socket::Tcp(tcp) => tcp.set_read_timeout(left).and_then(|()| tcp.read(buffer)),
            Socket::Unix(unix) => unix.set_read_timeout(left).and_then(|()| unix.read(buffer)),
        }
        .map_err(plain)
    }
}

impl Write for Timed {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let left = Some(self.left()?);
        match &mut self.socket {
            Socket::Tcp(tcp) => tcp.set_write_timeout(left).and_then(|()| tcp.write(data)),
            Socket::Unix(unix) => unix.set_write_timeout(left).and_then(|()| unix.write(data)),
        }
        .map_err(plain)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names are looked up by the C library, as `gantry send` does; it has limits of its own.
fn dial_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(silent());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(tcp) => return keep_alive(&tcp).map(|()| tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A host that is gone is noticed in a minute, idle or not; a host whose disk is slow is not mistaken for one.
pub(super) fn keep_alive(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &IDLE)?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &PROBE_EVERY)?;
    setsockopt(tcp, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(tcp, sockopt::TcpUserTimeout, &((IDLE + PROBE_EVERY * PROBES) * 1000))?;
    Ok(())
}

/// The standard library's connect waits for ever on a server that does not accept; with a send timeout set it does not.
fn dial_unix(path: &Path) -> io::Result<UnixStream> {
    let unix = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&unix, sockopt::SendTimeout, &TimeVal::new(HANDSHAKE.as_secs() as _, 0))?;
    connect(unix.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(unix))
}

/// The stream of a client: plain, or inside TLS.
#[derive(Debug)]
pub(super) enum Wire {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

impl Wire {
    /// From now on everything must be over in this time.
    pub(super) fn limit(&mut self, time: Duration) {
        match self {
            Self::Plain(timed) => timed.limit(time),
            Self::Tls(tls) => tls.sock.limit(time),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(timed) => timed.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(timed) => timed.write(data),
            Self::Tls(tls) => tls.write(data),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(timed) => timed.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_drips_or_takes_nothing_meets_the_deadline() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut timed = Timed::new(Socket::Unix(ours));
        timed.limit(Duration::from_millis(300));
        std::thread::scope(|scope| {
            // Ends when our end is gone, or has all it could want.
            scope.spawn(move || {
                while theirs.write_all(&[1]).is_ok() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            let error = timed.read_exact(&mut [0; 100_000]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            timed.limit(Duration::from_millis(300));
            let error = timed.write_all(&vec![0; 64 << 20]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            timed.limit(Duration::from_secs(60));
            timed.read_exact(&mut [0; 3]).unwrap();
            drop(timed);
        });
    }
}
