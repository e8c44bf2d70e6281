//! The machines that cross: Debian systems as they are on physical hardware, built from the Debian archive.
//!
//! A guest is built in three steps, each cached or quick. `mmdebstrap` makes one base tree for all guests; a guest's packages
//! and files go on top of it natively, in a chroot on an overlay; and a builder machine (QEMU, the base tree as its system)
//! partitions the disk, unpacks the tree and runs Debian's own `grub-install` and `update-grub`, with the disk where the guest will
//! see it, on AHCI as /dev/sda. So what ends up in boot sectors, `grub.cfg` and the ESP is what a real installation has.
//! Data of the recipes is in `tests/guests/`.

mod base;
mod builder;
mod initramfs;
mod proof;
mod recipe;
mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gantry_qemu::{Bus, Disk, Firmware, Forward, Machine, Nic, NicModel};

use crate::cache;
use crate::shell::run;

pub use recipe::Recipe;

/// The line that a guest prints when it is up: files, net, kernel, lockdown, root.
pub const PROOF: &str = r"GUEST-PROOF files=(\S+) net=(\S+) kernel=(\S+) lockdown=(\S+) root=(\S+)\r";
/// What the initramfs of a guest prints when it does not find its root.
pub const NO_ROOT: &str = r"Gave up waiting for root|ALERT!|\(initramfs\)";
/// The slot of the network card on the source hardware; the guests' configuration names the card by it.
pub const SOURCE_SLOT: u8 = 2;
/// The hardware address of the source's network card.
pub const SOURCE_MAC: &str = "52:54:00:50:0c:e1";

/// A guest that has been built.
#[derive(Clone, Debug)]
pub struct Guest {
    /// What it was built from.
    pub recipe: Recipe,
    /// The directory with all its files; never written again.
    pub directory: PathBuf,
}

impl Guest {
    /// The guest of this recipe, from the cache or built now.
    ///
    /// # Errors
    /// When it cannot be built; building needs root, the packages of `scripts/setup`, and a network.
    pub fn get(recipe: Recipe) -> Result<Self> {
        let name = format!("guests/{}", recipe.name);
        let directory = cache::entry(&name, &recipe.key()?, |directory| build(&recipe, directory))?;
        Ok(Self { recipe, directory })
    }

    /// The disk's image: raw, sparse, 2 GiB. Never to be written: copy it, or attach it as a throw-away disk.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.directory.join("disk.raw")
    }

    /// The public SSH host key (ed25519) that the guest shows: type and base64, without a comment.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn host_key(&self) -> Result<String> {
        let path = self.directory.join("ssh_host_ed25519_key.pub");
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
    }

    /// Copies the source machine's variable store to `to`: as on hardware, it holds the boot entry that the installer made.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn variables(&self, firmware: Firmware, to: &Path) -> Result<()> {
        let name = match firmware {
            Firmware::Bios => return Ok(()),
            Firmware::Uefi => "vars.fd",
            Firmware::SecureBoot => "vars.ms.fd",
        };
        std::fs::copy(self.directory.join(name), to).with_context(|| format!("copying {name}")).map(drop)
    }

    /// The guest's disk, attached so that its image stays as it is.
    #[must_use]
    pub fn throw_away(&self, bus: Bus) -> Disk {
        Disk::raw(self.disk(), bus, "SOURCE0001").boot(0).throw_away()
    }

    /// The hardware the guest was installed on, without the disk: its network card at its slot.
    #[must_use]
    pub fn source_machine(name: &str, firmware: Firmware, forwards: &[Forward]) -> Machine {
        Machine::new(name, firmware).nic(Nic::user(NicModel::E1000e, SOURCE_SLOT, SOURCE_MAC, forwards))
    }
}

/// Builds a guest into an empty directory.
fn build(recipe: &Recipe, directory: &Path) -> Result<()> {
    let base = base::tree()?;
    let scratch = tempfile::Builder::new()
        .prefix("work")
        .tempdir_in(directory)
        .context("making a scratch directory")?;
    let packed = tree::pack(recipe, &base, scratch.path())?;
    let listing =
        std::fs::read_to_string(&packed.initramfs_listing).context("reading the initramfs's listing")?;
    let drivers = initramfs::virtio_drivers(&listing);
    ensure!(drivers.is_empty(), "the initramfs of {} holds {drivers:?}: it would boot anywhere", recipe.name);
    builder::lay_out(recipe, &base, &packed.tar, &directory.join("disk.raw"))?;
    for kept in [&packed.initramfs_listing, &packed.host_key] {
        let name = kept.file_name().context("a kept file without a name")?;
        std::fs::copy(kept, directory.join(name)).with_context(|| format!("keeping {}", kept.display()))?;
    }
    if recipe.firmware.is_uefi() {
        store_boot_entries(directory)?;
    }
    Ok(())
}

/// Makes the variable stores that the guest's machine would have after its installation: OVMF's own, without and with
/// Microsoft's keys, each with a boot entry for Debian's shim.
fn store_boot_entries(directory: &Path) -> Result<()> {
    for (template, name) in [("OVMF_VARS_4M.fd", "vars.fd"), ("OVMF_VARS_4M.ms.fd", "vars.ms.fd")] {
        run(std::process::Command::new("virt-fw-vars")
            .args(["--input", &format!("/usr/share/OVMF/{template}"), "--output"])
            .arg(directory.join(name))
            .args(["--append-boot-filepath", r"\EFI\debian\shimx64.efi"]))?;
    }
    Ok(())
}
