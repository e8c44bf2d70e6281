//! Children: started with their output led to the consoles, and every dead process reaped.
//!
//! PID 1 inherits orphans, so one loop waits for all processes; the standard library's `wait` is not used, because it
//! would race with that loop.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::console::Console;
use super::role::Ended;

/// A line longer than this is shown in parts.
const LONGEST_LINE: u64 = 4096;

/// Starts `program` with its output on `console`. Returns its process id.
pub fn start(program: &Path, arguments: &[String], console: &Console) -> io::Result<Pid> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("TERM", "linux")])
        .env("GANTRY_APPLIANCE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(output) = child.stdout.take() {
        lead(output, console.clone());
    }
    if let Some(output) = child.stderr.take() {
        lead(output, console.clone());
    }
    Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
}

/// Starts a program that talks to one terminal by itself.
pub fn start_on_terminal(program: &Path, arguments: &[&str], terminal: &Path) -> io::Result<Pid> {
    let terminal = super::console::terminal(terminal)?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("TERM", "linux")])
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal)
        .spawn()?;
    Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
}

/// All processes that have ended by now.
pub fn reap() -> Vec<(Pid, Ended)> {
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => ended.push((pid, Ended::Code(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended.push((pid, Ended::Signal(signal as i32))),
            Ok(WaitStatus::StillAlive) => return ended,
            Ok(_) | Err(Errno::EINTR) => {}
            // ECHILD: nobody is left.
            Err(_) => return ended,
        }
    }
}

/// Shows a child's output line by line. A progress bar's carriage returns end lines too.
fn lead(output: impl Read + Send + 'static, console: Console) {
    let spoken = console.clone();
    let thread = std::thread::Builder::new().name("output".to_owned()).spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut output).take(LONGEST_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line);
                    text.split(['\r', '\n'])
                        .filter(|part| !part.trim().is_empty())
                        .for_each(|part| console.say(part));
                }
            }
        }
    });
    if let Err(error) = thread {
        spoken.say(&format!("gantry: the child's output is lost: {error}"));
    }
}
