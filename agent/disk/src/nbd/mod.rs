//! NBD, the network block device protocol: disk ends on servers, image formats through `qemu-nbd`, and an export of ours.
//!
//! Source of everything on the wire: the NBD protocol, doc/proto.md of NetworkBlockDevice/nbd (fixed newstyle; structured
//! replies; base:allocation; no extended headers). [`proto`] is that as data, without I/O; client and server share it.
//!
//! The client ([`NbdDisk`]) has a few connections with one request in flight on each. That is simple, and keeps several
//! requests going where it is safe: there is more than one connection only when the server says CAN_MULTI_CONN, that is,
//! when a flush on one covers writes on all and each sees what the others wrote. Otherwise one connection does everything.
//!
//! When a connection breaks, a reader dials again a few times. A writer never does: what the server had acknowledged but not
//! flushed may be gone with it, so everything since the last good flush is void, and the end says so for ever (law 5).
//!
//! Servers are not trusted (law 12): every cookie, length, offset, flag and chunk is checked; a server that breaks the
//! protocol costs an error, and no retry.

mod address;
mod client;
mod connection;
mod coverage;
mod fault;
mod handshake;
pub mod proto;
pub mod server;
mod tls;
mod wire;

pub use address::{Address, Place};
pub use client::NbdDisk;
