//! Gantry's protocol, without I/O: what two ends say to each other, byte by byte.
//!
//! ```text
//!  sender (dials)                                   receiver (listens)
//!    |-- TLS 1.3, both ends show a fresh certificate --|
//!    |-- PairProof ------------------------------------>|   the code, over the TLS exporter: the dialler first
//!    |<------------------------------------ PairProof --|
//!    |-- Hello (versions, source disks) --------------->|
//!    |<---------------- Offer (session, target disks) --|
//!    |-- Assign (which disk onto which) --------------->|   the receiver applies the erase rule
//!    |<---------- Begin (epoch, token, what is durable) |
//!    |== data streams: Join, then Chunk / Zeroes ======>|
//!    |-- StartPass full ... EndPass ------------------->|   Ack names the chunks that a flush covered
//!    |<------------------------------------- PassDone --|
//!    |-- StartPass compare, Digests ------------------->|   the receiver reads its medium back
//!    |<------------------------------ Wanted, PassDone --|   chunks that differ cross again
//!    |-- Roots ---------------------------------------->|
//!    |<---------------------------------------- Roots --|
//!    |-- Finish --------------------------------------->|   transforms, repair, commit
//!    |<---------------------------- Stage, Committed --|
//!    |-- Done ----------------------------------------->|
//!    |<------------------------------------------ Bye --|
//! ```
//!
//! Explicit little-endian layout and explicit tags; nothing depends on the order of an enum. Every length and count
//! from the peer is checked against a named limit before it is used ([`limits`]).

pub mod code;
pub mod codec;
pub mod limits;
pub mod message;
#[cfg(test)]
mod message_tests;
pub mod pairing;
pub mod tree;
pub mod version;

pub use code::Code;
pub use codec::{Decoder, Encoder, WireError};
pub use message::{DiskInfo, Extent, Message, PassKind, Role, Stage};
pub use version::Version;
