//! Facts of small made-up machines for the tables of the rules' tests.

use crate::config::grub;
use crate::facts::{
    BootCode, Disk, Esp, EspFile, FORMAT, Facts, Image, Kernel, Mounted, Nic, Partition, PartitionRef,
    System, TableKind, Target,
};

fn partition(number: u32, content: &str, uuid: &str) -> Partition {
    Partition {
        number,
        start: u64::from(number) << 20,
        length: 1 << 20,
        partuuid: format!("pu-{number}"),
        content: content.into(),
        uuid: uuid.into(),
        ..Partition::default()
    }
}

fn set(names: &[&str]) -> std::collections::BTreeSet<String> {
    names.iter().map(|n| (*n).to_string()).collect()
}

fn system(root: u32) -> System {
    let root = PartitionRef { disk: 0, number: root };
    System {
        root,
        id: "debian".into(),
        version: "12".into(),
        name: "Debian GNU/Linux 12 (bookworm)".into(),
        mounts: vec![Mounted { at: "/".into(), partition: root, free_mib: 1024 }],
        files: [
            ("/etc/fstab", "/dev/sda1 / ext4 errors=remount-ro 0 1\n/dev/sda5 none swap sw 0 0\n"),
            (
                grub::CONFIG,
                "menuentry 'Debian' {\n\tset root='hd0,msdos1'\n\techo x\n\tlinux\t/boot/vmlinuz-6.1 root=/dev/sda1 ro quiet\n\tinitrd\t/boot/initrd.img-6.1\n}\n",
            ),
            ("/etc/initramfs-tools/modules", "# by hand\nahci\nsd_mod\n"),
            ("/etc/initramfs-tools/initramfs.conf", "MODULES=list\n"),
            ("/etc/network/interfaces", "auto lo\niface lo inet loopback\nauto enp0s2\niface enp0s2 inet dhcp\n"),
        ]
        .map(|(p, t)| (p.to_string(), t.to_string()))
        .into(),
        present: set(&["/usr/sbin/update-initramfs"]),
        kernels: vec![Kernel {
            version: "6.1".into(),
            modules: set(&["ahci", "sd_mod", "virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net"]),
            builtin: set(&["nvme"]),
            image: Some(Image {
                path: "/boot/initrd.img-6.1".into(),
                size: 6 << 20,
                modules: set(&["ahci", "libahci", "sd_mod", "ext4"]),
                ..Image::default()
            }),
            ..Kernel::default()
        }],
        ..System::default()
    }
}

/// Debian on an MBR disk with swap, everything by /dev/sda, drivers for AHCI only.
pub(crate) fn bios() -> Facts {
    Facts {
        format: FORMAT,
        target: Target::default(),
        disks: vec![Disk {
            size: 2 << 30,
            sector_size: 512,
            table: Some(TableKind::Mbr),
            boot_code: BootCode::Grub { core_sector: 1, core_present: true },
            partitions: vec![partition(1, "ext4", "1111-root"), partition(5, "swap", "5555-swap")],
            ..Disk::default()
        }],
        system: system(1),
    }
}

/// Debian on GPT with shim in \EFI\debian only.
pub(crate) fn uefi() -> Facts {
    let mut facts = bios();
    facts.disks[0].table = Some(TableKind::Gpt);
    facts.disks[0].boot_code = BootCode::None;
    facts.disks[0].partitions = vec![partition(1, "vfat", "AAAA-BBBB"), partition(2, "ext4", "1111-root")];
    facts.system = system(2);
    let files =
        ["EFI/debian/shimx64.efi", "EFI/debian/grubx64.efi", "EFI/debian/mmx64.efi", "EFI/debian/grub.cfg"];
    facts.system.esp = Some(Esp {
        partition: PartitionRef { disk: 0, number: 1 },
        at: "/boot/efi".into(),
        files: files.map(|p| (p.to_lowercase(), EspFile { path: p.into(), digest: p.into() })).into(),
    });
    facts.system.files.insert(
        "/boot/efi/EFI/debian/grub.cfg".into(),
        "search.fs_uuid 1111-root root hd0,gpt2\nset prefix=($root)'/boot/grub'\nconfigfile $prefix/grub.cfg\n".into(),
    );
    facts
}

/// A card of the target.
pub(crate) fn nic(mac: &str, slot: &str) -> Nic {
    Nic {
        name: "eth0".into(),
        mac: mac.into(),
        permanent: true,
        driver: "virtio_net".into(),
        slot: slot.into(),
    }
}
