//! Where the sockets are: `/run/gantry/control/PID.sock` for root, `$XDG_RUNTIME_DIR/gantry/PID.sock` for others.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid};

use super::talk::is_nobody;

/// Another directory: for tests, and where /run cannot be written.
const OVERRIDE: &str = "GANTRY_RUN_DIR";
/// Entries of the directory that are looked at.
const MOST: usize = 4096;

/// This user's directory.
pub fn directory() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    choose(variable(OVERRIDE), geteuid().is_root(), variable("XDG_RUNTIME_DIR"))
}

/// A path that is relative would lie in another place for who asks than for who is asked, and is no answer.
fn choose(named: Option<PathBuf>, root: bool, runtime: Option<PathBuf>) -> Result<PathBuf> {
    match (named, runtime.filter(|directory| directory.is_absolute())) {
        (Some(directory), _) if directory.is_absolute() => Ok(directory),
        (Some(directory), _) => bail!("{OVERRIDE} is {directory:?}: name it from the root on"),
        (None, _) if root => Ok("/run/gantry/control".into()),
        (None, Some(directory)) => Ok(directory.join("gantry")),
        (None, None) => bail!("XDG_RUNTIME_DIR names no directory: set it, or {OVERRIDE}"),
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

/// The processes that have a socket, ascending. Sockets of processes that are gone are removed: no such process is here,
/// and nobody answers. The first alone would also be true of those in another PID namespace that share the directory.
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
        if kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH) || is_served(&entry.path()) {
            found.push(pid.unsigned_abs());
        } else {
            remove(&entry.path())?;
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether somebody listens there.
pub fn is_served(socket: &Path) -> bool {
    !UnixStream::connect(socket).is_err_and(|error| is_nobody(&error))
}

/// Removes a socket, if it is there: another `gantry status` may have been faster.
pub fn remove(socket: &Path) -> Result<()> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", socket.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_directory_is_named_from_the_root_on() {
        let path = |text: &str| Some(PathBuf::from(text));
        for (named, root, runtime, found) in [
            (None, true, path("/run/user/0"), Some("/run/gantry/control")),
            (None, false, path("/run/user/7"), Some("/run/user/7/gantry")),
            (path("/x"), true, None, Some("/x")),
            (None, false, path(""), None),
            (None, false, path("run"), None),
            (None, false, None, None),
            (path(""), true, None, None),
            (path("x"), false, path("/run/user/7"), None),
        ] {
            let case = format!("{named:?} {root} {runtime:?}");
            assert_eq!(choose(named, root, runtime).ok(), found.map(PathBuf::from), "{case}");
        }
    }

    #[test]
    fn sockets_of_dead_processes_are_removed_and_others_are_not() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("control");
        assert_eq!(processes(&directory).unwrap(), [0; 0], "no directory, nothing runs");
        prepare(&directory).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let (dead, ours) = (child.id(), std::process::id());
        child.wait().unwrap();
        // In another PID namespace: no such process here, and yet it answers.
        let mut other = std::process::Command::new("true").spawn().unwrap();
        let elsewhere = other.id();
        other.wait().unwrap();
        let _listener = UnixListener::bind(socket(&directory, elsewhere)).unwrap();
        for name in
            [format!("{dead}.sock"), format!("{ours}.sock"), "-1.sock".into(), "0.sock".into(), "x".into()]
        {
            fs::write(directory.join(name), "").unwrap();
        }
        let mut left = vec![ours, elsewhere];
        left.sort_unstable();
        assert_eq!(processes(&directory).unwrap(), left);
        assert!(socket(&directory, elsewhere).exists());
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
