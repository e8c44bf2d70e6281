//! Looks for device names in /etc/fstab that change with the hardware; writes UUIDs.
//!
//! Why: /dev/sda1 is /dev/vda1 on virtio, and with a second disk any letter can move. An entry that cannot be found
//! and is waited for stops the start in emergency mode, so it is told to be optional; no line is ever deleted.

use super::{Proposal, Rule};
use crate::config::fstab;
use crate::facts::Facts;
use crate::names::{self, Meaning};

pub(super) const RULE: Rule = Rule {
    id: "fstab-names",
    what: "device names in fstab that change with the hardware become UUIDs",
    sources: "L-45 L-46 L-47 L-90 L-91",
    run,
};

const PATH: &str = "/etc/fstab";
/// systemd's own default is 90 s for each; with it ten lost disks would be a quarter of an hour.
const OPTIONAL: &str = "nofail,x-systemd.device-timeout=10s";

fn run(facts: &Facts, out: &mut Proposal) {
    let Some(text) = facts.file(PATH) else { return };
    let mut lost = Vec::new();
    let new = fstab::rewrite(text, |entry| {
        let missing = |why: String, lost: &mut Vec<(String, String)>| {
            lost.push((entry.at.to_string(), why));
            let options = if entry.options == "defaults" {
                OPTIONAL.to_string()
            } else {
                format!("{},{OPTIONAL}", entry.options)
            };
            Some((entry.spec.to_string(), options))
        };
        match names::meaning(facts, entry.spec, Some(entry.kind)) {
            Meaning::Hardware(partition) => {
                let stable = names::stable(facts, partition)?;
                Some((stable, entry.options.to_string()))
            }
            Meaning::Unknown(why) if entry.is_awaited() && entry.at != "/" => missing(why, &mut lost),
            Meaning::Stable(None) if entry.is_awaited() && is_tag(entry.spec) && entry.at != "/" => {
                missing(format!("{} is on none of the disks", entry.spec), &mut lost)
            }
            _ => None,
        }
    });
    for (at, why) in lost {
        out.warn(
            format!("fstab: {at} will be missing ({why}); it no longer stops the start"),
            "move that disk too, or remove the line when it is not wanted any more",
        );
    }
    out.write(
        facts,
        PATH,
        new,
        "device names of the old hardware do not exist on the new; UUIDs go with the data",
    );
}

/// LVM and the like are not looked into yet; only what would have been seen counts as missing.
fn is_tag(spec: &str) -> bool {
    ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/disk/by-uuid/"].iter().any(|t| spec.starts_with(t))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::run_one;
    use crate::testing;

    fn fstab_after(text: &str) -> (Option<String>, usize) {
        let mut facts = testing::bios();
        facts.system.files.insert(PATH.into(), text.into());
        let out = run_one(&RULE, &facts);
        for e in &out.edits {
            facts.apply(&e.edit);
        }
        assert!(run_one(&RULE, &facts).edits.is_empty(), "a second run has nothing to do");
        (
            (!out.edits.is_empty()).then(|| facts.file(PATH).unwrap_or_default().to_string()),
            out.findings.len(),
        )
    }

    #[test]
    fn table() {
        let root = "UUID=1111-root / ext4 defaults 0 1\n";
        for (text, wanted, findings) in [
            ("/dev/sda1 / ext4 defaults 0 1\n", Some("UUID=1111-root / ext4 defaults 0 1\n"), 0),
            (
                "/dev/sda1 / ext4 rw 0 1\n/dev/sda5 none swap sw 0 0\n",
                Some("UUID=1111-root / ext4 rw 0 1\nUUID=5555-swap none swap sw 0 0\n"),
                0,
            ),
            (root, None, 0),
            ("/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\nproc /proc proc defaults 0 0\n", None, 0),
            (
                "/dev/sda1 / ext4 rw 0 1\n/dev/sdb1 /data xfs defaults 0 2\n",
                Some(
                    "UUID=1111-root / ext4 rw 0 1\n/dev/sdb1 /data xfs nofail,x-systemd.device-timeout=10s 0 2\n",
                ),
                1,
            ),
            (
                "UUID=gone /srv ext4 rw 0 2\n",
                Some("UUID=gone /srv ext4 rw,nofail,x-systemd.device-timeout=10s 0 2\n"),
                1,
            ),
            (
                "UUID=gone /srv ext4 noauto 0 2\nserver:/x /y nfs rw 0 0\n/dev/mapper/vg-x /z ext4 rw 0 0\n",
                None,
                0,
            ),
        ] {
            let (got, found) = fstab_after(text);
            assert_eq!((got.as_deref(), found), (wanted, findings), "{text}");
        }
    }
}
