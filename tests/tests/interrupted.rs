//! What becomes of a crossing that is interrupted.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use gantry_qemu::{Firmware, Limit, Running};
use gantry_tests::crossing::{Crossing, Start};
use gantry_tests::guest::Recipe;
use gantry_tests::random::Random;

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

/// A target in whose disk half a copy lies is started from that disk: it does not boot, and says what it is.
fn is_no_system_yet(crossing: &Crossing) -> Result<()> {
    let mut machine = crossing.target_machine();
    machine.name = "half-a-copy".into();
    let mut half = machine.start(&crossing.evidence, &crossing.file("half-a-copy.fd"))?;
    wait_for_screen(&mut half, "unfinished replica", Limit::quiet(20))?;
    half.screenshot("label")?;
    ensure!(!half.console.has_shown("GNU GRUB|Linux version")?, "something was booted all the same");
    half.kill()
}

/// Everything dies once: the link twice, then the power of the source, then that of the target, whose disk is no system yet.
/// Both machines come from the network with nothing but kernel arguments, and go on.
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
    is_no_system_yet(&crossing)?;
    target = crossing.start_target_again(&code)?;
    let mut replica = crossing.hand_over(target)?;
    crossing.arrive(&mut replica)?;
    source.wait_end(Limit::quiet(20))?;
    crossing.source_is_unchanged()
}
