//! What a disk calls itself, and how it is attached.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::end::Identity;
use crate::roots::{Roots, attribute, link_name};

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Transport {
    Ata,
    Usb,
    Nvme,
    Virtio,
    Sas,
    FibreChannel,
    Iscsi,
    Scsi,
    Mmc,
    Xen,
    HyperV,
    Unknown,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ata => "ATA",
            Self::Usb => "USB",
            Self::Nvme => "NVMe",
            Self::Virtio => "virtio",
            Self::Sas => "SAS",
            Self::FibreChannel => "Fibre Channel",
            Self::Iscsi => "iSCSI",
            Self::Scsi => "SCSI",
            Self::Mmc => "MMC",
            Self::Xen => "Xen",
            Self::HyperV => "Hyper-V",
            Self::Unknown => "unknown bus",
        })
    }
}

/// Path, serial, WWN and model of the disk called `name`.
pub(super) fn identity(roots: &Roots, name: &str, path: String) -> Identity {
    let folder = roots.block(name);
    Identity { path, serial: serial(&folder), wwn: wwn(&folder), model: model(&folder) }
}

/// The serial number. virtio-blk has it beside the disk, NVMe and MMC below `device`; SCSI, and ATA through libata,
/// in the inquiry page 80h; USB sticks without that page have one on the USB device. Device-mapper's name for a volume
/// stays when its number changes.
fn serial(folder: &Path) -> String {
    attribute(&folder.join("serial"))
        .or_else(|| attribute(&folder.join("device/serial")))
        .or_else(|| unit_serial_page(&fs::read(folder.join("device/vpd_pg80")).ok()?))
        .or_else(|| usb_serial(folder))
        .or_else(|| attribute(&folder.join("dm/uuid")))
        .unwrap_or_default()
}

/// SCSI vital product data page 80h: peripheral, page code, length (big endian, 2 bytes), the serial in ASCII
/// (SPC-4, 7.8.15).
fn unit_serial_page(page: &[u8]) -> Option<String> {
    let (header, rest) = page.split_at_checked(4)?;
    if header[1] != 0x80 {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let text = String::from_utf8_lossy(rest.get(..length.min(rest.len()))?);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c.is_control());
    (!text.is_empty()).then(|| text.to_owned())
}

fn usb_serial(folder: &Path) -> Option<String> {
    ancestors(folder)
        .into_iter()
        .find(|level| level.join("idVendor").exists())
        .and_then(|usb| attribute(&usb.join("serial")))
}

/// How World Wide Names begin.
pub(super) const WWN_KINDS: [&str; 4] = ["naa.", "eui.", "nvme.", "uuid."];

/// The World Wide Name. The kernel's `wwid` may also be a vendor's string ("t10.ATA …"), which is unique only as far as
/// the serial in it is, so that is not taken.
fn wwn(folder: &Path) -> String {
    [folder.join("wwid"), folder.join("device/wwid")]
        .iter()
        .filter_map(|path| attribute(path))
        .map(|text| text.to_ascii_lowercase())
        .find(|text| WWN_KINDS.iter().any(|kind| text.starts_with(kind)))
        .unwrap_or_default()
}

fn model(folder: &Path) -> String {
    let model = attribute(&folder.join("device/model")).or_else(|| attribute(&folder.join("device/name")));
    let vendor = attribute(&folder.join("device/vendor"));
    match (vendor, model) {
        // "ATA" is the word libata gives every disk; a virtio vendor is a number.
        (Some(vendor), Some(model)) if vendor != "ATA" && !vendor.starts_with("0x") => {
            format!("{vendor} {model}")
        }
        (_, Some(model)) => model,
        _ => String::new(),
    }
}

/// The transport and the controller's driver.
pub(super) fn attachment(roots: &Roots, name: &str) -> (Transport, String) {
    let levels = ancestors(&roots.block(name));
    // "sd" is the disk's own driver; the next one up is what the machine cannot boot without.
    let driver = levels
        .iter()
        .filter_map(|level| link_name(&level.join("driver")))
        .find(|driver| driver != "sd")
        .unwrap_or_default();
    let path = levels.first().map(|path| path.display().to_string()).unwrap_or_default();
    let has = |part: &str| path.contains(part);
    let transport = if name.starts_with("nvme") {
        Transport::Nvme
    } else if name.starts_with("mmcblk") {
        Transport::Mmc
    } else if name.starts_with("xvd") || driver == "vbd" {
        Transport::Xen
    } else if has("/usb") {
        Transport::Usb
    } else if has("/ata") {
        Transport::Ata
    } else if has("/virtio") {
        Transport::Virtio
    } else if has("/session") {
        Transport::Iscsi
    } else if has("/rport-") {
        Transport::FibreChannel
    } else if has("/end_device") {
        Transport::Sas
    } else if driver == "hv_storvsc" {
        Transport::HyperV
    } else if has("/host") {
        Transport::Scsi
    } else {
        Transport::Unknown
    };
    (transport, driver)
}

/// The folder of the device and those above it, nearest first.
fn ancestors(folder: &Path) -> Vec<PathBuf> {
    let Ok(device) = fs::canonicalize(folder.join("device")).or_else(|_| fs::canonicalize(folder)) else {
        return Vec::new();
    };
    device.ancestors().take_while(|level| !level.ends_with("devices")).map(Path::to_path_buf).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_serial_page_is_read_and_garbage_is_not() {
        assert_eq!(unit_serial_page(b"\x00\x80\x00\x08  QM0001"), Some("QM0001".to_owned()));
        // The length may promise more than there is.
        assert_eq!(unit_serial_page(b"\x00\x80\xff\xffAB"), Some("AB".to_owned()));
        assert_eq!(unit_serial_page(b"\x00\x83\x00\x02AB"), None, "another page");
        assert_eq!(unit_serial_page(b"\x00\x80\x00\x02  "), None, "blank");
        assert_eq!(unit_serial_page(b"\x00\x80"), None, "short");
    }
}
