//! The first process of the appliance.
//!
//! PID 1 is the `gantry` binary itself, plain threads and no async runtime: it must never fail, so it does little. It
//! mounts, finds consoles, reads the command line, loads drivers, brings up the network, shows the machine, and starts
//! one child, the role, which does the work and may die and be restarted as often as it likes.
//!
//! ```text
//! mounts -> consoles -> command line -> devices settle -> network settles -> "ready" -> role -> what follows
//!                          | a problem                                          | none       | refused
//!                          +--> hold, shown                                     +--> idle    +--> hold, shown
//! ```
//!
//! How it fails: visibly. An error that leaves nothing to do is said on all consoles and the machine stands still
//! ([`power::stand_still`]); a panic, which would be a bug, is caught by a hook that does the same. Nothing here writes
//! to a disk.

mod children;
pub mod cmdline;
mod console;
mod devices;
mod disks;
mod machine;
mod mounts;
mod network;
mod power;
mod role;
mod supervise;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use gantry_disk::inventory::{Inventory, scan};
use gantry_disk::roots::Roots;
use nix::sys::signal::{SigSet, Signal};

use crate::modules::{Loader, TABLE_PATH, Table};
use cmdline::Settings;
use console::Console;
use devices::Devices;
use network::Network;

/// Everything the agent leaves for others to read.
const LOG: &str = "/run/gantry/log";
/// Where the paths of our own boot media are left for the agent.
const BOOT_MEDIA: &str = "/run/gantry/boot-media";
/// Slow controllers (spinning up shelves of disks) have been seen to need half a minute.
const DEVICES_LIMIT: Duration = Duration::from_secs(60);
/// A switch port that learns its topology is deaf for thirty seconds.
const NETWORK_LIMIT: Duration = Duration::from_secs(40);
/// Modules that no device asks for, but the agent and repair do: their control nodes exist only once they are loaded.
const ALWAYS: &[&str] = &["dm_mod", "loop"];

/// Runs the appliance. Never returns in earnest: the machine resets, is switched off, or stands still.
pub fn main() -> ExitCode {
    // First of all, so that every thread inherits it: these signals are read in one place (supervise).
    let blocked = signals().thread_block();
    let problems = mounts::mount_all();
    let line = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let (settings, mut complaints) = cmdline::parse(&line);
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let console = Console::open(console::choose(&active, &settings.consoles), Path::new(LOG));
    catch_panics(&console);
    quiet_kernel(&line);

    console.say("");
    console.say(&format!("Gantry {} appliance, Linux {}", version(), kernel_release()));
    problems.iter().for_each(|problem| console.say(&format!("gantry: {problem}")));
    if let Err(errno) = blocked {
        power::stand_still(&console, &format!("signals cannot be blocked: {errno}"));
    }
    let devices = match start_devices(&console) {
        Ok(devices) => devices,
        Err(problem) => power::stand_still(&console, &problem),
    };
    if let Some(problem) = mounts::mount_efivarfs() {
        console.say(&format!("gantry: {problem}"));
    }
    machine::lines(&Roots::default()).iter().for_each(|line| console.say(line));
    if !devices.settle(DEVICES_LIMIT) {
        console.say("gantry: devices have not settled; going on with what is there");
    }
    console.say(&format!("drivers  {} modules loaded", devices.loaded()));
    let network = Network::start(&settings, console.clone());
    // Disks may have come with the last module; a second look costs nothing when all is quiet.
    devices.settle(DEVICES_LIMIT);
    network.look();
    if !network.settle(NETWORK_LIMIT) {
        console.say("gantry: no network; a cable or a DHCP server that comes later is still used");
    }
    show(&console, &network);
    if let Err(problem) = keep_code(&settings) {
        complaints.push(problem);
    }
    supervise::run(&settings, &complaints, &console)
}

/// The signals PID 1 reads: ended children, Ctrl-Alt-Del, and the two by which others ask for an end.
fn signals() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM].into_iter().collect()
}

fn start_devices(console: &Console) -> Result<Devices, String> {
    let text =
        std::fs::read_to_string(TABLE_PATH).map_err(|error| format!("reading {TABLE_PATH}: {error}"))?;
    let table = Table::decode(&text).map_err(|error| format!("{TABLE_PATH}: {error}"))?;
    if table.release != kernel_release() {
        let (ours, theirs) = (&table.release, kernel_release());
        return Err(format!(
            "this initramfs is for Linux {ours}, but Linux {theirs} runs: kernel and initrd belong together"
        ));
    }
    let devices = Devices::start(Loader::new(table), console.clone())
        .map_err(|error| format!("listening for devices: {error}"))?;
    ALWAYS.iter().for_each(|module| devices.need(module));
    Ok(devices)
}

/// The marker and what a person (or a test) wants to see next.
fn show(console: &Console, network: &Network) {
    console.say(&format!("gantry: appliance {} ready", version()));
    network.announce();
    let inventory = scan(&Roots::default()).unwrap_or_else(|error| {
        console.say(&format!("gantry: {error}"));
        Inventory::default()
    });
    disks::lines(&inventory).iter().for_each(|line| console.say(&format!("gantry: {line}")));
    if inventory.disks.is_empty() {
        console.say("gantry: no disk found");
    }
    if let Err(error) = std::fs::write(BOOT_MEDIA, disks::boot_media(&inventory)) {
        console.say(&format!("gantry: writing {BOOT_MEDIA}: {error}"));
    }
}

/// Puts the pairing code where the child reads it.
fn keep_code(settings: &Settings) -> Result<(), String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let Some(code) = &settings.code else { return Ok(()) };
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(role::CODE_FILE)
        .and_then(|mut file| writeln!(file, "{code}"))
        .map_err(|error| format!("writing {}: {error}", role::CODE_FILE))
}

/// From here on the kernel shows errors only, so that its news do not cut our lines; all of it stays in its ring buffer.
fn quiet_kernel(line: &str) {
    if !line.split_whitespace().any(|word| ["debug", "ignore_loglevel"].contains(&word)) {
        // Only looks depend on it.
        let _ = std::fs::write("/proc/sys/kernel/printk", "4");
    }
    // Ctrl-Alt-Del comes to us as a signal instead of resetting on the spot.
    let _ = std::fs::write("/proc/sys/kernel/ctrl-alt-del", "0");
}

/// A panic is a bug of ours. It must neither vanish nor take the machine down: it is shown, and its thread stands still.
fn catch_panics(console: &Console) {
    let console = console.clone();
    let main = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() == main {
            power::stand_still(&console, &format!("a fault in the appliance: {panic}"));
        }
        // The others are helpers: without one of them the role may well come to its end.
        console.say(&format!("gantry: a fault in the appliance: {panic}"));
        loop {
            std::thread::park();
        }
    }));
}

fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
