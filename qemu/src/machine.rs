//! The description of a machine, and its translation into QEMU's command line.

use std::path::{Path, PathBuf};

use crate::firmware::Firmware;
use crate::hardware::{Disk, Medium, Nic};

/// Everything TCG can do but "fast" string instructions: it runs `rep movsb` byte by byte, and a kernel or C library that is
/// told they are fast copies with nothing else. Measured in a guest, 300 MiB out of its page cache: 158 MB/s with, 777 without.
const CPU: &str = "max,-erms,-fsrm";

/// A kernel that QEMU loads itself, without boot loader or medium.
#[derive(Clone, Debug)]
pub struct DirectKernel {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub command_line: String,
}

/// A machine as it stands before it is switched on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The machine's name: of its files in the evidence, and of the process.
    pub name: String,
    /// What it starts with.
    pub firmware: Firmware,
    /// Memory, in MiB.
    pub memory: u32,
    /// Number of processors.
    pub processors: u8,
    /// Its disks, in order.
    pub disks: Vec<Disk>,
    /// Its network cards.
    pub nics: Vec<Nic>,
    /// CDs and USB sticks (one stick at most).
    pub media: Vec<Medium>,
    /// A kernel loaded by QEMU; `None`: the firmware boots.
    pub kernel: Option<DirectKernel>,
    /// SMBIOS type 1 UUID.
    pub uuid: Option<String>,
    /// What the clock shows at power-on, as QEMU's `-rtc base=` takes it (UTC); `None`: the host's time.
    pub clock: Option<String>,
    /// A reset ends QEMU instead of starting the machine again.
    pub end_at_reset: bool,
}

/// The files that belong to one machine while it runs.
#[derive(Clone, Debug)]
pub struct Places {
    /// Unix socket of QEMU's monitor.
    pub monitor: PathBuf,
    /// The UEFI variable store; it survives the machine when kept, as NVRAM does.
    pub variables: PathBuf,
}

impl Machine {
    /// A machine with 1 GiB and two processors and nothing plugged in.
    #[must_use]
    pub fn new(name: &str, firmware: Firmware) -> Self {
        Self {
            name: name.into(),
            firmware,
            memory: 1024,
            processors: 2,
            disks: Vec::new(),
            nics: Vec::new(),
            media: Vec::new(),
            kernel: None,
            uuid: None,
            clock: None,
            end_at_reset: false,
        }
    }

    /// The same machine with another disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// The same machine with another network card.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// The same machine with another medium.
    #[must_use]
    pub fn medium(mut self, medium: Medium) -> Self {
        self.media.push(medium);
        self
    }

    /// The same machine, booted straight into a kernel.
    #[must_use]
    pub fn kernel(mut self, kernel: &Path, initrd: &Path, command_line: &str) -> Self {
        self.kernel = Some(DirectKernel {
            kernel: kernel.into(),
            initrd: initrd.into(),
            command_line: command_line.into(),
        });
        self
    }

    /// QEMU's arguments for this machine.
    #[must_use]
    pub fn arguments(&self, places: &Places) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        let mut add = |arguments: &[&str]| all.extend(arguments.iter().map(ToString::to_string));
        add(&[
            "-name",
            &self.name,
            "-machine",
            self.firmware.machine(),
            "-accel",
            "tcg,thread=multi,tb-size=512",
        ]);
        add(&["-cpu", CPU, "-smp", &self.processors.to_string(), "-m", &self.memory.to_string()]);
        add(&["-nodefaults", "-no-user-config", "-display", "none", "-device", "VGA,addr=0x1"]);
        // The guest's serial port is this process's standard input and output: nothing is lost before a reader connects.
        add(&["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]);
        add(&["-qmp", &format!("unix:{},server=on,wait=off", places.monitor.display())]);
        // Entropy at once: a guest that waits for it takes half a minute more under TCG.
        add(&[
            "-object",
            "rng-random,id=rng,filename=/dev/urandom",
            "-device",
            "virtio-rng-pci,addr=0x1e,rng=rng",
        ]);
        if let Some(uuid) = &self.uuid {
            add(&["-uuid", uuid]);
        }
        if let Some(clock) = &self.clock {
            add(&["-rtc", &format!("base={clock}")]);
        }
        if self.end_at_reset {
            add(&["-no-reboot"]);
        }
        if let Some(DirectKernel { kernel, initrd, command_line }) = &self.kernel {
            add(&["-kernel", &kernel.display().to_string(), "-initrd", &initrd.display().to_string()]);
            add(&["-append", command_line]);
        }
        all.extend(self.firmware.arguments(&places.variables));
        for (index, disk) in (0..).zip(&self.disks) {
            all.extend(disk.arguments(index));
        }
        for (index, nic) in self.nics.iter().enumerate() {
            all.extend(nic.arguments(index, self.firmware.is_uefi()));
        }
        // CD drives take the AHCI ports from the top, disks from the bottom.
        for (index, medium) in self.media.iter().enumerate() {
            all.extend(medium.arguments(index, 5u8.saturating_sub(u8::try_from(index).unwrap_or(u8::MAX))));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::{Bus, Cable, Forward, Netboot, NicModel};

    fn command(machine: &Machine) -> String {
        let places = Places { monitor: "/run/m.sock".into(), variables: "/run/vars.fd".into() };
        machine.arguments(&places).join(" ")
    }

    #[test]
    fn each_bus_gets_its_serial_its_slot_and_its_place_in_the_boot_order() {
        let table = [
            (Bus::Ahci, "-device ide-hd,bus=ide.0,drive=disk0,serial=S1,bootindex=3"),
            (Bus::VirtioBlk, "-device virtio-blk-pci,addr=0x8,drive=disk0,serial=S1,bootindex=3"),
            (Bus::Nvme, "-device nvme,addr=0x8,drive=disk0,serial=S1,bootindex=3"),
            (
                Bus::VirtioScsi,
                "-device virtio-scsi-pci,addr=0x8,id=scsi0 -device scsi-hd,bus=scsi0.0,drive=disk0,serial=S1,bootindex=3",
            ),
        ];
        for (bus, wanted) in table {
            let machine = Machine::new("m", Firmware::Bios).disk(Disk::raw("/d.raw", bus, "S1").boot(3));
            assert!(command(&machine).contains(wanted), "{bus:?}: {}", command(&machine));
        }
    }

    #[test]
    fn a_throw_away_disk_is_a_snapshot_and_a_kept_one_is_not() {
        let kept = Machine::new("m", Firmware::Bios).disk(Disk::raw("/a,b.raw", Bus::Ahci, "S"));
        assert!(command(&kept).contains("file=/a,,b.raw,format=raw,snapshot=off"), "{}", command(&kept));
        let thrown = Machine::new("m", Firmware::Bios).disk(Disk::raw("/d.raw", Bus::Ahci, "S").throw_away());
        assert!(command(&thrown).contains("snapshot=on"));
    }

    #[test]
    fn secure_boot_brings_smm_the_enrolled_keys_and_this_machines_own_variables() {
        let text = command(&Machine::new("m", Firmware::SecureBoot));
        for wanted in
            ["smm=on", "OVMF_CODE_4M.ms.fd", "property=secure,value=on", "format=raw,file=/run/vars.fd"]
        {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        assert!(!command(&Machine::new("m", Firmware::Bios)).contains("pflash"));
    }

    #[test]
    fn the_network_card_keeps_a_boot_rom_only_to_boot_from_the_network() {
        let nic = |model, netboot| Nic {
            model,
            slot: 2,
            mac: "52:54:00:00:00:01".into(),
            cable: Cable::User { forwards: vec![Forward { host: 2222, guest: 22 }], netboot },
        };
        let tree = || Some(Netboot { tree: "/tftp".into(), bootfile: "boot.ipxe".into(), boot: 1 });
        let with = |firmware, nic| command(&Machine::new("m", firmware).nic(nic));
        let plain = with(Firmware::Bios, nic(NicModel::E1000e, None));
        assert!(
            plain.contains("user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22 -device e1000e,netdev=net0,addr=0x2")
        );
        assert!(plain.contains(",romfile="), "{plain}");
        let bios = with(Firmware::Bios, nic(NicModel::VirtioNet, tree()));
        assert!(bios.contains(",tftp=/tftp,bootfile=boot.ipxe") && !bios.contains("romfile"), "{bios}");
        let uefi = with(Firmware::Uefi, nic(NicModel::VirtioNet, tree()));
        assert!(uefi.contains(",romfile=,bootindex=1"), "{uefi}");
        assert!(!with(Firmware::Uefi, nic(NicModel::E1000e, tree())).contains("romfile"));
    }

    #[test]
    fn media_are_read_only_and_a_stick_brings_its_controller() {
        let cd =
            command(&Machine::new("m", Firmware::Bios).medium(Medium::Cd { file: "/a.iso".into(), boot: 0 }));
        assert!(
            cd.contains("format=raw,readonly=on -device ide-cd,bus=ide.5,drive=medium0,bootindex=0"),
            "{cd}"
        );
        let stick = Medium::UsbStick { file: "/a.iso".into(), boot: 0 };
        let stick = command(&Machine::new("m", Firmware::Bios).medium(stick));
        assert!(
            stick.contains("qemu-xhci,id=xhci,addr=0x7") && stick.contains("usb-storage,bus=xhci.0"),
            "{stick}"
        );
    }
}
