//! Facts about the machine around the disks: what its firmware says, system, network hardware.

use std::path::Path;

use gantry_disk::machine;
use gantry_disk::roots::{attribute, link_name, names_in, number};

use super::facts::{Machine, Nic, Sources};

/// The machine. What cannot be read is left empty.
pub fn look(sources: &Sources) -> Machine {
    let found = machine::Machine::read(&sources.roots);
    Machine {
        vendor: found.vendor,
        product: found.product,
        firmware: found.firmware,
        secure_boot: found.secure_boot,
        memory: found.memory,
        kernel: attribute(&sources.roots.proc.join("sys/kernel/osrelease")).unwrap_or_default(),
        os: os_name(&attribute(&sources.os_release).unwrap_or_default()),
        // Every process of the appliance that PID 1 starts has it; a shell started by hand may not.
        appliance: std::env::var_os("GANTRY_APPLIANCE").is_some()
            || Path::new("/run/gantry/boot-media").exists(),
    }
}

/// PRETTY_NAME of os-release(5).
fn os_name(text: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.unwrap_or_default().trim_matches(|c| c == '"' || c == '\'').to_owned()
}

/// Interfaces with hardware behind them, by name.
pub fn nics(sources: &Sources) -> Vec<Nic> {
    let folder = sources.roots.sys.join("class/net");
    names_in(&folder)
        .into_iter()
        .filter_map(|name| {
            let own = folder.join(&name);
            own.join("device").exists().then(|| Nic {
                mac: attribute(&own.join("address")).unwrap_or_default(),
                driver: link_name(&own.join("device/driver")).unwrap_or_default(),
                // Reading it fails while the interface is down.
                carrier: number(&own.join("carrier")) == Some(1),
                speed: number(&own.join("speed")).filter(|&speed| speed > 0),
                wireless: own.join("wireless").exists() || own.join("phy80211").exists(),
                name,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use gantry_disk::machine::{Firmware, UEFI_GLOBAL};
    use gantry_disk::roots::Roots;

    use super::*;

    fn put(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn a_uefi_machine_with_secure_boot_and_one_card() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        put(root, "sys/class/dmi/id/sys_vendor", b"Dell Inc.\n");
        put(root, "sys/class/dmi/id/product_name", b"PowerEdge R640\n");
        put(root, &format!("sys/firmware/efi/efivars/SecureBoot-{UEFI_GLOBAL}"), &[6, 0, 0, 0, 1]);
        put(root, "proc/meminfo", b"MemTotal:       16384 kB\nMemFree: 1 kB\n");
        put(root, "proc/sys/kernel/osrelease", b"6.1.0-32-amd64\n");
        put(root, "etc/os-release", b"ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n");
        put(root, "sys/class/net/eno1/address", b"52:54:00:12:34:56\n");
        put(root, "sys/class/net/eno1/carrier", b"1\n");
        put(root, "sys/class/net/eno1/speed", b"-1\n");
        put(root, "sys/class/net/lo/address", b"00:00:00:00:00:00\n");
        fs::create_dir_all(root.join("sys/class/net/eno1/device")).unwrap();
        std::os::unix::fs::symlink("../drivers/tg3", root.join("sys/class/net/eno1/device/driver")).unwrap();
        let sources = Sources { roots: Roots::under(root), os_release: root.join("etc/os-release") };
        let machine = look(&sources);
        assert_eq!((machine.vendor.as_str(), machine.product.as_str()), ("Dell Inc.", "PowerEdge R640"));
        assert_eq!(
            (machine.firmware, machine.secure_boot, machine.memory),
            (Firmware::Uefi, Some(true), 16 << 20)
        );
        assert_eq!(machine.os, "Debian GNU/Linux 12 (bookworm)");
        let card = Nic {
            name: "eno1".to_owned(),
            mac: "52:54:00:12:34:56".to_owned(),
            driver: "tg3".to_owned(),
            carrier: true,
            ..Nic::default()
        };
        assert_eq!(nics(&sources), [card]);
    }

    #[test]
    fn an_empty_machine_is_a_bios_one_that_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources { roots: Roots::under(folder.path()), os_release: folder.path().join("none") };
        let machine = look(&sources);
        assert_eq!((machine.firmware, machine.secure_boot, machine.memory), (Firmware::Bios, None, 0));
        assert_eq!(nics(&sources), []);
    }
}
