//! What a machine starts with: SeaBIOS, or OVMF without and with Secure Boot.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where Debian's `ovmf` package keeps its images.
const OVMF: &str = "/usr/share/OVMF";

/// The firmware of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which QEMU brings along.
    Bios,
    /// OVMF, Secure Boot not set up.
    Uefi,
    /// OVMF with Microsoft's keys enrolled and Secure Boot in force; needs SMM, which TCG emulates.
    SecureBoot,
}

impl Firmware {
    /// Whether this is UEFI of either kind.
    #[must_use]
    pub fn is_uefi(self) -> bool {
        self != Self::Bios
    }

    /// QEMU's `-machine` value. USB off: a machine has an xHCI controller only when it carries a USB stick.
    pub(crate) fn machine(self) -> &'static str {
        match self {
            Self::Bios | Self::Uefi => "q35,usb=off",
            Self::SecureBoot => "q35,usb=off,smm=on",
        }
    }

    /// The arguments that plug the firmware in, with `variables` as this machine's own variable store.
    pub(crate) fn arguments(self, variables: &Path) -> Vec<String> {
        let Some(code) = self.code() else { return Vec::new() };
        let mut arguments = Vec::new();
        if self == Self::SecureBoot {
            // Only SMM may write the variables, or an operating system could enrol keys of its own.
            arguments.extend(["-global", "driver=cfi.pflash01,property=secure,value=on"].map(String::from));
            arguments.extend(["-global", "ICH9-LPC.disable_s3=1"].map(String::from));
        }
        arguments.push("-drive".into());
        arguments.push(format!("if=pflash,unit=0,format=raw,readonly=on,file={}", code.display()));
        arguments.push("-drive".into());
        arguments.push(format!("if=pflash,unit=1,format=raw,file={}", variables.display()));
        arguments
    }

    /// Makes `variables` a fresh variable store unless it is there already; one that is there is the machine's memory.
    ///
    /// # Errors
    /// When the `ovmf` package is not installed or the file cannot be written.
    pub fn prepare(self, variables: &Path) -> Result<()> {
        let Some(template) = self.template() else { return Ok(()) };
        if !variables.exists() {
            std::fs::copy(&template, variables)
                .with_context(|| format!("copying {} (package ovmf)", template.display()))?;
        }
        Ok(())
    }

    fn code(self) -> Option<PathBuf> {
        match self {
            Self::Bios => None,
            Self::Uefi => Some(Path::new(OVMF).join("OVMF_CODE_4M.fd")),
            Self::SecureBoot => Some(Path::new(OVMF).join("OVMF_CODE_4M.ms.fd")),
        }
    }

    fn template(self) -> Option<PathBuf> {
        match self {
            Self::Bios => None,
            Self::Uefi => Some(Path::new(OVMF).join("OVMF_VARS_4M.fd")),
            Self::SecureBoot => Some(Path::new(OVMF).join("OVMF_VARS_4M.ms.fd")),
        }
    }
}
