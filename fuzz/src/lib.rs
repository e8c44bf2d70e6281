//! Everything that takes bytes from outside, one entry each: they must neither panic nor hang nor take without bound, and
//! what they accept they must give back as they took it.
//!
//! `scripts/fuzz` runs campaigns with libFuzzer (the crate in `libfuzzer/`, outside the workspace). What is kept under
//! `corpus/`, a folder an entry, is replayed by this crate's test.

mod disk;
mod text;
mod wire;

/// An entry: takes any bytes; panics where something is wrong.
pub type Entry = fn(&[u8]);

/// All entries by name.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("message", wire::message),
    ("chunk", wire::chunk),
    ("report", wire::report),
    ("facts", wire::facts),
    ("table", disk::table),
    ("head", disk::head),
    ("code", text::code),
    ("cmdline", text::cmdline),
    ("config", text::config),
    ("plan", text::plan),
];

/// Finds an entry.
pub fn entry(name: &str) -> Option<Entry> {
    ENTRIES.iter().find(|(known, _)| *known == name).map(|(_, entry)| *entry)
}
