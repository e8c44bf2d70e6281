//! One client: handshake, then its requests one after the other.

use std::io::{Read, Write};
use std::time::Duration;

use super::Exports;
use super::greeting::{CONTEXT, Chosen, greet};
use super::house::Seat;
use crate::nbd::fault::{Outcome, unusable};
use crate::nbd::proto::{
    MAXIMUM_BLOCK, REQ_ONE, REQUEST, Reply, Request, STATE_HOLE, STATE_ZERO, chunk, command, errno,
};
use crate::nbd::wire::{HANDSHAKE, Timed};

/// A client that says nothing for a day is taken for gone.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// A request must come, and its reply be taken, in this time.
const PATIENCE: Duration = Duration::from_secs(60);
/// A reply is made in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// Serves a client to its end. `tell` hears of reads that fail.
pub(super) fn serve(mut wire: Timed, exports: &Exports, seat: &Seat, tell: &dyn Fn(&str)) -> Outcome<()> {
    wire.limit(HANDSHAKE);
    let Some(chosen) = greet(&mut wire, exports)? else { return Ok(()) };
    let mut session = Session { wire, chosen, tell, piece: vec![0; PIECE] };
    loop {
        seat.busy(false);
        session.wire.limit(IDLE);
        let mut request = [0; REQUEST];
        session.wire.read_exact(&mut request)?;
        seat.busy(true);
        session.wire.limit(PATIENCE);
        let request = Request::decode(&request)?;
        if request.command == command::DISCONNECT {
            return Ok(());
        }
        session.answer(&request)?;
    }
}

struct Session<'a> {
    wire: Timed,
    chosen: Chosen,
    tell: &'a dyn Fn(&str),
    piece: Vec<u8>,
}

impl Session<'_> {
    fn answer(&mut self, request: &Request) -> Outcome<()> {
        let size = self.chosen.end.size();
        let end = request.offset.checked_add(u64::from(request.length));
        let inside = request.length > 0 && end.is_some_and(|end| end <= size);
        match request.command {
            command::READ if inside && request.length <= MAXIMUM_BLOCK && request.flags == 0 => {
                self.read(request)
            }
            command::BLOCK_STATUS if inside && self.chosen.allocation && request.flags & !REQ_ONE == 0 => {
                self.extents(request)
            }
            command::WRITE => {
                if request.length > MAXIMUM_BLOCK {
                    return unusable("the client writes more than was agreed on");
                }
                let mut left = (&mut self.wire).take(u64::from(request.length));
                std::io::copy(&mut left, &mut std::io::sink())?;
                self.refuse(request, errno::EPERM, "this export is read-only")
            }
            command::TRIM | command::WRITE_ZEROES => {
                self.refuse(request, errno::EPERM, "this export is read-only")
            }
            // Nothing is ever written, so all of it is on the medium.
            command::FLUSH => self.finish(request),
            _ => self.refuse(request, errno::EINVAL, "not known here, or beyond the end"),
        }
    }

    /// Sends what was asked for, piece by piece.
    fn read(&mut self, request: &Request) -> Outcome<()> {
        let length = request.length as usize;
        let mut done = 0;
        while done < length {
            let at = request.offset + done as u64;
            let step = PIECE.min(length - done);
            let first = done == 0;
            done += step;
            if let Err(error) = self.chosen.end.read_at(at, &mut self.piece[..step]) {
                (self.tell)(&format!(
                    "{error}: {}",
                    error.source.as_ref().map(ToString::to_string).unwrap_or_default()
                ));
                let place = error.offset.filter(|place| (at..at + step as u64).contains(place)).unwrap_or(at);
                return self.failed(request, place, first);
            }
            let flags = if done == length { chunk::DONE } else { 0 };
            let bytes = &self.piece[..step];
            let (head, payload) = if !self.chosen.structured {
                let head = Reply::Simple { error: 0, cookie: request.cookie }.encode();
                (if first { head } else { Vec::new() }, bytes)
            } else if bytes.iter().all(|byte| *byte == 0) {
                let hole = [&at.to_be_bytes()[..], &(step as u32).to_be_bytes()].concat();
                (chunk_head(request, flags, chunk::HOLE, &hole, 0), &[][..])
            } else {
                (chunk_head(request, flags, chunk::DATA, &at.to_be_bytes(), step), bytes)
            };
            self.wire.write_all(&head)?;
            self.wire.write_all(payload)?;
        }
        Ok(())
    }

    /// A read failed at byte `at`. A simple reply that has begun cannot be taken back: the connection ends.
    fn failed(&mut self, request: &Request, at: u64, first: bool) -> Outcome<()> {
        if !self.chosen.structured && !first {
            return unusable("a read failed after its reply had begun");
        }
        if !self.chosen.structured {
            return self.refuse(request, errno::EIO, "");
        }
        let mut payload = errno::EIO.to_be_bytes().to_vec();
        payload.extend(0_u16.to_be_bytes());
        payload.extend(at.to_be_bytes());
        self.wire.write_all(&chunk_head(request, chunk::DONE, chunk::ERROR_OFFSET, &payload, 0))?;
        Ok(())
    }

    fn extents(&mut self, request: &Request) -> Outcome<()> {
        let found = self.chosen.end.extents(request.offset, u64::from(request.length));
        let mut found = match found {
            Ok(found) => found,
            Err(error) => {
                (self.tell)(&error.to_string());
                return self.refuse(request, errno::EIO, "");
            }
        };
        if request.flags & REQ_ONE != 0 {
            found.truncate(1);
        }
        let mut payload = CONTEXT.to_be_bytes().to_vec();
        for extent in found {
            let flags = if extent.zero { STATE_HOLE | STATE_ZERO } else { 0 };
            // An extent of an answer lies in what was asked for, which has 32 bits.
            payload.extend((extent.length as u32).to_be_bytes());
            payload.extend(flags.to_be_bytes());
        }
        self.wire.write_all(&chunk_head(request, chunk::DONE, chunk::BLOCK_STATUS, &payload, 0))?;
        Ok(())
    }

    fn finish(&mut self, request: &Request) -> Outcome<()> {
        let reply = Reply::Simple { error: 0, cookie: request.cookie };
        self.wire.write_all(&reply.encode())?;
        Ok(())
    }

    fn refuse(&mut self, request: &Request, error: u32, why: &str) -> Outcome<()> {
        let message = if self.chosen.structured {
            let length = (why.len() as u16).to_be_bytes();
            let payload = [&error.to_be_bytes()[..], &length, why.as_bytes()].concat();
            chunk_head(request, chunk::DONE, chunk::ERROR, &payload, 0)
        } else {
            Reply::Simple { error, cookie: request.cookie }.encode()
        };
        self.wire.write_all(&message)?;
        Ok(())
    }
}

/// A chunk's head and the first part of its payload; `more` bytes of payload follow.
fn chunk_head(request: &Request, flags: u16, kind: u16, payload: &[u8], more: usize) -> Vec<u8> {
    let length = (payload.len() + more) as u32;
    let mut message = Reply::Chunk { flags, kind, cookie: request.cookie, length }.encode();
    message.extend(payload);
    message
}
