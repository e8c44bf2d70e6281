//! One connection in the transmission phase: one request at a time, its reply checked to the last byte.

use std::io::{Read, Write};
use std::time::Duration;

use super::coverage::Coverage;
use super::fault::{Fault, Outcome, printable, unusable};
use super::handshake::{Export, choose, greet, start_tls};
use super::proto::{Fields, LONGEST_STRING, REPLY, Reply, Request, STATE_ZERO, chunk, command};
use super::tls::Tls;
use super::wire::{Timed, Wire};
use crate::extents::{self, Extent};
use crate::nbd::address::Address;

/// Limit for one request with its reply. A server's disk may be slow, above all while it flushes; whether the server's host
/// lives, the kernel's probes say (see `wire`).
const PATIENCE: Duration = Duration::from_secs(600);
/// Limit for saying goodbye, which nobody answers.
const GOODBYE: Duration = Duration::from_secs(1);
/// Longest payload of an error chunk: number, text with its length, offset.
const LONGEST_ERROR: u32 = 4 + 2 + LONGEST_STRING as u32 + 8;
/// Longest payload of a chunk of extents: what qemu sends at most, a MiB.
const LONGEST_STATUS: u32 = 4 + (1 << 20);

/// A connection on which requests are made.
#[derive(Debug)]
pub(super) struct Connection {
    wire: Wire,
    export: Export,
    cookie: u64,
}

impl Connection {
    /// Dials and shakes hands.
    pub(super) fn open(address: &Address, tls: Option<&Tls>) -> Outcome<Self> {
        let mut timed = Timed::dial(&address.place)?;
        greet(&mut timed)?;
        let mut wire = match tls {
            Some(tls) => {
                start_tls(&mut timed)?;
                tls.start(timed)?
            }
            None => Wire::Plain(timed),
        };
        let export = choose(&mut wire, &address.export)?;
        Ok(Self { wire, export, cookie: 0 })
    }

    /// What this connection is to.
    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    /// Fills `buffer` from `offset`.
    pub(super) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Outcome<()> {
        let request = self.ask(command::READ, offset, buffer.len() as u32, &[])?;
        if !self.export.structured {
            return self.simple(&request, |wire| Ok(wire.read_exact(buffer)?));
        }
        let end = offset + buffer.len() as u64;
        let mut coverage = Coverage::default();
        self.chunks(&request, |wire, kind, length| {
            let (at, count) = match (kind, length) {
                (chunk::DATA, 9..) => (take_u64(wire)?, u64::from(length - 8)),
                (chunk::HOLE, 12) => (take_u64(wire)?, u64::from(take_u32(wire)?)),
                _ => return unusable(format!("the server answers a read with a chunk of kind {kind}")),
            };
            let inside = at >= offset && at.checked_add(count).is_some_and(|stop| stop <= end);
            if !inside || !coverage.add(at, count) {
                return unusable(format!(
                    "the server sends {count} bytes that nobody asked for, at byte {at}"
                ));
            }
            let place = &mut buffer[(at - offset) as usize..][..count as usize];
            if kind == chunk::HOLE {
                place.fill(0);
            } else {
                wire.read_exact(place)?;
            }
            Ok(())
        })?;
        match coverage.gap(offset, end) {
            None => Ok(()),
            Some(at) => unusable(format!("the server leaves out bytes that were asked for, at byte {at}")),
        }
    }

    /// Writes `data` at `offset`.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Outcome<()> {
        let request = self.ask(command::WRITE, offset, data.len() as u32, data)?;
        self.done(&request)
    }

    /// Makes a range read as zero. The server may make holes: that they read as zero is part of the promise.
    pub(super) fn zero(&mut self, offset: u64, length: u32) -> Outcome<()> {
        let request = self.ask(command::WRITE_ZEROES, offset, length, &[])?;
        self.done(&request)
    }

    /// Everything that was answered before is on the medium afterwards.
    pub(super) fn flush(&mut self) -> Outcome<()> {
        let request = self.ask(command::FLUSH, 0, 0, &[])?;
        self.done(&request)
    }

    /// What base:allocation says of a range; may stop short of it. Only for exports that have it.
    pub(super) fn status(&mut self, offset: u64, length: u32) -> Outcome<Vec<Extent>> {
        let context = self.export.allocation;
        let request = self.ask(command::BLOCK_STATUS, offset, length, &[])?;
        let mut payload = Vec::new();
        self.chunks(&request, |wire, kind, length| {
            let fits = (12..=LONGEST_STATUS).contains(&length) && (length - 4) % 8 == 0;
            if kind != chunk::BLOCK_STATUS || !fits || !payload.is_empty() {
                return unusable("the server's answer about extents is malformed");
            }
            payload.resize(length as usize, 0);
            wire.read_exact(&mut payload)?;
            Ok(())
        })?;
        let mut fields = Fields(&payload);
        if payload.is_empty() || Some(fields.u32()?) != context {
            return unusable("the server answers about extents with something else");
        }
        let end = offset + u64::from(length);
        let (mut at, mut extents) = (offset, Vec::new());
        while !fields.0.is_empty() && at < end && extents.len() < extents::MOST {
            let (count, flags) = (fields.u32()?, fields.u32()?);
            if count == 0 {
                return unusable("the server's answer about extents has an empty one");
            }
            // The last one may reach further than was asked.
            let count = u64::from(count).min(end - at);
            // A hole without the zero flag may read as anything (law 7).
            extents::append(
                &mut extents,
                Extent { offset: at, length: count, zero: flags & STATE_ZERO != 0 },
            );
            at += count;
        }
        Ok(extents)
    }

    fn ask(&mut self, command: u16, offset: u64, length: u32, data: &[u8]) -> Outcome<Request> {
        self.wire.limit(PATIENCE);
        self.cookie += 1;
        let request = Request { flags: 0, command, cookie: self.cookie, offset, length };
        self.wire.write_all(&request.encode())?;
        self.wire.write_all(data)?;
        self.wire.flush()?;
        Ok(request)
    }

    /// The head of the next reply, which must be to `request`.
    fn head(&mut self, request: &Request) -> Outcome<Reply> {
        let mut head = [0; REPLY];
        self.wire.read_exact(&mut head)?;
        let wire = &mut self.wire;
        let reply = Reply::decode::<Fault>(&head, || Ok(take_u32(wire)?.to_be_bytes()))?;
        let (Reply::Simple { cookie, .. } | Reply::Chunk { cookie, .. }) = reply;
        if cookie != request.cookie {
            return unusable(format!("the server answers request {cookie} when {} was made", request.cookie));
        }
        if !self.export.structured && matches!(reply, Reply::Chunk { .. }) {
            return unusable("the server sends structured replies that were not agreed on");
        }
        Ok(reply)
    }

    /// The reply to a request that has no data to give.
    fn done(&mut self, request: &Request) -> Outcome<()> {
        self.replies(request, true, |_, kind, _| unusable(format!("the server sends a chunk of kind {kind}")))
    }

    /// A simple reply; `data` reads what follows it.
    fn simple(&mut self, request: &Request, data: impl FnOnce(&mut Wire) -> Outcome<()>) -> Outcome<()> {
        match self.head(request)? {
            Reply::Simple { error: 0, .. } => data(&mut self.wire),
            Reply::Simple { error, .. } => Err(Fault::Refused { error, offset: None, text: String::new() }),
            Reply::Chunk { .. } => unusable("the server sends structured replies that were not agreed on"),
        }
    }

    /// A structured reply; `content` reads the payload of each chunk that is not an error.
    fn chunks(
        &mut self,
        request: &Request,
        content: impl FnMut(&mut Wire, u16, u32) -> Outcome<()>,
    ) -> Outcome<()> {
        self.replies(request, false, content)
    }

    /// Hears a reply to its end. The loop is bounded by the deadline of the request.
    fn replies(
        &mut self,
        request: &Request,
        simple_allowed: bool,
        mut content: impl FnMut(&mut Wire, u16, u32) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut refused = None;
        loop {
            let (flags, kind, length) = match self.head(request)? {
                Reply::Simple { .. } if !simple_allowed || refused.is_some() => {
                    return unusable("the server sends a simple reply where chunks were agreed on");
                }
                Reply::Simple { error: 0, .. } => return Ok(()),
                Reply::Simple { error, .. } => {
                    return Err(Fault::Refused { error, offset: None, text: String::new() });
                }
                Reply::Chunk { flags, kind, length, .. } => (flags, kind, length),
            };
            if flags & !chunk::DONE != 0 {
                return unusable(format!("the server sends a chunk with unknown flags {flags:#x}"));
            }
            match kind {
                chunk::NONE if length == 0 && flags == chunk::DONE => {}
                chunk::NONE => return unusable("the server sends an empty chunk that is none"),
                kind if kind & chunk::ERROR_BIT != 0 => {
                    let fault = error_chunk(&mut self.wire, request, kind, length)?;
                    refused.get_or_insert(fault);
                }
                kind => content(&mut self.wire, kind, length)?,
            }
            if flags == chunk::DONE {
                return refused.map_or(Ok(()), Err);
            }
        }
    }
}

fn take_u32(wire: &mut Wire) -> Outcome<u32> {
    let mut bytes = [0; 4];
    wire.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn take_u64(wire: &mut Wire) -> Outcome<u64> {
    let mut bytes = [0; 8];
    wire.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

/// The fault that an error chunk tells of.
fn error_chunk(wire: &mut Wire, request: &Request, kind: u16, length: u32) -> Outcome<Fault> {
    if length > LONGEST_ERROR {
        return unusable(format!("the server sends an error of {length} bytes"));
    }
    let mut payload = vec![0; length as usize];
    wire.read_exact(&mut payload)?;
    let mut fields = Fields(&payload);
    let error = fields.u32()?;
    let words = fields.u16()?;
    let text = printable(fields.bytes(usize::from(words))?);
    let mut offset = None;
    if kind == chunk::ERROR_OFFSET {
        let at = fields.u64()?;
        if at < request.offset || at - request.offset >= u64::from(request.length) {
            return unusable(format!("the server tells of an error at byte {at}, where nothing was asked"));
        }
        offset = Some(at);
    }
    if error == 0 {
        return unusable("the server tells of an error that is none");
    }
    Ok(Fault::Refused { error, offset, text })
}

impl Drop for Connection {
    /// Says goodbye, so that the server need not guess. What fails here has no consequence: nothing is pending.
    fn drop(&mut self) {
        self.wire.limit(GOODBYE);
        let goodbye = Request { flags: 0, command: command::DISCONNECT, cookie: 0, offset: 0, length: 0 };
        let _ = self.wire.write_all(&goodbye.encode());
        if let Wire::Tls(tls) = &mut self.wire {
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    }
}
