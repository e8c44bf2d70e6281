//! The EFI system partition of a medium: a small FAT image without a clock.

use std::io::{Cursor, Write};

use anyhow::{Context, Result};
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use crate::loaders::Efi;

/// Room for the FAT itself and the directories.
const SPARE: usize = 256 << 10;

/// The image's bytes: `\EFI\BOOT\` with shim, GRUB and MokManager.
///
/// There must be no `/boot/grub` on it: Debian's GRUB would take it for the medium and stop at its prompt.
pub fn image(efi: &Efi) -> Result<Vec<u8>> {
    let files = [("BOOTX64.EFI", &efi.shim), ("grubx64.efi", &efi.grub), ("mmx64.efi", &efi.mok_manager)];
    let size: usize = files.iter().map(|(_, content)| content.len()).sum::<usize>() + SPARE;
    let mut disk = Cursor::new(vec![0; size.next_multiple_of(64 << 10)]);
    let format = FormatVolumeOptions::new().volume_id(0x4741_4e54).volume_label(*b"GANTRY EFI ");
    fatfs::format_volume(&mut disk, format).context("formatting the EFI image")?;
    {
        // Without its feature "chrono" the crate has no clock and gives everything the same empty date.
        let volume = FileSystem::new(&mut disk, FsOptions::new()).context("opening the EFI image")?;
        let folder = volume.root_dir().create_dir("EFI").and_then(|folder| folder.create_dir("BOOT"));
        let folder = folder.context("making folders in the EFI image")?;
        for (name, content) in files {
            let write = folder
                .create_file(name)
                .and_then(|mut file| file.write_all(content).and_then(|()| file.flush()));
            write.with_context(|| format!("writing {name} into the EFI image"))?;
        }
    }
    Ok(disk.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn sample() -> Efi {
        Efi { shim: vec![1; 900_000], grub: vec![2; 2_300_000], mok_manager: vec![3; 800_000] }
    }

    #[test]
    fn files_are_read_back_and_bytes_are_the_same_each_time() {
        let bytes = image(&sample()).unwrap();
        assert!(bytes == image(&sample()).unwrap(), "two images differ");
        let volume = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
        let mut content = Vec::new();
        volume.root_dir().open_file("efi/boot/GRUBX64.EFI").unwrap().read_to_end(&mut content).unwrap();
        assert!(content == sample().grub);
        assert!(volume.root_dir().open_dir("boot").is_err());
    }
}
