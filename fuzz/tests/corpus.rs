//! Replays the corpus: what a campaign has found stays found.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use gantry_fuzz::{ENTRIES, Entry};

/// The inputs under `corpus/<name>` that the entry does not survive, and how many there are.
fn replay(name: &str, entry: Entry) -> (Vec<String>, usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let fails = |path: &&std::path::PathBuf| {
        let bytes = fs::read(path).unwrap();
        catch_unwind(|| entry(&bytes)).is_err()
    };
    let failed = paths.iter().filter(fails).map(|path| path.display().to_string()).collect();
    (failed, paths.len())
}

#[test]
fn every_kept_input_is_survived() {
    for (name, entry) in ENTRIES {
        let (failed, count) = replay(name, *entry);
        assert!(count > 0, "no corpus for {name}");
        assert_eq!(failed, [""; 0], "{name}");
        println!("{name}: {count} inputs");
    }
}

/// The negative control: an entry that does not survive an input is found.
#[test]
fn an_entry_that_panics_is_found() {
    let (failed, count) = replay("code", |bytes| assert!(!bytes.contains(&b'X'), "as it was meant to"));
    assert!(!failed.is_empty() && failed.len() < count, "{failed:?}");
}
