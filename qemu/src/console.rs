//! A machine's serial console: read by condition, typed into.
//!
//! A reader thread appends what arrives to a buffer and to the log in the evidence. Waits search the raw bytes, never lines:
//! firmware and GRUB mix cursor movements into the stream. A console has a cursor, and each wait goes on behind what the wait
//! before it found, so that a text of the first boot is not taken for one of the second.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use regex::bytes::Regex;

use crate::limit::Limit;

/// Most of a console that is kept in memory; a guest that prints without end is stopped here, its log is cut off too.
const MOST_BYTES: usize = 64 << 20;
/// How much of the stream's end an error shows.
const SHOWN_BYTES: usize = 3000;

#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    /// (offset, time since power-on) of each piece that arrived.
    arrivals: Vec<(usize, Duration)>,
    closed: bool,
}

/// What the reader thread and the console share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    stream: Mutex<Stream>,
    grown: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stream> {
        // A thread that panicked while holding the lock left at worst a piece without its time.
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies `output` into the buffer and into `log` until it ends. Runs on a thread of its own.
    pub(crate) fn serve(&self, mut output: ChildStdout, mut log: std::fs::File, power_on: Instant) {
        let mut piece = [0; 16 << 10];
        loop {
            let length = match output.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    eprintln!("reading a serial console: {error}");
                    break;
                }
            };
            let mut stream = self.lock();
            if stream.bytes.len() + length > MOST_BYTES {
                continue;
            }
            if let Err(error) = log.write_all(&piece[..length]) {
                eprintln!("writing a serial log: {error}");
            }
            let offset = stream.bytes.len();
            stream.arrivals.push((offset, power_on.elapsed()));
            stream.bytes.extend_from_slice(&piece[..length]);
            self.grown.notify_all();
        }
        self.lock().closed = true;
        self.grown.notify_all();
    }
}

/// A text that was waited for.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The whole match and its groups; a group that took no part is empty.
    pub groups: Vec<String>,
    /// When its last byte arrived, counted from power-on.
    pub at: Duration,
}

impl Seen {
    /// The match (0) or one of its groups; empty when there is no such group.
    #[must_use]
    pub fn group(&self, index: usize) -> &str {
        self.groups.get(index).map_or("", String::as_str)
    }
}

/// The serial console of a running machine.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    input: ChildStdin,
    cursor: usize,
    log: PathBuf,
}

impl Console {
    pub(crate) fn new(shared: Arc<Shared>, input: ChildStdin, log: PathBuf) -> Self {
        Self { shared, input, cursor: 0, log }
    }

    /// Waits until `pattern` (a regular expression on bytes) appears behind the last text found.
    ///
    /// # Errors
    /// When the limit passes or the machine ends first; the message shows the stream's end and names the log.
    pub fn wait_for(&mut self, pattern: &str, limit: Limit) -> Result<Seen> {
        self.wait_for_one_of(&[pattern], limit).map(|(_, seen)| seen)
    }

    /// Waits for `wanted`, and fails at once when `fatal` appears first.
    ///
    /// # Errors
    /// As [`Console::wait_for`], or when `fatal` was seen.
    pub fn wait_unless(&mut self, wanted: &str, fatal: &str, limit: Limit) -> Result<Seen> {
        match self.wait_for_one_of(&[wanted, fatal], limit)? {
            (0, seen) => Ok(seen),
            (_, seen) => {
                bail!("waiting for /{wanted}/, saw {:?}; log: {}", seen.group(0), self.log.display())
            }
        }
    }

    /// Waits for the first of several patterns; returns which one, and what it matched. Where more than one is there, the
    /// one that begins earliest counts.
    ///
    /// # Errors
    /// As [`Console::wait_for`].
    pub fn wait_for_one_of(&mut self, patterns: &[&str], limit: Limit) -> Result<(usize, Seen)> {
        let compiled: Vec<Regex> = patterns
            .iter()
            .map(|pattern| Regex::new(pattern).with_context(|| format!("the pattern /{pattern}/")))
            .collect::<Result<_>>()?;
        let end = Instant::now() + limit.duration();
        let shared = Arc::clone(&self.shared);
        let mut stream = shared.lock();
        loop {
            let tail = stream.bytes.get(self.cursor..).unwrap_or_default();
            let found = compiled
                .iter()
                .enumerate()
                .filter_map(|(index, regex)| regex.captures(tail).map(|captures| (index, captures)))
                .min_by_key(|(_, captures)| captures.get(0).map_or(0, |whole| whole.start()));
            if let Some((index, captures)) = found {
                let last = self.cursor + captures.get(0).map_or(0, |whole| whole.end());
                let groups = captures
                    .iter()
                    .map(|group| {
                        group.map_or_else(String::new, |g| String::from_utf8_lossy(g.as_bytes()).into_owned())
                    })
                    .collect();
                let arrival = stream.arrivals.partition_point(|(offset, _)| *offset < last);
                let at = stream.arrivals.get(arrival.saturating_sub(1)).map_or(Duration::ZERO, |(_, at)| *at);
                self.cursor = last;
                return Ok((index, Seen { groups, at }));
            }
            let waited_for = || patterns.iter().map(|p| format!("/{p}/")).collect::<Vec<_>>().join(" or ");
            if stream.closed {
                bail!("the machine ended while waiting for {}{}", waited_for(), self.shown(&stream.bytes));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let limit = limit.duration();
                bail!("waited {limit:?} in vain for {}{}", waited_for(), self.shown(&stream.bytes));
            }
            stream = shared.grown.wait_timeout(stream, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Types `text` into the console.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.input
            .write_all(text.as_bytes())
            .and_then(|()| self.input.flush())
            .context("typing into a serial console")
    }

    /// Everything the machine has printed so far; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().bytes).into_owned()
    }

    /// Whether `pattern` has appeared anywhere so far; the cursor stays.
    ///
    /// # Errors
    /// When the pattern is no regular expression.
    pub fn has_shown(&self, pattern: &str) -> Result<bool> {
        Ok(Regex::new(pattern)
            .with_context(|| format!("the pattern /{pattern}/"))?
            .is_match(&self.shared.lock().bytes))
    }

    fn shown(&self, bytes: &[u8]) -> String {
        let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SHOWN_BYTES)..]).into_owned();
        format!("; log: {}; it ends with:\n{tail}", self.log.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;
    use std::process::Command;

    /// A console on a shell script instead of a machine.
    fn console(script: &str) -> (Process, Console, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("serial.log");
        let (shared, file) = (Arc::new(Shared::default()), std::fs::File::create(&log).unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let serving = Arc::clone(&shared);
        let power_on = Instant::now();
        let null = std::fs::File::create("/dev/null").unwrap();
        let mut process =
            Process::spawn("sh", &command, null, move |output| serving.serve(output, file, power_on))
                .unwrap();
        let input = process.take_input().unwrap();
        (process, Console::new(shared, input, log), directory)
    }

    #[test]
    fn waits_go_forward_and_return_groups() {
        let (_process, mut console, _dir) = console("echo 'login: a=1'; echo 'login: a=2'; exec sleep 100");
        for value in ["1", "2"] {
            assert_eq!(console.wait_for(r"login: a=(\d)", Limit::quiet(5)).unwrap().group(1), value);
        }
        let error = console.wait_for("login", Limit::quiet(0)).unwrap_err().to_string();
        assert!(error.contains("in vain") && error.contains("a=2"), "{error}");
    }

    #[test]
    fn a_fatal_text_that_comes_first_ends_the_wait() {
        let (_process, mut console, dir) = console("echo 'Kernel panic'; echo login:; exec sleep 100");
        let error = console.wait_unless("login:", "panic|oops", Limit::quiet(5)).unwrap_err().to_string();
        assert!(error.contains("panic"), "{error}");
        assert!(std::fs::read_to_string(dir.path().join("serial.log")).unwrap().contains("Kernel panic"));
    }

    #[test]
    fn a_machine_that_ends_is_not_waited_for() {
        let (_process, mut console, _dir) = console("echo started");
        let error = console.wait_for("login:", Limit::quiet(1000)).unwrap_err().to_string();
        assert!(error.contains("ended while waiting") && error.contains("started"), "{error}");
    }

    #[test]
    fn what_is_typed_arrives() {
        let (_process, mut console, _dir) = console("read line; echo \"got $line\"; exec sleep 100");
        console.type_text("hello\n").unwrap();
        console.wait_for("got hello", Limit::quiet(5)).unwrap();
    }
}
