//! Build programs out of Debian packages, run where they were unpacked.
//!
//! What grub-mkimage, xorriso or depmod write must not depend on the version this machine happens to have installed. So
//! they are fetched like everything else and started through their own loader with their own libraries.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::libraries;
use super::packages::Packages;

const LOADER: &str = "ld-linux-x86-64.so.2";

/// A command that runs `file` (an absolute path in `package`) under the name `name`.
pub fn program(packages: &Packages, package: &str, file: &str, name: &str) -> Result<Command> {
    // What builds the image is not part of it.
    let packages = &packages.apart()?;
    let path = packages.tree(package)?.join(file.trim_start_matches('/'));
    let libraries = libraries::closure(packages, &[(package.to_owned(), path.clone())])
        .with_context(|| format!("collecting the libraries of {name}"))?;
    let loader = libraries.get(LOADER).with_context(|| format!("{name} has no loader"))?;
    let places: BTreeSet<&Path> = libraries.values().filter_map(|library| library.parent()).collect();
    let places = std::env::join_paths(places).context("naming the places of libraries")?;
    let mut command = Command::new(loader);
    command.arg("--library-path").arg(places).args(["--argv0", name]).arg(path);
    command.env("LC_ALL", "C").env("TZ", "UTC");
    Ok(command)
}
