//! Finds the static libblkid. It is linked by hand because the binding crates need libclang at build time.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=GANTRY_BLKID_DIR");
    println!("cargo:rerun-if-changed=build.rs");
    let folder = std::env::var("GANTRY_BLKID_DIR").ok().or_else(from_pkg_config);
    let folder = PathBuf::from(folder.unwrap_or_else(|| "/usr/lib/x86_64-linux-gnu".to_owned()));
    if !folder.join("libblkid.a").exists() {
        println!(
            "cargo:warning=no libblkid.a in {}: install libblkid-dev (scripts/setup does) or set GANTRY_BLKID_DIR",
            folder.display()
        );
    }
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=static=blkid");
}

fn from_pkg_config() -> Option<String> {
    let output = Command::new("pkg-config").args(["--variable=libdir", "blkid"]).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !folder.is_empty()).then_some(folder)
}
