//! Looking into an end that has no path: libblkid wants a file, so the places where signatures live are laid out in one.
//!
//! The file is in memory, sparse, and as large as the end. It holds the first and last MiB, and the first and last 256 KiB of
//! each partition: every superblock that libblkid knows lies there.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{Finding, MOST_PROBED, Survey, bytes, survey};
use crate::end::ReadAt;
use crate::error::{DiskError, Result};
use crate::table;

const ENDS: u64 = 1 << 20;
const PARTITION_ENDS: u64 = 256 << 10;

/// How much is read to find out whether an end is blank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Head, tail and samples, as of a device.
    Samples,
    /// Everything that is not known to be zero, as of a file.
    Everything,
}

/// What `disk` carries.
pub fn survey_end(disk: &dyn ReadAt, look: Look) -> Result<Survey> {
    let stencil = stencil(disk)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", stencil.as_raw_fd()));
    let mut found = survey(Path::new(&path))?;
    if found.blank {
        let at = match look {
            Look::Samples => bytes::in_samples(disk)?,
            Look::Everything => bytes::in_extents(disk)?,
        };
        found.findings.extend(at.map(|at| Finding::Data { at }));
        found.blank = found.findings.is_empty();
    }
    Ok(found)
}

fn stencil(disk: &dyn ReadAt) -> Result<File> {
    let io = |error| DiskError::io(&disk.identity().path, "making a file in memory", error);
    let file = memfd_create("survey", MFdFlags::MFD_CLOEXEC).map_err(|error| io(error.into()))?;
    let file = File::from(file);
    let size = disk.size();
    file.set_len(size).map_err(io)?;
    let mut places = vec![(0, ENDS), (size.saturating_sub(ENDS), ENDS)];
    // A table that cannot be read is found again in the stencil.
    if let Ok(Some(table)) = table::read(disk) {
        let real = table.partitions.iter().filter(|part| !part.container).take(MOST_PROBED);
        places.extend(real.flat_map(|part| {
            let length = PARTITION_ENDS.min(part.length);
            [(part.start, length), (part.end().saturating_sub(length), length)]
        }));
    }
    for (at, length) in places {
        let mut bytes = vec![0; usize::try_from(length.min(size.saturating_sub(at))).unwrap_or(0)];
        disk.read_at(at.min(size), &mut bytes)?;
        if bytes.iter().any(|byte| *byte != 0) {
            file.write_all_at(&bytes, at).map_err(io)?;
        }
    }
    Ok(file)
}
