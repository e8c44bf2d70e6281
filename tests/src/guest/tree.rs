//! A guest's file tree: the base with its packages and files on top, packed as a tar.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::proof;
use super::recipe::{Recipe, data};
use crate::shell::run;

/// What packing a tree yields.
pub(super) struct Packed {
    /// The whole tree.
    pub tar: PathBuf,
    /// The names in the guest's initramfs.
    pub initramfs_listing: PathBuf,
    /// The guest's public SSH host key.
    pub host_key: PathBuf,
}

/// Makes and packs the tree of a guest, using `work` as scratch space.
pub(super) fn pack(recipe: &Recipe, base: &Path, work: &Path) -> Result<Packed> {
    let generated = work.join("generated");
    proof::write(&generated)?;
    std::fs::create_dir_all(generated.join("etc")).context("making etc")?;
    std::fs::write(generated.join("etc/hostname"), format!("{}\n", recipe.name))
        .context("naming the host")?;
    let layers = [data("common").join("files"), data(recipe.name).join("files"), generated];
    make(base, work, &recipe.packages()?, &layers)?;
    Ok(Packed {
        tar: work.join("tree.tar"),
        initramfs_listing: work.join("initramfs.txt"),
        host_key: work.join("ssh_host_ed25519_key.pub"),
    })
}

/// Runs `tree.sh`, in mount and process namespaces of its own.
pub(super) fn make(base: &Path, work: &Path, packages: &str, layers: &[PathBuf]) -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh"]);
    command.arg(data("build").join("tree.sh")).args([base, work]).arg(packages).args(layers);
    run(&mut command).map(drop)
}
