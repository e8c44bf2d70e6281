//! Starts, drives and observes QEMU machines.
//!
//! A [`Machine`] is a description: firmware, disks, network cards, media, and how it boots. [`Machine::arguments`] turns it
//! into QEMU's command line and does nothing else, so what a test starts can be read and checked without starting it.
//! [`Machine::start`] makes it a [`Running`] machine, whose serial console is waited on by condition ([`Console::wait_for`]),
//! never by sleeping, and always with a [`Limit`]. What a run showed is kept in one directory, the [`Evidence`]: command line,
//! raw serial stream, screenshots, timings.
//!
//! Nothing outlives its owner: dropping a [`Running`] machine kills it, and the kernel kills it when this process dies. QEMU
//! stays in the process group of whoever started it, so a test runner that kills a test's group ends its machines too.
//!
//! The accelerator is always TCG. KVM's device node says nothing about whether guests boot under it (nested
//! virtualization often opens and then fails); a probe that boots a kernel has to come before it is used.

mod console;
mod evidence;
mod firmware;
mod hardware;
mod limit;
mod machine;
mod process;
mod qmp;
mod running;

pub use console::{Console, Seen};
pub use evidence::{Evidence, Stopwatch};
pub use firmware::Firmware;
pub use hardware::{Bus, Cable, Disk, Format, Forward, Medium, Netboot, Nic, NicModel};
pub use limit::Limit;
pub use machine::{DirectKernel, Machine, Places};
pub use process::Process;
pub use qmp::Qmp;
pub use running::Running;
