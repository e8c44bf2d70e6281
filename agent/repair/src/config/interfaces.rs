//! ifupdown's /etc/network/interfaces: which physical interfaces it names.

use std::collections::BTreeSet;

/// Physical interface names the text configures, in order of appearance.
///
/// `X.5` and `X:1` stand on X; bridges, bonds and VLANs are made by ifupdown itself and count by what they are made
/// of; patterns (`/eth*`) and mappings name nothing.
pub fn physical_names(texts: &[&str]) -> Vec<String> {
    let mut named: Vec<String> = Vec::new();
    let mut made: BTreeSet<String> = BTreeSet::new();
    let mut current = String::new();
    for line in texts.iter().flat_map(|t| logical_lines(t)) {
        let mut words = line.split_ascii_whitespace();
        let Some(keyword) = words.next() else { continue };
        match keyword {
            "auto" => named.extend(words.map(str::to_string)),
            k if k.starts_with("allow-") => named.extend(words.map(str::to_string)),
            "iface" => {
                current = words.next().unwrap_or_default().to_string();
                named.push(current.clone());
            }
            "mapping" | "source" | "source-directory" | "no-auto-down" | "no-scripts" | "template" => {
                current.clear();
            }
            "bridge_ports" | "bridge-ports" | "bond-slaves" | "bond_slaves" | "slaves"
            | "vlan-raw-device" | "vlan_raw_device" => {
                made.insert(current.clone());
                named.extend(words.filter(|w| !["none", "all", "regex"].contains(w)).map(str::to_string));
            }
            _ => {}
        }
    }
    let mut physical: Vec<String> = Vec::new();
    for name in named {
        let base = name.split([':', '.']).next().unwrap_or_default().to_string();
        if !made.contains(&name) && is_physical_name(&base) && !physical.contains(&base) {
            physical.push(base);
        }
    }
    physical
}

/// Lines with continuations joined; comments gone.
fn logical_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    joined
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(str::to_string)
        .collect()
}

/// Whether a name can be a wired card's: no pattern, none of the names that software devices and radios go by.
pub fn is_physical_name(name: &str) -> bool {
    const OTHERS: &[&str] = &[
        "lo", "br", "bond", "vlan", "tun", "tap", "wg", "dummy", "veth", "docker", "virbr", "wl", "ppp",
        "wwan", "team", "vnet", "ib", "sit", "gre", "vmnet", "vxlan", "macvlan", "ipvlan", "can",
    ];
    !name.is_empty()
        && name.len() < 16
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && !OTHERS.iter().any(|o| {
            name.strip_prefix(o)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphabetic()) || *o == "wl")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_names_its_card() {
        let text = "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\nallow-hotplug enp0s2\niface enp0s2 inet dhcp\niface enp0s2 inet6 auto\n";
        assert_eq!(physical_names(&[text]), ["enp0s2"]);
    }

    #[test]
    fn made_interfaces_count_by_what_they_are_made_of() {
        let text = "auto br0 eth1.7\niface br0 inet static\n  bridge_ports eth0 \\\n eth2\niface eth1.7 inet dhcp\nauto uplink\niface uplink inet manual\n bond-slaves ens1 ens2\nauto eth0:1\n";
        assert_eq!(physical_names(&[text]), ["eth1", "eth0", "eth2", "ens1", "ens2"]);
    }

    #[test]
    fn patterns_and_radios_name_nothing() {
        assert!(physical_names(&["auto /eth*\niface wlan0 inet dhcp\nauto wg0 wlp3s0\n"]).is_empty());
        assert!(is_physical_name("lan0"), "a name given by hand");
        assert!(is_physical_name("brain"), "begins like a bridge, is none");
    }
}
