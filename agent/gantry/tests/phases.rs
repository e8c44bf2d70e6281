//! Either end of the built command is killed -9 in each phase: what is there already does not cross again.
//!
//! The target lies behind nbdkit with delays, so that each phase is long enough to be hit; when the receiver dies the server
//! dies with it, as a disk does with its machine, and nothing that was under way arrives later. In which phase an end died,
//! its own events say.
#![allow(clippy::unwrap_used, reason = "tests")]

mod scratch;

use std::fs;
use std::path::PathBuf;

use scratch::*;
use serde_json::Value;

const CHUNKS: u64 = 64;
const SIZE: usize = CHUNKS as usize * MIB;
/// Chunks that have been acknowledged before the full pass is struck.
const SOME: u64 = 12;
/// Chunks that may be on their way: reader runs, queues, socket buffers.
const IN_FLIGHT: u64 = 4 * 8 + 8 + 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Full,
    Compare,
    /// Heads and tails are written.
    Commit,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Full, Self::Compare, Self::Commit];

    fn has_begun(self, event: &Value) -> bool {
        match self {
            Self::Full => is(event, "progress", "full") && event["done"].as_u64() >= Some(SOME << 20),
            Self::Compare => is(event, "pass-done", "full"),
            Self::Commit => event["event"] == "stage" && event["text"] == "writing heads",
        }
    }
    fn is_over(self, event: &Value) -> bool {
        match self {
            Self::Full => is(event, "pass-done", "full"),
            Self::Compare => event["event"] == "verified",
            Self::Commit => event["event"] == "committed",
        }
    }
}

fn is(event: &Value, name: &str, phase: &str) -> bool {
    event["event"] == name && event["phase"] == phase
}

struct Crossing {
    scratch: Scratch,
    source: PathBuf,
    target: PathBuf,
    server: Nbdkit,
    receiver: Running,
    sender: Running,
    address: String,
}

impl Crossing {
    fn start(seed: u64) -> Self {
        let scratch = Scratch::new();
        let (source, target) = (scratch.source(SIZE, seed), scratch.old_disk(SIZE));
        let server = Self::serve(&scratch);
        let receiver = Self::receive(&scratch, &server, "127.0.0.1:0");
        let listening = std::iter::from_fn(|| receiver.event()).find(|event| event["event"] == "listening");
        let address = listening.unwrap()["address"].as_str().unwrap().to_owned();
        let sender = Self::send(&scratch, &address);
        Self { scratch, source, target, server, receiver, sender, address }
    }
    fn serve(scratch: &Scratch) -> Nbdkit {
        let target = scratch.path("target").display().to_string();
        Nbdkit::start(scratch, &["--filter=delay", "file", &target, "wdelay=100ms", "rdelay=30ms"])
    }
    fn receive(scratch: &Scratch, server: &Nbdkit, listen: &str) -> Running {
        let (code, uri) = (scratch.path("code").display().to_string(), server.uri());
        let arguments =
            ["receive", "--json", "--listen", listen, "--code-file", &code, "--erase", &uri, &uri];
        Running::start(&arguments, &[])
    }
    fn send(scratch: &Scratch, address: &str) -> Running {
        let code = scratch.path("code").display().to_string();
        Running::start(&["send", "--json", "--code-file", &code, address], &[&scratch.path("source")])
    }
    /// The chunks of the target that do not hold what the source holds.
    fn differing(&self) -> u64 {
        let (source, target) = (fs::read(&self.source).unwrap(), fs::read(&self.target).unwrap());
        source.chunks(MIB).zip(target.chunks(MIB)).filter(|(one, other)| one != other).count() as u64
    }
    /// Waits until both ends have ended well; what the sender said until then.
    fn end(mut self, before: &[u8]) -> Vec<Value> {
        let said: Vec<Value> = std::iter::from_fn(|| self.sender.event()).collect();
        assert!(self.sender.child.wait().unwrap().success(), "{:?}", said.last());
        assert!(self.receiver.child.wait().unwrap().success());
        assert!(fs::read(&self.target).unwrap() == before, "the target holds the source");
        assert!(fs::read(&self.source).unwrap() == before, "the source is unchanged");
        said
    }
}

/// Kills an end in a phase; what it had said. None: it had got further before the blow fell.
fn kill_in(phase: Phase, end: &mut Running) -> Option<Vec<Value>> {
    let mut said = Vec::new();
    while !said.last().is_some_and(|event| phase.has_begun(event)) {
        said.push(end.event().unwrap_or_else(|| panic!("it ended before {phase:?}: {:?}", said.last())));
    }
    end.kill();
    said.extend(std::iter::from_fn(|| end.event()));
    (!said.iter().any(|event| phase.is_over(event))).then_some(said)
}

fn number(events: &[Value], name: &str, field: &str) -> u64 {
    let event = events.iter().rev().find(|event| event["event"] == name);
    event.unwrap_or_else(|| panic!("no {name}: {events:?}"))[field].as_u64().unwrap()
}

/// The sender dies: the one that comes after it sends nothing that was acknowledged.
fn kill_the_sender(phase: Phase) -> bool {
    let mut crossing = Crossing::start(31);
    let before = fs::read(&crossing.source).unwrap();
    let Some(said) = kill_in(phase, &mut crossing.sender) else { return false };
    crossing.sender = Crossing::send(&crossing.scratch, &crossing.address);
    let after = crossing.end(&before);
    let (wire, again) = (number(&after, "done", "wire_bytes"), number(&after, "done", "resent_chunks"));
    assert_eq!(again, 0, "{phase:?}");
    if phase == Phase::Commit {
        assert_eq!(wire, 0, "all was there");
        return true;
    }
    let durable = number(&after, "epoch", "durable_chunks");
    let (acknowledged, sent) =
        (number(&said, "progress", "done") >> 20, number(&said, "progress", "sent") >> 20);
    println!("{phase:?}: {sent} MiB sent, {durable} of {CHUNKS} were there; then {wire} bytes crossed");
    match phase {
        Phase::Full => assert!(durable >= acknowledged && durable >= SOME, "{durable} of {acknowledged}"),
        _ => assert_eq!(durable, CHUNKS),
    }
    assert!(sent <= durable + IN_FLIGHT, "{sent} MiB were sent, and only {durable} chunks counted");
    let most = (CHUNKS - durable) * (MIB as u64 + 4096) + 65536;
    assert!(wire <= most, "{phase:?}: {wire} bytes crossed, where {most} were missing");
    true
}

/// The receiver dies: the one that comes after it compares, and takes only what differs.
fn kill_the_receiver(phase: Phase) -> bool {
    let mut crossing = Crossing::start(32);
    let before = fs::read(&crossing.source).unwrap();
    if kill_in(phase, &mut crossing.receiver).is_none() {
        return false;
    }
    crossing.server.kill();
    let differing = crossing.differing();
    crossing.server = Crossing::serve(&crossing.scratch);
    crossing.receiver = Crossing::receive(&crossing.scratch, &crossing.server, &crossing.address);
    let said = crossing.end(&before);
    let lost = said.iter().position(|event| event["event"] == "lost").unwrap();
    let after = &said[lost..];
    assert_eq!(number(after, "done", "resent_chunks"), 0, "{phase:?}");
    let full = |event: &&Value| is(event, "progress", "full") || is(event, "pass-done", "full");
    assert_eq!(after.iter().find(full), None, "{phase:?}");
    let passes = after.iter().filter(|event| is(event, "pass-done", "compare"));
    let crossed: u64 = passes.map(|event| event["differing"].as_u64().unwrap()).sum();
    println!("{phase:?}: {differing} of {CHUNKS} chunks differed, {crossed} crossed again");
    match phase {
        Phase::Full => assert!(differing + SOME <= CHUNKS, "{differing} differ: nothing was there"),
        _ => assert!(differing <= 2, "{differing} differ: more than head and tail"),
    }
    // Head and tail are blanked anew.
    assert!(crossed <= differing + 2, "{phase:?}: {differing} chunks differed, {crossed} crossed");
    true
}

/// A blow that comes too late is no test: it is struck again, in another crossing.
fn strike(blow: impl Fn(Phase) -> bool) {
    for phase in Phase::ALL {
        assert!((0..5).any(|_| blow(phase)), "{phase:?} was never hit");
    }
}

#[test]
fn a_sender_that_is_killed_in_any_phase_costs_only_what_was_in_flight() {
    strike(kill_the_sender);
}

#[test]
fn a_receiver_that_is_killed_in_any_phase_takes_nothing_again_that_is_there() {
    strike(kill_the_receiver);
}

/// The negative control: an end that goes on past a phase was not killed in it, and its events say so.
#[test]
fn a_blow_that_comes_too_late_is_known() {
    let scratch = Scratch::new();
    let (source, copy) = (scratch.source(3 * MIB, 33), scratch.path("copy"));
    let mut ended = Running::start(&["copy", "--json"], &[&source, &copy]);
    assert!(ended.child.wait().unwrap().success());
    let said: Vec<Value> = std::iter::from_fn(|| ended.event()).collect();
    let commit =
        |of: fn(Phase, &Value) -> bool| said.iter().position(|event| of(Phase::Commit, event)).unwrap();
    assert!(commit(Phase::has_begun) < commit(Phase::is_over), "{said:?}");
}
