//! Looks for RESUME= in initramfs-tools' configuration that names a device of the old hardware; writes its UUID.
//!
//! Why: a device that never comes costs 30 s at each start (L-18), and what the image waits for is copied into it.

use super::{Proposal, Rule};
use crate::config::shell;
use crate::facts::Facts;
use crate::names::{self, Meaning};

pub(super) const RULE: Rule = Rule {
    id: "resume",
    what: "the swap that hibernation resumes from is named by UUID, or not at all when it did not come along",
    sources: "L-18 L-48",
    run,
};

fn run(facts: &Facts, out: &mut Proposal) {
    let files: Vec<(&str, &str)> = facts.files_in("/etc/initramfs-tools/conf.d", "").collect();
    for (path, text) in files {
        let Some(value) = shell::value(text, "RESUME") else { continue };
        let new = match names::meaning(facts, &value, Some("swap")) {
            Meaning::Hardware(partition) => names::stable(facts, partition),
            Meaning::Unknown(_) => Some(String::from("none")),
            Meaning::Stable(None) if !value.starts_with('/') => {
                out.warn(
                    format!("{path} resumes from {value}, which is on none of the disks"),
                    "set it to the swap in use when hibernation is wanted",
                );
                Some(String::from("none"))
            }
            _ => None,
        };
        if let Some(new) = new {
            let text = shell::rewrite(text, "RESUME", |_| Some(new.clone()));
            out.write(
                facts,
                path,
                text,
                format!("{value} is a name of the old hardware; the start would wait for it"),
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
    fn table() {
        const PATH: &str = "/etc/initramfs-tools/conf.d/resume";
        for (text, wanted) in [
            ("RESUME=/dev/sda5\n", Some("RESUME=UUID=5555-swap\n")),
            ("RESUME=UUID=5555-swap\n", None),
            ("RESUME=UUID=gone\n", Some("RESUME=none\n")),
            ("RESUME=/dev/sdb2\n", Some("RESUME=none\n")),
            ("RESUME=none\n", None),
            ("RESUME=auto\n", None),
            ("RESUME=/dev/mapper/vg-swap\n", None),
        ] {
            let mut facts = testing::bios();
            facts.system.files.insert(PATH.into(), text.into());
            for e in run_one(&RULE, &facts).edits {
                facts.apply(&e.edit);
            }
            assert_eq!(facts.file(PATH), wanted.or(Some(text)), "{text}");
        }
    }
}
