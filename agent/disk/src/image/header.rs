//! What the header of an image says before qemu may open it: that it is of its format and needs no other file.
//!
//! Sources: docs/interop/qcow2.rst of QEMU; VMware's "Virtual Disk Format 5.0"; Microsoft's MS-VHDX; the header that
//! VirtualBox writes (VDICore.h, as described in QEMU's documentation of the format). Only what can lead to other files is
//! looked at; all else is qemu's to judge, inside its confinement.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Format;

/// Where every program puts the descriptor of a VMDK, and qemu looks for a parent: its second sector.
const DESCRIPTOR: usize = 512;
/// What is looked at of a VMDK's descriptor at most: as much as qemu does, and more than any has.
const LONGEST_DESCRIPTOR: usize = 64 << 10;

/// Why this image is refused, if it is. Errors are those of reading it.
pub(super) fn refusal(format: Format, file: &File, writable: bool) -> io::Result<Option<String>> {
    let mut head = vec![0; DESCRIPTOR + LONGEST_DESCRIPTOR];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    // A short file reads as zeroes, which no format takes for a header.
    let judged = match format {
        Format::Qcow2 => qcow2(&head),
        Format::Vmdk => vmdk(&head, writable),
        Format::Vhdx => vhdx(&head),
        Format::Vdi => vdi(&head),
    };
    Ok(judged.err())
}

fn be32(head: &[u8], at: usize) -> u32 {
    head[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn be64(head: &[u8], at: usize) -> u64 {
    u64::from(be32(head, at)) << 32 | u64::from(be32(head, at + 4))
}

fn le32(head: &[u8], at: usize) -> u32 {
    be32(head, at).swap_bytes()
}

fn le64(head: &[u8], at: usize) -> u64 {
    be64(head, at).swap_bytes()
}

fn must(holds: bool, why: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

fn qcow2(head: &[u8]) -> Result<(), String> {
    const EXTERNAL_DATA: u64 = 1 << 2;
    must(head.starts_with(b"QFI\xfb"), "this is no qcow2 image")?;
    let version = be32(head, 4);
    must((2..=3).contains(&version), "this version of qcow2 is not known")?;
    must(
        be64(head, 8) == 0 && be32(head, 16) == 0,
        "it has a backing file: flatten it first (qemu-img convert), where you trust it",
    )?;
    must(be32(head, 32) == 0, "it is encrypted: decrypt it first (qemu-img convert)")?;
    let incompatible = if version == 2 { 0 } else { be64(head, 72) };
    must(
        incompatible & EXTERNAL_DATA == 0,
        "its data are in another file: join them first (qemu-img convert)",
    )
}

fn vmdk(head: &[u8], writable: bool) -> Result<(), String> {
    must(head.starts_with(b"KDMV"), "this is no VMDK in one file (monolithicSparse or streamOptimized)")?;
    // Without a capacity qemu takes the descriptor for the whole image, with whatever extents it names.
    let place = le64(head, 12) != 0 && le64(head, 28) == 1;
    must(place, "its descriptor is not where it belongs")?;
    let length = le64(head, 36).saturating_mul(512);
    must(length <= LONGEST_DESCRIPTOR as u64, "its descriptor is too long")?;
    // qemu looks for a parent's name in twenty sectors, whatever the header says.
    let looked_at = &head[DESCRIPTOR..];
    let hint = b"parentFileNameHint";
    must(
        !looked_at.windows(hint.len()).any(|window| window.eq_ignore_ascii_case(hint)),
        "it is a snapshot: its parent is in another file (consolidate it first)",
    )?;
    let text = looked_at.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let lines = || text.lines().map(str::trim);
    let kind = lines().find_map(|line| line.strip_prefix("createType=")).map(|kind| kind.trim_matches('"'));
    match kind {
        Some("monolithicSparse") => {}
        Some("streamOptimized") => must(!writable, "a streamOptimized VMDK can only be read")?,
        _ => return Err("it is neither monolithicSparse nor streamOptimized".to_owned()),
    }
    let extents: Vec<&str> = lines()
        .filter(|line| ["RW ", "RDONLY ", "NOACCESS "].iter().any(|access| line.starts_with(access)))
        .collect();
    let own = |line: &str| line.split_whitespace().nth(2) == Some("SPARSE");
    must(matches!(extents[..], [one] if own(one)), "it has extents in other files")
}

/// A VHDX names its parent in a region that qemu does not follow: images with one are refused by it.
fn vhdx(head: &[u8]) -> Result<(), String> {
    must(head.starts_with(b"vhdxfile"), "this is no VHDX image")
}

fn vdi(head: &[u8]) -> Result<(), String> {
    const SIGNATURE: u32 = 0xbeda_107f;
    const DYNAMIC: u32 = 1;
    const FIXED: u32 = 2;
    must(le32(head, 0x40) == SIGNATURE, "this is no VDI image")?;
    must([DYNAMIC, FIXED].contains(&le32(head, 0x4c)), "it is a snapshot: its parent is in another file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(mut head: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
        head[at..at + bytes.len()].copy_from_slice(bytes);
        head
    }

    fn refused(format: Format, head: &[u8], writable: bool) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), head).unwrap();
        refusal(format, file.as_file(), writable).unwrap().unwrap_or_default()
    }

    fn a_qcow2() -> Vec<u8> {
        with(vec![0; 512], 0, b"QFI\xfb\0\0\0\x03")
    }

    #[test]
    fn qcow2_with_other_files_is_refused() {
        assert_eq!(refused(Format::Qcow2, &a_qcow2(), true), "");
        let lies: [(usize, &[u8], &str); 5] = [
            (0, b"QFJ", "no qcow2"),
            (7, &[4], "version"),
            (15, &[1], "backing file"),
            (35, &[1], "encrypted"),
            (79, &[4], "another file"),
        ];
        for (at, bytes, part) in lies {
            let why = refused(Format::Qcow2, &with(a_qcow2(), at, bytes), false);
            assert!(why.contains(part), "{why}");
        }
        assert!(refused(Format::Qcow2, b"QFI\xfb", false).contains("version"), "a short file");
    }

    fn a_vmdk(descriptor: &str) -> Vec<u8> {
        let head = with(vec![0; 12 << 10], 0, b"KDMV\x01");
        let head = with(with(with(head, 12, &[9]), 28, &[1]), 36, &[20]);
        with(head, DESCRIPTOR, descriptor.as_bytes())
    }

    #[test]
    fn vmdk_of_several_files_is_refused() {
        let good =
            "# Disk DescriptorFile\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 9 SPARSE \"a\"\n";
        assert_eq!(refused(Format::Vmdk, &a_vmdk(good), true), "");
        let stream = good.replace("monolithicSparse", "streamOptimized");
        assert_eq!(refused(Format::Vmdk, &a_vmdk(&stream), false), "");
        assert!(refused(Format::Vmdk, &a_vmdk(&stream), true).contains("only be read"));
        let texts = [
            (good.replace("monolithicSparse", "monolithicFlat"), "neither"),
            (good.replace("SPARSE", "FLAT"), "other files"),
            (format!("{good}RW 9 SPARSE \"b\"\n"), "other files"),
            (format!("{good}parentFileNameHint=\"/etc/shadow\"\n"), "snapshot"),
            (format!("{good}\0\0parentFileNameHint=\"/etc/shadow\"\n"), "snapshot"),
            (String::new(), "neither"),
        ];
        for (text, part) in texts {
            let why = refused(Format::Vmdk, &a_vmdk(&text), false);
            assert!(why.contains(part), "{text}: {why}");
        }
        let heads = [
            (with(a_vmdk(good), 12, &[0]), "not where it belongs"),
            (with(a_vmdk(good), 28, &[2]), "not where it belongs"),
            (with(a_vmdk(good), 36, &[200]), "too long"),
            (b"# Disk DescriptorFile\nRW 9 FLAT \"/etc/shadow\" 0\n".to_vec(), "no VMDK in one file"),
        ];
        for (head, part) in heads {
            let why = refused(Format::Vmdk, &head, false);
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn vhdx_and_vdi_must_be_what_they_are_called() {
        assert_eq!(refused(Format::Vhdx, b"vhdxfile", false), "");
        assert!(refused(Format::Vhdx, b"conectix", false).contains("no VHDX"));
        let vdi = with(with(vec![0; 512], 0x40, &[0x7f, 0x10, 0xda, 0xbe]), 0x4c, &[1]);
        assert_eq!(refused(Format::Vdi, &vdi, false), "");
        assert!(refused(Format::Vdi, &with(vdi, 0x4c, &[4]), false).contains("snapshot"));
        assert!(refused(Format::Vdi, &[], false).contains("no VDI"));
    }
}
