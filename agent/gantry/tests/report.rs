//! Reports as a person keeps and checks them: made by both ends, signed, and held against disks later.
#![allow(clippy::unwrap_used, reason = "tests")]

mod scratch;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use scratch::*;
use serde_json::Value;

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// `gantry verify --report`: exit code, and what it said.
fn check(report: &Path, disks: &[&Path]) -> (Option<i32>, String) {
    let output = gantry(&["verify", "--report", &report.display().to_string()], disks);
    (output.status.code(), text(&output))
}

/// As an auditor checks the operator's signature.
fn ssh_accepts(scratch: &Scratch, report: &Path) -> bool {
    let public = fs::read_to_string(scratch.path("id.pub")).unwrap();
    fs::write(scratch.path("allowed"), format!("operator {public}")).unwrap();
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-Y", "verify", "-I", "operator", "-n", "gantry-report", "-f"])
        .arg(scratch.path("allowed"));
    command.arg("-s").arg(format!("{}.sig", report.display())).stdin(fs::File::open(report).unwrap());
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

fn edit(from: &Path, to: &Path, change: impl Fn(&mut Value)) {
    let mut report: Value = serde_json::from_slice(&fs::read(from).unwrap()).unwrap();
    change(&mut report);
    fs::write(to, serde_json::to_vec_pretty(&report).unwrap()).unwrap();
}

#[test]
fn both_ends_keep_the_same_signed_report_and_a_disk_is_held_against_it() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.source(80 * MIB, 21), scratch.path("target"));
    fs::write(&target, vec![0; 82 * MIB]).unwrap();
    let mut made = Command::new("ssh-keygen");
    made.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(scratch.path("id"));
    assert!(made.status().unwrap().success());
    let name = |file: &str| scratch.path(file).display().to_string();
    let (key, code) = (name("id"), name("code"));
    let kept = |end: &str| ["--report".to_owned(), name(end), "--sign-with".to_owned(), key.clone()];
    let (ours, theirs) = (kept("received"), kept("sent"));
    let with = |words: &[&str], more: &[String]| -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).chain(more.iter().cloned()).collect()
    };
    let receive = with(&["receive", "--listen", "127.0.0.1:0", "--code-file", &code], &ours);
    let receive: Vec<&str> = receive.iter().map(String::as_str).collect();
    let mut receiver = Running::start(&receive, &[&target]);
    let line = receiver.wait_for("listening on");
    let address = line.rsplit(' ').next().unwrap();
    let send = with(&["send", address, "--code-file", &code], &theirs);
    let send: Vec<&str> = send.iter().map(String::as_str).collect();
    let sent = gantry(&send, &[&source]);
    assert_eq!(sent.status.code(), Some(0), "{}", text(&sent));
    assert_eq!(receiver.child.wait().unwrap().code(), Some(0));

    let (report, other) = (scratch.path("received"), scratch.path("sent"));
    assert!(same(&report, &other), "one report");
    assert!(ssh_accepts(&scratch, &report) && ssh_accepts(&scratch, &other));
    let (status, said) = check(&report, &[]);
    assert_eq!(status, Some(0), "{said}");
    for part in [
        "signature of the source: good, by key",
        "signature of the target: good, by key",
        "boot not proven",
        "root after",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (status, said) = check(&report, &[&target]);
    assert!(status == Some(0) && said.contains("as it was committed"), "{said}");
    // The keys that verify shows are those that both ends have shown.
    let key_line = said.lines().find(|line| line.contains("of the source: good")).unwrap().to_owned();
    let source_key = key_line.rsplit(' ').next().unwrap();
    assert!(
        text(&sent).contains(&format!("key of the source in this session: {source_key}")),
        "{}",
        text(&sent)
    );

    flip(&target, 70 << 20);
    let (status, said) = check(&report, &[&target]);
    assert_eq!(status, Some(4), "{said}");
    assert!(said.contains("differs within 16777216 bytes at byte 67108864"), "{said}");
    assert!(said.contains("if this one was started or repaired since"), "{said}");
    let refused =
        gantry(&["verify", "--sign-with", &key, "--report", &report.display().to_string()], &[&target]);
    assert_eq!(refused.status.code(), Some(3), "a disk that differs is not signed for: {}", text(&refused));
    flip(&target, 70 << 20);
    assert_eq!(check(&report, &[&target]).0, Some(0));

    // A report that was changed, in a field or in a signature, and one that was signed by nobody.
    let bad = scratch.path("bad");
    for (what, status, change) in [
        (
            "BROKEN",
            Some(3),
            &(|r: &mut Value| r["report"]["target"]["name"] = "else".into()) as &dyn Fn(&mut Value),
        ),
        ("BROKEN", Some(3), &|r| r["signatures"][0]["signature"] = "00".repeat(64).into()),
        ("signature of the target: none", Some(0), &|r| r["signatures"] = Value::Array(Vec::new())),
        ("signature of the source: none", Some(0), &|r| {
            r["signatures"].as_array_mut().unwrap().retain(|one| one["by"] == "target");
        }),
        ("BROKEN", Some(3), &|r| {
            // What the target has signed, as if the source had.
            let signatures = r["signatures"].as_array_mut().unwrap();
            signatures.retain(|one| one["by"] == "target");
            let mut copied = signatures[0].clone();
            copied["by"] = "source".into();
            signatures.push(copied);
        }),
        ("version 9", Some(3), &|r| r["report"]["version"] = 9.into()),
        ("cannot be true", Some(1), &|r| r["report"]["disks"][0]["source"]["size"] = u64::MAX.into()),
    ] {
        edit(&report, &bad, change);
        let (code, said) = check(&bad, &[&target]);
        assert!(code == status && said.contains(what), "{what}: {said}");
    }
    // Who wants both signatures says so.
    let signed = |report: &Path| {
        gantry(&["verify", "--signed", "--report", &report.display().to_string()], &[&target])
    };
    assert_eq!(signed(&report).status.code(), Some(0));
    edit(&report, &bad, |r| r["signatures"] = Value::Array(Vec::new()));
    let refused = signed(&bad);
    assert!(
        refused.status.code() == Some(3) && text(&refused).contains("not signed by both"),
        "{}",
        text(&refused)
    );

    // For machines: words, not sentences.
    let json = gantry(&["verify", "--json", "--report", &bad.display().to_string()], &[&target]);
    let checked = String::from_utf8(json.stdout).unwrap();
    let checked: Value = serde_json::from_str(checked.lines().last().unwrap()).unwrap();
    assert_eq!(checked["signatures"], serde_json::json!({ "source": "none", "target": "none" }));
    assert_eq!((&checked["equal"], &checked["disks"][0]["state"]), (&true.into(), &"as committed".into()));

    fs::copy(scratch.path("received.sig"), scratch.path("bad.sig")).unwrap();
    assert!(!ssh_accepts(&scratch, &bad), "the operator's signature is not of that");

    // Another disk: too small, and one that is not in the report.
    let small = scratch.path("small");
    fs::write(&small, vec![0; 8 * MIB]).unwrap();
    let (code, said) = check(&report, &[&small]);
    assert!(code == Some(3) && said.contains("another disk"), "{said}");
    assert_eq!(check(&report, &[&target, &source]).0, Some(3), "two disks, the report has one");

    // The source itself, and a copy of the replica without the larger disk's end.
    let (code, said) = check(&report, &[&source]);
    assert!(code == Some(0) && said.contains("NOT compared"), "{said}");
    let refused = gantry(&["verify", "--sign-with", "/nonexistent", "--report", "/nonexistent"], &[&target]);
    assert!(text(&refused).contains("no such key"), "the key is tried first: {}", text(&refused));
    let blank = scratch.path("blank");
    fs::write(&blank, vec![0; 80 * MIB]).unwrap();
    assert_eq!(check(&report, &[&blank]).0, Some(4));
}

#[test]
fn a_copy_is_reported_too_and_an_operator_without_a_key_is_told_at_once() {
    let scratch = Scratch::new();
    let source = scratch.source(9 * MIB, 22);
    let (target, report) = (scratch.path("made"), scratch.path("report"));
    let name = report.display().to_string();
    let refused = gantry(&["copy", "--report", &name, "--sign-with", "/nonexistent"], &[&source, &target]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(!target.exists(), "before anything was done");
    let copied = gantry(&["copy", "--report", &name], &[&source, &target]);
    assert_eq!(copied.status.code(), Some(0), "{}", text(&copied));
    for disk in [&target, &source] {
        let (code, said) = check(&report, &[disk]);
        assert!(code == Some(0) && said.contains("signature of the source: none"), "{said}");
    }
}

/// The GPT of a larger target is moved: the source is not what was committed, and the exit code says so.
#[test]
fn the_source_of_a_changed_replica_is_not_equal() {
    let scratch = Scratch::new();
    let (source, target, report) = (scratch.path("source"), scratch.path("target"), scratch.path("report"));
    fs::write(&source, vec![0; 8 * MIB]).unwrap();
    let mut sfdisk = Command::new("/sbin/sfdisk");
    sfdisk.arg("-q").arg(&source).stdin(Stdio::piped());
    let mut sfdisk = sfdisk.spawn().unwrap();
    std::io::Write::write_all(sfdisk.stdin.as_mut().unwrap(), b"label: gpt\n,4M\n").unwrap();
    assert!(sfdisk.wait().unwrap().success());
    fs::write(&target, vec![0; 11 * MIB]).unwrap();
    let copied = gantry(&["copy", "--json", "--report", &report.display().to_string()], &[&source, &target]);
    assert_eq!(copied.status.code(), Some(0), "{}", text(&copied));
    let done = String::from_utf8(copied.stdout).unwrap();
    let done: Value = serde_json::from_str(done.lines().last().unwrap()).unwrap();
    assert_eq!(done["signatures"], serde_json::json!([]), "those of a copy: none");
    assert_eq!(check(&report, &[&target]).0, Some(0));
    let (code, said) = check(&report, &[&source]);
    assert!(code == Some(5) && said.contains("as the source was"), "{said}");
    flip(&source, 2 << 20);
    assert_eq!(check(&report, &[&source]).0, Some(4));
}

/// After the commit nothing is a refusal: the machine has crossed, and that is said first.
#[test]
fn a_report_that_cannot_be_kept_is_an_error_of_its_own() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.source(9 * MIB, 23), scratch.path("made"));
    // What is seen to be wrong before is a refusal; this device takes nothing, and says so only when it is written to.
    let copied = gantry(&["copy", "--json", "--report", "/dev/full"], &[&source, &target]);
    assert_eq!(copied.status.code(), Some(1), "{}", text(&copied));
    let said = text(&copied);
    assert!(said.contains("\"event\":\"done\"") && said.contains("the report could not be kept"), "{said}");
}
