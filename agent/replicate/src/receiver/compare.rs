//! A compare pass at the receiver: what is on the medium is read back and compared, by group, by chunk, by leaf.
//!
//! The leaves of a group that differs are kept (32 KiB) until the sender has asked about each of its chunks that do; then
//! what remains is which leaves were asked for, so that nothing else is taken.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use gantry_wire::limits::{CHUNK, GROUP, LEAVES_PER_CHUNK};
use gantry_wire::tree::{self, Hash, Leaves};

use super::session::SessionDisk;
use crate::buffer::with_buffer;
use crate::patch::differing;
use gantry_disk::{DiskError, ReadAt};

/// Groups that a sender may have open at once; ours has 16.
const OPEN: usize = 64;
/// Chunks whose leaves may be on their way at once.
const ASKED: usize = 1 << 18;

/// A group of a disk.
pub type Place = (u16, u64);

/// What is open in a compare pass.
#[derive(Debug, Default)]
pub struct Suspects {
    /// Groups that are being read back, or differ.
    groups: HashMap<Place, Suspect>,
}

#[derive(Debug)]
enum Suspect {
    Reading,
    Differs(Vec<Leaves>),
    /// The chunks that differ, a bit each, of which the sender has yet to name the leaves.
    Wanted(Vec<Leaves>, u64),
}

/// Leaves of a disk that were asked for and have not come, by chunk.
#[derive(Debug, Default)]
pub struct Asked(HashMap<u64, u16>);

impl Asked {
    /// Takes note that these leaves of a chunk were asked for.
    pub fn ask(&mut self, index: u64, leaves: u16) -> Result<()> {
        ensure!(self.0.len() < ASKED, "{ASKED} chunks were announced and none of them comes");
        self.0.insert(index, leaves);
        Ok(())
    }

    /// Whether just these leaves were asked for; from now on they are not.
    pub fn take(&mut self, index: u64, leaves: u16) -> Result<()> {
        match self.0.remove(&index) {
            Some(asked) if asked == leaves => Ok(()),
            _ => bail!("leaves {leaves:#06x} of chunk {index} came without being asked for"),
        }
    }
}

impl Suspects {
    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// A group is going to be read back.
    pub fn begin(&mut self, place: Place) -> Result<()> {
        ensure!(self.groups.len() < OPEN, "more than {OPEN} groups are being compared at once");
        self.groups.insert(place, Suspect::Reading);
        Ok(())
    }

    /// It was read back: nothing if it is equal, else its leaves.
    pub fn was_read(&mut self, place: Place, leaves: Option<Vec<Leaves>>) {
        match leaves {
            None => drop(self.groups.remove(&place)),
            Some(leaves) => drop(self.groups.insert(place, Suspect::Differs(leaves))),
        }
    }

    /// The nodes of a group's chunks have come: which of them differ, a bit each.
    pub fn digests(&mut self, place: Place, nodes: &[Hash]) -> Result<u64> {
        let Some(Suspect::Differs(rows)) = self.groups.remove(&place) else {
            bail!("digests of group {} without a question", place.1);
        };
        ensure!(nodes.len() == rows.len(), "{} digests for {} chunks", nodes.len(), rows.len());
        let differs = |i: &usize| tree::chunk_of(&rows[*i]) != nodes[*i];
        let wanted = (0..rows.len()).filter(differs).fold(0, |bits, i| bits | 1 << i);
        ensure!(wanted != 0, "the digests of group {} contradict its node", place.1);
        self.groups.insert(place, Suspect::Wanted(rows, wanted));
        Ok(wanted)
    }

    /// The leaves of a chunk have come: which of them differ, a bit each.
    pub fn leaves(&mut self, disk: u16, index: u64, theirs: &Leaves) -> Result<u16> {
        let (place, i) = ((disk, index / GROUP), index % GROUP);
        let Some(Suspect::Wanted(rows, wanted)) = self.groups.get_mut(&place) else {
            bail!("leaves of chunk {index} without a question");
        };
        ensure!(*wanted & 1 << i != 0, "leaves of chunk {index} without a question");
        *wanted &= !(1 << i);
        let bits = differing(rows.get(i as usize).context("no such chunk")?, theirs);
        ensure!(bits != 0, "the leaves of chunk {index} contradict its digest");
        if *wanted == 0 {
            self.groups.remove(&place);
        }
        Ok(bits)
    }
}

/// Reads a group back and compares it with the source's node: nothing if it is equal, else the leaves of its chunks. Chunks
/// that nobody uses are not read back: what this process zeroed and flushed is zero, or its loss is nobody's loss.
pub fn compare(disk: &SessionDisk, group: u64, node: Hash) -> Result<Option<Vec<Leaves>>> {
    let (first, count, blank) = {
        let known = disk.known();
        if known.groups.node(group) == Some(node) {
            return Ok(None);
        }
        let (first, count) = known.groups.chunks_of(group);
        let blank = |index: &u64| known.unused.contains(*index) && known.durable.contains(*index);
        (first, count, (first..first + count).filter(blank).collect::<Vec<_>>())
    };
    let read = |index: u64| -> Result<Leaves, DiskError> {
        if blank.contains(&index) {
            return Ok([tree::zero_leaf(); LEAVES_PER_CHUNK]);
        }
        with_buffer(disk.chunk_length(index) as usize, |bytes| {
            disk.replica.read_at(index * CHUNK, bytes)?;
            Ok(tree::leaves(bytes))
        })
    };
    let rows = (first..first + count).map(read).collect::<Result<Vec<_>, _>>()?;
    let ours = tree::group(&rows.iter().map(tree::chunk_of).collect::<Vec<_>>());
    let mut known = disk.known();
    if ours != node {
        known.groups.forget(first);
        return Ok(Some(rows));
    }
    known.groups.set(group, node);
    for index in first..first + count {
        known.durable.insert(index);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = (0, 1);

    fn rows() -> Vec<Leaves> {
        vec![tree::leaves(&[1; 70_000]), tree::leaves(&[2; 70_000])]
    }

    fn nodes(rows: &[Leaves]) -> Vec<Hash> {
        rows.iter().map(tree::chunk_of).collect()
    }

    #[test]
    fn questions_narrow_down_to_the_leaf_that_differs() {
        let (mut suspects, mut theirs) = (Suspects::default(), rows());
        suspects.begin(PLACE).unwrap();
        suspects.was_read(PLACE, Some(rows()));
        theirs[1][1] = [9; 32];
        assert_eq!(suspects.digests(PLACE, &nodes(&theirs)).unwrap(), 0b10);
        assert!(suspects.leaves(0, 64, &theirs[0]).is_err(), "that chunk is equal");
        assert_eq!(suspects.leaves(0, 65, &theirs[1]).unwrap(), 0b10);
        assert!(suspects.is_empty());
    }

    #[test]
    fn answers_without_a_question_and_contradictions_are_refused() {
        let mut suspects = Suspects::default();
        assert!(suspects.digests(PLACE, &nodes(&rows())).is_err(), "not open");
        suspects.begin(PLACE).unwrap();
        assert!(suspects.digests(PLACE, &nodes(&rows())).is_err(), "still being read");
        suspects.was_read(PLACE, Some(rows()));
        assert!(suspects.digests(PLACE, &nodes(&rows())).is_err(), "all equal: contradicts the group");
        suspects.was_read(PLACE, Some(rows()));
        assert!(suspects.digests(PLACE, &[[0; 32]; 3]).is_err(), "more chunks than there are");
        suspects.was_read(PLACE, Some(rows()));
        suspects.digests(PLACE, &[[0; 32]; 2]).unwrap();
        assert!(suspects.leaves(0, 64, &rows()[0]).is_err(), "all equal: contradicts the digest");
        let mut many = Suspects::default();
        assert!((0..100).any(|group| many.begin((0, group)).is_err()), "there is a limit");
    }

    #[test]
    fn only_what_was_asked_for_is_taken_and_only_once() {
        let mut asked = Asked::default();
        asked.ask(7, 3).unwrap();
        assert!(asked.take(8, 3).is_err());
        asked.take(7, 3).unwrap();
        assert!(asked.take(7, 3).is_err());
        asked.ask(7, 3).unwrap();
        assert!(asked.take(7, 7).is_err(), "other leaves");
        assert!((0..ASKED as u64 + 1).any(|index| asked.ask(index, 1).is_err()), "there is a limit");
    }
}
