//! Looks in /etc/default/grub for device names and for the switch that makes update-grub write them.
//!
//! Why: grub.cfg is put right by its own rule, but the next kernel update on the running machine writes it again
//! from here (B-02).

use super::{Proposal, Rule};
use crate::config::{grub, shell};
use crate::facts::Facts;
use crate::names::{self, Meaning};

pub(super) const RULE: Rule = Rule {
    id: "grub-defaults",
    what: "update-grub on the running machine will write UUIDs too",
    sources: "B-02 L-48",
    run,
};

/// Switches that make grub-mkconfig write device names although it knows the UUID.
const SWITCHES: &[&str] = &["GRUB_DISABLE_LINUX_UUID", "GRUB_DISABLE_UUID"];
const COMMAND_LINES: &[&str] = &[
    "GRUB_CMDLINE_LINUX",
    "GRUB_CMDLINE_LINUX_DEFAULT",
    "GRUB_CMDLINE_LINUX_RECOVERY",
    "GRUB_CMDLINE_XEN",
    "GRUB_CMDLINE_LINUX_XEN_REPLACE",
    "GRUB_CMDLINE_LINUX_XEN_REPLACE_DEFAULT",
];

fn run(facts: &Facts, out: &mut Proposal) {
    let paths: Vec<(&str, &str)> = facts
        .files_in("/etc/default/grub.d", ".cfg")
        .chain(facts.file("/etc/default/grub").map(|t| ("/etc/default/grub", t)))
        .collect();
    for (path, text) in paths {
        let mut new = text.to_string();
        for switch in SWITCHES {
            if shell::value(&new, switch).as_deref() == Some("true") {
                new = shell::comment_out(&new, switch);
            }
        }
        for line in COMMAND_LINES {
            new = shell::rewrite(&new, line, |value| {
                Some(grub::rewrite_words(value, &["root", "resume"], |key, old| argument(facts, key, old)))
            });
        }
        out.write(
            facts,
            path,
            new,
            "the next update-grub would write device names of this machine's hardware again",
        );
    }
}

/// The new value of a `root=` or `resume=` argument, when it must change.
pub(super) fn argument(facts: &Facts, key: &str, value: &str) -> Option<String> {
    let kind = (key == "resume").then_some("swap");
    match names::meaning(facts, value, kind) {
        Meaning::Hardware(partition) => names::stable(facts, partition),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::run_one;
    use crate::testing;

    #[test]
    fn table() {
        const PATH: &str = "/etc/default/grub";
        for (text, wanted) in [
            (
                "GRUB_DISABLE_LINUX_UUID=true\nGRUB_TIMEOUT=5\n",
                "#GRUB_DISABLE_LINUX_UUID=true\nGRUB_TIMEOUT=5\n",
            ),
            ("#GRUB_DISABLE_LINUX_UUID=true\n", "#GRUB_DISABLE_LINUX_UUID=true\n"),
            (
                "GRUB_CMDLINE_LINUX=\"root=/dev/sda1 resume=/dev/sda5 console=ttyS0\"\n",
                "GRUB_CMDLINE_LINUX=\"root=UUID=1111-root resume=UUID=5555-swap console=ttyS0\"\n",
            ),
            ("GRUB_CMDLINE_LINUX=\"resume=/dev/sda1\"\n", "GRUB_CMDLINE_LINUX=\"resume=/dev/sda1\"\n"),
        ] {
            let mut facts = testing::bios();
            facts.system.files.insert(PATH.into(), text.into());
            for e in run_one(&RULE, &facts).edits {
                facts.apply(&e.edit);
            }
            assert_eq!(facts.file(PATH), Some(wanted));
        }
    }
}
