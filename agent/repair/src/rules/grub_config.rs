//! Looks in grub.cfg for `root=`, `resume=` and `set root` by device; writes UUIDs and searches.
//!
//! Why: the kernel would wait for /dev/sda1 for ever. Changed word by word, because grub-mkconfig in a chroot
//! describes the machine it runs on (B-06).

use super::grub_defaults::argument;
use super::{Proposal, Rule};
use crate::config::grub;
use crate::facts::{Facts, PartitionRef};
use crate::names::{self, Meaning};

pub(super) const RULE: Rule = Rule {
    id: "grub-config",
    what: "GRUB finds its files, and the kernel its root, by UUID",
    sources: "B-02 B-06 L-48",
    run,
};

fn run(facts: &Facts, out: &mut Proposal) {
    let Some(text) = facts.file(grub::CONFIG) else {
        out.warn(
            format!("{} is missing", grub::CONFIG),
            "other boot loaders are not repaired yet: boot the replica once by hand and see",
        );
        return;
    };
    let new = grub::rewrite_arguments(text, &["root", "resume"], |key, value| argument(facts, key, value));
    let new = grub::search_by_uuid(&new, |disk, number| {
        let partition = facts.partition(PartitionRef { disk, number })?;
        (!partition.uuid.is_empty()).then(|| partition.uuid.clone())
    });
    for root in grub::root_arguments(&new) {
        if let Meaning::Unknown(why) = names::meaning(facts, &root, None) {
            out.block(
                format!("{}: root={root} cannot be found ({why})", grub::CONFIG),
                "name the disk that carries it, or correct grub.cfg on the source",
            );
        } else if names::meaning(facts, &root, None) == Meaning::Stable(None) && root.starts_with("UUID=") {
            out.warn(
                format!("{}: an entry has root={root}, which is on none of the disks", grub::CONFIG),
                "do not choose that entry",
            );
        }
    }
    out.write(
        facts,
        grub::CONFIG,
        new,
        "the kernel would wait for a device name that the new hardware does not have",
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Severity, run_one};
    use crate::testing;

    #[test]
    fn names_become_uuids_and_stay_so() {
        let mut facts = testing::bios();
        let out = run_one(&RULE, &facts);
        assert_eq!(out.edits.len(), 1);
        facts.apply(&out.edits[0].edit);
        let text = facts.file(grub::CONFIG).unwrap_or_default();
        assert_eq!(grub::root_arguments(text), ["UUID=1111-root"]);
        assert!(text.contains("search --no-floppy --fs-uuid --set=root 1111-root"));
        assert!(run_one(&RULE, &facts).edits.is_empty());
    }

    #[test]
    fn a_root_nobody_can_find_is_refused() {
        let mut facts = testing::bios();
        facts.system.files.insert("/etc/fstab".into(), "UUID=1111-root / ext4 rw 0 1\n".into());
        facts.system.files.insert(grub::CONFIG.into(), "linux /vmlinuz root=/dev/sda9 ro\n".into());
        let out = run_one(&RULE, &facts);
        assert_eq!(out.findings[0].severity, Severity::Blocker);
    }
}
