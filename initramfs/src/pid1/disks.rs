//! The disks of the machine, for the console: the agent's own inventory, in the words that others look for.
//!
//! The agent decides for itself what may be read or written; this list is what a person sees before that. The paths of our
//! boot media are also left in `/run/gantry/boot-media`, one a line.

use gantry_disk::Identity;
use gantry_disk::inventory::Inventory;

/// The lines of the console without `gantry: `, disks first.
pub fn lines(inventory: &Inventory) -> Vec<String> {
    let disks = inventory.disks.iter().map(|disk| line("disk", &disk.identity, disk.size));
    let media = inventory.left_out.iter().filter(|left| left.boot_medium);
    disks.chain(media.map(|left| line("boot medium", &left.identity, left.size))).collect()
}

/// The content of `/run/gantry/boot-media`.
pub fn boot_media(inventory: &Inventory) -> String {
    let media = inventory.left_out.iter().filter(|left| left.boot_medium);
    media.map(|left| format!("{}\n", left.identity.path)).collect()
}

/// Path, size and serial number are one word each.
fn line(kind: &str, identity: &Identity, bytes: u64) -> String {
    let words = |text: &str, between: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        if words.is_empty() { "-".to_owned() } else { words.join(between) }
    };
    let (serial, model) = (words(&identity.serial, "_"), words(&identity.model, " "));
    format!("{kind} {} {} {serial} {model}", identity.path, size(bytes))
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
    use std::fs;
    use std::path::Path;

    use gantry_disk::inventory::scan;
    use gantry_disk::roots::Roots;

    use super::*;

    fn put(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn disks_and_boot_media_are_listed_and_other_things_not() {
        let root = tempfile::tempdir().unwrap();
        for (number, name) in
            ["loop0", "dm-0", "sr0", "sr1", "sdb", "ram0", "sda", "vda", "nvme0c0n1"].iter().enumerate()
        {
            put(root.path(), &format!("sys/block/{name}/dev"), format!("8:{number}\n").as_bytes());
            put(root.path(), &format!("sys/block/{name}/size"), b"90000\n");
        }
        put(root.path(), "sys/block/sdb/size", b"0\n");
        put(root.path(), "sys/block/nvme0c0n1/hidden", b"1\n");
        put(root.path(), "sys/block/sda/size", b"4194304\n");
        put(root.path(), "sys/block/sda/device/model", b"QEMU HARDDISK   \n");
        put(root.path(), "sys/block/sda/device/vpd_pg80", b"\x00\x80\x00\x08 QM 0001");
        put(root.path(), "sys/block/vda/size", b"3\n");
        put(root.path(), "sys/block/vda/serial", b"root\n");
        let mut iso = vec![0; 34816];
        iso[32768..32774].copy_from_slice(b"\x01CD001");
        iso[32808..32840].fill(b' ');
        iso[32808..32814].copy_from_slice(b"GANTRY");
        put(root.path(), "dev/sr0", &iso);
        iso[32808..32814].copy_from_slice(b"DEBIAN");
        put(root.path(), "dev/sr1", &iso);
        let inventory = scan(&Roots::under(root.path())).unwrap();
        let dev = root.path().join("dev").display().to_string();
        let shown: Vec<String> = lines(&inventory).iter().map(|line| line.replace(&dev, "")).collect();
        let expected = [
            "disk /sda 2GiB QM_0001 QEMU HARDDISK",
            "disk /vda 1.5KiB root -",
            "boot medium /sr0 43.9MiB - -",
        ];
        assert_eq!(shown, expected);
        assert_eq!(boot_media(&inventory), format!("{dev}/sr0\n"));
    }
}
