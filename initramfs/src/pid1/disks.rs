//! The disks of the machine, for the console: what the kernel shows in /sys, nothing is opened for writing.
//!
//! The agent decides for itself what may be read or written; this list is what a person sees before that. A boot medium
//! of ours is recognised by its volume name and listed apart; its path is also left in `/run/gantry/boot-media`, one a
//! line, for the agent.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Volume names of our media start with this (image/).
pub const VOLUME_PREFIX: &str = "GANTRY";

/// Names of block devices that are no disks of the machine.
const NO_DISKS: &[&str] = &["loop", "ram", "zram", "dm-", "md", "fd", "nbd", "sr"];

/// One disk, or one boot medium.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Disk {
    /// Node below /dev.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Serial number, `-` if it has none. Without white space.
    pub serial: String,
    /// Model, `-` if it has none.
    pub model: String,
    /// It carries a volume of ours.
    pub boot_medium: bool,
}

impl Disk {
    /// The line of the console, without `gantry: `.
    pub fn line(&self) -> String {
        let kind = if self.boot_medium { "boot medium" } else { "disk" };
        format!("{kind} {} {} {} {}", self.path.display(), size(self.size), self.serial, self.model)
    }
}

/// All disks and boot media with a medium in them, sorted by path.
pub fn read(sys: &Path, dev: &Path) -> Vec<Disk> {
    let Ok(entries) = fs::read_dir(sys.join("block")) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut disks: Vec<Disk> = names
        .filter_map(|name| {
            let optical = name.starts_with("sr");
            if NO_DISKS.iter().any(|prefix| name.starts_with(prefix)) && !optical {
                return None;
            }
            let disk = disk(sys, dev, &name)?;
            (disk.size > 0 && (disk.boot_medium || !optical)).then_some(disk)
        })
        .collect();
    disks.sort();
    disks
}

fn disk(sys: &Path, dev: &Path, name: &str) -> Option<Disk> {
    let directory = sys.join("block").join(name);
    let text = |file: &str| fs::read_to_string(directory.join(file)).ok().map(|text| text.trim().to_owned());
    // /sys counts in units of 512 bytes whatever the disk's sectors are.
    let size = text("size")?.parse::<u64>().ok()?.saturating_mul(512);
    let path = dev.join(name);
    let page = fs::read(directory.join("device/vpd_pg80")).ok().and_then(|page| serial_page(&page));
    let serial = text("serial").or_else(|| text("device/serial")).or(page);
    let word = |text: Option<String>| {
        let text: Vec<String> = text.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        if text.is_empty() { vec!["-".to_owned()] } else { text }
    };
    Some(Disk {
        boot_medium: size > 0 && is_ours(&path),
        path,
        size,
        serial: word(serial).join("_"),
        model: word(text("device/model")).join(" "),
    })
}

/// The unit serial number out of SCSI VPD page 0x80: four bytes of header, the last two of them the length.
fn serial_page(page: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let serial = String::from_utf8_lossy(page.get(4..4 + length)?).trim().to_owned();
    (!serial.is_empty()).then_some(serial)
}

/// Whether an ISO 9660 volume of ours begins here: descriptor at 32 KiB, its volume name 40 bytes in.
fn is_ours(path: &Path) -> bool {
    let mut descriptor = [0; 72];
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(32768))?;
        file.read_exact(&mut descriptor)
    });
    read.is_ok() && &descriptor[1..6] == b"CD001" && descriptor[40..72].starts_with(VOLUME_PREFIX.as_bytes())
}

/// A size as one word: `512MiB`, `2.0GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scaled = bytes as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if scaled.fract() == 0.0 {
        format!("{scaled:.0}{}", UNITS[unit])
    } else {
        format!("{scaled:.1}{}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn disks_are_listed_and_other_things_not() {
        let root = tempfile::tempdir().unwrap();
        let (sys, dev) = (root.path().join("sys"), root.path().join("dev"));
        for name in ["loop0", "dm-0", "sr0", "sr1", "sdb", "ram0"] {
            put(&sys, &format!("block/{name}/size"), b"0\n");
        }
        put(&sys, "block/sda/size", b"4194304\n");
        put(&sys, "block/sda/device/model", b"QEMU HARDDISK   \n");
        put(&sys, "block/sda/device/vpd_pg80", b"\x00\x80\x00\x08 QM 0001");
        put(&sys, "block/vda/size", b"3\n");
        put(&sys, "block/vda/serial", b"root\n");
        put(&sys, "block/sr0/size", b"90000\n");
        put(&sys, "block/sr1/size", b"90000\n");
        let mut iso = vec![0; 34816];
        iso[32769..32774].copy_from_slice(b"CD001");
        iso[32808..32814].copy_from_slice(b"GANTRY");
        put(&dev, "sr0", &iso);
        iso[32808..32814].copy_from_slice(b"DEBIAN");
        put(&dev, "sr1", &iso);
        let lines: Vec<String> =
            read(&sys, &dev).iter().map(|disk| disk.line().replace(dev.to_str().unwrap(), "")).collect();
        let expected = [
            "disk /sda 2GiB QM_0001 QEMU HARDDISK",
            "boot medium /sr0 43.9MiB - -",
            "disk /vda 1.5KiB root -",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_short_serial_page_is_no_serial() {
        for page in [&b""[..], b"\x00\x80", b"\x00\x80\x00\x09short", b"\x00\x80\x00\x00"] {
            assert_eq!(serial_page(page), None);
        }
    }
}
