//! The few functions of libblkid that Gantry calls. A leaf: the only file here with `unsafe`.
//!
//! Declarations follow libblkid's public header (util-linux 2.38, `blkid.h`); all of them exist since 2.30.

#![expect(unsafe_code, reason = "calls into a C library")]

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use super::Area;

#[repr(C)]
struct BlkidProbe {
    opaque: [u8; 0],
}

unsafe extern "C" {
    fn blkid_new_probe() -> *mut BlkidProbe;
    fn blkid_free_probe(probe: *mut BlkidProbe);
    fn blkid_probe_set_device(probe: *mut BlkidProbe, fd: c_int, offset: i64, size: i64) -> c_int;
    fn blkid_probe_set_sectorsize(probe: *mut BlkidProbe, size: c_uint) -> c_int;
    fn blkid_probe_enable_superblocks(probe: *mut BlkidProbe, enable: c_int) -> c_int;
    fn blkid_probe_set_superblocks_flags(probe: *mut BlkidProbe, flags: c_int) -> c_int;
    fn blkid_probe_enable_partitions(probe: *mut BlkidProbe, enable: c_int) -> c_int;
    fn blkid_probe_set_partitions_flags(probe: *mut BlkidProbe, flags: c_int) -> c_int;
    fn blkid_do_safeprobe(probe: *mut BlkidProbe) -> c_int;
    fn blkid_do_probe(probe: *mut BlkidProbe) -> c_int;
    fn blkid_probe_numof_values(probe: *mut BlkidProbe) -> c_int;
    fn blkid_probe_get_value(
        probe: *mut BlkidProbe,
        number: c_int,
        name: *mut *const c_char,
        data: *mut *const c_char,
        length: *mut usize,
    ) -> c_int;
}

const SUBLKS_LABEL: c_int = 1 << 1;
const SUBLKS_UUID: c_int = 1 << 3;
const SUBLKS_TYPE: c_int = 1 << 5;
const SUBLKS_USAGE: c_int = 1 << 7;
const SUBLKS_VERSION: c_int = 1 << 8;
const SUBLKS_MAGIC: c_int = 1 << 9;
const PARTS_MAGIC: c_int = 1 << 3;

/// How much a prober collects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// What identifies the content.
    Values,
    /// Also where each magic lies.
    Magics,
}

/// What a safe probe found.
pub(super) enum Outcome {
    Found,
    Nothing,
    Ambivalent,
}

/// A prober bound to an open file, which it borrows.
pub(super) struct Prober<'file> {
    probe: NonNull<BlkidProbe>,
    file: PhantomData<&'file File>,
}

impl<'file> Prober<'file> {
    pub(super) fn new(file: &'file File, area: Area, detail: Detail) -> io::Result<Self> {
        let (Ok(offset), Ok(length)) = (i64::try_from(area.offset), i64::try_from(area.length)) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the area lies beyond 8 EiB"));
        };
        // SAFETY: takes nothing; null is checked.
        let probe = NonNull::new(unsafe { blkid_new_probe() }).ok_or(io::ErrorKind::OutOfMemory)?;
        let prober = Self { probe, file: PhantomData };
        let mut flags = SUBLKS_LABEL | SUBLKS_UUID | SUBLKS_TYPE | SUBLKS_USAGE | SUBLKS_VERSION;
        let mut table_flags = 0;
        if detail == Detail::Magics {
            flags |= SUBLKS_MAGIC;
            table_flags |= PARTS_MAGIC;
        }
        let probe = prober.probe.as_ptr();
        // SAFETY: `probe` is live until `prober` is dropped; the descriptor outlives it by the lifetime 'file; the
        // library copies the numbers.
        let good = unsafe {
            blkid_probe_set_device(probe, file.as_raw_fd(), offset, length) == 0
                && area.sector.is_none_or(|sector| blkid_probe_set_sectorsize(probe, sector.bytes()) == 0)
                && blkid_probe_enable_superblocks(probe, 1) == 0
                && blkid_probe_set_superblocks_flags(probe, flags) == 0
                && blkid_probe_enable_partitions(probe, 1) == 0
                && blkid_probe_set_partitions_flags(probe, table_flags) == 0
        };
        if good { Ok(prober) } else { Err(last_error()) }
    }

    /// Identifies the one content, or says that there are several.
    pub(super) fn safe_probe(&mut self) -> io::Result<Outcome> {
        // SAFETY: the probe is live and nobody else uses it (&mut).
        match unsafe { blkid_do_safeprobe(self.probe.as_ptr()) } {
            0 => Ok(Outcome::Found),
            1 => Ok(Outcome::Nothing),
            -2 => Ok(Outcome::Ambivalent),
            _ => Err(last_error()),
        }
    }

    /// Goes on to the next signature; false when there are no more.
    pub(super) fn next_signature(&mut self) -> io::Result<bool> {
        // SAFETY: as in `safe_probe`.
        match unsafe { blkid_do_probe(self.probe.as_ptr()) } {
            0 => Ok(true),
            1 => Ok(false),
            _ => Err(last_error()),
        }
    }

    /// Names and values of what the last call found.
    pub(super) fn values(&self) -> Vec<(String, String)> {
        // SAFETY: the probe is live.
        let count = unsafe { blkid_probe_numof_values(self.probe.as_ptr()) };
        (0..count).filter_map(|number| self.value(number)).collect()
    }

    fn value(&self, number: c_int) -> Option<(String, String)> {
        let (mut name, mut data, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the probe is live, the three pointers are to locals of the right types.
        let code =
            unsafe { blkid_probe_get_value(self.probe.as_ptr(), number, &mut name, &mut data, &mut length) };
        if code != 0 || name.is_null() || data.is_null() {
            return None;
        }
        // SAFETY: on success `name` is a string of the library and `data` points to `length` bytes of the probe; both
        // live until the next call on the probe, and are copied here.
        let (name, data) =
            unsafe { (CStr::from_ptr(name), std::slice::from_raw_parts(data.cast::<u8>(), length)) };
        // The length counts the end of the string. A label may hold any bytes.
        let data = data.split(|&byte| byte == 0).next().unwrap_or_default();
        Some((name.to_string_lossy().into_owned(), String::from_utf8_lossy(data).into_owned()))
    }
}

impl Drop for Prober<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `blkid_new_probe`, freed once.
        unsafe { blkid_free_probe(self.probe.as_ptr()) }
    }
}

/// The library leaves its reason in errno, or nothing.
fn last_error() -> io::Error {
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(0) { io::Error::other("libblkid gave no reason") } else { error }
}
