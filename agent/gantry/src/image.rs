//! `gantry image`: builds boot media.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use gantry_image::baked::Baked;
use gantry_image::{iso, pxe};
use gantry_initramfs::compose::{Boot, Packages, cache_directory, compose};

use crate::report;

/// Build boot media: ISO (also for USB sticks), PXE tree.
#[derive(clap::Subcommand)]
pub enum Command {
    /// One hybrid ISO: BIOS, UEFI, UEFI Secure Boot, from CD or written raw to a USB stick.
    Iso {
        /// The ISO to write.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        content: Content,
    },
    /// A tree for a TFTP server: BIOS, UEFI, UEFI Secure Boot.
    Pxe {
        /// The directory to fill.
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        content: Content,
    },
    /// Kernel and initramfs alone, for a direct kernel boot.
    Initramfs {
        /// Directory that gets `vmlinuz` and `initrd`.
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
        #[command(flatten)]
        program: Program,
    },
}

/// What goes on a medium.
#[derive(clap::Args)]
pub struct Content {
    /// Kernel arguments for unattended use, such as `gantry.role=receive`; see docs/appliance.md.
    #[arg(long, alias = "arguments", default_value = "", value_name = "ARGUMENTS")]
    args: String,
    #[command(flatten)]
    program: Program,
}

/// Which program becomes the appliance.
#[derive(clap::Args)]
pub struct Program {
    /// The static gantry binary to put in; by default the one that is running.
    #[arg(long, value_name = "FILE")]
    gantry: Option<PathBuf>,
}

impl Program {
    fn compose(&self, packages: &Packages) -> Result<Boot> {
        let own = std::env::current_exe().context("finding the running program")?;
        let boot =
            compose(packages, self.gantry.as_deref().unwrap_or(&own)).context("composing the initramfs")?;
        println!(
            "Linux {}, {} modules, initramfs {:.1} MB",
            boot.release,
            boot.modules,
            boot.initrd.len() as f64 / 1e6
        );
        Ok(boot)
    }
}

/// Runs `gantry image`.
pub fn run(command: Command) -> Result<ExitCode> {
    if let Command::Iso { output, .. } = &command {
        report::try_place(output)?;
    }
    let cache = cache_directory()?;
    let packages = Packages::new(&cache)?;
    if packages.is_empty()? {
        println!("fetching Debian packages into {}: this takes a few minutes, once", cache.display());
    }
    let output = match &command {
        Command::Iso { output, content } => {
            let baked = Baked::new(&content.args)?;
            iso::build(&packages, &content.program.compose(&packages)?, &baked, output)?;
            output
        }
        Command::Pxe { output, content } => {
            let baked = Baked::new(&content.args)?;
            pxe::build(&packages, &content.program.compose(&packages)?, &baked, output)?;
            output
        }
        Command::Initramfs { output, program } => {
            let boot = program.compose(&packages)?;
            std::fs::create_dir_all(output).with_context(|| format!("making {}", output.display()))?;
            write(&output.join("vmlinuz"), &boot.vmlinuz)?;
            write(&output.join("initrd"), &boot.initrd)?;
            output
        }
    };
    println!("{} is ready", output.display());
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}
