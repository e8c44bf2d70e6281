//! Made-up machines: a sysfs, procfs and dev tree in a temporary folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::roots::Roots;

pub(crate) struct Machine {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) roots: Roots,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = Roots::under(&folder.path().canonicalize().unwrap());
        for path in [roots.sys.join("block"), roots.proc.join("self"), roots.dev.clone()] {
            fs::create_dir_all(path).unwrap();
        }
        let machine = Self { folder, roots };
        machine.put("proc/self/mountinfo", "22 27 0:21 / /proc rw - proc proc rw\n");
        machine.put("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
        machine
    }

    /// A file below the machine's root, with its folders.
    pub(crate) fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: impl AsRef<Path>) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn root(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    /// A block device `name` of `sectors` 512-byte units at `place` below `/sys/devices`, e.g. "pci0/ata1/host0/0:0:0:0".
    pub(crate) fn device(&self, name: &str, place: &str, number: &str, sectors: u64) -> String {
        let folder = format!("sys/devices/{place}/block/{name}");
        self.put(&format!("{folder}/dev"), format!("{number}\n"));
        self.put(&format!("{folder}/size"), format!("{sectors}\n"));
        self.put(&format!("{folder}/ro"), "0\n");
        self.put(&format!("{folder}/removable"), "0\n");
        self.put(&format!("{folder}/queue/logical_block_size"), "512\n");
        self.put(&format!("{folder}/queue/physical_block_size"), "4096\n");
        self.put(&format!("{folder}/stat"), "1 0 8 0 2 0 24 0 0 0 0\n");
        fs::create_dir_all(self.root().join(format!("{folder}/holders"))).unwrap();
        if !place.starts_with("virtual") {
            self.link(&format!("{folder}/device"), self.root().join(format!("sys/devices/{place}")));
        }
        self.link(&format!("sys/block/{name}"), self.root().join(&folder));
        self.link(&format!("sys/dev/block/{number}"), self.root().join(&folder));
        self.put(&format!("dev/{}", name.replace('!', "/")), vec![0; 65536]);
        folder
    }

    /// A partition of a device made before.
    pub(crate) fn partition(&self, disk: &str, name: &str, number: &str) {
        let folder = format!("{disk}/{name}");
        self.put(&format!("{folder}/partition"), "1\n");
        self.put(&format!("{folder}/dev"), format!("{number}\n"));
        fs::create_dir_all(self.root().join(format!("{folder}/holders"))).unwrap();
        self.link(&format!("sys/dev/block/{number}"), self.root().join(&folder));
    }

    /// An ATA disk the way libata shows one.
    pub(crate) fn ata(&self, name: &str, number: &str, serial: &str) -> String {
        let place =
            format!("pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:{}", number.replace(':', "_"));
        let folder = self.device(name, &place, number, 2048 * 1024);
        self.put(&format!("sys/devices/{place}/model"), "QEMU HARDDISK   \n");
        self.put(&format!("sys/devices/{place}/vendor"), "ATA     \n");
        self.put(&format!("sys/devices/{place}/wwid"), format!("naa.5000c500{serial:0>8}\n"));
        let mut page = vec![0, 0x80, 0, u8::try_from(serial.len()).unwrap()];
        page.extend(serial.as_bytes());
        self.put(&format!("sys/devices/{place}/vpd_pg80"), page);
        self.link(&format!("sys/devices/{place}/driver"), "../../bus/scsi/drivers/sd");
        let driver = self.root().join("sys/devices/pci0000:00/0000:00:1f.2/driver");
        if !driver.is_symlink() {
            symlink("../../bus/pci/drivers/ahci", driver).unwrap();
        }
        folder
    }
}
