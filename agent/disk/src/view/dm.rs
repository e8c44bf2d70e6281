//! The device-mapper ioctls that a view needs. A leaf: ioctls with `unsafe`.
//!
//! A request is one buffer: `struct dm_ioctl` (312 bytes), then for a table load one `struct dm_target_spec` (40 bytes) and its
//! parameters for each target (`<linux/dm-ioctl.h>`, interface 4). Building it is pure and tested; sending it is one call.

#![expect(unsafe_code, reason = "ioctls")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

/// One target: a part of a device and what is there. Numbers in 512-byte units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub start: u64,
    pub length: u64,
    /// "linear", "zero", "snapshot": the module dm-KIND knows it.
    pub kind: &'static str,
    /// As that module takes them.
    pub parameters: String,
}

/// A step that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub step: &'static str,
    pub source: io::Error,
}

const CONTROL: &str = "/dev/mapper/control";
const HEADER: usize = 312;
const SPEC: usize = 40;
/// Room for what the kernel answers.
const BUFFER: usize = 16384;

#[derive(Clone, Copy)]
#[repr(u8)]
enum Command {
    Create = 3,
    Remove = 4,
    Resume = 6,
    Load = 9,
    Status = 12,
}

/// Makes and starts a device; returns its number.
pub(super) fn create(name: &str, targets: &[Target]) -> Result<u64, Failed> {
    let failed = |step| move |source| Failed { step, source };
    let answer =
        send(Command::Create, request(name, &[])).map_err(failed("making a device-mapper device"))?;
    let device = u64::from_le_bytes(answer[40..48].try_into().unwrap_or_default());
    let started = send(Command::Load, request(name, targets))
        .map_err(failed("loading its device-mapper table"))
        .and_then(|_| {
            send(Command::Resume, request(name, &[])).map_err(failed("starting the device-mapper device"))
        });
    match started {
        // The kernel packs a device number into 32 bits, glibc into 64.
        Ok(_) => Ok(libc::makedev(
            ((device >> 8) & 0xfff) as libc::c_uint,
            ((device & 0xff) | ((device >> 12) & 0xfff00)) as libc::c_uint,
        )),
        Err(first) => {
            if let Err(second) = remove(name) {
                eprintln!("gantry: {name}: {}: {}", second.step, second.source);
            }
            Err(first)
        }
    }
}

/// Whether this kernel has device-mapper, and we may use it.
pub(super) fn is_available() -> bool {
    OpenOptions::new().read(true).write(true).open(CONTROL).is_ok()
}

/// Removes a device.
pub(super) fn remove(name: &str) -> Result<(), Failed> {
    send(Command::Remove, request(name, &[]))
        .map(drop)
        .map_err(|source| Failed { step: "removing the device-mapper device", source })
}

/// What the only target of a device says of itself.
pub(super) fn status(name: &str) -> Result<String, Failed> {
    let failed = |source| Failed { step: "asking for a device's status", source };
    let answer = send(Command::Status, request(name, &[])).map_err(failed)?;
    let data = u32::from_le_bytes(answer[16..20].try_into().unwrap_or_default()) as usize;
    let text = answer.get(data.saturating_add(SPEC)..).unwrap_or_default();
    Ok(String::from_utf8_lossy(text.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned())
}

fn request(name: &str, targets: &[Target]) -> Vec<u8> {
    let mut buffer = vec![0; HEADER];
    buffer[0..4].copy_from_slice(&4u32.to_le_bytes());
    buffer[16..20].copy_from_slice(&(HEADER as u32).to_le_bytes());
    buffer[20..24].copy_from_slice(&(targets.len() as u32).to_le_bytes());
    let name = &name.as_bytes()[..name.len().min(127)];
    buffer[48..48 + name.len()].copy_from_slice(name);
    for target in targets {
        let mut parameters = target.parameters.clone().into_bytes();
        parameters.push(0);
        parameters.resize(parameters.len().next_multiple_of(8), 0);
        let mut spec = [0; SPEC];
        spec[0..8].copy_from_slice(&target.start.to_le_bytes());
        spec[8..16].copy_from_slice(&target.length.to_le_bytes());
        // Where the next spec starts, from the start of this one.
        spec[20..24].copy_from_slice(&((SPEC + parameters.len()) as u32).to_le_bytes());
        let kind = &target.kind.as_bytes()[..target.kind.len().min(15)];
        spec[24..24 + kind.len()].copy_from_slice(kind);
        buffer.extend(spec);
        buffer.extend(parameters);
    }
    let size = buffer.len().max(BUFFER);
    buffer[12..16].copy_from_slice(&(size as u32).to_le_bytes());
    buffer.resize(size, 0);
    buffer
}

fn send(command: Command, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    let control = OpenOptions::new().read(true).write(true).open(Path::new(CONTROL)).map_err(|error| {
        io::Error::new(error.kind(), format!("{CONTROL}: {error} (is the module dm-mod loaded?)"))
    })?;
    // _IOWR(0xfd, command, struct dm_ioctl)
    let number = (3u64 << 30) | ((HEADER as u64) << 16) | (0xfd << 8) | command as u64;
    // SAFETY: the buffer starts with the header that the request takes, which says how long the buffer is; the kernel
    // reads and writes no more than that.
    let code = unsafe { libc::ioctl(control.as_raw_fd(), number, buffer.as_mut_ptr()) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(buffer) }
}

nix::ioctl_none!(blkflsbuf, 0x12, 97);

/// Empties the page cache of an open block device.
pub(super) fn flush_buffers(device: RawFd) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { blkflsbuf(device) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let target = |start, length, parameters: &str| Target {
            start,
            length,
            kind: "linear",
            parameters: parameters.into(),
        };
        let request =
            request("gantry0", &[target(0, 2048, "/dev/loop0 0"), target(2048, 4096, "/dev/sda 2048")]);
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().unwrap());
        assert_eq!((word(0), word(12), word(16), word(20)), (4, 16384, 312, 2));
        assert_eq!(&request[48..56], b"gantry0\0");
        assert_eq!((long(312), long(320), word(332)), (0, 2048, 56));
        assert_eq!(&request[336..343], b"linear\0");
        assert_eq!(&request[352..368], b"/dev/loop0 0\0\0\0\0");
        assert_eq!((long(368), long(376), word(388)), (2048, 4096, 56));
        assert_eq!(&request[408..424], b"/dev/sda 2048\0\0\0");
        assert_eq!(request.len(), 16384);
    }

    #[test]
    fn without_device_mapper_the_error_says_what_is_missing() {
        if Path::new(CONTROL).exists() {
            eprintln!("not run: this kernel has device-mapper");
            return;
        }
        let error = remove("gantry-nothing").unwrap_err();
        assert!(error.source.to_string().contains("dm-mod"), "{}", error.source);
    }
}
