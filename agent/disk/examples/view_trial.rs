//! Tries `gantry_disk::view` on a real device-mapper; the development machines' kernels may have none.
//!
//! `view_trial DISK` overwrites DISK. As PID 1 (`rdinit=/view_trial` with an initramfs that holds it and the modules virtio_blk,
//! loop, dm-mod, dm-bufio, dm-snapshot and dm-zero under /modules, named so that they sort in loading order) it first mounts and loads what it needs, takes
//! /dev/vda, and powers off. The line to wait for is `view trial: good`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gantry_disk::view::{Closed, View, Written, remove_leftover};
use gantry_disk::{Geometry, peek::Peek};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const MIB: u64 = 1 << 20;
const LEAF: u64 = 64 << 10;

fn main() {
    let first = std::process::id() == 1;
    let outcome = if first { prepare() } else { Ok(()) };
    let disk = std::env::args().nth(1).filter(|_| !first).unwrap_or("/dev/vda".to_owned());
    match outcome.and_then(|()| trial(Path::new(&disk))) {
        Ok(()) => println!("view trial: good"),
        Err(error) => println!("view trial: FAILED: {error}: {:?}", error.source().map(ToString::to_string)),
    }
    if first {
        let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    }
}

fn prepare() -> Outcome {
    use nix::mount::{MsFlags, mount};
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")] {
        fs::create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    let mut modules: Vec<PathBuf> = fs::read_dir("/modules")?.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        nix::kmod::finit_module(&File::open(&module)?, c"", nix::kmod::ModuleInitFlags::empty())
            .map_err(|error| format!("{}: {error}", module.display()))?;
    }
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !Path::new("/dev/vda").exists() {
        if std::time::Instant::now() > limit {
            return Err("no /dev/vda after a minute".into());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(())
}

fn trial(disk: &Path) -> Outcome {
    let peek = Peek::open(disk)?;
    let (size, sector) = (peek.size(), peek.sector_size());
    let aligned = |byte: u8| -> Vec<u8> { vec![byte; MIB as usize] };
    // The medium: label bytes at both ends, content in the middle, all also in the page cache.
    for (at, byte) in [(0, 0x4c), (4 * MIB, 0x11), (size - MIB, 0x4d)] {
        File::options().write(true).open(disk)?.write_all_at(&aligned(byte), at)?;
    }
    let pieces = [(0, aligned(0xaa)), (size - MIB, aligned(0xbb))];
    let claimed = || gantry_disk::usage::claimed(disk);
    if claimed()? {
        return Err("a free disk is said to be claimed".into());
    }
    // As the receiver does, the disk is held exclusively all the time.
    let held =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL | libc::O_DIRECT).open(disk)?;
    if !claimed()? {
        return Err("a disk that is held exclusively is said to be free".into());
    }
    let view = View::open("gantry0", disk, size, sector, &pieces)?;
    let node = File::options().read(true).write(true).open(view.node())?;
    let byte_at = |file: &File, at: u64| -> Result<u8, std::io::Error> {
        let mut byte = [0; 1];
        file.read_exact_at(&mut byte, at).map(|()| byte[0])
    };
    for (at, expected) in [(0, 0xaa), (MIB - 1, 0xaa), (4 * MIB, 0x11), (size - 1, 0xbb)] {
        let found = byte_at(&node, at)?;
        if found != expected {
            return Err(format!("byte {at} of the view is {found:#x}, not {expected:#x}").into());
        }
    }
    if Peek::open(view.node())?.sector_size() != sector {
        return Err("the view has another sector size".into());
    }
    node.write_all_at(&[0xcc; 4096], 4096)?;
    node.write_all_at(&[0xdd; 4096], 5 * MIB)?;
    node.write_all_at(&[0xee; 4096], size - 4096)?;
    // Many places, out of order, some of them again: more than one table of the record.
    let far: Vec<u64> = (0..4200).map(|i| 16 * MIB + (i * 37 % 4200) * 2 * LEAF).collect();
    let room = far.iter().all(|at| at + LEAF < size - MIB);
    for at in far.iter().chain(&far[..50]).filter(|_| room) {
        node.write_all_at(&[0x77; 512], *at + 1024)?;
    }
    drop(node);
    let began = std::time::Instant::now();
    let Closed { pieces: back, written } = view.close()?;
    println!("closed in {:?}", began.elapsed());
    let far = (0..4200).filter(|_| room).map(|i| 16 * MIB + i * 2 * LEAF);
    let expected: Vec<_> = std::iter::once(5 * MIB).chain(far).map(|at| at..at + LEAF).collect();
    match &written {
        Written::Ranges(ranges) if *ranges == expected => println!("{} places recorded", expected.len()),
        Written::Ranges(ranges) => {
            return Err(format!("{} places, not {}", ranges.len(), expected.len()).into());
        }
        Written::Unknown(why) if std::env::args().any(|arg| arg == "unrecorded") => println!("{why}"),
        Written::Unknown(why) => return Err(why.clone().into()),
    }
    let expect = |name: &str, found: u8, wanted: u8| -> Outcome {
        if found == wanted { Ok(()) } else { Err(format!("{name}: {found:#x}, not {wanted:#x}").into()) }
    };
    expect("head's first byte", back[0].1[0], 0xaa)?;
    expect("what was written to the head", back[0].1[4096], 0xcc)?;
    expect("what was written to the tail", back[1].1[MIB as usize - 1], 0xee)?;
    let after = File::open(disk)?;
    expect("the disk's own head", byte_at(&after, 4096)?, 0x4c)?;
    expect("the disk's own tail", byte_at(&after, size - 1)?, 0x4d)?;
    expect("what was written to the middle", byte_at(&after, 5 * MIB)?, 0xdd)?;
    for left in [Path::new("/dev/mapper/gantry0"), Path::new("/run/gantry-view-gantry0-0")] {
        if left.exists() {
            return Err(format!("{} was left behind", left.display()).into());
        }
    }
    // Negative control: a view that is still open somewhere cannot be closed silently.
    let view = View::open("gantry0", disk, size, sector, &pieces)?;
    let holder = File::open(view.node())?;
    match view.close() {
        Ok(_) => return Err("a view that is in use was closed".into()),
        Err(error) => println!("view in use: {error}: {:?}", error.source),
    }
    // That left one behind, as a process that is killed does. With it go the loop devices under it.
    drop(holder);
    if !remove_leftover("gantry0")? || remove_leftover("gantry0")? {
        return Err("the view that was left behind was not removed, or twice".into());
    }
    let attached =
        fs::read_dir("/sys/block")?.flatten().find(|entry| entry.path().join("loop/backing_file").exists());
    if let Some(attached) = attached {
        return Err(format!("{:?} is still attached", attached.file_name()).into());
    }
    drop(held);
    Ok(())
}
