//! `gantry pause`: holds a running replication.

use std::process::ExitCode;

use anyhow::Result;

use crate::control::{Request, tell};
use crate::machine;

/// Pause a replication that is running on this host: it reads and sends nothing until `gantry resume`.
///
/// The connection stays. Pause at the sender. Exit codes: 0 paused; 3 refused; 4 none is running; 1 anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Which, if several are running.
    #[arg(value_name = "PID")]
    pid: Option<u32>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    tell(args.pid, &Request::Pause {}).or_else(|error| Ok(machine::fail(false, &error)))
}
