//! The composer: from Debian packages and the `gantry` binary to `vmlinuz` and `initrd`.
//!
//! One uncompressed cpio archive holds everything. The modules stay compressed as Debian ships and signs them: the
//! kernel unpacks each as it is loaded, so the archive needs no compression, costs no time at boot and stays verifiable
//! under lockdown. The same packages and the same binary give the same bytes ([`cpio`]).

mod cpio;
mod kernel;
mod libraries;
mod packages;
mod programs;
mod select;
mod tools;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::modules::{TABLE_PATH, Table};
use cpio::{Archive, Entry};
use kernel::Kernel;
pub use packages::{Packages, cache_directory};
pub use programs::program;

/// Kernel and initramfs, ready to be put on any medium.
pub struct Boot {
    /// Debian's signed kernel, untouched.
    pub vmlinuz: Vec<u8>,
    /// The initramfs.
    pub initrd: Vec<u8>,
    /// The kernel's release.
    pub release: String,
    /// How many modules are inside.
    pub modules: usize,
}

/// Composes both from apt's packages and the static `gantry` binary at `gantry`.
pub fn compose(packages: &Packages, gantry: &Path) -> Result<Boot> {
    let kernel = kernel::fetch(packages)?;
    let table = kernel.table()?;
    let mut archive = Archive::default();
    skeleton(&mut archive)?;
    let program = std::fs::read(gantry).with_context(|| format!("reading {}", gantry.display()))?;
    ensure!(
        libraries::needed(&program).with_context(|| format!("examining {}", gantry.display()))?.is_empty(),
        "{} is not a static program and cannot be the appliance's first process",
        gantry.display()
    );
    archive.file("usr/bin/gantry", 0o755, program)?;
    put_modules(&mut archive, &kernel, &table)?;
    put_tools(&mut archive, packages)?;
    archive.file("usr/lib/gantry/contents", 0o644, contents(packages, &kernel, &table))?;
    Ok(Boot {
        vmlinuz: std::fs::read(&kernel.vmlinuz)
            .with_context(|| format!("reading {}", kernel.vmlinuz.display()))?,
        initrd: archive.encode()?,
        release: kernel.release,
        modules: table.modules.len(),
    })
}

/// Directories, links and small files that every program expects.
fn skeleton(archive: &mut Archive) -> Result<()> {
    for directory in ["dev", "proc", "sys", "run", "tmp", "mnt", "root", "var", "usr/sbin", "usr/lib64"] {
        archive.put(directory, Entry::Directory)?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        archive.link(name, &format!("usr/{name}"))?;
    }
    archive.link("init", "usr/bin/gantry")?;
    // By this name the kernel asks for modules (crate::modprobe).
    archive.link("usr/sbin/modprobe", "../bin/gantry")?;
    archive.link("var/run", "../run")?;
    archive.link("etc/mtab", "../proc/self/mounts")?;
    // Before PID 1 mounts devtmpfs its output goes here.
    archive.put("dev/console", Entry::Device { major: 5, minor: 1 })?;
    archive.put("dev/null", Entry::Device { major: 1, minor: 3 })?;
    for (path, content) in [
        ("etc/hostname", "gantry\n"),
        ("etc/hosts", "127.0.0.1 localhost gantry\n::1 localhost\n"),
        ("etc/resolv.conf", ""),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/group", "root:x:0:\ndisk:x:6:\n"),
    ] {
        archive.file(path, 0o644, content)?;
    }
    let release = format!("NAME=Gantry\nID=gantry\nVERSION_ID={}\n", env!("CARGO_PKG_VERSION"));
    archive.file("etc/os-release", 0o644, release)
}

fn put_modules(archive: &mut Archive, kernel: &Kernel, table: &Table) -> Result<()> {
    for module in table.modules.values() {
        let file = kernel.modules.join(&module.path);
        let content = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        archive.file(&format!("usr/lib/modules/{}/{}", kernel.release, module.path), 0o644, content)?;
    }
    archive.file(TABLE_PATH.trim_start_matches('/'), 0o644, table.encode())
}

fn put_tools(archive: &mut Archive, packages: &Packages) -> Result<()> {
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for tool in tools::TOOLS {
        let tree = packages.tree(tool.package)?;
        for path in tool.files {
            let file = tree.join(path.trim_start_matches('/'));
            let content = std::fs::read(&file)
                .with_context(|| format!("taking {path} from package {}: see tools.rs", tool.package))?;
            let mode = if path.starts_with("/etc/") { 0o644 } else { 0o755 };
            archive.file(&place(path), mode, content)?;
            files.push((tool.package.to_owned(), file));
        }
    }
    for (name, file) in libraries::closure(packages, &files)? {
        let content = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        archive.file(&format!("usr/lib/x86_64-linux-gnu/{name}"), 0o755, content)?;
        if name.starts_with("ld-linux") {
            archive.link(&format!("usr/lib64/{name}"), &format!("../lib/x86_64-linux-gnu/{name}"))?;
        }
    }
    tools::BUSYBOX_NAMES.iter().try_for_each(|name| archive.link(&format!("usr/bin/{name}"), "busybox"))
}

/// Where a package's file lies in the image: /bin, /sbin and /lib are links into /usr.
fn place(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let top = path.split('/').next().unwrap_or(path);
    if ["bin", "sbin", "lib", "lib64"].contains(&top) { format!("usr/{path}") } else { path.to_owned() }
}

/// What is inside, for whoever asks what this image was made of.
fn contents(packages: &Packages, kernel: &Kernel, table: &Table) -> String {
    let mut text = format!(
        "gantry {}\nkernel {}\nmodules {}\n",
        env!("CARGO_PKG_VERSION"),
        kernel.release,
        table.modules.len()
    );
    for (name, version) in packages.used() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "package {name} {version}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_below_usr() {
        for (path, expected) in [
            ("/sbin/e2fsck", "usr/sbin/e2fsck"),
            ("/usr/sbin/dmsetup", "usr/sbin/dmsetup"),
            ("/etc/mke2fs.conf", "etc/mke2fs.conf"),
            ("/lib64/ld.so", "usr/lib64/ld.so"),
        ] {
            assert_eq!(place(path), expected);
        }
    }

    #[test]
    fn the_skeleton_has_what_the_kernel_looks_for() {
        let mut archive = Archive::default();
        skeleton(&mut archive).unwrap();
        assert_eq!(archive.get("init"), Some(&Entry::Link("usr/bin/gantry".to_owned())));
        assert_eq!(archive.get("dev/console"), Some(&Entry::Device { major: 5, minor: 1 }));
        assert!(archive.get("usr/sbin/modprobe").is_some() && archive.get("etc/resolv.conf").is_some());
    }
}
