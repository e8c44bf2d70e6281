//! Boot media from kernel and initramfs: hybrid ISO (also for USB sticks), PXE tree.
//!
//! One boot chain serves all media: on UEFI Debian's shim, signed by Microsoft, starts Debian's signed GRUB, which starts
//! Debian's signed kernel; on BIOS a GRUB image made here from Debian's modules does the same. Every GRUB reads the same
//! menu ([`menu`]), which also decides whether a disk that was migrated onto this machine is started instead of the
//! appliance.
//!
//! * [`baked`]: the arguments that a medium carries for unattended use, checked when it is made;
//! * [`loaders`]: the boot loaders, out of Debian packages; [`esp`]: where UEFI finds them;
//! * [`iso`], [`pxe`]: the media.
//!
//! The same inputs give the same bytes: nothing here reads a clock ([`source_date`]).

pub mod baked;
pub mod esp;
pub mod iso;
pub mod loaders;
pub mod menu;
pub mod pxe;

/// Volume name of every medium, by which the appliance knows that a disk is one.
pub const VOLUME: &str = "GANTRY";

/// The moment all files bear: `SOURCE_DATE_EPOCH` if it is set, else the first second of 2026.
pub fn source_date() -> String {
    std::env::var("SOURCE_DATE_EPOCH").unwrap_or_else(|_| "1767225600".to_owned())
}
