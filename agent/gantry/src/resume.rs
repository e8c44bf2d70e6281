//! `gantry resume`: lets a paused replication go on.

use std::process::ExitCode;

use anyhow::Result;

use crate::control::{Request, tell};
use crate::machine;

/// Let a paused replication go on.
///
/// Exit codes: 0 it goes on; 3 refused; 4 none is running; 1 anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Which, if several are running.
    #[arg(value_name = "PID")]
    pid: Option<u32>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    tell(args.pid, &Request::Resume {}).or_else(|error| Ok(machine::fail(false, &error)))
}
