//! The label of an unfinished replica: what stands in a target's head until the end.
//!
//! ```text
//! byte 0      boot code that prints "unfinished replica" (screen and first serial port) and halts
//! byte 256    commit record: magic, stage, disk, disks, session, job, epoch, source size, sector size, checksum
//! byte 510    55 aa, so that a BIOS runs the code; there is no partition table, so UEFI finds nothing to start
//! byte 4096   disk map: magic, length (u32 LE), JSON, BLAKE3 of the JSON
//! ```
//!
//! LBA 0 is written alone and last (4 KiB sectors: byte 0 to 4095 is still one sector), so a label is there whole or
//! not at all. The map is for people and for finding the other disks of the session; losing it loses nothing.

/// First MiB of a disk, in bytes: the head. The tail is as long.
pub const HEAD: usize = 1 << 20;

const RECORD: usize = 256;
const RECORD_BODY: usize = 56;
const MAGIC: &[u8; 8] = b"GANTRY01";
const MAP: usize = 4096;
const MAP_MAGIC: &[u8; 8] = b"GANTRYMP";
const MAP_LIMIT: usize = 64 << 10;

/// 16-bit code, loaded at 0x7c00: prints the text at 0x7c24 with int 10h and int 14h, then halts for good.
const BOOT_CODE: [u8; 0x24] = [
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xfc, // cld
    0xbe, 0x24, 0x7c, // mov si, 0x7c24
    0xac, // next: lodsb
    0x84, 0xc0, // test al, al
    0x74, 0x12, // jz halt
    0xb4, 0x0e, // mov ah, 0x0e
    0xbb, 0x07, 0x00, // mov bx, 7
    0x50, // push ax
    0xcd, 0x10, // int 0x10
    0x58, // pop ax
    0xb4, 0x01, // mov ah, 1
    0x31, 0xd2, // xor dx, dx
    0xcd, 0x14, // int 0x14
    0xeb, 0xea, // jmp next
    0x90, // nop
    0xf4, // halt: hlt
    0xeb, 0xfd, // jmp halt
    0x90, 0x90,
];
const BOOT_TEXT: &[u8] =
    b"\r\nGantry: this disk holds an unfinished replica.\r\nIt cannot boot. Start the Gantry medium to go on.\r\n\0";

/// How far the session had come when the label was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelStage {
    /// Chunks are being taken.
    Receiving,
    /// Roots agreed; repair is at work on the replica.
    Repairing,
    /// Tails and heads are being written; LBA 0 comes last.
    Committing,
}

impl LabelStage {
    fn tag(self) -> u8 {
        match self {
            Self::Receiving => 1,
            Self::Repairing => 2,
            Self::Committing => 3,
        }
    }
    fn from_tag(tag: u8) -> Option<Self> {
        [Self::Receiving, Self::Repairing, Self::Committing].into_iter().find(|stage| stage.tag() == tag)
    }
}

/// What a label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The session that owns this disk.
    pub session: [u8; 16],
    /// Which pairing code's session: see `gantry_wire::code::job_tag`.
    pub job: [u8; 8],
    /// Stage.
    pub stage: LabelStage,
    /// Newest epoch that may have written.
    pub epoch: u64,
    /// This disk's index among the session's disks.
    pub disk: u8,
    /// Number of disks of the session.
    pub disks: u8,
    /// Size of the source disk in bytes.
    pub source_size: u64,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Disk map, JSON; empty when it was not readable.
    pub map: String,
}

impl Label {
    /// The first `sector` bytes (512 to 4096), which are written alone.
    pub fn sector_0(&self, sector: usize) -> Vec<u8> {
        let mut bytes = vec![0; sector.max(512)];
        bytes[..BOOT_CODE.len()].copy_from_slice(&BOOT_CODE);
        bytes[BOOT_CODE.len()..BOOT_CODE.len() + BOOT_TEXT.len()].copy_from_slice(BOOT_TEXT);
        let record = self.record();
        bytes[RECORD..RECORD + record.len()].copy_from_slice(&record);
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        bytes
    }

    /// The commit record alone: all but the map, with its checksum.
    pub(crate) fn record(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(RECORD_BODY + 32);
        record.extend_from_slice(MAGIC);
        record.extend_from_slice(&[self.stage.tag(), self.disk, self.disks, 0]);
        record.extend_from_slice(&self.session);
        record.extend_from_slice(&self.job);
        record.extend_from_slice(&self.epoch.to_le_bytes());
        record.extend_from_slice(&self.source_size.to_le_bytes());
        record.extend_from_slice(&self.sector_size.to_le_bytes());
        let checksum = blake3::hash(&record);
        record.extend_from_slice(checksum.as_bytes());
        record
    }

    /// The rest of the head: the disk map at byte 4096 of the disk. Cut maps are dropped whole.
    pub fn map_block(&self) -> Vec<u8> {
        let json = if self.map.len() <= MAP_LIMIT { self.map.as_bytes() } else { b"" };
        let mut block = Vec::with_capacity(json.len() + 44);
        block.extend_from_slice(MAP_MAGIC);
        block.extend_from_slice(&(json.len() as u32).to_le_bytes());
        block.extend_from_slice(json);
        block.extend_from_slice(blake3::hash(json).as_bytes());
        block
    }

    /// Byte offset of [`Label::map_block`].
    pub const MAP_OFFSET: u64 = MAP as u64;
}

/// Reads the label from the first MiB of a disk; at least its first 512 bytes are needed.
pub fn parse(head: &[u8]) -> Option<Label> {
    let label = parse_record(head.get(RECORD..)?)?;
    Some(Label { map: parse_map(head).unwrap_or_default(), ..label })
}

/// Reads a commit record at the start of `bytes`; the map is left empty.
pub(crate) fn parse_record(bytes: &[u8]) -> Option<Label> {
    let record = bytes.get(..RECORD_BODY + 32)?;
    let (body, checksum) = record.split_at(RECORD_BODY);
    if !body.starts_with(MAGIC) || blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let u64_at = |at: usize| body[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    Some(Label {
        stage: LabelStage::from_tag(body[8])?,
        disk: body[9],
        disks: body[10],
        session: body[12..28].try_into().ok()?,
        job: body[28..36].try_into().ok()?,
        epoch: u64_at(36)?,
        source_size: u64_at(44)?,
        sector_size: u32::from_le_bytes(body[52..56].try_into().ok()?),
        map: String::new(),
    })
}

fn parse_map(head: &[u8]) -> Option<String> {
    let block = head.get(MAP..)?;
    let rest = block.strip_prefix(MAP_MAGIC)?;
    let (length, rest) = rest.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    if length > MAP_LIMIT {
        return None;
    }
    let (json, rest) = rest.split_at_checked(length)?;
    let checksum = rest.get(..32)?;
    (blake3::hash(json).as_bytes() == checksum).then(|| String::from_utf8_lossy(json).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> Label {
        Label {
            session: [0xab; 16],
            job: *b"jobjobjo",
            stage: LabelStage::Repairing,
            epoch: 12,
            disk: 1,
            disks: 2,
            source_size: 5 << 30,
            sector_size: 512,
            map: r#"{"disks":[]}"#.into(),
        }
    }

    fn head_of(label: &Label) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[..512].copy_from_slice(&label.sector_0(512));
        let map = label.map_block();
        head[MAP..MAP + map.len()].copy_from_slice(&map);
        head
    }

    #[test]
    fn a_label_is_read_back_and_boots_to_its_text() {
        let head = head_of(&label());
        assert_eq!(parse(&head), Some(label()));
        assert_eq!(&head[510..512], &[0x55, 0xaa]);
        assert!(head[..RECORD].windows(18).any(|w| w == b"unfinished replica"));
        const { assert!(BOOT_CODE.len() + BOOT_TEXT.len() <= RECORD, "the text must not reach the record") };
        const { assert!(RECORD + RECORD_BODY + 32 <= 446, "a partition table must look empty") };
    }

    #[test]
    fn any_flipped_byte_of_the_record_is_no_label() {
        for at in RECORD..RECORD + RECORD_BODY + 32 {
            let mut head = head_of(&label());
            head[at] ^= 1;
            assert_eq!(parse(&head), None, "byte {at}");
        }
        let mut head = head_of(&label());
        head[MAP + 14] ^= 1;
        assert_eq!(parse(&head).unwrap().map, "", "a damaged map is dropped, the label stands");
        assert_eq!(parse(&head[..400]).map(|l| l.session), Some([0xab; 16]));
        assert_eq!(parse(&[]), None);
    }
}
