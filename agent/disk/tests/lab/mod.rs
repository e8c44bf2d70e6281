//! Servers written by others, on sockets of their own, and random work for them.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each file uses its share")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gantry_disk::nbd::Address;

pub const MIB: u64 = 1 << 20;

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a tool that must succeed.
pub fn good(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed (scripts/setup): {error}"));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// A running server, killed when dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// A server that makes `socket` when it listens.
    pub fn start(command: &mut Command, socket: &Path) -> Self {
        // Left by one that was killed.
        let _ = std::fs::remove_file(socket);
        let child = command.stdout(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?} is needed (scripts/setup): {error}"));
        let mut server = Self { child, socket: socket.to_owned() };
        until("the server listens", || {
            assert!(server.child.try_wait().unwrap().is_none(), "it ends at once: {command:?}");
            std::os::unix::net::UnixStream::connect(socket).is_ok()
        });
        server
    }

    /// nbdkit in the foreground on `folder/socket`.
    pub fn nbdkit(folder: &Path, arguments: &[&str]) -> Self {
        let socket = folder.join("socket");
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--unix"]).arg(&socket).args(arguments);
        Self::start(&mut command, &socket)
    }

    /// Its default export.
    pub fn address(&self) -> Address {
        self.uri("nbd+unix", "").parse().unwrap()
    }

    pub fn uri(&self, scheme: &str, more: &str) -> String {
        format!("{scheme}:///?socket={}{more}", self.socket.display())
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// xorshift64.
pub struct Random(pub u64);

impl Random {
    /// Seeded by GANTRY_SEED, else by the process; prints it.
    pub fn new() -> Self {
        let given = std::env::var("GANTRY_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| (u64::from(std::process::id()) * 7919) | 1);
        println!("seed {seed}");
        Self(seed)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length as usize).collect()
    }
}
