//! Asking and telling a replication that runs: `gantry status`, `pause`, `resume`, `limit`; and its priority.
#![allow(clippy::unwrap_used, reason = "tests")]

mod scratch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use scratch::*;
use serde_json::Value;

/// A place of its own for control sockets.
struct Place(Scratch);

impl Place {
    fn new() -> Self {
        Self(Scratch::new())
    }
    fn run(&self) -> PathBuf {
        self.0.path("run")
    }
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
        command.env("GANTRY_RUN_DIR", self.run()).args(arguments);
        command
    }
    fn tell(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
    /// What a process says of itself, once it is in this state.
    fn status(&self, pid: &str, state: &str) -> Value {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let output = self.tell(&["status", "--json", pid]);
            let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            if status["state"] == state {
                return status;
            }
            assert!(Instant::now() < end, "never {state}: {}", text(&output));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    /// A copy that crawls.
    fn copy(&self, source: &Path, name: &str, more: &[&str]) -> (Running, String, PathBuf) {
        let target = self.0.path(name);
        let mut command = self.command(&["copy", "--read-limit", "1K"]);
        command.args(more).arg(source).arg(&target);
        let running = Running::spawn(command);
        let pid = running.child.id().to_string();
        self.status(&pid, "running");
        (running, pid, target)
    }
}

#[test]
fn with_nothing_running_every_command_says_so() {
    let place = Place::new();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["pause"],
        &["resume", "1"],
        &["limit", "20M"],
        &["limit", "--read", "1M"],
    ] {
        let output = place.tell(arguments);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {}", text(&output));
    }
    assert!(text(&place.tell(&["status"])).contains("no replication of this user is running"));
}

#[test]
fn a_copy_is_shown_paused_resumed_and_let_go() {
    let place = Place::new();
    let source = place.0.source(16 * MIB, 21);
    let (mut copy, pid, target) = place.copy(&source, "copied", &["--json"]);
    let status = place.status(&pid, "running");
    assert_eq!((status["role"].as_str(), status["read_limit"]["now"].as_u64()), (Some("copy"), Some(1024)));
    assert!(status["limit"].is_null(), "a copy sends nothing: {status}");

    let shown = place.tell(&["status"]);
    assert_eq!(shown.status.code(), Some(0));
    assert!(text(&shown).contains(&format!("{pid} copy: running, read limit 1K")), "{}", text(&shown));
    let refused = place.tell(&["limit", "20M"]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("--read"), "{}", text(&refused));

    let paused = place.tell(&["pause"]);
    assert!(paused.status.success() && text(&paused).contains("paused"), "{}", text(&paused));
    assert_eq!(place.tell(&["limit", "--read", "none"]).status.code(), Some(0));
    place.status(&pid, "paused");
    // It is held although nothing limits it: two events at different times tell the same.
    let read = || {
        let told: Value = serde_json::from_str(&copy.wait_for(r#""paused":true"#)).unwrap();
        told["read"].as_u64().unwrap()
    };
    while copy.line().is_some() {}
    let before = read();
    assert_eq!(read(), before);

    assert!(place.tell(&["resume", &pid]).status.success());
    assert_eq!(copy.child.wait().unwrap().code(), Some(0));
    assert!(same(&source, &target));
    assert_eq!(fs::read_dir(place.run()).unwrap().count(), 0, "the socket goes with its process");
}

#[test]
fn of_several_one_must_be_named() {
    let place = Place::new();
    let source = place.0.source(12 * MIB, 22);
    let (mut one, first, _) = place.copy(&source, "one", &[]);
    let (_two, second, _) = place.copy(&source, "two", &[]);
    let listed = place.tell(&["status"]);
    assert!(text(&listed).contains(&first) && text(&listed).contains(&second), "{}", text(&listed));
    let refused = place.tell(&["pause"]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains(&second) && text(&refused).contains("by its PID"), "{}", text(&refused));
    assert_eq!(place.tell(&["limit", "--read", "none", &first]).status.code(), Some(0));
    assert_eq!(one.child.wait().unwrap().code(), Some(0), "the one that was named");
    assert_eq!(place.status(&second, "running")["read_limit"]["now"], 1024, "and not the other");
}

/// Stops a process that a test has started, or lets it go on.
fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}

#[test]
fn one_that_does_not_answer_is_not_taken_for_none() {
    let place = Place::new();
    let source = place.0.source(12 * MIB, 28);
    let (_one, mute, _) = place.copy(&source, "mute", &[]);
    let (_two, other, _) = place.copy(&source, "other", &[]);
    signal("-STOP", &mute);
    let listed = place.tell(&["status"]);
    assert_eq!(listed.status.code(), Some(1), "{}", text(&listed));
    let (line, there) = (format!("{mute} does not answer"), format!("{other} copy: running"));
    assert!(text(&listed).contains(&line) && text(&listed).contains(&there), "{}", text(&listed));
    for arguments in [&["pause", &mute][..], &["status", "--json", &mute]] {
        let asked = place.tell(arguments);
        assert_eq!(asked.status.code(), Some(1), "{arguments:?}: {}", text(&asked));
        assert!(text(&asked).contains(&line), "{arguments:?}: {}", text(&asked));
    }
    // Two are running: the one that answers is not picked because the other does not.
    let refused = place.tell(&["pause"]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains(&line) && text(&refused).contains("by its PID"), "{}", text(&refused));
    signal("-CONT", &mute);
    assert_eq!(place.status(&other, "running")["paused"], false);
    assert_eq!(place.status(&mute, "running")["paused"], false);
}

#[test]
fn a_killed_replication_leaves_nothing_that_answers() {
    let place = Place::new();
    let source = place.0.source(12 * MIB, 23);
    let (mut copy, pid, _) = place.copy(&source, "killed", &[]);
    copy.kill();
    let socket = place.run().join(format!("{pid}.sock"));
    assert!(socket.exists(), "killed -9, it could not tidy up");
    assert_eq!(place.tell(&["status"]).status.code(), Some(4));
    assert!(!socket.exists(), "whoever looks next does");
}

#[test]
fn a_sender_is_limited_paused_and_resumed_and_a_receiver_refuses() {
    let place = Place::new();
    let (source, target) = (place.0.source(24 * MIB, 24), place.0.path("blank"));
    fs::write(&target, vec![0; 24 * MIB]).unwrap();
    let code = place.0.path("code").display().to_string();
    let mut receive = place.command(&["receive", "--listen", "127.0.0.1:0", "--code-file", &code]);
    receive.arg(&target);
    let mut receiver = Running::spawn(receive);
    let address = receiver.wait_for("listening on").trim_start_matches("listening on ").to_owned();
    let receiver_pid = receiver.child.id().to_string();
    place.status(&receiver_pid, "listening");

    let mut send = place.command(&["send", "--limit", "1K", "--code-file", &code, &address]);
    send.arg(&source);
    let mut sender = Running::spawn(send);
    let pid = sender.child.id().to_string();
    place.status(&pid, "running");
    place.status(&receiver_pid, "running");
    for word in ["pause", "resume"] {
        let refused = place.tell(&[word, &receiver_pid]);
        assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
        assert!(text(&refused).contains("pause at the sender"), "{}", text(&refused));
    }
    assert_eq!(place.tell(&["pause", &pid]).status.code(), Some(0));
    assert_eq!(place.tell(&["limit", "00:00-24:00=9M", &pid]).status.code(), Some(0));
    let status = place.status(&pid, "paused");
    assert_eq!(status["limit"]["limit"], "00:00-24:00=9M,else=none");
    assert_eq!(status["limit"]["now"], 9 << 20);
    assert!(status["peer"].as_str().is_some_and(|peer| !peer.is_empty()), "{status}");
    assert_eq!(place.tell(&["limit", "none", &pid]).status.code(), Some(0));
    assert_eq!(place.tell(&["resume", &pid]).status.code(), Some(0));
    assert_eq!(sender.child.wait().unwrap().code(), Some(0));
    assert_eq!(receiver.child.wait().unwrap().code(), Some(0));
    assert!(same(&source, &target));
}

#[test]
fn windows_are_of_local_time() {
    let place = Place::new();
    let source = place.0.source(12 * MIB, 25);
    let hour = |zone: &str| {
        let date = Command::new("date").env("TZ", zone).arg("+%H").output().unwrap();
        String::from_utf8(date.stdout).unwrap().trim().parse::<u32>().unwrap()
    };
    // From an hour before to two after, there: whatever the test takes, it is within; and never in both zones.
    let there = "Asia/Tokyo";
    let now = hour(there);
    let window = format!("{:02}:00-{:02}:00=2K,else=1K", (now + 23) % 24, (now + 2) % 24);
    for (zone, expected) in [(there, 2048), ("UTC", 1024)] {
        let mut command = place.command(&["copy", "--read-limit", &window]);
        command.env("TZ", zone).arg(&source).arg(place.0.path(&zone.replace('/', "-")));
        let copy = Running::spawn(command);
        let status = place.status(&copy.child.id().to_string(), "running");
        assert_eq!(status["read_limit"]["now"], expected, "{zone}: {window}");
        let offset = if zone == there { "+09:00" } else { "+00:00" };
        assert!(status["local_time"].as_str().unwrap().ends_with(offset), "{status}");
    }
}

#[test]
fn windows_are_refused_where_the_zone_is_misspelt() {
    let place = Place::new();
    let source = place.0.source(12 * MIB, 29);
    let copy = |limit: &str, name: &str| {
        let mut command = place.command(&["copy", "--read-limit", limit]);
        command.env("TZ", "Asia/Tokio").arg(&source).arg(place.0.path(name));
        command
    };
    let refused = copy("08:00-18:00=1K", "refused").output().unwrap();
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("TZ is \"Asia/Tokio\""), "{}", text(&refused));
    assert!(!place.0.path("refused").exists(), "before anything is made");
    // Without windows the zone does not matter, until they are asked for.
    let running = Running::spawn(copy("1K", "taken"));
    let pid = running.child.id().to_string();
    place.status(&pid, "running");
    let refused = place.tell(&["limit", "--read", "08:00-18:00=1K"]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("Asia/Tokio"), "{}", text(&refused));
    assert_eq!(place.status(&pid, "running")["read_limit"]["limit"], "1K");
}

/// Nice value and disk class of every thread of a process.
fn priorities(pid: &str) -> Vec<(String, String)> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_thread = |thread: PathBuf| {
        let stat = fs::read_to_string(thread.join("stat")).ok()?;
        // The name, in parentheses, may hold anything; nice is the 19th field.
        let nice = stat.rsplit_once(") ")?.1.split(' ').nth(16)?.to_owned();
        let ionice = Command::new("ionice").arg("-p").arg(thread.file_name()?).output().unwrap();
        Some((nice, String::from_utf8(ionice.stdout).unwrap().trim().to_owned()))
    };
    threads.filter_map(|thread| of_thread(thread.unwrap().path())).collect()
}

#[test]
fn a_priority_is_that_of_every_thread() {
    let place = Place::new();
    let source = place.0.source(12 * MIB, 26);
    let ours = priorities(&std::process::id().to_string()).remove(0);
    for (priority, nice, class) in [
        ("low", "19", "best-effort: prio 7"),
        ("idle", "19", "idle"),
        ("normal", ours.0.as_str(), ours.1.as_str()),
    ] {
        let (_copy, pid, _) = place.copy(&source, priority, &["--priority", priority]);
        let threads = priorities(&pid);
        // The one that began, the control socket's, and a reader for each 8 MiB begun.
        assert!(threads.len() >= 4, "the readers are there: {threads:?}");
        for thread in threads {
            assert_eq!((thread.0.as_str(), thread.1.as_str()), (nice, class), "{priority}");
        }
    }
}

/// Who started it in the idle class wants that; "low" is no way out of it.
#[test]
fn a_priority_is_never_raised() {
    let place = Place::new();
    let source = place.0.source(12 * MIB, 30);
    let mut command = Command::new("ionice");
    command.args([
        "-c",
        "3",
        env!("CARGO_BIN_EXE_gantry"),
        "copy",
        "--priority",
        "low",
        "--read-limit",
        "1K",
    ]);
    command.env("GANTRY_RUN_DIR", place.run()).arg(&source).arg(place.0.path("idle"));
    let running = Running::spawn(command);
    let pid = running.child.id().to_string();
    place.status(&pid, "running");
    assert!(priorities(&pid).iter().all(|(nice, class)| (nice.as_str(), class.as_str()) == ("19", "idle")));
}

#[test]
fn limits_that_make_no_sense_are_refused_before_anything_starts() {
    let place = Place::new();
    let source = place.0.source(9 * MIB, 27);
    let target = place.0.path("never");
    for (flag, limit, why) in [
        ("--read-limit", "20MB", "no rate"),
        ("--read-limit", "08:00-12:00=1M,11:00-13:00=2M", "overlaps another window at 11:00"),
        ("--read-limit", "0", "gantry pause"),
        ("--priority", "lowest", "invalid value"),
    ] {
        let mut command = place.command(&["copy", flag, limit]);
        let output = command.arg(&source).arg(&target).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{limit}: {}", text(&output));
        assert!(text(&output).contains(why), "{limit}: {}", text(&output));
    }
    assert!(!target.exists());
}
