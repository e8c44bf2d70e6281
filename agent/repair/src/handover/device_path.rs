//! UEFI device paths: how firmware names a file on a partition (UEFI specification 2.10, section 10.3).

/// A partition as the firmware finds it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardDrive {
    /// As the table numbers it, from 1.
    pub partition: u32,
    /// First block.
    pub start: u64,
    /// Blocks.
    pub blocks: u64,
    /// What identifies the partition, or its disk.
    pub signature: Signature,
}

/// Identity within a Hard Drive node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// The partition's GUID as it stands in the GPT.
    Gpt([u8; 16]),
    /// The disk's signature as it stands in the MBR.
    Mbr([u8; 4]),
}

impl Signature {
    /// From a GUID as people write it: the first three groups are little-endian on disk.
    pub fn gpt(text: &str) -> Option<Self> {
        let groups: Vec<&str> = text.split('-').collect();
        let lengths = [8, 4, 4, 4, 12];
        if groups.len() != 5 || groups.iter().zip(lengths).any(|(g, l)| g.len() != l) {
            return None;
        }
        let mut bytes = Vec::with_capacity(16);
        for (i, group) in groups.iter().enumerate() {
            let mut part = hex(group)?;
            if i < 3 {
                part.reverse();
            }
            bytes.extend(part);
        }
        bytes.try_into().ok().map(Self::Gpt)
    }

    /// From eight hex digits.
    pub fn mbr(text: &str) -> Option<Self> {
        let mut bytes = hex(text.strip_prefix("0x").unwrap_or(text))?;
        bytes.reverse();
        bytes.try_into().ok().map(Self::Mbr)
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|p| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok()).collect()
}

/// `HD(..)/File(path)`, ended. Firmware completes it by looking for the partition on all disks.
pub fn file_on(drive: &HardDrive, path: &str) -> Vec<u8> {
    const MEDIA: u8 = 4;
    const HARD_DRIVE: u8 = 1;
    const FILE_PATH: u8 = 4;
    let mut out = Vec::new();
    let (identity, format, kind) = match drive.signature {
        Signature::Gpt(guid) => (guid, 2, 2),
        Signature::Mbr(id) => {
            let mut padded = [0; 16];
            padded[..4].copy_from_slice(&id);
            (padded, 1, 1)
        }
    };
    let mut body = Vec::with_capacity(38);
    body.extend(drive.partition.to_le_bytes());
    body.extend(drive.start.to_le_bytes());
    body.extend(drive.blocks.to_le_bytes());
    body.extend(identity);
    body.extend([format, kind]);
    node(&mut out, MEDIA, HARD_DRIVE, &body);
    let name: Vec<u8> = path.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    node(&mut out, MEDIA, FILE_PATH, &name);
    node(&mut out, 0x7f, 0xff, &[]);
    out
}

fn node(out: &mut Vec<u8>, kind: u8, sub: u8, body: &[u8]) {
    // A path is at most a few hundred bytes: it comes from names this crate found on a FAT filesystem (255 characters each).
    let length = u16::try_from(body.len() + 4).unwrap_or(u16::MAX);
    out.extend([kind, sub]);
    out.extend(length.to_le_bytes());
    out.extend(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpt_path_has_the_bytes_of_the_specification() {
        let drive = HardDrive {
            partition: 1,
            start: 2048,
            blocks: 0x0004_0000,
            signature: Signature::gpt("01234567-89ab-cdef-0123-456789abcdef").unwrap(),
        };
        let golden: &[&[u8]] = &[
            &[4, 1, 42, 0],
            &[1, 0, 0, 0],
            &[0, 8, 0, 0, 0, 0, 0, 0],
            &[0, 0, 4, 0, 0, 0, 0, 0],
            &[0x67, 0x45, 0x23, 0x01, 0xab, 0x89, 0xef, 0xcd, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef],
            &[2, 2],
            &[4, 4, 14, 0],
            &[b'\\', 0, b'a', 0, b'.', 0, b'b', 0, 0, 0],
            &[0x7f, 0xff, 4, 0],
        ];
        assert_eq!(file_on(&drive, "\\a.b"), golden.concat());
    }

    #[test]
    fn an_mbr_path_names_the_disk() {
        let drive =
            HardDrive { partition: 2, start: 1, blocks: 2, signature: Signature::mbr("1a2b3c4d").unwrap() };
        let path = file_on(&drive, "\\x");
        assert_eq!(path[24..42], [0x4d, 0x3c, 0x2b, 0x1a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn bad_identities_are_none() {
        for bad in
            ["", "0123", "01234567-89ab-cdef-0123-456789abcdeg", "01234567-89ab-cdef-0123456789abcdef", "é-"]
        {
            assert_eq!(Signature::gpt(bad), None, "{bad}");
        }
        assert_eq!(Signature::mbr("12"), None);
    }
}
