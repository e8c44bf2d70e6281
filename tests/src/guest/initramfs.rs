//! What may not be in the initramfs of a guest that stands for a physical machine.

/// Drivers without which a machine with virtio devices finds neither disk nor network.
const VIRTIO: [&str; 3] = ["virtio_blk.ko", "virtio_scsi.ko", "virtio_net.ko"];

/// The lines of a listing of the initramfs that name such a driver, compressed or not.
pub(super) fn virtio_drivers(listing: &str) -> Vec<&str> {
    let is_driver = |line: &&str| {
        let name = line.trim().rsplit('/').next().unwrap_or_default();
        VIRTIO.iter().any(|driver| {
            name.strip_prefix(driver).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    listing.lines().filter(is_driver).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtio_driver_is_found_and_its_neighbours_are_not() {
        let clean = "usr/lib/modules/6.1/kernel/drivers/ata/ahci.ko\nusr/lib/modules/6.1/kernel/drivers/virtio/virtio.ko\n";
        assert_eq!(virtio_drivers(clean), Vec::<&str>::new());
        for fault in [
            "kernel/drivers/block/virtio_blk.ko",
            "kernel/drivers/scsi/virtio_scsi.ko.xz",
            "a/virtio_net.ko.zst",
        ] {
            assert_eq!(virtio_drivers(&format!("{clean}{fault}\n")), [fault]);
        }
    }
}
