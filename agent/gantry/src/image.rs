//! `gantry image`: builds boot media.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use gantry_initramfs::compose::{Boot, Packages, cache_directory, compose};

/// Build boot media: ISO (also for USB sticks), PXE tree.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Kernel and initramfs, for a direct kernel boot.
    Initramfs {
        /// Directory that gets `vmlinuz` and `initrd`.
        #[arg(long)]
        output: PathBuf,
        #[command(flatten)]
        program: Program,
    },
}

/// Which program becomes the appliance.
#[derive(clap::Args)]
pub struct Program {
    /// The static gantry binary to put in; by default the one that is running.
    #[arg(long, value_name = "FILE")]
    gantry: Option<PathBuf>,
}

impl Program {
    fn compose(&self) -> Result<Boot> {
        let own = std::env::current_exe().context("finding the running program")?;
        let packages = Packages::new(&cache_directory()?)?;
        compose(&packages, self.gantry.as_deref().unwrap_or(&own)).context("composing the initramfs")
    }
}

pub fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Initramfs { output, program } => {
            let boot = program.compose()?;
            std::fs::create_dir_all(&output).with_context(|| format!("making {}", output.display()))?;
            write(&output.join("vmlinuz"), &boot.vmlinuz)?;
            write(&output.join("initrd"), &boot.initrd)?;
            println!("Linux {} with {} modules", boot.release, boot.modules);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
    println!("{}: {:.1} MB", path.display(), content.len() as f64 / 1e6);
    Ok(())
}
