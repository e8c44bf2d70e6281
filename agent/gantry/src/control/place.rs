//! Where the sockets are: `/run/gantry/control/PID.sock` for root, `$XDG_RUNTIME_DIR/gantry/PID.sock` for others.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid};

/// Another directory: for tests, and where /run cannot be written.
const OVERRIDE: &str = "GANTRY_RUN_DIR";
/// Entries of the directory that are looked at.
const MOST: usize = 4096;

/// This user's directory.
pub fn directory() -> Result<PathBuf> {
    if let Some(directory) = std::env::var_os(OVERRIDE) {
        return Ok(directory.into());
    }
    if geteuid().is_root() {
        return Ok("/run/gantry/control".into());
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) => Ok(Path::new(&directory).join("gantry")),
        None => bail!("XDG_RUNTIME_DIR is not set: set it, or {OVERRIDE}"),
    }
}

/// Makes the directory if need be.
pub fn prepare(directory: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("making {}", directory.display()))?;
    check(directory)
}

/// Only this user may enter: otherwise somebody else could have put a socket there.
fn check(directory: &Path) -> Result<()> {
    let name = directory.display();
    let found = fs::symlink_metadata(directory).with_context(|| format!("looking at {name}"))?;
    ensure!(found.is_dir(), "{name} is no directory");
    let own = found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0;
    ensure!(own, "{name} must belong to this user and be closed to others: chmod 700");
    Ok(())
}

/// The socket of a process.
pub fn socket(directory: &Path, pid: u32) -> PathBuf {
    directory.join(format!("{pid}.sock"))
}

/// The processes that have a socket, ascending. Sockets of processes that are gone are removed.
pub fn processes(directory: &Path) -> Result<Vec<u32>> {
    let name = directory.display();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {name}"))?,
    };
    check(directory)?;
    let mut found = Vec::new();
    for entry in entries.take(MOST) {
        let entry = entry.with_context(|| format!("reading {name}"))?;
        let file = entry.file_name();
        let pid =
            file.to_str().and_then(|name| name.strip_suffix(".sock")).and_then(|pid| pid.parse::<i32>().ok());
        let Some(pid) = pid.filter(|pid| *pid > 0) else { continue };
        if kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH) {
            found.push(pid.unsigned_abs());
        } else if let Err(error) = fs::remove_file(entry.path())
            && error.kind() != ErrorKind::NotFound
        {
            // Another `gantry status` may have been faster; anything else is worth a word.
            return Err(error).with_context(|| format!("removing {}", entry.path().display()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn sockets_of_dead_processes_are_removed_and_others_are_not() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("control");
        assert_eq!(processes(&directory).unwrap(), [0; 0], "no directory, nothing runs");
        prepare(&directory).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (dead, ours) = (child.id(), std::process::id());
        child.wait().unwrap();
        for name in
            [format!("{dead}.sock"), format!("{ours}.sock"), "-1.sock".into(), "0.sock".into(), "x".into()]
        {
            fs::write(directory.join(name), "").unwrap();
        }
        assert_eq!(processes(&directory).unwrap(), [ours]);
        assert!(!socket(&directory, dead).exists());
        assert!(socket(&directory, ours).exists() && directory.join("x").exists());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_not_used() {
        let scratch = tempfile::tempdir().unwrap();
        let (open, link) = (scratch.path().join("open"), scratch.path().join("link"));
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(prepare(&open).unwrap_err().to_string().contains("chmod 700"));
        assert!(processes(&open).is_err());
        fs::set_permissions(&open, fs::Permissions::from_mode(0o700)).unwrap();
        prepare(&open).unwrap();
        std::os::unix::fs::symlink(&open, &link).unwrap();
        assert!(prepare(&link).is_err(), "a link may lead anywhere");
    }
}
