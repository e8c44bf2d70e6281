//! Makes a GPT fit a disk that is larger than the one it was made for: a pure transform of the source's head.
//!
//! The backup header and entries belong in the last blocks of the disk, and "last usable block" and the protective MBR name
//! its size. Three places change in the head (protective MBR size, two fields and the checksum of the primary header);
//! the backup is made anew from the primary at the new end. Entries are copied byte for byte: no number, GUID, start or
//! unknown field changes, which is why no library is used that parses and writes whole tables (the `gpt` crate
//! renumbers partitions, others leave the protective MBR or move the first usable block).
//!
//! A primary that is damaged is an error, not a shrug: on the larger disk nothing would find the old backup any more.

use serde::{Deserialize, Serialize};

use super::gpt::{Header, SIGNATURE, crc, extent};
use super::mbr::{PROTECTIVE, Record, SLOTS};
use crate::end::SectorSize;
use crate::error::{DiskError, ErrorKind, Result};

/// Receivers hold the last MiB of the source and of the target in memory; nothing outside these is changed.
const TAIL: u64 = 1 << 20;

/// What has to be done on the target beside writing the changed head.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relocation {
    /// (byte offset on the target, bytes), to be written in this order.
    pub tail_writes: Vec<(u64, Vec<u8>)>,
    /// (byte offset, length) of the old backup, outside all partitions, to be zeroed.
    pub zero: Vec<(u64, u64)>,
    /// What was changed, or why nothing was; for the report.
    pub notes: Vec<String>,
}

/// Changes `head`, the first MiB of a source of `source_size` bytes, for a target of `target_size` bytes.
///
/// Nothing changes for equal sizes, for MBR disks and for disks without a table.
///
/// # Errors
/// `Unsuitable`: the target is smaller, or a protective MBR stands before a GPT that is damaged. `head` is then unchanged.
pub fn relocate(
    head: &mut [u8],
    source_size: u64,
    target_size: u64,
    sector: SectorSize,
) -> Result<Relocation> {
    let size = u64::from(sector.bytes());
    let bytes = sector.bytes() as usize;
    let (source_blocks, blocks) = (source_size / size, target_size / size);
    if blocks < source_blocks {
        return Err(unsuitable(format!(
            "the target ({target_size} bytes) is smaller than the source ({source_size})"
        )));
    }
    if blocks == source_blocks {
        return Ok(Relocation::default());
    }
    let Some(primary) = head.get(bytes..2 * bytes) else {
        return Err(unsuitable("the head is shorter than two sectors".to_owned()));
    };
    let Some(record) = Record::parse(&head[..bytes]).filter(Record::protects_gpt) else {
        let stale = primary.starts_with(SIGNATURE);
        return Ok(note(if stale {
            "a GPT without a protective MBR is not in force; left as it is"
        } else {
            "no GPT; nothing to move"
        }));
    };
    let header = Header::parse(primary, 1).map_err(|reason| {
        unsuitable(format!(
            "the source's primary GPT is damaged ({reason}): its backup would not be found on a larger disk; repair it \
             on the source first (sgdisk or gdisk), or use a target of exactly {source_size} bytes"
        ))
    })?;
    let Some(array) = array_in(head, &header, size) else {
        return Ok(note(
            "the GPT's entries lie outside the first MiB; left as it is, tools will offer to move the backup",
        ));
    };
    if crc(&array) != header.entries_crc {
        return Err(unsuitable(
            "the checksum of the source's GPT entries is wrong; repair it on the source first".to_owned(),
        ));
    }

    let used: Vec<(u64, u64)> = array.chunks_exact(header.entry_size).filter_map(extent).collect();
    let reach = used.iter().map(|&(_, last)| last).max().unwrap_or(0);
    let array_blocks = header.array_blocks(sector);
    let new_header = blocks - 1;
    let Some(new_array) =
        new_header.checked_sub(array_blocks).filter(|&start| start > reach.max(header.last))
    else {
        return Ok(note(
            "the target's last MiB has no room for a backup GPT behind the last partition; left as it is",
        ));
    };

    let mut relocation = Relocation::default();
    let old_size = patch_protective(head, &record, blocks);
    if let Some((old, new)) = old_size {
        relocation.notes.push(format!("protective MBR: {old} -> {new} blocks"));
    } else if record.is_hybrid() {
        relocation.notes.push("hybrid MBR: its entries are left as they are".to_owned());
    }
    let primary = &mut head[bytes..2 * bytes];
    put(primary, 32, new_header);
    put(primary, 48, new_array - 1);
    seal(primary, header.size);
    let mut backup = primary.to_vec();
    put(&mut backup, 24, new_header);
    put(&mut backup, 32, 1);
    put(&mut backup, 72, new_array);
    seal(&mut backup, header.size);
    relocation.notes.push(format!("backup GPT: block {} -> {new_header}", header.alternate));
    relocation.notes.push(format!("last usable block: {} -> {}", header.last, new_array - 1));

    let mut array = array;
    array.resize(usize::try_from(array_blocks * size).unwrap_or(array.len()), 0);
    relocation.tail_writes = vec![(new_array * size, array), (new_header * size, backup)];
    relocation.zero = old_backup(
        &header,
        &record,
        &used,
        array_blocks,
        source_blocks.saturating_sub(TAIL / size)..source_blocks,
        new_array,
    )
    .map(|(first, end)| (first * size, (end - first) * size))
    .into_iter()
    .collect();
    Ok(relocation)
}

/// The entry array, when all of it is in the head.
fn array_in(head: &[u8], header: &Header, size: u64) -> Option<Vec<u8>> {
    let start = header.entries.checked_mul(size)?;
    let end = start.checked_add(header.array_bytes())?;
    Some(head.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?.to_vec())
}

/// The blocks of the old backup [first, end), if they are nobody's: behind the old usable range, in the source's last MiB, in
/// no partition of the GPT or a hybrid MBR, and not where the new backup goes. A backup that is not in the last MiB was
/// left behind when the source itself grew; it is dead already and stays.
fn old_backup(
    header: &Header,
    record: &Record,
    used: &[(u64, u64)],
    array_blocks: u64,
    source: std::ops::Range<u64>,
    new_array: u64,
) -> Option<(u64, u64)> {
    let old = header.alternate;
    let first =
        old.checked_sub(array_blocks).filter(|first| *first > header.last && source.contains(first))?;
    if !source.contains(&old) {
        return None;
    }
    let end = (old + 1).min(new_array);
    let free_of = |start: u64, last: u64| last < first || start >= end;
    let hybrid = record
        .slots
        .iter()
        .filter(|slot| slot.kind != 0 && slot.kind != PROTECTIVE)
        .all(|slot| free_of(u64::from(slot.start), u64::from(slot.start) + u64::from(slot.blocks)));
    (first < end && hybrid && used.iter().all(|&(start, last)| free_of(start, last))).then_some((first, end))
}

/// Sets the size of the one protective partition. Some systems always write 2^32 - 1, which is kept. A hybrid's
/// protective partition covers only what stands before the others.
fn patch_protective(head: &mut [u8], record: &Record, blocks: u64) -> Option<(u32, u32)> {
    let slot = record.slots.iter().position(|slot| slot.kind == PROTECTIVE)?;
    let old = record.slots[slot].blocks;
    let new = u32::try_from(blocks - 1).unwrap_or(u32::MAX);
    if record.is_hybrid() || old == u32::MAX || old == new {
        return None;
    }
    let at = SLOTS + 16 * slot + 12;
    head[at..at + 4].copy_from_slice(&new.to_le_bytes());
    Some((old, new))
}

fn put(block: &mut [u8], at: usize, value: u64) {
    block[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Renews a header's own checksum.
fn seal(block: &mut [u8], header_size: usize) {
    block[16..20].fill(0);
    let sum = crc(&block[..header_size]);
    block[16..20].copy_from_slice(&sum.to_le_bytes());
}

fn note(text: &str) -> Relocation {
    Relocation { notes: vec![text.to_owned()], ..Relocation::default() }
}

fn unsuitable(text: String) -> DiskError {
    DiskError::new(ErrorKind::Unsuitable, "partition table", text)
}

#[cfg(test)]
mod tests;
