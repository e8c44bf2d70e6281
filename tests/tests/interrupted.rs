//! What becomes of a crossing that is interrupted.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use gantry_qemu::{Firmware, Limit, Running};
use gantry_tests::crossing::{Crossing, Start};
use gantry_tests::guest::Recipe;
use gantry_tests::random::Random;

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

/// Waits until so many more bytes have gone to the target.
fn wait_for_bytes(crossing: &Crossing, more: u64) -> Result<()> {
    let (end, wanted) = (Instant::now() + Limit::quiet(120).duration(), crossing.proxy.bytes().0 + more);
    while crossing.proxy.bytes().0 < wanted {
        ensure!(Instant::now() < end, "the copy does not get on");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[test]
fn a_target_reset_in_the_middle_of_the_copy_does_not_boot_and_says_what_it_is() -> Result<()> {
    let mut crossing =
        Crossing::prepare("reset-in-the-copy", Recipe::bookworm_bios(), Firmware::Bios, Start::Kernel)?;
    let (target, code) = crossing.start_target()?;
    let source = crossing.start_source(&code)?;
    wait_for_bytes(&crossing, MIDDLE)?;
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

/// Everything dies once: the link twice, then the power of the source, then that of the target. Both machines come from the
/// network with nothing but kernel arguments, and go on.
#[test]
fn bios_machine_crosses_by_pxe_though_the_link_is_cut_and_either_machine_loses_power() -> Result<()> {
    let mut crossing =
        Crossing::prepare("crossing-bios-pxe", Recipe::bookworm_bios(), Firmware::Bios, Start::Network)?;
    let mut random = Random::from_environment("places of the cuts");
    let (mut target, code) = crossing.start_target()?;
    let mut source = crossing.start_source(&code)?;
    for _ in 0..2 {
        wait_for_bytes(&crossing, random.below(20 << 20) + (2 << 20))?;
        crossing.proxy.cut();
    }
    wait_for_bytes(&crossing, random.below(20 << 20) + (2 << 20))?;
    source.kill()?;
    source = crossing.start_source(&code)?;
    wait_for_bytes(&crossing, random.below(20 << 20) + (2 << 20))?;
    ensure!(!target.console.has_shown("exited with")?, "the copy was over before the target's power failed");
    target.kill()?;
    target = crossing.start_target_again(&code)?;
    let mut replica = crossing.hand_over(target)?;
    crossing.arrive(&mut replica)?;
    source.wait_end(Limit::quiet(20))?;
    crossing.source_is_unchanged()
}
