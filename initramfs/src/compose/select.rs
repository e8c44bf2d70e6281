//! Which kernel modules are in the image: all that could stand between us and a disk, a wired network or a keyboard.
//!
//! Chosen by folder of the kernel tree, so that new drivers come in by themselves; everything they need follows by
//! depmod's word. Left out: graphics, sound, cameras, wireless, and whatever writes to disks on its own.

/// Folders (with a slash at the end) and single modules, relative to the tree's `kernel/`.
const WANTED: &[&str] = &[
    // Storage: controllers, disks, sticks, cards.
    "drivers/ata/",
    "drivers/block/",
    "drivers/cdrom/",
    "drivers/firmware/qemu_fw_cfg",
    "drivers/memstick/core/",
    "drivers/message/",
    "drivers/mmc/",
    "drivers/nvdimm/",
    "drivers/nvme/host/",
    "drivers/pci/controller/",
    "drivers/scsi/",
    "drivers/ufs/",
    // RAID and device-mapper. Nothing assembles an array by itself: that takes mdadm or udev, and neither is here.
    "drivers/md/",
    // Hypervisors.
    "drivers/hv/",
    "drivers/virtio/",
    "drivers/xen/",
    "drivers/char/hw_random/virtio-rng",
    "drivers/char/virtio_console",
    "drivers/misc/vmw_vmci/",
    // Wired network.
    "drivers/net/bonding/",
    "drivers/net/ethernet/",
    "drivers/net/hyperv/",
    "drivers/net/mdio/",
    "drivers/net/net_failover",
    "drivers/net/pcs/",
    "drivers/net/phy/",
    "drivers/net/usb/",
    "drivers/net/virtio_net",
    "drivers/net/vmxnet3/",
    "drivers/net/xen-netfront",
    "net/8021q/",
    // USB hosts, storage and keyboards.
    "drivers/usb/common/",
    "drivers/usb/core/",
    "drivers/usb/dwc3/",
    "drivers/usb/host/",
    "drivers/usb/storage/",
    "drivers/usb/roles/",
    "drivers/hid/hid",
    "drivers/hid/hid-apple",
    "drivers/hid/hid-cherry",
    "drivers/hid/hid-generic",
    "drivers/hid/hid-hyperv",
    "drivers/hid/hid-logitech-dj",
    "drivers/hid/hid-logitech-hidpp",
    "drivers/hid/hid-microsoft",
    "drivers/hid/usbhid/",
    "drivers/input/serio/",
    // Filesystems of machines that are moved and of media.
    "fs/btrfs/",
    "fs/efivarfs/",
    "fs/exfat/",
    "fs/ext4/",
    "fs/f2fs/",
    "fs/fat/",
    "fs/fuse/",
    "fs/isofs/",
    "fs/jfs/",
    "fs/nls/",
    "fs/ntfs3/",
    "fs/overlayfs/",
    "fs/squashfs/",
    "fs/udf/",
    "fs/xfs/",
    // Checksums and ciphers that filesystems, md and dm-crypt ask for by name.
    "arch/x86/crypto/",
    "crypto/",
    "lib/",
];

/// Within the folders above, what is not wanted.
const UNWANTED: &[&str] = &[
    // Network storage, and what only tests or serves.
    "drivers/block/drbd/",
    "drivers/block/rbd",
    "drivers/block/rnbd/",
    "drivers/block/zram/",
    "drivers/scsi/cxgbi/",
    "drivers/scsi/fcoe/",
    "drivers/scsi/scsi_debug",
    "drivers/md/bcache/",
    "drivers/net/ethernet/mellanox/mlxsw/",
    "drivers/net/ethernet/netronome/",
    "lib/test_",
    "crypto/tcrypt",
];

/// Without these no image is made: their absence means that the kernel's tree has changed shape.
pub const MUST: &[&str] = &[
    "ahci",
    "ata_piix",
    "sd_mod",
    "sr_mod",
    "nvme",
    "virtio_blk",
    "virtio_scsi",
    "virtio_net",
    "e1000",
    "e1000e",
    "igb",
    "ixgbe",
    "r8169",
    "tg3",
    "bnxt_en",
    "mlx5_core",
    "vmxnet3",
    "hv_netvsc",
    "hv_storvsc",
    "xen_blkfront",
    "xen_netfront",
    "vmw_pvscsi",
    "mpt3sas",
    "megaraid_sas",
    "smartpqi",
    "usb_storage",
    "uas",
    "xhci_pci",
    "ehci_pci",
    "usbhid",
    "hid_generic",
    "dm_mod",
    "dm_snapshot",
    "dm_zero",
    "md_mod",
    "raid1",
    "loop",
    "ext4",
    "xfs",
    "btrfs",
    "vfat",
    "isofs",
    "squashfs",
    "ntfs3",
    "overlay",
    "efivarfs",
    "nls_ascii",
    "nls_cp437",
    "nls_utf8",
    "crc32c_generic",
    "vmd",
];

/// Whether a module is in the image; `path` is as in modules.dep: `kernel/drivers/ata/ahci.ko.xz`.
pub fn is_wanted(path: &str) -> bool {
    let Some(path) = path.strip_prefix("kernel/") else { return false };
    let stem = path.split(".ko").next().unwrap_or(path);
    let any = |list: &[&str]| {
        list.iter().any(|item| match item {
            item if item.ends_with('/') || item.ends_with('_') => stem.starts_with(item),
            item => stem == *item,
        })
    };
    any(WANTED) && !any(UNWANTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_single_modules_are_chosen() {
        for (path, expected) in [
            ("kernel/drivers/ata/ahci.ko.xz", true),
            ("kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko.xz", true),
            ("kernel/drivers/net/virtio_net.ko.xz", true),
            ("kernel/drivers/net/wireless/intel/iwlwifi/iwlwifi.ko.xz", false),
            ("kernel/drivers/hid/hid.ko.xz", true),
            ("kernel/drivers/hid/hid-sony.ko.xz", false),
            ("kernel/drivers/md/bcache/bcache.ko.xz", false),
            ("kernel/lib/test_bpf.ko.xz", false),
            ("kernel/lib/libcrc32c.ko.xz", true),
            ("updates/dkms/zfs.ko.xz", false),
        ] {
            assert_eq!(is_wanted(path), expected, "{path}");
        }
    }
}
