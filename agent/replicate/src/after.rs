//! What is on a disk after transforms and repair: what they changed, and the root now.
//!
//! The obvious way is to read the whole disk once more. That is right, and takes hours for a large disk while its machine is
//! down. So what was written is recorded while it is written: in the held pieces by comparing them with what they were, on the
//! medium by the view through which repair writes ([`gantry_disk::view`]). Then only groups with such places are read back;
//! the nodes of all others are still those of the last compare, because the disk was held exclusively since. Where the record
//! is not whole for any reason, everything is read.
//!
//! This happens before the commit, while a fault can still stop it: the medium is read from the medium, after its flush, and
//! held pieces from memory. The commit then reads the pieces back and compares them byte by byte with that memory, so every
//! byte under the new root has been read back.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use gantry_disk::view::Written;
use gantry_disk::{Geometry, ReadAt};
use gantry_wire::limits::{CHUNK, GROUP, LEAF};
use gantry_wire::tree;

use crate::event::Events;
use crate::groups::GroupNodes;
use crate::replica::{Pieces, Replica};
use crate::report::{After, Behind, limits};
use crate::sweep::{leaves, node_of, sweep_freely};

/// A disk before it was changed, and what is known of the changes.
pub struct Changed<'a> {
    /// The disk, with the pieces as they are to be committed.
    pub replica: &'a Replica,
    /// Its nodes before; all of them known.
    pub before: &'a GroupNodes,
    /// The held pieces before.
    pub pieces: &'a Pieces,
    /// What was written past the pieces.
    pub written: &'a Written,
}

impl Changed<'_> {
    /// Reads back what was changed. `disks` share the room that a report has.
    pub fn after(&self, disks: usize, events: &Events) -> Result<After> {
        let size = self.replica.source_size();
        let group_bytes = GROUP * CHUNK;
        let places = self.places();
        // The last group may reach beyond the source: what lies there is not in its node.
        let groups_of = |range: &Range<u64>| match range.start < size {
            true => range.start / group_bytes..range.end.min(size).div_ceil(group_bytes),
            false => 0..0,
        };
        let groups: Vec<u64> = match self.written {
            Written::Ranges(_) => {
                let touched: BTreeSet<u64> = places.iter().flat_map(groups_of).collect();
                touched.into_iter().collect()
            }
            Written::Unknown(_) => (0..self.before.count()).collect(),
        };
        let total = groups.len() as u64 * group_bytes;
        let (nodes, read) = (Mutex::new(self.before.clone()), AtomicU64::new(0));
        let queue = Mutex::new(groups.iter().copied());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        sweep_freely("after", (&self.replica.end().identity().path, total), next, events, |group, reads| {
            let leaves = leaves(self.replica, size, group, reads)?;
            nodes.lock().unwrap_or_else(PoisonError::into_inner).set(group, node_of(&leaves));
            read.fetch_add(group_bytes.min(size - group * group_bytes), Ordering::Relaxed);
            Ok(GROUP)
        })?;
        let nodes = nodes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let differs = |group: u64| nodes.node(group) != self.before.node(group);
        let (changed, known_by): (Vec<_>, _) = match self.written {
            // What was written in a group that is as it was, was written as it was.
            Written::Ranges(_) => {
                let changed =
                    places.into_iter().filter(|range| range.end > size || groups_of(range).any(differs));
                (changed.collect(), "recorded".to_owned())
            }
            Written::Unknown(why) => {
                let differing = groups.into_iter().filter(|group| differs(*group));
                let whole = differing.map(|g| g * group_bytes..((g + 1) * group_bytes).min(size));
                // A place that crosses the source's end overlaps its group, which is told already if it differs.
                let behind = places.iter().filter(|range| range.end > size);
                let behind = behind.map(|range| range.start.max(size)..range.end);
                (whole.chain(behind).collect(), format!("read whole: {why}"))
            }
        };
        // Widening may make neighbours meet.
        let changed = runs(changed, LEAF as u64, self.replica.size());
        let height = nodes.height(limits::NODES / disks.max(1));
        let top = nodes.spans(height);
        let root = nodes.root(self.replica.sector_size().bytes()).context("not every group is known")?;
        Ok(After {
            root: tree::hex(&root),
            changed: bounded(changed, limits::CHANGED / disks.max(1), self.replica.size()),
            known_by,
            read: read.into_inner(),
            span: group_bytes << height,
            nodes: top.iter().map(|node| tree::hex(node)).collect(),
            behind: self.behind()?,
        })
    }

    /// Leaves that were written, as far as it is known, in runs.
    fn places(&self) -> Vec<Range<u64>> {
        let leaf = LEAF as u64;
        let mut touched: Vec<Range<u64>> = Vec::new();
        for ((offset, old), (_, new)) in self.pieces.iter().zip(self.replica.pieces()) {
            let mut at = 0;
            while at < new.len() {
                // To the next border of a leaf: a piece may begin anywhere.
                let start = offset + at as u64;
                let step = ((leaf - start % leaf) as usize).min(new.len() - at);
                if old.get(at..at + step) != new.get(at..at + step) {
                    touched.push(start..start + step as u64);
                }
                at += step;
            }
        }
        if let Written::Ranges(written) = self.written {
            touched.extend(written.iter().filter(|range| !range.is_empty()).cloned());
        }
        runs(touched, leaf, self.replica.size())
    }

    /// What was written behind the extent of the source.
    fn behind(&self) -> Result<Option<Behind>> {
        let (size, end) = (self.replica.source_size(), self.replica.size());
        let length = CHUNK.min(end - size);
        if length == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        self.replica.read_at(end - length, &mut bytes)?;
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        Ok(Some(Behind { offset: end - length, length, blake3 }))
    }
}

/// Widens ranges to multiples of `unit` (but not beyond `end`), in order, joined where they meet.
fn runs(mut ranges: Vec<Range<u64>>, unit: u64, end: u64) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let start = range.start / unit * unit;
        let stop = range.end.checked_next_multiple_of(unit).map_or(end, |stop| stop.min(end));
        match joined.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(stop),
            _ if start < stop => joined.push(start..stop),
            _ => {}
        }
    }
    joined
}

/// At most `most` ranges, as offset and length: what lies close together is told as one, by ever larger units.
fn bounded(mut ranges: Vec<Range<u64>>, most: usize, end: u64) -> Vec<(u64, u64)> {
    let mut unit = LEAF as u64;
    while ranges.len() > most {
        unit *= 2;
        ranges = runs(ranges, unit, end);
    }
    ranges.into_iter().map(|range| (range.start, range.end - range.start)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_disk::{ImageFile, SectorSize, WriteAt};
    use gantry_wire::tree::RootBuilder;

    use super::*;
    use crate::sweep::free;

    const MIB: u64 = 1 << 20;
    const SIZE: u64 = 200 * MIB + 512 * 3;

    struct Disk {
        _folder: tempfile::TempDir,
        replica: Replica,
        before: GroupNodes,
        pieces: Pieces,
    }

    /// Sparse: data in the first, third and last group.
    fn disk() -> Disk {
        let folder = tempfile::tempdir().unwrap();
        let image = ImageFile::create(&folder.path().join("target"), 204 * MIB).unwrap();
        let replica = Replica::new(Arc::new(image), SIZE, SectorSize::B512).unwrap();
        for at in [4096, 5 * MIB, 150 * MIB, SIZE - 512] {
            replica.write_at(at, &[at as u8 | 1; 512]).unwrap();
        }
        let mut before = GroupNodes::new(SIZE);
        (0..4).for_each(|group| before.set(group, node_of(&leaves(&replica, SIZE, group, &free()).unwrap())));
        let pieces = replica.pieces();
        Disk { _folder: folder, replica, before, pieces }
    }

    impl Disk {
        fn after(&self, written: &Written) -> After {
            let changed =
                Changed { replica: &self.replica, before: &self.before, pieces: &self.pieces, written };
            changed.after(1, &Events::nowhere()).unwrap()
        }
        /// The root by another way: everything is read.
        fn root(&self) -> String {
            let mut root = RootBuilder::default();
            (0..4).for_each(|g| root.push(&node_of(&leaves(&self.replica, SIZE, g, &free()).unwrap())));
            tree::hex(&root.finish(SIZE, 512))
        }
    }

    #[test]
    fn what_was_recorded_is_read_back_and_nothing_else() {
        let disk = disk();
        let untouched = disk.after(&Written::Ranges(vec![]));
        assert_eq!((untouched.read, untouched.changed.len(), &untouched.root), (0, 0, &disk.root()));

        // Twice in the third group, once as it was in the first; the tail of the larger disk.
        disk.replica.write_at(150 * MIB + 65536, &[9; 512]).unwrap();
        disk.replica.write_at(170 * MIB, &[9; 512]).unwrap();
        disk.replica.write_at(204 * MIB - 512, &[7; 512]).unwrap();
        let record =
            [5 * MIB..5 * MIB + 512, 150 * MIB + 65536..150 * MIB + 66048, 170 * MIB..170 * MIB + 512];
        let after = disk.after(&Written::Ranges(record.to_vec()));
        assert_eq!(after.root, disk.root());
        assert_eq!(
            after.changed,
            [(150 * MIB + 65536, 65536), (170 * MIB, 65536), (204 * MIB - 65536, 65536)],
            "the first group was written as it was"
        );
        assert_eq!(after.read, 128 * MIB, "two groups of four");
        assert_eq!(after.known_by, "recorded");
        assert_eq!((after.span, after.nodes.len()), (64 * MIB, 4));
        let behind = after.behind.unwrap();
        assert_eq!((behind.offset, behind.length), (203 * MIB, MIB));
    }

    #[test]
    fn without_a_record_all_is_read_and_a_record_that_lies_would_be_seen() {
        let disk = disk();
        disk.replica.write_at(70 * MIB, &[1; 512]).unwrap();
        let after = disk.after(&Written::Unknown("no recorder here".into()));
        assert_eq!((&after.root, after.read), (&disk.root(), SIZE));
        assert_eq!(after.changed, [(64 * MIB, 64 * MIB)]);
        assert_eq!(after.known_by, "read whole: no recorder here");
        // The fault that the record must not have: a write that it does not name.
        assert_ne!(disk.after(&Written::Ranges(vec![])).root, disk.root());
    }

    /// The finisher zeroes the old backup GPT of a source that ends within a leaf: one leaf lies on both sides of that end.
    #[test]
    fn what_crosses_the_end_of_the_source_is_told_once() {
        let told = |written: &Written| {
            let disk = disk();
            disk.replica.write_at(SIZE - 512, &[0; 512]).unwrap();
            disk.replica.write_at(204 * MIB - 512, &[7; 512]).unwrap();
            disk.after(written)
        };
        let (border, tail) = (SIZE / 65536 * 65536, (204 * MIB - 65536, 65536));
        let unknown = told(&Written::Unknown("no recorder here".into()));
        assert_eq!(unknown.changed, [(192 * MIB, border + 65536 - 192 * MIB), tail], "as reports need them");
        assert_eq!(told(&Written::Ranges(vec![])).changed, [(border, 65536), tail]);
    }

    #[test]
    fn many_ranges_become_few() {
        let leaf = LEAF as u64;
        let many: Vec<_> = (0..5000).map(|i| i * 3 * leaf..(i * 3 + 1) * leaf).collect();
        let end = 15_000 * leaf;
        let few = bounded(many.clone(), 1000, end);
        assert!(few.len() <= 1000, "{}", few.len());
        let covered = |at: u64| few.iter().any(|(offset, length)| (*offset..offset + length).contains(&at));
        assert!(many.iter().all(|range| covered(range.start) && covered(range.end - 1)));
        assert!(few.iter().all(|(offset, length)| offset + length <= end));
    }
}
