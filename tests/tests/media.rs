//! Every way to start the appliance reaches its agent, without a role: nothing is touched, nobody asked.

use anyhow::Result;
use gantry_qemu::{Bus, Disk, Evidence, Firmware, Limit, Machine, Medium, Nic, NicModel};
use gantry_tests::appliance::Appliance;
use gantry_tests::crossing::{FATAL, READY};
use gantry_tests::junk;

/// Starts a machine with an old disk in it from a medium, and waits for the agent.
fn reaches_the_agent(test: &str, firmware: Firmware, medium: fn(std::path::PathBuf) -> Medium) -> Result<()> {
    let (appliance, evidence) = (Appliance::get()?, Evidence::new(test)?);
    let scratch = tempfile::tempdir()?;
    let (iso, disk) = (scratch.path().join("appliance.iso"), scratch.path().join("old.raw"));
    appliance.iso("", &iso)?;
    junk::make(&disk, 256 << 20, 7)?;
    let machine = Machine::new("machine", firmware)
        .disk(Disk::raw(disk, Bus::Ahci, "OLD0001").boot(1).throw_away())
        .nic(Nic::user(NicModel::E1000e, 2, "52:54:00:00:00:07", &[]))
        .medium(medium(iso));
    let mut running = machine.start(&evidence, &scratch.path().join("nvram.fd"))?;
    let ready = running.console.wait_unless(READY, FATAL, Limit::quiet(40))?;
    evidence.time("power-on to ready", ready.at)?;
    running.console.wait_unless("gantry: disk .* OLD0001", FATAL, Limit::quiet(10))?;
    running.screenshot("ready").map(drop)
}

fn stick(file: std::path::PathBuf) -> Medium {
    Medium::UsbStick { file, boot: 0 }
}

fn cd(file: std::path::PathBuf) -> Medium {
    Medium::Cd { file, boot: 0 }
}

#[test]
fn usb_stick_reaches_the_agent_on_bios() -> Result<()> {
    reaches_the_agent("usb-bios", Firmware::Bios, stick)
}

#[test]
fn usb_stick_reaches_the_agent_on_uefi() -> Result<()> {
    reaches_the_agent("usb-uefi", Firmware::Uefi, stick)
}

#[test]
fn usb_stick_reaches_the_agent_on_uefi_with_secure_boot_in_force() -> Result<()> {
    reaches_the_agent("usb-secure-boot", Firmware::SecureBoot, stick)
}

#[test]
fn cd_reaches_the_agent_on_bios() -> Result<()> {
    reaches_the_agent("cd-bios", Firmware::Bios, cd)
}
