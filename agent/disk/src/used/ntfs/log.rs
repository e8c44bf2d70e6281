//! Whether the log file says that the volume was dismounted.
//!
//! The log starts with two restart pages that are written in turn. The newer one says which clients still use the log (none
//! after a dismount) or that the volume is clean. Windows 8 and later write version 2.0 while the volume is theirs, also
//! through a fast startup, and go back to 1.1 at a real shutdown. A log that is all ones was emptied, by mkfs or by
//! ntfs-3g, and knows of nothing to be done.

use super::attribute::Content;
use super::record::unguard;
use super::table::Table;
use crate::used::Doubt;
use crate::used::fields::{le16, le32, le64};

const MAGIC: &[u8] = b"RSTR";
/// Bytes that are looked at: two restart pages of the largest size.
const START: u64 = 128 << 10;
const PAGE: std::ops::RangeInclusive<usize> = 512..=64 << 10;
const NO_CLIENT: u16 = 0xffff;
const CLEAN: u16 = 0x2;

/// A doubt unless the log is empty or its newer restart page says that the volume is clean.
pub(super) fn must_be_clean(log: &Content, table: &Table<'_>) -> Result<(), Doubt> {
    let bytes = log.read(table, 0, log.size().min(START))?;
    if !bytes.is_empty() && bytes.iter().all(|&byte| byte == 0xff) {
        return Ok(());
    }
    let first = Restart::parse(&bytes)?;
    let newer = match bytes.get(first.page..) {
        Some(rest) if rest.starts_with(MAGIC) => {
            let second = Restart::parse(rest)?;
            if second.number > first.number { second } else { first }
        }
        _ => first,
    };
    if !matches!(newer.version, (1, 0 | 1)) {
        let (major, minor) = newer.version;
        return Err(Doubt::new(format!(
            "its log is of version {major}.{minor}: Windows did not let go of it (fast startup or a crash)"
        )));
    }
    if newer.clients != NO_CLIENT && newer.flags & CLEAN == 0 {
        return Err(Doubt::new("it is not clean: its log must be replayed by Windows"));
    }
    Ok(())
}

/// A restart page.
struct Restart {
    /// Bytes of the page.
    page: usize,
    /// Major, minor.
    version: (u16, u16),
    /// Log sequence number: the newer page has the higher one.
    number: u64,
    /// First client that uses the log.
    clients: u16,
    flags: u16,
}

impl Restart {
    fn parse(bytes: &[u8]) -> Result<Self, Doubt> {
        let doubt = || Doubt::new("its log cannot be read");
        if !bytes.starts_with(MAGIC) {
            return Err(doubt());
        }
        let page = le32(bytes, 16)? as usize;
        if !page.is_power_of_two() || !PAGE.contains(&page) {
            return Err(doubt());
        }
        let mut own = bytes.get(..page).ok_or_else(doubt)?.to_vec();
        unguard(&mut own).map_err(|_| doubt())?;
        let area = own.get(usize::from(le16(&own, 24)?)..).ok_or_else(doubt)?;
        Ok(Self {
            page,
            version: (le16(&own, 28)?, le16(&own, 26)?),
            number: le64(area, 0)?,
            clients: le16(area, 12)?,
            flags: le16(area, 14)?,
        })
    }
}
