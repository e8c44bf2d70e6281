//! The messages and their layout. A frame is: payload length (u32), tag (u16), zero (u16), payload.

use crate::codec::{Decoder, Encoder, WireError, within};
use crate::limits;
use crate::tree::Hash;

/// Bytes of a frame's header.
pub const HEADER: usize = 8;

macro_rules! tagged {
    ($(#[$meta:meta])* $name:ident, $field:literal { $($(#[$vmeta:meta])* $variant:ident = $tag:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vmeta])* $variant,)* }
        impl $name {
            /// The byte on the wire.
            pub fn tag(self) -> u8 {
                match self { $(Self::$variant => $tag,)* }
            }
            /// Reads the byte.
            pub fn from_tag(tag: u8) -> Result<Self, WireError> {
                match tag {
                    $($tag => Ok(Self::$variant),)*
                    _ => Err(WireError::Unknown { field: $field, found: u64::from(tag) }),
                }
            }
        }
    };
}

tagged! {
    /// Which side an end plays.
    Role, "role" {
        /// Gives a machine.
        Sender = 1,
        /// Takes one.
        Receiver = 2,
    }
}

tagged! {
    /// How a pass decides what crosses.
    PassKind, "pass kind" {
        /// Every chunk that is not durable yet.
        Full = 1,
        /// The receiver reads its medium back; only chunks that differ cross.
        Compare = 2,
    }
}

tagged! {
    /// Where a session stands at the receiver.
    Stage, "stage" {
        /// Chunks are being taken.
        Receiving = 1,
        /// Roots agreed; transforms and repair are at work.
        Repairing = 2,
        /// Heads are being written.
        Committing = 3,
        /// The disks are whole machines again.
        Committed = 4,
    }
}

tagged! {
    /// How a chunk's bytes travel.
    Encoding, "encoding" {
        /// As they are.
        Raw = 0,
        /// One zstd frame.
        Zstd = 1,
    }
}

tagged! {
    /// Why an end gives up.
    Fault, "fault" {
        /// The code was wrong.
        WrongCode = 1,
        /// Too many wrong codes, or the code expired.
        CodeVoid = 2,
        /// No common version.
        Version = 3,
        /// The peer broke the protocol.
        Protocol = 4,
        /// The disks do not fit or may not be erased.
        Refused = 5,
        /// A disk failed; going on later may help.
        Disk = 6,
        /// Anything else at this end; going on later may help.
        Internal = 7,
    }
}

impl Fault {
    /// Whether dialling again can help without a person changing something.
    pub fn retry_may_help(self) -> bool {
        matches!(self, Self::Disk | Self::Internal)
    }
}

/// A disk as one end describes it to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskInfo {
    /// Node or file at that end.
    pub path: String,
    /// Serial number, or empty.
    pub serial: String,
    /// Model, or empty.
    pub model: String,
    /// Bytes.
    pub size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Why this disk cannot take a replica, or empty. Senders leave it empty.
    pub refusal: String,
}

/// A run of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First chunk.
    pub first: u64,
    /// Number of chunks.
    pub count: u64,
}

/// One replicated disk as an epoch begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskState {
    /// Index in the sender's list.
    pub source: u16,
    /// Index in the receiver's list.
    pub target: u16,
    /// Chunks that are durable and need not be sent again in a full pass.
    pub durable: Vec<Extent>,
}

/// All that two ends say.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Proof of the code; the dialler's first message, then the listener's.
    PairProof { role: Role, mac: [u8; 32] },
    /// First message of a data stream; its TLS key must be the paired one.
    Join { token: [u8; 32], stream: u8 },
    /// The sender's versions, name and disks.
    Hello { versions: Vec<u16>, software: String, machine: String, disks: Vec<DiskInfo> },
    /// The receiver's choice of version, its session and disks.
    Offer { version: u16, session: [u8; 16], stage: Stage, machine: String, disks: Vec<DiskInfo> },
    /// Which source disk goes onto which target disk.
    Assign { pairs: Vec<(u16, u16)> },
    /// An epoch begins. `full` says whether a full pass is needed, or comparing is enough.
    Begin { epoch: u64, token: [u8; 32], full: bool, disks: Vec<DiskState> },
    /// A pass begins.
    StartPass { pass: u32, kind: PassKind },
    /// A chunk. `disk` is the index in [`Message::Begin`]'s list. The last chunk of a disk may be short.
    Chunk {
        epoch: u64,
        pass: u32,
        disk: u16,
        index: u64,
        encoding: Encoding,
        length: u32,
        node: Hash,
        data: Vec<u8>,
    },
    /// Chunks that are all zero.
    Zeroes { epoch: u64, pass: u32, disk: u16, extent: Extent },
    /// The sender has sent all of a pass; `chunks` counts those in Chunk and Zeroes messages.
    EndPass { pass: u32, chunks: u64 },
    /// Chunks that a flush has made durable.
    Ack { pass: u32, disk: u16, extents: Vec<Extent> },
    /// A pass is complete and durable; `differing` chunks had to cross in a compare pass.
    PassDone { pass: u32, differing: u64 },
    /// Nodes of consecutive chunks of the source, for comparing.
    Digests { pass: u32, disk: u16, first: u64, nodes: Vec<Hash> },
    /// Answer to [`Message::Digests`]: bit i of `differing` is set when chunk `first + i` differs.
    Wanted { pass: u32, disk: u16, first: u64, differing: u64 },
    /// The roots of all disks, in the order of [`Message::Begin`].
    Roots { roots: Vec<Hash> },
    /// The sender is satisfied: transform, repair, commit.
    Finish,
    /// What the receiver is doing after [`Message::Finish`].
    Progress { stage: Stage, text: String },
    /// All disks are committed; the report as JSON.
    Committed { report: Vec<u8> },
    /// The sender knows of the commit and lets go.
    Done,
    /// The receiver knows that the sender knows. Both close.
    Bye,
    /// An end gives up, and why.
    Error { fault: Fault, text: String },
    /// I am alive.
    Ping,
}

impl Message {
    /// The tag on the wire. Never reused, never renumbered.
    pub fn tag(&self) -> u16 {
        match self {
            Self::PairProof { .. } => 1,
            Self::Join { .. } => 2,
            Self::Hello { .. } => 3,
            Self::Offer { .. } => 4,
            Self::Assign { .. } => 5,
            Self::Begin { .. } => 6,
            Self::StartPass { .. } => 7,
            Self::Chunk { .. } => 8,
            Self::Zeroes { .. } => 9,
            Self::EndPass { .. } => 11,
            Self::Ack { .. } => 12,
            Self::PassDone { .. } => 13,
            Self::Digests { .. } => 14,
            Self::Wanted { .. } => 15,
            Self::Roots { .. } => 16,
            Self::Finish => 17,
            Self::Progress { .. } => 18,
            Self::Committed { .. } => 19,
            Self::Done => 20,
            Self::Bye => 21,
            Self::Error { .. } => 22,
            Self::Ping => 23,
        }
    }

    /// The whole frame, header and payload.
    pub fn to_frame(&self) -> Vec<u8> {
        let mut e = Encoder::default();
        self.encode(&mut e);
        let payload = e.finish();
        let mut frame = Encoder::default();
        frame.u32(payload.len() as u32).u16(self.tag()).u16(0).raw(&payload);
        frame.finish()
    }

    fn encode(&self, e: &mut Encoder) {
        match self {
            Self::PairProof { role, mac } => {
                e.u8(role.tag()).raw(mac);
            }
            Self::Join { token, stream } => {
                e.raw(token).u8(*stream);
            }
            Self::Hello { versions, software, machine, disks } => {
                e.u32(versions.len() as u32);
                for version in versions {
                    e.u16(*version);
                }
                e.text(software, limits::TEXT).text(machine, limits::TEXT);
                encode_disks(e, disks);
            }
            Self::Offer { version, session, stage, machine, disks } => {
                e.u16(*version).raw(session).u8(stage.tag()).text(machine, limits::TEXT);
                encode_disks(e, disks);
            }
            Self::Assign { pairs } => {
                e.u32(pairs.len() as u32);
                for (source, target) in pairs {
                    e.u16(*source).u16(*target);
                }
            }
            Self::Begin { epoch, token, full, disks } => {
                e.u64(*epoch).raw(token).u8(u8::from(*full)).u32(disks.len() as u32);
                for disk in disks {
                    e.u16(disk.source).u16(disk.target);
                    encode_extents(e, &disk.durable);
                }
            }
            Self::StartPass { pass, kind } => {
                e.u32(*pass).u8(kind.tag());
            }
            Self::Chunk { epoch, pass, disk, index, encoding, length, node, data } => {
                e.u64(*epoch).u32(*pass).u16(*disk).u64(*index).u8(encoding.tag()).u32(*length).raw(node);
                e.raw(data);
            }
            Self::Zeroes { epoch, pass, disk, extent } => {
                e.u64(*epoch).u32(*pass).u16(*disk).u64(extent.first).u64(extent.count);
            }
            Self::EndPass { pass, chunks } => {
                e.u32(*pass).u64(*chunks);
            }
            Self::Ack { pass, disk, extents } => {
                e.u32(*pass).u16(*disk);
                encode_extents(e, extents);
            }
            Self::PassDone { pass, differing } => {
                e.u32(*pass).u64(*differing);
            }
            Self::Digests { pass, disk, first, nodes } => {
                e.u32(*pass).u16(*disk).u64(*first).u32(nodes.len() as u32);
                for node in nodes {
                    e.raw(node);
                }
            }
            Self::Wanted { pass, disk, first, differing } => {
                e.u32(*pass).u16(*disk).u64(*first).u64(*differing);
            }
            Self::Roots { roots } => {
                e.u32(roots.len() as u32);
                for root in roots {
                    e.raw(root);
                }
            }
            Self::Progress { stage, text } => {
                e.u8(stage.tag()).text(text, limits::TEXT);
            }
            Self::Committed { report } => {
                e.blob(report);
            }
            Self::Error { fault, text } => {
                e.u8(fault.tag()).text(text, limits::TEXT);
            }
            Self::Finish | Self::Done | Self::Bye | Self::Ping => {}
        }
    }

    /// Reads the payload of a frame with this tag.
    pub fn decode(tag: u16, payload: &[u8]) -> Result<Self, WireError> {
        let mut d = Decoder::new(payload);
        let message = match tag {
            1 => Self::PairProof { role: Role::from_tag(d.u8("role")?)?, mac: d.array("mac")? },
            2 => Self::Join { token: d.array("token")?, stream: d.u8("stream")? },
            3 => Self::Hello {
                versions: list(&mut d, 64, "versions", |d| d.u16("version"))?,
                software: d.text(limits::TEXT, "software")?,
                machine: d.text(limits::TEXT, "machine")?,
                disks: list(&mut d, limits::DISKS, "disks", decode_disk)?,
            },
            4 => Self::Offer {
                version: d.u16("version")?,
                session: d.array("session")?,
                stage: Stage::from_tag(d.u8("stage")?)?,
                machine: d.text(limits::TEXT, "machine")?,
                disks: list(&mut d, limits::DISKS, "disks", decode_disk)?,
            },
            5 => Self::Assign {
                pairs: list(&mut d, limits::DISKS, "pairs", |d| Ok((d.u16("source")?, d.u16("target")?)))?,
            },
            6 => Self::Begin {
                epoch: d.u64("epoch")?,
                token: d.array("token")?,
                full: d.u8("full")? != 0,
                disks: list(&mut d, limits::DISKS, "disks", |d| {
                    Ok(DiskState {
                        source: d.u16("source")?,
                        target: d.u16("target")?,
                        durable: decode_extents(d)?,
                    })
                })?,
            },
            7 => Self::StartPass { pass: d.u32("pass")?, kind: PassKind::from_tag(d.u8("pass kind")?)? },
            8 => Self::Chunk {
                epoch: d.u64("epoch")?,
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                index: chunk_index(&mut d)?,
                encoding: Encoding::from_tag(d.u8("encoding")?)?,
                length: within(u64::from(d.u32("length")?), limits::CHUNK, "length")? as u32,
                node: d.array("node")?,
                data: d.rest().to_vec(),
            },
            9 => Self::Zeroes {
                epoch: d.u64("epoch")?,
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                extent: decode_extent(&mut d)?,
            },
            11 => Self::EndPass { pass: d.u32("pass")?, chunks: d.u64("chunks")? },
            12 => Self::Ack { pass: d.u32("pass")?, disk: d.u16("disk")?, extents: decode_extents(&mut d)? },
            13 => Self::PassDone { pass: d.u32("pass")?, differing: d.u64("differing")? },
            14 => Self::Digests {
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                first: chunk_index(&mut d)?,
                nodes: list(&mut d, limits::DIGESTS, "digests", |d| d.array("digest"))?,
            },
            15 => Self::Wanted {
                pass: d.u32("pass")?,
                disk: d.u16("disk")?,
                first: chunk_index(&mut d)?,
                differing: d.u64("differing")?,
            },
            16 => Self::Roots { roots: list(&mut d, limits::DISKS, "roots", |d| d.array("root"))? },
            17 => Self::Finish,
            18 => Self::Progress {
                stage: Stage::from_tag(d.u8("stage")?)?,
                text: d.text(limits::TEXT, "text")?,
            },
            19 => Self::Committed { report: d.blob(limits::REPORT, "report")?.to_vec() },
            20 => Self::Done,
            21 => Self::Bye,
            22 => {
                Self::Error { fault: Fault::from_tag(d.u8("fault")?)?, text: d.text(limits::TEXT, "text")? }
            }
            23 => Self::Ping,
            _ => return Err(WireError::Unknown { field: "message tag", found: u64::from(tag) }),
        };
        d.end()?;
        Ok(message)
    }
}

/// Splits a frame header into payload length and tag; the length is checked against `limit`.
pub fn decode_header(header: &[u8; HEADER], limit: usize) -> Result<(usize, u16), WireError> {
    let mut d = Decoder::new(header);
    let length = within(u64::from(d.u32("frame length")?), limit as u64, "frame length")?;
    let tag = d.u16("tag")?;
    let zero = d.u16("reserved")?;
    if zero != 0 {
        return Err(WireError::Unknown { field: "reserved header bytes", found: u64::from(zero) });
    }
    Ok((length as usize, tag))
}

fn list<T>(
    d: &mut Decoder<'_>,
    limit: usize,
    field: &'static str,
    mut item: impl FnMut(&mut Decoder<'_>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = d.count(limit, field)?;
    (0..count).map(|_| item(d)).collect()
}

fn chunk_index(d: &mut Decoder<'_>) -> Result<u64, WireError> {
    within(d.u64("chunk index")?, limits::DISK_BYTES / limits::CHUNK, "chunk index")
}

fn encode_disks(e: &mut Encoder, disks: &[DiskInfo]) {
    e.u32(disks.len() as u32);
    for disk in disks {
        e.text(&disk.path, limits::TEXT).text(&disk.serial, limits::TEXT).text(&disk.model, limits::TEXT);
        e.u64(disk.size).u32(disk.sector_size).text(&disk.refusal, limits::TEXT);
    }
}

fn decode_disk(d: &mut Decoder<'_>) -> Result<DiskInfo, WireError> {
    Ok(DiskInfo {
        path: d.text(limits::TEXT, "path")?,
        serial: d.text(limits::TEXT, "serial")?,
        model: d.text(limits::TEXT, "model")?,
        size: within(d.u64("disk size")?, limits::DISK_BYTES, "disk size")?,
        sector_size: d.u32("sector size")?,
        refusal: d.text(limits::TEXT, "refusal")?,
    })
}

fn encode_extents(e: &mut Encoder, extents: &[Extent]) {
    let extents = &extents[..extents.len().min(limits::EXTENTS)];
    e.u32(extents.len() as u32);
    for extent in extents {
        e.u64(extent.first).u64(extent.count);
    }
}

fn decode_extent(d: &mut Decoder<'_>) -> Result<Extent, WireError> {
    let first = chunk_index(d)?;
    let count = within(d.u64("extent")?, limits::DISK_BYTES / limits::CHUNK, "extent")?;
    if count == 0 {
        return Err(WireError::Unknown { field: "extent of no chunks", found: first });
    }
    Ok(Extent { first, count })
}

fn decode_extents(d: &mut Decoder<'_>) -> Result<Vec<Extent>, WireError> {
    list(d, limits::EXTENTS, "extents", decode_extent)
}
