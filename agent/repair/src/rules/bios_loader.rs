//! Looks whether the boot code a BIOS starts is whole on the disk that / or /boot is on.
//!
//! Why: boot sector and core image lie outside every partition and came over byte for byte, so they are right unless
//! they were wrong on the source (B-01, B-10). Nothing is installed again for its own sake: that can only break them.

use super::{Proposal, Rule};
use crate::facts::{BootCode, Facts, Firmware, PartitionRef};

pub(super) const RULE: Rule = Rule {
    id: "bios-loader",
    what: "boot sector and GRUB's core are there",
    sources: "B-01 B-10 B-14 I-58",
    run,
};

fn run(facts: &Facts, out: &mut Proposal) {
    if facts.installed_for(Firmware::Uefi) && facts.target.firmware != Some(Firmware::Bios) {
        return;
    }
    let remedy = "boot the replica from rescue media and run grub-install --target=i386-pc on its disk; or do so on the source and copy again";
    let broken = facts.disks.iter().enumerate().find_map(|(i, d)| match d.boot_code {
        BootCode::Grub { core_sector, core_present: false } => Some((i, core_sector)),
        _ => None,
    });
    if let Some((disk, sector)) = broken {
        out.warn(
            format!(
                "disk {}: the boot sector is GRUB's, but there is no core image at sector {sector}",
                disk + 1
            ),
            remedy,
        );
    }
    let boot: Option<PartitionRef> =
        facts.system.mounts.iter().rfind(|m| m.at == "/" || m.at == "/boot").map(|m| m.partition);
    if facts.disks.iter().all(|d| d.boot_code == BootCode::None) {
        out.warn("no disk has boot code in its first sector", remedy);
    } else if let Some(boot) = boot
        && boot.disk != 0
        && facts.disks.first().is_some_and(|d| d.boot_code == BootCode::None)
    {
        out.note(format!(
            "the system is on disk {}: make it the first in the target's boot order",
            boot.disk + 1
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::run_one;
    use crate::testing;

    #[test]
    fn tells_what_is_broken() {
        let mut facts = testing::bios();
        assert!(run_one(&RULE, &facts).findings.is_empty());
        facts.disks[0].boot_code = BootCode::Grub { core_sector: 1, core_present: false };
        assert_eq!(run_one(&RULE, &facts).findings.len(), 1);
        facts.disks[0].boot_code = BootCode::None;
        assert_eq!(run_one(&RULE, &facts).findings.len(), 1);
        assert!(run_one(&RULE, &testing::uefi()).findings.is_empty(), "not asked of UEFI");
    }
}
