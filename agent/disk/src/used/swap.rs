//! Swap areas: only the header is used, unless a sleeping system lies in it.
//!
//! The content of a swap area means something only to the kernel that wrote it, and is gone with it. But hibernation writes
//! memory there, and with it what that kernel knows of every filesystem it had mounted: then nothing on any disk of the machine
//! may be left out. In a hot migration the caller knows better than this map what the live swap is good for.
//! Source: `union swap_header` in the kernel's include/linux/swap.h; signatures as in util-linux's libblkid.

use super::fields::le32;
use super::{Doubt, Ranges, Window};

/// Page sizes of the machines that may have made it: the signature ends the first page.
const PAGES: [u64; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
const SIGNATURE: u64 = 10;
/// How the signature begins when an image was written: kernel, old kernels, uswsusp, and two out-of-tree writers.
const SLEEPING: [&[u8]; 5] =
    [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001", b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"];

/// The used bytes of the swap area in `window`: its first 64 KiB and what lies behind its last page.
///
/// # Errors
/// A hibernated system, or no swap area of version 1.
pub fn map(window: &Window<'_>) -> Result<Ranges, Doubt> {
    let largest = PAGES[PAGES.len() - 1].min(window.size());
    let head = window.read(0, largest)?;
    let sleeps = |bytes: &[u8]| SLEEPING.iter().any(|signature| bytes.starts_with(signature));
    let signature = |page: u64| {
        let end = usize::try_from(page).ok()?;
        head.get(end - SIGNATURE as usize..end)
    };
    if sleeps(&head) || PAGES.iter().filter_map(|&page| signature(page)).any(sleeps) {
        return Err(Doubt::hibernated("a hibernated system lies in it: start it and shut it down"));
    }
    let Some(page) = PAGES.into_iter().find(|&page| signature(page) == Some(b"SWAPSPACE2")) else {
        return Err(Doubt::new("it has no signature of a swap area"));
    };
    let last = u64::from(le32(&head, 1028)?);
    let end = (last + 1) * page;
    if le32(&head, 1024)? != 1 || last == 0 || end > window.size() {
        return Err(Doubt::new("the header of the swap area is damaged, or not of this size"));
    }
    let mut used = Ranges::default();
    used.insert(0..largest);
    used.insert(end..window.size());
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, good};

    fn swap(page: &str) -> Memory {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        good("mkswap", &["-p", page, &file.path().display().to_string()]);
        let mut bytes = std::fs::read(file.path()).unwrap();
        bytes.resize((1 << 20) + 1536, 7);
        Memory::new(bytes, 512)
    }

    #[test]
    fn only_the_header_and_what_lies_behind_is_used() {
        for page in ["4096", "16384", "65536"] {
            let disk = swap(page);
            let map = map(&Window::whole(&disk)).unwrap();
            assert_eq!(map.iter().collect::<Vec<_>>(), [0..65536, 1 << 20..(1 << 20) + 1536], "{page}");
        }
    }

    #[test]
    fn a_sleeping_system_is_a_doubt_about_the_whole_machine() {
        for signature in SLEEPING {
            for place in [4086, 65526, 0] {
                let mut disk = swap("4096");
                disk.bytes[place..place + signature.len()].copy_from_slice(signature);
                let doubt = map(&Window::whole(&disk)).unwrap_err();
                assert!(doubt.hibernated, "{signature:?} at {place}: {doubt}");
            }
        }
    }

    #[test]
    fn a_damaged_header_is_a_doubt() {
        let disk = swap("4096");
        for (at, value) in [(1024, 9), (1031, 9), (4090, 0)] {
            let mut bytes = disk.bytes.clone();
            bytes[at] = value;
            let doubt = map(&Window::whole(&Memory::new(bytes, 512))).unwrap_err();
            assert!(!doubt.hibernated, "{doubt}");
        }
        assert!(map(&Window::whole(&Memory::new(vec![0; 512], 512))).is_err());
    }
}
