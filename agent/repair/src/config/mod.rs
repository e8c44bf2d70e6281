//! Readers of the guest's configuration files: text in, plain data or changed text out, no I/O.
//!
//! They change only what they must and keep every other byte, so that diffs are short and comments survive.

pub mod fstab;
pub mod grub;
pub mod ini;
pub mod interfaces;
pub mod shell;
