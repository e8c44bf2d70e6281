//! The superblock of an array member, version 1.
//! Source: `struct mdp_superblock_1` in the kernel's include/uapi/linux/raid/md_p.h; judged by `mdadm --examine` in the tests.

use crate::used::fields::{le16, le32, le64};
use crate::used::{Doubt, Window};

const MAGIC: u32 = 0xa92b_4efc;
const SECTOR: u64 = 512;
const FIXED: usize = 256;
/// The most members of an array: the kernel's limit for version 1.
const MOST_MEMBERS: u32 = 1920;
/// What changes nothing about where data are: a bitmap, and the mark that RAID 0 says which layout it has.
const HARMLESS: u32 = 1 | 4096;

/// What a member says. Bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub array: [u8; 16],
    pub name: String,
    pub level: i32,
    pub layout: u32,
    pub chunk: u64,
    /// Members that the array has when it is whole.
    pub members: usize,
    /// Bytes of each member that are in use (RAID 1, 5, 6, 10).
    pub size: u64,
    pub events: u64,
    /// Which of the members this is.
    pub role: usize,
    /// Where data start on this member, and how much room there is.
    pub data: u64,
    pub room: u64,
}

impl Superblock {
    /// Finds and reads it.
    ///
    /// # Errors
    /// None, several or a damaged one; version 0.90; a member that is a spare, faulty, or being rebuilt, resynchronised or
    /// reshaped.
    pub(super) fn read(window: &Window<'_>) -> Result<Self, Doubt> {
        let sectors = window.size() / SECTOR;
        let end = (sectors.saturating_sub(16) & !7) * SECTOR;
        let mut found = None;
        for place in [0, 4096, end] {
            if place + 4096 > window.size() {
                continue;
            }
            let raw = window.read(place, 4096)?;
            let here = (le32(&raw, 0)?, le32(&raw, 4)?, le64(&raw, 144)?) == (MAGIC, 1, place / SECTOR);
            if here && found.replace(raw).is_some() {
                return Err(Doubt::new("it has two superblocks of arrays"));
            }
        }
        let raw =
            found.ok_or_else(|| Doubt::new("only arrays with a superblock of version 1 are looked into"))?;
        let superblock = Self::parse(&raw)?;
        let end = superblock.data.checked_add(superblock.room.max(superblock.size));
        if end.is_none_or(|end| end > window.size()) {
            return Err(Doubt::new("its array describes a member of another size"));
        }
        Ok(superblock)
    }

    fn parse(raw: &[u8]) -> Result<Self, Doubt> {
        let count = le32(raw, 220)?;
        let length = FIXED + 2 * usize::try_from(count).unwrap_or(usize::MAX).min(MOST_MEMBERS as usize);
        let covered = raw.get(..length).filter(|_| count <= MOST_MEMBERS);
        if covered.is_none_or(|covered| checksum(covered) != le32(raw, 216).unwrap_or(0)) {
            return Err(Doubt::new("the superblock of its array is damaged"));
        }
        let features = le32(raw, 8)?;
        if features & !HARMLESS != 0 {
            return Err(Doubt::new(format!(
                "its array is being rebuilt or reshaped, has bad blocks, or a journal (features {features:#x})"
            )));
        }
        if le64(raw, 208)? != u64::MAX {
            return Err(Doubt::new("its array is not clean: it must be resynchronised"));
        }
        let number = le32(raw, 160)?;
        let role = if number < count { le16(raw, FIXED + 2 * number as usize)? } else { u16::MAX };
        let members = le32(raw, 92)?;
        if u32::from(role) >= members || members > MOST_MEMBERS {
            return Err(Doubt::new("it is a spare or faulty member of its array"));
        }
        let bytes = |sectors: u64| {
            sectors.checked_mul(SECTOR).ok_or_else(|| Doubt::new("its array has an impossible size"))
        };
        let mut array = [0; 16];
        array.copy_from_slice(&raw[16..32]);
        let name = raw[32..64].split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(Self {
            array,
            name: String::from_utf8_lossy(name).into_owned(),
            level: le32(raw, 72)?.cast_signed(),
            layout: le32(raw, 76)?,
            chunk: bytes(u64::from(le32(raw, 88)?))?,
            members: members as usize,
            size: bytes(le64(raw, 80)?)?,
            events: le64(raw, 200)?,
            role: usize::from(role),
            data: bytes(le64(raw, 128)?)?,
            room: bytes(le64(raw, 136)?)?,
        })
    }
}

/// The sum of all 32-bit words but its own, folded once.
fn checksum(covered: &[u8]) -> u32 {
    let word = |(index, part): (usize, &[u8])| match (index, part) {
        (54, _) => 0,
        (_, &[a, b, c, d]) => u64::from(u32::from_le_bytes([a, b, c, d])),
        (_, &[a, b]) => u64::from(u16::from_le_bytes([a, b])),
        _ => 0,
    };
    let sum: u64 = covered.chunks(4).enumerate().map(word).sum();
    (sum as u32).wrapping_add((sum >> 32) as u32)
}
