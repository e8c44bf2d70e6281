//! The whole initramfs, from real Debian packages: the same bytes each time, and everything in it that must be.
//!
//! Needs apt's lists; downloads about 120 MB into the cache the first time.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use gantry_initramfs::compose::{Packages, cache_directory, compose};

/// What cpio lists in an archive.
fn listing(archive: &[u8]) -> Result<Vec<String>> {
    let mut cpio = Command::new("cpio")
        .args(["--list", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cpio is among the packages of scripts/setup")?;
    let mut input = cpio.stdin.take().context("no input for cpio")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut input, archive));
        cpio.wait_with_output()
    })?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

#[test]
fn composing_twice_gives_the_same_bytes_and_all_that_is_promised() -> Result<()> {
    // Any static program will do as the appliance's first process; this test is one.
    let program = std::env::current_exe()?;
    let cache = cache_directory()?;
    let boot = compose(&Packages::new(&cache)?, &program)?;
    let again = compose(&Packages::new(&cache)?, &program)?;
    assert!(boot.initrd == again.initrd, "two initramfs from the same inputs differ");
    assert!(boot.vmlinuz == again.vmlinuz, "two kernels from the same package differ");

    let names = listing(&boot.initrd)?;
    let library = "usr/lib/x86_64-linux-gnu";
    for wanted in [
        "init".to_owned(),
        "usr/bin/gantry".to_owned(),
        "usr/sbin/modprobe".to_owned(),
        "usr/sbin/e2fsck".to_owned(),
        "usr/sbin/fsck.fat".to_owned(),
        format!("{library}/libext2fs.so.2"),
        format!("{library}/libc.so.6"),
        "usr/lib64/ld-linux-x86-64.so.2".to_owned(),
        format!("usr/lib/modules/{}/kernel/drivers/ata/ahci.ko.xz", boot.release),
    ] {
        assert!(names.contains(&wanted), "{wanted} is missing");
    }
    assert!(boot.initrd.len() < (80 << 20), "{} bytes are too many for small machines", boot.initrd.len());
    Ok(())
}

#[test]
fn a_dynamic_program_is_refused_as_first_process() -> Result<()> {
    let Err(error) = compose(&Packages::new(&cache_directory()?)?, "/bin/ls".as_ref()) else {
        anyhow::bail!("a program with libraries was accepted as first process");
    };
    assert!(error.to_string().contains("not a static program"), "{error}");
    Ok(())
}
