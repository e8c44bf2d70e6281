//! The master file table: a file of records, itself described by its first record.

use super::PIECE;
use super::attribute::{Content, Part, kind};
use super::boot::Boot;
use super::record::{Record, is_in_use};
use crate::used::fields::{le16, le32, le64};
use crate::used::{Doubt, Window};

/// The most bytes of an attribute list; Windows stops at a quarter of a MiB.
const MOST_LIST: u64 = 1 << 20;
const MOST_RECORDS: u64 = 1 << 32;

/// A way to all records.
pub(super) struct Table<'a> {
    pub window: &'a Window<'a>,
    pub boot: &'a Boot,
    /// The table's own content, as far as it is known.
    content: Content,
}

impl<'a> Table<'a> {
    /// Finds all of the table. A fragmented one is described by several records, which must lie in the part that the first of
    /// them describes.
    pub fn open(window: &'a Window<'a>, boot: &'a Boot) -> Result<Self, Doubt> {
        let first = boot.record.div_ceil(boot.cluster);
        let start = super::attribute::Run { first: 0, count: first, place: Some(boot.table) };
        let content = Content::Runs(Part { initialized: boot.record, runs: vec![start] });
        let mut table = Self { window, boot, content };
        let base = table.record(0)?;
        let own = base.attributes(boot)?.into_iter().find(|own| own.kind == kind::DATA && !own.named);
        table.content = own.ok_or_else(|| Doubt::new("its file table does not describe itself"))?.content;
        table.content = table.content(0, kind::DATA)?;
        match &table.content {
            Content::Runs(part) if part.runs.first().and_then(|run| run.place) == Some(boot.table) => {
                Ok(table)
            }
            _ => Err(Doubt::new("boot sector and file table disagree where that starts")),
        }
    }

    /// Reads one record, in use or not.
    pub fn record(&self, number: u64) -> Result<Record, Doubt> {
        let at =
            number.checked_mul(self.boot.record).ok_or_else(|| Doubt::new("a record is out of reach"))?;
        Record::parse(self.content.read(self, at, self.boot.record)?, number)
    }

    /// Visits all records in use. The table's bitmap and the records themselves must agree on which these are, but for
    /// records that are kept for later, which the bitmap may call used.
    pub fn for_each(&self, visit: &mut dyn FnMut(Record) -> Result<(), Doubt>) -> Result<(), Doubt> {
        let bitmap = self.content(0, kind::BITMAP)?;
        let size = self.boot.record;
        let count = self.content.size() / size;
        if count > MOST_RECORDS {
            return Err(Doubt::new("its file table is too large"));
        }
        let at_once = PIECE / size;
        for first in (0..count).step_by(usize::try_from(at_once).unwrap_or(1)) {
            let number = at_once.min(count - first);
            let bytes = self.content.read(self, first * size, number * size)?;
            let bits = bitmap.read(self, first / 8, number.div_ceil(8))?;
            for (index, bytes) in bytes.chunks_exact(usize::try_from(size).unwrap_or(1024)).enumerate() {
                let number = first + index as u64;
                let marked = bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
                if !marked && !is_in_use(bytes) {
                    continue;
                }
                if !marked {
                    return Err(Doubt::new(format!(
                        "record {number} of its file table is used and marked as free"
                    )));
                }
                let record = Record::parse(bytes.to_vec(), number)?;
                if record.in_use() {
                    visit(record)?;
                }
            }
        }
        Ok(())
    }

    /// The nameless attribute of a kind, put together from all records that hold parts of it.
    pub fn content(&self, number: u64, kind: u32) -> Result<Content, Doubt> {
        let missing = || Doubt::new(format!("record {number} of its file table has no attribute {kind:#x}"));
        let base = self.record(number)?;
        if !base.in_use() {
            return Err(missing());
        }
        let mut parts = Vec::new();
        let mut others = Vec::new();
        for attribute in base.attributes(self.boot)? {
            if attribute.kind == kind::LIST {
                others = self.records_with(kind, number, &attribute.content)?;
            } else if attribute.kind == kind && !attribute.named {
                parts.push(attribute.content);
            }
        }
        for other in others {
            let record = self.record(other)?;
            if record.base() != Some(number) || !record.in_use() {
                return Err(Doubt::new(format!(
                    "record {other} of its file table does not continue record {number}"
                )));
            }
            let wanted = record.attributes(self.boot)?.into_iter();
            parts.extend(wanted.filter(|own| own.kind == kind && !own.named).map(|own| own.content));
        }
        join(parts).ok_or_else(missing)
    }

    /// The other records that an attribute list names for nameless parts of a kind.
    fn records_with(&self, kind: u32, number: u64, list: &Content) -> Result<Vec<u64>, Doubt> {
        let size = list.size();
        if size > MOST_LIST {
            return Err(Doubt::new(format!("an attribute list of {size} bytes is too long")));
        }
        let bytes = list.read(self, 0, size)?;
        let mut rest = &bytes[..];
        let mut records = Vec::new();
        while rest.len() >= 26 {
            let length = usize::from(le16(rest, 4)?);
            let record = le64(rest, 16)? & 0xffff_ffff_ffff;
            if le32(rest, 0)? == kind && rest[6] == 0 && record != number && !records.contains(&record) {
                records.push(record);
            }
            rest = rest.get(length.max(26)..).unwrap_or(&[]);
        }
        Ok(records)
    }
}

/// Parts of one content in one piece; none when there are gaps or nothing.
fn join(mut parts: Vec<Content>) -> Option<Content> {
    if parts.len() == 1 && matches!(parts[0], Content::Resident(_)) {
        return parts.pop();
    }
    let mut whole = Part::default();
    for part in parts {
        let Content::Runs(part) = part else { return None };
        whole.initialized = whole.initialized.max(part.initialized);
        whole.runs.extend(part.runs);
    }
    whole.runs.sort_by_key(|run| run.first);
    let starts = whole.runs.first()?.first == 0;
    let joined = whole.runs.windows(2).all(|pair| pair[0].first + pair[0].count == pair[1].first);
    (starts && joined).then_some(Content::Runs(whole))
}
