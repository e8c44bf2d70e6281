//! UEFI variables through efivarfs: a file each, four bytes of attributes and then the data, written in one go.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use gantry_disk::machine::UEFI_GLOBAL;

use crate::error::{During, Error, Result};
use crate::ioctl;

/// Kept over resets, seen before and after the system took over.
const ATTRIBUTES: u32 = 7;
/// Bytes of a variable at most.
const MAX_VARIABLE: u64 = 64 << 10;

/// The global variables.
#[derive(Debug)]
pub(super) struct EfiVars {
    directory: PathBuf,
}

impl EfiVars {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::Replica(format!(
                "{} does not exist: is efivarfs mounted?",
                directory.display()
            )));
        }
        Ok(Self { directory: directory.to_path_buf() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}-{UEFI_GLOBAL}"))
    }

    /// The data of a variable; `None` when there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let mut content = Vec::new();
        match File::open(self.path(name)) {
            Ok(file) => file
                .take(MAX_VARIABLE)
                .read_to_end(&mut content)
                .during(|| format!("reading UEFI variable {name}"))?,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format!("reading UEFI variable {name}"), e)),
        };
        Ok(content.get(4..).map(<[u8]>::to_vec))
    }

    /// Writes a variable.
    pub(super) fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        let what = || format!("writing UEFI variable {name}");
        let path = self.path(name);
        if let Ok(old) = File::open(&path) {
            match ioctl::make_mutable(&old) {
                Ok(_) => {}
                // No flags, no lock: not efivarfs.
                Err(e) if e.raw_os_error() == Some(libc::ENOTTY) || e.kind() == ErrorKind::Unsupported => {}
                Err(e) => return Err(Error::io(what(), e)),
            }
        }
        let content = [&ATTRIBUTES.to_le_bytes(), data].concat();
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(&path).during(what)?;
        let written = file.write(&content).during(what)?;
        if written != content.len() {
            return Err(Error::Replica(format!(
                "UEFI variable {name}: {written} of {} bytes were taken",
                content.len()
            )));
        }
        Ok(())
    }

    /// Numbers of all boot entries, sorted.
    pub(super) fn boot_entries(&self) -> Result<Vec<u16>> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.directory).during(|| "listing UEFI variables")? {
            let name = entry.during(|| "listing UEFI variables")?.file_name();
            let digits =
                name.to_str().and_then(|n| n.strip_prefix("Boot")?.strip_suffix(&format!("-{UEFI_GLOBAL}")));
            if let Some(digits) = digits.filter(|d| d.len() == 4) {
                numbers.extend(u16::from_str_radix(digits, 16));
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}
