//! The label of a physical volume, and the text of the volume group that it leads to.
//! Source of the layout: libyal's description of the format (libvslvm), and volumes made by pvcreate and vgcreate.

use crc::{Algorithm, CRC_32_ISO_HDLC, Crc};

use crate::used::fields::{le32, le64};
use crate::used::{Doubt, MOST_READ, Window};

/// The usual CRC-32 with a start of its own and without a final inversion.
const SUM: Algorithm<u32> = Algorithm { init: 0xf597_a6cf_u32.reverse_bits(), xorout: 0, ..CRC_32_ISO_HDLC };
static TABLE: Crc<u32> = Crc::<u32>::new(&SUM);

const SECTOR: u64 = 512;
const AREA_MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// The most data or metadata areas of a volume; there is room for about fifteen.
const MOST_AREAS: usize = 16;
const IGNORED: u32 = 1;

/// What the label says. Bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    /// UUID of the physical volume: 32 letters without dashes.
    pub uuid: String,
    /// Where its extents start.
    pub data: u64,
    /// The texts of its metadata areas in use, each checked against its checksum.
    pub texts: Vec<Vec<u8>>,
}

impl Label {
    /// Finds and reads it.
    ///
    /// # Errors
    /// No label, a wrong checksum, areas outside the volume.
    pub(super) fn read(window: &Window<'_>) -> Result<Self, Doubt> {
        let head = window.read(0, (4 * SECTOR).min(window.size()))?;
        let mut labels = (0u64..).zip(head.chunks_exact(512)).filter(|(_, raw)| raw.starts_with(b"LABELONE"));
        let (Some((number, raw)), None) = (labels.next(), labels.next()) else {
            return Err(Doubt::new("it has no LVM label, or several"));
        };
        if le64(raw, 8)? != number
            || TABLE.checksum(&raw[20..]) != le32(raw, 16)?
            || &raw[24..32] != b"LVM2 001"
        {
            return Err(Doubt::new("its LVM label is damaged"));
        }
        let header = usize::try_from(le32(raw, 20)?).unwrap_or(usize::MAX);
        let raw = raw.get(header..).ok_or_else(|| Doubt::new("its LVM label is damaged"))?;
        let uuid = raw.get(..32).map(|raw| String::from_utf8_lossy(raw).into_owned()).unwrap_or_default();
        let (data, next) = areas(raw, 40)?;
        let (metadata, _) = areas(raw, next)?;
        let &[(data, _)] = data.as_slice() else {
            return Err(Doubt::new("it has no data area, or several"));
        };
        let mut texts = Vec::new();
        for (offset, size) in metadata {
            texts.extend(text(window, offset, size)?);
        }
        Ok(Self { uuid, data, texts })
    }
}

/// A list of (offset, size) that ends with zeroes, and the byte behind it.
fn areas(raw: &[u8], mut at: usize) -> Result<(Vec<(u64, u64)>, usize), Doubt> {
    let mut list = Vec::new();
    loop {
        let (offset, size) = (le64(raw, at)?, le64(raw, at + 8)?);
        at += 16;
        if offset == 0 && size == 0 {
            return Ok((list, at));
        }
        if list.len() == MOST_AREAS {
            return Err(Doubt::new("its LVM label is damaged"));
        }
        list.push((offset, size));
    }
}

/// The text in a metadata area: a ring, whose first sector is a header. `None` for an area that is empty or not in use.
fn text(window: &Window<'_>, offset: u64, size: u64) -> Result<Option<Vec<u8>>, Doubt> {
    let damaged = || Doubt::new(format!("its LVM metadata area at byte {offset} is damaged"));
    let raw = window.read(offset, SECTOR)?;
    if TABLE.checksum(&raw[4..]) != le32(&raw, 0)?
        || raw.get(4..20) != Some(AREA_MAGIC)
        || (le32(&raw, 20)?, le64(&raw, 24)?, le64(&raw, 32)?) != (1, offset, size)
    {
        return Err(damaged());
    }
    let (start, length) = (le64(&raw, 40)?, le64(&raw, 48)?);
    let (sum, flags) = (le32(&raw, 56)?, le32(&raw, 60)?);
    if start == 0 || flags & IGNORED != 0 {
        return Ok(None);
    }
    if start < SECTOR || start >= size || length > size - SECTOR || length > MOST_READ {
        return Err(damaged());
    }
    let first = length.min(size - start);
    let mut text = window.read(offset.checked_add(start).ok_or_else(damaged)?, first)?;
    text.extend(window.read(offset + SECTOR, length - first)?);
    if TABLE.checksum(&text) != sum {
        return Err(damaged());
    }
    Ok(Some(text))
}
