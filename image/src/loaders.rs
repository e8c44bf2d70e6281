//! The boot loaders, out of Debian packages.
//!
//! GRUB comes from Debian 12 itself, not from backports: only there it gets security updates, and shim refuses a GRUB
//! whose SBAT generation is behind the revocations (`grub,5` since early 2025; the 2.12 in backports still says 4).

use std::path::Path;

use anyhow::{Context, Result, ensure};
use gantry_initramfs::compose::{Packages, program};

const SIGNED: &str = "grub-efi-amd64-signed";
const EFI_MODULES: &str = "grub-efi-amd64-bin";
const BIOS_MODULES: &str = "grub-pc-bin";
/// The folder of BIOS modules in its package.
const BIOS_FOLDER: &str = "usr/lib/grub/i386-pc";

/// What the BIOS images need to find their menu, show it on screen and serial line, and do what it says.
const MODULES: &[&str] = &[
    "all_video",
    "biosdisk",
    "boot",
    "cat",
    "chain",
    "configfile",
    "datehook",
    "drivemap",
    "echo",
    "fat",
    "halt",
    "help",
    "linux",
    "loadenv",
    "ls",
    "minicmd",
    "normal",
    "part_gpt",
    "part_msdos",
    "reboot",
    "regexp",
    "search",
    "search_fs_file",
    "search_label",
    "serial",
    "sleep",
    "smbios",
    "terminal",
    "test",
    "true",
];

/// Modules that the signed image lacks and the menu loads from the medium where that is allowed.
pub const EFI_EXTRA: &[&str] = &["datehook.mod"];

/// Everything UEFI firmware loads from a medium.
pub struct Efi {
    /// Debian's shim, signed by Microsoft.
    pub shim: Vec<u8>,
    /// Debian's GRUB for the medium, signed by Debian.
    pub grub: Vec<u8>,
    /// MokManager, which shim starts when keys are to be enrolled.
    pub mok_manager: Vec<u8>,
}

/// The kinds of GRUB images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For CDs and sticks; looks for `/.disk/info`, menu in `/boot/grub`.
    Medium,
    /// For the network; menu in `grub` at the top of the TFTP tree.
    Net,
}

/// The signed chain for UEFI.
pub fn efi(packages: &Packages, kind: Kind) -> Result<Efi> {
    let name = match kind {
        Kind::Medium => "gcdx64.efi.signed",
        Kind::Net => "grubnetx64.efi.signed",
    };
    Ok(Efi {
        shim: read(packages, "shim-signed", "usr/lib/shim/shimx64.efi.signed")?,
        grub: read(packages, SIGNED, &format!("usr/lib/grub/x86_64-efi-signed/{name}"))?,
        mok_manager: read(packages, "shim-helpers-amd64-signed", "usr/lib/shim/mmx64.efi.signed")?,
    })
}

/// A module for UEFI's GRUB; of the same version as the signed image, or it would not fit.
pub fn efi_module(packages: &Packages, name: &str) -> Result<Vec<u8>> {
    let version = |package: &str| Ok::<_, anyhow::Error>(packages.find(package)?.version);
    let (signed, modules) = (version(SIGNED)?, version(EFI_MODULES)?);
    ensure!(
        same_source(&signed, &modules),
        "{SIGNED} {signed} and {EFI_MODULES} {modules} are of different versions: apt-get update, then try again"
    );
    read(packages, EFI_MODULES, &format!("usr/lib/grub/x86_64-efi/{name}"))
}

/// `1+2.06+13+deb12u2` was made from `2.06-13+deb12u2`: the signed package counts its own revision in front.
fn same_source(signed: &str, modules: &str) -> bool {
    signed.split_once('+').is_some_and(|(_, source)| source == modules.replacen('-', "+", 1))
}

/// A GRUB image for BIOS.
pub fn bios(packages: &Packages, kind: Kind) -> Result<Vec<u8>> {
    let folder = packages.tree(BIOS_MODULES)?.join(BIOS_FOLDER);
    let output = tempfile::NamedTempFile::new().context("making a file for a GRUB image")?;
    let (format, prefix, own): (_, _, &[&str]) = match kind {
        Kind::Medium => ("i386-pc-eltorito", "/boot/grub", &["iso9660"]),
        Kind::Net => ("i386-pc-pxe", "/grub", &["pxe", "tftp"]),
    };
    let mut command = program(packages, "grub-common", "/usr/bin/grub-mkimage", "grub-mkimage")?;
    command
        .args(["-O", format, "-p", prefix, "-d"])
        .arg(folder)
        .arg("-o")
        .arg(output.path())
        .args(MODULES)
        .args(own);
    let status = command.status().context("running grub-mkimage")?;
    ensure!(status.success(), "grub-mkimage for {format}: {status}");
    std::fs::read(output.path()).context("reading the GRUB image")
}

/// The MBR code that lets BIOS start the ISO from a disk.
pub fn hybrid_mbr(packages: &Packages) -> Result<Vec<u8>> {
    read(packages, BIOS_MODULES, &format!("{BIOS_FOLDER}/boot_hybrid.img"))
}

fn read(packages: &Packages, package: &str, file: &str) -> Result<Vec<u8>> {
    let path = packages.tree(package)?.join(Path::new(file));
    std::fs::read(&path).with_context(|| format!("taking {file} from package {package}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_images_and_modules_are_told_apart_by_version() {
        assert!(same_source("1+2.06+13+deb12u2", "2.06-13+deb12u2"));
        assert!(!same_source("1+2.12+1~bpo12+1", "2.06-13+deb12u2"));
        assert!(!same_source("2.06", "2.06"));
    }
}
