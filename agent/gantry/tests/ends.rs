//! The command itself: what it refuses.
#![allow(clippy::unwrap_used, reason = "tests")]

mod scratch;

use std::fs;
use std::path::Path;

use scratch::*;

#[test]
fn a_disk_that_carries_something_is_refused_until_it_is_named() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.source(20 * MIB, 1), scratch.old_disk(20 * MIB));
    let before = fs::read(&target).unwrap();

    let refused = gantry(&["copy"], &[&source, &target]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    for part in ["GPT", "payroll", "ext4", "salaries", "--erase"] {
        assert!(text(&refused).contains(part), "the refusal shows {part}: {}", text(&refused));
    }
    assert!(fs::read(&target).unwrap() == before, "refused and untouched");

    let erase = target.display().to_string();
    let copied = gantry(&["copy", "--erase", &erase], &[&source, &target]);
    assert_eq!(copied.status.code(), Some(0), "{}", text(&copied));
    assert!(same(&source, &target));
    assert_eq!(gantry(&["verify"], &[&source, &target]).status.code(), Some(0));
}

#[test]
fn a_target_of_receive_that_carries_something_is_refused_untouched() {
    let scratch = Scratch::new();
    let target = scratch.old_disk(20 * MIB);
    let before = fs::read(&target).unwrap();
    let refused = gantry(&["receive", "--listen", "127.0.0.1:0"], &[&target]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("salaries"), "{}", text(&refused));
    assert!(fs::read(&target).unwrap() == before);
}

#[test]
fn what_may_be_erased_must_be_a_target() {
    let scratch = Scratch::new();
    let target = scratch.old_disk(20 * MIB);
    let before = fs::read(&target).unwrap();
    for option in ["--erase", "--base"] {
        let refused = gantry(&["receive", "--listen", "127.0.0.1:0", option], &[&target]);
        assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
        assert!(text(&refused).contains("name it as a disk, too"), "{}", text(&refused));
    }
    assert!(fs::read(&target).unwrap() == before);
}

/// A receiver on an old disk with the right code in `code`, and where it listens; a file with another code in `other`.
fn waiting(scratch: &Scratch, target: &Path, more: &[&str]) -> (Running, String) {
    for (name, letter) in [("code", 1), ("other", 2)] {
        fs::write(scratch.path(name), gantry_wire::Code::from_random([letter; 10]).reveal()).unwrap();
    }
    let (code, erase) = (scratch.path("code").display().to_string(), target.display().to_string());
    let mut arguments = vec!["receive", "--listen", "127.0.0.1:0", "--code-file", &code, "--erase", &erase];
    arguments.extend(more);
    let receiver = Running::start(&arguments, &[target]);
    let line = receiver.wait_for("listening on");
    (receiver, line.trim_start_matches("listening on ").to_owned())
}

#[test]
fn a_wrong_code_is_refused_at_both_ends_and_nothing_changes() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.source(9 * MIB, 5), scratch.old_disk(9 * MIB));
    let before = (fs::read(&source).unwrap(), fs::read(&target).unwrap());
    let (mut receiver, address) = waiting(&scratch, &target, &[]);
    let wrong = scratch.path("other").display().to_string();
    for left in (0..5).rev() {
        let refused = gantry(&["send", "--code-file", &wrong, &address], &[&source]);
        assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
        let said = text(&refused);
        let words = match left {
            0 => "no try left".to_owned(),
            1 => "1 try left".to_owned(),
            _ => format!("{left} tries left"),
        };
        assert!(said.contains(&format!("wrong pairing code ({words})")), "{said}");
        let hinted = said.contains("started again without --code-file has a new code: start send again");
        assert_eq!(hinted, left > 0, "{said}");
    }
    receiver.wait_for("this code is void: start the receiver again: it makes a new code");
    assert_eq!(receiver.child.wait().unwrap().code(), Some(3));
    assert!(!scratch.path("code").exists(), "the void code comes back to life");
    assert!(before == (fs::read(&source).unwrap(), fs::read(&target).unwrap()), "an end has changed");
}

#[test]
fn an_expired_code_is_refused_at_both_ends_and_nothing_changes() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.source(9 * MIB, 6), scratch.old_disk(9 * MIB));
    let before = (fs::read(&source).unwrap(), fs::read(&target).unwrap());
    // The right code, and no time for it.
    let (mut receiver, address) = waiting(&scratch, &target, &["--code-valid", "0"]);
    let code = scratch.path("code").display().to_string();
    let refused = gantry(&["send", "--code-file", &code, &address], &[&source]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(
        text(&refused).contains("the pairing code has expired: start receive again"),
        "{}",
        text(&refused)
    );
    receiver.wait_for("the pairing code has expired: start the receiver again: it makes a new code");
    assert_eq!(receiver.child.wait().unwrap().code(), Some(3));
    assert!(!scratch.path("code").exists(), "the expired code comes back to life");
    assert!(before == (fs::read(&source).unwrap(), fs::read(&target).unwrap()), "an end has changed");
    // With time, the same code is good.
    let (mut receiver, address) = waiting(&scratch, &target, &[]);
    let sent = gantry(&["send", "--code-file", &code, &address], &[&source]);
    assert_eq!(sent.status.code(), Some(0), "{}", text(&sent));
    assert_eq!(receiver.child.wait().unwrap().code(), Some(0));
    assert!(same(&source, &target));
}

#[test]
fn verify_tells_where_two_ends_differ() {
    let scratch = Scratch::new();
    let source = scratch.source(9 * MIB, 2);
    let other = scratch.path("other");
    let mut bytes = fs::read(&source).unwrap();
    bytes[5 * MIB + 3] ^= 1;
    fs::write(&other, bytes).unwrap();
    let output = gantry(&["verify"], &[&source, &other]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output).contains("byte 5242880"), "{}", text(&output));
}

#[test]
fn a_disk_is_not_copied_onto_itself() {
    let scratch = Scratch::new();
    let source = scratch.source(3 * MIB, 3);
    let before = fs::read(&source).unwrap();
    let erase = source.display().to_string();
    let output = gantry(&["copy", "--erase", &erase], &[&source, &source]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(fs::read(&source).unwrap() == before);
}

/// The target is taken before it is looked at: what another Gantry is writing says nothing about what it will be.
#[test]
fn a_target_that_is_refused_is_let_go_and_unchanged() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.source(9 * MIB, 4), scratch.old_disk(9 * MIB));
    let before = (fs::read(&target).unwrap(), fs::metadata(&target).unwrap().modified().unwrap());
    let holder = fs::File::open(&target).unwrap();
    holder.lock().unwrap();
    let held = gantry(&["copy"], &[&source, &target]);
    assert_eq!(held.status.code(), Some(3), "{}", text(&held));
    assert!(text(&held).contains("another Gantry is using"), "{}", text(&held));
    assert!(!text(&held).contains("salaries"), "looked at before it was taken: {}", text(&held));
    drop(holder);
    for _ in 0..2 {
        let refused = gantry(&["copy"], &[&source, &target]);
        assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
        assert!(text(&refused).contains("salaries"), "{}", text(&refused));
    }
    let after = (fs::read(&target).unwrap(), fs::metadata(&target).unwrap().modified().unwrap());
    assert!(before == after, "the bytes, or the time of the last write, have changed");
}

/// Two disks as a receiver leaves them that dies between the last writes of a commit: the boot disk still has its label, the
/// other one is finished.
#[test]
fn a_finished_disk_of_an_unfinished_session_is_taken_up_again() {
    use gantry_disk::label::{Label, LabelStage};
    let scratch = Scratch::new();
    let code = gantry_wire::Code::from_random([9; 10]);
    let (code_file, other_file) = (scratch.path("code"), scratch.path("other"));
    fs::write(&code_file, code.reveal()).unwrap();
    fs::write(&other_file, gantry_wire::Code::from_random([8; 10]).reveal()).unwrap();
    let label = |disk| Label {
        session: [7; 16],
        job: gantry_wire::code::job(&code),
        stage: LabelStage::Committing,
        epoch: 1,
        disk,
        disks: 2,
        source_size: 9 << 20,
        sector_size: 512,
        map: String::new(),
    };
    let (boot, finished) = (scratch.path("boot"), scratch.old_disk(9 * MIB));
    let mut bytes = vec![0; 9 * MIB];
    bytes[..512].copy_from_slice(&label(0).sector_0(512));
    fs::write(&boot, &bytes).unwrap();
    let mut bytes = fs::read(&finished).unwrap();
    assert!(gantry_disk::pending::put(&mut bytes[..MIB], gantry_disk::SectorSize::B512, &label(1)));
    fs::write(&finished, &bytes).unwrap();

    let receive = |file: &Path, disks: &[&Path]| {
        let file = file.display().to_string();
        let running = Running::start(&["receive", "--listen", "127.0.0.1:0", "--code-file", &file], disks);
        disks.iter().map(|_| running.wait_for("disk /")).collect::<Vec<_>>()
    };
    let taken = receive(&code_file, &[&boot, &finished]);
    assert!(taken.iter().all(|line| line.contains("may take a replica")), "{taken:?}");
    let alone = receive(&code_file, &[&finished]);
    assert!(alone[0].contains("refused, because it is not blank"), "without its boot disk: {alone:?}");
    let other = receive(&other_file, &[&boot, &finished]);
    assert!(other.iter().all(|line| line.contains("not blank")), "another code: {other:?}");
    assert!(fs::read(&finished).unwrap() == bytes);
}

#[test]
fn an_address_that_cannot_be_one_is_not_dialled() {
    let scratch = Scratch::new();
    let source = scratch.source(3 * MIB, 7);
    let code = scratch.path("code");
    fs::write(&code, gantry_wire::Code::from_random([1; 10]).reveal()).unwrap();
    let code = code.display().to_string();
    let refused = gantry(&["send", "--code-file", &code, "10.0.2.300"], &[&source]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("'10.0.2.300' cannot be an address"), "{}", text(&refused));
}

/// What only a person can change ends with 3: nothing that restarts a program in vain may try it again.
#[test]
fn codes_and_addresses_that_cannot_be_used_are_refusals() {
    let scratch = Scratch::new();
    let source = scratch.source(3 * MIB, 8);
    let (target, file) = (scratch.path("blank"), scratch.path("code"));
    fs::write(&target, vec![0; 4 * MIB]).unwrap();
    let file_name = file.display().to_string();
    let send = || gantry(&["send", "--code-file", &file_name, "127.0.0.1:9"], &[&source]);
    let receive =
        |listen: &str| gantry(&["receive", "--code-file", &file_name, "--listen", listen], &[&target]);
    let refused = |output: &std::process::Output, part: &str| {
        assert_eq!(output.status.code(), Some(3), "{}", text(output));
        assert!(text(output).contains(part), "{}", text(output));
    };
    refused(&send(), "No such file");
    refused(&gantry(&["send", "127.0.0.1:9"], &[&source]), "no terminal to ask for the pairing code");
    fs::write(&file, "BCDE").unwrap();
    refused(&send(), "a pairing code has 20 letters");
    refused(&receive("127.0.0.1:0"), "remove it for a new code");
    fs::remove_file(&file).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = receive(&taken.local_addr().unwrap().to_string());
    refused(&output, "take another port: --listen 127.0.0.1:");
    assert!(!text(&output).contains("pairing code"), "a code that is good for nothing: {}", text(&output));
}

/// What can be known before is told before: not when hours have been spent.
#[test]
fn a_place_that_cannot_take_the_report_is_known_before_anything_begins() {
    let scratch = Scratch::new();
    let (source, target) = (scratch.source(3 * MIB, 9), scratch.path("new"));
    let nowhere = scratch.path("nodir/report").display().to_string();
    let directory = scratch.path("").display().to_string();
    for (place, part) in [(&nowhere, "there is no such directory"), (&directory, "is a directory")] {
        let refused = gantry(&["copy", "--report", place], &[&source, &target]);
        assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
        assert!(text(&refused).contains(part), "{}", text(&refused));
        assert!(!target.exists(), "something has begun");
        let refused = gantry(&["image", "iso", "--output", place], &[]);
        assert!(!refused.status.success() && text(&refused).contains(part), "{}", text(&refused));
    }
    let report = scratch.path("report").display().to_string();
    let copied = gantry(&["copy", "--report", &report], &[&source, &target]);
    assert_eq!(copied.status.code(), Some(0), "{}", text(&copied));
    let left: Vec<_> =
        fs::read_dir(scratch.path("")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "source, copy and report: {left:?}");
}

#[test]
fn a_name_that_is_no_disk_says_what_it_is_instead() {
    let scratch = Scratch::new();
    let (source, missing) = (scratch.source(3 * MIB, 10), scratch.path("missing.img"));
    let directory = scratch.path("");
    for (output, part) in [
        (gantry(&["copy"], &[&missing, &scratch.path("x")]), "missing.img: no such file"),
        (gantry(&["copy"], &[&directory, &scratch.path("x")]), "is a directory"),
        (gantry(&["verify"], &[&source, &directory]), "is a directory"),
    ] {
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
        assert!(text(&output).contains(part), "{}", text(&output));
    }
}

#[test]
fn a_target_in_use_by_another_gantry_is_refused() {
    let scratch = Scratch::new();
    let target = scratch.path("target");
    fs::write(&target, vec![0; 8 * MIB]).unwrap();
    let first = Running::start(&["receive", "--listen", "127.0.0.1:0"], &[&target]);
    first.wait_for("listening on");
    let second = gantry(&["receive", "--listen", "127.0.0.1:0"], &[&target]);
    assert_eq!(second.status.code(), Some(3), "{}", text(&second));
    assert!(text(&second).contains("another Gantry is using"), "{}", text(&second));
}
