//! A libFuzzer campaign against the entry that GANTRY_FUZZ names.
#![no_main]

use std::sync::OnceLock;

use gantry_fuzz::Entry;
use libfuzzer_sys::fuzz_target;

static ENTRY: OnceLock<Entry> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let entry = ENTRY.get_or_init(|| {
        let name = std::env::var("GANTRY_FUZZ").unwrap_or_default();
        gantry_fuzz::entry(&name).unwrap_or_else(|| panic!("GANTRY_FUZZ={name}: no such entry"))
    });
    entry(bytes);
});
