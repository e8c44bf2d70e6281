//! The server's side of the handshake.

use std::io::{Read, Write};
use std::sync::Arc;

use super::Exports;
use crate::end::ReadAt;
use crate::nbd::fault::{Outcome, unusable};
use crate::nbd::proto::{
    ALLOCATION, Blocks, FIXED_NEWSTYLE, GREETING, NO_ZEROES, OPTION_HEADER, OPTION_MAGIC, answer,
    answer_message, can, info, option, parse_go, parse_meta, parse_option_header, put_string,
};

/// Options of one client at most.
const MOST_OPTIONS: usize = 64;
/// Longest data of an option, in bytes: a name and a few queries.
const LONGEST_OPTION: u32 = 16 << 10;
/// Our number for base:allocation.
pub(super) const CONTEXT: u32 = 1;
const FLAGS: u16 = can::HAS_FLAGS | can::READ_ONLY | can::MULTI_CONN;

/// What the client chose.
pub(super) struct Chosen {
    pub(super) end: Arc<dyn ReadAt>,
    /// Replies are structured.
    pub(super) structured: bool,
    /// It may ask for extents.
    pub(super) allocation: bool,
}

/// Shakes hands; `None` when the client only wanted to know something.
pub(super) fn greet(wire: &mut (impl Read + Write), exports: &Exports) -> Outcome<Option<Chosen>> {
    let ours = FIXED_NEWSTYLE | NO_ZEROES;
    let words = [&GREETING.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &ours.to_be_bytes()].concat();
    wire.write_all(&words)?;
    let mut flags = [0; 4];
    wire.read_exact(&mut flags)?;
    let flags = u32::from_be_bytes(flags);
    if flags & !u32::from(ours) != 0 {
        return unusable("the client has unknown flags");
    }
    let mut structured = false;
    // The export whose extents the client wants to ask for.
    let mut context: Option<String> = None;
    for _ in 0..MOST_OPTIONS {
        let (option, data) = next_option(wire)?;
        let mut say = |kind: u32, data: &[u8]| wire.write_all(&answer_message(option, kind, data));
        match option {
            option::EXPORT_NAME => {
                let name = std::str::from_utf8(&data).unwrap_or("\0");
                // There is no other way to say no to this option than to hang up.
                let Some(end) = exports.find(name) else { return unusable("no such export") };
                let mut words = [&end.size().to_be_bytes()[..], &FLAGS.to_be_bytes()].concat();
                if flags & u32::from(NO_ZEROES) == 0 {
                    words.extend([0; 124]);
                }
                wire.write_all(&words)?;
                let allocation = context.as_deref() == Some(name);
                return Ok(Some(Chosen { end: Arc::clone(end), structured, allocation }));
            }
            option::ABORT => {
                say(answer::ACK, &[])?;
                return Ok(None);
            }
            option::LIST | option::STRUCTURED_REPLY if !data.is_empty() => {
                say(answer::INVALID, b"no data expected")?;
            }
            option::LIST => {
                for name in exports.names() {
                    let mut entry = Vec::new();
                    put_string(&mut entry, name);
                    say(answer::SERVER, &entry)?;
                }
                say(answer::ACK, &[])?;
            }
            option::STRUCTURED_REPLY => {
                structured = true;
                say(answer::ACK, &[])?;
            }
            option::INFO | option::GO => {
                let Ok(name) = parse_go(&data) else {
                    say(answer::INVALID, b"malformed")?;
                    continue;
                };
                let Some(end) = exports.find(name) else {
                    say(answer::UNKNOWN, b"no such export")?;
                    continue;
                };
                let export =
                    [&info::EXPORT.to_be_bytes()[..], &end.size().to_be_bytes(), &FLAGS.to_be_bytes()];
                say(answer::INFO, &export.concat())?;
                say(answer::INFO, &Blocks::default().encode())?;
                say(answer::ACK, &[])?;
                if option == option::GO {
                    let allocation = context.as_deref() == Some(name);
                    return Ok(Some(Chosen { end: Arc::clone(end), structured, allocation }));
                }
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                let set = option == option::SET_META_CONTEXT;
                let Some((name, queries)) = parse_meta(&data).ok().filter(|_| structured || !set) else {
                    say(answer::INVALID, b"malformed, or structured replies come first")?;
                    continue;
                };
                if set {
                    context = None;
                }
                if exports.find(name).is_none() {
                    say(answer::UNKNOWN, b"no such export")?;
                    continue;
                }
                // A question about all contexts, or all of a namespace, may only be asked to list them.
                let all = !set && (queries.is_empty() || queries.contains(&"base:"));
                if all || queries.contains(&ALLOCATION) {
                    say(answer::META_CONTEXT, &[&CONTEXT.to_be_bytes()[..], ALLOCATION.as_bytes()].concat())?;
                    context = set.then(|| name.to_owned()).or(context);
                }
                say(answer::ACK, &[])?;
            }
            _ => say(answer::UNSUPPORTED, b"not known here")?,
        }
    }
    unusable("the client does not come to an end in its handshake")
}

fn next_option(wire: &mut impl Read) -> Outcome<(u32, Vec<u8>)> {
    let mut header = [0; OPTION_HEADER];
    wire.read_exact(&mut header)?;
    let (option, length) = parse_option_header(&header)?;
    if length > LONGEST_OPTION {
        return unusable("the client's option is too long");
    }
    let mut data = vec![0; length as usize];
    wire.read_exact(&mut data)?;
    Ok((option, data))
}
