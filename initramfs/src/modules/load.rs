//! Loading modules in the right order, from several threads at once.
//!
//! Drivers of slow controllers block their load for seconds, so PID 1 loads from several threads. Each module is loaded
//! once: the first thread that wants it does it, others wait for the outcome. Hard needs form no cycle (depmod refuses
//! them), so waiting for them cannot lock up; soft wishes may form one, so they are never waited for.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::Table;

/// `MODULE_INIT_COMPRESSED_FILE` (Linux 5.17): the kernel unpacks the file itself, so Debian's signed `.ko.xz` go in as
/// they are and PID 1 needs no xz.
const COMPRESSED: ModuleInitFlags = ModuleInitFlags::from_bits_retain(4);
const NO_PARAMETERS: &CStr = c"";

/// A module that did not load.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum LoadError {
    /// The table does not know it.
    #[error("{0}: no such module in this image")]
    Unknown(String),
    /// Its file cannot be opened.
    #[error("{module}: opening {path}: {reason}")]
    Open {
        /// Normal name.
        module: String,
        /// The file.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// The kernel refused it.
    #[error("{module}: {errno}")]
    Refused {
        /// Normal name.
        module: String,
        /// The kernel's answer; `ENODEV` is usual and means that the hardware is not there.
        errno: Errno,
    },
    /// A module it needs did not load.
    #[error("{module}: needs {need}, which did not load")]
    Need {
        /// Normal name.
        module: String,
        /// Normal name of what is missing.
        need: String,
    },
}

#[derive(Clone)]
enum State {
    Loading,
    Done(Result<(), LoadError>),
}

/// Loads modules by the table. Shared by reference between threads.
pub struct Loader {
    table: Table,
    directory: PathBuf,
    states: Mutex<HashMap<String, State>>,
    changed: Condvar,
}

impl Loader {
    /// A loader for the modules of `table` below `/usr/lib/modules`.
    pub fn new(table: Table) -> Loader {
        let directory = PathBuf::from("/usr/lib/modules").join(&table.release);
        Loader { table, directory, states: Mutex::default(), changed: Condvar::new() }
    }

    /// The table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// How many modules were loaded so far.
    pub fn loaded(&self) -> usize {
        self.states().values().filter(|state| matches!(state, State::Done(Ok(())))).count()
    }

    /// Loads everything `wanted` (name or alias) stands for. Nothing found is no error: most devices have no driver here.
    pub fn load_wanted(&self, wanted: &str) -> Result<usize, LoadError> {
        let names = self.table.resolve(wanted);
        let mut outcome = Ok(names.len());
        for name in names {
            if let Err(error) = self.load(name) {
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Loads one module by its normal name, after what it needs.
    pub fn load(&self, name: &str) -> Result<(), LoadError> {
        {
            let mut states = self.states();
            loop {
                match states.get(name) {
                    None => break,
                    Some(State::Done(outcome)) => return outcome.clone(),
                    Some(State::Loading) => {
                        states = self.changed.wait(states).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
            states.insert(name.to_owned(), State::Loading);
        }
        let outcome = self.load_now(name);
        self.states().insert(name.to_owned(), State::Done(outcome.clone()));
        self.changed.notify_all();
        if outcome.is_ok() {
            self.wishes(self.table.modules.get(name).map_or(&[][..], |module| &module.wants_after));
        }
        outcome
    }

    fn load_now(&self, name: &str) -> Result<(), LoadError> {
        let Some(module) = self.table.modules.get(name) else {
            return if self.table.is_builtin(name) {
                Ok(())
            } else {
                Err(LoadError::Unknown(name.to_owned()))
            };
        };
        self.wishes(&module.wants_before);
        // depmod lists all needs, the deepest last.
        for need in module.needs.iter().rev() {
            self.load(need).map_err(|_| LoadError::Need { module: name.to_owned(), need: need.clone() })?;
        }
        let path = self.directory.join(&module.path);
        let file = File::open(&path).map_err(|error| LoadError::Open {
            module: name.to_owned(),
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        match finit_module(file, NO_PARAMETERS, COMPRESSED) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(LoadError::Refused { module: name.to_owned(), errno }),
        }
    }

    /// Soft dependencies: tried, their failure is nobody's.
    fn wishes(&self, names: &[String]) {
        for name in names {
            if !self.states().contains_key(name) {
                // A wish that fails is by definition not needed.
                let _ = self.load(name);
            }
        }
    }

    fn states(&self) -> MutexGuard<'_, HashMap<String, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
