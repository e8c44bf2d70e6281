//! `--json`: every line on stdout is one JSON object, whatever happens.
#![allow(clippy::unwrap_used, reason = "tests")]

mod scratch;

use std::fs;
use std::process::Output;

use scratch::*;
use serde_json::Value;

/// Every line as an event; the names of all. Panics at the first line that is none.
fn names(stdout: &str) -> Vec<String> {
    let event = |line: &str| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        value["event"].as_str().unwrap_or_else(|| panic!("no event: {line}")).to_owned()
    };
    stdout.lines().map(event).collect()
}

fn last(output: &Output) -> Value {
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    names(&stdout);
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_plain_line_would_be_found() {
    assert!(std::panic::catch_unwind(|| names("pairing code: BCDE")).is_err());
    assert!(std::panic::catch_unwind(|| names("{\"code\":\"BCDE\"}")).is_err());
}

#[test]
fn a_crossing_is_events_alone() {
    let scratch = Scratch::new();
    let source = scratch.source(12 * MIB, 5);
    let (target, full) = (scratch.path("blank"), scratch.old_disk(12 * MIB));
    fs::write(&target, vec![0; 12 * MIB]).unwrap();
    let mut receiver = Running::start(&["receive", "--json", "--listen", "127.0.0.1:0"], &[&target, &full]);
    let mut lines = Vec::new();
    let mut until = |name: &str| loop {
        let line = receiver.wait_for("");
        names(&line);
        lines.push(line.clone());
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["event"] == name {
            return event;
        }
    };
    assert_eq!(until("target")["refusal"], "");
    assert!(until("target")["refusal"].as_str().unwrap().contains("salaries"));
    let code = until("code");
    assert_eq!(code["valid"], 720 * 60);
    let file = scratch.path("code");
    fs::write(&file, code["code"].as_str().unwrap()).unwrap();
    let address = until("listening")["address"].as_str().unwrap().to_owned();
    let file = file.display().to_string();
    let sent = gantry(&["send", "--json", "--code-file", &file, &address], &[&source]);
    assert_eq!(sent.status.code(), Some(0), "{}", text(&sent));
    let done = last(&sent);
    assert_eq!(done["event"], "done");
    assert_eq!(done["report"]["disks"][0]["target"]["path"], target.display().to_string());
    assert!(done["wire_bytes"].as_u64().unwrap() > 0);
    assert_eq!(until("done")["report"]["disks"][0]["root"], done["report"]["disks"][0]["root"]);
    assert_eq!(receiver.child.wait().unwrap().code(), Some(0));
    assert!(same(&source, &target));
}

#[test]
fn refusals_and_outcomes_are_events_too() {
    let scratch = Scratch::new();
    let (source, full) = (scratch.source(9 * MIB, 6), scratch.old_disk(9 * MIB));
    let made = scratch.path("made");
    for (arguments, paths, event, code) in [
        (&["receive", "--json", "--listen", "127.0.0.1:0"][..], &[&*full][..], "failed", 3),
        (&["copy", "--json"], &[&*source, &*full], "failed", 3),
        (&["copy", "--json"], &[&*source, &*made], "done", 0),
        (&["send", "--json", "127.0.0.1:1", "--code-file", "/nonexistent"], &[&*source], "failed", 3),
        (&["send", "--json", "127.0.0.1:1"], &[&*source], "failed", 3),
        (&["receive", "--json", "--code-file", "/nonexistent/code"], &[&*made], "failed", 1),
        (&["verify", "--json"], &[&*source, &*made], "compared", 0),
        (&["verify", "--json"], &[&*source, &*full], "compared", 4),
        (&["verify", "--json"], &[&*source, &*scratch.path("missing")], "failed", 3),
    ] {
        let output = gantry(arguments, paths);
        let last = last(&output);
        assert_eq!(
            (last["event"].as_str().unwrap(), output.status.code()),
            (event, Some(code)),
            "{arguments:?}: {last}"
        );
        if event == "failed" {
            assert_eq!(last["exit_code"], code);
        }
    }
}

/// `repair` and `inspect` print one document, and nothing beside it.
#[test]
fn documents_stand_alone() {
    let scratch = Scratch::new();
    let full = scratch.old_disk(9 * MIB);
    let inspected = gantry(&["inspect", "--json"], &[&full]);
    let document: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert!(document["gantry_inspect"].is_number(), "{document}");
    for arguments in [&["repair", "--json"][..], &["repair", "--json", "--undo"]] {
        let output = gantry(arguments, &[&full]);
        assert_ne!(output.status.code(), Some(0), "{}", text(&output));
        assert_eq!(output.stdout, b"", "what went wrong is on stderr: {}", text(&output));
    }
}
