//! A volume group, as its text describes it. Bytes, not sectors or extents.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::text::{Section, Value, parse};
use crate::used::{Doubt, Ranges};

/// LVM counts in sectors of 512 bytes whatever the disk's are.
const SECTOR: u64 = 512;

/// A volume group whose parts fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::used) struct Group {
    /// Its UUID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Grows with each change.
    pub sequence: u64,
    /// By UUID without dashes.
    pub physical: BTreeMap<String, Physical>,
    /// In the order of the text.
    pub logical: Vec<Logical>,
}

/// A physical volume: its extents start here and end there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::used) struct Physical {
    pub extents: Range<u64>,
}

/// A logical volume, or the part of one that lies directly on physical volumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::used) struct Logical {
    pub name: String,
    /// Why nothing in it may be left out; `None` for a plain linear or striped volume.
    pub whole: Option<String>,
    /// In order, without gaps when it is plain.
    pub pieces: Vec<Piece>,
}

/// A segment of type "striped".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::used) struct Piece {
    /// First byte in the logical volume.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// Bytes of a stripe; not 0.
    pub stripe: u64,
    /// UUID of the physical volume and first byte there, for each leg.
    pub legs: Vec<(String, u64)>,
}

impl Group {
    /// Reads the text.
    ///
    /// # Errors
    /// What is not understood, does not fit together, is exported, shared between machines, or lacks a disk.
    pub(super) fn read(text: &[u8]) -> Result<Self, Doubt> {
        let root = parse(text)?;
        let mut sections = root.sections();
        let (Some((name, section)), None) = (sections.next(), sections.next()) else {
            return Err(odd("has no volume group, or several"));
        };
        if section.text("format").unwrap_or("lvm2") != "lvm2" {
            return Err(odd("is of an unknown format"));
        }
        if section.lists("status", "EXPORTED") {
            return Err(odd("is exported"));
        }
        let shared = section.text("lock_type").is_ok_and(|kind| kind != "none");
        if shared || section.lists("status", "CLUSTERED") {
            return Err(odd("is shared with other machines"));
        }
        let extent = section.number("extent_size")?.checked_mul(SECTOR).filter(|&size| size > 0);
        let extent = extent.ok_or_else(|| odd("has an impossible extent size"))?;
        let mut group = Self {
            id: section.text("id")?.to_owned(),
            name: name.to_owned(),
            sequence: section.number("seqno")?,
            physical: BTreeMap::new(),
            logical: Vec::new(),
        };
        let mut names = BTreeMap::new();
        for (name, physical) in section.section("physical_volumes").sections() {
            if physical.lists("flags", "MISSING") {
                return Err(odd("lacks a disk"));
            }
            let uuid = physical.text("id")?.replace('-', "");
            let start = bytes(physical.number("pe_start")?, SECTOR)?;
            let end = bytes(physical.number("pe_count")?, extent)?.checked_add(start);
            let extents = start..end.ok_or_else(|| odd("has an impossible size"))?;
            names.insert(name.to_owned(), uuid.clone());
            group.physical.insert(uuid, Physical { extents });
        }
        let volumes = section.section("logical_volumes");
        let parts = parts_of_others(&volumes);
        for (name, volume) in volumes.sections() {
            let mut logical = group.logical(name, volume, &names, extent)?;
            if parts.contains(name) || !volume.lists("status", "VISIBLE") {
                logical.whole =
                    Some("another volume uses it (snapshot, thin pool, cache, RAID or the like)".to_owned());
            }
            group.logical.push(logical);
        }
        group.refuse_overlap()?;
        Ok(group)
    }

    fn logical(
        &self,
        name: &str,
        volume: &Section,
        names: &BTreeMap<String, String>,
        extent: u64,
    ) -> Result<Logical, Doubt> {
        let mut logical = Logical { name: name.to_owned(), whole: None, pieces: Vec::new() };
        let mut segments = 0;
        for (_, segment) in volume.sections().filter(|(name, _)| name.starts_with("segment")) {
            segments += 1;
            let kind = segment.text("type")?;
            if kind != "striped" {
                // Where the extents of such a segment are is not known here, unless they are volumes of their own.
                let mut direct = false;
                segment.texts(&mut |text| direct |= names.contains_key(text));
                if direct {
                    return Err(odd(&format!("has extents of type \"{kind}\"")));
                }
                logical.whole = Some(format!("it is of type \"{kind}\""));
                continue;
            }
            let piece = self.piece(segment, names, extent)?;
            match piece {
                Some(piece) => logical.pieces.push(piece),
                None => logical.whole = Some("it lies on another volume".to_owned()),
            }
        }
        logical.pieces.sort_by_key(|piece| piece.start);
        let mut reach = 0;
        for piece in &logical.pieces {
            if logical.whole.is_none() && piece.start != reach {
                return Err(odd(&format!("has a gap in the volume {name}")));
            }
            reach = piece.start.checked_add(piece.length).ok_or_else(|| odd("has an impossible size"))?;
        }
        if volume.number("segment_count")? != segments {
            return Err(odd(&format!("counts other segments in the volume {name} than it has")));
        }
        Ok(logical)
    }

    /// `None` when a leg is not a physical volume.
    fn piece(
        &self,
        segment: &Section,
        names: &BTreeMap<String, String>,
        extent: u64,
    ) -> Result<Option<Piece>, Doubt> {
        let length = bytes(segment.number("extent_count")?, extent)?;
        let stripes = segment.list("stripes");
        let count = segment.number("stripe_count")?;
        let legs = stripes.len() as u64 / 2;
        if legs == 0 || legs != count || !stripes.len().is_multiple_of(2) || length % legs != 0 {
            return Err(odd("has an impossible number of stripes"));
        }
        let stripe = if legs == 1 { extent } else { bytes(segment.number("stripe_size")?, SECTOR)? };
        if stripe == 0 || !(length / legs).is_multiple_of(stripe) {
            return Err(odd("has an impossible stripe size"));
        }
        let mut places = Vec::new();
        for pair in stripes.chunks_exact(2) {
            let [Value::Text(name), Value::Number(number)] = pair else {
                return Err(odd("has impossible stripes"));
            };
            let Some(uuid) = names.get(name) else {
                return Ok(None);
            };
            let from = bytes(u64::try_from(*number).map_err(|_| odd("has impossible stripes"))?, extent)?;
            let extents =
                self.physical.get(uuid).map(|physical| physical.extents.clone()).unwrap_or_default();
            let start = extents.start.checked_add(from);
            let end =
                start.and_then(|start| start.checked_add(length / legs)).filter(|&end| end <= extents.end);
            let (Some(start), Some(_)) = (start, end) else {
                return Err(odd("has extents outside its physical volumes"));
            };
            places.push((uuid.clone(), start));
        }
        let start = bytes(segment.number("start_extent")?, extent)?;
        Ok(Some(Piece { start, length, stripe, legs: places }))
    }

    /// No extent belongs to two volumes.
    fn refuse_overlap(&self) -> Result<(), Doubt> {
        let mut taken: BTreeMap<&str, Ranges> = BTreeMap::new();
        for piece in self.logical.iter().flat_map(|volume| &volume.pieces) {
            for (uuid, start) in &piece.legs {
                let range = *start..start + piece.length / piece.legs.len() as u64;
                let ranges = taken.entry(uuid).or_default();
                if ranges.touches(range.clone()) {
                    return Err(odd("gives an extent to two volumes"));
                }
                ranges.insert(range);
            }
        }
        Ok(())
    }
}

/// The names of volumes that segments of others mention, in whatever role.
fn parts_of_others(volumes: &Section) -> BTreeSet<String> {
    let names: BTreeSet<&str> = volumes.sections().map(|(name, _)| name).collect();
    let mut parts = BTreeSet::new();
    for (_, volume) in volumes.sections() {
        for (_, segment) in volume.sections() {
            segment.texts(&mut |text| {
                if names.contains(text) {
                    parts.insert(text.to_owned());
                }
            });
        }
    }
    parts
}

fn bytes(count: u64, unit: u64) -> Result<u64, Doubt> {
    count
        .checked_mul(unit)
        .filter(|&bytes| bytes <= i64::MAX as u64)
        .ok_or_else(|| odd("has an impossible size"))
}

fn odd(what: &str) -> Doubt {
    Doubt::new(format!("its volume group {what}"))
}
