//! What a guest is made of.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gantry_qemu::Firmware;

use super::{base, proof};
use crate::cache::Key;

/// A guest's recipe; its data is in `tests/guests/NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The guest's name: of its directory, its host name and its cache entry.
    pub name: &'static str,
    /// What the guest's machine starts with.
    pub firmware: Firmware,
    /// The root device as the guest's own configuration names it.
    pub root: &'static str,
}

/// All guests.
const ALL: [Recipe; 2] = [
    Recipe { name: "bookworm-bios", firmware: Firmware::Bios, root: "/dev/sda1" },
    Recipe { name: "bookworm-uefi", firmware: Firmware::Uefi, root: "/dev/sda2" },
];

/// The directory of the recipes' data.
pub(super) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(name)
}

impl Recipe {
    /// All recipes there are.
    #[must_use]
    pub fn all() -> &'static [Self] {
        &ALL
    }

    /// Debian 12: MBR, ext4 by /dev/sda1, GRUB for BIOS, ifupdown.
    #[must_use]
    pub fn bookworm_bios() -> Self {
        ALL[0]
    }

    /// Debian 12: GPT, ESP, ext4 by /dev/sda2, shim and signed GRUB, networkd.
    #[must_use]
    pub fn bookworm_uefi() -> Self {
        ALL[1]
    }

    /// The recipe with this name.
    ///
    /// # Errors
    /// When there is none; the message lists those that are there.
    pub fn named(name: &str) -> Result<Self> {
        let Some(recipe) = ALL.iter().find(|recipe| recipe.name == name) else {
            bail!("no guest {name}; there are {}", ALL.map(|recipe| recipe.name).join(", "));
        };
        Ok(*recipe)
    }

    /// The packages that this guest has on top of the base tree.
    pub(super) fn packages(self) -> Result<String> {
        let path = data(self.name).join("packages");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// The key of its cache entry: everything it is made from.
    pub(super) fn key(self) -> Result<Key> {
        let key = Key::default().with(base::key()?.text().as_bytes()).with(&proof::SEED.to_le_bytes());
        key.with_files(&data("common"))?.with_files(&data("build"))?.with_files(&data(self.name))
    }
}
