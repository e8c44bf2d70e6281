//! The appliance: PID 1, and the composer of its initramfs.

pub mod pid1;
