//! The priority of this process on a live host. Called before threads are started: they inherit it from the one that calls.
#![expect(unsafe_code)]

use std::io;

use anyhow::{Context, Result};
use nix::libc;

/// How much the replication gives way to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Priority {
    /// As any program.
    Normal,
    /// Processor: nice 19; disk: the lowest best-effort class, or idle if it was. It goes on, slowly, however busy the host
    /// is.
    Low,
    /// Processor: nice 19; disk: the idle class. It may stand still for as long as others use the disk.
    Idle,
}

/// `ioprio_set` of linux/ioprio.h: a thread, named by 0 for the one that calls.
const WHO_PROCESS: libc::c_int = 1;
/// The class stands above the level.
const CLASS_SHIFT: libc::c_int = 13;
const CLASS_BEST_EFFORT: libc::c_int = 2;
const CLASS_IDLE: libc::c_int = 3;
/// The lowest of eight.
const LOWEST_LEVEL: libc::c_int = 7;
const NICEST: libc::c_int = 19;

impl Priority {
    /// Sets it for this thread and all that it starts from now on.
    pub fn apply(self) -> Result<()> {
        let io_priority = match self {
            Self::Normal => return Ok(()),
            Self::Low => CLASS_BEST_EFFORT << CLASS_SHIFT | LOWEST_LEVEL,
            Self::Idle => CLASS_IDLE << CLASS_SHIFT,
        };
        // SAFETY: takes three numbers, touches no memory of ours.
        let niced = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICEST) };
        if niced != 0 {
            return Err(io::Error::last_os_error()).context("lowering the processor priority");
        }
        // SAFETY: takes two numbers, touches no memory of ours; glibc has no function for it.
        let now = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
        if now < 0 {
            return Err(io::Error::last_os_error()).context("looking at the disk priority");
        }
        if now >> CLASS_SHIFT == libc::c_long::from(CLASS_IDLE) {
            // Whoever started us wants it to give way altogether: lower does not raise it.
            return Ok(());
        }
        // SAFETY: takes three numbers, touches no memory of ours; glibc has no function for it.
        let set = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, io_priority) };
        if set != 0 {
            return Err(io::Error::last_os_error()).context("lowering the disk priority");
        }
        Ok(())
    }
}
