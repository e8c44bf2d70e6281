//! Which card of the old machine becomes which of the new: the table that every network rule shares.
//!
//! The old cards are those the configuration names: by interface name (ifupdown, networkd), or by MAC address (.link and
//! .network files, persistent-net rules). The new ones are the target's own. They are paired by what the user says, then by
//! MAC address where that was kept, then in order: the order of the configuration against the order of the slots. One to
//! one, the common case, needs no luck. (L-60 to L-64)

use crate::config::{ini, interfaces};
use crate::drivers::glob;
use crate::facts::{Facts, Nic};

/// Where udev and networkd look for the administrator's files.
pub const NETWORKD: &str = "/etc/systemd/network";
/// Files of ours that give a card its old name.
pub const PIN_PREFIX: &str = "/etc/systemd/network/10-gantry-";

/// A card the configuration speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OldCard {
    /// Interface name, when something names it.
    pub name: Option<String>,
    /// MAC address in lower case, when something matches by it.
    pub mac: Option<String>,
}

/// An old card and the new one that takes its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The old one.
    pub old: OldCard,
    /// The new one; `None` on a target that is not known, for the only card there is.
    pub new: Option<Nic>,
}

/// The outcome of pairing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairing {
    /// Old and new.
    pub pairs: Vec<Pair>,
    /// Old cards nothing takes the place of.
    pub lost: Vec<OldCard>,
    /// New cards that nothing is configured for.
    pub spare: Vec<Nic>,
    /// True when order alone decided between several.
    pub guessed: bool,
}

/// The cards the guest's configuration names, in its order.
pub fn old_cards(facts: &Facts) -> Vec<OldCard> {
    let mut cards: Vec<OldCard> = Vec::new();
    let mut add = |name: Option<&str>, mac: Option<&str>| {
        let mac = mac.map(str::to_lowercase);
        let known = cards.iter_mut().find(|c| {
            (name.is_some() && c.name.as_deref() == name)
                || (mac.is_some() && c.mac == mac && (c.name.is_none() || name.is_none()))
        });
        match known {
            Some(card) => {
                card.name = card.name.take().or(name.map(str::to_string));
                card.mac = card.mac.take().or(mac);
            }
            None => cards.push(OldCard { name: name.map(str::to_string), mac }),
        }
    };
    for (_, text) in facts.files_in("/etc/udev/rules.d", ".rules") {
        for line in text.lines().filter(|l| !l.trim_start().starts_with('#')) {
            if let (Some(mac), Some(name)) = (quoted(line, "ATTR{address}=="), quoted(line, "NAME=")) {
                add(Some(name), Some(mac));
            }
        }
    }
    for (_, text) in facts.files_in(NETWORKD, ".link") {
        let name = ini::values(text, "Link", "Name").next();
        for mac in macs(text) {
            add(name, Some(mac));
        }
    }
    let named = configured_names(facts);
    for name in &named {
        add(Some(name), None);
    }
    for (_, text) in facts.files_in(NETWORKD, ".network") {
        for mac in macs(text) {
            add(None, Some(mac));
        }
    }
    // A rule or .link may name cards nobody configures (it was written for every card ever seen); those need no successor,
    // unless nothing at all is configured by name.
    let wanted = |c: &OldCard| c.name.as_ref().is_none_or(|n| named.contains(n));
    let mut cards: Vec<OldCard> = cards.into_iter().filter(wanted).collect();
    cards.sort_by_key(|c| {
        c.name.as_ref().and_then(|n| named.iter().position(|m| m == n)).unwrap_or(usize::MAX)
    });
    cards
}

/// Interface names that ifupdown or networkd configure.
fn configured_names(facts: &Facts) -> Vec<String> {
    let mut texts: Vec<&str> = facts.file("/etc/network/interfaces").into_iter().collect();
    texts.extend(facts.files_in("/etc/network/interfaces.d", "").map(|(_, text)| text));
    let mut names = interfaces::physical_names(&texts);
    let made: Vec<&str> =
        facts.files_in(NETWORKD, ".netdev").flat_map(|(_, t)| ini::values(t, "NetDev", "Name")).collect();
    for (_, text) in facts.files_in(NETWORKD, ".network") {
        for name in ini::values(text, "Match", "Name") {
            if interfaces::is_physical_name(name) && !made.contains(&name) && !names.iter().any(|n| n == name)
            {
                names.push(name.to_string());
            }
        }
    }
    names
}

/// Patterns of networkd that name cards, such as `enp*`.
pub fn configured_patterns(facts: &Facts) -> Vec<&str> {
    let all = facts.files_in(NETWORKD, ".network").flat_map(|(_, text)| ini::values(text, "Match", "Name"));
    all.filter(|n| n.contains(['*', '?', '['])).collect()
}

/// MAC addresses a .link or .network file matches by.
fn macs(text: &str) -> impl Iterator<Item = &str> {
    ini::values(text, "Match", "MACAddress").chain(ini::values(text, "Match", "PermanentMACAddress"))
}

/// The quoted text behind `key` in a udev rule.
pub fn quoted<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let at = line.match_indices(key).find(|(i, _)| *i == 0 || line[..*i].ends_with([' ', ',', '\t']))?.0;
    line[at + key.len()..].strip_prefix('"')?.split('"').next()
}

/// Pairs the old cards with the target's.
pub fn pair(facts: &Facts) -> Pairing {
    let mut old = old_cards(facts);
    let mut new = facts.target.nics.clone();
    let mut pairing = Pairing::default();
    let mut take = |old: &mut Vec<OldCard>, new: &mut Vec<Nic>, fits: &dyn Fn(&OldCard, &Nic) -> bool| {
        let mut i = 0;
        while i < old.len() {
            match new.iter().position(|n| fits(&old[i], n)) {
                Some(j) => pairing.pairs.push(Pair { old: old.remove(i), new: Some(new.remove(j)) }),
                None => i += 1,
            }
        }
    };
    let map = &facts.target.network_map;
    take(&mut old, &mut new, &|o, n| o.name.as_ref().and_then(|name| map.get(name)) == Some(&n.mac));
    take(&mut old, &mut new, &|o, n| o.mac.as_ref() == Some(&n.mac));
    let ambiguous = old.len() > 1 || (new.len() > 1 && !old.is_empty());
    take(&mut old, &mut new, &|_, n| n.permanent);
    pairing.guessed = ambiguous && !facts.target.nics.is_empty();
    if facts.target.nics.is_empty() {
        unknown_target(facts, &mut old, &mut pairing);
    }
    pairing.lost = old;
    pairing.spare = new;
    pairing
}

/// On a target that is not known: cards the user mapped, and the only card there is.
fn unknown_target(facts: &Facts, old: &mut Vec<OldCard>, pairing: &mut Pairing) {
    let map = &facts.target.network_map;
    old.retain(|card| match card.name.as_ref().and_then(|n| map.get(n)) {
        Some(mac) => {
            let new = Nic {
                name: String::new(),
                mac: mac.clone(),
                permanent: true,
                driver: String::new(),
                slot: String::new(),
            };
            pairing.pairs.push(Pair { old: card.clone(), new: Some(new) });
            false
        }
        None => true,
    });
    if old.len() == 1 && map.is_empty() {
        pairing.pairs.extend(old.drain(..).map(|old| Pair { old, new: None }));
    }
}

/// Whether a networkd pattern fits whatever name a wired card may get.
pub fn fits_any_card(pattern: &str) -> bool {
    ["enp0s2", "ens3", "eno1", "enx525400000001"].iter().all(|name| glob(pattern.as_bytes(), name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn names(cards: &[OldCard]) -> Vec<&str> {
        cards.iter().map(|c| c.name.as_deref().unwrap_or("-")).collect()
    }

    #[test]
    fn cards_are_joined_by_name_and_mac() {
        let mut facts = testing::bios();
        facts.system.files.insert(
            "/etc/udev/rules.d/70-persistent-net.rules".into(),
            "# x\nSUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"52:54:00:AA:00:01\", NAME=\"enp0s2\"\nSUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:aa:00:09\", NAME=\"eth9\"\n".into(),
        );
        facts.system.files.insert(
            "/etc/systemd/network/50-x.network".into(),
            "[Match]\nMACAddress=52:54:00:aa:00:02\n".into(),
        );
        let cards = old_cards(&facts);
        assert_eq!(names(&cards), ["enp0s2", "-"]);
        assert_eq!(cards[0].mac.as_deref(), Some("52:54:00:aa:00:01"));
    }

    #[test]
    fn pairing_goes_by_map_then_mac_then_order() {
        let mut facts = testing::bios();
        facts.system.files.insert(
            "/etc/network/interfaces".into(),
            "auto eno1 eno2 eno3\niface eno1 inet dhcp\niface eno2 inet dhcp\niface eno3 inet dhcp\n".into(),
        );
        facts.system.files.insert(
            "/etc/systemd/network/10-x.link".into(),
            "[Match]\nMACAddress=aa:00:00:00:00:03\n[Link]\nName=eno3\n".into(),
        );
        facts.target.nics = (1..=4)
            .map(|i| testing::nic(&format!("aa:00:00:00:00:0{i}"), &format!("0000:00:0{i}.0")))
            .collect();
        facts.target.network_map.insert("eno2".into(), "aa:00:00:00:00:01".into());
        let pairing = pair(&facts);
        let got: Vec<_> = pairing
            .pairs
            .iter()
            .map(|p| {
                (
                    p.old.name.clone().unwrap_or_default(),
                    p.new.as_ref().map(|n| n.mac[15..].to_string()).unwrap_or_default(),
                )
            })
            .collect();
        let wanted =
            [("eno2", "01"), ("eno3", "03"), ("eno1", "02")].map(|(a, b)| (a.to_string(), b.to_string()));
        assert_eq!(got, wanted);
        assert_eq!((pairing.lost.len(), pairing.spare.len(), pairing.guessed), (0, 1, true));
    }

    #[test]
    fn one_to_one_is_no_guess() {
        let mut facts = testing::bios();
        facts.target.nics = vec![testing::nic("aa:00:00:00:00:01", "0000:00:03.0")];
        let pairing = pair(&facts);
        assert_eq!((pairing.pairs.len(), pairing.guessed), (1, false));
    }

    #[test]
    fn patterns() {
        assert!(fits_any_card("en*") && fits_any_card("e*"));
        assert!(!fits_any_card("enp*"));
    }
}
