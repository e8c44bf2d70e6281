//! Looks for GRUB's device.map; removes it.
//!
//! Why: it ties (hd0) to a name of the old disk, and grub-install believes it. Without it GRUB looks for itself.

use super::{Proposal, Rule};
use crate::edit::{Edit, digest};
use crate::facts::Facts;

pub(super) const RULE: Rule =
    Rule { id: "device-map", what: "GRUB's list of the old disks goes", sources: "L-49", run };

fn run(facts: &Facts, out: &mut Proposal) {
    const PATH: &str = "/boot/grub/device.map";
    if let Some(text) = facts.file(PATH) {
        out.edit(
            "it ties (hd0) to the old disk; without it GRUB looks for itself",
            Edit::RemoveFile { path: PATH.into(), before: digest(text.as_bytes()) },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::run_one;
    use crate::testing;

    #[test]
    fn goes_once() {
        let mut facts = testing::bios();
        facts.system.files.insert("/boot/grub/device.map".into(), "(hd0) /dev/disk/by-id/ata-X\n".into());
        let out = run_one(&RULE, &facts);
        assert_eq!(out.edits.len(), 1);
        facts.apply(&out.edits[0].edit);
        assert!(run_one(&RULE, &facts).edits.is_empty());
    }
}
