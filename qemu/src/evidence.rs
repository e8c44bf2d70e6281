//! What a run leaves behind: one directory a test, with serial logs, screenshots, timings and command lines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Names another place for the evidence of all tests.
const PLACE: &str = "GANTRY_EVIDENCE";

/// The evidence of one test; clones share it.
#[derive(Clone, Debug)]
pub struct Evidence {
    directory: PathBuf,
    timings: Arc<Mutex<BTreeMap<String, f64>>>,
}

impl Evidence {
    /// An empty directory `name` below `GANTRY_EVIDENCE`, by default below `target/evidence` of the workspace.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let root = match std::env::var_os(PLACE) {
            Some(place) => PathBuf::from(place),
            None => workspace()?.join("target/evidence"),
        };
        Self::at(&root.join(name))
    }

    fn at(directory: &Path) -> Result<Self> {
        if directory.exists() {
            std::fs::remove_dir_all(directory)
                .with_context(|| format!("removing the last run's {}", directory.display()))?;
        }
        std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        Ok(Self { directory: directory.into(), timings: Arc::default() })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A path in the directory that is not taken yet: `NAME`, or `NAME-2` and so on before the extension.
    #[must_use]
    pub fn file(&self, stem: &str, extension: &str) -> PathBuf {
        let mut path = self.directory.join(format!("{stem}.{extension}"));
        for number in 2.. {
            if !path.exists() {
                break;
            }
            path = self.directory.join(format!("{stem}-{number}.{extension}"));
        }
        path
    }

    /// Writes one text file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Keeps how long a phase took; `timings.json` holds all phases of the test, in seconds.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn time(&self, phase: &str, took: Duration) -> Result<()> {
        let mut timings = self.timings.lock().unwrap_or_else(PoisonError::into_inner);
        timings.insert(phase.into(), (took.as_secs_f64() * 10.0).round() / 10.0);
        self.write("timings.json", &serde_json::to_string_pretty(&*timings).context("writing timings")?)
    }
}

/// Times the phases of a run, one after the other.
#[derive(Debug)]
pub struct Stopwatch {
    evidence: Evidence,
    since: Instant,
    start: Instant,
}

impl Stopwatch {
    /// Begins the first phase now.
    #[must_use]
    pub fn start(evidence: &Evidence) -> Self {
        let now = Instant::now();
        Self { evidence: evidence.clone(), since: now, start: now }
    }

    /// Ends the running phase under this name and begins the next one.
    ///
    /// # Errors
    /// When the timings cannot be written.
    pub fn lap(&mut self, phase: &str) -> Result<()> {
        let now = Instant::now();
        self.evidence.time(phase, now - self.since)?;
        self.evidence.time("total", now - self.start)?;
        self.since = now;
        Ok(())
    }
}

/// The directory of the workspace: the nearest one above with a `Cargo.lock`, or the current one.
fn workspace() -> Result<PathBuf> {
    let here = std::env::current_dir().context("asking for the current directory")?;
    let found = here.ancestors().find(|directory| directory.join("Cargo.lock").exists());
    Ok(found.map_or_else(|| here.clone(), Path::to_path_buf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_starts_empty_and_never_overwrites_its_own_files() {
        let root = tempfile::tempdir().unwrap();
        let evidence = Evidence::at(&root.path().join("test")).unwrap();
        evidence.write("screen.png", "").unwrap();
        assert_eq!(evidence.file("screen", "png").file_name().unwrap(), "screen-2.png");
        let again = Evidence::at(&root.path().join("test")).unwrap();
        assert_eq!(again.file("screen", "png").file_name().unwrap(), "screen.png");
    }

    #[test]
    fn timings_are_seconds_by_phase() {
        let root = tempfile::tempdir().unwrap();
        let evidence = Evidence::at(&root.path().join("test")).unwrap();
        evidence.time("copy", Duration::from_millis(1234)).unwrap();
        Stopwatch::start(&evidence).lap("boot").unwrap();
        let text = std::fs::read_to_string(evidence.directory().join("timings.json")).unwrap();
        let read: BTreeMap<String, f64> = serde_json::from_str(&text).unwrap();
        assert_eq!(read["copy"], 1.2);
        assert!(read.contains_key("boot") && read.contains_key("total"));
    }
}
