//! Looks for hibernation images in swap; refuses until their loss is agreed to, then voids them.
//!
//! Why: the image holds a running system that believes it knows what is on the disks. Repair changes them, and the
//! new hardware is not the one in the image: resuming destroys the filesystems. What was in memory is lost, so a
//! person says so first: or resumes the source once and shuts it down.

use super::{Proposal, Rule};
use crate::edit::Edit;
use crate::facts::{Facts, PartitionRef};

pub(super) const RULE: Rule = Rule {
    id: "hibernation",
    what: "a hibernation image is voided, with consent",
    sources: "L-48 L-91",
    run,
};

fn run(facts: &Facts, out: &mut Proposal) {
    let in_partitions = facts.partitions().filter_map(|(r, p)| Some((r, None, p.hibernation.clone()?)));
    let files = &facts.system.hibernated_files;
    let in_files = files.iter().map(|(path, s)| (PartitionRef::default(), Some(path.clone()), s.clone()));
    for (partition, file, signature) in in_partitions.chain(in_files) {
        let place = file.clone().unwrap_or_else(|| partition.to_string());
        if out.consent.void_hibernation {
            out.edit(
                "resumed on other hardware, after the disks were changed, it would destroy them; what was in memory is lost",
                Edit::VoidHibernation { partition, file, signature },
            );
        } else {
            out.block(
                format!("{place} holds a hibernation image ({signature}): this system was not shut down"),
                "start the source once, shut it down and copy again; or give up what was in its memory with --void-hibernation (a target in the appliance: gantry.hibernated=void)",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Consent, Severity, run as run_all, run_one};
    use crate::testing;

    #[test]
    fn refuses_without_consent_and_voids_with_it() {
        let mut facts = testing::bios();
        assert!(run_one(&RULE, &facts).findings.is_empty());
        facts.disks[0].partitions[1].hibernation = Some("S1SUSPEND".into());
        let out = run_one(&RULE, &facts);
        assert_eq!(out.findings[0].severity, Severity::Blocker);
        let (out, after) = run_all(&facts, Consent { void_hibernation: true });
        assert!(matches!(out.edits[0].edit, Edit::VoidHibernation { .. }), "before anything else");
        assert!(run_one(&RULE, &after).findings.is_empty());
    }
}
