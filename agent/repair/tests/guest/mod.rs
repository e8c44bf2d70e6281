//! A small guest on a disk image: a real partition table, real ext4, real loop devices and namespaces; its generator is a
//! script that also reports what it can see of the machine it runs on.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_repair::{Consent, Opening, Plan, Report, Target, apply};

pub const ROOT_UUID: &str = "11111111-2222-3333-4444-555555555555";
pub const SWAP_UUID: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
pub const KERNEL: &str = "6.1.0-1-amd64";
const MIB: u64 = 1 << 20;
/// First partition: starts at 1 MiB, 400 MiB long; the second follows.
pub const ROOT_START: u64 = MIB;
const ROOT_LENGTH: u64 = 400 * MIB;
pub const SWAP_START: u64 = ROOT_START + ROOT_LENGTH;
const SWAP_LENGTH: u64 = 8 * MIB;

/// What the guest's update-initramfs does: says what it sees, then copies the image that was prepared.
const GENERATOR: &str = r#"#!/bin/sh
echo "pid $$"
while read -r line; do echo "swap $line"; done < /proc/swaps
for f in /dev/*; do echo "dev $f"; done
for f in /dev/disk/by-uuid/*; do echo "uuid $f"; done
for f in /sys/*; do echo "sys $f"; done
while read -r line; do echo "net $line"; done < /proc/net/dev
while read -r line; do case $line in Cap[BE]*|NoNewPrivs*) echo "$line";; esac; done < /proc/self/status
echo 1 > /proc/sys/kernel/panic || echo "proc is read-only"
[ -e /outside ] && echo "ESCAPED"
if [ -e /etc/hang ]; then while :; do cat /etc/hang >/dev/null; done; fi
[ -e /etc/fail ] && { echo "no space left"; exit 5; }
cat /usr/share/next-image > "/boot/initrd.img-$3.new"
cat "/boot/initrd.img-$3.new" > "/boot/initrd.img-$3"
: > "/boot/initrd.img-$3.new"
"#;

pub struct Guest {
    directory: tempfile::TempDir,
    pub image: PathBuf,
}

/// A newc archive of regular files.
pub fn cpio(files: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, text) in files.iter().copied().chain([("TRAILER!!!", "")]) {
        let fields = [0, 0o100_644, 0, 0, 1, 0, text.len(), 0, 0, 0, 0, name.len() + 1, 0];
        let header: String = fields.iter().map(|f| format!("{f:08x}")).collect();
        out.extend(format!("070701{header}{name}\0").into_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(text.as_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Guest {
    /// Debian for AHCI by device names; `change` may alter the tree before the filesystem is made.
    pub fn new(change: impl FnOnce(&Path)) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "loop devices and mounts need root");
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir(&tree).unwrap();
        plant(&tree);
        change(&tree);
        let image = directory.path().join("disk.raw");
        fs::File::create(&image).unwrap().set_len(SWAP_START + SWAP_LENGTH + MIB).unwrap();
        partition(&image);
        let root = directory.path().join("root.raw");
        fs::File::create(&root).unwrap().set_len(ROOT_LENGTH).unwrap();
        let (tree_text, root_text) = (tree.to_str().unwrap(), root.to_str().unwrap());
        run("mke2fs", &["-q", "-t", "ext4", "-U", ROOT_UUID, "-d", tree_text, root_text]);
        let swap = directory.path().join("swap.raw");
        fs::File::create(&swap).unwrap().set_len(SWAP_LENGTH).unwrap();
        run("mkswap", &["-q", "-U", SWAP_UUID, swap.to_str().unwrap()]);
        for (part, at) in [(&root, ROOT_START), (&swap, SWAP_START)] {
            let (from, to) = (format!("if={}", part.display()), format!("of={}", image.display()));
            let seek = format!("seek={}", at / MIB);
            run("dd", &[&from, &to, "bs=1M", &seek, "conv=notrunc,sparse", "status=none"]);
        }
        fs::remove_dir_all(tree).unwrap();
        Self { directory, image }
    }

    pub fn opening(&self) -> Opening {
        Opening { nodes: vec![self.image.clone()], ..Opening::default() }
    }

    pub fn plan(&self) -> gantry_repair::Result<Plan> {
        gantry_repair::plan(&self.opening(), &Target::default(), Consent::default())
    }

    pub fn apply(&self, plan: &Plan) -> gantry_repair::Result<Report> {
        let what = apply::Apply { plan, id: "session1", keep: Some("{\"report\":1}"), tell: &|_| {} };
        gantry_repair::apply_plan(&self.opening(), &Target::default(), &what)
    }

    /// The text of a file on the root filesystem, read by debugfs: another's eyes.
    pub fn cat(&self, path: &str) -> String {
        let root = self.directory.path().join("look.raw");
        let (from, to) = (format!("if={}", self.image.display()), format!("of={}", root.display()));
        let skip = format!("skip={}", ROOT_START / MIB);
        let count = format!("count={}", ROOT_LENGTH / MIB);
        run("dd", &[&from, &to, "bs=1M", &skip, &count, "conv=sparse", "status=none"]);
        run("debugfs", &["-R", &format!("cat {path}"), root.to_str().unwrap()])
    }

    /// Writes bytes into the image.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        fs::OpenOptions::new().write(true).open(&self.image).unwrap().write_all_at(bytes, offset).unwrap();
    }

    /// Reads bytes of the image.
    pub fn peek(&self, offset: u64, length: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; length];
        fs::File::open(&self.image).unwrap().read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

fn partition(image: &Path) {
    use std::io::Write;
    let mut child = Command::new("sfdisk").arg("-q").arg(image).stdin(Stdio::piped()).spawn().unwrap();
    let script =
        "label: dos\nlabel-id: 0x1a2b3c4d\nstart=1MiB, size=400MiB, type=83, bootable\nsize=8MiB, type=82\n";
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn plant(tree: &Path) {
    let write = |path: &str, content: &[u8]| {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
    };
    for directory in ["dev", "proc", "sys", "run", "tmp", "var/lib", "usr/bin", "usr/sbin", "usr/lib"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
        symlink(to, tree.join(link)).unwrap();
    }
    for program in ["/bin/sh", "/bin/cat"] {
        with_libraries(tree, program);
    }
    write("usr/sbin/update-initramfs", GENERATOR.as_bytes());
    fs::set_permissions(tree.join("usr/sbin/update-initramfs"), fs::Permissions::from_mode(0o755)).unwrap();
    write(
        "etc/os-release",
        b"ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
    );
    write("etc/fstab", b"/dev/sda1 / ext4 errors=remount-ro 0 1\n/dev/sda2 none swap sw 0 0\n");
    write("etc/initramfs-tools/initramfs.conf", b"MODULES=list\n");
    write("etc/initramfs-tools/modules", b"ahci\nsd_mod\n");
    write(
        "etc/network/interfaces",
        b"auto lo\niface lo inet loopback\nauto enp0s2\niface enp0s2 inet dhcp\n",
    );
    write("etc/default/grub", b"GRUB_DISABLE_LINUX_UUID=true\n");
    let grub =
        format!("linux /boot/vmlinuz-{KERNEL} root=/dev/sda1 ro quiet\ninitrd /boot/initrd.img-{KERNEL}\n");
    write("boot/grub/grub.cfg", grub.as_bytes());
    write(&format!("boot/vmlinuz-{KERNEL}"), b"kernel");
    let names = ["ahci", "sd_mod", "virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net"];
    let table: String = names.iter().map(|n| format!("kernel/drivers/{n}.ko:\n")).collect();
    write(&format!("usr/lib/modules/{KERNEL}/modules.dep"), table.as_bytes());
    write(&format!("usr/lib/modules/{KERNEL}/modules.builtin"), b"kernel/drivers/nvme.ko\n");
    write(&format!("boot/initrd.img-{KERNEL}"), &cpio(&[("lib/ahci.ko", ""), ("lib/sd_mod.ko", "")]));
    let next: Vec<(String, &str)> = names.iter().map(|n| (format!("lib/{n}.ko"), "")).collect();
    let next: Vec<(&str, &str)> = next.iter().map(|(n, t)| (n.as_str(), *t)).collect();
    write("usr/share/next-image", &cpio(&next));
}

fn with_libraries(tree: &Path, program: &str) {
    let real = fs::canonicalize(program).unwrap();
    let place = |from: &Path, to: &str| {
        let to = tree.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    place(&real, &format!("usr{program}"));
    for word in run("ldd", &[real.to_str().unwrap()]).split_whitespace().filter(|w| w.starts_with('/')) {
        let to = word.strip_prefix("/usr").unwrap_or(word);
        let to = if to.starts_with("/lib64") { to.to_string() } else { format!("/usr{to}") };
        place(&fs::canonicalize(word).unwrap(), &to);
    }
}
