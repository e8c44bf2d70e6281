//! The kernel's own filesystems, mounted before anything else.

use std::path::Path;

use nix::mount::{MsFlags, mount};

/// A mount that failed, in words for the console.
pub type Problem = String;

/// (type, place, options, flags); in this order, because later places lie in earlier mounts.
const MOUNTS: &[(&str, &str, &str, MsFlags)] = &[
    ("devtmpfs", "/dev", "mode=0755", MsFlags::MS_NOSUID),
    ("proc", "/proc", "", MsFlags::MS_NOSUID),
    ("sysfs", "/sys", "", MsFlags::MS_NOSUID),
    ("tmpfs", "/run", "mode=0755", MsFlags::MS_NOSUID),
    ("tmpfs", "/tmp", "mode=1777", MsFlags::MS_NOSUID),
    ("devpts", "/dev/pts", "mode=0620,ptmxmode=0666", MsFlags::MS_NOSUID),
    ("tmpfs", "/dev/shm", "mode=1777", MsFlags::MS_NOSUID),
];

/// Mounts them all. Goes on after a failure and returns what failed: a machine without `/dev/pts` can still copy disks.
pub fn mount_all() -> Vec<Problem> {
    let mut problems = Vec::new();
    for (kind, place, options, flags) in MOUNTS {
        let options = Some(*options).filter(|options| !options.is_empty());
        let outcome = std::fs::create_dir_all(place).map_err(|error| error.to_string()).and_then(|()| {
            mount(Some(*kind), *place, Some(*kind), *flags, options).map_err(|errno| errno.to_string())
        });
        if let Err(error) = outcome {
            problems.push(format!("mounting {kind} on {place}: {error}"));
        }
    }
    if let Err(error) = private_directory("/run/gantry") {
        problems.push(error);
    }
    problems
}

/// Mounts the firmware's variables where there is UEFI. The driver is a module and is fetched by the kernel itself.
pub fn mount_efivarfs() -> Option<Problem> {
    const PLACE: &str = "/sys/firmware/efi/efivars";
    if !Path::new(PLACE).exists() {
        return None;
    }
    mount(Some("efivarfs"), PLACE, Some("efivarfs"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, None::<&str>)
        .err()
        .map(|errno| format!("mounting efivarfs: {errno}"))
}

fn private_directory(path: &str) -> Result<(), Problem> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
        .map_err(|error| format!("making {path}: {error}"))
}
