//! `gantry status`: the replications that run on this host.

use std::process::ExitCode;

use anyhow::Result;

use crate::control::show_running;
use crate::machine;

/// Show the replications of this user that are running on this host.
///
/// Exit codes: 0 shown; 4 none is running; 1 anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Only this process.
    #[arg(value_name = "PID")]
    pid: Option<u32>,
    /// Print each as a JSON object, one a line.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    show_running(args.pid, args.json).or_else(|error| Ok(machine::fail(args.json, &error)))
}
