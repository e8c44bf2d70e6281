//! The builder machine: it partitions a guest's disk, unpacks its tree and installs its boot loader.
//!
//! Its system is the base tree as an ext4 image (made without mounting), its kernel the base tree's. The guest's disk is on AHCI, as
//! it will be on the source: it is /dev/sda here too, so Debian's tools write the names that they would write there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use gantry_qemu::{Bus, Disk, Evidence, Firmware, Limit, Machine};

use super::recipe::{Recipe, data};
use super::{base, tree};
use crate::cache::{self, Key};
use crate::shell::run;

/// Size of a guest's disk, in bytes.
const DISK_SIZE: u64 = 2 << 30;
/// Size of the builder's own disk, in bytes; sparse.
const SYSTEM_SIZE: &str = "1500M";
/// How long laying out takes on a quiet machine, in seconds, with room.
const QUIET_SECONDS: u32 = 60;

/// Makes `disk`: a raw image laid out by the recipe's `layout.sh`, with the tree in `tar` on it.
pub(super) fn lay_out(recipe: &Recipe, base: &Path, tar: &Path, disk: &Path) -> Result<()> {
    let system = system(base)?;
    let scratch = tempfile::tempdir().context("making a scratch directory")?;
    // A block device is whole sectors: the tar is padded with zeroes, the script with line ends.
    let padded = std::fs::metadata(tar).context("the packed tree")?.len().next_multiple_of(512);
    File::options()
        .write(true)
        .open(tar)
        .and_then(|file| file.set_len(padded))
        .context("padding the packed tree")?;
    let mut script =
        std::fs::read(data(recipe.name).join("layout.sh")).context("reading the layout script")?;
    script.resize(script.len().next_multiple_of(512), b'\n');
    let script_file = scratch.path().join("layout");
    std::fs::write(&script_file, script).context("writing the layout script")?;
    File::create_new(disk).and_then(|file| file.set_len(DISK_SIZE)).context("making the disk's file")?;

    let evidence = Evidence::new(&format!("build-{}", recipe.name))?;
    let machine = Machine::new("builder", Firmware::Bios)
        .disk(Disk::raw(disk, Bus::Ahci, "GUEST"))
        .disk(Disk::raw(system.join("system.raw"), Bus::VirtioBlk, "SYSTEM").throw_away())
        .disk(Disk::raw(tar, Bus::VirtioBlk, "TREE").throw_away())
        .disk(Disk::raw(script_file, Bus::VirtioBlk, "LAYOUT").throw_away())
        .kernel(
            &system.join("vmlinuz"),
            &system.join("initrd"),
            "console=ttyS0 quiet mitigations=off no_timer_check panic=-1 root=/dev/vda rw init=/usr/sbin/builder",
        );
    let limit = Limit::quiet(QUIET_SECONDS);
    let mut running = machine.start(&evidence, &scratch.path().join("vars"))?;
    running.console.wait_unless("BUILDER-DONE", "BUILDER-FAILED|Kernel panic|ALERT!", limit)?;
    running.wait_end(limit).map(drop)
}

/// The builder's system disk, kernel and initramfs, from the cache or made now.
fn system(base: &Path) -> Result<PathBuf> {
    let key = Key::default().with(base::key()?.text().as_bytes()).with_files(&data("build"))?;
    cache::entry("guests/builder", &key, |directory| {
        let work = tempfile::Builder::new()
            .prefix("work")
            .tempdir_in(directory)
            .context("making a scratch directory")?;
        let layer = work.path().join("layer");
        let copies = [
            ("builder.sh", "usr/sbin/builder"),
            ("builder.initramfs-modules", "etc/initramfs-tools/modules"),
            ("builder.initramfs-conf", "etc/initramfs-tools/conf.d/modules"),
        ];
        for (from, to) in copies {
            let to = layer.join(to);
            std::fs::create_dir_all(to.parent().context("a path without a directory")?)
                .context("making a layer")?;
            std::fs::copy(data("build").join(from), &to).with_context(|| format!("copying {from}"))?;
        }
        tree::make(base, work.path(), "", &[layer])?;
        for file in ["vmlinuz", "initrd"] {
            std::fs::copy(work.path().join(file), directory.join(file))
                .with_context(|| format!("keeping {file}"))?;
        }
        let (image, unpacked) = (directory.join("system.raw"), work.path().join("tree"));
        std::fs::create_dir(&unpacked).context("making a directory")?;
        run(Command::new("tar").arg("-C").arg(&unpacked).arg("-xf").arg(work.path().join("tree.tar")))?;
        run(Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-d"])
            .arg(&unpacked)
            .arg(&image)
            .arg(SYSTEM_SIZE))
        .map(drop)
    })
}
