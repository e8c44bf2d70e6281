//! The parts a machine is put together from, and the QEMU arguments each becomes.
//!
//! Every PCI device sits at a slot that is written down, because the slot is in the names guests give their network cards:
//! slot 1 the display, 2 to 6 free for network cards, 7 the USB controller, 8 and up the disks.

use std::path::{Path, PathBuf};

/// The PCI slot of the USB controller.
pub(crate) const USB_SLOT: u8 = 7;
/// The PCI slot of the first disk (or disk controller) that is a PCI device of its own.
pub(crate) const FIRST_DISK_SLOT: u8 = 8;

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// SATA on the chipset's AHCI controller: the "physical" machine.
    Ahci,
    /// virtio-blk.
    VirtioBlk,
    /// virtio-scsi, one controller a disk.
    VirtioScsi,
    /// NVMe.
    Nvme,
}

/// The format of a disk's file. Always named, never probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Bytes as they are.
    Raw,
    /// qcow2, for overlays.
    Qcow2,
}

/// A disk of the machine.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The file that holds it.
    pub file: PathBuf,
    /// The file's format.
    pub format: Format,
    /// How it is attached.
    pub bus: Bus,
    /// The serial number the guest sees (at most 20 bytes on virtio-blk).
    pub serial: String,
    /// Place in the firmware's boot order, 0 first; `None`: not listed.
    pub boot: Option<u8>,
    /// Writes go to a temporary file and are forgotten when the machine ends.
    pub throw_away: bool,
}

impl Disk {
    /// A raw disk, written for good.
    pub fn raw(file: impl Into<PathBuf>, bus: Bus, serial: &str) -> Self {
        Self {
            file: file.into(),
            format: Format::Raw,
            bus,
            serial: serial.into(),
            boot: None,
            throw_away: false,
        }
    }

    /// The same disk at place `index` of the boot order.
    #[must_use]
    pub fn boot(self, index: u8) -> Self {
        Self { boot: Some(index), ..self }
    }

    /// The same disk, its writes forgotten when the machine ends.
    #[must_use]
    pub fn throw_away(self) -> Self {
        Self { throw_away: true, ..self }
    }

    /// The arguments for the disk that is number `index` of its machine.
    pub(crate) fn arguments(&self, index: u8) -> Vec<String> {
        let format = match self.format {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
        };
        // cache=unsafe loses nothing that a test could see: killing QEMU leaves the host's page cache whole.
        let snapshot = if self.throw_away { "on" } else { "off" };
        let drive = format!(
            "if=none,id=disk{index},file={},format={format},snapshot={snapshot},cache=unsafe,discard=unmap,detect-zeroes=unmap",
            escape(&self.file)
        );
        let (serial, slot) = (&self.serial, FIRST_DISK_SLOT + index);
        let boot = bootindex(self.boot);
        let mut arguments = vec!["-drive".into(), drive];
        let device = match self.bus {
            Bus::Ahci => format!("ide-hd,bus=ide.{index},drive=disk{index},serial={serial}{boot}"),
            Bus::VirtioBlk => {
                format!("virtio-blk-pci,addr={slot:#x},drive=disk{index},serial={serial}{boot}")
            }
            Bus::Nvme => format!("nvme,addr={slot:#x},drive=disk{index},serial={serial}{boot}"),
            Bus::VirtioScsi => {
                arguments
                    .extend(["-device".into(), format!("virtio-scsi-pci,addr={slot:#x},id=scsi{index}")]);
                format!("scsi-hd,bus=scsi{index}.0,drive=disk{index},serial={serial}{boot}")
            }
        };
        arguments.extend(["-device".into(), device]);
        arguments
    }
}

/// The model of a network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicModel {
    /// Intel 82574L: the "physical" machine.
    E1000e,
    /// virtio-net.
    VirtioNet,
}

/// A port of the host that leads into the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// TCP port on the host's 127.0.0.1.
    pub host: u16,
    /// TCP port in the guest.
    pub guest: u16,
}

/// What QEMU's own DHCP and TFTP servers give to a machine that boots from the network.
#[derive(Clone, Debug)]
pub struct Netboot {
    /// The directory that TFTP serves.
    pub tree: PathBuf,
    /// The file, relative to `tree`, that DHCP names.
    pub bootfile: String,
    /// Place in the firmware's boot order.
    pub boot: u8,
}

/// Where a network card is plugged in.
#[derive(Clone, Debug)]
pub enum Cable {
    /// QEMU's user networking: the guest is 10.0.2.15, the host 10.0.2.2.
    User {
        /// Ports of the host that lead in.
        forwards: Vec<Forward>,
        /// Boot from the network.
        netboot: Option<Netboot>,
    },
    /// A cable to another machine, over a Unix socket; the listening end must be started first.
    Link {
        /// The socket's path.
        socket: PathBuf,
        /// Whether this end listens.
        listen: bool,
    },
}

/// A network card of the machine.
#[derive(Clone, Debug)]
pub struct Nic {
    /// The card's model.
    pub model: NicModel,
    /// PCI slot on the root bus, 2 to 6; systemd calls the card `enp0sSLOT`.
    pub slot: u8,
    /// Hardware address, as `52:54:00:..`.
    pub mac: String,
    /// Where it is plugged in.
    pub cable: Cable,
}

impl Nic {
    /// A card on user networking with these host ports leading in.
    #[must_use]
    pub fn user(model: NicModel, slot: u8, mac: &str, forwards: &[Forward]) -> Self {
        Self {
            model,
            slot,
            mac: mac.into(),
            cable: Cable::User { forwards: forwards.to_vec(), netboot: None },
        }
    }

    /// The arguments for the card that is number `index` of its machine; `rom`: keep the card's own boot ROM.
    pub(crate) fn arguments(&self, index: usize, uefi: bool) -> Vec<String> {
        let mut boot = String::new();
        let mut rom = ",romfile=";
        let netdev = match &self.cable {
            Cable::Link { socket, listen } => {
                let server = if *listen { "on" } else { "off" };
                format!("stream,id=net{index},server={server},addr.type=unix,addr.path={}", escape(socket))
            }
            Cable::User { forwards, netboot } => {
                let mut netdev = format!("user,id=net{index}");
                for Forward { host, guest } in forwards {
                    netdev.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
                }
                if let Some(Netboot { tree, bootfile, boot: place }) = netboot {
                    netdev.push_str(&format!(",tftp={},bootfile={bootfile}", escape(tree)));
                    boot = bootindex(Some(*place));
                    // OVMF has its own driver for virtio-net and boots from it as hardware does, without iPXE.
                    if !(uefi && self.model == NicModel::VirtioNet) {
                        rom = "";
                    }
                }
                netdev
            }
        };
        let model = match self.model {
            NicModel::E1000e => "e1000e",
            NicModel::VirtioNet => "virtio-net-pci",
        };
        let device = format!("{model},netdev=net{index},addr={:#x},mac={}{rom}{boot}", self.slot, self.mac);
        vec!["-netdev".into(), netdev, "-device".into(), device]
    }
}

/// A boot medium; read-only, whatever the machine does.
#[derive(Clone, Debug)]
pub enum Medium {
    /// An ISO in a CD drive.
    Cd {
        /// The ISO file.
        file: PathBuf,
        /// Place in the boot order.
        boot: u8,
    },
    /// An ISO (or any disk image) written raw to a USB stick on an xHCI controller.
    UsbStick {
        /// The image file.
        file: PathBuf,
        /// Place in the boot order.
        boot: u8,
    },
}

impl Medium {
    /// The arguments for the medium that is number `index`; `port`: the AHCI port for a CD drive.
    pub(crate) fn arguments(&self, index: usize, port: u8) -> Vec<String> {
        let (file, device) = match self {
            Self::Cd { file, boot } => {
                (file, format!("ide-cd,bus=ide.{port},drive=medium{index}{}", bootindex(Some(*boot))))
            }
            Self::UsbStick { file, boot } => (
                file,
                format!("usb-storage,bus=xhci.0,removable=on,drive=medium{index}{}", bootindex(Some(*boot))),
            ),
        };
        let drive = format!("if=none,id=medium{index},file={},format=raw,readonly=on", escape(file));
        let mut arguments = Vec::new();
        if matches!(self, Self::UsbStick { .. }) {
            arguments.extend(["-device".into(), format!("qemu-xhci,id=xhci,addr={USB_SLOT:#x}")]);
        }
        arguments.extend(["-drive".into(), drive, "-device".into(), device]);
        arguments
    }
}

fn bootindex(place: Option<u8>) -> String {
    place.map(|index| format!(",bootindex={index}")).unwrap_or_default()
}

/// A path inside a QEMU option, where a comma is written twice.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
