//! What is said on the socket: a line of JSON each way, and then the connection is closed.
//!
//! ```text
//! {"request":"status"}                             {"answer":"now","pid":1234,"role":"send","state":"running",...}
//! {"request":"limit","read":false,"limit":"20M"}   {"answer":"refused","why":"..."}
//! ```

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::status::Status;

/// Bytes of a request.
const REQUEST: u64 = 4 << 10;
/// Bytes of an answer: 64 disks with long names are far less.
const ANSWER: u64 = 1 << 20;
/// A connection lasts no longer, however slowly it is written to or read from.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a replication is asked or told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How it is.
    Status {},
    /// Stop reading and sending.
    Pause {},
    /// Go on.
    Resume {},
    /// Another limit: of reading, or of the wire.
    Limit {
        /// The limit of reading.
        read: bool,
        /// A rate, a schedule or "none".
        limit: String,
    },
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It is so, after what was asked has been done.
    Now(Box<Status>),
    /// It was not done.
    Refused {
        /// In words.
        why: String,
    },
}

/// A connection that has an end in time.
struct Hurried<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl<'a> Hurried<'a> {
    fn new(stream: &'a UnixStream) -> Self {
        Self { stream, end: Instant::now() + PATIENCE }
    }

    /// How long the next read or write may take; a time of zero would be none.
    fn left(&self) -> std::io::Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Hurried<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Hurried<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// Reads a line of at most `limit` bytes.
fn line(from: impl Read, limit: u64) -> Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(from)
        .take(limit)
        .read_until(b'\n', &mut line)
        .context("reading from the control socket")?;
    match line.last() {
        None => bail!("the other end has hung up"),
        Some(b'\n') => Ok(line),
        Some(_) => bail!("a line without an end, or of more than {limit} bytes"),
    }
}

fn put(mut to: impl Write, what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what).context("writing to the control socket")?;
    line.push(b'\n');
    to.write_all(&line).context("writing to the control socket")
}

/// Answers a request.
pub fn serve(stream: &UnixStream, answer: impl FnOnce(Request) -> Answer) -> Result<()> {
    let mut stream = Hurried::new(stream);
    let answer = match serde_json::from_slice(&line(&mut stream, REQUEST)?) {
        Ok(request) => answer(request),
        Err(error) => Answer::Refused { why: format!("not understood: {error}") },
    };
    put(&mut stream, &answer)
}

/// Asks the replication behind a socket; nothing if there is none.
///
/// # Errors
/// When there is one, and it does not answer.
pub fn ask(socket: &Path, request: &Request) -> Result<Option<Answer>> {
    let name = || format!("asking {}", socket.display());
    let stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(error).with_context(name),
    };
    let mut stream = Hurried::new(&stream);
    put(&mut stream, request).with_context(name)?;
    let line = line(&mut stream, ANSWER).with_context(name)?;
    serde_json::from_slice(&line).with_context(name).map(Some)
}

/// Whether a socket that could not be connected to has nobody behind it.
pub fn is_nobody(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
}
