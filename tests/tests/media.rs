//! Every way to start the appliance reaches its agent, without a role: nothing is touched, nobody asked.

use anyhow::{Result, ensure};
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

/// With a fixed address and disks on buses that no other test has; and once it is up, the medium is pulled: everything that is
/// needed from then on is in memory.
#[test]
fn cd_reaches_the_agent_on_bios_and_is_not_needed_any_more() -> Result<()> {
    let (appliance, evidence) = (Appliance::get()?, Evidence::new("cd-bios")?);
    let scratch = tempfile::tempdir()?;
    let iso = scratch.path().join("appliance.iso");
    appliance.iso("gantry.ip=10.0.2.77/24,10.0.2.2,10.0.2.3", &iso)?;
    let disk = |name: &str, bus: Bus| -> Result<Disk> {
        let file = scratch.path().join(name);
        junk::make(&file, 256 << 20, 7)?;
        Ok(Disk::raw(file, bus, name))
    };
    let machine = Machine::new("machine", Firmware::Bios)
        .disk(disk("NVME0001", Bus::Nvme)?)
        .disk(disk("SCSI0001", Bus::VirtioScsi)?)
        .nic(Nic::user(NicModel::E1000e, 2, "52:54:00:00:00:07", &[]))
        .medium(Medium::Cd { file: iso, boot: 0 });
    let mut running = machine.start(&evidence, &scratch.path().join("nvram.fd"))?;
    running.console.wait_unless(READY, FATAL, Limit::quiet(40))?;
    running.console.wait_unless("gantry: boot medium", FATAL, Limit::quiet(10))?;
    for line in ["network eth0 10.0.2.77/24", "disk .* NVME0001", "disk .* SCSI0001"] {
        ensure!(running.console.has_shown(&format!("gantry: {line}"))?, "no {line:?} on the console");
    }
    running.eject()?;
    running.console.type_text("\n")?;
    running.console.wait_unless("# ", FATAL, Limit::quiet(10))?;
    // A tool of repair with its libraries, a driver, and the program itself.
    running
        .console
        .type_text("e2fsck -V; /sbin/modprobe xfs && grep -c xfs /proc/modules; gantry --version\n")?;
    for said in ["Using EXT2FS Library", r"(?m)^[1-9]\r?$", r"gantry \d+\.\d+"] {
        running.console.wait_unless(said, "not found|cannot|rror", Limit::quiet(20))?;
    }
    running.console.type_text("poweroff -f\n")?;
    running.wait_end(Limit::quiet(20)).map(drop)
}
