//! Either end of the built command is killed -9 at random moments.
#![allow(clippy::unwrap_used, reason = "tests")]

mod scratch;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use scratch::*;

/// One crossing of the built command, whose ends are killed and started again with the same code.
struct Crossing {
    scratch: Scratch,
    source: PathBuf,
    before: Vec<u8>,
    target: PathBuf,
    receiver: Running,
    sender: Running,
    port: String,
}

impl Crossing {
    fn start(seed: u64) -> Self {
        let scratch = Scratch::new();
        let (source, target) = (scratch.source(192 * MIB, seed), scratch.old_disk(194 * MIB));
        let receiver = Self::receive(&scratch, &target, "0");
        let line = receiver.wait_for("listening on");
        let port = line.rsplit(':').next().unwrap().to_owned();
        let sender = Self::send(&scratch, &source, &port);
        let before = fs::read(&source).unwrap();
        Self { scratch, source, before, target, receiver, sender, port }
    }
    fn receive(scratch: &Scratch, target: &Path, port: &str) -> Running {
        let (listen, code) = (format!("127.0.0.1:{port}"), scratch.path("code").display().to_string());
        let erase = target.display().to_string();
        let arguments = ["receive", "--listen", &listen, "--code-file", &code, "--erase", &erase];
        Running::start(&arguments, &[target])
    }
    fn send(scratch: &Scratch, source: &Path, port: &str) -> Running {
        let (address, code) = (format!("127.0.0.1:{port}"), scratch.path("code").display().to_string());
        Running::start(&["send", &address, "--code-file", &code], &[source])
    }
    /// Whether the sender has ended well. One that was started when the receiver had just voided the code is no failure:
    /// the receiver is about to end.
    fn sender_has_ended(&mut self) -> bool {
        let status = self.sender.child.try_wait().unwrap();
        let well = status.map(|status| status.success());
        assert!(well != Some(false) || !self.scratch.path("code").exists(), "the sender: {status:?}");
        well == Some(true)
    }
    /// Kills one end and starts it again. False if one of them has ended, as it should: then nobody is left to be killed.
    fn kill(&mut self, sender: bool) -> bool {
        if self.receiver.has_ended() || self.sender_has_ended() {
            return false;
        }
        if sender {
            self.sender.kill();
            if self.receiver.has_ended() {
                // Killed in its last moment: the receiver had heard it say that it knows.
                return true;
            }
            self.sender = Self::send(&self.scratch, &self.source, &self.port);
        } else {
            self.receiver.kill();
            self.receiver = Self::receive(&self.scratch, &self.target, &self.port);
        }
        true
    }
    /// Waits until the receiver has let go and says so; the sender, unless it was killed at that very end, too.
    fn end(mut self) {
        let end = Instant::now() + Duration::from_secs(240);
        while !self.receiver.has_ended() {
            assert!(Instant::now() < end, "the receiver never ends");
            if self.sender_has_ended() {
                // The receiver was killed after the farewell: to a new one nobody will come.
                self.receiver.kill();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let after = fs::read(&self.target).unwrap();
        assert!(after[..self.before.len()] == self.before[..], "the target holds the source");
        assert!(fs::read(&self.source).unwrap() == self.before, "the source is unchanged");
    }
}

/// Either end is killed -9 again and again at random moments and started again with the same code; each phase is aimed at in
/// `phases.rs`. With GANTRY_SLOW 200 times, over as many crossings as that takes.
#[test]
fn either_end_may_be_killed_at_any_moment() {
    let seed = std::env::var("GANTRY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) * 7919);
    println!("GANTRY_SEED={seed}");
    let wanted = if std::env::var_os("GANTRY_SLOW").is_some() { 200 } else { 4 };
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state >> 33
    };
    let (mut kills, mut crossings) = (0, 0);
    while kills < wanted {
        let mut crossing = Crossing::start(next());
        crossings += 1;
        // At most so many in one: it comes to its end, too.
        let most = kills + 12;
        while kills < wanted.min(most) {
            // Short and long lives alike, so that early and late phases are hit.
            let longest = 50 << (next() % 7);
            std::thread::sleep(Duration::from_millis(10 + next() % longest));
            if !crossing.kill(next() % 2 == 0) {
                break;
            }
            kills += 1;
        }
        crossing.end();
        println!("{kills} kills in {crossings} crossings");
        assert!(crossings < 100, "{crossings} crossings were over before they could be killed");
    }
}
