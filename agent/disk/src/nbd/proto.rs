//! The protocol as data: numbers, headers, payloads. No I/O. All integers are big-endian.

/// First words of every server.
pub const GREETING: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Second word of a newstyle server, and the magic of each option of the client.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Magic of an answer to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Magic of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply.
pub const SIMPLE_MAGIC: u32 = 0x6744_6698;
/// Magic of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag of both sides: fixed newstyle.
pub const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag of both sides: no 124 zeroes after EXPORT_NAME.
pub const NO_ZEROES: u16 = 2;

/// Longest name of an export and longest text of an error, in bytes.
pub const LONGEST_STRING: usize = 4096;
/// Longest payload of a request or read when nothing else was agreed, in bytes.
pub const MAXIMUM_BLOCK: u32 = 32 << 20;
/// The metadata context that tells holes and zeroes.
pub const ALLOCATION: &str = "base:allocation";

/// Options of the handshake.
pub mod option {
    #![allow(missing_docs, reason = "the protocol's own names")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Answers to options; those with the top bit are errors.
pub mod answer {
    #![allow(missing_docs, reason = "the protocol's own names")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERROR: u32 = 1 << 31;
    pub const UNSUPPORTED: u32 = ERROR + 1;
    pub const INVALID: u32 = ERROR + 3;
    pub const TLS_REQUIRED: u32 = ERROR + 5;
    pub const UNKNOWN: u32 = ERROR + 6;
}

/// Kinds of information in answers to INFO and GO.
pub mod info {
    #![allow(missing_docs, reason = "the protocol's own names")]
    pub const EXPORT: u16 = 0;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub mod can {
    #![allow(missing_docs, reason = "the protocol's own names")]
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const FLUSH: u16 = 1 << 2;
    pub const WRITE_ZEROES: u16 = 1 << 6;
    pub const MULTI_CONN: u16 = 1 << 8;
}

/// Commands.
pub mod command {
    #![allow(missing_docs, reason = "the protocol's own names")]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flag of BLOCK_STATUS: one extent is enough.
pub const REQ_ONE: u16 = 1 << 3;

/// Kinds of chunks of a structured reply.
pub mod chunk {
    #![allow(missing_docs, reason = "the protocol's own names")]
    pub const NONE: u16 = 0;
    pub const DATA: u16 = 1;
    pub const HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR_BIT: u16 = 1 << 15;
    pub const ERROR: u16 = ERROR_BIT + 1;
    pub const ERROR_OFFSET: u16 = ERROR_BIT + 2;
    /// Flag of the last chunk of a reply.
    pub const DONE: u16 = 1;
}

/// Flag of an extent of base:allocation: a hole. Says nothing about what is read there.
pub const STATE_HOLE: u32 = 1;
/// Flag of an extent of base:allocation: reads as zero.
pub const STATE_ZERO: u32 = 2;

/// Error numbers of replies: Linux's own.
pub mod errno {
    #![allow(missing_docs, reason = "the protocol's own names")]
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const EINVAL: u32 = 22;
    pub const ENOTSUP: u32 = 95;
}

/// Error numbers that the protocol defines; anything else is not shown as if it were one of this system's.
pub const ERRNOS: [u32; 8] = [1, 5, 12, 22, 28, 75, 95, 108];

/// A message that is not what the protocol says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads the fields of a message one after the other.
#[derive(Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `length` bytes.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.bytes(N)?.try_into().map_err(|_| Malformed)
    }
    /// Next field.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }
    /// Next field.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }
    /// Next field.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }
    /// A string with its length in front.
    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        let length = self.u32()? as usize;
        if length > LONGEST_STRING {
            return Err(Malformed);
        }
        std::str::from_utf8(self.bytes(length)?).map_err(|_| Malformed)
    }
    /// Nothing may be left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Appends a string with its length in front. Ours and a user's are short: see [`LONGEST_STRING`].
pub fn put_string(message: &mut Vec<u8>, text: &str) {
    message.extend((text.len() as u32).to_be_bytes());
    message.extend(text.as_bytes());
}

/// An option of the client, with its data.
pub fn option_message(option: u32, data: &[u8]) -> Vec<u8> {
    let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
    message.extend(option.to_be_bytes());
    message.extend((data.len() as u32).to_be_bytes());
    message.extend(data);
    message
}

/// Length of [`option_message`] without data.
pub const OPTION_HEADER: usize = 16;

/// Number and length of data of an option.
pub fn parse_option_header(header: &[u8; OPTION_HEADER]) -> Result<(u32, u32), Malformed> {
    let mut fields = Fields(header);
    if fields.u64()? != OPTION_MAGIC {
        return Err(Malformed);
    }
    Ok((fields.u32()?, fields.u32()?))
}

/// An answer to `option`, with its data.
pub fn answer_message(option: u32, answer: u32, data: &[u8]) -> Vec<u8> {
    let mut message = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    for field in [option, answer, data.len() as u32] {
        message.extend(field.to_be_bytes());
    }
    message.extend(data);
    message
}

/// Length of [`answer_message`] without data.
pub const ANSWER_HEADER: usize = 20;

/// Option, answer and length of data.
pub fn parse_answer_header(header: &[u8; ANSWER_HEADER]) -> Result<(u32, u32, u32), Malformed> {
    let mut fields = Fields(header);
    if fields.u64()? != OPTION_REPLY_MAGIC {
        return Err(Malformed);
    }
    Ok((fields.u32()?, fields.u32()?, fields.u32()?))
}

/// Data of INFO and GO: the export, and what else should be told.
pub fn go_data(export: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = Vec::new();
    put_string(&mut data, export);
    data.extend((wanted.len() as u16).to_be_bytes());
    data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    data
}

/// The export of [`go_data`]. What else is wanted is told anyway.
pub fn parse_go(data: &[u8]) -> Result<&str, Malformed> {
    let mut fields = Fields(data);
    let export = fields.string()?;
    let wanted = fields.u16()?;
    fields.bytes(usize::from(wanted) * 2)?;
    fields.end()?;
    Ok(export)
}

/// Data of SET_META_CONTEXT: the export, and the contexts asked for.
pub fn meta_data(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    put_string(&mut data, export);
    data.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| put_string(&mut data, query));
    data
}

/// Export and queries of [`meta_data`].
pub fn parse_meta(data: &[u8]) -> Result<(&str, Vec<&str>), Malformed> {
    let mut fields = Fields(data);
    let export = fields.string()?;
    let count = fields.u32()? as usize;
    // Each query takes four bytes at least, so a count cannot ask for more memory than its message has.
    if count > fields.0.len() / 4 {
        return Err(Malformed);
    }
    let queries = (0..count).map(|_| fields.string()).collect::<Result<_, _>>()?;
    fields.end()?;
    Ok((export, queries))
}

/// Sizes that requests must have, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// Offsets and lengths are multiples of this; a power of two up to 64 KiB.
    pub minimum: u32,
    /// What the server likes best.
    pub preferred: u32,
    /// Reads and writes are not longer than this.
    pub maximum: u32,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: MAXIMUM_BLOCK }
    }
}

impl Blocks {
    /// Information about blocks.
    pub fn encode(self) -> Vec<u8> {
        let mut data = info::BLOCK_SIZE.to_be_bytes().to_vec();
        data.extend([self.minimum, self.preferred, self.maximum].into_iter().flat_map(u32::to_be_bytes));
        data
    }

    /// From the fields behind the kind. A maximum that is no multiple of the minimum is rounded down (the protocol allows
    /// 0xffffffff for "no limit").
    pub fn parse(mut fields: Fields<'_>) -> Result<Self, Malformed> {
        let (minimum, preferred, maximum) = (fields.u32()?, fields.u32()?, fields.u32()?);
        fields.end()?;
        let power = minimum.is_power_of_two() && minimum <= 1 << 16;
        if !power || !preferred.is_power_of_two() || preferred < minimum || maximum < minimum {
            return Err(Malformed);
        }
        Ok(Self { minimum, preferred, maximum: maximum.min(MAXIMUM_BLOCK) / minimum * minimum })
    }
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Flags of the command.
    pub flags: u16,
    /// See [`command`].
    pub command: u16,
    /// Comes back in each reply.
    pub cookie: u64,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

/// Length of a request without data.
pub const REQUEST: usize = 28;

impl Request {
    /// On the wire.
    pub fn encode(&self) -> [u8; REQUEST] {
        let mut message = [0; REQUEST];
        message[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        message[4..6].copy_from_slice(&self.flags.to_be_bytes());
        message[6..8].copy_from_slice(&self.command.to_be_bytes());
        message[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        message[16..24].copy_from_slice(&self.offset.to_be_bytes());
        message[24..].copy_from_slice(&self.length.to_be_bytes());
        message
    }

    /// From the wire.
    pub fn decode(message: &[u8; REQUEST]) -> Result<Self, Malformed> {
        let mut fields = Fields(message);
        if fields.u32()? != REQUEST_MAGIC {
            return Err(Malformed);
        }
        let (flags, command) = (fields.u16()?, fields.u16()?);
        Ok(Self { flags, command, cookie: fields.u64()?, offset: fields.u64()?, length: fields.u32()? })
    }
}

/// The head of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The whole reply, but for the data of a READ.
    Simple {
        /// 0, or why not.
        error: u32,
        /// Of the request.
        cookie: u64,
    },
    /// One chunk of a structured reply.
    Chunk {
        /// [`chunk::DONE`] or 0.
        flags: u16,
        /// See [`chunk`].
        kind: u16,
        /// Of the request.
        cookie: u64,
        /// Bytes that follow. Not in [`REPLY`]: the last four bytes of a chunk's head.
        length: u32,
    },
}

/// Length of a simple reply, and of a chunk's head without its length.
pub const REPLY: usize = 16;

impl Reply {
    /// On the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Vec::with_capacity(REPLY + 4);
        match *self {
            Self::Simple { error, cookie } => {
                message.extend(SIMPLE_MAGIC.to_be_bytes());
                message.extend(error.to_be_bytes());
                message.extend(cookie.to_be_bytes());
            }
            Self::Chunk { flags, kind, cookie, length } => {
                message.extend(CHUNK_MAGIC.to_be_bytes());
                message.extend(flags.to_be_bytes());
                message.extend(kind.to_be_bytes());
                message.extend(cookie.to_be_bytes());
                message.extend(length.to_be_bytes());
            }
        }
        message
    }

    /// From the first [`REPLY`] bytes; `more` reads the four that follow in a chunk's head.
    pub fn decode<E: From<Malformed>>(
        message: &[u8; REPLY],
        more: impl FnOnce() -> Result<[u8; 4], E>,
    ) -> Result<Self, E> {
        let mut fields = Fields(message);
        match fields.u32()? {
            SIMPLE_MAGIC => Ok(Self::Simple { error: fields.u32()?, cookie: fields.u64()? }),
            CHUNK_MAGIC => {
                let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
                Ok(Self::Chunk { flags, kind, cookie, length: u32::from_be_bytes(more()?) })
            }
            _ => Err(Malformed.into()),
        }
    }
}

#[cfg(test)]
#[path = "proto_tests.rs"]
mod tests;
