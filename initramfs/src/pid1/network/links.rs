//! The wired links of the machine, as /sys shows them.

use std::fs;
use std::path::Path;

/// One wired link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's name.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// MAC address.
    pub mac: [u8; 6],
    /// Name of the driver, `-` if unknown.
    pub driver: String,
}

impl Link {
    /// The MAC address as people write it.
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// Whether `gantry.nic` means this one.
    pub fn is_chosen(&self, nic: Option<&str>) -> bool {
        nic.is_none_or(|nic| nic == self.name || nic.replace('-', ":") == self.mac_text())
    }
}

/// All Ethernet links that are hardware (also virtual hardware) and not wireless, sorted by number.
pub fn read(sys: &Path) -> Vec<Link> {
    let entries = fs::read_dir(sys.join("class/net")).into_iter().flatten().flatten();
    let mut links: Vec<Link> = entries.filter_map(|entry| link(&entry.path())).collect();
    links.sort_by_key(|link| link.index);
    links
}

/// Whether the link has carrier; a link that is down has none.
pub fn has_carrier(sys: &Path, name: &str) -> bool {
    let carrier = fs::read_to_string(sys.join("class/net").join(name).join("carrier"));
    carrier.is_ok_and(|carrier| carrier.trim() == "1")
}

fn link(directory: &Path) -> Option<Link> {
    const ETHERNET: &str = "1";
    let text = |file: &str| fs::read_to_string(directory.join(file)).ok().map(|text| text.trim().to_owned());
    let wireless = directory.join("wireless").exists() || directory.join("phy80211").exists();
    if text("type")? != ETHERNET || wireless || !directory.join("device").exists() {
        return None;
    }
    let driver = fs::read_link(directory.join("device/driver")).ok();
    let driver = driver.and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
    Some(Link {
        name: directory.file_name()?.to_string_lossy().into_owned(),
        index: text("ifindex")?.parse().ok()?,
        mac: mac(&text("address")?)?,
        driver: driver.unwrap_or_else(|| "-".to_owned()),
    })
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(sys: &Path, name: &str, files: &[(&str, &str)]) {
        let directory = sys.join("class/net").join(name);
        fs::create_dir_all(&directory).unwrap();
        for (file, content) in files {
            fs::write(directory.join(file), content).unwrap();
        }
    }

    #[test]
    fn wired_hardware_is_listed_and_nothing_else() {
        let sys = tempfile::tempdir().unwrap();
        let common = [("type", "1\n"), ("device", ""), ("address", "52:54:00:12:34:56\n")];
        put(sys.path(), "eth1", &[&common[..], &[("ifindex", "3\n"), ("carrier", "0\n")]].concat());
        put(sys.path(), "eth0", &[&common[..], &[("ifindex", "2\n"), ("carrier", "1\n")]].concat());
        put(sys.path(), "wlan0", &[&common[..], &[("ifindex", "4\n"), ("wireless", "")]].concat());
        put(sys.path(), "ib0", &[&common[1..], &[("ifindex", "5\n"), ("type", "32\n")]].concat());
        put(sys.path(), "veth0", &[("type", "1\n"), ("address", "52:54:00:12:34:57\n"), ("ifindex", "6\n")]);
        put(sys.path(), "lo", &[("type", "772\n"), ("ifindex", "1\n")]);
        let links = read(sys.path());
        assert_eq!(links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>(), ["eth0", "eth1"]);
        assert!(
            has_carrier(sys.path(), "eth0")
                && !has_carrier(sys.path(), "eth1")
                && !has_carrier(sys.path(), "x")
        );
        for (nic, expected) in [
            (None, true),
            (Some("eth0"), true),
            (Some("eth1"), false),
            (Some("52:54:00:12:34:56"), true),
            (Some("52-54-00-12-34-56"), true),
            (Some("52:54:00:12:34:57"), false),
        ] {
            assert_eq!(links[0].is_chosen(nic), expected, "{nic:?}");
        }
    }
}
