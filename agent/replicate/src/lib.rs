//! Replication: passes over disks that read, hash, compress, send, write, flush, verify.
//!
//! [`sender`] and [`receiver`] are the two ends of a session over the network, [`local`] is the same work on one
//! host. A target disk is a [`replica::Replica`]: its head and tail are held in memory until [`commit`] writes them,
//! so half a copy never boots. What is known of a target's content is held per chunk, in two sets:
//!
//! * `durable`: written in this session and covered by a flush. A full pass sends what is not durable.
//! * `verified`: read back from the medium since and equal to the source. A compare pass reads what is not verified.
//!
//! A receiver that was started again knows nothing (law 6): both sets are empty, and because its label says that this
//! session has written here, it asks for compare passes only. Compare passes repeat until none finds a difference.
//!
//! Every read of a source and every byte on a data stream passes a [`throttle`]; a [`progress::Meter`] watches each pass
//! and tells rates and time left.

mod after;
pub mod against;
pub mod buffer;
pub mod chunkset;
pub mod commit;
pub mod event;
mod fit;
mod gauge;
pub mod groups;
pub mod kept;
pub mod link;
pub mod local;
mod masked;
pub mod pack;
pub mod patch;
pub mod pool;
pub mod progress;
pub mod random;
pub mod receiver;
pub mod replica;
pub mod report;
pub mod sender;
mod source;
pub mod stop;
mod sweep;
pub mod throttle;
pub mod tls;

pub use event::{Event, Events};
pub use kept::Kept;
pub use progress::Progress;
pub use report::Report;
