use std::path::PathBuf;

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

    fn path(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        std::fs::OpenOptions::new().write(true).open(self.path()).unwrap().write_all_at(bytes, at).unwrap();
    }
}

#[test]
fn blank_files_are_blank_also_when_zeros_were_written() {
    let image = Image::new(64 << 20);
    assert_eq!(survey(&image.path()).unwrap(), Survey { blank: true, findings: vec![] });
    image.write(20 << 20, &[0; 100_000]);
    assert!(survey(&image.path()).unwrap().blank);
    assert!(survey(&Image::new(0).path()).unwrap().blank);
}

#[test]
fn a_single_byte_anywhere_in_a_file_is_found() {
    for at in [0, 33 << 20, (64 << 20) - 1] {
        let image = Image::new(64 << 20);
        image.write(at, &[1]);
        let survey = survey(&image.path()).unwrap();
        assert!(!survey.blank);
        assert_eq!(survey.findings, [Finding::Data { at }]);
    }
}

#[test]
fn a_table_and_what_its_partitions_carry_is_shown_with_the_remedy() {
    let image = Image::new(64 << 20);
    let script = "label: gpt\nsize=16MiB, type=U, name=esp\nsize=30MiB, type=L\n";
    sfdisk(&image.path(), &[], script);
    let inner = image.folder.path().join("inner");
    blank(&inner, 30 << 20);
    good("mke2fs", &["-q", "-t", "ext4", "-L", "root", &inner.display().to_string()]);
    image.write(17 << 20, &std::fs::read(&inner).unwrap());
    let survey = survey(&image.path()).unwrap();
    let identity = Identity { path: "/dev/sda".to_owned(), serial: "QM 1".to_owned(), ..Identity::default() };
    let expected = "/dev/sda: refused, because it is not blank (64 MiB):\n\
        \x20 GPT partition table with 2 partitions\n\
        \x20 partition 1: 16 MiB, EFI system \"esp\", nothing known\n\
        \x20 partition 2: 30 MiB, Linux data, ext4 \"root\"\n\
        To erase all of that, name it: --erase 'QM 1'";
    assert_eq!(survey.refusal(&identity, 64 << 20).to_string(), expected);
    // An end without a path shows the same.
    let end = crate::ImageFile::open_source(&image.path()).unwrap();
    for look in [Look::Samples, Look::Everything] {
        assert_eq!(survey_end(&end, look).unwrap(), survey);
    }
}

#[test]
fn an_end_without_a_path_is_blank_only_when_it_is() {
    let image = Image::new(64 << 20);
    let look = |look| survey_end(&crate::ImageFile::open_source(&image.path()).unwrap(), look).unwrap();
    assert!(look(Look::Samples).blank && look(Look::Everything).blank);
    image.write(33 << 20, &[1]);
    assert_eq!(look(Look::Everything).findings, [Finding::Data { at: 33 << 20 }]);
    image.write((64 << 20) - 1, &[1]);
    assert_eq!(look(Look::Samples).findings, [Finding::Data { at: (64 << 20) - 1 }]);
}

#[test]
fn damaged_tables_and_bare_filesystems_count() {
    let image = Image::new(8 << 20);
    let mut bytes = vec![0; 8 << 20];
    crate::table::tests::small_gpt(&mut bytes, crate::SectorSize::B512);
    bytes[512 + 30] ^= 1;
    let end = bytes.len();
    bytes[end - 512 + 30] ^= 1;
    std::fs::write(image.path(), bytes).unwrap();
    assert!(matches!(survey(&image.path()).unwrap().findings[0], Finding::BadTable { .. }));
    let image = Image::new(32 << 20);
    good("mkfs.vfat", &["-n", "STICK", &image.path().display().to_string()]);
    let found = survey(&image.path()).unwrap();
    assert_eq!(found.findings[0].to_string(), "vfat \"STICK\" on the whole disk");
}

#[test]
fn devices_are_sampled() {
    let image = Image::new(64 << 20);
    let blank_or_not = || {
        let attached = crate::loops::Loop::attach(&image.path(), crate::loops::Shown::default()).unwrap();
        survey(attached.node()).unwrap()
    };
    assert!(blank_or_not().blank);
    image.write((64 << 20) - 5, &[1]);
    assert_eq!(blank_or_not().findings, [Finding::Data { at: (64 << 20) - 5 }]);
    // Content fills the samples between as well.
    let other = Image::new(64 << 20);
    other.write(2 << 20, &vec![7; 8 << 20]);
    std::fs::copy(other.path(), image.path()).unwrap();
    assert!(!blank_or_not().blank);
}

#[test]
fn the_label_of_a_session_is_named() {
    let label = crate::label::Label {
        session: [0xab; 16],
        job: [0; 8],
        stage: LabelStage::Receiving,
        epoch: 1,
        disk: 0,
        disks: 2,
        source_size: 8 << 30,
        sector_size: 512,
        map: String::new(),
    };
    let image = Image::new(8 << 20);
    image.write(0, &label.sector_0(512));
    let found = survey(&image.path()).unwrap();
    assert_eq!(found.findings.len(), 1, "{:?}", found.findings);
    let session = "ab".repeat(16);
    let expected =
        format!("unfinished replica (session {session}, receiving): disk 1 of 2, from a disk of 8 GiB");
    assert_eq!(found.findings[0].to_string(), expected);
    // Negative control: one byte of the record damaged, and it is no label, but not blank either.
    image.write(300, &[0xff]);
    let found = survey(&image.path()).unwrap();
    assert!(!found.blank && !found.findings.iter().any(|finding| matches!(finding, Finding::Label { .. })));
}

#[test]
fn the_erase_name_is_the_most_stable_one() {
    let text = str::to_owned;
    let mut identity = Identity { path: text("/dev/sda"), ..Identity::default() };
    assert_eq!(erase_name(&identity), "/dev/sda");
    identity.wwn = text("naa.5");
    assert_eq!(erase_name(&identity), "naa.5");
    identity.serial = text("S");
    assert_eq!(erase_name(&identity), "S");
}
