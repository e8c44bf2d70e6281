//! A read-only export of disk ends, for browsing and copying with other people's tools.
//!
//! A thread a client, [`MOST`] clients. Clients are not trusted: their words have limits in length and time, a reply is made in
//! pieces so that no request takes more memory than one of them, and whoever says nothing gives way when the house is full.
//! There is no TLS: where to listen is the caller's decision.

mod greeting;
mod house;
mod session;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::stat::{Mode, umask};

use self::house::House;
use super::wire::{Socket, Timed, keep_alive};
use crate::end::ReadAt;

/// Clients at a time.
pub const MOST: usize = 64;

/// What is exported: names, and the ends behind them. An empty name is the default export.
#[derive(Clone)]
pub struct Exports(Arc<Vec<(String, Arc<dyn ReadAt>)>>);

impl Exports {
    /// Each end under its name; a single one is the default export too.
    pub fn new(named: Vec<(String, Arc<dyn ReadAt>)>) -> Self {
        Self(Arc::new(named))
    }

    /// The names, for LIST.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    fn find(&self, name: &str) -> Option<&Arc<dyn ReadAt>> {
        match &self.0[..] {
            [(_, only)] if name.is_empty() => Some(only),
            all => all.iter().find(|(known, _)| known == name).map(|(_, end)| end),
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A server that listens.
pub struct Server {
    listener: Listener,
    exports: Exports,
}

impl Server {
    /// Listens on an address; port 0 is any.
    pub fn on_tcp(address: SocketAddr, exports: Exports) -> io::Result<Self> {
        Ok(Self { listener: Listener::Tcp(TcpListener::bind(address)?), exports })
    }

    /// Listens on a Unix socket that only this user can use. A socket that nobody listens on any more is replaced. Changes the
    /// process's umask for a moment.
    pub fn on_unix(path: &Path, exports: Exports) -> io::Result<Self> {
        let stale = path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_socket())
            && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
        if stale {
            std::fs::remove_file(path)?;
        }
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        Ok(Self { listener: Listener::Unix(bound?), exports })
    }

    /// The NBD URI of the default export.
    pub fn uri(&self) -> io::Result<String> {
        Ok(match &self.listener {
            Listener::Tcp(tcp) => format!("nbd://{}", tcp.local_addr()?),
            Listener::Unix(unix) => {
                let address = unix.local_addr()?;
                let path = address.as_pathname().map(Path::to_path_buf).unwrap_or_else(PathBuf::new);
                format!("nbd+unix:///?socket={}", path.display())
            }
        })
    }

    /// Serves clients. `tell` hears what an operator should know: reads that fail. Ends only when nobody can be accepted.
    pub fn run(self, tell: impl Fn(&str) + Send + Sync + 'static) -> io::Result<()> {
        let house = Arc::new(House::new(MOST));
        let tell = Arc::new(tell);
        loop {
            let socket = match &self.listener {
                Listener::Tcp(tcp) => {
                    tcp.accept().and_then(|(tcp, _)| keep_alive(&tcp).map(|()| Socket::Tcp(tcp)))
                }
                Listener::Unix(unix) => unix.accept().map(|(unix, _)| Socket::Unix(unix)),
            };
            let socket = match socket {
                Ok(socket) => socket,
                Err(error) if passes(&error) => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    continue;
                }
                Err(error) => return Err(error),
            };
            // Nobody gives way: the newcomer is sent off by closing its connection.
            let Some(seat) = socket.handle().ok().and_then(|handle| house.enter(handle)) else { continue };
            let (exports, tell) = (self.exports.clone(), Arc::clone(&tell));
            let serve = move || {
                // A client that goes away or breaks the protocol is its own affair.
                let _ = session::serve(Timed::new(socket), &exports, &seat, &*tell);
            };
            // Without memory for a thread this client has to come again.
            drop(std::thread::Builder::new().name("nbd client".to_owned()).spawn(serve));
        }
    }
}

/// Errors of accept that say something about one client, or about a shortage that ends.
fn passes(error: &io::Error) -> bool {
    let listener_is_broken = [libc::EBADF, libc::EINVAL, libc::ENOTSOCK, libc::EOPNOTSUPP, libc::EFAULT];
    !error.raw_os_error().is_some_and(|code| listener_is_broken.contains(&code))
}
