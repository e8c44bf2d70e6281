use super::fake::Machine;
use super::*;
use crate::error::ErrorKind;

#[test]
fn each_kind_of_disk_shows_its_names() {
    let machine = Machine::new();
    machine.ata("sda", "8:0", "QM00001");
    let folder = machine.device("vda", "pci0000:00/0000:00:02.0/virtio1", "254:0", 4096);
    machine.put(&format!("{folder}/serial"), "disk-one");
    machine.put("sys/devices/pci0000:00/0000:00:02.0/virtio1/vendor", "0x1af4\n");
    machine.link("sys/devices/pci0000:00/0000:00:02.0/virtio1/driver", "../../bus/virtio/drivers/virtio_blk");
    let folder = machine.device("nvme0n1", "pci0000:00/0000:00:03.0/nvme/nvme0", "259:0", 4096);
    machine.put(&format!("{folder}/wwid"), "eui.0025385C81B0D4FE\n");
    machine.put(&format!("{folder}/queue/logical_block_size"), "4096\n");
    machine.put("sys/devices/pci0000:00/0000:00:03.0/nvme/nvme0/serial", "S4EWNX0R  \n");
    machine.put("sys/devices/pci0000:00/0000:00:03.0/nvme/nvme0/model", "Samsung SSD 970\n");
    let usb = "pci0000:00/0000:00:14.0/usb2/2-1/2-1:1.0/host4/target4:0:0/4:0:0:0";
    let folder = machine.device("sdb", usb, "8:16", 4096);
    machine.put(&format!("{folder}/removable"), "1\n");
    machine.put("sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/idVendor", "0781\n");
    machine.put("sys/devices/pci0000:00/0000:00:14.0/usb2/2-1/serial", "4C53000\n");

    let disks = scan(&machine.roots).unwrap().disks;
    let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["sda", "sdb", "vda", "nvme0n1"]);
    let row = |disk: &Disk| {
        let id = disk.identity.clone();
        (id.serial, id.wwn, id.model, disk.transport, disk.driver.clone())
    };
    let text = str::to_owned;
    assert_eq!(
        row(&disks[0]),
        (text("QM00001"), text("naa.5000c5000qm00001"), text("QEMU HARDDISK"), Transport::Ata, text("ahci"))
    );
    assert_eq!(row(&disks[1]), (text("4C53000"), text(""), text(""), Transport::Usb, text("")));
    assert!(disks[1].removable);
    assert_eq!(row(&disks[2]), (text("disk-one"), text(""), text(""), Transport::Virtio, text("virtio_blk")));
    assert_eq!(
        row(&disks[3]),
        (text("S4EWNX0R"), text("eui.0025385c81b0d4fe"), text("Samsung SSD 970"), Transport::Nvme, text(""))
    );
    assert_eq!(disks[3].sector.bytes(), 4096);
    assert_eq!(disks[0].size, 1 << 30);
}

#[test]
fn what_is_no_disk_is_left_out_and_says_why() {
    let machine = Machine::new();
    machine.device("loop0", "virtual", "7:0", 8);
    machine.device("zram0", "virtual", "253:0", 8);
    machine.device("dm-0", "virtual", "252:0", 8);
    machine.device("md127", "virtual", "9:127", 8);
    machine.device("ublkb0", "virtual", "259:9", 8);
    machine.device("sr0", "pci0000:00/ata2", "11:0", 8);
    machine.device("sdc", "pci0000:00/usb1/1-1/host9/9:0:0:0", "8:32", 0);
    let path = machine.device("nvme0c0n1", "pci0000:00/nvme/nvme0", "259:1", 8);
    machine.put(&format!("{path}/hidden"), "1\n");
    let inventory = scan(&machine.roots).unwrap();
    assert_eq!(inventory.disks, []);
    let reason = |name: &str| {
        inventory.left_out.iter().find(|out| out.identity.path.ends_with(name)).map(|out| out.reason.as_str())
    };
    assert_eq!(reason("loop0"), Some("loop device"));
    assert_eq!(reason("zram0"), Some("compressed RAM disk"));
    assert_eq!(reason("dm-0"), Some("device-mapper device"));
    assert_eq!(reason("md127"), Some("md array"));
    assert_eq!(reason("ublkb0"), Some("virtual device"));
    assert_eq!(reason("sr0"), Some("optical drive"));
    assert_eq!(reason("sdc"), Some("no medium"));
    assert_eq!(reason("nvme0c0n1"), Some("hidden path of a multipath device"));
    assert!(inventory.left_out.iter().all(|out| !out.boot_medium));
}

#[test]
fn boot_media_are_never_disks() {
    let machine = Machine::new();
    machine.ata("sda", "8:0", "QM1");
    machine.ata("sdb", "8:16", "QM2");
    machine.device("sr0", "pci0000:00/ata2", "11:0", 8);
    let mut image = vec![0; 65536];
    image[32768..32774].copy_from_slice(b"\x01CD001");
    image[32808..32840].copy_from_slice(format!("{VOLUME_ID:<32}").as_bytes());
    machine.put("dev/sdb", &image);
    machine.put("dev/sr0", &image);
    let inventory = scan(&machine.roots).unwrap();
    assert_eq!(inventory.disks.len(), 1);
    assert_eq!(inventory.disks[0].name, "sda");
    assert!(inventory.left_out.iter().all(|out| out.boot_medium && out.reason.starts_with("boot medium")));
    assert_eq!(inventory.left_out.len(), 2);
    let stick = &inventory.left_out[0];
    assert_eq!((stick.identity.serial.as_str(), stick.size), ("QM2", 1 << 30), "it says what it is");
}

#[test]
fn a_disk_is_found_by_path_link_serial_and_wwn() {
    let machine = Machine::new();
    machine.ata("sda", "8:0", "11112222");
    machine.ata("sdb", "8:16", "33334444");
    let disks = scan(&machine.roots).unwrap().disks;
    let node = machine.roots.dev.join("sdb");
    let link = machine.roots.dev.join("by-id");
    std::os::unix::fs::symlink(&node, &link).unwrap();
    let (node, link) = (node.display().to_string(), link.display().to_string());
    for name in [node.as_str(), &link, "33334444", "naa.5000c50033334444", "0x5000C50033334444"] {
        assert_eq!(select(&disks, name).unwrap().name, "sdb", "{name}");
    }
}

#[test]
fn missing_and_ambiguous_names_list_what_exists() {
    let machine = Machine::new();
    machine.ata("sda", "8:0", "SAME");
    machine.ata("sdb", "8:16", "SAME");
    let disks = scan(&machine.roots).unwrap().disks;
    let error = select(&disks, "SAME").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsuitable);
    assert!(
        error.to_string().contains("/sda (1 GiB, serial SAME") && error.to_string().contains("/sdb"),
        "{error}"
    );
    let error = select(&disks, "OTHER").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Missing);
    assert!(error.to_string().contains("/sda"), "{error}");
    for name in ["", "naa.", "/dev", "."] {
        assert_eq!(select(&disks, name).unwrap_err().kind, ErrorKind::Missing, "{name:?}");
    }
    for (name, expected) in [
        (
            "/nowhere/missing.img",
            "/nowhere/missing.img: no such file, and no disk is called that; there are ",
        ),
        ("missing.img", "missing.img: no such file"),
        ("/tmp", "/tmp: is a directory, not a disk or an image; there are "),
        ("naa.5000", "naa.5000: no disk is called that; there are "),
        ("OTHER", "OTHER: no disk is called that; there are "),
        ("Cargo.toml", "Cargo.toml: no disk is called that; there are "),
    ] {
        let error = select(&disks, name).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(select(&[], "x").unwrap_err().to_string().contains("no disk at all"));
}

/// The machine the tests run on: whatever it has, the scan succeeds and what it calls a disk has a size.
#[test]
fn this_machine_can_be_listed() {
    let inventory = scan(&Roots::default()).unwrap();
    assert!(inventory.disks.iter().all(|disk| disk.size > 0 && disk.identity.path.starts_with("/dev/")));
}
