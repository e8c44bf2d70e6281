//! Looks for \EFI\BOOT\BOOTX64.EFI; makes it from the guest's own shim and GRUB, and takes fbx64.efi away from it.
//!
//! Why: boot entries live in the old machine's NVRAM; the new firmware knows only this path (B-20, B-24). shim started
//! from there prefers fbx64.efi, which makes boot entries and may reset the machine: for ever, when the firmware does
//! not keep variables (B-26a). With GRUB beside shim and no fbx64.efi it simply starts, and \EFI\debian stays as it is
//! for the boot entries. Only the guest's own files are used, so Secure Boot goes on holding (B-28).

use super::{Proposal, Rule};
use crate::edit::Edit;
use crate::facts::{Esp, EspFile, Facts};

pub(super) const RULE: Rule = Rule {
    id: "uefi-fallback",
    what: "firmware that knows no boot entry finds a loader that cannot loop",
    sources: "B-20 B-21 B-24 B-26 B-26a B-28",
    run,
};

fn run(facts: &Facts, out: &mut Proposal) {
    let Some(esp) = &facts.system.esp else { return };
    let Some(vendor) = vendor_directory(esp, &facts.system.id) else {
        if !esp.files.contains_key("efi/boot/bootx64.efi") && !esp.files.is_empty() {
            out.warn(
                "the EFI system partition has no loader under \\EFI that repair knows",
                "boot once by the firmware's menu and run the guest's own grub-install",
            );
        }
        return;
    };
    let own = |name: &str| esp.files.get(&format!("efi/{vendor}/{name}"));
    let boot = |name: &str| esp.files.get(&format!("efi/boot/{name}"));
    let (shim, grub) = (own("shimx64.efi"), own("grubx64.efi"));
    let why_missing = "boot entries do not travel with the disk; this path is what new firmware looks for";
    match boot("bootx64.efi") {
        None => {
            if let Some(first) = shim.or(grub) {
                copy(esp, first, "BOOTX64.EFI", why_missing, out);
            }
            if shim.is_some() {
                beside_shim(esp, grub, own("mmx64.efi"), &boot, out);
            }
        }
        Some(loader) if shim.is_some_and(|s| s.digest == loader.digest) || boot("fbx64.efi").is_some() => {
            beside_shim(esp, grub, own("mmx64.efi"), &boot, out);
        }
        Some(_) => {}
    }
    if let (Some(fallback), Some(_)) = (boot("fbx64.efi"), grub) {
        out.edit(
            "beside shim it makes boot entries and resets, again and again where the firmware forgets them; GRUB now stands there",
            Edit::RemoveFile { path: format!("{}/{}", esp.at, fallback.path), before: fallback.digest.clone() },
        );
    }
}

/// What a shim in \EFI\BOOT starts: GRUB, and the key manager, each where nothing stands yet.
fn beside_shim<'a>(
    esp: &Esp,
    grub: Option<&EspFile>,
    manager: Option<&EspFile>,
    boot: &impl Fn(&str) -> Option<&'a EspFile>,
    out: &mut Proposal,
) {
    if let (Some(grub), None) = (grub, boot("grubx64.efi")) {
        copy(esp, grub, "grubx64.efi", "shim starts the GRUB beside itself", out);
    }
    if let (Some(manager), None) = (manager, boot("mmx64.efi")) {
        copy(
            esp,
            manager,
            "mmx64.efi",
            "shim's key manager, for keys that were in the old machine's NVRAM",
            out,
        );
    }
}

fn copy(esp: &Esp, from: &EspFile, name: &str, reason: &str, out: &mut Proposal) {
    let directory = esp.files.values().find_map(|f| {
        let (directory, _) = f.path.rsplit_once('/')?;
        directory.eq_ignore_ascii_case("efi/boot").then_some(directory)
    });
    out.edit(
        reason,
        Edit::CopyFile {
            from: format!("{}/{}", esp.at, from.path),
            to: format!("{}/{}/{name}", esp.at, directory.unwrap_or("EFI/BOOT")),
            digest: from.digest.clone(),
        },
    );
}

/// The directory below \EFI that carries the guest's loader: its own name first, shim before GRUB alone.
pub(super) fn vendor_directory(esp: &Esp, id: &str) -> Option<String> {
    let candidates = |file: &str| -> Vec<String> {
        esp.files
            .keys()
            .filter_map(|path| {
                path.strip_prefix("efi/")?.strip_suffix(&format!("/{file}")).map(str::to_string)
            })
            .filter(|d| d != "boot" && d != "microsoft" && !d.contains('/'))
            .collect()
    };
    for file in ["shimx64.efi", "grubx64.efi"] {
        let found = candidates(file);
        if found.iter().any(|d| d == id) {
            return Some(id.to_string());
        }
        if let Some(first) = found.into_iter().next() {
            return Some(first);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::run_one;
    use crate::testing;

    fn with(files: &[(&str, &str)]) -> Facts {
        let mut facts = testing::uefi();
        if let Some(esp) = &mut facts.system.esp {
            esp.files = files
                .iter()
                .map(|(p, d)| (p.to_lowercase(), EspFile { path: (*p).into(), digest: (*d).into() }))
                .collect();
        }
        facts
    }

    fn summaries(facts: &Facts) -> Vec<String> {
        run_one(&RULE, facts).edits.iter().map(|e| e.edit.summary()).collect()
    }

    const DEBIAN: &[(&str, &str)] = &[
        ("EFI/debian/shimx64.efi", "s"),
        ("EFI/debian/grubx64.efi", "g"),
        ("EFI/debian/mmx64.efi", "m"),
        ("EFI/debian/fbx64.efi", "f"),
    ];

    #[test]
    fn an_empty_path_is_filled_with_shim_and_grub() {
        let mut facts = with(DEBIAN);
        let all = summaries(&facts);
        assert_eq!(all.len(), 3, "{all:?}");
        assert_eq!(all[0], "copy /boot/efi/EFI/debian/shimx64.efi to /boot/efi/EFI/BOOT/BOOTX64.EFI");
        for e in run_one(&RULE, &facts).edits {
            facts.apply(&e.edit);
        }
        assert!(summaries(&facts).is_empty(), "a second run has nothing to do");
    }

    #[test]
    fn fallback_is_replaced_by_grub() {
        let files = [DEBIAN, &[("EFI/boot/bootx64.efi", "s"), ("EFI/boot/fbx64.efi", "f")]].concat();
        let all = summaries(&with(&files));
        assert_eq!(all.len(), 3, "{all:?}");
        assert_eq!(all[2], "remove /boot/efi/EFI/boot/fbx64.efi");
        assert!(all[0].ends_with("/boot/efi/EFI/boot/grubx64.efi"), "in the directory as it is spelt");
    }

    #[test]
    fn a_foreign_loader_stays() {
        let files = [DEBIAN, &[("EFI/BOOT/BOOTX64.EFI", "other")]].concat();
        assert!(summaries(&with(&files)).is_empty());
    }

    #[test]
    fn grub_alone_is_used_when_there_is_no_shim() {
        let all = summaries(&with(&[("EFI/debian/grubx64.efi", "g")]));
        assert_eq!(all, ["copy /boot/efi/EFI/debian/grubx64.efi to /boot/efi/EFI/BOOT/BOOTX64.EFI"]);
    }
}
