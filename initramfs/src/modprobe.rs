//! The `modprobe` applet: the gantry binary under the name by which the kernel asks for modules.
//!
//! The kernel runs `/sbin/modprobe -q -- NAME` when somebody mounts a filesystem, uses a character set, a cipher or a
//! device-mapper target that is not loaded. The same table serves it as PID 1. Each call is a process of its own, so
//! nothing but the table is shared; loading twice is harmless.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use crate::modules::{Loader, TABLE_PATH, Table};

/// Whether this process was started under the name `modprobe`.
pub fn is_called(program: Option<&OsStr>) -> bool {
    program.and_then(|program| Path::new(program).file_name()).is_some_and(|name| name == "modprobe")
}

/// Loads the named modules; flags are accepted and ignored. 0 when all were found and loaded.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let table = std::fs::read_to_string(TABLE_PATH).map_err(|error| format!("reading {TABLE_PATH}: {error}"));
    let loader = match table.and_then(|text| Table::decode(&text).map_err(|error| error.to_string())) {
        Ok(table) => Loader::new(table),
        Err(error) => {
            eprintln!("modprobe: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut quiet = false;
    let mut failed = false;
    for argument in arguments.skip(1) {
        if argument.starts_with('-') {
            quiet |= argument == "-q" || argument == "--quiet";
            continue;
        }
        let problem = match loader.load_wanted(&argument) {
            Ok(0) if !loader.table().is_builtin(&argument) => format!("{argument}: not in this image"),
            Ok(_) => continue,
            Err(error) => error.to_string(),
        };
        failed = true;
        if !quiet {
            eprintln!("modprobe: {problem}");
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_modprobe_calls_it() {
        for (program, expected) in [
            (Some("/sbin/modprobe"), true),
            (Some("modprobe"), true),
            (Some("/bin/gantry"), false),
            (Some("/sbin/modprobe.old"), false),
            (None, false),
        ] {
            assert_eq!(is_called(program.map(OsStr::new)), expected, "{program:?}");
        }
    }
}
