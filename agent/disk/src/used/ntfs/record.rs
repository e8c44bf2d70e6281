//! Records of the master file table, and the guard against torn writes that all of NTFS's structures share.

use super::attribute::{Attribute, kind};
use super::boot::Boot;
use crate::used::Doubt;
use crate::used::fields::{le16, le32, le64};

const MAGIC: &[u8] = b"FILE";
/// Bytes whose last two are kept elsewhere, whatever the sector size.
const STRIDE: usize = 512;
const IN_USE: u16 = 1;

/// A record whose sectors belong together.
#[derive(Debug)]
pub(super) struct Record {
    pub number: u64,
    bytes: Vec<u8>,
}

impl Record {
    /// Checks a record and undoes its guard.
    pub fn parse(mut bytes: Vec<u8>, number: u64) -> Result<Self, Doubt> {
        let doubt = |what: &str| Doubt::new(format!("record {number} of its file table {what}"));
        if !bytes.starts_with(MAGIC) {
            return Err(doubt("is not one"));
        }
        unguard(&mut bytes).map_err(|_| doubt("is torn"))?;
        if le32(&bytes, 24)? as usize > bytes.len() {
            return Err(doubt("is longer than it can be"));
        }
        Ok(Self { number, bytes })
    }

    /// Whether it belongs to a file.
    pub fn in_use(&self) -> bool {
        is_in_use(&self.bytes)
    }

    /// The record that this one continues. The table's own is number 0, but with a sequence number that is not.
    pub fn base(&self) -> Option<u64> {
        let reference = le64(&self.bytes, 32).ok().filter(|&reference| reference != 0);
        reference.map(|reference| reference & 0xffff_ffff_ffff)
    }

    /// All bytes in use but for the guard.
    pub fn content(&self) -> &[u8] {
        let used = le32(&self.bytes, 24).map_or(0, |used| used as usize);
        self.bytes.get(..used).unwrap_or(&self.bytes)
    }

    /// Its attributes, in order.
    pub fn attributes(&self, boot: &Boot) -> Result<Vec<Attribute>, Doubt> {
        let mut attributes = Vec::new();
        let mut rest = self.content().get(usize::from(le16(&self.bytes, 20)?)..).unwrap_or(&[]);
        while le32(rest, 0)? != kind::END {
            let length = le32(rest, 4)? as usize;
            let own = rest.get(..length).filter(|own| own.len() >= 24);
            let attribute = own.ok_or_else(|| Doubt::new("an attribute does not fit its record"));
            let attribute = attribute.and_then(|own| Attribute::parse(own, boot));
            attributes.push(
                attribute.map_err(|doubt| {
                    Doubt::new(format!("record {} of its file table: {doubt}", self.number))
                })?,
            );
            rest = &rest[length..];
        }
        Ok(attributes)
    }
}

/// Whether bytes look like a record that is in use, torn or not.
pub(super) fn is_in_use(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) && le16(bytes, 22).is_ok_and(|flags| flags & IN_USE != 0)
}

/// Puts back the last two bytes of each stride, whose places hold a number that tells whether all of it was written. The kept
/// bytes are cleared: copies of a structure may have other numbers.
pub(super) fn unguard(bytes: &mut [u8]) -> Result<(), Doubt> {
    let torn = || Doubt::new("a structure is torn");
    let (start, count) = (usize::from(le16(bytes, 4)?), usize::from(le16(bytes, 6)?));
    let strides = bytes.len() / STRIDE;
    if count != strides + 1 || !bytes.len().is_multiple_of(STRIDE) || start + 2 * count > STRIDE - 2 {
        return Err(torn());
    }
    let number = le16(bytes, start)?;
    for stride in 0..strides {
        let (kept, end) = (start + 2 + 2 * stride, (stride + 1) * STRIDE - 2);
        if le16(bytes, end)? != number {
            return Err(torn());
        }
        bytes.copy_within(kept..kept + 2, end);
    }
    bytes[start..start + 2 * count].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded() -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..4].copy_from_slice(MAGIC);
        (bytes[4], bytes[6]) = (48, 3);
        bytes[48..54].copy_from_slice(&[7, 0, 1, 2, 3, 4]);
        (bytes[510], bytes[1022]) = (7, 7);
        bytes
    }

    #[test]
    fn a_guard_is_undone_and_a_torn_structure_is_a_doubt() {
        let mut bytes = guarded();
        unguard(&mut bytes).unwrap();
        assert_eq!(
            (&bytes[510..512], &bytes[1022..], &bytes[48..54]),
            (&[1, 2][..], &[3, 4][..], &[0; 6][..])
        );
        for (at, value) in [(1022, 8), (6, 2), (6, 200), (4, 255), (5, 255)] {
            let mut bytes = guarded();
            bytes[at] = value;
            assert!(unguard(&mut bytes).is_err(), "{at}");
        }
        assert!(unguard(&mut [0; 7]).is_err() && unguard(&mut []).is_err());
    }
}
