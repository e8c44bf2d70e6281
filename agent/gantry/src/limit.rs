//! `gantry limit`: changes how fast a running replication may be.

use std::process::ExitCode;

use anyhow::Result;
use gantry_replicate::throttle::Schedule;

use crate::control::{Request, tell};
use crate::machine;

/// Change the limit of a replication that is running on this host.
///
/// A limit is bytes a second with K, M, G or T (1024), like 20M; none; or windows of local time, like
/// 08:00-18:00=20M,else=none; without else there is no limit outside of them. It is for sending, with --read for reading
/// the source; a copy only reads. It lasts as long as the process. Exit codes: 0 changed; 3 refused; 4 none is running; 1
/// anything else.
#[derive(clap::Args)]
pub struct Args {
    /// The new limit.
    #[arg(value_name = "RATE|SCHEDULE|none")]
    limit: Schedule,
    /// Which, if several are running.
    #[arg(value_name = "PID")]
    pid: Option<u32>,
    /// Limit reading the source, not sending.
    #[arg(long)]
    read: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let request = Request::Limit { read: args.read, limit: args.limit.to_string() };
    tell(args.pid, &request).or_else(|error| Ok(machine::fail(false, &error)))
}
