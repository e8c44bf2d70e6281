//! Debian packages: found, downloaded and checked by apt, unpacked by dpkg-deb, never installed.
//!
//! apt is given an empty list of installed packages and prefers Debian 12's own suites, so that what this machine has
//! installed does not change what is in the image. Downloads and unpacked trees are kept in the cache under the
//! package's full name and version; a tree is made under another name and renamed when it is whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, ensure};

/// One version of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Packages one of its dependencies names (alternatives included), without versions.
    pub depends: Vec<String>,
}

/// apt, and a cache.
pub struct Packages {
    cache: PathBuf,
    known: Mutex<BTreeMap<String, Package>>,
    used: Mutex<BTreeMap<String, String>>,
}

/// Where everything that can be rebuilt is kept: `$GANTRY_CACHE` or `~/.cache/gantry`.
pub fn cache_directory() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("GANTRY_CACHE") {
        return Ok(path.into());
    }
    let home = std::env::var_os("HOME").context("neither GANTRY_CACHE nor HOME is set")?;
    Ok(Path::new(&home).join(".cache/gantry"))
}

impl Packages {
    /// Works in the given cache directory.
    pub fn new(cache: &Path) -> Result<Packages> {
        for directory in ["debs/partial", "trees", "apt"] {
            fs::create_dir_all(cache.join(directory)).with_context(|| {
                format!("making {directory} in {}; GANTRY_CACHE names another place", cache.display())
            })?;
        }
        let status = cache.join("apt/status");
        if !status.exists() {
            fs::write(&status, "").context("making an empty package status")?;
        }
        Ok(Packages { cache: cache.to_owned(), known: Mutex::default(), used: Mutex::default() })
    }

    /// Whether nothing has been fetched yet.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn is_empty(&self) -> Result<bool> {
        let debs = self.cache.join("debs");
        let mut found = fs::read_dir(&debs).with_context(|| format!("looking into {}", debs.display()))?;
        Ok(!found.any(|file| file.is_ok_and(|file| file.path().extension().is_some_and(|end| end == "deb"))))
    }

    /// The same cache with its own account of what was used.
    pub fn apart(&self) -> Result<Packages> {
        Packages::new(&self.cache)
    }

    /// Names and versions of all packages whose trees were used.
    pub fn used(&self) -> Vec<(String, String)> {
        self.used.lock().map(|used| used.clone().into_iter().collect()).unwrap_or_default()
    }

    /// All package names that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let output = self.ask(&["pkgnames", prefix])?;
        Ok(output.lines().map(str::to_owned).collect())
    }

    /// The version that apt would install.
    pub fn find(&self, name: &str) -> Result<Package> {
        if let Some(package) = self.known.lock().ok().and_then(|known| known.get(name).cloned()) {
            return Ok(package);
        }
        let text = self.ask(&["show", "--no-all-versions", name])?;
        let package = parse(&text).with_context(|| format!("reading apt's record of {name}"))?;
        if let Ok(mut known) = self.known.lock() {
            known.insert(name.to_owned(), package.clone());
        }
        Ok(package)
    }

    /// The unpacked tree of a package.
    pub fn tree(&self, name: &str) -> Result<PathBuf> {
        self.tree_finished(name, "plain", |_| Ok(()))
    }

    /// The unpacked tree of a package, after `finish` was done to it; `what` names that in the cache.
    pub fn tree_finished(
        &self,
        name: &str,
        what: &str,
        finish: impl Fn(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let package = self.find(name)?;
        if let Ok(mut used) = self.used.lock() {
            used.insert(package.name.clone(), package.version.clone());
        }
        let label = format!("{}_{}", package.name, package.version.replace(':', "%3a"));
        let tree = self.cache.join("trees").join(format!("{label}.{what}"));
        // Two builds at once wait for each other here, and the second finds the tree.
        let lock = File::create(self.cache.join("trees").join(format!(".{label}.{what}.lock")));
        let lock = lock.context("opening a lock of the cache")?;
        lock.lock().context("locking a part of the cache")?;
        if tree.exists() {
            return Ok(tree);
        }
        let archive = self.download(&package)?;
        let unfinished = self.cache.join("trees").join(format!("{label}.{what}.unfinished"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).context("removing an unfinished tree")?;
        }
        let status = Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&unfinished).status();
        ensure!(
            status.context("running dpkg-deb")?.success(),
            "dpkg-deb cannot unpack {}",
            archive.display()
        );
        finish(&unfinished)?;
        fs::rename(&unfinished, &tree).with_context(|| format!("keeping {}", tree.display()))?;
        Ok(tree)
    }

    /// Downloads a package. apt checks it against the signed lists, also one that is there already.
    fn download(&self, package: &Package) -> Result<PathBuf> {
        let debs = self.cache.join("debs");
        let exact = format!("{}={}", package.name, package.version);
        self.apt_in(&debs, "apt-get", &["download", &exact])?;
        ["amd64", "all"]
            .map(|arch| {
                debs.join(format!("{}_{}_{arch}.deb", package.name, package.version.replace(':', "%3a")))
            })
            .into_iter()
            .find(|path| path.exists())
            .with_context(|| format!("apt downloaded no file for {exact}"))
    }

    /// What apt-cache says. Its answers are kept until apt's lists or sources change: each costs half a second, and one
    /// image needs fifty.
    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let answers = self.cache.join("apt").join(state_of_apt()?);
        let kept = answers.join(arguments.join(" "));
        if let Ok(answer) = fs::read_to_string(&kept) {
            return Ok(answer);
        }
        let answer = self.apt_in(&self.cache, "apt-cache", arguments)?;
        fs::create_dir_all(&answers).context("making a place for apt's answers")?;
        let unfinished = answers.join(format!("{}.{}", arguments.join(" "), std::process::id()));
        fs::write(&unfinished, &answer)
            .and_then(|()| fs::rename(&unfinished, &kept))
            .context("keeping apt's answer")?;
        Ok(answer)
    }

    fn apt_in(&self, directory: &Path, program: &str, arguments: &[&str]) -> Result<String> {
        let state =
            |option: &str, file: &str| format!("{option}={}", self.cache.join("apt").join(file).display());
        let output = Command::new(program)
            .current_dir(directory)
            .env("LC_ALL", "C")
            .args(["-o", &state("Dir::State::status", "status")])
            .args(["-o", &state("Dir::Cache::pkgcache", "pkgcache.bin")])
            .args(["-o", &state("Dir::Cache::srcpkgcache", "srcpkgcache.bin")])
            .args(["-o", "APT::Default-Release=/^bookworm(-security|-updates)?$/"])
            .args(["-o", "APT::Sandbox::User=root", "-q"])
            .args(arguments)
            .output()
            .with_context(|| format!("running {program}"))?;
        ensure!(
            output.status.success(),
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        String::from_utf8(output.stdout).with_context(|| format!("reading the output of {program}"))
    }
}

/// Changes whenever apt could answer differently: number and newest change of its lists, sources and preferences.
fn state_of_apt() -> Result<String> {
    let mut files = 0;
    let mut newest = UNIX_EPOCH;
    for place in [
        "/var/lib/apt/lists",
        "/etc/apt",
        "/etc/apt/sources.list.d",
        "/etc/apt/preferences.d",
        "/etc/apt/apt.conf.d",
    ] {
        let entries = fs::read_dir(place).with_context(|| format!("looking at {place}"))?;
        for entry in entries.flatten() {
            let changed = entry.metadata().and_then(|data| data.modified());
            newest = newest.max(changed.with_context(|| format!("looking at {place}"))?);
            files += 1;
        }
    }
    let newest = newest.duration_since(UNIX_EPOCH).context("reading the time of apt's lists")?;
    Ok(format!("answers-{files}-{}", newest.as_nanos()))
}

/// One record of `apt-cache show`.
fn parse(record: &str) -> Result<Package> {
    let record = record.split("\n\n").next().unwrap_or("");
    let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let names = |list: &str| {
        list.split([',', '|'])
            .filter_map(|item| item.trim().split([' ', ':']).next())
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let depends = [field("Pre-Depends"), field("Depends")].into_iter().flatten().flat_map(names).collect();
    Ok(Package {
        name: field("Package").context("no Package")?.to_owned(),
        version: field("Version").context("no Version")?.to_owned(),
        depends,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read() {
        let record = "Package: e2fsprogs\nVersion: 1:1.47\nPre-Depends: libc6 (>= 2.36), libblkid1 (>= 2.17.2)\n\
            Depends: logsave, foo:any | bar\nDescription: x\n more: text\n\nPackage: e2fsprogs\nVersion: 0\n";
        let package = parse(record).unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("e2fsprogs", "1:1.47"));
        assert_eq!(package.depends, ["libc6", "libblkid1", "logsave", "foo", "bar"]);
        assert!(parse("").is_err());
    }
}
