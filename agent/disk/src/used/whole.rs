//! All of some disks: tables, partitions, volumes on them, filesystems in those.
//!
//! Everything is used that is not known to be free: what no partition covers (tables, gaps, boot areas, logical partitions'
//! links, the tail), the first and last 64 KiB of each partition, whatever is not recognised, and whatever is in doubt.
//! Disks that make up volume groups or arrays together are mapped together; a volume that spans a disk which was not given is
//! used as a whole.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::identify::{Content, identify};
use super::space::{Leg, Segment, Space, Spread, Stretch, Volume};
use super::{Doubt, Ranges, Window, btrfs, ext, lvm, md, ntfs, swap, xfs};
use crate::end::ReadAt;
use crate::table::{self, Fault, Table};

/// Head and tail of a disk that are always used, whatever the table says.
const END: u64 = 1 << 20;
/// As much of each partition is always used at both ends.
const EDGE: u64 = 64 << 10;
/// Volumes on volumes on volumes are looked into; nobody stacks deeper.
const DEEPEST: usize = 4;
/// The most volumes that are looked into.
const MOST_VOLUMES: usize = 4096;
/// The slot of what has no ranges of its own.
const NO_SLOT: usize = usize::MAX;
/// Partition types whose content is not what its start looks like: Windows dynamic disks (MBR, GPT data, GPT metadata) and
/// storage spaces.
const NOT_PLAIN: [&str; 4] = [
    "0x42",
    "af9b60a0-1431-4f62-bc68-3311714a69ad",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
    "e75caf8f-f680-4cee-afa3-b001e56efc2d",
];

/// The used map of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedMap {
    /// Which bytes carry data.
    pub used: Ranges,
    /// Why all of the disk is used, if it is because of a doubt.
    pub doubt: Option<String>,
    /// Its partitions, or the one thing on it.
    pub parts: Vec<Part>,
}

/// A partition or volume, for reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// "/dev/sda partition 2", "vg0/root", "md array 5d6e…".
    pub name: String,
    /// First byte on the disk; 0 for a volume.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// As libblkid calls it: "ext4", "LVM2_member"; empty when nothing is known.
    pub kind: String,
    /// Bytes that carry data.
    pub used: u64,
    /// Why it is copied whole, if it is because of a doubt.
    pub doubt: Option<String>,
}

/// The maps of some disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedMaps {
    /// In the order in which they were given.
    pub disks: Vec<UsedMap>,
    /// Volumes and arrays on them.
    pub volumes: Vec<Part>,
}

/// Maps disks that are quiet (see the module [`super`]). Doubts are in the answer; nothing is an error.
pub fn used_maps(disks: &[&dyn ReadAt]) -> UsedMaps {
    let mut explorer = Explorer::default();
    for disk in disks {
        explorer.slots.push(Ranges::default());
        explorer.doubts.push(None);
        let slot = explorer.slots.len() - 1;
        explorer.disk(*disk, slot);
    }
    explorer.volumes();
    explorer.answer(disks)
}

/// Where a part's ranges are.
struct Place {
    slot: usize,
    range: Range<u64>,
}

/// A physical volume or array member that waits for the others. `part` is where doubts about it go.
struct Waiting<'a> {
    space: Arc<dyn Space + 'a>,
    part: usize,
}

#[derive(Default)]
struct Explorer<'a> {
    /// Used ranges: of the disks, then of the volumes.
    slots: Vec<Ranges>,
    /// Of whole disks.
    doubts: Vec<Option<String>>,
    parts: Vec<(Place, Part)>,
    physical: Vec<(Waiting<'a>, lvm::Member)>,
    members: Vec<(Waiting<'a>, md::Member)>,
    /// The sentence about the system that sleeps here.
    hibernated: Option<String>,
}

impl<'a> Explorer<'a> {
    fn disk(&mut self, disk: &'a dyn ReadAt, slot: usize) {
        let size = disk.size();
        match partitions(disk) {
            Ok(Some(table)) => {
                let mut between = Ranges::whole(size);
                for part in table.partitions.iter().filter(|part| !part.container) {
                    between.remove(part.start..part.end());
                }
                between.insert(0..END.min(size));
                between.insert(size.saturating_sub(END)..size);
                self.slots[slot].insert_all(&between, 0);
                for part in table.partitions.iter().filter(|part| !part.container) {
                    let name = format!("{} partition {}", disk.identity().path, part.number);
                    let space = Stretch::new(disk, slot, part.start..part.end(), name);
                    let plain = !NOT_PLAIN.contains(&part.type_id.as_str());
                    self.explore(Arc::new(space), Place { slot, range: part.start..part.end() }, plain);
                }
            }
            Ok(None) => {
                let name = disk.identity().path.clone();
                let space = Stretch::new(disk, slot, 0..size, name);
                self.slots[slot].insert(0..END.min(size));
                self.slots[slot].insert(size.saturating_sub(END)..size);
                self.explore(Arc::new(space), Place { slot, range: 0..size }, true);
            }
            Err(doubt) => self.doubts[slot] = Some(doubt.reason),
        }
    }

    /// Looks into a partition or volume, and marks what is used of it.
    fn explore(&mut self, space: Arc<dyn Space + 'a>, place: Place, plain: bool) {
        let size = space.size();
        space.mark(0..EDGE.min(size), &mut self.slots);
        space.mark(size.saturating_sub(EDGE)..size, &mut self.slots);
        let name = space.identity().path.clone();
        let part = Part { name, start: place.range.start, size, kind: String::new(), used: 0, doubt: None };
        self.parts.push((place, part));
        let part = self.parts.len() - 1;
        let waiting = Waiting { space: Arc::clone(&space), part };
        let found = if plain {
            self.look(&waiting)
        } else {
            Err(Doubt::new("it is a part of a Windows dynamic disk or storage space"))
        };
        match found {
            Ok(Found::Used(ranges)) => ranges.iter().for_each(|range| space.mark(range, &mut self.slots)),
            Ok(Found::Physical(member)) => self.physical.push((waiting, member)),
            Ok(Found::Member(member)) => self.members.push((waiting, member)),
            Err(doubt) => self.doubt(&waiting, doubt),
        }
    }

    fn look(&mut self, waiting: &Waiting<'a>) -> Result<Found, Doubt> {
        let space: &dyn ReadAt = &*waiting.space;
        let window = Window::whole(space);
        let Content { probe, kinds } = identify(&window)?;
        self.parts[waiting.part].1.kind.clone_from(&probe.kind);
        // The library's identification is not charged to the mapper.
        let window = Window::whole(space);
        match probe.kind.as_str() {
            "ext2" | "ext3" | "ext4" => ext::map(&window).map(Found::Used),
            "xfs" => xfs::map(&window).map(Found::Used),
            "btrfs" => btrfs::map(&window).map(Found::Used),
            "ntfs" => ntfs::map(&window).map(Found::Used),
            "swap" | "swsuspend" => swap::map(&window).map(Found::Used),
            "LVM2_member" | "linux_raid_member" if waiting.space.depth() >= DEEPEST => {
                Err(Doubt::new("it lies too deep in other volumes"))
            }
            // A filesystem that was made over a physical volume leaves parts of it; one of the two is stale.
            "LVM2_member" if kinds.iter().any(|kind| kind != "LVM2_member") => {
                Err(Doubt::new(format!("it carries the signatures of several things ({})", kinds.join(", "))))
            }
            "LVM2_member" => lvm::Member::read(&window).map(Found::Physical),
            "linux_raid_member" => md::Member::read(&window).map(Found::Member),
            _ if probe.ambivalent => Err(Doubt::new("it carries several contradicting signatures")),
            "" if probe.table.is_empty() => Err(Doubt::new("nothing known lies there")),
            "" => Err(Doubt::new(format!("it carries a partition table of its own ({})", probe.table))),
            kind => Err(Doubt::new(format!("{kind} is not looked into"))),
        }
    }

    /// Notes a doubt, and marks all of what it is about.
    fn doubt(&mut self, about: &Waiting<'a>, doubt: Doubt) {
        about.space.mark(0..about.space.size(), &mut self.slots);
        let part = &mut self.parts[about.part].1;
        if doubt.hibernated {
            self.hibernated = Some(format!("{}: {}", part.name, doubt.reason));
        }
        part.doubt = Some(doubt.reason);
    }

    /// Arrays and volumes on what was found, and those on these. Arrays first: a group may lie on several.
    fn volumes(&mut self) {
        while !(self.members.is_empty() && self.physical.is_empty()) {
            if self.members.is_empty() {
                self.groups();
            } else {
                self.arrays();
            }
        }
    }

    fn arrays(&mut self) {
        let (waiting, members): (Vec<_>, Vec<_>) = std::mem::take(&mut self.members).into_iter().unzip();
        let (arrays, doubts) = md::assemble(&members);
        for (index, doubt) in doubts {
            self.doubt(&waiting[index], doubt);
        }
        for md::Array { name, shape, length, legs } in arrays {
            let mut spaces: Vec<Leg<'a>> = Vec::new();
            for (index, start) in legs {
                let space = &waiting[index].space;
                space.mark(0..start, &mut self.slots);
                space.mark(start + length..space.size(), &mut self.slots);
                spaces.push((Arc::clone(space), start));
            }
            let count = spaces.len() as u64;
            let (spread, legs, length) = match shape {
                md::Shape::Mirrored => (Spread::Mirrored, spaces, length),
                md::Shape::Striped(chunk) => (Spread::Striped(chunk), spaces, length * count),
                md::Shape::Parity(parity) => {
                    (Spread::Parity(parity), spaces, length * (count - parity.disks))
                }
                md::Shape::StripedMirrors(chunk, near) => {
                    let mirror = |legs: &[Leg<'a>]| -> Leg<'a> {
                        let legs = legs.to_vec();
                        let segment = Segment { start: 0, length, spread: Spread::Mirrored, legs };
                        (Arc::new(Volume::new(NO_SLOT, String::new(), vec![segment])), 0)
                    };
                    let mirrors: Vec<Leg<'a>> = spaces.chunks(near).map(mirror).collect();
                    let length = length * mirrors.len() as u64;
                    (Spread::Striped(chunk), mirrors, length)
                }
            };
            self.volume(name, vec![Segment { start: 0, length, spread, legs }]);
        }
    }

    fn groups(&mut self) {
        let (waiting, members): (Vec<_>, Vec<_>) = std::mem::take(&mut self.physical).into_iter().unzip();
        let (groups, doubts) = lvm::assemble(&members);
        for (index, doubt) in doubts {
            self.doubt(&waiting[index], doubt);
        }
        for lvm::Assembled { group, members } in groups {
            for (uuid, &index) in &members {
                let space = &waiting[index].space;
                let extents = group.physical[uuid].extents.clone();
                space.mark(0..extents.start, &mut self.slots);
                space.mark(extents.end..space.size(), &mut self.slots);
            }
            for logical in &group.logical {
                self.logical(&group.name, logical, |uuid| {
                    members.get(uuid).map(|&index| Arc::clone(&waiting[index].space))
                });
            }
        }
    }

    fn logical(
        &mut self,
        group: &str,
        logical: &lvm::Logical,
        space_of: impl Fn(&str) -> Option<Arc<dyn Space + 'a>>,
    ) {
        let name = format!("{group}/{}", logical.name);
        let legs = |piece: &lvm::Piece| -> Vec<Leg<'a>> {
            let leg = |(uuid, start): &(String, u64)| space_of(uuid).map(|space| (space, *start));
            piece.legs.iter().filter_map(leg).collect()
        };
        let missing = logical.pieces.iter().any(|piece| legs(piece).len() < piece.legs.len());
        let why = match &logical.whole {
            Some(why) => Some(why.clone()),
            None if missing => Some("disks that it lies on are not here".to_owned()),
            None if self.parts.len() >= MOST_VOLUMES => Some("there are too many volumes".to_owned()),
            None => None,
        };
        if let Some(why) = why {
            let mut used = 0;
            for piece in &logical.pieces {
                let length = piece.length / piece.legs.len().max(1) as u64;
                for (space, start) in legs(piece) {
                    space.mark(start..start + length, &mut self.slots);
                    used += length;
                }
            }
            let part = Part { name, start: 0, size: used, kind: String::new(), used, doubt: Some(why) };
            self.parts.push((Place { slot: NO_SLOT, range: 0..0 }, part));
            return;
        }
        let segment = |piece: &lvm::Piece| Segment {
            start: piece.start,
            length: piece.length,
            spread: Spread::Striped(piece.stripe),
            legs: legs(piece),
        };
        self.volume(name, logical.pieces.iter().map(segment).collect());
    }

    fn volume(&mut self, name: String, segments: Vec<Segment<'a>>) {
        self.slots.push(Ranges::default());
        let slot = self.slots.len() - 1;
        let volume = Volume::new(slot, name, segments);
        let range = 0..crate::end::Geometry::size(&volume);
        self.explore(Arc::new(volume), Place { slot, range }, true);
    }

    fn answer(mut self, disks: &[&dyn ReadAt]) -> UsedMaps {
        let hibernated = self.hibernated.take();
        let mut maps: Vec<UsedMap> = Vec::new();
        for (slot, disk) in disks.iter().enumerate() {
            let doubt = self.doubts[slot].take().or_else(|| hibernated.clone());
            if doubt.is_some() {
                self.slots[slot] = Ranges::whole(disk.size());
            }
            maps.push(UsedMap { used: Ranges::default(), doubt, parts: Vec::new() });
        }
        let mut volumes = Vec::new();
        for (place, mut part) in self.parts {
            if let Some(used) = self.slots.get(place.slot) {
                part.used = used.total_in(&place.range);
            }
            match maps.get_mut(place.slot) {
                Some(map) => map.parts.push(part),
                None => volumes.push(part),
            }
        }
        for (map, used) in maps.iter_mut().zip(self.slots) {
            map.used = used;
        }
        UsedMaps { disks: maps, volumes }
    }
}

/// What lies in a part.
enum Found {
    Used(Ranges),
    Physical(lvm::Member),
    Member(md::Member),
}

/// The table of a disk; `None` when it has none.
///
/// # Errors
/// A table that readers may understand in different ways, or a disk that is also something else as a whole.
fn partitions(disk: &dyn ReadAt) -> Result<Option<Table>, Doubt> {
    let Some(table) = table::read(disk)? else {
        return Ok(None);
    };
    let harmless = |fault: &&Fault| {
        matches!(
            fault,
            Fault::PrimaryDead { .. }
                | Fault::BackupDead { .. }
                | Fault::BackupNotAtEnd { .. }
                | Fault::ProtectiveSize
                | Fault::OutsideUsable { .. }
                | Fault::SameUuid { .. }
                | Fault::BeyondMbr
        )
    };
    if let Some(fault) = table.faults.iter().find(|fault| !harmless(fault)) {
        return Err(Doubt::new(format!("its partition table is not certain: {fault}")));
    }
    let Content { probe, .. } = identify(&Window::whole(disk))?;
    if !probe.kind.is_empty() || probe.ambivalent {
        let kind = if probe.ambivalent { "several things" } else { &probe.kind };
        return Err(Doubt::new(format!("it has a partition table, and is as a whole {kind} too")));
    }
    Ok(Some(table))
}
