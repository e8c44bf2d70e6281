//! Bytes that lie on other bytes: partitions on disks, volumes on partitions.
//!
//! A [`Space`] can be read, so a filesystem in it can be mapped; and it can pass on which of its bytes are used to what it lies
//! on, down to the disks. Each disk and each volume has a slot of its own in the list of used ranges.

use std::ops::Range;
use std::sync::Arc;

use super::Ranges;
use crate::end::{Geometry, Identity, ReadAt, SectorSize};
use crate::error::{DiskError, ErrorKind, Result};

/// Something that can be read and lies somewhere.
pub(super) trait Space: ReadAt {
    /// Marks a range as used, here and below.
    fn mark(&self, range: Range<u64>, used: &mut [Ranges]);
    /// How many layers of volumes lie below it.
    fn depth(&self) -> usize;
}

/// A stretch of a disk.
pub(super) struct Stretch<'a> {
    disk: &'a dyn ReadAt,
    slot: usize,
    start: u64,
    size: u64,
    identity: Identity,
}

impl<'a> Stretch<'a> {
    /// `range` of the disk whose ranges are in `slot`; the caller has checked that it lies on the disk.
    pub(super) fn new(disk: &'a dyn ReadAt, slot: usize, range: Range<u64>, name: String) -> Self {
        let identity = Identity { path: name, ..Identity::default() };
        Self { disk, slot, start: range.start, size: range.end - range.start, identity }
    }
}

impl Geometry for Stretch<'_> {
    fn size(&self) -> u64 {
        self.size
    }
    fn sector_size(&self) -> SectorSize {
        self.disk.sector_size()
    }
    fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadAt for Stretch<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len() as u64, "reading")?;
        self.disk.read_at(self.start + offset, buffer)
    }
}

impl Space for Stretch<'_> {
    fn mark(&self, range: Range<u64>, used: &mut [Ranges]) {
        let end = range.end.min(self.size);
        if let Some(used) = used.get_mut(self.slot)
            && range.start < end
        {
            used.insert(self.start + range.start..self.start + end);
        }
    }
    fn depth(&self) -> usize {
        0
    }
}

/// Where a leg of a segment lies: a space and the first byte in it.
pub(super) type Leg<'a> = (Arc<dyn Space + 'a>, u64);

/// How the bytes of a segment are spread over its legs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    /// In turns, so many bytes each. With one leg it is linear.
    Striped(u64),
    /// The same on each.
    Mirrored,
    /// As md's RAID 5 and 6.
    Parity(super::md::Parity),
}

/// A part of a volume.
pub(super) struct Segment<'a> {
    /// First byte in the volume.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    pub spread: Spread,
    /// At least one.
    pub legs: Vec<Leg<'a>>,
}

/// A logical volume or an array: segments without gaps, in order.
pub(super) struct Volume<'a> {
    slot: usize,
    segments: Vec<Segment<'a>>,
    size: u64,
    sector: SectorSize,
    identity: Identity,
    depth: usize,
}

impl<'a> Volume<'a> {
    /// A volume whose ranges are in `slot`.
    pub(super) fn new(slot: usize, name: String, segments: Vec<Segment<'a>>) -> Self {
        let size = segments.last().map_or(0, |segment| segment.start + segment.length);
        let legs = || segments.iter().flat_map(|segment| &segment.legs);
        let depth = legs().map(|(space, _)| space.depth() + 1).max().unwrap_or(1);
        let sector = legs().map(|(space, _)| space.sector_size()).max_by_key(|sector| sector.bytes());
        let identity = Identity { path: name, ..Identity::default() };
        Self { slot, segments, size, sector: sector.unwrap_or(SectorSize::B512), identity, depth }
    }

    /// The segments from the one that holds the byte at `offset`.
    fn segments_from(&self, offset: u64) -> &[Segment<'a>] {
        let index = self.segments.partition_point(|segment| segment.start + segment.length <= offset);
        &self.segments[index..]
    }
}

impl Geometry for Volume<'_> {
    fn size(&self) -> u64 {
        self.size
    }
    fn sector_size(&self) -> SectorSize {
        self.sector
    }
    fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadAt for Volume<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len() as u64, "reading")?;
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let nowhere = || DiskError::new(ErrorKind::Range, &self.identity.path, "reading").at(at);
            let segment = self.segments_from(at).first().ok_or_else(nowhere)?;
            let (leg, place, length) = segment.locate(at - segment.start);
            let (space, start) = segment.legs.get(leg).ok_or_else(nowhere)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            space.read_at(start + place, now)?;
            at += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}

impl Space for Volume<'_> {
    fn mark(&self, range: Range<u64>, used: &mut [Ranges]) {
        if let Some(used) = used.get_mut(self.slot) {
            used.insert(range.start..range.end.min(self.size));
        }
        for segment in self.segments_from(range.start).iter().take_while(|part| part.start < range.end) {
            let from = range.start.max(segment.start) - segment.start;
            let to = range.end.min(segment.start + segment.length).saturating_sub(segment.start);
            if from < to {
                segment.mark(from..to, used);
            }
        }
    }
    fn depth(&self) -> usize {
        self.depth
    }
}

impl Segment<'_> {
    /// Where byte `at` is read: which leg, where in it, and how many bytes follow there.
    fn locate(&self, at: u64) -> (usize, u64, u64) {
        let rest = self.length - at;
        match self.spread {
            Spread::Mirrored => (0, at, rest),
            Spread::Striped(_) if self.legs.len() == 1 => (0, at, rest),
            Spread::Striped(chunk) => {
                let legs = self.legs.len() as u64;
                let (index, within) = (at / chunk, at % chunk);
                let leg = usize::try_from(index % legs).unwrap_or(0);
                (leg, index / legs * chunk + within, (chunk - within).min(rest))
            }
            Spread::Parity(parity) => {
                let (leg, place, length) = parity.locate(at, self.legs.len() as u64);
                (leg, place, length.min(rest))
            }
        }
    }

    /// Passes a range on. A range of a striped segment is one range on each leg, however many stripes it has.
    fn mark(&self, range: Range<u64>, used: &mut [Ranges]) {
        for (index, (space, start)) in (0u64..).zip(&self.legs) {
            let part = match self.spread {
                Spread::Mirrored => range.clone(),
                Spread::Striped(_) if self.legs.len() == 1 => range.clone(),
                Spread::Striped(chunk) => {
                    let legs = self.legs.len() as u64;
                    let place = |at: u64| {
                        let (row, within) = (at / (chunk * legs), at % (chunk * legs));
                        row * chunk + within.saturating_sub(index * chunk).min(chunk)
                    };
                    place(range.start)..place(range.end)
                }
                Spread::Parity(parity) => parity.rows(&range, self.legs.len() as u64),
            };
            space.mark(start + part.start..start + part.end, used);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::Memory;
    use crate::used::md::Parity;

    /// Every byte that reads from a place must be marked there; with striping nothing else may be.
    fn check(spread: Spread, legs: usize, range: Range<u64>) {
        const LEG: u64 = 64;
        let disks: Vec<Memory> = (0..legs)
            .map(|leg| Memory::new((0..128).map(|at| leg as u8 * 64 + at % 64).collect(), 512))
            .collect();
        let spaces = disks.iter().enumerate().map(|(slot, disk)| -> Leg<'_> {
            (Arc::new(Stretch::new(disk, slot, 0..128, String::new())), LEG)
        });
        let data = match spread {
            Spread::Mirrored => 1,
            Spread::Striped(_) => legs as u64,
            Spread::Parity(parity) => legs as u64 - parity.disks,
        };
        let segment = Segment { start: 0, length: data * LEG, spread, legs: spaces.collect() };
        let volume = Volume::new(legs, "volume".to_owned(), vec![segment]);
        let range = range.start.min(volume.size())..range.end.min(volume.size());
        let mut used = vec![Ranges::default(); legs + 1];
        volume.mark(range.clone(), &mut used);
        let mut places = Vec::new();
        for at in 0..volume.size() {
            let mut byte = [0];
            volume.read_at(at, &mut byte).unwrap();
            let (leg, place) = (usize::from(byte[0] / 64), LEG + u64::from(byte[0] % 64));
            assert!(!places.contains(&(leg, place)), "two bytes of the volume lie at the same place");
            places.push((leg, place));
            let inside = range.contains(&at);
            assert!(
                !inside || used[leg].contains(place),
                "{spread:?}: byte {at} is used, {place} on leg {leg} is not"
            );
            if matches!(spread, Spread::Striped(_)) {
                assert_eq!(inside, used[leg].contains(place), "{spread:?}: byte {at}, {place} on leg {leg}");
            }
        }
        let mut whole = vec![0; volume.size() as usize];
        volume.read_at(0, &mut whole).unwrap();
        let one_by_one: Vec<u8> =
            places.iter().map(|&(leg, place)| leg as u8 * 64 + (place - LEG) as u8).collect();
        assert_eq!(whole, one_by_one);
        assert!(used[..legs].iter().all(|ranges| ranges.iter().all(|range| range.start >= LEG)));
    }

    proptest! {
        #[test]
        fn what_is_read_from_a_place_is_marked_there(start in 0u64..256, length in 0u64..256, layout in 0u32..4, kind in 0..6, chunk in prop_oneof![Just(4u64), Just(16), Just(64)]) {
            let range = start..start + length;
            match kind {
                0 => check(Spread::Striped(chunk), 1, range),
                1 => check(Spread::Striped(chunk), 2, range),
                2 => check(Spread::Striped(chunk), 3, range),
                3 => check(Spread::Mirrored, 2, range),
                4 => check(Spread::Parity(Parity { chunk, disks: 1, layout }), 3, range),
                _ => check(Spread::Parity(Parity { chunk, disks: 2, layout }), 4, range),
            }
        }
    }
}
