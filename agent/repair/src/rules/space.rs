//! Looks for room before anything is changed.
//!
//! Why: a generator that runs out of space leaves a truncated image or none (I-41). Runs last, when it is known whether
//! images will be built.

use super::{Proposal, Rule};
use crate::facts::Facts;

pub(super) const RULE: Rule =
    Rule { id: "space", what: "room for new images, their originals and the manifest", sources: "I-41", run };

/// MiB that must be free on /, where originals are kept and the generator works.
const ROOT: u64 = 100;
/// MiB that must be free on a separate /boot on top of the largest image.
const BOOT: u64 = 16;

fn run(facts: &Facts, out: &mut Proposal) {
    let images = facts.system.kernels.iter().filter_map(|k| k.image.as_ref());
    let (mut all, mut largest) = (0, 0);
    for image in images {
        let mib = image.size.div_ceil(1 << 20);
        all += mib;
        largest = largest.max(mib);
    }
    for mounted in &facts.system.mounts {
        let needed = match mounted.at.as_str() {
            "/" => ROOT + all + largest,
            "/boot" => BOOT + 2 * largest,
            _ => continue,
        };
        if mounted.free_mib < needed {
            out.block(
                format!("{} has {} MiB free, repair needs {needed}", mounted.at, mounted.free_mib),
                "free space on the source (old kernels, package caches) and copy again",
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
    fn a_full_root_is_refused() {
        let mut facts = testing::bios();
        assert!(run_one(&RULE, &facts).findings.is_empty());
        facts.system.mounts[0].free_mib = 32;
        assert_eq!(run_one(&RULE, &facts).findings.len(), 1);
    }
}
