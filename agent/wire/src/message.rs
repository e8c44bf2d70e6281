//! The messages and their layout. A frame is: payload length (u32), tag (u16), zero (u16), payload.

mod layout;

pub use self::layout::decode_header;
use crate::codec::WireError;
use crate::tree::{Hash, Leaves};

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

/// An Ed25519 signature by the key of a connection's certificate.
pub type Signature = [u8; 64];

/// All that two ends say.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Proof of the code; the dialler's first message, then the listener's.
    PairProof { role: Role, mac: [u8; 32] },
    /// First message of a data stream; its TLS key must be the paired one.
    Join { token: [u8; 32] },
    /// The sender's versions, name and disks. The versions come first in every version: if none of them is spoken here,
    /// the rest is not read.
    Hello { versions: Vec<u16>, software: String, machine: String, disks: Vec<DiskInfo> },
    /// The receiver's choice of version, and its disks. The version comes first, as in [`Message::Hello`].
    Offer { version: u16, stage: Stage, machine: String, disks: Vec<DiskInfo> },
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
    /// Chunks that are all zero: content, or `unused` by the source's filesystems.
    Zeroes { epoch: u64, pass: u32, disk: u16, extent: Extent, unused: bool },
    /// The sender has sent all of a pass; `chunks` counts those in Chunk and Zeroes messages.
    EndPass { pass: u32, chunks: u64 },
    /// Chunks that a flush has made durable.
    Ack { pass: u32, disk: u16, extents: Vec<Extent> },
    /// A pass is complete and durable; `differing` chunks had to cross in a compare pass.
    PassDone { pass: u32, differing: u64 },
    /// Node of a group of the source, for comparing.
    Group { pass: u32, disk: u16, group: u64, node: Hash },
    /// Answer to [`Message::Group`]: whether the medium holds the same.
    Compared { pass: u32, disk: u16, group: u64, equal: bool },
    /// Nodes of the chunks of a group that differs.
    Digests { pass: u32, disk: u16, group: u64, nodes: Vec<Hash> },
    /// Answer to [`Message::Digests`]: bit i is set when chunk i of the group differs.
    Wanted { pass: u32, disk: u16, group: u64, chunks: u64 },
    /// Leaves of a chunk that differs.
    Leaves { pass: u32, disk: u16, index: u64, leaves: Box<Leaves> },
    /// Answer to [`Message::Leaves`]: bit i is set when leaf i of the chunk differs.
    WantedLeaves { pass: u32, disk: u16, index: u64, leaves: u16 },
    /// The leaves of a chunk that differ, one behind the other; `node` is that of these bytes as a chunk of their own.
    Patch {
        epoch: u64,
        pass: u32,
        disk: u16,
        index: u64,
        leaves: u16,
        encoding: Encoding,
        node: Hash,
        data: Vec<u8>,
    },
    /// The roots of all disks, in the order of [`Message::Begin`].
    Roots { roots: Vec<Hash> },
    /// The sender is satisfied: transform, repair, commit. What it knows of the source, for the report, as JSON.
    Finish { facts: Vec<u8> },
    /// What the receiver is doing after [`Message::Finish`].
    Progress { text: String },
    /// All disks are committed; the report as canonical JSON, and the receiver's signature of it.
    Committed { report: Vec<u8>, signature: Signature },
    /// The sender knows of the commit and lets go; its signature of the report, unless it cannot vouch for it.
    Done { signature: Option<Signature> },
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
            Self::Group { .. } => 24,
            Self::Compared { .. } => 25,
            Self::Leaves { .. } => 26,
            Self::WantedLeaves { .. } => 27,
            Self::Patch { .. } => 28,
            Self::Roots { .. } => 16,
            Self::Finish { .. } => 17,
            Self::Progress { .. } => 18,
            Self::Committed { .. } => 19,
            Self::Done { .. } => 20,
            Self::Bye => 21,
            Self::Error { .. } => 22,
            Self::Ping => 23,
        }
    }
}
