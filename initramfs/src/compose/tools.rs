//! The programs of others in the appliance: one line each.
//!
//! A tool is a Debian package and the files wanted from it; the libraries they need are found by reading them
//! ([`super::libraries`]). Paths are those in the package; in the image everything lies below /usr.

/// Files from one package.
pub struct Tool {
    /// The Debian package.
    pub package: &'static str,
    /// Absolute paths in it.
    pub files: &'static [&'static str],
}

/// Everything there is.
pub const TOOLS: &[Tool] = &[
    // Repair: check, grow and label what was copied.
    Tool {
        package: "e2fsprogs",
        files: &[
            "/sbin/e2fsck",
            "/sbin/resize2fs",
            "/sbin/tune2fs",
            "/sbin/mke2fs",
            "/sbin/dumpe2fs",
            "/sbin/debugfs",
            "/etc/mke2fs.conf",
        ],
    },
    Tool { package: "dosfstools", files: &["/sbin/fsck.fat", "/sbin/mkfs.fat"] },
    // The finished disk is looked at through device-mapper.
    Tool { package: "dmsetup", files: &["/sbin/dmsetup"] },
    Tool { package: "mount", files: &["/bin/mount", "/bin/umount", "/sbin/losetup"] },
    Tool { package: "util-linux", files: &["/sbin/blkid", "/sbin/blockdev", "/bin/lsblk"] },
    // The shell for emergencies, and nothing we depend on.
    Tool { package: "busybox-static", files: &["/bin/busybox"] },
];

/// Names under which busybox is there for the person in the emergency shell. Not a program of ours calls them.
pub const BUSYBOX_NAMES: &[&str] = &[
    "cat", "chroot", "cp", "cut", "date", "dd", "df", "dmesg", "du", "echo", "egrep", "find", "free", "grep",
    "head", "hexdump", "hostname", "ip", "kill", "less", "ln", "ls", "lsmod", "lspci", "lsusb", "mkdir",
    "mv", "nc", "ping", "ps", "pwd", "rm", "sed", "seq", "setsid", "sh", "sleep", "sort", "stat", "strings",
    "stty", "sync", "tail", "top", "touch", "tr", "uname", "vi", "wc", "wget", "which", "xargs", "xxd",
];
