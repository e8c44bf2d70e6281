//! Linux software RAID.
//!
//! An array whose members agree is a volume: what lies in it is mapped, and what is used of it is marked stripe by stripe on
//! the members. Around the data everything is used: superblock, bitmap, and the rest behind the last stripe. Of RAID 5 and 6
//! whole rows are used, data and parity, so that parity is right wherever something is; where nothing is used, zeroes
//! on all members are right too.
//!
//! Looked into are RAID 0 of members of one size, RAID 1, RAID 5 and 6 in their four usual layouts, and RAID 10 with near
//! copies that divide the members; superblock version 1; all members there (of RAID 1 any), with equal event counts, clean, and
//! not being rebuilt or reshaped. All else is used as a whole.

mod parity;
mod superblock;

use std::collections::BTreeMap;

pub(super) use self::parity::Parity;
use self::superblock::Superblock;
use super::{Doubt, Window};

/// A member of an array, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member(Superblock);

/// How an array is made of its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// In turns, so many bytes each.
    Striped(u64),
    /// The same on each.
    Mirrored,
    /// RAID 5 or 6.
    Parity(Parity),
    /// In turns of so many bytes, each on so many members that follow each other.
    StripedMirrors(u64, usize),
}

/// An array whose members agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Array {
    pub name: String,
    pub shape: Shape,
    /// Bytes of each member that hold data.
    pub length: u64,
    /// Index of each member and where on it the data start, in the order of their roles.
    pub legs: Vec<(usize, u64)>,
}

impl Member {
    /// Reads the superblock.
    ///
    /// # Errors
    /// See [`Superblock::read`].
    pub(super) fn read(window: &Window<'_>) -> Result<Self, Doubt> {
        Superblock::read(window).map(Self)
    }
}

/// Sorts members into arrays. Every member is either in one, or in doubt.
pub(super) fn assemble(members: &[Member]) -> (Vec<Array>, Vec<(usize, Doubt)>) {
    let mut sets: BTreeMap<[u8; 16], Vec<usize>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        sets.entry(member.0.array).or_default().push(index);
    }
    let (mut arrays, mut doubts) = (Vec::new(), Vec::new());
    for set in sets.into_values() {
        match array(members, &set) {
            Ok(array) => arrays.push(array),
            Err(doubt) => doubts.extend(set.into_iter().map(|index| (index, doubt.clone()))),
        }
    }
    (arrays, doubts)
}

fn array(members: &[Member], set: &[usize]) -> Result<Array, Doubt> {
    let odd = |what: &str| Doubt::new(format!("its array {what}"));
    let mut legs: Vec<(usize, &Superblock)> = set.iter().map(|&index| (index, &members[index].0)).collect();
    legs.sort_by_key(|(_, superblock)| superblock.role);
    let Some(&(_, first)) = legs.first() else {
        return Err(odd("has no members"));
    };
    let same = |other: &Superblock| {
        let what = |it: &Superblock| (it.level, it.layout, it.chunk, it.members, it.size, it.events);
        what(other) == what(first)
    };
    if !legs.iter().all(|(_, superblock)| same(superblock)) {
        return Err(odd("has members of different states: one of them is stale"));
    }
    if legs.windows(2).any(|pair| pair[0].1.role == pair[1].1.role) {
        return Err(odd("has two members in one place"));
    }
    if legs.len() < first.members && first.level != 1 {
        return Err(odd("has members that are not here"));
    }
    let count = legs.len();
    let sound = |chunk: u64| chunk >= 4096 && chunk.is_power_of_two();
    let (shape, length) = match first.level {
        1 => (Shape::Mirrored, first.size),
        0 if sound(first.chunk) => {
            let rooms: Vec<u64> = legs.iter().map(|(_, it)| it.room / first.chunk * first.chunk).collect();
            if rooms.iter().any(|room| *room != rooms[0]) {
                return Err(odd("is a RAID 0 of members of different sizes"));
            }
            (Shape::Striped(first.chunk), rooms[0])
        }
        5 | 6 if sound(first.chunk) && first.layout < 4 && count as i32 > first.level - 3 => {
            let disks = if first.level == 5 { 1 } else { 2 };
            let parity = Parity { chunk: first.chunk, disks, layout: first.layout };
            (Shape::Parity(parity), first.size / first.chunk * first.chunk)
        }
        10 if sound(first.chunk) => {
            let near = (first.layout & 0xff) as usize;
            if first.layout >> 8 != 1 || near < 2 || !count.is_multiple_of(near) {
                return Err(odd("is a RAID 10 of a layout that is not looked into"));
            }
            (Shape::StripedMirrors(first.chunk, near), first.size / first.chunk * first.chunk)
        }
        level => return Err(odd(&format!("is of a level or layout that is not looked into ({level})"))),
    };
    if length == 0 || legs.iter().any(|(_, superblock)| length > superblock.room) {
        return Err(odd("has an impossible size"));
    }
    let name = format!("md array {}", if first.name.is_empty() { "without a name" } else { &first.name });
    let legs = legs.into_iter().map(|(index, superblock)| (index, superblock.data)).collect();
    Ok(Array { name, shape, length, legs })
}
