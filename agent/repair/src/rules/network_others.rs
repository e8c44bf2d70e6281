//! Looks for network configuration that repair does not read yet; says so instead of pretending.

use super::{Proposal, Rule};
use crate::facts::Facts;

pub(super) const RULE: Rule = Rule {
    id: "network-others",
    what: "tells of network configuration that is not handled yet",
    sources: "L-65 L-68 L-69",
    run,
};

const OTHERS: &[(&str, &str)] = &[
    ("/etc/netplan", "netplan"),
    ("/etc/NetworkManager/system-connections", "NetworkManager connections"),
    ("/etc/cloud/cloud.cfg", "cloud-init"),
];

fn run(facts: &Facts, out: &mut Proposal) {
    for (path, what) in OTHERS {
        if facts.system.present.contains(*path) {
            out.warn(
                format!("{what} ({path}) may name the old network card by name or MAC address and is not handled yet"),
                "check it on the console after the first start",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::run_one;
    use crate::testing;

    #[test]
    fn netplan_is_told_of() {
        let mut facts = testing::bios();
        assert!(run_one(&RULE, &facts).findings.is_empty());
        facts.system.present.insert("/etc/netplan".into());
        assert_eq!(run_one(&RULE, &facts).findings.len(), 1);
    }
}
