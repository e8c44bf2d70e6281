//! Attributes of records: content in the record itself, or lists of runs of clusters.

use super::boot::Boot;
use super::table::Table;
use crate::used::Doubt;
use crate::used::fields::{le16, le32, le64};

/// Numbers of attribute types.
pub(super) mod kind {
    pub const LIST: u32 = 0x20;
    pub const FILE_NAME: u32 = 0x30;
    pub const VOLUME_INFORMATION: u32 = 0x70;
    pub const DATA: u32 = 0x80;
    pub const BITMAP: u32 = 0xb0;
    pub const END: u32 = 0xffff_ffff;
}

/// One attribute, or the part of one that this record holds.
#[derive(Debug)]
pub(super) struct Attribute {
    pub kind: u32,
    /// UTF-16; most have none.
    pub named: bool,
    pub content: Content,
}

/// Where content is.
#[derive(Debug)]
pub(super) enum Content {
    /// Here.
    Resident(Vec<u8>),
    /// In clusters.
    Runs(Part),
}

/// A list of runs.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Bytes that were ever written: all of the content, where only system files are read.
    pub initialized: u64,
    /// In order and without gaps.
    pub runs: Vec<Run>,
}

/// Clusters in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// The first one's number within the content.
    pub first: u64,
    pub count: u64,
    /// The first one's number on the volume; none for a hole.
    pub place: Option<u64>,
}

impl Attribute {
    /// Reads the attribute that `bytes` start with and end with.
    pub fn parse(bytes: &[u8], boot: &Boot) -> Result<Self, Doubt> {
        let short = || Doubt::new("an attribute does not fit its record");
        let content = if bytes.get(8) == Some(&0) {
            let start = usize::from(le16(bytes, 20)?);
            let end = start.saturating_add(le32(bytes, 16)? as usize);
            Content::Resident(bytes.get(start..end).ok_or_else(short)?.to_vec())
        } else {
            let (first, last) = (le64(bytes, 16)?, le64(bytes, 24)?);
            let pairs = bytes.get(usize::from(le16(bytes, 32)?)..).ok_or_else(short)?;
            let runs = decode(pairs, first, boot.clusters)?;
            // "Minus one" for no clusters at all.
            if runs.last().map_or(first, |run| run.first + run.count) != last.wrapping_add(1) {
                return Err(Doubt::new("a list of runs has another length than its attribute"));
            }
            // Only the first part of a divided attribute tells the sizes.
            let initialized = if first == 0 { le64(bytes, 56)? } else { 0 };
            Content::Runs(Part { initialized, runs })
        };
        Ok(Self { kind: le32(bytes, 0)?, named: bytes.get(9) != Some(&0), content })
    }
}

impl Content {
    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Resident(bytes) => bytes.len() as u64,
            Self::Runs(part) => part.initialized,
        }
    }

    /// Reads `length` bytes at `offset`. More than there are, or in a hole, is a doubt.
    pub fn read(&self, table: &Table<'_>, offset: u64, length: u64) -> Result<Vec<u8>, Doubt> {
        let outside =
            || Doubt::new(format!("byte {offset} (and {length} more) of a system file is not there"));
        let end = offset.checked_add(length).filter(|&end| end <= self.size()).ok_or_else(outside)?;
        let part = match self {
            Self::Resident(bytes) => {
                let range = usize::try_from(offset).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(0);
                return bytes.get(range).map(<[u8]>::to_vec).ok_or_else(outside);
            }
            Self::Runs(part) => part,
        };
        let cluster = table.boot.cluster;
        let mut bytes = Vec::new();
        let mut index = part.runs.partition_point(|run| (run.first + run.count) * cluster <= offset);
        while (bytes.len() as u64) < length {
            let at = offset + bytes.len() as u64;
            let run = part.runs.get(index).ok_or_else(outside)?;
            let place = run.place.ok_or_else(outside)?;
            let piece = ((run.first + run.count) * cluster).min(end) - at;
            bytes.extend(table.window.read(place * cluster + (at - run.first * cluster), piece)?);
            index += 1;
        }
        Ok(bytes)
    }
}

/// Decodes "mapping pairs": for each run a byte with the sizes of two numbers, its length and how far its place is from the
/// last one's. All clusters are on the volume.
fn decode(mut bytes: &[u8], first: u64, clusters: u64) -> Result<Vec<Run>, Doubt> {
    let odd = || Doubt::new("a list of runs is damaged");
    let mut runs = Vec::new();
    let (mut next, mut last) = (first, 0u64);
    loop {
        let (&sizes, rest) = bytes.split_first().ok_or_else(odd)?;
        if sizes == 0 {
            return Ok(runs);
        }
        let (length, distance) = (usize::from(sizes & 0xf), usize::from(sizes >> 4));
        let count = rest.get(..length).and_then(number).and_then(|count| u64::try_from(count).ok());
        let count = count.filter(|&count| count > 0).ok_or_else(odd)?;
        let delta = rest.get(length..length + distance).ok_or_else(odd)?;
        let place = if distance == 0 {
            None
        } else {
            last = number(delta).and_then(|delta| last.checked_add_signed(delta)).ok_or_else(odd)?;
            Some(last)
                .filter(|place| place.checked_add(count).is_some_and(|end| end <= clusters))
                .ok_or_else(odd)?;
            Some(last)
        };
        runs.push(Run { first: next, count, place });
        // Holes may be long, but clusters are counted in 63 bits at most; bytes must be countable, too.
        next = next.checked_add(count).filter(|&next| next <= 1 << 42).ok_or_else(odd)?;
        bytes = &rest[length + distance..];
    }
}

/// A little-endian signed number of one to eight bytes.
fn number(bytes: &[u8]) -> Option<i64> {
    let last = *bytes.last()?;
    let mut wide = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(wide))
}

/// Whether the content of a file name attribute names `name` (ASCII, in any case) in directory `parent`.
pub(super) fn is_named(bytes: &[u8], parent: u64, name: &str) -> bool {
    let in_parent = le64(bytes, 0).is_ok_and(|reference| reference & 0xffff_ffff_ffff == parent);
    let length = bytes.get(64).copied().map_or(0, usize::from);
    let letters = bytes.get(66..66 + 2 * length).unwrap_or(&[]).chunks_exact(2);
    let same = letters
        .clone()
        .zip(name.bytes())
        .all(|(letter, wanted)| letter[1] == 0 && letter[0].eq_ignore_ascii_case(&wanted));
    in_parent && length == name.len() && letters.len() == length && same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_decoded_and_must_be_on_the_volume() {
        let pairs = [0x21, 0x18, 0x34, 0x56, 0x11, 0x04, 0xf0, 0x01, 0x07, 0];
        let run = |first, count, place| Run { first, count, place };
        let expected = [run(5, 24, Some(0x5634)), run(29, 4, Some(0x5624)), run(33, 7, None)];
        assert_eq!(decode(&pairs, 5, 0x6000).unwrap(), expected);
        assert!(decode(&pairs, 5, 0x5640).is_err());
        // No end; nothing of a length; a place before the volume; numbers that are too long.
        for bad in
            [&pairs[..9], &[0x11, 0, 1, 0], &[0x11, 1, 0xff, 0], &[0x19, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]]
        {
            assert!(decode(bad, 0, 0x6000).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_are_compared_in_any_case() {
        let mut bytes = vec![0; 66];
        (bytes[0], bytes[6], bytes[64]) = (5, 5, 4);
        bytes.extend([b'A', 0, b'.', 0, b'c', 0, b'o', 0]);
        assert!(is_named(&bytes, 5, "a.CO"));
        assert!(
            !is_named(&bytes, 6, "a.co")
                && !is_named(&bytes, 5, "a.com")
                && !is_named(&bytes[..70], 5, "a.co")
        );
    }
}
