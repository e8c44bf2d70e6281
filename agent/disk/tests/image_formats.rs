//! Image formats, judged by qemu-img; and images that must not be opened.
#![allow(clippy::unwrap_used, reason = "tests")]

mod lab;

use std::fs;
use std::path::Path;
use std::process::Command;

use gantry_disk::image::{Format, ImageName};
use gantry_disk::{ErrorKind, FormattedImage, Geometry, ReadAt, WriteAt, extents};
use lab::{MIB, Random, Server, good};

fn name(format: Format, path: &Path) -> ImageName {
    ImageName { format, path: path.to_owned() }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_format_keeps_what_is_written_and_qemu_reads_it() {
    let mut random = Random::new();
    for format in Format::ALL {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (image, raw) = (folder.path().join("image"), folder.path().join("raw"));
        let size = 40 * MIB + 512;
        let disk = FormattedImage::create(&name(format, &image), size).unwrap();
        assert!(disk.size() >= size && disk.size() < size + MIB, "{format:?}: {}", disk.size());
        let mut model = vec![0; disk.size() as usize];
        for _ in 0..20 {
            let offset = random.below(disk.size());
            let length = 1 + random.below((disk.size() - offset).min(2 * MIB));
            let range = offset as usize..(offset + length) as usize;
            if random.below(3) == 0 {
                disk.zero_at(offset, length).unwrap();
                model[range].fill(0);
            } else {
                let data = random.bytes(length);
                disk.write_at(offset, &data).unwrap();
                model[range].copy_from_slice(&data);
            }
        }
        disk.flush().unwrap();
        drop(disk);
        good("qemu-img", &["convert", "-f", format.name(), "-O", "raw", text(&image), text(&raw)]);
        assert!(fs::read(&raw).unwrap() == model, "{format:?}: qemu-img reads something else");

        let disk = FormattedImage::open_source(&name(format, &image)).unwrap();
        let mut back = vec![1; model.len()];
        disk.read_at(0, &mut back).unwrap();
        assert!(back == model, "{format:?}");
        let error = disk.write_at(0, &[1; 512]).unwrap_err();
        assert!(format!("{error:?}").contains("read-only"), "{format:?}: {error:?}");
    }
}

#[test]
fn unallocated_space_is_known_to_be_zero() {
    // qemu tells nothing about a VHDX, so all of it is read.
    for format in [Format::Qcow2, Format::Vmdk, Format::Vdi] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        let disk = FormattedImage::create(&name(format, &image), 1 << 30).unwrap();
        disk.write_at(300 * MIB, &[1; 512]).unwrap();
        disk.flush().unwrap();
        let mut data = 0;
        extents::walk(&disk, |extent| {
            data += if extent.zero { 0 } else { extent.length };
            Ok(())
        })
        .unwrap();
        assert!((512..=64 * MIB).contains(&data), "{format:?}: {data} bytes of data");
    }
}

fn refused(format: Format, image: &Path, part: &str) {
    for open in [FormattedImage::open_source, FormattedImage::open_target] {
        let error = open(&name(format, image)).unwrap_err();
        assert!(error.to_string().contains(part), "{format:?} {image:?}: {error}");
        assert!(error.to_string().starts_with(&format!("{}:/", format.name())), "{error}");
    }
}

#[test]
fn images_that_need_other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let create = |arguments: &[&str], image: &Path| {
        good("qemu-img", &[&["create", "-q"], arguments, &[text(image), "16M"]].concat());
    };
    create(&["-f", "qcow2"], &at("base"));
    let base = at("base");
    create(&["-f", "qcow2", "-F", "qcow2", "-b", text(&base)], &at("overlay"));
    refused(Format::Qcow2, &at("overlay"), "backing file");
    let data = format!("data_file={}", at("data").display());
    create(&["-f", "qcow2", "-o", &data], &at("external"));
    refused(Format::Qcow2, &at("external"), "another file");
    let secret = ["--object", "secret,id=s,data=x", "-f", "qcow2"];
    create(&[&secret[..], &["-o", "encrypt.format=aes,encrypt.key-secret=s"]].concat(), &at("secret"));
    refused(Format::Qcow2, &at("secret"), "encrypted");
    for kind in ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let image = at(&format!("{kind}.vmdk"));
        create(&["-f", "vmdk", "-o", &format!("subformat={kind}")], &image);
        refused(Format::Vmdk, &image, "no VMDK in one file");
    }
    create(&["-f", "vmdk"], &at("base.vmdk"));
    let base = at("base.vmdk");
    create(&["-f", "vmdk", "-F", "vmdk", "-b", text(&base)], &at("snapshot.vmdk"));
    refused(Format::Vmdk, &at("snapshot.vmdk"), "snapshot");
    // A header is never found out: a qcow2 image is no VDI, whatever its name.
    refused(Format::Vdi, &at("base"), "no VDI");
    refused(Format::Qcow2, folder.path(), "regular file");

    let stream = at("stream.vmdk");
    create(&["-f", "vmdk", "-o", "subformat=streamOptimized"], &stream);
    FormattedImage::open_source(&name(Format::Vmdk, &stream)).unwrap();
    let error = FormattedImage::open_target(&name(Format::Vmdk, &stream)).unwrap_err();
    assert!(error.to_string().contains("only be read"), "{error}");
}

/// A qcow2 image whose header is good, and whose tables are not.
#[test]
fn what_qemu_finds_wrong_is_said_in_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    good("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "16M"]);
    let mut bytes = fs::read(&image).unwrap();
    bytes[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
    fs::write(&image, bytes).unwrap();
    let error = FormattedImage::open_source(&name(Format::Qcow2, &image)).unwrap_err();
    assert!(error.to_string().contains("L1 table"), "{error}");
}

#[test]
fn an_image_that_others_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (image, socket) = (folder.path().join("image"), folder.path().join("socket"));
    good("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "16M"]);
    let mut command = Command::new("qemu-nbd");
    command.args(["--format=qcow2", "--persistent", "--socket", text(&socket), text(&image)]);
    let mut other = Server::start(&mut command, &socket);
    refused(Format::Qcow2, &image, "lock");
    other.kill();
    FormattedImage::open_target(&name(Format::Qcow2, &image)).unwrap();
}

#[test]
fn an_image_is_never_made_over_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    fs::write(&image, "mine").unwrap();
    let error = FormattedImage::create(&name(Format::Qcow2, &image), MIB).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Io);
    assert_eq!(fs::read(&image).unwrap(), b"mine");
    let impossible = folder.path().join("impossible");
    FormattedImage::create(&name(Format::Qcow2, &impossible), u64::MAX - 511).unwrap_err();
    assert!(!impossible.exists(), "nothing is left of one that could not be made");
}
