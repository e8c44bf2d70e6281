//! What a target is while its replica is not finished, and after it has been.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use gantry_qemu::{Firmware, Limit, Running};
use gantry_tests::crossing::{Crossing, FATAL, READY, Start};
use gantry_tests::guest::Recipe;

/// Bytes that have crossed when the plug is pulled: well within the copy.
const MIDDLE: u64 = 60 << 20;

/// Waits until the screen shows `text`.
fn wait_for_screen(machine: &mut Running, text: &str, limit: Limit) -> Result<()> {
    let end = Instant::now() + limit.duration();
    loop {
        let screen = machine.vga_text()?;
        if screen.contains(text) {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("the screen never showed {text:?}, but:\n{screen}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_target_reset_in_the_middle_of_the_copy_does_not_boot_and_says_what_it_is() -> Result<()> {
    let mut crossing =
        Crossing::prepare("reset-in-the-copy", Recipe::bookworm_bios(), Firmware::Bios, Start::Kernel)?;
    let (target, code) = crossing.start_target()?;
    let source = crossing.start_source(&code)?;
    let end = Instant::now() + Limit::quiet(120).duration();
    while crossing.proxy.bytes().0 < MIDDLE {
        ensure!(Instant::now() < end, "the copy does not get going");
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(!target.console.has_shown("exited with")?, "the copy was over before the reset");
    target.kill()?;
    source.kill()?;

    let mut machine = crossing.target_machine();
    machine.name = "after-reset".into();
    let mut after = machine.start(&crossing.evidence, &crossing.file("target.fd"))?;
    wait_for_screen(&mut after, "unfinished replica", Limit::quiet(20))?;
    after.screenshot("label")?;
    ensure!(!after.console.has_shown("GNU GRUB|Linux version")?, "something was booted all the same");
    crossing.source_is_unchanged()
}

#[test]
fn a_former_target_booted_as_a_source_does_not_start_its_old_disk() -> Result<()> {
    let mut crossing =
        Crossing::prepare("target-as-source", Recipe::bookworm_bios(), Firmware::Bios, Start::Cd)?;
    let (target, code) = crossing.start_target()?;
    let source = crossing.start_source(&code)?;
    let mut replica = crossing.hand_over(target)?;
    crossing.arrive(&mut replica)?;
    replica.kill()?;
    source.kill()?;
    // The same machine, its finished disk and its live mark, started by a medium that makes it a source.
    let arguments =
        format!("gantry.role=send gantry.target=10.0.2.2:{} gantry.code={code}", crossing.proxy.port());
    let mut machine = crossing.target_machine();
    machine.name = "former-target".into();
    let mut former = crossing.switch_on(machine, &arguments)?;
    former.console.wait_unless(READY, &format!("{FATAL}|GUEST-PROOF|login:"), Limit::quiet(40))?;
    Ok(())
}
