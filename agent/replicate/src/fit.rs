//! Whether a source can become a disk of another size, asked before the first byte crosses.
//!
//! The finisher moves the GPT's backup to the end of a larger target when everything else is done ([`crate::commit`]); a
//! table it could not move would be found out after hours. The same pure function is run up front on the source's head.

use gantry_disk::label::HEAD;
use gantry_disk::table::relocate::relocate;
use gantry_disk::{DiskError, ReadAt, Result};

/// Whether the table of `source` can be moved to a target of `target_size` bytes.
///
/// # Errors
/// `Unsuitable`, with the remedy, when it cannot; those of reading the head.
pub fn check_fit(source: &dyn ReadAt, target_size: u64) -> Result<()> {
    let mut head = vec![0; HEAD.min(source.size() as usize)];
    source.read_at(0, &mut head)?;
    relocate(&mut head, source.size(), target_size, source.sector_size())
        .map(drop)
        .map_err(|error| DiskError { device: source.identity().path.clone(), ..error })
}
