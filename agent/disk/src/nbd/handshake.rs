//! The client's side of the fixed newstyle handshake: greeting, STARTTLS, structured replies, base:allocation, GO.

use std::io::{Read, Write};

use super::fault::{Outcome, printable, unusable};
use super::proto::{
    ALLOCATION, ANSWER_HEADER, Blocks, FIXED_NEWSTYLE, Fields, GREETING, NO_ZEROES, OPTION_MAGIC, answer,
    can, go_data, info, meta_data, option, option_message, parse_answer_header,
};

/// Longest data of an answer, in bytes: a name or a text, and some numbers.
const LONGEST_ANSWER: u32 = 16 << 10;
/// Answers to one option at most.
const MOST_ANSWERS: usize = 64;

/// What server and client have agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Export {
    /// Bytes.
    pub(super) size: u64,
    /// See [`can`].
    pub(super) flags: u16,
    pub(super) blocks: Blocks,
    /// Reads are answered in chunks.
    pub(super) structured: bool,
    /// The server's number for base:allocation.
    pub(super) allocation: Option<u32>,
}

impl Export {
    pub(super) fn can(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Reads the server's greeting and answers it.
pub(super) fn greet(wire: &mut (impl Read + Write)) -> Outcome<()> {
    let mut greeting = [0; 18];
    wire.read_exact(&mut greeting)?;
    let mut fields = Fields(&greeting);
    if fields.u64()? != GREETING {
        return unusable("this is no NBD server");
    }
    let newstyle = fields.u64()? == OPTION_MAGIC;
    let flags = fields.u16()?;
    if !newstyle || flags & FIXED_NEWSTYLE == 0 {
        return unusable("the server speaks an old form of NBD; the fixed newstyle handshake is needed");
    }
    let flags = u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES));
    wire.write_all(&flags.to_be_bytes())?;
    Ok(())
}

/// Asks for TLS. When this returns well the next byte on the wire is TLS's.
pub(super) fn start_tls(wire: &mut (impl Read + Write)) -> Outcome<()> {
    match ask(wire, option::STARTTLS, &[], |_, _| Ok(()))? {
        Answer::Ack => Ok(()),
        Answer::Error(_, why) => unusable(format!("the server does not speak TLS{why}")),
    }
}

/// Everything after the greeting (and TLS): the next message is a request.
pub(super) fn choose(wire: &mut (impl Read + Write), name: &str) -> Outcome<Export> {
    let structured = matches!(ask(wire, option::STRUCTURED_REPLY, &[], |_, _| Ok(()))?, Answer::Ack);
    let mut allocation = None;
    if structured {
        let asked = ask(wire, option::SET_META_CONTEXT, &meta_data(name, &[ALLOCATION]), |kind, data| {
            let mut fields = Fields(data);
            let id = fields.u32()?;
            if kind != answer::META_CONTEXT || fields.0 != ALLOCATION.as_bytes() || allocation.is_some() {
                return unusable("the server offers a metadata context that nobody asked for");
            }
            allocation = Some(id);
            Ok(())
        })?;
        if let Answer::Error(..) = asked {
            allocation = None;
        }
    }
    let (mut export, mut blocks) = (None, Blocks::default());
    let went = ask(wire, option::GO, &go_data(name, &[info::BLOCK_SIZE]), |kind, data| {
        let mut fields = Fields(data);
        if kind != answer::INFO {
            return unusable("the server answers GO with something else");
        }
        match fields.u16()? {
            info::EXPORT => {
                export = Some((fields.u64()?, fields.u16()?));
                fields.end()?;
            }
            info::BLOCK_SIZE => blocks = Blocks::parse(fields)?,
            _ => {}
        }
        Ok(())
    })?;
    if let Answer::Error(error, why) = went {
        return match error {
            answer::UNKNOWN => unusable(format!("the server has no export {name:?}{why}")),
            answer::UNSUPPORTED => unusable("the server is too old: it does not know NBD_OPT_GO"),
            _ => unusable(format!("the server does not give the export {name:?}{why}")),
        };
    }
    let Some((size, flags)) = export else {
        return unusable("the server does not say how large the export is");
    };
    if flags & can::HAS_FLAGS == 0 || i64::try_from(size).is_err() {
        return unusable(format!(
            "the server describes an export that cannot be: {size} bytes, flags {flags:#x}"
        ));
    }
    Ok(Export { size, flags, blocks, structured, allocation })
}

/// How an option ended.
enum Answer {
    Ack,
    /// Its number, and the server's words in parentheses.
    Error(u32, String),
}

/// Sends an option and hears its answers; `each` takes those before the last.
fn ask(
    wire: &mut (impl Read + Write),
    option: u32,
    data: &[u8],
    mut each: impl FnMut(u32, &[u8]) -> Outcome<()>,
) -> Outcome<Answer> {
    wire.write_all(&option_message(option, data))?;
    wire.flush()?;
    for _ in 0..MOST_ANSWERS {
        let mut header = [0; ANSWER_HEADER];
        wire.read_exact(&mut header)?;
        let (about, kind, length) = parse_answer_header(&header)?;
        if about != option || length > LONGEST_ANSWER {
            return unusable("the server's answer is not to what it was asked");
        }
        let mut data = vec![0; length as usize];
        wire.read_exact(&mut data)?;
        match kind {
            answer::ACK if data.is_empty() => return Ok(Answer::Ack),
            answer::ACK => return unusable("the server's message is malformed"),
            answer::TLS_REQUIRED => return unusable("the server wants TLS: write nbds:// or nbds+unix://"),
            error if error & answer::ERROR != 0 => {
                return Ok(Answer::Error(error, printable(&data)));
            }
            kind => each(kind, &data)?,
        }
    }
    unusable("the server does not come to an end in its handshake")
}
