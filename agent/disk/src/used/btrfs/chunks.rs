//! Chunks: which part of the device a logical address is on.

use super::superblock::Superblock;
use super::tree::{KEY, Key, Root, Trees};
use crate::used::fields::{le16, le64};
use crate::used::{Doubt, Window};

/// The most chunks: each has a GiB and more on large filesystems.
const MOST: usize = 1 << 18;
/// Bytes of a chunk item before its stripes, and of a stripe.
const HEAD: usize = 48;
const STRIPE: usize = 32;
/// Type bits: data, system, metadata; two copies on one device; all other profiles.
const KINDS: u64 = 0x7;
const DUP: u64 = 0x20;
const PROFILES: u64 = 0x7f8;
/// Objects of the chunk tree: device items, chunks.
const DEVICES: u64 = 1;
const CHUNKS: u64 = 256;
/// States of a device replacement that has not ended.
const UNDER_WAY: [u64; 2] = [1, 4];

/// A run of logical addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub logical: u64,
    /// Bytes.
    pub length: u64,
    /// Kind and profile.
    pub kind: u64,
    /// Bytes on the device at which its one or two copies start.
    pub copies: Vec<u64>,
}

impl Chunk {
    fn parse(key: Key, item: &[u8], superblock: &Superblock) -> Result<Self, Doubt> {
        let doubt = |what: &str| Doubt::new(format!("chunk {} {what}", key.offset));
        let (length, kind) = (le64(item, 0)?, le64(item, 24)?);
        let stripes = usize::from(le16(item, 44)?);
        let expected = match kind & PROFILES {
            0 => 1,
            DUP => 2,
            _ => return Err(doubt("is of a RAID")),
        };
        if kind & KINDS == 0 || kind & !(KINDS | PROFILES) != 0 || stripes != expected {
            return Err(doubt("is of an unknown kind"));
        }
        let mut copies = Vec::new();
        for stripe in 0..stripes {
            let at = HEAD + stripe * STRIPE;
            if le64(item, at)? != superblock.device
                || item.get(at + 16..at + 32) != Some(&superblock.device_uuid)
            {
                return Err(doubt("is on another device"));
            }
            copies.push(le64(item, at + 8)?);
        }
        let on_device =
            |start: &u64| start.checked_add(length).is_some_and(|end| end <= superblock.device_bytes);
        let whole = |number: u64| number.is_multiple_of(superblock.sector);
        let sound = length > 0
            && key.offset.checked_add(length).is_some()
            && copies.iter().all(on_device)
            && whole(length)
            && whole(key.offset)
            && copies.iter().all(|&start| whole(start));
        if !sound {
            return Err(doubt("lies where none can be"));
        }
        Ok(Self { logical: key.offset, length, kind, copies })
    }

    /// Its logical addresses.
    pub fn addresses(&self) -> std::ops::Range<u64> {
        self.logical..self.logical + self.length
    }
}

/// Chunks by logical address; they do not overlap.
#[derive(Debug, Default)]
pub(super) struct Chunks(Vec<Chunk>);

impl Chunks {
    fn add(&mut self, chunk: Chunk) -> Result<(), Doubt> {
        if self.0.len() >= MOST || self.0.last().is_some_and(|last| last.addresses().end > chunk.logical) {
            return Err(Doubt::new("its chunks overlap or are too many"));
        }
        self.0.push(chunk);
        Ok(())
    }

    /// In logical order.
    pub fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The chunk, and its number, that has all of `length` bytes from `logical`.
    pub fn find(&self, logical: u64, length: u64) -> Option<(usize, &Chunk)> {
        let index = self.0.partition_point(|chunk| chunk.logical <= logical).checked_sub(1)?;
        let chunk = self.0.get(index)?;
        (logical.checked_add(length)? <= chunk.addresses().end).then_some((index, chunk))
    }

    /// The bytes on the device at which the copies of `length` bytes from `logical` start.
    pub fn locate(&self, logical: u64, length: u64) -> Option<Vec<u64>> {
        let (_, chunk) = self.find(logical, length)?;
        Some(chunk.copies.iter().map(|copy| copy + (logical - chunk.logical)).collect())
    }
}

/// Reads the system chunks from the superblock, and through them all chunks.
pub(super) fn read(window: &Window<'_>, superblock: &Superblock) -> Result<Chunks, Doubt> {
    let system = system_chunks(superblock)?;
    let mut chunks = Chunks::default();
    let mut devices = 0;
    let trees = Trees { window, superblock, chunks: &system };
    trees.walk(&superblock.chunks, &mut |key, item| match (key.object, key.kind) {
        (CHUNKS, Key::CHUNK) => chunks.add(Chunk::parse(key, item, superblock)?),
        (DEVICES, Key::DEVICE) => {
            devices += 1;
            let same = key.offset == superblock.device
                && le64(item, 8)? == superblock.device_bytes
                && le64(item, 16)? == superblock.device_used;
            if same {
                Ok(())
            } else {
                Err(Doubt::new("superblock and chunk tree describe different devices"))
            }
        }
        _ => Ok(()),
    })?;
    if devices != 1 {
        return Err(Doubt::new(format!("its chunk tree names {devices} devices")));
    }
    match system
        .iter()
        .all(|chunk| chunks.find(chunk.logical, chunk.length).is_some_and(|found| found.1 == chunk))
    {
        true => Ok(chunks),
        false => Err(Doubt::new("superblock and chunk tree hold different system chunks")),
    }
}

fn system_chunks(superblock: &Superblock) -> Result<Chunks, Doubt> {
    let mut found = Vec::new();
    let mut rest = &superblock.system_chunks[..];
    while rest.len() > KEY + HEAD {
        let (key, item) = rest.split_at(KEY);
        let key = Key::read(key, 0)?;
        let size = HEAD + usize::from(le16(item, 44)?) * STRIPE;
        if (key.object, key.kind) != (CHUNKS, Key::CHUNK) || size > item.len() {
            return Err(Doubt::new("the system chunks in its superblock are damaged"));
        }
        found.push(Chunk::parse(key, item, superblock)?);
        rest = &item[size..];
    }
    found.sort_by_key(|chunk| chunk.logical);
    let mut chunks = Chunks::default();
    found.into_iter().try_for_each(|chunk| chunks.add(chunk))?;
    Ok(chunks)
}

/// The device tree must hold the same pieces of the device as the chunks, and they must not overlap.
pub(super) fn agree_with_device(trees: &Trees<'_>, root: &Root) -> Result<(), Doubt> {
    let mut pieces: Vec<(u64, u64, u64)> = trees
        .chunks
        .iter()
        .flat_map(|chunk| chunk.copies.iter().map(|&copy| (copy, chunk.length, chunk.logical)))
        .collect();
    pieces.sort_unstable();
    let differ = || Doubt::new("its chunk tree and its device tree differ");
    let mut next = 0;
    let (mut end, mut sum) = (0, 0);
    trees.walk(root, &mut |key, item| {
        if key.kind == Key::REPLACE && UNDER_WAY.contains(&le64(item, 32)?) {
            return Err(Doubt::new("its device is being replaced"));
        }
        if key.kind != Key::DEVICE_EXTENT {
            return Ok(());
        }
        let piece = (key.offset, le64(item, 24)?, le64(item, 16)?);
        if key.object != trees.superblock.device || pieces.get(next) != Some(&piece) || piece.0 < end {
            return Err(differ());
        }
        next += 1;
        end = piece.0 + piece.1;
        sum += piece.1;
        Ok(())
    })?;
    if next != pieces.len() || sum != trees.superblock.device_used {
        return Err(differ());
    }
    Ok(())
}
