//! Looks whether the replica can start at all by the target's firmware.
//!
//! Why: a disk installed for BIOS shows nothing to UEFI and the other way round; converting is a rule to come (B-30).

use super::{Proposal, Rule};
use crate::facts::{Facts, Firmware};

pub(super) const RULE: Rule = Rule {
    id: "firmware",
    what: "the replica and the target start the same way",
    sources: "B-01 B-32 I-50",
    run,
};

fn run(facts: &Facts, out: &mut Proposal) {
    let Some(target) = facts.target.firmware else { return };
    if facts.installed_for(target) {
        return;
    }
    let (has, needs) = match target {
        Firmware::Uefi => ("BIOS", "UEFI"),
        Firmware::Bios => ("UEFI", "BIOS"),
    };
    out.block(
        format!("this machine starts by {needs}; the replica has no boot loader for it (installed for {has} or none)"),
        format!("set this machine to start by {has} and run repair again"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::run_one;
    use crate::testing;

    #[test]
    fn table() {
        for (mut facts, target, blocked) in [
            (testing::bios(), None, false),
            (testing::bios(), Some(Firmware::Bios), false),
            (testing::bios(), Some(Firmware::Uefi), true),
            (testing::uefi(), Some(Firmware::Uefi), false),
            (testing::uefi(), Some(Firmware::Bios), true),
        ] {
            facts.target.firmware = target;
            assert_eq!(!run_one(&RULE, &facts).findings.is_empty(), blocked, "{target:?}");
        }
    }
}
