//! The guests on the hardware they were installed on, and, unrepaired, on hardware they do not know.

use anyhow::Result;
use gantry_qemu::{Bus, Evidence, Firmware, Limit, Machine, Nic, NicModel, Running};
use gantry_tests::guest::{Guest, NO_ROOT, PROOF, Recipe, SOURCE_MAC, SOURCE_SLOT};

/// From power-on to the guest's proof, on a quiet machine.
const BOOT: u32 = 45;

fn start(guest: &Guest, machine: &Machine, evidence: &Evidence) -> Result<Running> {
    let variables = evidence.directory().join("nvram.fd");
    guest.variables(machine.firmware, &variables)?;
    machine.start(evidence, &variables)
}

/// The guest on AHCI and e1000e: it must come up whole. Returns the lockdown state that its kernel reports.
fn boots_on_its_own_hardware(recipe: Recipe, firmware: Firmware, test: &str) -> Result<String> {
    let (guest, evidence) = (Guest::get(recipe)?, Evidence::new(test)?);
    let machine = Guest::source_machine("source", firmware, &[]).disk(guest.throw_away(Bus::Ahci));
    let mut running = start(&guest, &machine, &evidence)?;
    let proof = running.console.wait_unless(PROOF, NO_ROOT, Limit::quiet(BOOT))?;
    evidence.time("power-on to proof", proof.at)?;
    running.screenshot("up")?;
    assert_eq!(proof.group(1), "ok", "files");
    assert_eq!(proof.group(2), "10.0.2.15/24", "network");
    assert_eq!(proof.group(5), recipe.root, "root");
    Ok(proof.group(4).to_owned())
}

/// The same disk on virtio-blk, the network card left as it was: the initramfs must not find it.
fn does_not_boot_on_virtio(recipe: Recipe, test: &str) -> Result<()> {
    let (guest, evidence) = (Guest::get(recipe)?, Evidence::new(test)?);
    let nic = Nic::user(NicModel::E1000e, SOURCE_SLOT, SOURCE_MAC, &[]);
    let machine = Machine::new("target", recipe.firmware).disk(guest.throw_away(Bus::VirtioBlk)).nic(nic);
    let mut running = start(&guest, &machine, &evidence)?;
    // The boot loader and the kernel do come up: it is the missing driver that ends it.
    running.console.wait_unless(r"Linux version", "GUEST-PROOF", Limit::quiet(30))?;
    let seen = running.console.wait_unless(NO_ROOT, "GUEST-PROOF|login:", Limit::quiet(70))?;
    evidence.time("power-on to failure", seen.at)?;
    running.screenshot("stuck")?;
    Ok(())
}

#[test]
fn bios_guest_boots_on_its_own_hardware() -> Result<()> {
    let lockdown = boots_on_its_own_hardware(Recipe::bookworm_bios(), Firmware::Bios, "bios-guest-source")?;
    assert_eq!(lockdown, "none");
    Ok(())
}

#[test]
fn bios_guest_unrepaired_does_not_boot_on_virtio() -> Result<()> {
    does_not_boot_on_virtio(Recipe::bookworm_bios(), "bios-guest-unrepaired")
}

#[test]
fn uefi_guest_boots_on_its_own_hardware() -> Result<()> {
    let lockdown = boots_on_its_own_hardware(Recipe::bookworm_uefi(), Firmware::Uefi, "uefi-guest-source")?;
    assert_eq!(lockdown, "none");
    Ok(())
}

#[test]
fn uefi_guest_boots_on_its_own_hardware_with_secure_boot_in_force() -> Result<()> {
    let firmware = Firmware::SecureBoot;
    let lockdown =
        boots_on_its_own_hardware(Recipe::bookworm_uefi(), firmware, "uefi-guest-source-secure-boot")?;
    assert_eq!(lockdown, "integrity");
    Ok(())
}

#[test]
fn uefi_guest_unrepaired_does_not_boot_on_virtio() -> Result<()> {
    does_not_boot_on_virtio(Recipe::bookworm_uefi(), "uefi-guest-unrepaired")
}
