//! The consoles: every line of the appliance goes to all of them and to a log.
//!
//! A machine may have a screen, serial lines and a hypervisor console, and nobody knows which one is watched. Each gets a
//! thread of its own with a bounded queue, because a serial line without a listener may block for ever when flow control
//! is on: then that console loses lines, and nothing else waits for it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines a console may lag behind before it loses some.
const QUEUE: usize = 512;
/// The log is memory; beyond this many bytes only the consoles get what is said.
const LOG_LIMIT: usize = 16 << 20;

struct Sink {
    queue: SyncSender<String>,
    unwritten: Arc<AtomicUsize>,
}

struct Log {
    file: Option<File>,
    written: usize,
}

/// All consoles. Cloned freely; clones write to the same places.
#[derive(Clone)]
pub struct Console {
    sinks: Arc<Vec<Sink>>,
    log: Arc<Mutex<Log>>,
    terminals: Arc<Vec<PathBuf>>,
}

impl Console {
    /// Opens the terminals that can be opened; those that cannot are left out, for there is nowhere to complain.
    pub fn open(terminals: Vec<PathBuf>, log: &Path) -> Console {
        let opened: Vec<(PathBuf, File)> =
            terminals.into_iter().filter_map(|path| terminal(&path).ok().map(|file| (path, file))).collect();
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log).ok();
        let log = Log { file: log, written: 0 };
        let terminals = opened.iter().map(|(path, _)| path.clone()).collect();
        let sinks = opened.into_iter().map(|(_, file)| sink(file)).collect();
        Console { sinks: Arc::new(sinks), log: Arc::new(Mutex::new(log)), terminals: Arc::new(terminals) }
    }

    /// The terminals that are written to.
    pub fn terminals(&self) -> &[PathBuf] {
        &self.terminals
    }

    /// Shows one line (or several) everywhere.
    pub fn say(&self, line: &str) {
        let text = printable(line);
        self.remember(&text);
        for sink in self.sinks.iter() {
            sink.unwritten.fetch_add(1, Ordering::SeqCst);
            match sink.queue.try_send(text.clone()) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                    sink.unwritten.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
    }

    /// Waits until all is written, at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while Instant::now() < end && self.sinks.iter().any(|sink| sink.unwritten.load(Ordering::SeqCst) > 0)
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn remember(&self, text: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.written + text.len() < LOG_LIMIT
            && let Some(file) = &mut log.file
        {
            // A full log must not stop the console.
            if writeln!(file, "{text}").is_ok() {
                log.written += text.len() + 1;
            }
        }
    }
}

/// Opens a terminal for writing and reading, without becoming its session's leader.
pub fn terminal(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NOCTTY).open(path)
}

fn sink(mut file: File) -> Sink {
    let (queue, lines) = sync_channel::<String>(QUEUE);
    let unwritten = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&unwritten);
    std::thread::spawn(move || {
        for line in lines {
            // A console that cannot be written has nobody who could be told.
            let _ = file.write_all(line.as_bytes()).and_then(|()| file.write_all(b"\n"));
            counter.fetch_sub(1, Ordering::SeqCst);
        }
    });
    Sink { queue, unwritten }
}

/// Control characters of a child, a disk or a peer must not drive somebody's terminal.
fn printable(text: &str) -> String {
    text.trim_end()
        .chars()
        .map(|letter| if letter.is_control() && letter != '\n' && letter != '\t' { '?' } else { letter })
        .collect()
}

/// Which terminals to use: those named, else every console the kernel registered and the first screen.
///
/// `active` is `/sys/class/tty/console/active`. `tty0` is whichever screen is in front; it is `tty1` here, and writing to
/// both would show every line twice.
pub fn choose(active: &str, named: &[String]) -> Vec<PathBuf> {
    let mut names: Vec<&str> =
        if named.is_empty() { active.split_whitespace().collect() } else { Vec::new() };
    names.extend(named.iter().map(|name| name.strip_prefix("/dev/").unwrap_or(name)));
    let mut paths: Vec<PathBuf> = Vec::new();
    for name in names.into_iter().chain(["tty1"]) {
        let name = if name == "tty0" { "tty1" } else { name };
        // A name is one component, whatever somebody typed.
        let path = Path::new("/dev").join(name);
        if !name.contains('/') && !name.is_empty() && !paths.contains(&path) {
            paths.push(path);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_chosen_once_each() {
        let paths =
            |names: &[&str]| names.iter().map(|name| Path::new("/dev").join(name)).collect::<Vec<_>>();
        for (active, named, expected) in [
            ("tty0 ttyS0\n", &[][..], paths(&["tty1", "ttyS0"])),
            ("ttyS0\n", &[][..], paths(&["ttyS0", "tty1"])),
            ("", &[][..], paths(&["tty1"])),
            ("ttyS0", &["/dev/hvc0", "tty0"][..], paths(&["hvc0", "tty1"])),
            ("ttyS0", &["../etc/passwd"][..], paths(&["tty1"])),
        ] {
            let named: Vec<String> = named.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(choose(active, &named), expected, "{active:?} {named:?}");
        }
    }

    #[test]
    fn what_is_said_reaches_all_places_and_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let places: Vec<PathBuf> = ["a", "b"].iter().map(|name| directory.path().join(name)).collect();
        for place in &places {
            std::fs::write(place, "").unwrap();
        }
        let mut terminals = places.clone();
        terminals.push(directory.path().join("missing"));
        let console = Console::open(terminals, &directory.path().join("log"));
        console.say("gantry: one\u{1b}[2J");
        console.say("two");
        console.flush(Duration::from_secs(10));
        assert_eq!(console.terminals(), places);
        for place in places.iter().chain([&directory.path().join("log")]) {
            assert_eq!(std::fs::read_to_string(place).unwrap(), "gantry: one?[2J\ntwo\n", "{place:?}");
        }
    }
}
