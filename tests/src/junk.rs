//! Target disks as a customer would hand them over: full of junk, with the valid signatures of an earlier life.
//!
//! A fresh file of zeroes forgives too much: zeroes that were never written look right on it, and nothing on it can be found
//! again by the kernel, by udev or by a boot loader. So a target starts with a GPT (both ends), a labelled ext4, a member of an md
//! array with its metadata at the begin (1.2) and of one with it at the end (1.0), an LVM physical volume, and boot code that says so.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::random::Random;
use crate::shell::run;

/// The smallest disk that all signatures fit on, in bytes.
const SMALLEST: u64 = 64 << 20;
/// Junk is written every so many bytes ..
const STRIDE: u64 = 2 << 20;
/// .. so many bytes long, at a different place in each stride. Written everywhere it would cost minutes.
const PIECE: u64 = 256 << 10;
/// First sectors of the partitions, and their length, in sectors of 512 bytes: ext4, md, LVM.
const PARTITIONS: [u64; 3] = [2048, 43_008, 83_968];
const PARTITION_SECTORS: u64 = 40_960;

/// What an earlier life wrote into the boot sector.
pub const BOOT_MARK: &str = "OLD-BOOT-CODE";

/// Makes `path`: a raw disk of `size` bytes full of junk and old signatures.
///
/// # Errors
/// When the size is too small or a tool (`sgdisk`, `mke2fs`) is missing or fails.
pub fn make(path: &Path, size: u64, seed: u64) -> Result<()> {
    ensure!(size >= SMALLEST && size.is_multiple_of(512), "a junk disk of {size} bytes");
    println!("junk disk: seed {seed:#x}");
    let disk = File::create_new(path).with_context(|| format!("making {}", path.display()))?;
    disk.set_len(size).context("giving the disk its size")?;
    let write = |bytes: &[u8], offset: u64| disk.write_all_at(bytes, offset).context("writing junk");
    let mut random = Random::new(seed);
    let mut piece = vec![0; PIECE as usize];
    for stride in (0..size).step_by(STRIDE as usize) {
        random.fill(&mut piece);
        let place = stride + random.below((STRIDE - PIECE) / 512) * 512;
        let room = usize::try_from(size.saturating_sub(place)).unwrap_or(usize::MAX).min(piece.len());
        write(&piece[..room], place)?;
    }
    // Head and tail whole, so that what is left of them shows.
    for edge in [0, size - (1 << 20)] {
        let mut whole = vec![0; 1 << 20];
        random.fill(&mut whole);
        write(&whole, edge)?;
    }
    partition(path, size)?;
    let mut old_code = vec![0; 440];
    old_code[..2].copy_from_slice(&[0xeb, 0xfe]); // jmp $: a machine that starts it hangs, and does nothing else
    old_code[2..2 + BOOT_MARK.len()].copy_from_slice(BOOT_MARK.as_bytes());
    write(&old_code, 0)?;

    let [ext4, md, lvm] = PARTITIONS.map(|sector| sector * 512);
    let place = format!("offset={ext4},nodiscard");
    let blocks = format!("{}k", PARTITION_SECTORS / 2);
    run(Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "old-root", "-E", &place])
        .arg(path)
        .arg(blocks))?;
    write(&md_superblock(&mut random, 8, PARTITION_SECTORS), md + 4096)?;
    write(&lvm_label(&mut random), lvm + 512)?;
    // Metadata 1.0 lies at least 8 KiB before the end of its device, on a 4 KiB boundary: here within the disk's last MiB.
    let (first, sectors) = last_partition(size);
    let place = (sectors - 16) & !7;
    write(&md_superblock(&mut random, place, sectors), (first + place) * 512)
}

/// First sector and length, in sectors, of the partition that ends where the backup GPT begins.
fn last_partition(size: u64) -> (u64, u64) {
    let first = (size / 512 - 4096) & !2047;
    (first, size / 512 - 33 - first)
}

/// A GPT with four partitions; `sgdisk` writes both copies and the protective MBR.
fn partition(path: &Path, size: u64) -> Result<()> {
    let mut command = Command::new("sgdisk");
    command.args(["--zap-all", "--clear"]);
    for (number, (start, kind)) in (1..).zip(PARTITIONS.into_iter().zip(["8300", "fd00", "8e00"])) {
        command.arg(format!("--new={number}:{start}:+{}", PARTITION_SECTORS - 1));
        command.arg(format!("--typecode={number}:{kind}"));
    }
    let (first, sectors) = last_partition(size);
    command.args([format!("--new=4:{first}:{}", first + sectors - 1), "--typecode=4:fd00".into()]);
    run(command.arg(path)).map(drop)
}

/// An md superblock, version 1, with a valid checksum, for a device that keeps it at sector `here`.
/// Layout: `struct mdp_superblock_1` in the kernel's `include/uapi/linux/raid/md_p.h`; little-endian.
fn md_superblock(random: &mut Random, here: u64, sectors: u64) -> Vec<u8> {
    let mut block = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efc_u32.to_le_bytes()); // magic
    put(4, &1_u32.to_le_bytes()); // major version
    let mut id = [0; 16];
    random.fill(&mut id);
    put(16, &id);
    put(32, b"old:array");
    put(72, &1_u32.to_le_bytes()); // level: RAID1
    put(80, &(sectors - 2048).to_le_bytes()); // size used of each device, in sectors
    put(92, &2_u32.to_le_bytes()); // devices in the array
    put(128, &2048_u64.to_le_bytes()); // first sector of data
    put(136, &(sectors - 2048).to_le_bytes()); // sectors of data
    put(144, &here.to_le_bytes()); // where this superblock is
    random.fill(&mut id);
    put(168, &id); // this device
    put(200, &7_u64.to_le_bytes()); // events
    put(220, &2_u32.to_le_bytes()); // entries in dev_roles
    put(256, &[0, 0, 1, 0]); // dev_roles
    let words =
        block[..256 + 2 * 2].chunks_exact(4).map(|w| u64::from(u32::from_le_bytes([w[0], w[1], w[2], w[3]])));
    let sum: u64 = words.sum();
    let folded = (sum & 0xffff_ffff) + (sum >> 32);
    block[216..220].copy_from_slice(&(folded as u32).to_le_bytes());
    block
}

/// The label sector of an LVM physical volume, with a valid checksum. Layout: `lib/label/label.h` and
/// `lib/format_text/layout.h` of LVM2; little-endian.
fn lvm_label(random: &mut Random) -> Vec<u8> {
    let mut sector = vec![0; 512];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"LABELONE");
    put(8, &1_u64.to_le_bytes()); // this sector
    put(20, &32_u32.to_le_bytes()); // where the header of the volume starts in it
    put(24, b"LVM2 001");
    let id: Vec<u8> =
        (0..32).map(|_| b"abcdefghijklmnopqrstuvwxyzABCDEF"[random.below(32) as usize]).collect();
    put(32, &id);
    put(64, &(PARTITION_SECTORS * 512).to_le_bytes()); // size of the volume
    put(72, &(1_u64 << 20).to_le_bytes()); // data starts here; a zero pair ends the list
    put(104, &4096_u64.to_le_bytes()); // metadata area: place and size
    put(112, &((1_u64 << 20) - 4096).to_le_bytes());
    let checksum = lvm_checksum(&sector[20..512]);
    sector[16..20].copy_from_slice(&checksum.to_le_bytes());
    sector
}

/// CRC-32 as LVM computes it: its own start value, no final inversion.
fn lvm_checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |s, _| if s & 1 == 1 { (s >> 1) ^ 0xedb8_8320 } else { s >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What blkid, which others wrote, finds at a place.
    fn probe(disk: &Path, offset: u64, size: u64) -> String {
        let (offset, size) = (format!("--offset={offset}"), format!("--size={size}"));
        run(Command::new("blkid").args(["--probe", "--output", "export", &offset, &size]).arg(disk))
            .unwrap_or_default()
    }

    #[test]
    fn every_old_signature_is_valid_to_other_programs() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, size) = (directory.path().join("junk.raw"), 96 << 20);
        make(&disk, size, 1).unwrap();
        let table = run(Command::new("sfdisk").args(["--verify"]).arg(&disk)).unwrap();
        assert!(table.contains("No errors detected"), "{table}");
        for (sector, wanted) in
            PARTITIONS.into_iter().zip(["TYPE=ext4", "TYPE=linux_raid_member", "TYPE=LVM2_member"])
        {
            let found = probe(&disk, sector * 512, PARTITION_SECTORS * 512);
            assert!(found.contains(wanted), "{wanted}: {found}");
        }
        let (first, sectors) = last_partition(size);
        let found = probe(&disk, first * 512, sectors * 512);
        assert!(found.contains("TYPE=linux_raid_member") && found.contains("VERSION=1.0"), "{found}");
    }

    #[test]
    fn the_same_seed_makes_the_same_junk_and_it_reaches_every_stride() {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().join("junk.raw");
        make(&disk, SMALLEST, 5).unwrap();
        let bytes = std::fs::read(&disk).unwrap();
        assert!(bytes.chunks(STRIDE as usize).all(|stride| stride.iter().any(|byte| *byte != 0)));
        assert!(bytes.windows(BOOT_MARK.len()).take(512).any(|window| window == BOOT_MARK.as_bytes()));
        assert!(make(&directory.path().join("small.raw"), SMALLEST - 512, 5).is_err());
    }
}
