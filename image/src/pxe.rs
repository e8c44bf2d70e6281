//! The PXE tree: what a TFTP server hands out to BIOS and UEFI machines.
//!
//! Both ways use GRUB and the same menu, so that the hand-over works from the network too (an iPXE script could not read
//! a mark). `README` in the tree says how to serve it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use gantry_initramfs::compose::{Boot, Packages};

use crate::baked::Baked;
use crate::loaders::{self, Kind};
use crate::menu::{Medium, menu};

const README: &str = "\
Gantry: network boot tree
=========================

Serve this directory as the root of a TFTP server (GRUB looks for /grub/grub.cfg there) and name as boot file

  BIOS machines   grub-bios.pxe
  UEFI machines   shimx64.efi      (Secure Boot may stay on)

With dnsmasq:

  enable-tftp
  tftp-root=/srv/gantry
  dhcp-match=set:efi64,option:client-arch,7
  dhcp-match=set:efi64,option:client-arch,9
  dhcp-boot=tag:efi64,shimx64.efi
  dhcp-boot=tag:!efi64,grub-bios.pxe

Beside another DHCP server: dhcp-range=192.168.1.0,proxy and pxe-service lines instead of dhcp-boot.
The appliance's arguments are the variable gantry_arguments at the top of grub/grub.cfg: change them there, so that the
menu knows of them too. `gantry image pxe --args` writes them for you.
";

/// Makes the tree in `output`, over what an earlier run left there.
pub fn build(packages: &Packages, boot: &Boot, baked: &Baked, output: &Path) -> Result<()> {
    let put = |path: &str, content: &[u8]| {
        let path = output.join(path);
        fs::create_dir_all(path.parent().unwrap_or(output))
            .and_then(|()| fs::write(&path, content))
            .with_context(|| format!("writing {}", path.display()))
    };
    let efi = loaders::efi(packages, Kind::Net)?;
    put("vmlinuz", &boot.vmlinuz)?;
    put("initrd", &boot.initrd)?;
    put("shimx64.efi", &efi.shim)?;
    put("grubx64.efi", &efi.grub)?;
    put("mmx64.efi", &efi.mok_manager)?;
    put("grub-bios.pxe", &loaders::bios(packages, Kind::Net)?)?;
    for module in loaders::EFI_EXTRA {
        put(&format!("grub/x86_64-efi/{module}"), &loaders::efi_module(packages, module)?)?;
    }
    put("grub/grub.cfg", menu(Medium::Net, baked).as_bytes())?;
    put("README", README.as_bytes())
}
