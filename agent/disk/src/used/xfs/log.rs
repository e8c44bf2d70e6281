//! Whether the log ends with the record of an unmount.
//!
//! The log is a ring of 512-byte blocks that is written again and again. Each block starts with the number of its cycle (a
//! record's first block with a signature, then the cycle), so that the head, where the next record would go, is the one
//! place where the number falls: before it cycle N, behind it N - 1, which is zero in a ring never filled. It is found by
//! halving. Records are in flight together for at most 2 MiB, so a crash can leave holes only that near to the head: that
//! much is looked at on both sides, and anything irregular is a doubt. What lies right before the head must then be an
//! unmount record. Every sector of it carries its cycle, so it was written in full; that is why its checksum, which
//! mkfs leaves empty, is not needed.

use super::superblock::Superblock;
use crate::used::fields::{be32, be64};
use crate::used::{Doubt, Window};

const BLOCK: u64 = 512;
/// Starts the first block of each record.
const MAGIC: u32 = 0xfeed_babe;
/// Blocks that can be in flight: eight buffers of 256 KiB.
const IN_FLIGHT: u64 = (2 << 20) / BLOCK;
/// The most bytes a log may have, by the kernel.
const MOST: u64 = 1 << 31;
/// Bytes of a record whose cycles one header block holds; larger records have more header blocks.
const CYCLES: u32 = 32 << 10;
const MOST_RECORD: u32 = 256 << 10;
/// Flag of an operation: the log was unmounted.
const UNMOUNT: u8 = 0x20;

/// A doubt unless the last thing in the log is a clean unmount.
pub(super) fn must_be_clean(window: &Window<'_>, superblock: &Superblock) -> Result<(), Doubt> {
    let log = Log::locate(window, superblock)?;
    let (newer, older) = (log.cycle(0)?, log.cycle(log.blocks - 1)?);
    if newer == 0 {
        return Err(Doubt::new("its log was never written, so nothing says that it is clean"));
    }
    let head = if newer == older { log.blocks } else { log.find(older)? };
    if newer != older && newer != older.wrapping_add(1) {
        return Err(Doubt::new("its log is not in order"));
    }
    let around = IN_FLIGHT.min(log.blocks / 2);
    let first = (head + log.blocks - around) % log.blocks;
    let bytes = log.ring(first, 2 * around)?;
    let blocks: Vec<&[u8]> = bytes.chunks_exact(BLOCK as usize).collect();
    for (index, block) in (first..).zip(&blocks) {
        let expected = if index % log.blocks < head { newer } else { older };
        if cycle(block)? != expected {
            return Err(Doubt::new("it is not clean: writing its log was interrupted"));
        }
    }
    let written = &blocks[..blocks.len() / 2];
    let record = written.iter().rposition(|block| be32(block, 0) == Ok(MAGIC));
    let Some(record) = record else {
        return Err(Doubt::new("its log has no record before its end"));
    };
    let at = (first + record as u64) % log.blocks;
    if is_unmount(&written[record..], at, superblock)? {
        return Ok(());
    }
    Err(Doubt::new("it is not clean: its log must be replayed"))
}

/// Whether the record that starts at ring block `at` is a whole unmount record and the last in `blocks`.
fn is_unmount(blocks: &[&[u8]], at: u64, superblock: &Superblock) -> Result<bool, Doubt> {
    let header = blocks[0];
    let (cycle, version, length) = (be32(header, 4)?, be32(header, 8)?, be32(header, 12)?);
    let own = be64(header, 16)? == u64::from(cycle) << 32 | at
        && header.get(304..320) == Some(&superblock.log_uuid);
    if !own || !(1..=2).contains(&version) {
        return Err(Doubt::new("the last record of its log is not its own"));
    }
    let size = be32(header, 320)?;
    if size > MOST_RECORD {
        return Err(Doubt::new("the last record of its log is too large"));
    }
    let headers = if version == 2 { size.div_ceil(CYCLES).max(1) as usize } else { 1 };
    let whole = headers as u64 + u64::from(length).div_ceil(BLOCK) == blocks.len() as u64;
    let one = be32(header, 40)? == 1;
    // The operation's flags; its first word holds the cycle.
    let flags = blocks.get(headers).and_then(|block| block.get(9)).copied().unwrap_or(0);
    Ok(whole && one && flags & UNMOUNT != 0)
}

fn cycle(block: &[u8]) -> Result<u32, Doubt> {
    match be32(block, 0)? {
        MAGIC => be32(block, 4),
        cycle => Ok(cycle),
    }
}

struct Log<'a> {
    window: &'a Window<'a>,
    /// Byte at which it starts.
    start: u64,
    /// Blocks of 512 bytes.
    blocks: u64,
}

impl<'a> Log<'a> {
    fn locate(window: &'a Window<'a>, superblock: &Superblock) -> Result<Self, Doubt> {
        let geometry = &superblock.geometry;
        let group = geometry.log_start >> geometry.group_bits;
        let block = geometry.log_start & ((1 << geometry.group_bits) - 1);
        let inside = group < geometry.groups
            && block.checked_add(geometry.log_blocks).is_some_and(|end| end <= geometry.group_length(group));
        let bytes = geometry.log_blocks * geometry.block;
        if !inside || !(2 * BLOCK..=MOST).contains(&bytes) {
            return Err(Doubt::new("its log lies where none can be"));
        }
        let start = geometry.group_start(group) + block * geometry.block;
        Ok(Self { window, start, blocks: bytes / BLOCK })
    }

    fn cycle(&self, block: u64) -> Result<u32, Doubt> {
        cycle(&self.window.read(self.start + block * BLOCK, BLOCK)?)
    }

    /// The first block of cycle `older`, if there is one place where cycles change.
    fn find(&self, older: u32) -> Result<u64, Doubt> {
        let (mut before, mut head) = (0, self.blocks - 1);
        while head - before > 1 {
            let middle = before + (head - before) / 2;
            if self.cycle(middle)? == older { head = middle } else { before = middle }
        }
        Ok(head)
    }

    /// `count` blocks from `first`, around the end.
    fn ring(&self, first: u64, count: u64) -> Result<Vec<u8>, Doubt> {
        let front = count.min(self.blocks - first);
        let mut bytes = self.window.read(self.start + first * BLOCK, front * BLOCK)?;
        bytes.extend(self.window.read(self.start, (count - front) * BLOCK)?);
        Ok(bytes)
    }
}
