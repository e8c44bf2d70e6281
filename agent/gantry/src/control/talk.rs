//! What is said on the socket: a line of JSON each way.
//!
//! ```text
//! {"request":"status"}                             {"answer":"now","pid":1234,"role":"send","state":"running",...}
//! {"request":"limit","read":false,"limit":"20M"}   {"answer":"refused","why":"..."}
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::status::Status;

/// Bytes of a request.
const REQUEST: u64 = 4 << 10;
/// Bytes of an answer: 64 disks with long names are far less.
const ANSWER: u64 = 1 << 20;
/// Who says or takes nothing for so long is hung up on.
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

/// Reads a line of at most `limit` bytes; nothing at the end.
fn line(from: &mut impl BufRead, limit: u64) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    from.take(limit).read_until(b'\n', &mut line).context("reading from the control socket")?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => bail!("a line without an end, or of more than {limit} bytes"),
    }
}

fn put(to: &mut impl Write, what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what).context("writing to the control socket")?;
    line.push(b'\n');
    to.write_all(&line).context("writing to the control socket")
}

/// Answers requests until the other end has no more.
pub fn serve(stream: &UnixStream, answer: impl Fn(Request) -> Answer) -> Result<()> {
    patient(stream)?;
    let mut reader = BufReader::new(stream);
    while let Some(line) = line(&mut reader, REQUEST)? {
        let answer = match serde_json::from_slice(&line) {
            Ok(request) => answer(request),
            Err(error) => Answer::Refused { why: format!("not understood: {error}") },
        };
        put(&mut &*stream, &answer)?;
    }
    Ok(())
}

/// Asks the replication behind a socket.
pub fn ask(socket: &Path, request: &Request) -> Result<Answer> {
    let name = || format!("asking {}", socket.display());
    let stream = UnixStream::connect(socket).with_context(name)?;
    patient(&stream)?;
    put(&mut &stream, request).with_context(name)?;
    let line = line(&mut BufReader::new(&stream), ANSWER).with_context(name)?;
    serde_json::from_slice(&line.with_context(name)?).with_context(name)
}

fn patient(stream: &UnixStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE)).context("the control socket")?;
    stream.set_write_timeout(Some(PATIENCE)).context("the control socket")
}
