//! `gantry repair` at work for a receiver: its lines are shown as they come, and it has so long and no longer.
//!
//! What it says is never held whole: lines are cut at [`LONGEST_LINE`], wait in a short queue that slows the program down
//! when it is full, and of both streams only the end is kept for the error. It leads a process group, so that what it
//! started ends with it; the guest's own programs leave that group, and die with the thread that started them
//! (`gantry_repair::isolate`).

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// A line longer than this, in bytes, is shown in parts.
const LONGEST_LINE: u64 = 4096;
/// Lines that wait to be shown.
const QUEUE: usize = 64;
/// Bytes at the end of each stream that an error can cite.
const KEPT: usize = 4096;
/// How often an ended program is looked for.
const TICK: Duration = Duration::from_millis(50);
/// Once the program has ended, its output is over after so long a silence, whoever else may still hold it.
const LAST_WORDS: Duration = Duration::from_secs(2);

enum Said {
    Out(String),
    Err(String),
}

/// Runs `command` to its end. Each line of its stdout goes to `tell` when it comes; those of its stderr (of its stdout, if
/// there are none) are the error when it fails.
///
/// # Errors
/// It could not be started; it ended with another code than 0; it was killed because `limit` was over.
pub fn run(mut command: Command, limit: Duration, tell: &dyn Fn(&str)) -> Result<()> {
    let end = Instant::now() + limit;
    let (said, lines) = sync_channel(QUEUE);
    command.process_group(0).stdin(Stdio::null());
    command.stdout(lead(said.clone(), Said::Out)?).stderr(lead(said, Said::Err)?);
    let child = command.spawn().context("starting it")?;
    // The command holds our copies of the pipes' ends: with them the output would never be over.
    drop(command);
    let (mut out, mut err) = (String::new(), String::new());
    let status = follow(child, &lines, end, &mut |said| match said {
        Said::Out(line) => {
            tell(&line);
            keep(&mut out, &line);
        }
        Said::Err(line) => keep(&mut err, &line),
    })?;
    let why = if err.is_empty() { out } else { err };
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{status}: {}", why.trim()),
        None => bail!(
            "it did not end within {} s and was killed. The disks still carry their labels: start both ends again with \
             the same code to have the data compared and repaired once more. It said last:\n{}",
            limit.as_secs(),
            why.trim()
        ),
    }
}

/// Hands on what is said until the program has ended (its status) or `end` has come (`None`).
fn follow(
    mut child: Child,
    lines: &Receiver<Said>,
    end: Instant,
    hear: &mut dyn FnMut(Said),
) -> Result<Option<ExitStatus>> {
    let id = Pid::from_raw(child.id().cast_signed());
    let mut ended = Ok(false);
    while matches!(ended, Ok(false)) && Instant::now() < end {
        match lines.recv_timeout(TICK) {
            Ok(said) => hear(said),
            Err(why) => {
                if why == RecvTimeoutError::Disconnected {
                    std::thread::sleep(TICK);
                }
                // It is not reaped yet: until then no other process gets its number, which is the group's.
                let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
                ended = waitid(Id::Pid(id), flags).map(|status| status != WaitStatus::StillAlive);
            }
        }
    }
    // Also what it has left behind. ESRCH: nobody is there any more.
    let _ = killpg(id, Signal::SIGKILL);
    let status = child.wait().context("waiting for it")?;
    if !ended.context("waiting for it")? {
        return Ok(None);
    }
    while let (true, Ok(said)) = (Instant::now() < end, lines.recv_timeout(LAST_WORDS)) {
        hear(said);
    }
    Ok(Some(status))
}

/// A pipe whose lines are handed on by a thread of their own.
fn lead(said: SyncSender<Said>, kind: fn(String) -> Said) -> Result<io::PipeWriter> {
    let (reader, writer) = io::pipe().context("making a pipe")?;
    let read = move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        // An error of reading ends the words, not the program's work: its exit status decides.
        while (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if said.send(kind(String::from_utf8_lossy(&line).trim_end().to_owned())).is_err() {
                return;
            }
            line.clear();
        }
    };
    std::thread::Builder::new().name("output".to_owned()).spawn(read).context("starting a thread")?;
    Ok(writer)
}

/// Adds a line and forgets the oldest beyond [`KEPT`].
fn keep(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
    if text.len() > KEPT {
        text.drain(..text.ceil_char_boundary(text.len() - KEPT));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// Whether the process has ended; one that nobody reaped counts.
    fn is_gone(id: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    }

    #[test]
    fn lines_come_while_the_program_is_at_work() {
        let folder = tempfile::tempdir().unwrap();
        let answer = folder.path().join("answer");
        // It goes on only when its first line was heard.
        let script =
            format!("echo first; until test -e {}; do sleep 0.01; done; echo second", answer.display());
        let heard = RefCell::new(Vec::new());
        let tell = |line: &str| {
            heard.borrow_mut().push(line.to_owned());
            std::fs::write(&answer, "").unwrap();
        };
        run(sh(&script), LONG, &tell).unwrap();
        assert_eq!(heard.into_inner(), ["first", "second"]);
    }

    #[test]
    fn one_that_hangs_is_killed_with_all_it_started() {
        let ids = RefCell::new(Vec::new());
        let script = "sleep 1000 & echo $!; echo $$; echo stuck at the lock >&2; wait";
        let tell = |line: &str| ids.borrow_mut().push(line.to_owned());
        let error = run(sh(script), Duration::from_secs(4), &tell).unwrap_err().to_string();
        assert!(
            error.contains("within 4 s")
                && error.contains("same code")
                && error.contains("stuck at the lock"),
            "{error}"
        );
        let ids = ids.into_inner();
        assert_eq!(ids.len(), 2);
        let end = Instant::now() + LONG;
        while !ids.iter().all(|id| is_gone(id)) {
            assert!(Instant::now() < end, "{ids:?} are still there");
            std::thread::sleep(TICK);
        }
    }

    #[test]
    fn one_that_left_somebody_behind_is_not_waited_for() {
        let id = RefCell::new(String::new());
        let began = Instant::now();
        // The second one leaves the group, as the first does not.
        run(sh("sleep 1000 & echo $!; setsid sleep 5 & exit 0"), LONG, &|line| {
            *id.borrow_mut() = line.to_owned();
        })
        .unwrap();
        assert!(is_gone(&id.into_inner()), "what stayed in the group was killed");
        assert!(began.elapsed() < LONG / 2);
    }

    #[test]
    fn a_flood_costs_neither_memory_nor_the_end() {
        // 8 MiB without a line end, then lines, on both streams at once; a full pipe that nobody reads would stop it for ever.
        let script = "(head -c 8000000 /dev/zero | tr '\\0' x; yes | head -n 100000; echo done >&2) & \
                      yes error | head -n 100000 >&2; wait; echo end; exit 7";
        let (longest, lines, last) = (Cell::new(0), Cell::new(0), RefCell::new(String::new()));
        let tell = |line: &str| {
            longest.set(longest.get().max(line.len()));
            lines.set(lines.get() + 1);
            last.replace(line.to_owned());
        };
        let error = run(sh(script), LONG, &tell).unwrap_err().to_string();
        assert_eq!((longest.get(), last.into_inner().as_str()), (LONGEST_LINE as usize, "end"));
        assert!(lines.get() > 100_000, "{} lines", lines.get());
        assert!(error.len() <= KEPT + 100, "{} bytes of error", error.len());
        assert!(error.starts_with("exit status: 7"), "{error}");
    }

    #[test]
    fn one_that_floods_for_ever_is_killed_too() {
        let error = run(sh("yes"), Duration::from_secs(1), &|_| {}).unwrap_err().to_string();
        assert!(error.contains("within 1 s"), "{error}");
    }

    #[test]
    fn one_that_fails_says_why() {
        for (script, expected) in [
            ("echo shown; echo the reason >&2; exit 3", "exit status: 3: the reason"),
            ("echo the plan says no; exit 3", "exit status: 3: the plan says no"),
            ("kill -9 $$", "signal: 9 (SIGKILL): "),
        ] {
            assert_eq!(run(sh(script), LONG, &|_| {}).unwrap_err().to_string(), expected);
        }
        let error = run(Command::new("/nonexistent/program"), LONG, &|_| {}).unwrap_err();
        assert!(format!("{error:#}").contains("starting it: No such file"), "{error:#}");
    }
}
