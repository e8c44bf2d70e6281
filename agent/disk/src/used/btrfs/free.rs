//! The free space tree: the second record of what is free. It must hold exactly the gaps that the extent tree leaves.

use std::ops::Range;

use super::extents::Groups;
use super::tree::{Key, Root, Trees};
use crate::used::Doubt;
use crate::used::bitmap::set_runs;
use crate::used::print::Print;

/// Free space of one block group as the tree tells it. Runs that touch (where a bitmap ends) are put together.
struct Told {
    group: Range<u64>,
    free: Print,
    open: Range<u64>,
}

impl Told {
    fn new(group: Range<u64>) -> Self {
        Self { open: group.start..group.start, group, free: Print::default() }
    }

    fn add(&mut self, range: Range<u64>) -> Result<(), Doubt> {
        if range.start < self.open.end || range.end > self.group.end {
            return Err(Doubt::new("its free space tree is out of order"));
        }
        if range.start == self.open.end {
            self.open.end = range.end;
        } else {
            self.free.add(std::mem::replace(&mut self.open, range));
        }
        Ok(())
    }

    fn print(mut self) -> Print {
        self.free.add(self.open);
        self.free
    }
}

/// A doubt unless the tree and the extents of all block groups agree. Groups that are no chunks are passed over: mkfs of
/// btrfs-progs 6.2 leaves those in the tree that it made for its first steps.
pub(super) fn must_agree(trees: &Trees<'_>, root: &Root, groups: &Groups<'_>) -> Result<(), Doubt> {
    let sector = trees.superblock.sector;
    let mut prints: Vec<Option<Print>> = vec![None; trees.chunks.len()];
    let mut current: Option<(usize, Told)> = None;
    let mut keep = |told: Option<(usize, Told)>| {
        if let Some((index, told)) = told {
            prints[index] = Some(told.print());
        }
    };
    trees.walk(root, &mut |key, item| {
        let end = key.object.checked_add(key.offset).ok_or_else(|| Doubt::new("a free extent has no end"))?;
        if key.kind == Key::FREE_INFO {
            let chunk = trees.chunks.find(key.object, key.offset);
            let exact = chunk.filter(|(_, chunk)| chunk.addresses() == (key.object..end));
            keep(std::mem::replace(
                &mut current,
                exact.map(|(index, chunk)| (index, Told::new(chunk.addresses()))),
            ));
            return Ok(());
        }
        let Some((_, told)) = &mut current else { return Ok(()) };
        match key.kind {
            Key::FREE_EXTENT => told.add(key.object..end),
            Key::FREE_BITMAP => {
                let bits = key.offset / sector;
                if item.len() as u64 != bits.div_ceil(8) {
                    return Err(Doubt::new("a bitmap of its free space tree has a wrong length"));
                }
                set_runs(item, bits).try_for_each(|run| {
                    told.add(key.object + run.start * sector..key.object + run.end * sector)
                })
            }
            _ => Ok(()),
        }
    })?;
    keep(current);
    for ((chunk, group), print) in groups.iter().zip(prints) {
        if print != Some(group.gaps) {
            return Err(Doubt::new(format!(
                "extents and free space tree differ in block group {}",
                chunk.logical
            )));
        }
    }
    Ok(())
}
