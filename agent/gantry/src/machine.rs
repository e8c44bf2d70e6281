//! What this machine and this software are called.

use std::process::ExitCode;

use anyhow::{Context, Result};
use gantry_disk::machine::Machine;
use gantry_disk::roots::{Roots, attribute};
use gantry_disk::{BadSectors, DiskError};
use gantry_replicate::link::PeerFault;
use gantry_replicate::report::Report;
use gantry_replicate::stop::Stop;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::events;

/// The runtime of a replication. At least four workers, and the drivers are looked at often: on one slow processor a
/// worker that encrypts would otherwise keep timers and pings waiting for half a minute, and the link would look dead.
pub fn runtime() -> Result<Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from).max(4);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(workers).event_interval(5).enable_all().build().context("starting the runtime")
}

/// Exit code: refused, and trying again will not help before a person has changed something.
pub const REFUSED: u8 = 3;

/// Vendor, product and host name, as far as they are known.
pub fn name() -> String {
    let roots = Roots::default();
    let machine = Machine::read(&roots);
    let host = attribute(&roots.proc.join("sys/kernel/hostname")).unwrap_or_default();
    let parts = [machine.vendor, machine.product, host];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty() && part != "(none)").collect();
    if parts.is_empty() { "unnamed machine".to_owned() } else { parts.join(" ") }
}

/// The value of `--bad-sectors`.
pub fn bad_sectors(text: &str) -> Result<BadSectors, String> {
    match text {
        "stop" => Ok(BadSectors::Stop),
        "zero" => Ok(BadSectors::Zero),
        _ => Err("stop or zero".to_owned()),
    }
}

/// Says plainly what of the source could not be read.
pub fn show_bad_sectors(report: &Report) {
    for disk in report.disks.iter().filter(|disk| !disk.bad_sectors.is_empty()) {
        let bytes: u64 = disk.bad_sectors.iter().map(|(_, length)| length).sum();
        let places = disk.bad_sectors.len();
        let first = disk.bad_sectors[0].0;
        events::say(&format!(
            "WARNING: {}: {bytes} bytes in {places} places could not be read and are zero in the replica, the first at \
             byte {first}; the report lists them",
            disk.source.path
        ));
    }
}

/// Name and version of this program.
pub fn software() -> String {
    format!("gantry {}", env!("CARGO_PKG_VERSION"))
}

/// Prints an error and chooses the exit code: [`REFUSED`] for what only a person can change, else 1.
pub fn fail(json: bool, error: &anyhow::Error) -> ExitCode {
    let final_word = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<DiskError>() || cause.is::<PeerFault>() || cause.is::<Stop>() || cause.is::<Refused>()
    };
    let refused = error.chain().any(final_word);
    let code = if refused { REFUSED } else { 1 };
    let text = format!("{error:#}");
    match json {
        true => events::object(&json!({ "event": "failed", "text": text, "exit_code": code })),
        false => events::say(&format!("gantry: {text}")),
    }
    ExitCode::from(code)
}

/// Something this program will not do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);
