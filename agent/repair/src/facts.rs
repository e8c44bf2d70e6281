//! What was seen on the replica and on the machine it shall boot on: plain data, no handles.
//!
//! Rules are pure functions of these facts, and a plan is bound to their digest, so everything a rule may want to know
//! is here, including the text of the configuration files that matter. Nothing here depends on names that the machine that repairs chose
//! (loop devices, mount points), or the same replica would have other facts the second time.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::edit::Edit;
use crate::error::{Error, Result};

/// Raised whenever the meaning of a field changes: plans made from older facts are then refused.
pub const FORMAT: u32 = 1;

/// Everything rules decide by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// [`FORMAT`].
    pub format: u32,
    /// The machine the replica shall boot on.
    pub target: Target,
    /// The replica's disks in the order given, which is the source's.
    pub disks: Vec<Disk>,
    /// The one system to repair.
    pub system: System,
}

/// What is known of the machine the replica shall boot on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// True when repair runs on the target itself, so that its hardware is evidence.
    pub here: bool,
    /// How it boots, when known.
    pub firmware: Option<Firmware>,
    /// Its wired network cards in slot order; empty when not known.
    pub nics: Vec<Nic>,
    /// Modalias strings of its storage devices and of the buses they may sit on.
    pub modaliases: BTreeSet<String>,
    /// Names given by the user: old interface name to new MAC address (lower case).
    pub network_map: BTreeMap<String, String>,
}

/// How a machine starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// BIOS, or UEFI in its compatibility mode.
    Bios,
    /// UEFI.
    Uefi,
}

/// A wired network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// Name the kernel of this machine gave it; only for people to read.
    pub name: String,
    /// Lower case, colons.
    pub mac: String,
    /// False when the address is made up at each start and cannot identify the card.
    pub permanent: bool,
    /// Kernel driver.
    pub driver: String,
    /// Bus address, such as `0000:00:03.0`.
    pub slot: String,
}

/// One disk of the replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes.
    pub size: u64,
    /// Bytes of a logical sector.
    pub sector_size: u32,
    /// Kind of partition table, when there is one.
    pub table: Option<TableKind>,
    /// GPT disk GUID or MBR signature as blkid writes them (PTUUID).
    pub id: String,
    /// What lies in the boot sector and the gap behind it.
    pub boot_code: BootCode,
    /// Partitions in table order.
    pub partitions: Vec<Partition>,
}

/// Kinds of partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// Master boot record.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// What the BIOS would start from a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BootCode {
    /// No code, or no 55 AA.
    #[default]
    None,
    /// GRUB 2's boot sector.
    Grub {
        /// First 512-byte sector of its core image, as the boot sector says.
        core_sector: u64,
        /// Whether something that looks like GRUB's core lies there.
        core_present: bool,
    },
    /// Code of something else.
    Other,
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// As the kernel counts: the N of sdaN.
    pub number: u32,
    /// Bytes from the start of the disk.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// GPT type GUID (lower case) or MBR type as two hex digits.
    pub kind: String,
    /// PARTUUID as udev writes it.
    pub partuuid: String,
    /// GPT name.
    pub name: String,
    /// Filesystem or other content, as blkid calls it: ext4, vfat, swap, swsuspend ...; empty when unknown.
    pub content: String,
    /// Filesystem UUID as blkid writes it.
    pub uuid: String,
    /// Filesystem label.
    pub label: String,
    /// Signature of a hibernation image in a swap partition.
    pub hibernation: Option<String>,
}

/// Names a partition of the replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionRef {
    /// Index into [`Facts::disks`].
    pub disk: usize,
    /// [`Partition::number`].
    pub number: u32,
}

impl std::fmt::Display for PartitionRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "partition {} of disk {}", self.number, self.disk + 1)
    }
}

/// The operating system on the replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// Where / lies.
    pub root: PartitionRef,
    /// `ID` of os-release, such as `debian`.
    pub id: String,
    /// `VERSION_ID` of os-release.
    pub version: String,
    /// `PRETTY_NAME` of os-release.
    pub name: String,
    /// What is mounted where, by fstab; / first.
    pub mounts: Vec<Mounted>,
    /// Configuration by its path in the guest; only valid UTF-8 is here.
    pub files: BTreeMap<String, String>,
    /// Other paths that exist and matter by existing (programs, directories).
    pub present: BTreeSet<String>,
    /// `grub-pc/install_devices` as debconf has it.
    pub grub_install_devices: Option<String>,
    /// Every installed kernel, newest last.
    pub kernels: Vec<Kernel>,
    /// The EFI system partition, when there is one.
    pub esp: Option<Esp>,
    /// Hibernation images in swap files: path to signature.
    pub hibernated_files: BTreeMap<String, String>,
}

/// A mounted filesystem of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// Mount point in the guest.
    pub at: String,
    /// Where it lies.
    pub partition: PartitionRef,
    /// MiB free for root, rounded down to 16 so that a log line more does not make a plan stale.
    pub free_mib: u64,
}

/// An installed kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// The directory below /lib/modules.
    pub version: String,
    /// Modules it has of those rules ask for (see [`crate::drivers`]), `_` for `-`.
    pub modules: BTreeSet<String>,
    /// Built in, of those rules ask for.
    pub builtin: BTreeSet<String>,
    /// Modules its alias table names for the target's devices.
    pub for_target: BTreeSet<String>,
    /// Its initramfs in /boot.
    pub image: Option<Image>,
}

/// An initramfs image, as unpacked by the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Path in the guest.
    pub path: String,
    /// Bytes on disk.
    pub size: u64,
    /// Every module in it, `_` for `-`.
    pub modules: BTreeSet<String>,
    /// Text of the small files in it that repeat configuration.
    pub files: BTreeMap<String, String>,
}

/// The EFI system partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Esp {
    /// Where it lies.
    pub partition: PartitionRef,
    /// Where it is mounted in the guest.
    pub at: String,
    /// Boot files: lower-case path below the partition's root to the file.
    pub files: BTreeMap<String, EspFile>,
}

/// A file on the EFI system partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EspFile {
    /// Path as it is spelt.
    pub path: String,
    /// BLAKE3 of its content.
    pub digest: String,
}

impl Facts {
    /// BLAKE3 over the canonical JSON, in hex: what a plan is bound to.
    pub fn digest(&self) -> Result<String> {
        let bytes = serde_json::to_vec(self).map_err(|e| Error::Replica(format!("encoding facts: {e}")))?;
        Ok(blake3::hash(&bytes).to_hex().to_string())
    }

    /// The partition a reference names.
    pub fn partition(&self, reference: PartitionRef) -> Option<&Partition> {
        self.disks.get(reference.disk)?.partitions.iter().find(|p| p.number == reference.number)
    }

    /// All partitions with their references.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionRef, &Partition)> {
        self.disks.iter().enumerate().flat_map(|(disk, d)| {
            d.partitions.iter().map(move |p| (PartitionRef { disk, number: p.number }, p))
        })
    }

    /// A configuration file's text.
    pub fn file(&self, path: &str) -> Option<&str> {
        self.system.files.get(path).map(String::as_str)
    }

    /// Configuration files directly in `directory` whose names end in `suffix`, by name.
    pub fn files_in<'a>(
        &'a self,
        directory: &str,
        suffix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let prefix = format!("{directory}/");
        self.system.files.iter().filter_map(move |(path, text)| {
            let name = path.strip_prefix(&prefix)?;
            (!name.contains('/') && name.ends_with(suffix)).then_some((path.as_str(), text.as_str()))
        })
    }

    /// How the guest is installed to start: UEFI when its ESP carries a loader, BIOS when GRUB sits in a boot sector;
    /// both can be true.
    pub fn installed_for(&self, firmware: Firmware) -> bool {
        match firmware {
            Firmware::Bios => {
                self.disks.iter().any(|d| matches!(d.boot_code, BootCode::Grub { .. } | BootCode::Other))
            }
            Firmware::Uefi => self.system.esp.as_ref().is_some_and(|esp| !esp.files.is_empty()),
        }
    }

    /// The facts as they will be once `edit` is applied: lets the next rule see what the one before decided.
    pub fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::WriteFile { path, text, .. } => {
                self.system.files.insert(path.clone(), text.clone());
            }
            Edit::RemoveFile { path, .. } => {
                self.system.files.remove(path);
                self.forget_esp_file(path);
            }
            Edit::CopyFile { from, to, digest } => self.copy_esp_file(from, to, digest),
            Edit::UpdateInitramfs { images } => {
                for built in images {
                    for kernel in self.system.kernels.iter_mut().filter(|k| k.version == built.kernel) {
                        let image = kernel.image.get_or_insert_with(Image::default);
                        image.path.clone_from(&built.path);
                        image.modules.extend(built.modules.iter().cloned());
                        image.files.extend(built.files.clone());
                    }
                }
            }
            Edit::VoidHibernation { partition, file, .. } => {
                if let Some(file) = file {
                    self.system.hibernated_files.remove(file);
                } else if let Some(p) = self
                    .disks
                    .get_mut(partition.disk)
                    .and_then(|d| d.partitions.iter_mut().find(|p| p.number == partition.number))
                {
                    p.hibernation = None;
                    p.content = String::from("swap");
                }
            }
        }
    }

    fn forget_esp_file(&mut self, path: &str) {
        if let Some(esp) = &mut self.system.esp
            && let Some(below) = path.strip_prefix(&format!("{}/", esp.at))
        {
            esp.files.remove(&below.to_lowercase());
        }
    }

    fn copy_esp_file(&mut self, _from: &str, to: &str, digest: &str) {
        if let Some(esp) = &mut self.system.esp
            && let Some(below) = to.strip_prefix(&format!("{}/", esp.at))
        {
            esp.files.insert(
                below.to_lowercase(),
                EspFile { path: below.to_string(), digest: digest.to_string() },
            );
        }
    }
}
