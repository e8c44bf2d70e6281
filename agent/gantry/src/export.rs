//! `gantry export`: disk ends for other people's NBD clients, read-only.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use gantry_disk::ReadAt;
use gantry_disk::nbd::server::{Exports, Server};
use gantry_disk::size::human;
use serde_json::json;

use crate::machine::Refused;
use crate::{ends, events, machine};

/// Show disks to NBD clients (nbdinfo, nbdcopy, qemu-img, nbd-client), read-only.
///
/// Runs until it is stopped. NBD is not encrypted here and asks nobody who they are: anybody who reaches the address reads
/// the disks, on this host every user; --socket makes a socket for this user alone. Exit codes: 3 refused; 1 anything else.
#[derive(clap::Args)]
pub struct Args {
    /// Disk by path, serial number or WWN, raw image, FORMAT:PATH (qcow2, vmdk, vhdx, vdi, raw), or NBD URI. Each is exported
    /// under its file name, a single one as the default export too.
    #[arg(value_name = "DISK", required = true)]
    disks: Vec<String>,
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10809")]
    listen: SocketAddr,
    /// Listen on a Unix socket instead.
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    socket: Option<PathBuf>,
    /// Let the content of the disks cross a network unencrypted, to whoever asks.
    #[arg(long)]
    plain_network: bool,
    /// Print events as JSON, one a line.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    match work(&args) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Ok(machine::fail(args.json, &error)),
    }
}

fn work(args: &Args) -> Result<()> {
    if args.socket.is_none() && !args.listen.ip().is_loopback() && !args.plain_network {
        let why = format!(
            "{}: everybody who can reach it could read the disks, and listen in: use 127.0.0.1 and an SSH tunnel, or say \
             --plain-network",
            args.listen
        );
        return Err(Refused(why).into());
    }
    let mut named: Vec<(String, Arc<dyn ReadAt>)> = Vec::new();
    for ends::Source { end, .. } in ends::sources(&args.disks)? {
        let path = &end.identity().path;
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
        if named.iter().any(|(other, _)| *other == name) {
            return Err(Refused(format!("{path}: another disk is exported as {name:?} already")).into());
        }
        named.push((name, end));
    }
    let told: Vec<String> = named
        .iter()
        .map(|(name, end)| format!("{} ({}) as {name:?}", end.identity().path, human(end.size())))
        .collect();
    let exports = Exports::new(named);
    let server = match &args.socket {
        Some(path) => {
            Server::on_unix(path, exports).with_context(|| format!("listening on {}", path.display()))?
        }
        None => {
            Server::on_tcp(args.listen, exports).with_context(|| format!("listening on {}", args.listen))?
        }
    };
    let uri = server.uri().context("asking where we listen")?;
    if args.json {
        events::object(&json!({ "event": "listening", "address": uri }));
    } else {
        told.iter().for_each(|line| events::say(&format!("exporting {line}, read-only")));
        events::say(&format!("listening on {uri}"));
    }
    let json = args.json;
    let tell = move |text: &str| match json {
        true => events::object(&json!({ "event": "read-error", "text": text })),
        false => events::say(text),
    };
    server.run(tell).context("accepting clients")
}
