//! Asking and telling: what `gantry status`, `pause`, `resume` and `limit` share.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use gantry_disk::size::human;

use super::place;
use super::status::{LimitNow, State, Status};
use super::talk::{Answer, Request, ask};
use crate::events::{lines, object, say};
use crate::machine::Refused;

/// Exit code: no replication is running here.
const NONE: u8 = 4;

/// The replications of this user on this host, or the one with this PID.
#[derive(Default)]
struct Running {
    found: Vec<Status>,
    /// Those that do not answer, and why: a stopped process, or more clients than it lets in.
    mute: Vec<String>,
}

impl Running {
    fn look(pid: Option<u32>) -> Result<Self> {
        let directory = place::directory()?;
        let mut running = Self::default();
        for process in place::processes(&directory)? {
            if pid.is_some_and(|pid| pid != process) {
                continue;
            }
            // One that ends at this moment, or a number that belongs to another program now, is none.
            match ask(&place::socket(&directory, process), &Request::Status {}) {
                Ok(None) => {}
                Ok(Some(Answer::Now(status))) => running.found.push(*status),
                Ok(Some(Answer::Refused { why })) => running.mute.push(format!("{process} refuses: {why}")),
                Err(error) => running.mute.push(format!("{process} does not answer: {error:#}")),
            }
        }
        Ok(running)
    }

    /// A replication that does not answer runs all the same: who asks must not take it for none.
    fn all_answer(&self) -> Result<()> {
        ensure!(self.mute.is_empty(), "{}", self.mute.join("; "));
        Ok(())
    }
}

fn none(pid: Option<u32>) -> ExitCode {
    match pid {
        Some(pid) => say(&format!("no replication of this user has the PID {pid}")),
        None => say("no replication of this user is running on this host"),
    }
    ExitCode::from(NONE)
}

/// `gantry status`.
pub fn show_running(pid: Option<u32>, json: bool) -> Result<ExitCode> {
    let running = Running::look(pid)?;
    match running.found.as_slice() {
        found if json => found.iter().for_each(object),
        [] => {}
        [one] => details(one),
        several => {
            several.iter().for_each(|status| say(&summary(status)));
            say("for more: gantry status PID");
        }
    }
    running.all_answer()?;
    Ok(match running.found.as_slice() {
        [] if json => ExitCode::from(NONE),
        [] => none(pid),
        _ => ExitCode::SUCCESS,
    })
}

/// Tells the one that runs, or the one with this PID, to do something.
pub fn tell(pid: Option<u32>, request: &Request) -> Result<ExitCode> {
    let running = Running::look(pid)?;
    if running.found.len() + running.mute.len() > 1 {
        running.found.iter().map(summary).chain(running.mute).for_each(|line| say(&line));
        bail!(Refused("several replications are running: say which, by its PID".to_owned()));
    }
    running.all_answer()?;
    let Some(one) = running.found.first() else { return Ok(none(pid)) };
    match ask(&place::socket(&place::directory()?, one.pid), request)? {
        Some(Answer::Now(status)) => say(&summary(&status)),
        Some(Answer::Refused { why }) => bail!(Refused(why)),
        None => return Ok(none(pid)),
    }
    Ok(ExitCode::SUCCESS)
}

/// One line.
fn summary(status: &Status) -> String {
    let peer = if status.peer.is_empty() { String::new() } else { format!(" with {}", status.peer) };
    let mut text = format!("{} {}{peer}: {}", status.pid, status.role.name(), state(status));
    for (what, limit) in [("limit", &status.limit), ("read limit", &status.read_limit)] {
        if let Some(limit) = limit.as_ref().filter(|limit| limit.limit != "none") {
            text += &format!(", {what} {}", limit.limit);
            if limit.limit.contains('=') {
                text += &format!(" (here it is {})", status.local_time);
            }
        }
    }
    text
}

fn state(status: &Status) -> String {
    let text = match &status.state {
        State::Starting => "starting".to_owned(),
        State::Listening => "waiting for the sender".to_owned(),
        State::Connected => "connected".to_owned(),
        State::Running => "running".to_owned(),
        State::Paused => return "paused".to_owned(),
        State::WaitingForLink { reason } => format!("waiting for the link ({reason})"),
        State::Finishing { text } => format!("finishing: {text}"),
        State::Committed => "committed".to_owned(),
    };
    if status.paused { format!("{text}; paused") } else { text }
}

fn details(status: &Status) {
    say(&summary(status));
    // What is finished has a report; a bar that stands at 100 % would only look stuck.
    if let Some(progress) = status.progress.as_ref().filter(|_| !status.is_over()) {
        lines(progress).iter().for_each(|line| say(line));
    }
    let now =
        |limit: &LimitNow| limit.now.map_or("none now".to_owned(), |rate| format!("{}/s now", human(rate)));
    if let Some(limit) = &status.limit {
        let sending = status.progress.as_ref().map_or(0, |progress| progress.sum.sending);
        say(&format!("limit of the wire: {} ({}), sending {}/s", limit.limit, now(limit), human(sending)));
    }
    if let Some(limit) = &status.read_limit {
        say(&format!("limit of reading: {} ({})", limit.limit, now(limit)));
    }
}
