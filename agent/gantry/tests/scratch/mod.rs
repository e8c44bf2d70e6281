//! Images to work on, and the command as others run it.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each file uses its share")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const MIB: usize = 1 << 20;

pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    /// Data that compress badly, with a run of zeroes.
    pub fn source(&self, size: usize, seed: u64) -> PathBuf {
        println!("seed {seed}");
        let mut state = seed | 1;
        let mut bytes = vec![0; size];
        for chunk in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
        bytes[size / 2..size / 2 + size / 8].fill(0);
        fs::write(self.path("source"), bytes).unwrap();
        self.path("source")
    }
    /// An old disk: a partition table with a filesystem in it, made by others' tools.
    pub fn old_disk(&self, size: usize) -> PathBuf {
        let path = self.path("target");
        fs::write(&path, vec![0; size]).unwrap();
        let table =
            Command::new("sgdisk").args(["-n", "1:2048:0", "-c", "1:payroll"]).arg(&path).output().unwrap();
        assert!(table.status.success(), "sgdisk: {table:?}");
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-t", "ext4", "-L", "salaries", "-E", "offset=1048576"]);
        let blocks = format!("{}k", (size - 3 * MIB) / 1024);
        let made = mke2fs.arg(&path).arg(blocks).output().unwrap();
        assert!(made.status.success(), "mke2fs: {made:?}");
        path
    }
}

pub fn gantry(arguments: &[&str], paths: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gantry")).args(arguments).args(paths).output().unwrap()
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub fn same(a: &Path, b: &Path) -> bool {
    fs::read(a).unwrap() == fs::read(b).unwrap()
}

/// A process whose lines are read, killed -9 when dropped.
pub struct Running {
    pub child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    pub fn start(arguments: &[&str], paths: &[&Path]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
        command.args(arguments).args(paths);
        Self::spawn(command)
    }
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (say, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { child, lines }
    }
    pub fn wait_for(&self, part: &str) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }
    /// The next line that is there already.
    pub fn line(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }
    /// The next of its `--json` events; none when it has ended.
    pub fn event(&self) -> Option<Value> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        match self.lines.recv_timeout(Duration::from_secs(60)) {
            Ok(line) => Some(serde_json::from_str(&line).unwrap()),
            Err(Disconnected) => None,
            Err(Timeout) => panic!("it says nothing"),
        }
    }
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
    /// Whether it has ended by itself; it must have ended well.
    pub fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait().unwrap();
        assert!(status.is_none_or(|status| status.success()), "{status:?}");
        status.is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// nbdkit on a socket in the scratch folder; killed when dropped.
pub struct Nbdkit(Child, PathBuf);

impl Nbdkit {
    pub fn start(scratch: &Scratch, arguments: &[&str]) -> Self {
        let socket = scratch.path("nbdkit.sock");
        // Left by an earlier one.
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("nbdkit");
        command.arg("--foreground").arg("--unix").arg(&socket).args(arguments).stdout(Stdio::null());
        let mut kit = Self(command.spawn().unwrap(), socket);
        let end = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(&kit.1).is_err() {
            assert!(kit.0.try_wait().unwrap().is_none() && Instant::now() < end, "nbdkit {arguments:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        kit
    }
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.1.display())
    }
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
