//! A disk that is copied: what must be read of it, and what is known of what was read.
//!
//! Three things spare reading: bytes that the used map says carry nothing (they are zero in the replica), ranges that the end
//! knows to be zero (holes of a file, an NBD server's word), and groups that were read before. What is read again must be
//! what it was: a source that changes while it is copied gives a torn replica, and ends the copy.
//!
//! Maps are made once, when the process begins, of all its disks together ([`sources`]): volumes may lie on several, and a
//! system that sleeps on one of them makes all of them whole.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use gantry_disk::used::{Ranges, UsedMap, UsedMaps, used_maps};
use gantry_disk::{BadSectors, Careful, Geometry, ReadAt, extents};
use gantry_wire::Extent;
use gantry_wire::limits::{CHUNK, GROUP, LEAF, LEAVES_PER_CHUNK};
use gantry_wire::tree::{self, Hash, Leaves};

use crate::buffer::with_buffer;
use crate::chunkset::ChunkSet;
use crate::event::{Event, Events};
use crate::fit::check_fit;
use crate::groups::GroupNodes;
use crate::masked::read_wanted;
use crate::progress::{Course, Tally, add};
use crate::report::{Compared, Part, SourceDiskFacts};
use crate::stop::Stop;
use crate::throttle::Reads;

/// Chunks that one thread reads in a row: long enough for a disk that seeks.
const RUN: u64 = 8;
/// Chunks that are zeroed in one go: a disk that cannot zero by itself takes seconds for them.
const ZERO_RUN: u64 = 1024;

/// Chunks one behind the other that are treated alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// To be read.
    Data(Extent),
    /// Known to be zero, without reading: content all the same.
    Zero(Extent),
    /// Unused by the map, and zero in the replica: nobody's content.
    Unused(Extent),
}

impl Run {
    /// Which chunks.
    pub fn extent(self) -> Extent {
        match self {
            Self::Data(extent) | Self::Zero(extent) | Self::Unused(extent) => extent,
        }
    }
}

/// A source disk.
pub struct Source {
    end: Careful,
    /// What is read, in whole leaves: what the used map names and the end does not know to be zero.
    wanted: Ranges,
    /// Chunks of which something is read.
    data: ChunkSet,
    /// Chunks of which the used map names nothing.
    unused: ChunkSet,
    facts: SourceDiskFacts,
    groups: Mutex<GroupNodes>,
    /// What has happened to it.
    pub tally: Arc<Tally>,
}

impl Source {
    /// A disk of which nothing has been read. Without a map all of it is used.
    ///
    /// # Errors
    /// When the end cannot say which of its ranges are zero.
    pub fn new(end: Arc<dyn ReadAt>, bad_sectors: BadSectors, map: Option<UsedMap>) -> Result<Self> {
        let (size, chunks) = (end.size(), tree::chunks(end.size()));
        let mut wanted = Ranges::default();
        extents::walk(&*end, |extent| {
            if !extent.zero {
                wanted.insert(extent.offset..extent.end());
            }
            Ok(())
        })?;
        let mut wanted = wanted.round_out(LEAF as u64, size);
        let mut unused = ChunkSet::new(chunks);
        let mut facts = SourceDiskFacts { wwn: end.identity().wwn.clone(), ..SourceDiskFacts::default() };
        if let Some(map) = map {
            for gap in map.used.round_out(LEAF as u64, size).complement(size) {
                let stop = if gap.end == size { chunks } else { gap.end / CHUNK };
                for index in gap.start.div_ceil(CHUNK)..stop {
                    unused.insert(index);
                }
                wanted.remove(gap);
            }
            facts.compared = Compared::Used;
            facts.parts = map.parts.iter().map(Part::from).collect();
            facts.doubt = map.doubt.unwrap_or_default();
        }
        let mut data = ChunkSet::new(chunks);
        for range in wanted.iter() {
            for index in range.start / CHUNK..range.end.div_ceil(CHUNK) {
                data.insert(index);
                // Ranges in bounded memory may have grown.
                unused.remove(index);
            }
        }
        let groups = GroupNodes::new(size).into();
        let end = Careful::new(end, bad_sectors);
        Ok(Self { end, wanted, data, unused, facts, groups, tally: Arc::default() })
    }

    /// The end itself: size, sectors, names.
    pub fn end(&self) -> &impl Geometry {
        &self.end
    }

    /// Whether its partition table can be moved to a target of `target_size` bytes: see [`check_fit`].
    pub fn check_fit(&self, target_size: u64) -> gantry_disk::Result<()> {
        check_fit(&self.end, target_size)
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        tree::chunks(self.end.size())
    }

    /// Whether the used map names nothing of this chunk: it is zero in the replica.
    pub fn is_unused(&self, index: u64) -> bool {
        self.unused.contains(index)
    }

    /// Its way through a full pass: what is in `done` is done, and what is not read takes no time.
    pub fn full_course(&self, done: &ChunkSet) -> Course {
        let bytes = |index: u64| index * CHUNK..((index + 1) * CHUNK).min(self.end.size());
        let missing = (0..self.chunks()).filter(|index| self.data.contains(*index) && !done.contains(*index));
        let need = missing.map(bytes).map(|range| range.end - range.start).sum();
        Course { before: done.count(), need: Some(need), ..self.compare_course() }
    }

    /// How many of these chunks, which lie on the disk, are known to be zero in the replica.
    pub fn zeroes_of(&self, extent: Extent) -> u64 {
        let chunks = extent.first..extent.first + extent.count;
        chunks.filter(|index| !self.data.contains(*index)).count() as u64
    }

    /// Its way through a compare pass.
    pub fn compare_course(&self) -> Course {
        let (disk, total) = (self.end.identity().path.clone(), self.end.size());
        Course { disk, total, before: 0, need: Some(total), tally: Arc::clone(&self.tally) }
    }

    /// What was read.
    pub fn groups(&self) -> MutexGuard<'_, GroupNodes> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The root.
    ///
    /// # Errors
    /// When not every group has been read.
    pub fn root(&self) -> Result<Hash> {
        let root = self.groups().root(self.end.sector_size().bytes());
        root.with_context(|| format!("{} was not read as a whole", self.end.identity().path))
    }

    /// What only this end knows of it, for the report.
    pub fn facts(&self) -> SourceDiskFacts {
        let given_up = self.end.given_up().into_iter().map(|range| (range.start, range.end - range.start));
        SourceDiskFacts { bad_sectors: given_up.collect(), ..self.facts.clone() }
    }

    /// The chunks that are not in `done`, in runs. One run at a time: a list of them all would be 32 MiB for 16 TiB.
    pub fn runs(&self, done: ChunkSet) -> impl Iterator<Item = Run> + Send + use<'_> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = (at..self.chunks()).find(|index| !done.contains(*index))?;
            let kind = |index: u64| (self.data.contains(index), self.unused.contains(index));
            let (data, unused) = kind(first);
            let most = self.chunks().min(first + if data { RUN } else { ZERO_RUN });
            let other = |index: &u64| done.contains(*index) || kind(*index) != (data, unused);
            at = (first..most).find(other).unwrap_or(most);
            let extent = Extent { first, count: at - first };
            Some(match (data, unused) {
                (true, _) => Run::Data(extent),
                (false, true) => Run::Unused(extent),
                (false, false) => Run::Zero(extent),
            })
        })
    }

    /// Every read: what is wanted of it, as fast as it may be, and counted.
    fn read_at(&self, offset: u64, bytes: &mut [u8], reads: &Reads) -> Result<()> {
        let read = read_wanted(&self.wanted, offset, bytes, |at, part| -> Result<()> {
            reads.take(part.len())?;
            Ok(self.end.read_at(at, part)?)
        })?;
        add(&self.tally.read, read);
        add(&self.tally.skipped, bytes.len() as u64 - read);
        Ok(())
    }

    /// Reads a chunk of a full pass, gives it to `work` with its node, and learns it.
    pub fn read<T>(
        &self,
        index: u64,
        reads: &Reads,
        work: impl FnOnce(&[u8], Hash) -> Result<T>,
    ) -> Result<T> {
        let length = self.groups().chunk_length(index);
        let (node, done) = with_buffer(length, |bytes| -> Result<_> {
            self.read_at(index * CHUNK, bytes, reads)?;
            let node = tree::chunk(bytes);
            Ok((node, work(bytes, node)?))
        })?;
        let group = self.groups().add(index, node);
        if let Some((group, node)) = group {
            self.learn(group, node)?;
        }
        Ok(done)
    }

    /// Learns of chunks that need not be read.
    pub fn learn_zero(&self, extent: Extent) -> Result<()> {
        let stop = ((extent.first + extent.count) * CHUNK).min(self.end.size());
        add(&self.tally.skipped, stop - extent.first * CHUNK);
        let mut index = extent.first;
        while index < extent.first + extent.count {
            let (first, count) = self.groups().chunks_of(index / GROUP);
            if index == first && first + count <= extent.first + extent.count {
                self.learn(index / GROUP, tree::zero_group())?;
                index += count;
                continue;
            }
            let group = self.groups().add(index, tree::zero_chunk());
            if let Some((group, node)) = group {
                self.learn(group, node)?;
            }
            index += 1;
        }
        Ok(())
    }

    /// The leaves of a group's chunks; what is not known to be zero is read.
    pub fn leaves(&self, group: u64, reads: &Reads) -> Result<Vec<Leaves>> {
        let (first, count) = self.groups().chunks_of(group);
        let leaves = |index: u64| {
            let length = self.groups().chunk_length(index);
            if !self.data.contains(index) {
                add(&self.tally.skipped, length as u64);
                return Ok([tree::zero_leaf(); LEAVES_PER_CHUNK]);
            }
            with_buffer(length, |bytes| {
                self.read_at(index * CHUNK, bytes, reads)?;
                Ok(tree::leaves(bytes))
            })
        };
        let rows = (first..first + count).map(leaves).collect::<Result<Vec<_>>>()?;
        self.learn(group, tree::group(&rows.iter().map(tree::chunk_of).collect::<Vec<_>>()))?;
        Ok(rows)
    }

    /// Reads ranges of a chunk, whole leaves, one behind the other into `bytes`; the chunk's leaves must be `known`.
    pub fn read_again(
        &self,
        index: u64,
        known: &Leaves,
        ranges: &[Range<usize>],
        reads: &Reads,
        bytes: &mut [u8],
    ) -> Result<()> {
        let mut filled = 0;
        for range in ranges {
            let part = &mut bytes[filled..filled + range.len()];
            filled += range.len();
            let start = index * CHUNK + range.start as u64;
            self.read_at(start, part, reads)?;
            for (i, leaf) in part.chunks(LEAF).enumerate() {
                let (known, at) = (known[range.start / LEAF + i], start + (i * LEAF) as u64);
                self.must_be(known, tree::leaves(leaf)[0], at)?;
            }
        }
        Ok(())
    }

    /// A group's node is known now: it must be what it was.
    fn learn(&self, group: u64, node: Hash) -> Result<()> {
        let known = {
            let mut groups = self.groups();
            let known = groups.node(group);
            groups.set(group, node);
            known
        };
        self.must_be(known.unwrap_or(node), node, group * GROUP * CHUNK)
    }

    fn must_be(&self, known: Hash, now: Hash, byte: u64) -> Result<()> {
        if known == now {
            return Ok(());
        }
        let disk = &self.end.identity().path;
        let text = format!("{disk}: the source changed while it was being copied, at or behind byte {byte}");
        Err(Stop(text).into())
    }
}

/// The used maps of disks; tells what was found.
pub fn mapped(disks: &[&dyn ReadAt], events: &Events) -> UsedMaps {
    let maps = used_maps(disks);
    let parts = maps.disks.iter().flat_map(|map| &map.parts).chain(&maps.volumes);
    parts.for_each(|part| events.tell(Event::Part(part.into())));
    for (disk, map) in disks.iter().zip(&maps.disks) {
        if let Some(doubt) = &map.doubt {
            let disk = &disk.identity().path;
            events.tell(Event::Stage { text: format!("{disk}: all of it is taken as used: {doubt}") });
        }
    }
    maps
}

/// The disks of a machine, and the volumes on them.
pub struct Sources {
    /// In the order in which they were given.
    pub disks: Vec<Source>,
    /// For the report.
    pub volumes: Vec<Part>,
}

/// The disks of a machine, mapped together unless all of them are wanted `whole`; tells what was found on them.
pub fn sources(
    ends: &[Arc<dyn ReadAt>],
    bad_sectors: BadSectors,
    whole: bool,
    events: &Events,
) -> Result<Sources> {
    if whole {
        let made = ends.iter().map(|end| Source::new(Arc::clone(end), bad_sectors, None));
        return Ok(Sources { disks: made.collect::<Result<_>>()?, volumes: Vec::new() });
    }
    let disks: Vec<&dyn ReadAt> = ends.iter().map(|end| &**end).collect();
    let maps = mapped(&disks, events);
    let made = ends.iter().zip(maps.disks);
    let made = made.map(|(end, map)| Source::new(Arc::clone(end), bad_sectors, Some(map)));
    let volumes = maps.volumes.iter().map(Part::from).collect();
    Ok(Sources { disks: made.collect::<Result<_>>()?, volumes })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use gantry_disk::{ImageFile, WriteAt};

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::throttle::Throttle;

    const MIB: u64 = 1 << 20;

    fn source(size: u64, data: &[u64]) -> (tempfile::TempDir, Source) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let image = ImageFile::create(&dir.path().join("source"), size).unwrap();
        data.iter().for_each(|at| image.write_at(*at, &[7; 4096]).unwrap());
        (dir, Source::new(Arc::new(image), BadSectors::Stop, None).unwrap())
    }

    fn reads() -> Reads {
        Throttle::unlimited().reads(CancellationToken::new())
    }

    fn of(runs: impl Iterator<Item = Run>) -> Vec<(bool, u64, u64)> {
        runs.map(|run| (matches!(run, Run::Data(_)), run.extent().first, run.extent().count)).collect()
    }

    #[test]
    fn runs_leave_out_what_is_done_and_tell_data_from_zeroes() {
        let data: Vec<u64> = (2..13).map(|index| index * MIB).collect();
        let (_dir, source) = source(3000 * MIB, &data);
        let mut done = ChunkSet::new(3000);
        assert!(done.insert(5) && done.insert(20));
        assert_eq!(
            of(source.runs(done)),
            [
                (false, 0, 2),
                (true, 2, 3),
                (true, 6, 7),
                (false, 13, 7),
                (false, 21, 1024),
                (false, 1045, 1024),
                (false, 2069, 931)
            ]
        );
    }

    #[test]
    fn zeroes_that_are_known_give_the_root_that_reading_gives() {
        let (_dir, sparse) = source(200 * MIB + 512, &[70 * MIB, 140 * MIB]);
        let none = ChunkSet::new(201);
        for run in sparse.runs(none) {
            match run {
                Run::Zero(extent) | Run::Unused(extent) => sparse.learn_zero(extent).unwrap(),
                Run::Data(Extent { first, count }) => {
                    (first..first + count)
                        .for_each(|index| sparse.read(index, &reads(), |_, _| Ok(())).unwrap());
                }
            }
        }
        let (dir, read) = source(200 * MIB + 512, &[70 * MIB, 140 * MIB]);
        let groups = read.groups().count();
        (0..groups).for_each(|group| drop(read.leaves(group, &reads()).unwrap()));
        assert_eq!(sparse.root().unwrap(), read.root().unwrap());
        let by_bytes = std::fs::read(dir.path().join("source")).unwrap();
        let mut plain = GroupNodes::new(by_bytes.len() as u64);
        for (group, bytes) in by_bytes.chunks((GROUP * CHUNK) as usize).enumerate() {
            let nodes: Vec<Hash> = bytes.chunks(CHUNK as usize).map(tree::chunk).collect();
            plain.set(group as u64, tree::group(&nodes));
        }
        assert_eq!(plain.root(512).unwrap(), read.root().unwrap());
    }

    #[test]
    fn what_is_known_to_be_zero_is_skipped_and_takes_no_time() {
        let (_dir, source) = source(100 * MIB + 4096, &[3 * MIB, 4 * MIB, 100 * MIB]);
        let mut done = ChunkSet::new(101);
        assert!(done.insert(4) && done.insert(9));
        let course = source.full_course(&done);
        assert_eq!((course.total, course.before), (100 * MIB + 4096, 2));
        assert_eq!(course.need, Some(MIB + 4096));
        let none = source.full_course(&ChunkSet::new(101));
        assert_eq!(none.need, Some(2 * MIB + 4096));
        let zeroes = |first, count| source.zeroes_of(Extent { first, count });
        assert_eq!((zeroes(2, 4), zeroes(99, 2)), (2, 1));
        source.learn_zero(Extent { first: 5, count: 90 }).unwrap();
        source.read(3, &reads(), |_, _| Ok(())).unwrap();
        let tally = [&source.tally.skipped, &source.tally.read].map(|count| count.load(Ordering::Relaxed));
        assert_eq!(tally, [91 * MIB - LEAF as u64, LEAF as u64]);
    }

    #[test]
    fn a_source_that_changes_is_noticed_by_group_and_by_leaf() {
        let (dir, source) = source(80 * MIB, &[3 * MIB, 3 * MIB + LEAF as u64, 70 * MIB]);
        let rows = source.leaves(0, &reads()).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("source")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1], 3 * MIB + 65536 + 5).unwrap();
        let mut leaf = vec![0; LEAF];
        source.read_again(3, &rows[3], std::slice::from_ref(&(0..LEAF)), &reads(), &mut leaf).unwrap();
        let other = LEAF..2 * LEAF;
        let error =
            source.read_again(3, &rows[3], std::slice::from_ref(&other), &reads(), &mut leaf).unwrap_err();
        assert!(error.to_string().contains("at or behind byte 3211264"), "{error}");
        let error = source.leaves(0, &reads()).unwrap_err();
        assert!(error.to_string().contains("changed while it was being copied"), "{error}");
    }
}
