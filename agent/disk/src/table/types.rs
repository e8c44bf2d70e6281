//! Names of partition types.

/// EFI system partition.
pub const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

/// GPT types from the UEFI and Discoverable Partitions specifications and their vendors; MBR types as in common use.
const NAMES: &[(&str, &str)] = &[
    (ESP, "EFI system"),
    ("21686148-6449-6e6f-744e-656564454649", "BIOS boot"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "extended boot loader"),
    ("9e1a2d38-c612-4316-aa26-8b49521e5a8b", "PReP boot"),
    ("0fc63daf-8483-4772-8e79-3d69d8477de4", "Linux data"),
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "Linux root (x86-64)"),
    ("8484680c-9521-48c6-9c11-b0720656f69e", "Linux /usr (x86-64)"),
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "Linux home"),
    ("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", "Linux swap"),
    ("e6d6d379-f507-44c2-a23c-238f2a3df928", "Linux LVM"),
    ("a19d880f-05fc-4d3b-a006-743f0f84911e", "Linux RAID"),
    ("ca7d7ccb-63ed-4c53-861c-1742536059cc", "LUKS"),
    ("e3c9e316-0b5c-4db8-817d-f92df00215ae", "Microsoft reserved"),
    ("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7", "Microsoft basic data"),
    ("de94bba4-06d1-4d40-a16a-bfd50179d6ac", "Windows recovery"),
    ("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "Windows LDM metadata"),
    ("af9b60a0-1431-4f62-bc68-3311714a69ad", "Windows LDM data"),
    ("e75caf8f-f680-4cee-afa3-b001e56efc2d", "Windows Storage Spaces"),
    ("6a898cc3-1dd2-11b2-99a6-080020736631", "ZFS"),
    ("0x01", "FAT12"),
    ("0x04", "FAT16"),
    ("0x05", "extended"),
    ("0x06", "FAT16"),
    ("0x07", "NTFS or exFAT"),
    ("0x0b", "FAT32"),
    ("0x0c", "FAT32 (LBA)"),
    ("0x0e", "FAT16 (LBA)"),
    ("0x0f", "extended (LBA)"),
    ("0x27", "Windows recovery"),
    ("0x41", "PReP boot"),
    ("0x42", "Windows LDM"),
    ("0x82", "Linux swap"),
    ("0x83", "Linux"),
    ("0x85", "Linux extended"),
    ("0x8e", "Linux LVM"),
    ("0xea", "extended boot loader"),
    ("0xee", "GPT protective"),
    ("0xef", "EFI system"),
    ("0xfd", "Linux RAID"),
];

/// The name of a type as in [`super::Partition::type_id`]; unknown ones are named by their id.
pub fn type_name(type_id: &str) -> &str {
    NAMES.iter().find(|(id, _)| *id == type_id).map_or(type_id, |(_, name)| name)
}
