//! The appliance under test: boot media made by the `gantry` command itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cache::{self, Key};
use crate::shell::run;

/// Names another `gantry` program to test.
const PROGRAM: &str = "GANTRY_BIN";
/// Where a release build leaves it, from the workspace's root.
const RELEASE: &str = "target/x86_64-unknown-linux-gnu/release/gantry";
/// What every kernel line of a test says. A kernel that panics ends the run. Under load the emulated timer is now and then late
/// enough for the kernel to panic with "IO-APIC + timer doesn't work!": it is told not to check.
pub const EVERY_LINE: &str = "panic=5 no_timer_check";
/// What a direct boot says besides: all messages on the serial port. Media bring that themselves.
pub const CONSOLE: &str = "console=tty0 console=ttyS0";

/// A built appliance.
#[derive(Clone, Debug)]
pub struct Appliance {
    program: PathBuf,
    boot: PathBuf,
}

impl Appliance {
    /// Kernel and initramfs around the release build of `gantry` (or `GANTRY_BIN`), from the cache or made now.
    ///
    /// # Errors
    /// When the program has not been built, or refuses.
    pub fn get() -> Result<Self> {
        let program = std::env::var_os(PROGRAM)
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(RELEASE), PathBuf::from);
        let bytes = std::fs::read(&program).with_context(|| {
            format!("reading {}; make it: cargo build --release -p gantry", program.display())
        })?;
        let boot = cache::entry("tests/boot", &Key::default().with(&bytes), |directory| {
            run(Command::new(&program).args(["image", "initramfs", "--output"]).arg(directory)).map(drop)
        })?;
        Ok(Self { program, boot })
    }

    /// The kernel, for a direct boot.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.boot.join("vmlinuz")
    }

    /// The initramfs, for a direct boot.
    #[must_use]
    pub fn initramfs(&self) -> PathBuf {
        self.boot.join("initrd")
    }

    /// Makes an ISO with these kernel arguments baked in.
    ///
    /// # Errors
    /// When `gantry image iso` fails.
    pub fn iso(&self, arguments: &str, file: &Path) -> Result<()> {
        self.make("iso", arguments, file)?;
        ensure!(file.is_file(), "gantry image iso made no {}", file.display());
        Ok(())
    }

    /// Makes a TFTP tree with these kernel arguments baked in.
    ///
    /// # Errors
    /// When `gantry image pxe` fails.
    pub fn pxe(&self, arguments: &str, tree: &Path) -> Result<()> {
        self.make("pxe", arguments, tree)?;
        ensure!(tree.is_dir(), "gantry image pxe made no {}", tree.display());
        Ok(())
    }

    fn make(&self, kind: &str, arguments: &str, output: &Path) -> Result<()> {
        let line = format!("{EVERY_LINE} {arguments}");
        run(Command::new(&self.program).args(["image", kind, "--args", &line, "--output"]).arg(output))
            .map(drop)
    }
}
