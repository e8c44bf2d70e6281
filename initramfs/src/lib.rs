//! The appliance: PID 1, and the composer of its initramfs.
//!
//! The appliance is a kernel and one initramfs that holds everything; it runs from memory and never needs its medium
//! again. The crate has two sides that meet in one file, the table of kernel modules:
//!
//! * **build side**, [`compose`]: from Debian packages to `vmlinuz` and `initrd`, the same bytes for the same inputs;
//! * **boot side**, [`pid1`]: the `gantry` binary as the first process, and [`modprobe`]: the same binary under the
//!   name by which the kernel asks for modules;
//! * **both**, [`modules`]: the table of modules, how it is written, read and used.

pub mod compose;
pub mod modprobe;
pub mod modules;
pub mod pid1;
