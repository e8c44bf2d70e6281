//! Looks for network configuration that is tied to the old cards; ties it to the new ones.
//!
//! Why: a card in another slot gets another name, and another MAC address, so that configuration by either finds
//! nothing and the machine is off the network (F-08). The old name is given to the new card by a .link file, so that
//! everything else that mentions the name (firewall, VLANs, bridges, scripts) goes on working; what matches by MAC address
//! gets the new address. udev in the real root renames a card that the initramfs named otherwise, so no image has to be
//! built for it.

use super::{Proposal, Rule};
use crate::config::ini;
use crate::facts::{Facts, Nic};
use crate::network::{self, NETWORKD, PIN_PREFIX, Pair};

pub(super) const RULE: Rule = Rule {
    id: "network-names",
    what: "the new cards carry the old names, and take over what was configured by MAC address",
    sources: "L-60 L-61 L-62 L-63 L-64 L-66 F-08",
    run,
};

fn run(facts: &Facts, out: &mut Proposal) {
    let pairing = network::pair(facts);
    let mut now = facts.clone();
    for pair in &pairing.pairs {
        if let (Some(old), Some(new)) = (&pair.old.mac, &pair.new)
            && *old != new.mac
        {
            replace_mac(&now, old, &new.mac, out);
            out.edits.iter().for_each(|e| now.apply(&e.edit));
        }
    }
    for pair in &pairing.pairs {
        if let Some(name) = &pair.old.name {
            pin(facts, name, pair, out);
        }
    }
    forget_old_pins(facts, &pairing.pairs, out);
    if pairing.guessed {
        let list: Vec<String> = pairing
            .pairs
            .iter()
            .map(|p| {
                format!(
                    "{} -> {}",
                    p.old.name.as_deref().unwrap_or("?"),
                    p.new.as_ref().map_or("?", |n| n.mac.as_str())
                )
            })
            .collect();
        out.warn(
            format!("several network cards: paired in order ({})", list.join(", ")),
            "give a --network-map FILE when that is wrong",
        );
    }
    for lost in &pairing.lost {
        let name = lost.name.as_deref().or(lost.mac.as_deref()).unwrap_or("?");
        let (why, remedy) = if facts.target.nics.is_empty() {
            (
                "the target's cards are not known here",
                "run repair on the target, or give a --network-map FILE",
            )
        } else {
            (
                "the target has fewer cards",
                "add a card to the target and repair again, or change the configuration",
            )
        };
        out.warn(format!("{name} is configured but no new card takes its place: {why}"), remedy);
    }
    for spare in &pairing.spare {
        out.note(format!(
            "card {} ({}, {}) of this machine is not configured on the replica",
            spare.mac, spare.driver, spare.slot
        ));
    }
    for pattern in network::configured_patterns(facts)
        .into_iter()
        .filter(|p| p.starts_with('e') && !network::fits_any_card(p))
    {
        out.warn(
            format!("networkd configures cards named {pattern}; the new card may get another name"),
            "use Name=en* in that file",
        );
    }
    others(facts, out);
}

/// networkd matches of other kinds that the new hardware will not fulfil.
fn others(facts: &Facts, out: &mut Proposal) {
    for (path, text) in facts.files_in(NETWORKD, "") {
        for key in ["Path", "Driver"] {
            if !path.starts_with(PIN_PREFIX) && ini::values(text, "Match", key).next().is_some() {
                out.warn(
                    format!("{path} matches by {key}=, which the new hardware changes"),
                    "match by Name= instead",
                );
            }
        }
    }
}

/// Writes the new address wherever configuration matches by the old one.
fn replace_mac(facts: &Facts, old: &str, new: &str, out: &mut Proposal) {
    let reason = || format!("it matches the old card's MAC address {old}; the new card's is {new}");
    for (path, text) in facts.files_in(NETWORKD, "").filter(|(path, _)| !path.starts_with(PIN_PREFIX)) {
        let text = ini::rewrite(text, |s| {
            let matches = s.section == "Match" && matches!(s.key, "MACAddress" | "PermanentMACAddress");
            let hit = |v: &str| v.eq_ignore_ascii_case(old);
            (matches && s.value.split_ascii_whitespace().any(hit)).then(|| {
                let values: Vec<_> =
                    s.value.split_ascii_whitespace().map(|v| if hit(v) { new } else { v }).collect();
                format!("{}={}", s.key, values.join(" "))
            })
        });
        out.write(facts, path, text, reason());
    }
    for (path, text) in facts.files_in("/etc/udev/rules.d", ".rules") {
        let changed: String = text
            .split_inclusive('\n')
            .map(|line| match network::quoted(line, "ATTR{address}==") {
                Some(mac) if mac.eq_ignore_ascii_case(old) && !line.trim_start().starts_with('#') => {
                    line.replacen(mac, new, 1)
                }
                _ => line.to_string(),
            })
            .collect();
        out.write(facts, path, changed, reason());
    }
}

/// Gives the new card the old name, unless the guest's own files do so already.
fn pin(facts: &Facts, name: &str, pair: &Pair, out: &mut Proposal) {
    let own = |mac: &str| {
        facts.files_in(NETWORKD, ".link").any(|(path, text)| {
            !path.starts_with(PIN_PREFIX)
                && ini::values(text, "Link", "Name").any(|n| n == name)
                && ["MACAddress", "PermanentMACAddress"].iter().any(|k| {
                    ini::values(text, "Match", k)
                        .any(|m| m.eq_ignore_ascii_case(mac) || Some(m.to_lowercase()) == pair.old.mac)
                })
        })
    };
    let (matching, what) = match &pair.new {
        Some(new) if own(&new.mac) => return,
        Some(Nic { mac, slot, driver, .. }) => (
            format!("PermanentMACAddress={mac}"),
            if slot.is_empty() { format!("card {mac}") } else { format!("card {mac} ({driver}, {slot})") },
        ),
        // Every device on a bus has a path, made-up ones have none. The first card keeps the name; a second would fail to get it.
        None => (
            String::from("Type=ether\nPath=*"),
            String::from("the target's wired card, whatever it is (assumed: there is one)"),
        ),
    };
    let text = format!(
        "# Written by gantry repair: the configuration of this system names the card {name}.\n[Match]\n{matching}\n\n[Link]\nName={name}\n"
    );
    out.write(
        facts,
        &format!("{PIN_PREFIX}{name}.link"),
        text,
        format!("{what} takes the place of {name} and keeps its name"),
    );
}

/// Removes pins of an earlier repair whose card or name is no longer in the game: two for one name would be a race.
fn forget_old_pins(facts: &Facts, pairs: &[Pair], out: &mut Proposal) {
    for (path, text) in facts.files_in(NETWORKD, ".link").filter(|(p, _)| p.starts_with(PIN_PREFIX)) {
        let name = ini::values(text, "Link", "Name").next().unwrap_or_default();
        if !pairs.iter().any(|p| p.old.name.as_deref() == Some(name)) && !facts.target.nics.is_empty() {
            let before = crate::edit::digest(text.as_bytes());
            out.edit(
                format!("no card is called {name} any more"),
                crate::edit::Edit::RemoveFile { path: path.into(), before },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Rule, run_one};
    use crate::testing;

    const NEW: &str = "aa:00:00:00:00:01";

    fn after(mut facts: Facts, rule: &Rule) -> (Facts, Vec<String>, usize) {
        let out = run_one(rule, &facts);
        for e in &out.edits {
            facts.apply(&e.edit);
        }
        (facts, out.edits.iter().map(|e| e.edit.summary()).collect(), out.findings.len())
    }

    fn here() -> Facts {
        let mut facts = testing::bios();
        facts.target.nics = vec![testing::nic(NEW, "0000:00:03.0")];
        facts
    }

    #[test]
    fn one_card_keeps_its_name_by_mac() {
        let (facts, did, findings) = after(here(), &RULE);
        assert_eq!(
            (did.as_slice(), findings),
            (["create /etc/systemd/network/10-gantry-enp0s2.link".to_string()].as_slice(), 0)
        );
        let text = facts.file("/etc/systemd/network/10-gantry-enp0s2.link").unwrap_or_default();
        assert_eq!(ini::values(text, "Match", "PermanentMACAddress").collect::<Vec<_>>(), [NEW]);
        assert!(after(facts, &RULE).1.is_empty(), "a second run has nothing to do");
    }

    #[test]
    fn the_next_machine_gets_a_new_pin() {
        let (mut facts, ..) = after(here(), &RULE);
        facts.target.nics[0].mac = "aa:00:00:00:00:77".into();
        let (facts, did, _) = after(facts, &RULE);
        assert_eq!(did.len(), 1, "{did:?}");
        assert!(facts.file("/etc/systemd/network/10-gantry-enp0s2.link").unwrap_or_default().contains(":77"));
    }

    #[test]
    fn an_unknown_target_has_one_card_by_assumption() {
        let (facts, ..) = after(testing::bios(), &RULE);
        assert!(
            facts.file("/etc/systemd/network/10-gantry-enp0s2.link").unwrap_or_default().contains("Path=*")
        );
        assert!(after(facts, &RULE).1.is_empty());
    }

    #[test]
    fn networkd_by_mac_and_the_admins_own_link_are_rewritten() {
        let mut facts = here();
        facts.system.files.insert("/etc/network/interfaces".into(), "auto lo\n".into());
        facts.system.files.insert(
            "/etc/systemd/network/10-lan.link".into(),
            "[Match]\nMACAddress=52:54:00:00:00:01\n[Link]\nName=lan0\n".into(),
        );
        facts.system.files.insert(
            "/etc/systemd/network/20-lan.network".into(),
            "[Match]\nName=lan0\n[Network]\nDHCP=yes\n".into(),
        );
        let (facts, did, findings) = after(facts, &RULE);
        assert_eq!(
            (did.as_slice(), findings),
            (["change /etc/systemd/network/10-lan.link".to_string()].as_slice(), 0)
        );
        assert!(facts.file("/etc/systemd/network/10-lan.link").unwrap_or_default().contains(NEW));
        assert!(after(facts, &RULE).1.is_empty());
    }

    #[test]
    fn a_network_file_by_mac_alone_gets_the_new_one() {
        let mut facts = here();
        facts.system.files.insert("/etc/network/interfaces".into(), "auto lo\n".into());
        facts.system.files.insert(
            "/etc/systemd/network/20-x.network".into(),
            "[Match]\nMACAddress=52:54:00:00:00:01\n".into(),
        );
        let (facts, did, _) = after(facts, &RULE);
        assert_eq!(did, ["change /etc/systemd/network/20-x.network"]);
        assert!(after(facts, &RULE).1.is_empty());
    }

    #[test]
    fn a_stale_persistent_rule_gets_the_new_address() {
        let mut facts = here();
        const PATH: &str = "/etc/udev/rules.d/70-persistent-net.rules";
        facts.system.files.insert(
            PATH.into(),
            "SUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:00:00:01\", NAME=\"enp0s2\"\n".into(),
        );
        let (facts, did, _) = after(facts, &RULE);
        assert_eq!(did.len(), 2, "{did:?}");
        assert!(facts.file(PATH).unwrap_or_default().contains(NEW));
        assert!(after(facts, &RULE).1.is_empty());
    }

    #[test]
    fn any_wired_card_needs_nothing() {
        let mut facts = here();
        facts.system.files.insert("/etc/network/interfaces".into(), "auto lo\n".into());
        facts.system.files.insert(
            "/etc/systemd/network/20-x.network".into(),
            "[Match]\nName=en*\n[Network]\nDHCP=yes\n".into(),
        );
        let (_, did, findings) = after(facts, &RULE);
        assert_eq!((did.len(), findings), (0, 1), "only the note that the card is not named");
    }

    #[test]
    fn more_old_cards_than_new_is_told() {
        let mut facts = here();
        facts.system.files.insert("/etc/network/interfaces".into(), "auto eno1 eno2\n".into());
        let (_, did, findings) = after(facts, &RULE);
        assert_eq!((did.len(), findings), (1, 2));
    }
}
