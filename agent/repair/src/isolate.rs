//! Running a program of the guest where it can do no harm (law 12).
//!
//! The program gets the guest's root as its only root (moved over /, so that there is nothing to escape to), namespaces
//! of its own for mounts, processes, network, names and IPC, a /dev with the harmless devices and the guest's own block
//! devices, no /sys (this machine's hardware is no evidence for the guest, B-12), a read-only /proc without this
//! machine's swap, no capability to make devices, mount or load modules, and a time limit after which all of it is
//! killed. It becomes process 1 of its namespace: when it ends, whatever it left running ends too.
#![expect(unsafe_code)]

use std::ffi::CStr;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, chroot, mkdir};

use crate::error::{During, Error, Result};

/// The most of a program's words that is kept.
const MAX_OUTPUT: u64 = 1 << 20;
/// How often an ended program is looked for; only the last wait is lengthened by it.
const TICK: Duration = Duration::from_millis(20);

/// What to run, and in what.
#[derive(Debug)]
pub struct Guest<'a> {
    /// Where the guest's / is mounted, with everything below it.
    pub root: &'a Path,
    /// Its block devices: device number, and the links to it below /dev/disk (`by-uuid/1234`).
    pub devices: Vec<(u64, Vec<String>)>,
    /// When the program is killed.
    pub limit: Duration,
}

/// How a program ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to stdout and stderr.
    pub output: String,
}

impl Guest<'_> {
    /// Runs `program` with `arguments`.
    ///
    /// # Errors
    /// `Guest` when the time limit was reached, with the words so far; `Io` when the isolation could not be made.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Outcome> {
        let (reader, writer) = io::pipe().during(|| "making a pipe")?;
        std::thread::scope(|scope| {
            let runner = scope.spawn(|| self.run_apart(program, arguments, writer));
            let output = collect(reader);
            let ended = runner
                .join()
                .unwrap_or_else(|_| Err(Error::Guest(format!("running {program}: fault of our own"))))?;
            match ended {
                Some(status) => Ok(Outcome { status, output }),
                None => Err(Error::Guest(format!(
                    "{program} did not end within {} s and was killed; it said:\n{}",
                    self.limit.as_secs(),
                    output.trim_end()
                ))),
            }
        })
    }

    /// On a thread of its own, whose namespaces and root are changed for good. `None` when it had to be killed.
    fn run_apart(&self, program: &str, arguments: &[&str], writer: PipeWriter) -> Result<Option<ExitStatus>> {
        unshare(CloneFlags::CLONE_NEWNS).during(|| "getting mounts for the guest")?;
        mount(None::<&CStr>, "/", None::<&CStr>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&CStr>)
            .during(|| "keeping the guest's mounts apart")?;
        self.furnish()?;
        chdir(self.root).during(|| "entering the guest")?;
        mount(Some("."), "/", None::<&CStr>, MsFlags::MS_MOVE, None::<&CStr>)
            .during(|| "moving the guest's root over /")?;
        chroot(".").during(|| "entering the guest")?;
        chdir("/").during(|| "entering the guest")?;
        let rest = CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS;
        unshare(rest).during(|| "getting namespaces for the guest")?;
        let child = start(program, arguments, writer)?;
        wait(child, self.limit)
    }

    /// The guest's /dev, /run and /tmp, in memory.
    fn furnish(&self) -> Result<()> {
        let at = |name: &str| self.root.join(name);
        let none = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        for (name, flags, data) in [
            ("dev", none, "mode=0755,size=1m"),
            ("run", none | MsFlags::MS_NODEV, "mode=0755,size=16m"),
            ("sys", none | MsFlags::MS_NODEV | MsFlags::MS_RDONLY, "mode=0555,size=4k"),
        ] {
            mount(Some("gantry"), &at(name), Some("tmpfs"), flags, Some(data))
                .during(|| format!("mounting the guest's /{name}"))?;
        }
        let device = |path: PathBuf, kind: SFlag, mode: u32, number: u64| {
            mknod(&path, kind, Mode::from_bits_truncate(mode), number)
                .during(|| format!("making the guest's {}", path.display()))
        };
        for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
            device(at("dev").join(name), SFlag::S_IFCHR, 0o666, makedev(1, minor))?;
        }
        device(at("dev/tty"), SFlag::S_IFCHR, 0o666, makedev(5, 0))?;
        let link = |target: &str, path: PathBuf| {
            std::os::unix::fs::symlink(target, &path)
                .during(|| format!("making the guest's {}", path.display()))
        };
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "fd/0"),
            ("stdout", "fd/1"),
            ("stderr", "fd/2"),
            ("console", "null"),
        ] {
            link(target, at("dev").join(name))?;
        }
        for (number, links) in &self.devices {
            let name = format!("loop{}", nix::sys::stat::minor(*number));
            device(at("dev").join(&name), SFlag::S_IFBLK, 0o660, *number)?;
            for path in links {
                let path = at("dev/disk").join(path);
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)
                        .during(|| format!("making the guest's {}", parent.display()))?;
                }
                link(&format!("../../{name}"), path)?;
            }
        }
        for directory in ["lock", "udev"] {
            mkdir(&at("run").join(directory), Mode::from_bits_truncate(0o755))
                .during(|| "making the guest's /run")?;
        }
        Ok(())
    }
}

fn start(program: &str, arguments: &[&str], writer: PipeWriter) -> Result<Child> {
    let errors = writer.try_clone().during(|| "sharing a pipe")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .env("HOME", "/root")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(errors);
    // SAFETY: between fork and exec only system calls are made, on memory prepared before (nix keeps short paths on the
    // stack); nothing allocates or takes a lock.
    unsafe { command.pre_exec(become_harmless) };
    command.spawn().map_err(|e| Error::Guest(format!("starting {program} of the guest: {e}")))
}

/// In the child, process 1 of its namespace, already at the guest's root.
fn become_harmless() -> io::Result<()> {
    let read_only = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(c"proc"), c"/proc", Some(c"proc"), read_only, None::<&CStr>)?;
    // This machine's swap would be taken for the guest's.
    mount(Some(c"/dev/null"), c"/proc/swaps", None::<&CStr>, MsFlags::MS_BIND, None::<&CStr>)?;
    nix::unistd::setsid()?;
    // linux/capability.h: what file work needs stays: CHOWN 0 .. SETPCAP 8 (without 8), SYS_CHROOT 18, SETFCAP 31.
    for capability in (0..64).filter(|c| !(0..=7).contains(c) && *c != 18 && *c != 31) {
        // SAFETY: plain values; a capability the kernel does not know is EINVAL, which ends the list.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
    }
    // SAFETY: plain values.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain values. The thread that forked waits for us; if it is killed, so are we.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn wait(mut child: Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().during(|| "waiting for the guest's program")? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            // Process 1 of its namespace: the kernel kills everything in it with it.
            child.kill().during(|| "killing the guest's program")?;
            child.wait().during(|| "waiting for the guest's program")?;
            return Ok(None);
        }
        std::thread::sleep(TICK);
    }
}

/// Reads to the end, keeps the first part.
fn collect(mut reader: PipeReader) -> String {
    let mut kept = Vec::new();
    // An error of reading ends the words, not the program's work: its exit status decides.
    let _ = reader.by_ref().take(MAX_OUTPUT).read_to_end(&mut kept);
    let _ = io::copy(&mut reader, &mut io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}
