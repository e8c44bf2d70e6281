//! Looks whether every initramfs can find its disks on any target; names what is missing to initramfs-tools and lets
//! the guest's own generator build the images again.
//!
//! Why: an image made for AHCI alone waits 30 s for a disk on virtio and gives up (F-02). Names go to
//! /etc/initramfs-tools/modules, so that the images of later kernels have them too (L-17). MODULES=dep describes the
//! machine the generator runs on, which is the wrong one (B-12), so it is overridden; `list` and `most` stay.
//! An image that has everything is left alone: building costs minutes on a slow machine.

use std::collections::{BTreeMap, BTreeSet};

use super::{Proposal, Rule};
use crate::config::shell;
use crate::drivers;
use crate::edit::{Edit, WantedImage};
use crate::facts::{Facts, Image, Kernel};

pub(super) const RULE: Rule = Rule {
    id: "initramfs",
    what: "every initramfs has the drivers of every likely target",
    sources: "L-10 L-17 L-23 L-39 L-40 L-67 B-12 F-02",
    run,
};

const MODULES: &str = "/etc/initramfs-tools/modules";
/// Read last: initramfs-tools takes conf.d in the order of names.
const OVERRIDE: &str = "/etc/initramfs-tools/conf.d/zz-gantry.conf";
/// What the generator copies into the image as it is, and is then read at start: path in /etc to path in the image.
const COPIED: &[(&str, &str)] = &[("/etc/initramfs-tools/conf.d/resume", "conf/conf.d/resume")];

fn run(facts: &Facts, out: &mut Proposal) {
    if !facts.system.present.contains("/usr/sbin/update-initramfs") {
        out.block(
            "this system has no update-initramfs; other generators are not handled yet",
            "add the target's drivers to its initramfs by its own tool on the source, and copy again",
        );
        return;
    }
    if facts.system.kernels.iter().all(|k| k.image.is_none()) {
        out.block(
            "no initramfs was found in /boot",
            "install a kernel package with its initramfs on the source, and copy again",
        );
        return;
    }
    let stale: Vec<(&Kernel, &Image)> = facts
        .system
        .kernels
        .iter()
        .filter_map(|k| Some((k, k.image.as_ref()?)))
        .filter(|(k, image)| {
            !wanted(k).is_subset(&image.modules)
                || !copied(facts).iter().all(|(p, t)| image.files.get(p) == Some(t))
        })
        .collect();
    check_storage_exists(facts, out);
    if stale.is_empty() {
        return;
    }
    name_modules(facts, &stale, out);
    override_dep(facts, out);
    let images = stale
        .iter()
        .map(|(k, image)| WantedImage {
            kernel: k.version.clone(),
            path: image.path.clone(),
            exists: true,
            modules: wanted(k),
            files: copied(facts),
        })
        .collect();
    out.edit("the image lacks drivers or carries old configuration", Edit::UpdateInitramfs { images });
}

/// Modules the image of this kernel must have.
pub(crate) fn wanted(kernel: &Kernel) -> BTreeSet<String> {
    let known = drivers::all();
    let mut wanted: BTreeSet<String> =
        kernel.modules.iter().filter(|m| known.contains(&m.as_str())).cloned().collect();
    wanted.extend(kernel.for_target.iter().filter(|m| kernel.modules.contains(*m)).cloned());
    wanted
}

/// Configuration the images must repeat: path in the image to text.
fn copied(facts: &Facts) -> BTreeMap<String, String> {
    COPIED.iter().filter_map(|(from, to)| Some(((*to).to_string(), facts.file(from)?.to_string()))).collect()
}

/// Appends what any stale image lacks and nobody named yet.
fn name_modules(facts: &Facts, stale: &[(&Kernel, &Image)], out: &mut Proposal) {
    let text = facts.file(MODULES).unwrap_or_default();
    let named: BTreeSet<String> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_ascii_whitespace().next())
        .map(drivers::normal)
        .collect();
    let mut missing: Vec<String> = stale
        .iter()
        .flat_map(|(k, image)| wanted(k).difference(&image.modules).cloned().collect::<Vec<_>>())
        .filter(|m| !named.contains(m))
        .collect();
    missing.sort();
    missing.dedup();
    if missing.is_empty() {
        return;
    }
    let mut new = text.to_string();
    if !new.is_empty() && !new.ends_with('\n') {
        new.push('\n');
    }
    new.push_str("# Added by gantry repair: drivers of the machines this system may be started on.\n");
    for module in &missing {
        new.push_str(module);
        new.push('\n');
    }
    out.write(
        facts,
        MODULES,
        new,
        "names the drivers for good, so that images of later kernels have them too",
    );
}

/// The value of MODULES= as initramfs-tools will see it.
fn modules_setting(facts: &Facts) -> String {
    let etc = "/etc/initramfs-tools/conf.d";
    let shipped = facts
        .files_in("/usr/share/initramfs-tools/conf.d", "")
        .filter(|(path, _)| facts.file(&path.replace("/usr/share/initramfs-tools/conf.d", etc)).is_none());
    facts
        .file("/etc/initramfs-tools/initramfs.conf")
        .into_iter()
        .chain(shipped.map(|(_, text)| text))
        .chain(facts.files_in(etc, "").map(|(_, text)| text))
        .filter_map(|text| shell::value(text, "MODULES"))
        .last()
        .unwrap_or_else(|| String::from("most"))
}

fn override_dep(facts: &Facts, out: &mut Proposal) {
    if modules_setting(facts) == "dep" {
        let text = "# Added by gantry repair: `dep` would describe the machine that built the image, not the one that starts it.\nMODULES=most\n";
        out.write(
            facts,
            OVERRIDE,
            text.to_string(),
            "MODULES=dep describes the machine the image is built on",
        );
    }
}

/// A kernel that has none of the target's storage drivers cannot be helped by any image (L-39).
fn check_storage_exists(facts: &Facts, out: &mut Proposal) {
    for kernel in &facts.system.kernels {
        let has = |name: &str| kernel.modules.contains(name) || kernel.builtin.contains(name);
        if !has("virtio_blk") && !has("virtio_scsi") {
            out.warn(
                format!("kernel {} has neither virtio_blk nor virtio_scsi", kernel.version),
                "give the target a SATA or NVMe disk, or install another kernel on the source",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::run_one;
    use crate::testing;

    fn after(mut facts: Facts) -> (Facts, Vec<String>) {
        let edits = run_one(&RULE, &facts).edits;
        let summaries = edits.iter().map(|e| e.edit.summary()).collect();
        for e in &edits {
            facts.apply(&e.edit);
        }
        (facts, summaries)
    }

    #[test]
    fn missing_drivers_are_named_and_built_in_once() {
        let (facts, did) = after(testing::bios());
        assert_eq!(did.len(), 2, "{did:?}");
        let modules = facts.file(MODULES).unwrap_or_default();
        assert!(modules.starts_with("# by hand\nahci\nsd_mod\n# Added"), "{modules}");
        assert_eq!(modules.matches("virtio_blk\n").count(), 1);
        assert!(!modules.contains("nvme"), "not a module of this kernel");
        assert_eq!(modules.matches("ahci").count(), 1, "named before");
        assert!(after(facts).1.is_empty());
    }

    #[test]
    fn an_image_that_has_everything_is_left_alone() {
        let mut facts = testing::bios();
        let kernel = &mut facts.system.kernels[0];
        let modules = kernel.modules.clone();
        kernel.image.as_mut().map(|i| i.modules.extend(modules)).unwrap_or_default();
        assert!(after(facts).1.is_empty());
    }

    #[test]
    fn dep_is_overridden_and_list_is_not() {
        for (conf, wanted) in [("MODULES=dep\n", true), ("MODULES=list\n", false), ("MODULES=most\n", false)]
        {
            let mut facts = testing::bios();
            facts.system.files.insert("/etc/initramfs-tools/conf.d/modules".into(), conf.into());
            assert_eq!(after(facts).0.file(OVERRIDE).is_some(), wanted, "{conf}");
        }
    }

    #[test]
    fn the_targets_own_controller_is_wanted() {
        let mut facts = testing::bios();
        facts.system.kernels[0].modules.insert("megaraid_sas".into());
        facts.system.kernels[0].for_target.insert("megaraid_sas".into());
        assert!(after(facts).0.file(MODULES).unwrap_or_default().contains("megaraid_sas\n"));
    }

    #[test]
    fn changed_resume_configuration_is_built_in() {
        let mut facts = after(testing::bios()).0;
        facts.system.files.insert("/etc/initramfs-tools/conf.d/resume".into(), "RESUME=none\n".into());
        let (facts, did) = after(facts);
        assert_eq!(did.len(), 1, "{did:?}");
        assert!(after(facts).1.is_empty());
    }

    #[test]
    fn without_the_generator_it_refuses() {
        let mut facts = testing::bios();
        facts.system.present.clear();
        assert_eq!(run_one(&RULE, &facts).findings.len(), 1);
    }
}
