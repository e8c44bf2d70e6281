//! QEMU's machine protocol (JSON lines on a Unix socket), as much of it as is needed.
//!
//! <https://www.qemu.org/docs/master/interop/qmp-spec.html>

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The longest that QEMU may take to answer; it answers from its main loop, which a busy host can hold up.
const ANSWER: Duration = Duration::from_secs(60);
/// The longest line that is taken; answers used here have some hundred bytes.
const MOST_LINE: usize = 1 << 20;
/// Events that may come between a command and its answer.
const MOST_EVENTS: usize = 10_000;

/// A connection to one QEMU's monitor.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects, waiting until QEMU listens, and leaves the negotiation mode.
    ///
    /// # Errors
    /// When nothing listens at `socket` in time or it does not speak QMP.
    pub fn connect(socket: &Path) -> Result<Self> {
        let end = Instant::now() + ANSWER;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= end => {
                    return Err(error).with_context(|| format!("connecting to QEMU at {}", socket.display()));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(ANSWER)).context("setting a time limit for QEMU's answers")?;
        stream.set_write_timeout(Some(ANSWER)).context("setting a time limit for QEMU's answers")?;
        let mut qmp = Self { reader: BufReader::new(stream) };
        let greeting = qmp.line().context("reading QEMU's greeting")?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU's monitor greets with {greeting}");
        }
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and returns its result; events on the way are skipped.
    ///
    /// # Errors
    /// When QEMU answers with an error, or not in time.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.reader
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())
            .with_context(|| format!("sending {command} to QEMU"))?;
        for _ in 0..MOST_EVENTS {
            let mut answer =
                self.line().with_context(|| format!("waiting for QEMU's answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command} {arguments}: {error}");
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
        bail!("QEMU sent {MOST_EVENTS} events and no answer to {command}")
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        loop {
            let piece = self.reader.fill_buf().context("reading from QEMU's monitor")?;
            if piece.is_empty() {
                bail!("QEMU closed its monitor");
            }
            let end = piece.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(piece.len(), |at| at + 1);
            line.extend_from_slice(&piece[..taken]);
            self.reader.consume(taken);
            if line.len() > MOST_LINE {
                bail!("QEMU's monitor sent a line of more than {MOST_LINE} bytes");
            }
            if end.is_some() {
                return serde_json::from_slice(&line).context("QEMU's monitor sent no JSON");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A monitor that greets, then answers each request with the next of `answers`.
    fn monitor(answers: &'static [&'static str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            let mut requests = BufReader::new(stream.try_clone().unwrap());
            for answer in answers {
                requests.read_line(&mut String::new()).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        (directory, path)
    }

    #[test]
    fn events_are_skipped_and_results_returned() {
        let (_dir, path) = monitor(&[
            "{\"return\": {}}\n",
            "{\"event\": \"RESET\"}\n{\"return\": {\"status\": \"running\"}}\n",
        ]);
        let mut qmp = Qmp::connect(&path).unwrap();
        assert_eq!(qmp.execute("query-status", &json!({})).unwrap()["status"], "running");
    }

    #[test]
    fn refusals_and_closed_monitors_are_errors_that_say_so() {
        let (_dir, path) = monitor(&["{\"return\": {}}\n", "{\"error\": {\"desc\": \"no such device\"}}\n"]);
        let mut qmp = Qmp::connect(&path).unwrap();
        assert!(qmp.execute("eject", &json!({})).unwrap_err().to_string().contains("no such device"));
        let error = format!("{:#}", qmp.execute("stop", &json!({})).unwrap_err());
        assert!(error.contains("closed") || error.contains("sending stop"), "{error}");
    }
}
