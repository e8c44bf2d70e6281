//! How a replication is: folded from its events. Pure.

use gantry_replicate::Event;
use gantry_replicate::progress::Progress;
use gantry_replicate::throttle::Limit;
use serde::{Deserialize, Serialize};

/// What this process is in the replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// `gantry send`.
    Send,
    /// `gantry receive`.
    Receive,
    /// `gantry copy`.
    Copy,
}

impl Role {
    /// The subcommand.
    pub fn name(self) -> &'static str {
        match self {
            Role::Send => "send",
            Role::Receive => "receive",
            Role::Copy => "copy",
        }
    }
}

/// Where a replication stands.
///
/// ```text
/// starting -> listening (receive) -> connected -> running <-> paused -> finishing -> committed
///                                     waiting-for-link, from any of the last but committed
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Nothing has happened yet; a sender dials.
    Starting,
    /// The receiver waits for its sender.
    Listening,
    /// Both ends know each other.
    Connected,
    /// A pass is running.
    Running,
    /// A pass is held.
    Paused,
    /// The connection is gone; it is tried again.
    WaitingForLink {
        /// Why.
        reason: String,
    },
    /// The copy is verified; what follows is being done: transforms, repair, commit.
    Finishing {
        /// What, in words.
        text: String,
    },
    /// The target is whole.
    Committed,
}

/// A limit, as it was asked for and as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitNow {
    /// A rate, a schedule or "none".
    pub limit: String,
    /// Bytes a second at this moment; none without a limit.
    pub now: Option<u64>,
}

impl From<&Limit> for LimitNow {
    fn from(limit: &Limit) -> Self {
        let now = limit.now().map(|rate| rate.bytes_per_second());
        Self { limit: limit.schedule().to_string(), now }
    }
}

/// How a replication is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Process.
    pub pid: u32,
    /// What it is.
    pub role: Role,
    /// The other machine; empty until it is known, and for a copy.
    pub peer: String,
    /// Where it stands.
    #[serde(flatten)]
    pub state: State,
    /// Whether a person has paused it, whatever its state.
    pub paused: bool,
    /// What its clock shows, which the windows of its limits go by, and the zone's distance from UTC: "14:05 +01:00".
    pub local_time: String,
    /// The limit of the wire; only of a sender.
    pub limit: Option<LimitNow>,
    /// The limit of reading the source; not of a receiver.
    pub read_limit: Option<LimitNow>,
    /// How far the last phase was or is.
    pub progress: Option<Progress>,
}

impl Status {
    /// Of this process, before anything has happened.
    pub fn new(role: Role) -> Self {
        Self {
            pid: std::process::id(),
            role,
            peer: String::new(),
            state: State::Starting,
            paused: false,
            local_time: String::new(),
            limit: None,
            read_limit: None,
            progress: None,
        }
    }

    /// Something has happened.
    pub fn learn(&mut self, event: &Event) {
        match event {
            Event::Listening { .. } => self.state = State::Listening,
            Event::Paired { peer } => {
                self.peer.clone_from(peer);
                self.state = State::Connected;
            }
            Event::Epoch { .. } => self.state = State::Running,
            Event::Progress(progress) => {
                // What was changed is read back after the copy is verified: that is no pass.
                if !matches!(self.state, State::Finishing { .. }) {
                    self.state = State::Running;
                }
                self.progress = Some(progress.clone());
            }
            Event::Verified { .. } => {
                self.state = State::Finishing { text: "verified".to_owned() };
                self.halt();
            }
            Event::Stage { text } => {
                if matches!(self.state, State::Finishing { .. } | State::Connected) {
                    self.state = State::Finishing { text: text.clone() };
                    self.halt();
                }
            }
            Event::Lost { reason, .. } => {
                self.state = State::WaitingForLink { reason: reason.clone() };
                self.halt();
            }
            Event::Committed => {
                self.state = State::Committed;
                self.halt();
            }
            Event::Part(_) | Event::Mapped { .. } | Event::PassDone { .. } | Event::Refused { .. } => {}
        }
    }

    /// Whether there is nothing more to copy.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Finishing { .. } | State::Committed)
    }

    /// No pass is running: the rates of the last moment are no longer true.
    fn halt(&mut self) {
        let Some(Progress { sum, disks, .. }) = &mut self.progress else { return };
        for figures in disks.iter_mut().map(|disk| &mut disk.figures).chain([sum]) {
            (figures.rate, figures.sending, figures.left) = (0, 0, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use gantry_replicate::progress::Figures;

    use super::*;

    #[test]
    fn events_become_a_state() {
        let text = |text: &str| text.to_owned();
        let figures = Figures { done: 5, total: 9, rate: 7, left: Some(3), ..Figures::default() };
        let progress = Progress { phase: "full".into(), paused: false, sum: figures, disks: Vec::new() };
        let mut status = Status::new(Role::Send);
        assert_eq!(status.state, State::Starting);
        for (event, state) in [
            (Event::Stage { text: text("an old view was removed") }, State::Starting),
            (Event::Listening { address: text("a") }, State::Listening),
            (Event::Paired { peer: text("vm7") }, State::Connected),
            (Event::Epoch { epoch: 1, durable_chunks: 0 }, State::Running),
            (Event::Progress(progress.clone()), State::Running),
            (Event::Stage { text: text("a note") }, State::Running),
            (Event::Lost { reason: text("cut"), wait: 1 }, State::WaitingForLink { reason: text("cut") }),
            (Event::Paired { peer: text("vm7") }, State::Connected),
            (Event::Progress(progress.clone()), State::Running),
            (Event::PassDone { phase: "full", differing: 0 }, State::Running),
            (
                Event::Verified { disk: text("a"), root: text("r") },
                State::Finishing { text: text("verified") },
            ),
            (Event::Stage { text: text("repairing") }, State::Finishing { text: text("repairing") }),
            (Event::Progress(progress.clone()), State::Finishing { text: text("repairing") }),
            (Event::Stage { text: text("heads") }, State::Finishing { text: text("heads") }),
            (Event::Committed, State::Committed),
        ] {
            status.learn(&event);
            assert_eq!(status.state, state, "after {event:?}");
            let shown = status.progress.as_ref().map(|progress| (progress.sum.rate, progress.sum.left));
            let over =
                matches!(state, State::WaitingForLink { .. } | State::Finishing { .. } | State::Committed);
            match (over, &event) {
                (true, Event::Progress(_)) => {
                    assert_eq!(shown, Some((7, Some(3))), "reading back what was changed");
                }
                (true, _) => assert_eq!(shown, Some((0, None)), "nothing moves after {event:?}"),
                (false, Event::Progress(_)) => assert_eq!(shown, Some((7, Some(3)))),
                _ => {}
            }
        }
        assert_eq!((status.peer.as_str(), status.progress.unwrap().sum.done), ("vm7", 5));
    }
}
