//! The ioctls of loop devices and inode flags: the only place in this crate that talks to the kernel past nix.
#![expect(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h (since 5.8).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;

nix::ioctl_none_bad!(loop_ctl_get_free, 0x4C82);
nix::ioctl_write_ptr_bad!(loop_configure, 0x4C0A, LoopConfig);
// The kernel reads and writes an int, whatever the size in the request number says; eight bytes are enough for both.
nix::ioctl_read_bad!(fs_ioc_getflags, 0x8008_6601, i64);
nix::ioctl_write_ptr_bad!(fs_ioc_setflags, 0x4008_6602, i64);

/// `FS_IMMUTABLE_FL`.
const IMMUTABLE: i64 = 0x10;

/// Number of a loop device that is free at the moment.
pub fn free_loop(control: &File) -> io::Result<u32> {
    // SAFETY: no argument; the descriptor is open for the call's duration.
    let number = unsafe { loop_ctl_get_free(control.as_raw_fd()) }?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Binds an area of `backing` to the open loop device; it is let go when its last user closes it.
/// `EBUSY` when somebody else took the device in between.
pub fn bind_loop(
    device: &File,
    backing: &File,
    offset: u64,
    length: u64,
    sector: u32,
    read_only: bool,
) -> io::Result<()> {
    let config = LoopConfig {
        fd: u32::try_from(backing.as_raw_fd()).map_err(io::Error::other)?,
        block_size: sector,
        info: LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset,
            size_limit: length,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: AUTOCLEAR | if read_only { READ_ONLY } else { 0 },
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the structure has the kernel's layout, lives through the call and is only read.
    unsafe { loop_configure(device.as_raw_fd(), &raw const config) }?;
    Ok(())
}

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
