//! How much was written to a disk since it appeared: the witness of law 1.

use serde::{Deserialize, Serialize};

use crate::error::{DiskError, ErrorKind, Result};
use crate::inventory::Disk;
use crate::roots::{Roots, attribute, number};

/// Written and discarded so far, partitions included. Equal before and after means that nothing wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteCounter {
    /// Bytes written, zeroing commands included.
    pub written: u64,
    /// Bytes discarded.
    pub discarded: u64,
}

/// Reads the counter of `disk` from `/sys/block/X/stat`, whose units are 512 bytes whatever the sector size
/// (Documentation/block/stat.rst). Kernels before 4.18 count no discards.
///
/// # Errors
/// `Missing` when the disk is gone; `Unsuitable` when its accounting is switched off (`queue/iostats`), because then an
/// unchanged counter proves nothing.
pub fn write_counter(roots: &Roots, disk: &Disk) -> Result<WriteCounter> {
    let folder = roots.block(&disk.name);
    let path = &disk.identity.path;
    if number(&folder.join("queue/iostats")) == Some(0) {
        let message = format!(
            "its write counter is switched off; switch it on with: echo 1 > {}",
            folder.join("queue/iostats").display()
        );
        return Err(DiskError::new(ErrorKind::Unsuitable, path, message));
    }
    let Some(text) = attribute(&folder.join("stat")) else {
        return Err(DiskError::new(ErrorKind::Missing, path, "reading its write counter: the disk is gone"));
    };
    parse(&text).ok_or_else(|| {
        DiskError::new(ErrorKind::Unsuitable, path, format!("its write counter is not understood: {text:?}"))
    })
}

fn parse(text: &str) -> Option<WriteCounter> {
    let fields: Vec<u64> = text.split_whitespace().map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let written = fields.get(6)?.saturating_mul(512);
    let discarded = fields.get(13).copied().unwrap_or(0).saturating_mul(512);
    Some(WriteCounter { written, discarded })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{fake::Machine, scan};

    #[test]
    fn both_layouts_are_read_and_others_refused() {
        let counter = |written, discarded| Some(WriteCounter { written, discarded });
        assert_eq!(parse("38922 8521 3779978 32166 58529 30565 6056 22007 0 1 5"), counter(6056 * 512, 0));
        assert_eq!(parse("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17"), counter(7 * 512, 14 * 512));
        assert_eq!(parse("1 2 3"), None);
        assert_eq!(parse("1 2 3 4 5 6 x"), None);
    }

    #[test]
    fn a_write_changes_the_counter_and_a_dead_counter_is_an_error() {
        let machine = Machine::new();
        let folder = machine.ata("sda", "8:0", "QM1");
        let disk = scan(&machine.roots).unwrap().disks.remove(0);
        let before = write_counter(&machine.roots, &disk).unwrap();
        assert_eq!(before.written, 24 * 512);
        machine.put(&format!("{folder}/stat"), "1 0 8 0 3 0 32 0 0 0 0\n");
        assert_ne!(write_counter(&machine.roots, &disk).unwrap(), before);
        machine.put(&format!("{folder}/queue/iostats"), "0\n");
        let error = write_counter(&machine.roots, &disk).unwrap_err();
        assert!(error.to_string().contains("switched off"), "{error}");
    }
}
