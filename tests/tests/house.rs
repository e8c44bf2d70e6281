//! The house: the binary is static and runs on the oldest x86-64; licences fit.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Licences that a dependency may have. An expression with OR needs one of them, with AND all.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unicode-3.0",
    "Unlicense",
    "MIT-0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
];

fn gantry() -> PathBuf {
    let release = "../target/x86_64-unknown-linux-gnu/release/gantry";
    std::env::var_os("GANTRY_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(release), PathBuf::from)
}

fn is_static(program: &Path) -> Result<bool> {
    let output =
        Command::new("readelf").args(["--wide", "--program-headers", "--dynamic"]).arg(program).output()?;
    ensure!(output.status.success(), "readelf {}", program.display());
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(!text.contains("INTERP") && !text.contains("NEEDED"))
}

#[test]
fn the_binary_is_static() -> Result<()> {
    ensure!(is_static(&gantry())?, "gantry needs a loader or libraries");
    ensure!(!is_static(Path::new("/usr/bin/readelf"))?, "the check calls a dynamic program static");
    Ok(())
}

/// Runs the program on an emulated processor; false if it dies of an unknown instruction.
fn runs_on(cpu: &str, program: &Path, arguments: &[&str]) -> Result<bool> {
    let status = Command::new("qemu-x86_64").args(["-cpu", cpu]).arg(program).args(arguments).output();
    Ok(status.context("running qemu-x86_64")?.status.success())
}

/// The first x86-64: SSE2 and nothing later. Hashing, comparing and copying are where vector code would be.
#[test]
fn the_binary_runs_on_the_oldest_x86_64() -> Result<()> {
    const OLDEST: &str = "qemu64,-pni,-cx16,-svm,-lahf-lm,-abm,-sse4a,-popcnt";
    let scratch = tempfile::tempdir()?;
    let [a, b] = ["a", "b"].map(|name| scratch.path().join(name).display().to_string());
    std::fs::write(&a, (0..3 << 20).map(|i: u32| (i / 99) as u8).collect::<Vec<_>>())?;
    ensure!(runs_on(OLDEST, &gantry(), &["copy", &a, &b])?, "gantry copy fails on {OLDEST}");
    ensure!(runs_on(OLDEST, &gantry(), &["verify", &a, &b])?, "gantry verify fails on {OLDEST}");

    let newer = scratch.path().join("newer");
    let source = scratch.path().join("newer.c");
    std::fs::write(&source, "int main(int c, char **v) { return __builtin_popcount(c) - 1; }")?;
    let built =
        Command::new("cc").args(["-static", "-O1", "-mpopcnt", "-o"]).arg(&newer).arg(&source).status()?;
    ensure!(built.success(), "building the negative control");
    ensure!(runs_on("max", &newer, &[])?, "the negative control fails on a new processor too");
    ensure!(!runs_on(OLDEST, &newer, &[])?, "the emulated processor is not as old as it should be");
    Ok(())
}

fn fits(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let one = |term: &str| LICENCES.contains(&term.split_whitespace().collect::<Vec<_>>().join(" ").as_str());
    expression.split(" AND ").all(|all| all.split(" OR ").any(one))
}

#[test]
fn every_dependency_has_a_licence_that_fits() -> Result<()> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("running cargo metadata")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    ensure!(packages.len() > 50, "only {} packages", packages.len());
    let misfits: Vec<String> = packages
        .iter()
        .filter(|package| !fits(package["license"].as_str().unwrap_or("none")))
        .map(|package| format!("{} {}", package["name"], package["license"]))
        .collect();
    ensure!(misfits.is_empty(), "{misfits:?}");
    ensure!(
        !fits("GPL-3.0-only") && !fits("MIT AND GPL-2.0") && fits("GPL-2.0 OR MIT"),
        "the check is blind"
    );
    Ok(())
}
