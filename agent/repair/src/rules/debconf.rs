//! Looks at the disks debconf remembers for grub-pc; warns when they are the old ones.
//!
//! Why: the next update of grub-pc installs to them and asks, or fails when nobody answers. debconf's database is not
//! edited from outside: a package update may be half done in it.

use super::{Proposal, Rule};
use crate::facts::{Facts, Firmware};

pub(super) const RULE: Rule = Rule {
    id: "debconf",
    what: "tells when an update of grub-pc will ask for its disk",
    sources: "L-49",
    run,
};

fn run(facts: &Facts, out: &mut Proposal) {
    let Some(devices) = facts.system.grub_install_devices.as_deref().filter(|d| !d.is_empty()) else {
        return;
    };
    if facts.installed_for(Firmware::Bios) {
        out.warn(
            format!("debconf remembers {devices} as the disk of grub-pc, a name of the old hardware"),
            "on the running machine: dpkg-reconfigure grub-pc, before the next update of it",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::run_one;
    use crate::testing;

    #[test]
    fn warns_only_of_a_remembered_disk() {
        let mut facts = testing::bios();
        assert!(run_one(&RULE, &facts).findings.is_empty());
        facts.system.grub_install_devices = Some("/dev/disk/by-id/ata-OLD".into());
        assert_eq!(run_one(&RULE, &facts).findings.len(), 1);
    }
}
