//! Drivers an initramfs must have to find its disks, by target.
//!
//! All of them go in, not only those of the machine at hand: a few hundred KiB buy that the replica also boots after
//! the next change of bus (L-40). Which exist as modules differs by kernel; rules take only those that do.

/// Storage and bus drivers by target. Names as `modinfo` writes them, `_` for `-`.
pub const STORAGE: &[(&str, &[&str])] = &[
    ("KVM, virtio-blk and virtio-scsi", &["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"]),
    ("SATA, and QEMU's IDE", &["ahci", "ata_piix", "sd_mod"]),
    ("NVMe", &["nvme"]),
    ("VMware", &["vmw_pvscsi", "mptspi", "mptsas"]),
    ("Hyper-V, Azure", &["hv_vmbus", "hv_storvsc"]),
    ("Xen", &["xen_blkfront"]),
];

/// Network drivers that are named too, so that a root over the network or an early console finds its card.
pub const NETWORK: &[&str] = &["virtio_net"];

/// Every name of this module, once.
pub fn all() -> Vec<&'static str> {
    let mut names: Vec<_> =
        STORAGE.iter().flat_map(|(_, names)| names.iter().copied()).chain(NETWORK.iter().copied()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// One spelling for a module's name: `_` for `-`, without path and suffix.
pub fn normal(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    let base = base.split(".ko").next().unwrap_or(base);
    base.replace('-', "_")
}

/// Whether a modalias is a storage device's, or that of a bus such devices sit on. (virtio 2 is blk, 8 is scsi.)
pub fn matters(modalias: &str) -> bool {
    if let Some(pci) = modalias.strip_prefix("pci:") {
        return pci.contains("bc01");
    }
    ["virtio:d00000002v", "virtio:d00000008v", "vmbus:", "xen:", "acpi:VMBUS"]
        .iter()
        .any(|bus| modalias.starts_with(bus))
}

/// Modules the alias table (`modules.alias`) names for any of the devices.
pub fn for_devices<'a>(alias_table: &str, modaliases: impl Iterator<Item = &'a String>) -> Vec<String> {
    let devices: Vec<&String> = modaliases.collect();
    let mut found: Vec<String> = Vec::new();
    for line in alias_table.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let bus = pattern.split(':').next().unwrap_or_default();
        if devices.iter().any(|d| d.starts_with(bus) && glob(pattern.as_bytes(), d.as_bytes())) {
            found.push(normal(module));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The shell patterns of alias tables and of networkd: `*`, `?`, `[a-z]`. Linear in the text for each `*`.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                back = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(c) if *c == text[t] => Some(1),
            _ => None,
        };
        match (step, back) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((star, from))) => {
                p = star + 1;
                t = from + 1;
                back = Some((star, t));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Length of the class at the start of `pattern` when `c` is in it.
fn class(pattern: &[u8], c: u8) -> Option<usize> {
    let end = pattern.iter().position(|b| *b == b']').filter(|e| *e > 1)?;
    let mut set = &pattern[1..end];
    while let Some(first) = set.first() {
        let (low, high, used) =
            if set.len() >= 3 && set[1] == b'-' { (*first, set[2], 3) } else { (*first, *first, 1) };
        if (low..=high).contains(&c) {
            return Some(end + 1);
        }
        set = &set[used..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alias_table_names_drivers_of_devices() {
        let table = "# x\nalias virtio:d00000002v* virtio_blk\nalias pci:v00008086d00002922sv*sd*bc*sc*i* ahci\nalias pci:v*d*sv*sd*bc01sc06i01* ahci\nalias virtio:d00000001v* virtio-net\nalias usb:v* x\n";
        let devices = [
            String::from("virtio:d00000002v00001AF4"),
            String::from("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"),
        ];
        assert_eq!(for_devices(table, devices.iter()), ["ahci", "virtio_blk"]);
        assert!(matters(&devices[0]) && matters(&devices[1]));
        assert!(!matters("pci:v00001234d00001111sv00000000sd00000000bc03sc00i00"), "a display");
    }

    #[test]
    fn globs() {
        for (pattern, text, fits) in [
            ("en*", "enp0s2", true),
            ("e?p*2", "enp0s2", true),
            ("en[o-p]*", "enp0s2", true),
            ("en[a-c]*", "enp0s2", false),
            ("enp0s", "enp0s2", false),
            ("*", "", true),
            ("[", "[", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn one_spelling() {
        assert_eq!(normal("usr/lib/modules/6.1/kernel/drivers/xen-blkfront.ko.xz"), "xen_blkfront");
        assert!(all().contains(&"nvme"));
    }
}
