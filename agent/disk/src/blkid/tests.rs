use super::*;
use crate::testing::{blank, good, sfdisk};

struct Image {
    folder: tempfile::TempDir,
}

impl Image {
    fn new(size: u64) -> Self {
        let image = Self { folder: tempfile::tempdir().unwrap() };
        blank(&image.path(), size);
        image
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("image")
    }

    fn text(&self) -> String {
        self.path().display().to_string()
    }
}

#[test]
fn nothing_is_found_on_a_blank_file() {
    let image = Image::new(4 << 20);
    assert!(probe(&image.path(), 0, 0).unwrap().is_empty());
    assert_eq!(signatures(&image.path(), Area::default()).unwrap(), []);
}

#[test]
fn filesystems_are_known_by_type_label_and_uuid() {
    let image = Image::new(64 << 20);
    let path = image.text();
    let uuid = "11111111-2222-3333-4444-555555555555";
    good("mke2fs", &["-q", "-t", "ext4", "-L", "root label", "-U", uuid, &path]);
    let probe = probe(&image.path(), 0, 0).unwrap();
    assert_eq!(
        (probe.kind.as_str(), probe.label.as_str(), probe.uuid.as_str()),
        ("ext4", "root label", uuid)
    );
    assert_eq!(
        (probe.usage.as_str(), probe.version.as_str(), probe.ambivalent),
        ("filesystem", "1.0", false)
    );
    // The program of the same library must say the same.
    let program = good("blkid", &["-p", "-o", "export", &path]);
    assert!(program.contains("TYPE=ext4") && program.contains(&format!("UUID={uuid}")), "{program}");
}

#[test]
fn a_filesystem_inside_a_larger_file_is_found_only_at_its_offset() {
    let image = Image::new(16 << 20);
    let inner = image.folder.path().join("inner");
    blank(&inner, 8 << 20);
    good("mkfs.vfat", &["-n", "INNER", &inner.display().to_string()]);
    let mut bytes = vec![0; 4 << 20];
    bytes.extend(std::fs::read(&inner).unwrap());
    bytes.resize(16 << 20, 0);
    std::fs::write(image.path(), bytes).unwrap();
    assert!(probe(&image.path(), 0, 0).unwrap().is_empty());
    let found = probe(&image.path(), 4 << 20, 8 << 20).unwrap();
    assert_eq!((found.kind.as_str(), found.label.as_str()), ("vfat", "INNER"));
}

#[test]
fn contradicting_signatures_are_information_and_are_all_listed() {
    let image = Image::new(64 << 20);
    let other = Image::new(64 << 20);
    good("mke2fs", &["-q", "-t", "ext4", &other.text()]);
    good("mkfs.vfat", &["-F", "32", &image.text()]);
    // FAT32 leaves its reserved sectors 2 and 3 alone, where ext4 has its superblock.
    let mut bytes = std::fs::read(image.path()).unwrap();
    bytes[1024..2048].copy_from_slice(&std::fs::read(other.path()).unwrap()[1024..2048]);
    std::fs::write(image.path(), bytes).unwrap();
    let found = probe(&image.path(), 0, 0).unwrap();
    assert!(found.ambivalent && found.kind.is_empty(), "{found:?}");
    let all = signatures(&image.path(), Area::default()).unwrap();
    let kinds: Vec<&str> = all.iter().map(|signature| signature.kind.as_str()).collect();
    assert_eq!(kinds, ["vfat", "ext4"]);
    assert_eq!(all[1].offset, Some(0x438));
}

#[test]
fn tables_are_known_for_both_sector_sizes() {
    for (sector, offset) in [(SectorSize::B512, 512), (SectorSize::try_from(4096).unwrap(), 4096)] {
        let image = Image::new(32 << 20);
        let mut bytes = vec![0; 32 << 20];
        crate::table::tests::small_gpt(&mut bytes, sector);
        std::fs::write(image.path(), bytes).unwrap();
        let area = Area { sector: Some(sector), ..Area::default() };
        assert_eq!(probe_area(&image.path(), area).unwrap().table, "gpt");
        let all = signatures(&image.path(), area).unwrap();
        assert!(all.iter().any(|found| found.kind == "gpt" && found.offset == Some(offset)), "{all:?}");
    }
}

#[test]
fn a_hibernation_image_is_a_type_of_its_own() {
    let image = Image::new(16 << 20);
    good("mkswap", &["-L", "swap", &image.text()]);
    assert_eq!(probe(&image.path(), 0, 0).unwrap().kind, "swap");
    let mut bytes = std::fs::read(image.path()).unwrap();
    bytes[4086..4096].copy_from_slice(b"S1SUSPEND\0");
    std::fs::write(image.path(), bytes).unwrap();
    assert_eq!(probe(&image.path(), 0, 0).unwrap().kind, "swsuspend");
}

#[test]
fn an_mbr_made_by_sfdisk_is_a_dos_table() {
    let image = Image::new(16 << 20);
    sfdisk(&image.path(), &[], "label: dos\nlabel-id: 0xdeadbeef\n2048,4096,83\n");
    let found = probe(&image.path(), 0, 0).unwrap();
    assert_eq!((found.table.as_str(), found.table_id.as_str()), ("dos", "deadbeef"));
}

#[test]
fn errors_name_the_file_and_a_range_beyond_the_end_finds_nothing_or_fails() {
    let error = probe(Path::new("/nonexistent"), 0, 0).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
    let image = Image::new(1 << 20);
    assert!(probe(&image.path(), u64::MAX, 1).is_err());
    assert!(probe(&image.path(), 8 << 20, 4096).is_err());
}
