//! LVM: which extents belong to which volume, and which to none.
//!
//! A physical volume carries a label, and most carry the text that describes the whole volume group. Free extents are those
//! that no volume of the text names. Volumes that are plain (linear or striped, and not a part of anything) can be looked
//! into; all others are used as a whole. Everything on a physical volume that is not an extent is used.
//!
//! The text is believed when its checksum is right, all copies that were found are the same, it fits the label and the size
//! of the physical volume, and no extent is given away twice. A text on one disk describes also those disks that carry
//! none. A group of which disks are missing is still described; volumes on the missing ones cannot be looked into.

mod group;
mod label;
mod text;

use std::collections::BTreeMap;

pub(super) use self::group::{Group, Logical, Piece};
use self::label::Label;
use super::{Doubt, Window};

/// A physical volume, read.
pub(super) struct Member {
    label: Label,
    groups: Vec<Group>,
    size: u64,
}

/// A volume group, and which of the members are its physical volumes, by UUID.
pub(super) struct Assembled {
    pub group: Group,
    pub members: BTreeMap<String, usize>,
}

impl Member {
    /// Reads label and texts.
    ///
    /// # Errors
    /// Damage, and groups that are not looked into (exported, shared, lacking a disk).
    pub(super) fn read(window: &Window<'_>) -> Result<Self, Doubt> {
        let label = Label::read(window)?;
        let groups = label.texts.iter().map(|text| Group::read(text)).collect::<Result<_, _>>()?;
        Ok(Self { label, groups, size: window.size() })
    }
}

/// Sorts physical volumes into their groups. Every member is either in one group, or in doubt.
pub(super) fn assemble(members: &[Member]) -> (Vec<Assembled>, Vec<(usize, Doubt)>) {
    let mut doubts = Vec::new();
    let mut assembled: Vec<Assembled> = Vec::new();
    for group in members.iter().flat_map(|member| &member.groups) {
        if !assembled.iter().any(|known| known.group == *group) {
            assembled.push(Assembled { group: group.clone(), members: BTreeMap::new() });
        }
    }
    for (index, member) in members.iter().enumerate() {
        match home(members, index, &assembled) {
            Ok(home) => drop(assembled[home].members.insert(member.label.uuid.clone(), index)),
            Err(doubt) => doubts.push((index, doubt)),
        }
    }
    assembled.retain(|found| !found.members.is_empty());
    (assembled, doubts)
}

/// The one group that a member belongs to.
fn home(members: &[Member], index: usize, assembled: &[Assembled]) -> Result<usize, Doubt> {
    let member = &members[index];
    let uuid = &member.label.uuid;
    if members.iter().filter(|other| other.label.uuid == *uuid).count() > 1 {
        return Err(Doubt::new("two physical volumes have the same UUID"));
    }
    let mut homes = (0..).zip(assembled).filter(|(_, found)| found.group.physical.contains_key(uuid));
    let Some((home, found)) = homes.next() else {
        return Err(Doubt::new("the metadata of its volume group were not found"));
    };
    if homes.next().is_some() || member.groups.iter().any(|group| *group != found.group) {
        return Err(Doubt::new("there are different states of its volume group's metadata"));
    }
    // What another disk says of the same group may be newer, even if it does not name this one.
    if assembled.iter().filter(|other| other.group.id == found.group.id).count() > 1 {
        return Err(Doubt::new("there are different states of its volume group's metadata"));
    }
    let extents = &found.group.physical[uuid].extents;
    if extents.start != member.label.data || extents.end > member.size {
        return Err(Doubt::new("its volume group describes a physical volume of another size"));
    }
    Ok(home)
}

#[cfg(test)]
mod tests;
