//! ioctls of block devices. The crate's unsafe system calls for disk ends are here and nowhere else.
#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

mod raw {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), nix::libc::c_int);
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), nix::libc::c_int);
    nix::ioctl_write_ptr_bad!(blkroset, nix::request_code_none!(0x12, 93), nix::libc::c_int);
}

/// Size of a block device in bytes.
pub fn size(device: &File) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one u64 to a valid place.
    unsafe { raw::blkgetsize64(device.as_raw_fd(), &mut bytes) }?;
    Ok(bytes)
}

/// Logical sector size of a block device in bytes.
pub fn sector_size(device: &File) -> io::Result<u32> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one int to a valid place.
    unsafe { raw::blksszget(device.as_raw_fd(), &mut bytes) }?;
    u32::try_from(bytes).map_err(io::Error::other)
}

/// Whether a block device takes no writes from user space.
pub fn is_read_only(device: &File) -> io::Result<bool> {
    let mut flag = 0;
    // SAFETY: the kernel writes one int to a valid place.
    unsafe { raw::blkroget(device.as_raw_fd(), &mut flag) }?;
    Ok(flag != 0)
}

/// Sets a block device read-only (later opens for writing and writes from user space fail), or writable again.
pub fn set_read_only(device: &File, read_only: bool) -> io::Result<()> {
    // SAFETY: the kernel reads one int from a valid place.
    unsafe { raw::blkroset(device.as_raw_fd(), &read_only.into()) }?;
    Ok(())
}
