//! `gantry image`: builds boot media.

use std::process::ExitCode;

/// Build boot media: ISO (also for USB sticks), PXE tree.
#[derive(clap::Subcommand)]
pub enum Command {
    /// One hybrid ISO: BIOS, UEFI, UEFI Secure Boot, CD or USB stick.
    Iso,
}

pub fn run(_command: Command) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
