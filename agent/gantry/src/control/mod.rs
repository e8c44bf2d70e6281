//! A replication that runs can be asked and told things on its own host: `gantry status`, `pause`, `resume`, `limit`.
//!
//! Each running `send`, `receive` and `copy` has a Unix socket named by its process in a directory that only its user may
//! enter ([`place`]), and answers lines of JSON there ([`talk`]). What it answers is a [`status::Status`], folded from
//! the events that the replication tells anyway; what it is told goes into the replication's throttle. So neither can
//! hold the replication up: both are a lock that is held for a copy of a few numbers, taken by threads of their own
//! ([`server`]). A socket that cannot be opened is said, and the replication runs all the same.

mod client;
mod place;
mod server;
mod status;
mod talk;

pub use client::{show_running, tell};
pub use server::Control;
pub use status::Role;
pub use talk::Request;
