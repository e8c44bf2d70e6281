//! The ends of the appliance: reset, power off, or standing still where a person can read why.

use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};
use nix::unistd::sync;

use super::console::Console;

/// How long the consoles get to show the last lines.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Resets the machine. Returns only if the kernel refuses.
pub fn reset(console: &Console) {
    end(console, RebootMode::RB_AUTOBOOT);
}

/// Switches the machine off. Returns only if the kernel refuses.
pub fn power_off(console: &Console) {
    end(console, RebootMode::RB_POWER_OFF);
}

fn end(console: &Console, mode: RebootMode) {
    console.flush(LAST_WORDS);
    sync();
    let Err(errno) = reboot(mode);
    console.say(&format!("gantry: the kernel refuses {mode:?}: {errno}"));
}

/// Says why and stands still for ever. PID 1 must not end: the kernel would panic and the reason be lost.
pub fn stand_still(console: &Console, reason: &str) -> ! {
    console.say(&format!("gantry: halted: {reason}"));
    console.say("gantry: Ctrl-Alt-Del restarts the machine");
    // From now on the kernel itself answers the keys; nobody reads signals any more.
    if let Err(error) = std::fs::write("/proc/sys/kernel/ctrl-alt-del", "1") {
        console.say(&format!("gantry: Ctrl-Alt-Del is not available: {error}"));
    }
    console.flush(LAST_WORDS);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
