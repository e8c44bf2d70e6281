//! What this machine is, when it is the target: its firmware, network cards and controllers, from sysfs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::drivers;
use crate::error::{During, Error, Result};
use crate::facts::{Firmware, Nic, Target};

/// Looks at this machine; `sys` is /sys.
pub fn this_machine(sys: &Path) -> Result<Target> {
    let firmware = if sys.join("firmware/efi").is_dir() { Firmware::Uefi } else { Firmware::Bios };
    Ok(Target {
        here: true,
        firmware: Some(firmware),
        nics: nics(sys)?,
        modaliases: modaliases(sys)?,
        network_map: BTreeMap::new(),
    })
}

/// Wired cards in slot order.
fn nics(sys: &Path) -> Result<Vec<Nic>> {
    const ETHERNET: &str = "1";
    let mut nics = Vec::new();
    for directory in entries(&sys.join("class/net"))? {
        let device = directory.join("device");
        let wireless = directory.join("phy80211").exists() || directory.join("wireless").exists();
        let read = |name: &str| {
            std::fs::read_to_string(directory.join(name)).map(|t| t.trim().to_string()).unwrap_or_default()
        };
        if !device.exists() || wireless || read("type") != ETHERNET {
            continue;
        }
        // A virtio card's device is the virtio function; its parent is the slot that a person knows.
        let real = device.canonicalize().during(|| format!("following {}", device.display()))?;
        let name_of = |p: &Path| p.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_string();
        let slot = real.ancestors().map(name_of).find(|n| n.contains(':')).unwrap_or_else(|| name_of(&real));
        let driver = device.join("driver").canonicalize().map(|d| name_of(&d)).unwrap_or_default();
        nics.push(Nic {
            name: name_of(&directory),
            mac: read("address").to_lowercase(),
            permanent: read("addr_assign_type") == "0",
            driver,
            slot,
        });
    }
    nics.sort_by(|a, b| (&a.slot, &a.mac).cmp(&(&b.slot, &b.mac)));
    Ok(nics)
}

/// Modaliases of storage devices and their buses.
fn modaliases(sys: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for bus in ["pci", "virtio", "vmbus", "xen"] {
        for device in entries(&sys.join("bus").join(bus).join("devices"))? {
            let alias = std::fs::read_to_string(device.join("modalias")).unwrap_or_default();
            if drivers::matters(alias.trim()) {
                found.insert(alias.trim().to_string());
            }
        }
    }
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let what = || format!("listing {}", directory.display());
    match std::fs::read_dir(directory) {
        Ok(list) => list.map(|e| e.map(|e| e.path()).during(what)).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::io(what(), e)),
    }
}

/// Reads a network map: lines of an old interface name and the MAC address of the new card; `#` begins a comment.
pub fn network_map(text: &str) -> Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [name, mac] if is_mac(mac) => {
                map.insert((*name).to_string(), mac.to_lowercase());
            }
            _ => {
                return Err(Error::Replica(format!(
                    "network map, line {}: expected an interface name and a MAC address, such as: eno1 52:54:00:12:34:56",
                    number + 1
                )));
            }
        }
    }
    Ok(map)
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn cards_are_found_by_slot() {
        let sys = tempfile::tempdir().unwrap();
        let at = |p: &str| sys.path().join(p);
        for (name, slot, mac) in
            [("eth1", "0000:00:03.0", "52:54:00:00:00:03"), ("eth0", "0000:00:04.0", "52:54:00:00:00:04")]
        {
            let device = at(&format!("devices/pci0000:00/{slot}/virtio{}", &mac[16..]));
            std::fs::create_dir_all(&device).unwrap();
            let net = at(&format!("class/net/{name}"));
            std::fs::create_dir_all(&net).unwrap();
            symlink(&device, net.join("device")).unwrap();
            for (file, text) in [("address", mac), ("type", "1"), ("addr_assign_type", "0")] {
                std::fs::write(net.join(file), format!("{text}\n")).unwrap();
            }
        }
        std::fs::create_dir_all(at("class/net/lo")).unwrap();
        std::fs::create_dir_all(at("bus/virtio/devices/virtio0")).unwrap();
        std::fs::write(at("bus/virtio/devices/virtio0/modalias"), "virtio:d00000002v00001AF4\n").unwrap();
        let target = this_machine(sys.path()).unwrap();
        let slots: Vec<_> = target.nics.iter().map(|n| (n.slot.as_str(), n.name.as_str())).collect();
        assert_eq!(slots, [("0000:00:03.0", "eth1"), ("0000:00:04.0", "eth0")]);
        assert_eq!((target.firmware, target.modaliases.len()), (Some(Firmware::Bios), 1));
    }

    #[test]
    fn a_network_map_is_read_or_refused() {
        let map = network_map("# x\neno1 52:54:00:AA:bb:cc # uplink\n\n").unwrap();
        assert_eq!(map["eno1"], "52:54:00:aa:bb:cc");
        for bad in ["eno1\n", "eno1 52:54\n", "eno1 52:54:00:00:00:01 x\n"] {
            assert!(network_map(bad).unwrap_err().to_string().contains("line 1"), "{bad}");
        }
    }
}
