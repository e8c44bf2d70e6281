//! The ioctls of inode flags: the only place in this crate that talks to the kernel past nix.
#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

// The kernel reads and writes an int, whatever the size in the request number says; eight bytes are enough for both.
nix::ioctl_read_bad!(fs_ioc_getflags, 0x8008_6601, i64);
nix::ioctl_write_ptr_bad!(fs_ioc_setflags, 0x4008_6602, i64);

/// `FS_IMMUTABLE_FL`.
const IMMUTABLE: i64 = 0x10;

/// Takes the immutable flag off a file (efivarfs sets it on every variable); true when it was there.
pub fn make_mutable(file: &File) -> io::Result<bool> {
    let mut flags = 0_i64;
    // SAFETY: the kernel writes an int into the eight bytes given.
    unsafe { fs_ioc_getflags(file.as_raw_fd(), &raw mut flags) }?;
    if flags & IMMUTABLE == 0 {
        return Ok(false);
    }
    flags &= !IMMUTABLE;
    // SAFETY: the kernel reads an int from the eight bytes given.
    unsafe { fs_ioc_setflags(file.as_raw_fd(), &raw const flags) }?;
    Ok(true)
}
