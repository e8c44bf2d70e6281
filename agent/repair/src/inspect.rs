//! From an open replica to facts. Reads; decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use crate::config::{fstab, grub, shell};
use crate::disks;
use crate::drivers;
use crate::edit::digest;
use crate::error::{During, Error, Result};
use crate::facts::{Esp, EspFile, FORMAT, Facts, Image, Kernel, Mounted, System, Target};
use crate::image;
use crate::replica::Replica;
use crate::root::GuestRoot;

/// Bytes of a configuration file at most.
const MAX_TEXT: u64 = 4 << 20;
/// Bytes of a module table or a debconf database at most.
const MAX_TABLE: u64 = 64 << 20;

/// Configuration that rules read.
const FILES: &[&str] = &[
    "/etc/fstab",
    "/etc/default/grub",
    grub::CONFIG,
    "/boot/grub/device.map",
    "/etc/initramfs-tools/modules",
    "/etc/initramfs-tools/initramfs.conf",
    "/etc/network/interfaces",
];
/// Directories whose files rules read, by the end of the name.
const DIRECTORIES: &[(&str, &[&str])] = &[
    ("/etc/default/grub.d", &[".cfg"]),
    ("/etc/initramfs-tools/conf.d", &[""]),
    ("/usr/share/initramfs-tools/conf.d", &[""]),
    ("/etc/network/interfaces.d", &[""]),
    ("/etc/systemd/network", &[".network", ".link", ".netdev"]),
    ("/etc/udev/rules.d", &["net.rules", "net-names.rules"]),
];
/// What matters by existing. Contents of NetworkManager's connections are secret and stay unread.
const PRESENT: &[&str] = &[
    "/usr/sbin/update-initramfs",
    "/etc/netplan",
    "/etc/NetworkManager/system-connections",
    "/etc/cloud/cloud.cfg",
];

/// Collects the facts.
pub fn facts(replica: &Replica, target: &Target) -> Result<Facts> {
    let guest = &replica.root;
    let (_, root) =
        replica.mounted.first().ok_or_else(|| Error::Replica(String::from("nothing is mounted")))?;
    let release = text(guest, "/etc/os-release")?.or(text(guest, "/usr/lib/os-release")?).unwrap_or_default();
    let files = files(guest)?;
    let mut system = System {
        root: *root,
        id: shell::value(&release, "ID").unwrap_or_default(),
        version: shell::value(&release, "VERSION_ID").unwrap_or_default(),
        name: shell::value(&release, "PRETTY_NAME").unwrap_or_default(),
        mounts: mounted(replica)?,
        hibernated_files: hibernated_files(
            guest,
            files.get("/etc/fstab").map(String::as_str).unwrap_or_default(),
        )?,
        files,
        present: present(guest)?,
        grub_install_devices: grub_install_devices(guest)?,
        kernels: kernels(guest, target)?,
        esp: None,
    };
    if let Some(esp) = esp(replica)? {
        for file in esp.files.values().filter(|f| f.path.to_lowercase().ends_with("grub.cfg")) {
            let path = format!("{}/{}", esp.at, file.path);
            if let Some(text) = text(guest, &path)? {
                system.files.insert(path, text);
            }
        }
        system.esp = Some(esp);
    }
    Ok(Facts { format: FORMAT, target: target.clone(), disks: replica.disks.clone(), system })
}

/// A text file; `None` when there is none or it is no UTF-8 (which no rule would dare to change).
fn text(guest: &GuestRoot, path: &str) -> Result<Option<String>> {
    Ok(guest.read(path, MAX_TEXT)?.and_then(|content| String::from_utf8(content).ok()))
}

fn files(guest: &GuestRoot) -> Result<BTreeMap<String, String>> {
    let mut paths: Vec<String> = FILES.iter().map(|p| (*p).to_string()).collect();
    for (directory, endings) in DIRECTORIES {
        let names = guest.list(directory)?;
        let wanted = names.iter().filter(|n| endings.iter().any(|e| n.ends_with(e)) && !n.starts_with('.'));
        paths.extend(wanted.map(|n| format!("{directory}/{n}")));
    }
    let mut files = BTreeMap::new();
    for path in paths {
        if let Some(text) = text(guest, &path)? {
            files.insert(path, text);
        }
    }
    Ok(files)
}

fn present(guest: &GuestRoot) -> Result<BTreeSet<String>> {
    let mut present = BTreeSet::new();
    for path in PRESENT {
        // An empty directory says nothing: packages bring it along.
        let there =
            if guest.is_directory(path)? { !guest.list(path)?.is_empty() } else { guest.exists(path)? };
        if there {
            present.insert((*path).to_string());
        }
    }
    Ok(present)
}

fn mounted(replica: &Replica) -> Result<Vec<Mounted>> {
    let one = |(at, partition): &(String, crate::facts::PartitionRef)| {
        let path = replica.root.mounted_at().join(replica.root.real(at)?.trim_start_matches('/'));
        let space =
            nix::sys::statvfs::statvfs(&path).during(|| format!("asking for the free space of {at}"))?;
        let free = space.blocks_free() * space.fragment_size();
        Ok(Mounted { at: at.clone(), partition: *partition, free_mib: (free >> 20) / 16 * 16 })
    };
    replica.mounted.iter().map(one).collect()
}

/// Swap files that hold a hibernation image.
fn hibernated_files(guest: &GuestRoot, fstab: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fstab::entries(fstab)
        .filter(|e| e.kind == "swap" && e.spec.starts_with('/') && !e.spec.starts_with("/dev/"))
    {
        let Some(file) = guest.regular(entry.spec)? else { continue };
        let mut page = Vec::new();
        file.take(disks::PAGE)
            .read_to_end(&mut page)
            .during(|| format!("reading {} of the guest", entry.spec))?;
        let signature =
            page.len().checked_sub(disks::SIGNATURE).and_then(|at| disks::hibernation_signature(&page[at..]));
        if let Some(signature) = signature {
            found.insert(entry.spec.to_string(), signature);
        }
    }
    Ok(found)
}

/// The value of `grub-pc/install_devices` in debconf's database: stanzas of `Key: value` lines.
fn grub_install_devices(guest: &GuestRoot) -> Result<Option<String>> {
    let Some(database) = guest.read("/var/cache/debconf/config.dat", MAX_TABLE)? else { return Ok(None) };
    let database = String::from_utf8_lossy(&database);
    let stanza = database.split("\n\n").find(|s| s.lines().any(|l| l == "Name: grub-pc/install_devices"));
    Ok(stanza.and_then(|s| s.lines().find_map(|l| l.strip_prefix("Value: "))).map(str::to_string))
}

/// Kernels with a file in /boot and modules, oldest first.
fn kernels(guest: &GuestRoot, target: &Target) -> Result<Vec<Kernel>> {
    let mut versions = Vec::new();
    for version in guest.list("/lib/modules")? {
        if guest.exists(&format!("/boot/vmlinuz-{version}"))?
            && guest.exists(&format!("/lib/modules/{version}/modules.dep"))?
        {
            versions.push(version);
        }
    }
    versions.sort_by_key(|v| version_key(v));
    versions.into_iter().map(|version| kernel(guest, target, version)).collect()
}

/// Digits count as numbers: 6.1.0-9 is older than 6.1.0-10.
fn version_key(version: &str) -> Vec<(u64, String)> {
    version
        .split(['.', '-', '+', '~'])
        .map(|part| part.parse().map_or_else(|_| (0, part.to_string()), |n| (n, String::new())))
        .collect()
}

fn kernel(guest: &GuestRoot, target: &Target, version: String) -> Result<Kernel> {
    let table = |name: &str| -> Result<String> {
        let content = guest.read(&format!("/lib/modules/{version}/{name}"), MAX_TABLE)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&content).into_owned())
    };
    let for_target: BTreeSet<String> = if target.modaliases.is_empty() {
        BTreeSet::new()
    } else {
        drivers::for_devices(&table("modules.alias")?, target.modaliases.iter()).into_iter().collect()
    };
    let known = drivers::all();
    let asked = |path: &str| {
        Some(drivers::normal(path)).filter(|m| known.contains(&m.as_str()) || for_target.contains(m))
    };
    let modules = table("modules.dep")?.lines().filter_map(|l| asked(l.split(':').next()?)).collect();
    let builtin = table("modules.builtin")?.lines().filter_map(asked).collect();
    let path = format!("/boot/initrd.img-{version}");
    let image = image(guest, &path)?;
    Ok(Kernel { version, modules, builtin, for_target, image })
}

fn image(guest: &GuestRoot, path: &str) -> Result<Option<Image>> {
    let Some(file) = guest.regular(path)? else { return Ok(None) };
    let size = file.metadata().during(|| format!("looking at {path} of the guest"))?.len();
    let content = image::read(file, &|name| name.starts_with("conf/conf.d/"));
    let content = match content {
        Ok(content) => content,
        // One that cannot be read is as good as empty: it is built again, or the check afterwards says why not.
        Err(e)
            if e.kind() == std::io::ErrorKind::InvalidData
                || e.kind() == std::io::ErrorKind::UnexpectedEof =>
        {
            image::Content::default()
        }
        Err(e) => return Err(Error::io(format!("reading the initramfs {path} of the guest"), e)),
    };
    Ok(Some(Image { path: path.to_string(), size, modules: content.modules, files: content.files }))
}

/// Boot files on the EFI system partition: those directly in the directories below \EFI.
fn esp(replica: &Replica) -> Result<Option<Esp>> {
    let is_esp = |p: &&(String, crate::facts::PartitionRef)| {
        let partition = replica.disks[p.1.disk].partitions.iter().find(|q| q.number == p.1.number);
        partition.is_some_and(|q| q.kind == gantry_disk::table::ESP || q.kind == "0xef")
    };
    let Some((at, partition)) = replica.mounted.iter().find(is_esp) else { return Ok(None) };
    let guest = &replica.root;
    let mut files = BTreeMap::new();
    for top in guest.list(at)?.into_iter().filter(|n| n.eq_ignore_ascii_case("efi")) {
        for directory in guest.list(&format!("{at}/{top}"))? {
            for name in guest.list(&format!("{at}/{top}/{directory}"))? {
                let lower = name.to_lowercase();
                if ![".efi", ".cfg", ".csv"].iter().any(|e| lower.ends_with(e)) {
                    continue;
                }
                let path = format!("{top}/{directory}/{name}");
                if let Some(content) = guest.read(&format!("{at}/{path}"), MAX_TABLE)? {
                    files.insert(path.to_lowercase(), EspFile { digest: digest(&content), path });
                }
            }
        }
    }
    Ok(Some(Esp { partition: *partition, at: at.clone(), files }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let mut all = ["6.1.0-10-amd64", "6.1.0-9-amd64", "5.10.0-30-amd64", "6.12.9+deb13-amd64"];
        all.sort_by_key(|v| version_key(v));
        assert_eq!(all, ["5.10.0-30-amd64", "6.1.0-9-amd64", "6.1.0-10-amd64", "6.12.9+deb13-amd64"]);
    }

    #[test]
    fn a_guests_tree_becomes_facts() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &[u8]| {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/fstab", b"/dev/sda1 / ext4 rw 0 1\n/swapfile none swap sw 0 0\n");
        write("etc/systemd/network/20-x.network", b"[Match]\n");
        write("etc/systemd/network/x.swp", b"no");
        write("etc/default/grub", b"\xff\xfe");
        write(
            "lib/modules/6.1/modules.dep",
            b"kernel/drivers/block/virtio_blk.ko: kernel/x.ko\nkernel/sound/snd.ko:\n",
        );
        write("lib/modules/6.1/modules.builtin", b"kernel/drivers/nvme/host/nvme.ko\n");
        write("lib/modules/6.1/modules.alias", b"alias pci:v00001000d*sv*sd*bc*sc*i* megaraid_sas\n");
        write("boot/vmlinuz-6.1", b"");
        write(
            "boot/initrd.img-6.1",
            &crate::image::tests::cpio(&[("lib/ahci.ko", ""), ("conf/conf.d/resume", "RESUME=none\n")]),
        );
        write("var/cache/debconf/config.dat", b"Name: a/b\nValue: 1\n\nName: grub-pc/install_devices\nTemplate: x\nValue: /dev/disk/by-id/ata-OLD\nOwners: grub-pc\n");
        let mut swap = vec![0; 4096];
        swap[4086..4095].copy_from_slice(b"S1SUSPEND");
        write("swapfile", &swap);
        let guest = GuestRoot::new(&directory.path().canonicalize().unwrap()).unwrap();

        let files = files(&guest).unwrap();
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            ["/etc/fstab", "/etc/systemd/network/20-x.network"],
            "no binary, no strays"
        );
        let target = Target {
            modaliases: [String::from("pci:v00001000d0001sv1sd1bc01sc04i00")].into(),
            ..Target::default()
        };
        let kernels = kernels(&guest, &target).unwrap();
        assert_eq!(kernels.len(), 1);
        assert_eq!(kernels[0].modules.iter().collect::<Vec<_>>(), ["virtio_blk"]);
        assert_eq!(kernels[0].builtin.iter().collect::<Vec<_>>(), ["nvme"]);
        assert_eq!(kernels[0].for_target.iter().collect::<Vec<_>>(), ["megaraid_sas"]);
        let image = kernels[0].image.as_ref().unwrap();
        assert_eq!(image.files["conf/conf.d/resume"], "RESUME=none\n");
        assert_eq!(grub_install_devices(&guest).unwrap().as_deref(), Some("/dev/disk/by-id/ata-OLD"));
        assert_eq!(hibernated_files(&guest, &files["/etc/fstab"]).unwrap()["/swapfile"], "S1SUSPEND");
    }
}
