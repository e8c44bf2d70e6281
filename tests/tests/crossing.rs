//! Whole machines cross, and are seen to boot. BIOS by PXE is in `interrupted.rs`, with everything that can go wrong.

use anyhow::{Result, ensure};
use gantry_qemu::{Firmware, Limit};
use gantry_tests::crossing::{Arrival, Crossing, FATAL, READY, Start};
use gantry_tests::guest::Recipe;

/// What a kernel prints when UEFI's Secure Boot has locked it down.
const LOCKED_DOWN: &str = "Kernel is locked down from EFI Secure Boot";

/// The whole way, watched only.
fn cross(test: &str, recipe: Recipe, firmware: Firmware, start: Start) -> Result<Arrival> {
    Ok(cross_and_keep(test, recipe, firmware, start)?.1)
}

/// As [`cross`]; the disks are kept for what is asked of them afterwards. All machines are off.
fn cross_and_keep(
    test: &str,
    recipe: Recipe,
    firmware: Firmware,
    start: Start,
) -> Result<(Crossing, Arrival)> {
    let mut crossing = Crossing::prepare(test, recipe, firmware, start)?;
    let (target, code) = crossing.start_target()?;
    let source = crossing.start_source(&code)?;
    let locked = [source.console.has_shown(LOCKED_DOWN)?, target.console.has_shown(LOCKED_DOWN)?];
    ensure!(locked == [firmware == Firmware::SecureBoot; 2], "lockdown of source and target: {locked:?}");
    let mut replica = crossing.hand_over(target)?;
    let arrival = crossing.arrive(&mut replica)?;
    source.wait_end(Limit::quiet(20))?;
    replica.kill()?;
    crossing.source_is_unchanged()?;
    Ok((crossing, arrival))
}

#[test]
fn bios_machine_crosses_by_direct_kernel() -> Result<()> {
    cross("crossing-bios-kernel", Recipe::bookworm_bios(), Firmware::Bios, Start::Kernel).map(drop)
}

/// Two behaviours in one test: the second needs a finished replica, and that costs minutes.
#[test]
fn bios_machine_crosses_by_iso_and_booted_as_a_source_later_does_not_start_its_old_disk() -> Result<()> {
    let (crossing, _) =
        cross_and_keep("crossing-bios-iso", Recipe::bookworm_bios(), Firmware::Bios, Start::Cd)?;
    // The former target with its finished disk and its mark, still live, and a medium that would start it, were it not
    // made a source's by hand. (A medium that is made for sources does not even look.)
    let mut machine = crossing.target_machine();
    machine.name = "former-target".into();
    let arguments = format!("gantry.role=send gantry.target=10.0.2.2:{}", crossing.proxy.port());
    let code = "gantry.code=BBBB-BBBB-BBBB-BBBB-BBBB";
    let mut former = crossing.switch_on_by_edited_tree(machine, &format!("{arguments} {code}"))?;
    let booted = format!("{FATAL}|GUEST-PROOF|login:");
    former.console.wait_unless(READY, &booted, Limit::quiet(40)).map(drop)
}

#[test]
fn uefi_machine_crosses_by_iso() -> Result<()> {
    cross("crossing-uefi-iso", Recipe::bookworm_uefi(), Firmware::Uefi, Start::Cd).map(drop)
}

#[test]
fn uefi_machine_crosses_by_iso_with_secure_boot_in_force() -> Result<()> {
    let arrival =
        cross("crossing-secure-boot-iso", Recipe::bookworm_uefi(), Firmware::SecureBoot, Start::Cd)?;
    ensure!(arrival.lockdown == "integrity", "the replica's kernel says lockdown={}", arrival.lockdown);
    Ok(())
}

#[test]
fn uefi_machine_crosses_by_pxe() -> Result<()> {
    cross("crossing-uefi-pxe", Recipe::bookworm_uefi(), Firmware::Uefi, Start::Network).map(drop)
}
