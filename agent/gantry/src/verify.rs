//! `gantry verify`: compares two disk ends.

use std::process::ExitCode;

use anyhow::Result;
use gantry_replicate::local::verify;
use serde_json::json;

use crate::{ends, events, machine};

/// Compare two disks or images byte by byte, and print the root of each.
///
/// Exit codes: 0 equal; 4 they differ; 3 refused; 1 anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Disk, raw image, FORMAT:PATH (qcow2, vmdk, vhdx, vdi, raw), or NBD URI.
    first: String,
    /// The same.
    second: String,
    /// Print events and the outcome as JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// Exit code: the two differ.
const DIFFERENT: u8 = 4;
/// Differing places that are listed.
const SHOWN: usize = 16;

pub fn run(args: Args) -> Result<ExitCode> {
    match work(&args) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::from(DIFFERENT)),
        Err(error) => Ok(machine::fail(args.json, &error)),
    }
}

fn work(args: &Args) -> Result<bool> {
    let (first, second) = (ends::reader(&args.first)?, ends::reader(&args.second)?);
    let found = verify(&*first, &*second, &events::sink(args.json))?;
    let same_size = first.size() == second.size();
    let equal = same_size && found.differing == 0;
    if args.json {
        events::object(&json!({
            "event": "compared", "equal": equal, "compared": found.compared, "first": found.first,
            "second": found.second, "differing": found.differing, "places": found.places,
        }));
        return Ok(equal);
    }
    events::say(&format!("{}: root {}", args.first, found.first));
    events::say(&format!("{}: root {}", args.second, found.second));
    if !same_size {
        let (one, two, compared) = (first.size(), second.size(), found.compared);
        events::say(&format!("sizes differ: {one} and {two} bytes; compared the first {compared}"));
    }
    for offset in found.places.iter().take(SHOWN) {
        events::say(&format!("differ in the MiB at byte {offset}"));
    }
    if found.differing > SHOWN as u64 {
        events::say(&format!("... and in {} more MiB", found.differing - SHOWN as u64));
    }
    events::say(if equal { "equal" } else { "NOT equal" });
    Ok(equal)
}
