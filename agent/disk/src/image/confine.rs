//! What a program of qemu's may do. The crate's unsafe code for child processes is here and nowhere else.
//!
//! Landlock (Linux 5.13) lets it open nothing but its libraries, a few harmless files, and what it is given; kernels without
//! it go without, and the checks of headers stand alone. A network of its own, with nothing in it, needs root and is taken
//! where we are root. No limit is so low that an honest image of the largest size meets it.
#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Bytes of address space. qemu's own limits on tables of an image are far below.
const MEMORY: u64 = 8 << 30;

/// What every program of qemu's opens.
const ALWAYS: [&str; 7] =
    ["/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom", "/sys/devices/system", "/proc/sys/vm"];

/// Rights of Landlock, version 1 (linux/landlock.h).
mod right {
    pub(super) const EXECUTE: u64 = 1;
    pub(super) const WRITE_FILE: u64 = 1 << 1;
    pub(super) const READ_FILE: u64 = 1 << 2;
    pub(super) const READ_DIR: u64 = 1 << 3;
    pub(super) const REMOVE_FILE: u64 = 1 << 5;
    pub(super) const MAKE_SOCK: u64 = 1 << 9;
    pub(super) const ALL: u64 = (1 << 13) - 1;
    /// What can be allowed on a file; the rest is about folders.
    pub(super) const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE;
}

/// How a path may be used.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    Read,
    Write,
    /// A folder in which a socket may be made.
    Socket,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// Confines `command`: it may use `paths`, and dies with the thread that starts it.
pub(super) fn confine(command: &mut Command, paths: &[(&Path, Use)]) -> io::Result<()> {
    let rules = rules(paths)?;
    // SAFETY: between fork and exec only system calls are made, with numbers made before; nothing allocates or locks.
    unsafe { command.pre_exec(move || enter(rules.as_ref())) };
    Ok(())
}

/// A ruleset, or `None` where the kernel has no Landlock.
fn rules(paths: &[(&Path, Use)]) -> io::Result<Option<OwnedFd>> {
    let handled = right::ALL;
    // SAFETY: the kernel reads one u64 from a valid place and makes a descriptor.
    let made = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &handled, size_of::<u64>(), 0) };
    if made < 0 {
        let error = io::Error::last_os_error();
        let absent = [libc::ENOSYS, libc::EOPNOTSUPP].map(Some).contains(&error.raw_os_error());
        return if absent { Ok(None) } else { Err(error) };
    }
    // SAFETY: a new descriptor that nobody else owns.
    let rules = unsafe { OwnedFd::from_raw_fd(made as i32) };
    for path in ALWAYS.map(Path::new) {
        if path.exists() {
            allow(&rules, path, right::EXECUTE | right::READ_FILE | right::READ_DIR)?;
        }
    }
    // qemu tries its locks out on it, opened for writing; where it cannot, it does without locks.
    allow(&rules, Path::new("/dev/null"), right::READ_FILE | right::WRITE_FILE)?;
    for (path, how) in paths {
        let rights = match how {
            Use::Read => right::READ_FILE,
            Use::Write => right::READ_FILE | right::WRITE_FILE,
            Use::Socket => right::MAKE_SOCK | right::REMOVE_FILE | right::READ_DIR,
        };
        allow(&rules, path, rights)?;
    }
    Ok(Some(rules))
}

fn allow(rules: &OwnedFd, path: &Path, rights: u64) -> io::Result<()> {
    const PATH_BENEATH: libc::c_int = 1;
    let place: File = File::options().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path)?;
    let of_files = if place.metadata()?.is_dir() { u64::MAX } else { right::OF_FILES };
    let rule = PathBeneath { allowed: rights & of_files, parent: place.as_raw_fd() };
    // SAFETY: the kernel reads one rule from a valid place.
    let added =
        unsafe { libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), PATH_BENEATH, &rule, 0) };
    if added == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// In the child, before it becomes the program.
fn enter(rules: Option<&OwnedFd>) -> io::Result<()> {
    let done = |outcome: libc::c_long| if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    for (what, limit) in [(libc::RLIMIT_AS, MEMORY), (libc::RLIMIT_CORE, 0)] {
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: the kernel reads one limit from a valid place.
        done(unsafe { libc::setrlimit(what, &limit) }.into())?;
    }
    // SAFETY: plain values. Without root it fails, and the network stays.
    unsafe { libc::unshare(libc::CLONE_NEWNET) };
    // SAFETY: plain values.
    done(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }.into())?;
    // SAFETY: plain values.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    match rules {
        // SAFETY: a descriptor that lives until exec, and a plain value.
        Some(rules) => done(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(file: &Path, paths: &[(&Path, Use)]) -> bool {
        let mut command = Command::new("cat");
        command.arg(file).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        confine(&mut command, paths).unwrap();
        command.status().unwrap().success()
    }

    #[test]
    fn only_what_is_given_can_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let [mine, other] = ["mine", "other"].map(|name| folder.path().join(name));
        std::fs::write(&mine, "x").unwrap();
        std::fs::write(&other, "x").unwrap();
        assert!(reads(&mine, &[(&mine, Use::Read)]));
        assert!(rules(&[]).unwrap().is_some(), "this kernel has no Landlock: nothing is shown here");
        assert!(!reads(&other, &[(&mine, Use::Read)]));
        assert!(!reads(Path::new("/etc/passwd"), &[(&mine, Use::Write)]));
        let mut command = Command::new("dd");
        command.args(["if=/dev/null", &format!("of={}", mine.display())]);
        command.stderr(std::process::Stdio::null());
        confine(&mut command, &[(&mine, Use::Read)]).unwrap();
        assert!(!command.status().unwrap().success(), "a source is not written");
    }
}
