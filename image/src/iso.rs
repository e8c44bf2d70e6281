//! The hybrid ISO: one file for CD, DVD, virtual media and USB sticks, for BIOS, UEFI and Secure Boot.
//!
//! ```text
//! MBR     GRUB's hybrid boot code: BIOS from a stick       GPT     names the EFI image: UEFI from a stick
//! ISO     El Torito entry 1: GRUB for BIOS from a CD       El Torito entry 2: the EFI image: UEFI from a CD
//!         /live/{vmlinuz,initrd}  /boot/grub/grub.cfg  /.disk/info (by which Debian's GRUB knows the medium)
//! ```

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use gantry_initramfs::compose::{Boot, Packages, program};

use crate::baked::Baked;
use crate::loaders::{self, Kind};
use crate::menu::{Medium, menu};
use crate::{VOLUME, esp, source_date};

/// Makes the ISO at `output`. It appears there whole or not at all.
pub fn build(packages: &Packages, boot: &Boot, baked: &Baked, output: &Path) -> Result<()> {
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent).context("making a working directory beside the ISO")?;
    let tree = work.path().join("tree");
    let put = |path: &str, content: &[u8]| {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&tree))
            .and_then(|()| fs::write(&path, content))
            .with_context(|| format!("writing {}", path.display()))
    };
    put("live/vmlinuz", &boot.vmlinuz)?;
    put("live/initrd", &boot.initrd)?;
    put(".disk/info", format!("Gantry {} appliance\n", env!("CARGO_PKG_VERSION")).as_bytes())?;
    put("boot/grub/grub.cfg", menu(Medium::Iso, baked).as_bytes())?;
    put("boot/grub/i386-pc/eltorito.img", &loaders::bios(packages, Kind::Medium)?)?;
    for module in loaders::EFI_EXTRA {
        put(&format!("boot/grub/x86_64-efi/{module}"), &loaders::efi_module(packages, module)?)?;
    }
    let (mbr, efi) = (work.path().join("hybrid.img"), work.path().join("efi.img"));
    fs::write(&mbr, loaders::hybrid_mbr(packages)?).context("writing the boot code")?;
    fs::write(&efi, esp::image(&loaders::efi(packages, Kind::Medium)?)?).context("writing the EFI image")?;

    let unfinished = work.path().join("iso");
    let mut xorriso = program(packages, "xorriso", "/usr/bin/xorriso", "xorriso")?;
    xorriso.env("SOURCE_DATE_EPOCH", source_date());
    xorriso.args(["-as", "mkisofs", "-quiet", "-r", "-V", VOLUME, "-o"]).arg(&unfinished);
    xorriso.arg("--set_all_file_dates").arg(format!("={}", source_date()));
    xorriso.arg("--grub2-mbr").arg(&mbr).args(["-partition_offset", "16", "--mbr-force-bootable"]);
    xorriso.args(["-append_partition", "2", "0xef"]).arg(&efi).arg("-appended_part_as_gpt");
    xorriso.args(["-c", "boot.catalog", "-b", "boot/grub/i386-pc/eltorito.img", "-no-emul-boot"]);
    xorriso.args(["-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info", "-eltorito-alt-boot"]);
    xorriso.args(["-e", "--interval:appended_partition_2:all::", "-no-emul-boot"]).arg(&tree);
    let result = xorriso.output().context("running xorriso")?;
    ensure!(result.status.success(), "xorriso: {}", String::from_utf8_lossy(&result.stderr).trim());
    fs::rename(&unfinished, output).with_context(|| format!("putting {} into place", output.display()))
}
