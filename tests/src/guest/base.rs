//! The tree of Debian files that all guests, and the builder machine, share.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::recipe::data;
use crate::cache::{self, Key};
use crate::shell::run;

/// The suite of all guests so far.
const SUITE: &str = "bookworm";

/// Files that no test reads: with them the image would be four times as big, and every test that copies it as slow.
const EXCLUDED: [&str; 4] =
    ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*"];

/// Directories of kernel modules that neither the guests' own hardware nor any target of a test needs.
const EXCLUDED_MODULES: [&str; 40] = [
    "drivers/bluetooth",
    "drivers/comedi",
    "drivers/gpu",
    "drivers/hwmon",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/isdn",
    "drivers/media",
    "drivers/mtd",
    "drivers/net/can",
    "drivers/net/ethernet/[a-hj-z]*", // all but Intel's
    "drivers/net/usb",
    "drivers/net/wireless",
    "drivers/platform",
    "drivers/scsi/be2iscsi",
    "drivers/scsi/bfa",
    "drivers/scsi/lpfc",
    "drivers/scsi/qla2xxx",
    "drivers/scsi/qla4xxx",
    "drivers/staging",
    "drivers/target",
    "fs/afs",
    "fs/btrfs",
    "fs/ceph",
    "fs/f2fs",
    "fs/gfs2",
    "fs/jfs",
    "fs/nfs*",
    "fs/ocfs2",
    "fs/reiserfs",
    "fs/smb*",
    "fs/ubifs",
    "fs/xfs",
    "net/bluetooth",
    "net/ceph",
    "net/mac80211",
    "net/sctp",
    "net/sunrpc",
    "net/tipc",
    "sound",
];

/// The key of the base tree.
pub(super) fn key() -> Result<Key> {
    let key = Key::default().with(SUITE.as_bytes()).with(excluded().concat().as_bytes());
    Ok(key.with(packages()?.as_bytes()))
}

/// The base tree's directory, from the cache or made now (about a minute and a half, from the archive).
pub(super) fn tree() -> Result<PathBuf> {
    let made = cache::entry(&format!("guests/base-{SUITE}"), &key()?, |directory| {
        ensure!(is_root()?, "guests are built in a chroot: run this as root");
        let sources = directory.join("sources.list");
        std::fs::write(&sources, sources_list()?).context("writing the list of sources")?;
        let mut command = Command::new("mmdebstrap");
        command.args([
            "--variant=minbase",
            "--format=directory",
            "--mode=root",
            "--skip=check/empty",
            "--quiet",
        ]);
        command.arg("--aptopt=Apt::Install-Recommends \"false\"");
        // The machine's own proxy, when it has one, is in its APT configuration.
        for scheme in ["http", "https"] {
            let option = format!("Acquire::{scheme}::Proxy");
            let value = run(Command::new("apt-config").args(["shell", "proxy", &option]))?;
            if let Some(proxy) = value.trim().strip_prefix("proxy='").and_then(|rest| rest.strip_suffix('\''))
            {
                command.arg(format!("--aptopt={option} \"{proxy}\""));
            }
        }
        command.args(excluded().iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
        // Each guest makes its own initramfs; the kernel package's hook reads this and makes none.
        command.env("INITRD", "No");
        command.arg(format!("--include={}", packages()?));
        command.arg(SUITE).arg(directory.join("tree")).arg(&sources);
        run(&mut command).map(drop)
    })?;
    Ok(made.join("tree"))
}

fn excluded() -> Vec<String> {
    let modules = EXCLUDED_MODULES.iter().map(|directory| format!("/lib/modules/*/kernel/{directory}/*"));
    EXCLUDED.iter().map(ToString::to_string).chain(modules).collect()
}

fn packages() -> Result<String> {
    let path = data("build").join("base.packages");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(","))
}

/// The archives of [`SUITE`] as this machine's own APT names them, so that mirrors go on working.
fn sources_list() -> Result<String> {
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let listing =
        run(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let list = select_sources(&listing);
    ensure!(
        !list.is_empty(),
        "this machine's APT knows no source for {SUITE}: add one to /etc/apt/sources.list.d"
    );
    Ok(list)
}

/// Turns lines of "address release component" into a list of sources for [`SUITE`], with its updates and security fixes.
fn select_sources(listing: &str) -> String {
    let wanted = [SUITE.to_owned(), format!("{SUITE}-updates"), format!("{SUITE}-security")];
    let keys = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg";
    let mut lines: Vec<String> = listing
        .lines()
        .filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [uri, release, "main"] if wanted.iter().any(|name| name == release) => {
                Some(format!("deb [{keys}] {uri} {release} main\n"))
            }
            _ => None,
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines.concat()
}

fn is_root() -> Result<bool> {
    Ok(run(Command::new("id").arg("-u"))?.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_this_machines_own_but_only_of_the_suite_and_only_main() {
        let listing = "http://mirror/debian/ bookworm main\nhttp://mirror/debian/ bookworm main\n\
                       http://mirror/debian/ bookworm contrib\nhttp://mirror/debian/ bookworm-backports main\n\
                       http://mirror/security/ bookworm-security main\nhttp://other/ nodistro main\n";
        let list = select_sources(listing);
        assert_eq!(list.lines().count(), 2, "{list}");
        assert!(list.contains("http://mirror/debian/ bookworm main") && list.contains("bookworm-security"));
    }
}
