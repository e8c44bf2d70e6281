//! Asking and telling: what `gantry status`, `pause`, `resume` and `limit` share.

use std::process::ExitCode;

use anyhow::{Result, bail};
use gantry_disk::size::human;

use super::place;
use super::status::{LimitNow, State, Status};
use super::talk::{Answer, Request, ask};
use crate::events::{lines, object, say};
use crate::machine::Refused;

/// Exit code: no replication is running here.
const NONE: u8 = 4;

/// The replications of this user on this host, or the one with this PID.
fn running(pid: Option<u32>) -> Result<Vec<Status>> {
    let directory = place::directory()?;
    let mut found = Vec::new();
    for process in place::processes(&directory)? {
        if pid.is_some_and(|pid| pid != process) {
            continue;
        }
        // One that ends at this moment, or a number that belongs to another program now, is none.
        if let Ok(Answer::Now(status)) = ask(&place::socket(&directory, process), &Request::Status {}) {
            found.push(*status);
        }
    }
    Ok(found)
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
    let found = running(pid)?;
    if json {
        found.iter().for_each(object);
        return Ok(if found.is_empty() { ExitCode::from(NONE) } else { ExitCode::SUCCESS });
    }
    match found.as_slice() {
        [] => return Ok(none(pid)),
        [one] => details(one),
        several => {
            several.iter().for_each(|status| say(&summary(status)));
            say("for more: gantry status PID");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells the one that runs, or the one with this PID, to do something.
pub fn tell(pid: Option<u32>, request: &Request) -> Result<ExitCode> {
    let found = running(pid)?;
    let one = match found.as_slice() {
        [] => return Ok(none(pid)),
        [one] => one.pid,
        several => {
            several.iter().for_each(|status| say(&summary(status)));
            bail!(Refused("several replications are running: say which, by its PID".to_owned()));
        }
    };
    match ask(&place::socket(&place::directory()?, one), request)? {
        Answer::Now(status) => say(&summary(&status)),
        Answer::Refused { why } => bail!(Refused(why)),
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
    if let Some(progress) = &status.progress {
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
