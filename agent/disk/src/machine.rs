//! The machine around the disks, as its firmware and kernel describe it.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::error::{DiskError, ErrorKind, Result};
use crate::roots::{Roots, attribute};

/// The GUID of UEFI's global variables (UEFI 2.10, 3.3).
pub const UEFI_GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// What started the running system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// BIOS, or the compatibility mode of UEFI firmware.
    #[default]
    Bios,
    /// UEFI.
    Uefi,
}

/// A machine. Empty strings: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// SMBIOS type 1: manufacturer.
    pub vendor: String,
    /// SMBIOS type 1: product name.
    pub product: String,
    /// SMBIOS type 1: serial number. Only root can read it.
    pub serial: String,
    /// SMBIOS type 1: UUID, lower case, whatever it is worth (see [`smbios_uuid`]). Only root can read it.
    pub uuid: String,
    /// What started the running system.
    pub firmware: Firmware,
    /// `None`: no such thing (BIOS), or not readable.
    pub secure_boot: Option<bool>,
    /// Bytes of memory that the kernel has; 0 when it does not say.
    pub memory: u64,
}

impl Machine {
    /// Reads sysfs, procfs and one UEFI variable. What cannot be read is left empty.
    pub fn read(roots: &Roots) -> Self {
        // Four bytes of attributes, then the value.
        let variable = format!("firmware/efi/efivars/SecureBoot-{UEFI_GLOBAL}");
        let secure_boot = fs::read(roots.sys.join(variable)).ok();
        let uefi = roots.sys.join("firmware/efi").exists();
        Self {
            vendor: smbios(roots, "sys_vendor"),
            product: smbios(roots, "product_name"),
            serial: smbios(roots, "product_serial"),
            uuid: smbios(roots, "product_uuid").to_ascii_lowercase(),
            firmware: if uefi { Firmware::Uefi } else { Firmware::Bios },
            secure_boot: secure_boot.and_then(|bytes| Some(*bytes.get(4)? == 1)),
            memory: memory(roots),
        }
    }
}

/// A text of the SMBIOS tables. What makers and emulators write where they have nothing to say is nothing.
fn smbios(roots: &Roots, name: &str) -> String {
    let text = attribute(&roots.sys.join("class/dmi/id").join(name)).unwrap_or_default();
    if ["None", "Not Specified"].contains(&text.as_str()) { String::new() } else { text }
}

fn memory(roots: &Roots) -> u64 {
    let text = fs::read_to_string(roots.proc.join("meminfo")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Values that many machines share: board makers' placeholders. What names one of them would fit another machine.
const NO_UUIDS: &[&str] = &[
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
];

/// This machine's SMBIOS UUID, lower case, where it tells the machine from all others. Only root can read it.
///
/// # Errors
/// `Missing` when there is none, `Unsuitable` when it is a placeholder or malformed.
pub fn smbios_uuid(roots: &Roots) -> Result<String> {
    let uuid = smbios(roots, "product_uuid").to_ascii_lowercase();
    let device = roots.sys.join("class/dmi/id/product_uuid").display().to_string();
    if uuid.is_empty() {
        return Err(DiskError::new(ErrorKind::Missing, device, "reading the machine's SMBIOS UUID"));
    }
    let well_formed = uuid.len() == 36
        && uuid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if !well_formed || NO_UUIDS.contains(&uuid.as_str()) {
        let message = format!("the machine's SMBIOS UUID is {uuid:?}, which tells it from no other");
        return Err(DiskError::new(ErrorKind::Unsuitable, device, message));
    }
    Ok(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::fake;

    const UUID: &str = "4c4c4544-0042-4410-8053-b7c04f334432";

    #[test]
    fn a_uefi_machine_is_read() {
        let fake = fake::Machine::new();
        fake.put("sys/class/dmi/id/sys_vendor", "Dell Inc.\n");
        fake.put("sys/class/dmi/id/product_name", "PowerEdge R640\n");
        fake.put("sys/class/dmi/id/product_serial", "Not Specified\n");
        fake.put("sys/class/dmi/id/product_uuid", "A1B2\n");
        fake.put("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");
        let variable = format!("sys/firmware/efi/efivars/SecureBoot-{UEFI_GLOBAL}");
        fake.put(&variable, [6, 0, 0, 0, 1]);
        let expected = Machine {
            vendor: "Dell Inc.".to_owned(),
            product: "PowerEdge R640".to_owned(),
            serial: String::new(),
            uuid: "a1b2".to_owned(),
            firmware: Firmware::Uefi,
            secure_boot: Some(true),
            memory: 16 << 20,
        };
        assert_eq!(Machine::read(&fake.roots), expected);
        fake.put(&variable, [6, 0, 0, 0, 0]);
        assert_eq!(Machine::read(&fake.roots).secure_boot, Some(false));
        fake.put(&variable, [6, 0]);
        assert_eq!(Machine::read(&fake.roots).secure_boot, None);
    }

    #[test]
    fn nothing_readable_is_no_error() {
        assert_eq!(Machine::read(&fake::Machine::new().roots), Machine::default());
    }

    #[test]
    fn a_uuid_that_many_machines_share_is_refused() {
        let fake = fake::Machine::new();
        assert_eq!(smbios_uuid(&fake.roots).unwrap_err().kind, ErrorKind::Missing);
        fake.put("sys/class/dmi/id/product_uuid", format!("{}\n", UUID.to_uppercase()));
        assert_eq!(smbios_uuid(&fake.roots).unwrap(), UUID);
        for uuid in
            ["00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "Not Settable"]
        {
            fake.put("sys/class/dmi/id/product_uuid", uuid);
            assert_eq!(smbios_uuid(&fake.roots).unwrap_err().kind, ErrorKind::Unsuitable, "{uuid}");
        }
    }
}
