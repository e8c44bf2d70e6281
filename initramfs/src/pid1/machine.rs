//! What machine this is: the few lines a person recognises it by.

use std::fs;
use std::path::Path;

/// A machine as its firmware and kernel describe it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Maker and product, or `unknown machine`.
    pub name: String,
    /// SMBIOS type 1 UUID, lower case.
    pub uuid: Option<String>,
    /// Serial number of the machine.
    pub serial: Option<String>,
    /// `BIOS`, `UEFI` or `UEFI, Secure Boot`.
    pub firmware: &'static str,
    /// Processors online.
    pub processors: usize,
    /// Memory in MiB.
    pub memory: u64,
}

impl Machine {
    /// Reads it from a mounted `/sys` and `/proc` below `root`. What cannot be read is absent.
    pub fn read(root: &Path) -> Machine {
        let dmi = |name: &str| {
            fs::read_to_string(root.join("sys/class/dmi/id").join(name))
                .ok()
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty() && text != "None" && text != "Not Specified")
        };
        let name =
            [dmi("sys_vendor"), dmi("product_name")].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let cpuinfo = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        Machine {
            name: if name.is_empty() { "unknown machine".to_owned() } else { name },
            uuid: dmi("product_uuid").map(|uuid| uuid.to_lowercase()),
            serial: dmi("product_serial"),
            firmware: firmware(root),
            processors: cpuinfo.lines().filter(|line| line.starts_with("processor")).count().max(1),
            memory: memory(&meminfo),
        }
    }

    /// The lines for the console.
    pub fn lines(&self) -> Vec<String> {
        let mut first = format!("machine  {}", self.name);
        if let Some(serial) = &self.serial {
            first.push_str(&format!(", serial {serial}"));
        }
        let uuid = self.uuid.as_deref().unwrap_or("none");
        vec![
            first,
            format!("uuid     {uuid}"),
            format!("firmware {}; {} CPU, {} MiB memory", self.firmware, self.processors, self.memory),
        ]
    }
}

fn firmware(root: &Path) -> &'static str {
    if !root.join("sys/firmware/efi").exists() {
        return "BIOS";
    }
    // The variable's attributes are its first four bytes; the fifth is its value.
    let variable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    match fs::read(root.join(variable)) {
        Ok(bytes) if bytes.get(4) == Some(&1) => "UEFI, Secure Boot",
        _ => "UEFI",
    }
}

fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or("");
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn a_machine_is_read_and_shown() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "sys/class/dmi/id/sys_vendor", b"QEMU\n");
        put(root.path(), "sys/class/dmi/id/product_name", b"Standard PC\n");
        put(root.path(), "sys/class/dmi/id/product_serial", b"None\n");
        put(root.path(), "sys/class/dmi/id/product_uuid", b"A1B2\n");
        put(root.path(), "proc/cpuinfo", b"processor\t: 0\nx\nprocessor\t: 1\n");
        put(root.path(), "proc/meminfo", b"MemTotal:        1015808 kB\n");
        let variable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        put(root.path(), variable, &[6, 0, 0, 0, 1]);
        let machine = Machine::read(root.path());
        assert_eq!(machine.uuid.as_deref(), Some("a1b2"));
        assert_eq!(machine.serial, None);
        let shown = [
            "machine  QEMU Standard PC",
            "uuid     a1b2",
            "firmware UEFI, Secure Boot; 2 CPU, 992 MiB memory",
        ];
        assert_eq!(machine.lines(), shown);
        put(root.path(), variable, &[6, 0, 0, 0, 0]);
        assert_eq!(Machine::read(root.path()).firmware, "UEFI");
    }

    #[test]
    fn nothing_readable_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::read(root.path());
        assert_eq!((machine.name.as_str(), machine.firmware, machine.memory), ("unknown machine", "BIOS", 0));
    }
}
