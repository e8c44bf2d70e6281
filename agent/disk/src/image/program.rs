//! `qemu-img` and `qemu-nbd`, run confined, with limits.

use std::fs::OpenOptions;
use std::io::{ErrorKind as IoKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::confine::{Use, confine};
use super::{ImageName, refused};
use crate::error::{DiskError, ErrorKind, Result};
use crate::nbd::{Address, NbdDisk};

/// Limit for `qemu-img`, which reads or writes only what describes an image, and for `qemu-nbd` until it listens.
const PATIENCE: Duration = Duration::from_secs(60);
/// Limit for closing an image: everything that counts was flushed before.
const CLOSING: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);
/// What is kept of a program's output: an image with very many snapshots has a long description.
const LONGEST_OUTPUT: usize = 16 << 20;
/// What is shown of it in an error, from its end.
const SHOWN: usize = 500;
/// Clients of one `qemu-nbd`: more than an end makes connections.
const CLIENTS: &str = "--shared=16";

fn command(name: &ImageName, program: &str, paths: &[(&Path, Use)]) -> Result<Command> {
    let mut command = Command::new(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env_clear().env("PATH", path).env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    confine(&mut command, paths)
        .map_err(|error| DiskError::io(name.to_string(), format!("confining {program}"), error))?;
    Ok(command)
}

fn spawn(name: &ImageName, command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|error| {
        let program = command.get_program().to_string_lossy();
        let mut what = format!("starting {program}");
        if error.kind() == IoKind::NotFound {
            what =
                format!("{what}: not installed (package qemu-utils on Debian, qemu-img on Fedora and RHEL)");
        }
        DiskError::io(name.to_string(), what, error)
    })
}

/// What a program has said so far.
type Said = Arc<Mutex<Vec<u8>>>;

/// Reads a stream to its end, on a thread of its own, so that the program never waits for us.
fn drain(mut stream: impl Read + Send + 'static) -> (Said, JoinHandle<()>) {
    let said = Said::default();
    let sink = Arc::clone(&said);
    let thread = std::thread::spawn(move || {
        let mut piece = [0; 4096];
        // An error is an end as well: the program is gone.
        while let Ok(count @ 1..) = stream.read(&mut piece) {
            let mut said = sink.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() < LONGEST_OUTPUT {
                said.extend(&piece[..count]);
            }
        }
    });
    (said, thread)
}

fn text(said: &Mutex<Vec<u8>>) -> String {
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    let end = &said[said.len().saturating_sub(SHOWN)..];
    String::from_utf8_lossy(end).trim().replace(|c: char| c.is_control(), " ")
}

/// Runs `qemu-img` to its end; its standard output.
fn run(name: &ImageName, mut command: Command) -> Result<Vec<u8>> {
    let mut child = spawn(name, command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let output = child.stdout.take().map(drain);
    let errors = child.stderr.take().map(drain);
    let end = Instant::now() + PATIENCE;
    let failed = |why: String| Err(refused(name, &why));
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => std::thread::sleep(POLL),
            Ok(None) => {
                stop(&mut child);
                return failed(format!("qemu-img does not end within {} seconds", PATIENCE.as_secs()));
            }
            Err(error) => return Err(DiskError::io(name.to_string(), "waiting for qemu-img", error)),
        }
    };
    let all = |stream: Option<(Said, JoinHandle<()>)>| {
        let (said, thread) = stream.unwrap_or_else(|| drain(std::io::empty()));
        // It ended with the program; a panic would have been told.
        let _ = thread.join();
        said
    };
    let (output, errors) = (all(output), all(errors));
    if !status.success() {
        return failed(format!("qemu-img: {}", text(&errors)));
    }
    Ok(std::mem::take(&mut *output.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn stop(child: &mut Child) {
    // Both fail only for a child that is gone.
    let _ = child.kill();
    let _ = child.wait();
}

/// Makes an image in an existing, empty file.
pub(super) fn create(name: &ImageName, path: &Path, size: u64) -> Result<()> {
    let mut create = command(name, "qemu-img", &[(path, Use::Write)])?;
    create.args(["create", "-q", "-f", name.format.name(), "--"]).arg(path).arg(size.to_string());
    run(name, create).map(drop)
}

/// Asks qemu about the image, and refuses one that needs other files (law 12).
pub(super) fn info(name: &ImageName, path: &Path) -> Result<()> {
    let mut ask = command(name, "qemu-img", &[(path, Use::Read)])?;
    ask.args(["info", "--output=json", "-f", name.format.name(), "--"]).arg(path);
    let output = run(name, ask)?;
    let told: Value = serde_json::from_slice(&output).map_err(|error| {
        refused(name, &format!("qemu-img describes it in a way that is not understood: {error}"))
    })?;
    match foreign(&told, &path.to_string_lossy(), name.format.name()) {
        Some(why) => Err(refused(name, why)),
        None => Ok(()),
    }
}

/// Why qemu's description of the image at `path` speaks of other files.
fn foreign(told: &Value, path: &str, format: &str) -> Option<&'static str> {
    let data = &told["format-specific"]["data"];
    let extents = data["extents"].as_array().map(Vec::as_slice).unwrap_or_default();
    if told["format"] != format {
        return Some("qemu-img takes it for another format");
    }
    if ["backing-filename", "full-backing-filename"].iter().any(|key| told.get(key).is_some()) {
        return Some("it has a backing file");
    }
    if data.get("data-file").is_some() || extents.iter().any(|extent| extent["filename"] != path) {
        return Some("its data are in other files");
    }
    (told["encrypted"] == true).then_some("it is encrypted")
}

/// A running `qemu-nbd`, killed when dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Mutex<Child>,
    said: Option<Said>,
    folder: TempDir,
}

impl Server {
    /// Starts it on a socket in a folder that only we can enter.
    ///
    /// * The host's cache is passed by where its filesystem can do that, so that what is read back is the medium; a flush
    ///   reaches the medium either way.
    /// * `--discard=unmap`: zeroes free the space under them; qemu marks it as reading zero before.
    /// * Zeroes are not searched for: replication has done that.
    pub(super) fn start(name: &ImageName, path: &Path, writable: bool) -> Result<Self> {
        let io = |error| DiskError::io(name.to_string(), "making a place for qemu-nbd's socket", error);
        let folder = tempfile::Builder::new().prefix("gantry-").tempdir().map_err(io)?;
        let own = if writable { Use::Write } else { Use::Read };
        let mut serve = command(name, "qemu-nbd", &[(path, own), (folder.path(), Use::Socket)])?;
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).is_ok();
        serve
            .arg(format!("--format={}", name.format.name()))
            .arg("--socket")
            .arg(folder.path().join("socket"));
        serve.args(["--persistent", CLIENTS, "--discard=unmap", "--detect-zeroes=off"]);
        serve.arg(if direct { "--cache=none" } else { "--cache=writeback" });
        if !writable {
            serve.arg("--read-only");
        }
        serve.arg("--").arg(path).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawn(name, &mut serve)?;
        let said = child.stderr.take().map(|stream| drain(stream).0);
        Ok(Self { child: Mutex::new(child), said, folder })
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok().flatten()
    }

    /// Connects as soon as it listens.
    pub(super) fn connect(&self, name: &ImageName, writable: bool) -> Result<NbdDisk> {
        let address = Address::of_socket(self.folder.path().join("socket"), &name.to_string());
        let open = if writable { NbdDisk::open_target } else { NbdDisk::open_source };
        let end = Instant::now() + PATIENCE;
        loop {
            match open(&address) {
                Err(error) if error.kind == ErrorKind::Io => {
                    if self.ended().is_some() || Instant::now() >= end {
                        return Err(self.explain(error));
                    }
                    std::thread::sleep(POLL);
                }
                outcome => return outcome,
            }
        }
    }

    /// Adds what the server said, and that it has ended, to an error on its connection.
    pub(super) fn explain(&self, mut error: DiskError) -> DiskError {
        let said = self.said.as_deref().map(text).unwrap_or_default();
        if let Some(status) = self.ended() {
            error.operation = format!("{}: qemu-nbd has ended ({status}): {said}", error.operation);
        } else if !said.is_empty() {
            error.operation = format!("{}: qemu-nbd: {said}", error.operation);
        }
        error
    }
}

impl Drop for Server {
    /// Asked to end, it closes the image in order (a VHDX keeps a log that would have to be replayed); then it is killed.
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let (Ok(None), Ok(id)) = (child.try_wait(), i32::try_from(child.id())) {
            // Our own child, not yet waited for: the number is still its.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let end = Instant::now() + CLOSING;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(POLL);
        }
        stop(child);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::foreign;

    #[test]
    fn other_files_in_qemus_description_are_found() {
        let extent = |name: &str| json!({ "filename": name, "format": "" });
        let own = json!({ "format": "vmdk", "format-specific": { "data": { "extents": [extent("/a")] } } });
        assert_eq!(foreign(&own, "/a", "vmdk"), None);
        let lies = [
            json!({ "format": "raw" }),
            json!({}),
            json!({ "format": "vmdk", "backing-filename": "b" }),
            json!({ "format": "vmdk", "format-specific": { "data": { "extents": [extent("/a"), extent("/b")] } } }),
            json!({ "format": "vmdk", "format-specific": { "data": { "data-file": "b" } } }),
            json!({ "format": "vmdk", "encrypted": true }),
        ];
        for lie in lies {
            assert!(foreign(&lie, "/a", "vmdk").is_some(), "{lie}");
        }
    }
}
