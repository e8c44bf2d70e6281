//! Targets that are larger than their source.
#![allow(clippy::unwrap_used, reason = "tests")]

mod scratch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use scratch::*;

/// A disk with a GPT; `damage` is a byte that is changed in it.
fn source(scratch: &Scratch, damage: Option<usize>) -> PathBuf {
    let old = scratch.old_disk(9 * MIB);
    let source = scratch.path("source");
    let mut bytes = fs::read(&old).unwrap();
    if let Some(at) = damage {
        bytes[at] ^= 0xff;
    }
    fs::write(&source, bytes).unwrap();
    source
}

fn blank(scratch: &Scratch, name: &str, size: usize) -> PathBuf {
    let path = scratch.path(name);
    fs::write(&path, vec![0; size]).unwrap();
    path
}

fn is_blank(path: &Path) -> bool {
    fs::read(path).unwrap().iter().all(|byte| *byte == 0)
}

/// A byte of the primary header, and one of its entries.
const DAMAGES: [usize; 2] = [512 + 40, 1024 + 8];

#[test]
fn copy_refuses_a_damaged_table_before_the_first_byte() {
    let scratch = Scratch::new();
    for at in DAMAGES {
        let source = source(&scratch, Some(at));
        let target = blank(&scratch, "larger", 12 * MIB);
        let refused = gantry(&["copy"], &[&source, &target]);
        assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
        assert!(text(&refused).contains("repair it on the source first"), "{}", text(&refused));
        assert!(text(&refused).contains(source.to_str().unwrap()), "{}", text(&refused));
        assert!(is_blank(&target), "damage at {at}: the target was written");
        // Of the same size nothing has to be moved, and a damaged table is copied as it is.
        let same = blank(&scratch, "same", 9 * MIB);
        let copied = gantry(&["copy"], &[&source, &same]);
        assert_eq!(copied.status.code(), Some(0), "{}", text(&copied));
    }
}

#[test]
fn a_sound_table_is_moved() {
    let scratch = Scratch::new();
    let (source, target) = (source(&scratch, None), blank(&scratch, "larger", 12 * MIB));
    let copied = gantry(&["copy"], &[&source, &target]);
    assert_eq!(copied.status.code(), Some(0), "{}", text(&copied));
    let checked = Command::new("sgdisk").arg("-v").arg(&target).output().unwrap();
    assert!(text(&checked).contains("No problems found"), "{}", text(&checked));
}

#[test]
fn send_refuses_a_damaged_table_before_the_first_byte_and_says_so_to_both() {
    let scratch = Scratch::new();
    let (source, target) = (source(&scratch, Some(DAMAGES[0])), blank(&scratch, "larger", 12 * MIB));
    let code = scratch.path("code").display().to_string();
    let receiver = Running::start(&["receive", "--listen", "127.0.0.1:0", "--code-file", &code], &[&target]);
    let line = receiver.wait_for("listening on");
    let address = line.rsplit(' ').next().unwrap();
    let refused = gantry(&["send", "--code-file", &code, address], &[&source]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused));
    assert!(text(&refused).contains("repair it on the source first"), "{}", text(&refused));
    receiver.wait_for("the sender gives up");
    assert!(is_blank(&target));
}
