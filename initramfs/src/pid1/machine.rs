//! What machine this is: the few lines a person recognises it by.

use gantry_disk::machine::{Firmware, Machine};
use gantry_disk::roots::Roots;

/// The lines for the console. What cannot be read is left out.
pub fn lines(roots: &Roots) -> [String; 3] {
    let machine = Machine::read(roots);
    let cpuinfo = std::fs::read_to_string(roots.proc.join("cpuinfo")).unwrap_or_default();
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count().max(1);
    let named = format!("{} {}", machine.vendor, machine.product);
    let name = match named.trim() {
        "" => "unknown machine",
        name => name,
    };
    let serial = match machine.serial.as_str() {
        "" => String::new(),
        serial => format!(", serial {serial}"),
    };
    let uuid = if machine.uuid.is_empty() { "none" } else { &machine.uuid };
    let firmware = match (machine.firmware, machine.secure_boot) {
        (Firmware::Bios, _) => "BIOS",
        (Firmware::Uefi, Some(true)) => "UEFI, Secure Boot",
        (Firmware::Uefi, _) => "UEFI",
    };
    [
        format!("machine  {name}{serial}"),
        format!("uuid     {uuid}"),
        format!("firmware {firmware}; {processors} CPU, {} MiB memory", machine.memory >> 20),
    ]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use gantry_disk::machine::UEFI_GLOBAL;

    use super::*;

    fn put(root: &Path, path: &str, content: &[u8]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn a_machine_is_shown() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "sys/class/dmi/id/sys_vendor", b"QEMU\n");
        put(root.path(), "sys/class/dmi/id/product_name", b"Standard PC\n");
        put(root.path(), "sys/class/dmi/id/product_serial", b"None\n");
        put(root.path(), "sys/class/dmi/id/product_uuid", b"A1B2\n");
        put(root.path(), "proc/cpuinfo", b"processor\t: 0\nx\nprocessor\t: 1\n");
        put(root.path(), "proc/meminfo", b"MemTotal:        1015808 kB\n");
        let variable = format!("sys/firmware/efi/efivars/SecureBoot-{UEFI_GLOBAL}");
        put(root.path(), &variable, &[6, 0, 0, 0, 1]);
        let roots = Roots::under(root.path());
        let shown = [
            "machine  QEMU Standard PC",
            "uuid     a1b2",
            "firmware UEFI, Secure Boot; 2 CPU, 992 MiB memory",
        ];
        assert_eq!(lines(&roots), shown);
        put(root.path(), &variable, &[6, 0, 0, 0, 0]);
        put(root.path(), "sys/class/dmi/id/product_serial", b"7\n");
        assert_eq!(lines(&roots)[0], "machine  QEMU Standard PC, serial 7");
        assert_eq!(lines(&roots)[2], "firmware UEFI; 2 CPU, 992 MiB memory");
    }

    #[test]
    fn nothing_readable_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        let shown = ["machine  unknown machine", "uuid     none", "firmware BIOS; 1 CPU, 0 MiB memory"];
        assert_eq!(lines(&Roots::under(root.path())), shown);
    }
}
