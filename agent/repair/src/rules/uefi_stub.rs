//! Looks into the small grub.cfg on the EFI system partition: does the filesystem it searches for exist?
//!
//! Why: the signed GRUB reads only this file to find the real one; a UUID nobody has leaves it at a prompt (B-25, V-09).

use super::{Proposal, Rule, uefi_fallback};
use crate::facts::Facts;
use crate::names::{self, Meaning};

pub(super) const RULE: Rule =
    Rule { id: "uefi-stub", what: "the signed GRUB finds the real grub.cfg", sources: "I-53 B-25 V-09", run };

fn run(facts: &Facts, out: &mut Proposal) {
    let Some(esp) = &facts.system.esp else { return };
    let Some(vendor) = uefi_fallback::vendor_directory(esp, &facts.system.id) else { return };
    let Some(stub) = esp.files.get(&format!("efi/{vendor}/grub.cfg")) else {
        out.warn(
            format!("\\EFI\\{vendor}\\grub.cfg is missing"),
            "Debian's signed GRUB needs it: run grub-install in the guest",
        );
        return;
    };
    let path = format!("{}/{}", esp.at, stub.path);
    let Some(text) = facts.file(&path) else { return };
    let Some(uuid) = searched_uuid(text) else { return };
    if matches!(names::meaning(facts, &format!("UUID={uuid}"), None), Meaning::Stable(Some(_))) {
        return;
    }
    let home = facts.system.mounts.iter().rfind(|m| m.at == "/boot" || m.at == "/").map(|m| m.partition);
    let Some(right) = home.and_then(|p| facts.partition(p)).map(|p| p.uuid.clone()).filter(|u| !u.is_empty())
    else {
        out.warn(
            format!("{path} searches for {uuid}, which is on none of the disks"),
            "run grub-install in the guest",
        );
        return;
    };
    out.write(
        facts,
        &path,
        text.replace(uuid, &right),
        format!("it searches for {uuid}, which is on none of the disks"),
    );
}

/// The UUID of `search.fs_uuid UUID root ...` or `search --fs-uuid ... UUID`.
fn searched_uuid(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        match words.next()? {
            "search.fs_uuid" => words.next(),
            "search" if line.contains("--fs-uuid") => words.rfind(|w| !w.starts_with('-')),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::run_one;
    use crate::testing;

    #[test]
    fn a_uuid_nobody_has_is_replaced() {
        const PATH: &str = "/boot/efi/EFI/debian/grub.cfg";
        let mut facts = testing::uefi();
        assert!(run_one(&RULE, &facts).edits.is_empty(), "as installed it is right");
        facts.system.files.insert(
            PATH.into(),
            "search.fs_uuid gone root hd0,gpt2\nset prefix=($root)'/boot/grub'\n".into(),
        );
        for e in run_one(&RULE, &facts).edits {
            facts.apply(&e.edit);
        }
        assert_eq!(
            facts.file(PATH),
            Some("search.fs_uuid 1111-root root hd0,gpt2\nset prefix=($root)'/boot/grub'\n")
        );
    }

    #[test]
    fn both_forms_of_search_are_read() {
        assert_eq!(searched_uuid("search --no-floppy --fs-uuid --set=dev ab-12\n"), Some("ab-12"));
        assert_eq!(searched_uuid("configfile x\n"), None);
    }
}
