//! Debian's signed kernel, and depmod's facts boiled down to the module table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::packages::Packages;
use super::programs::program;
use super::select;
use crate::modules::{Module, Table, normal_name};

/// The signed kernels of the 6.12 series built for Debian 12: backports and security updates share the name.
const PREFIX: &str = "linux-image-6.12.";
const SUFFIX: &str = "+deb12-amd64";

/// An unpacked kernel.
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    /// The kernel image.
    pub vmlinuz: PathBuf,
    /// The directory of its modules.
    pub modules: PathBuf,
}

/// Finds the newest one that apt offers, and unpacks it.
pub fn fetch(packages: &Packages) -> Result<Kernel> {
    let name = newest(&packages.names(PREFIX)?).with_context(|| {
        format!("no package {PREFIX}*{SUFFIX}: bookworm-backports or bookworm-security must be among apt's sources (scripts/setup)")
    })?;
    let release = name.trim_start_matches("linux-image-").to_owned();
    let modules = format!("lib/modules/{release}");
    let tree = packages.tree_finished(&name, "depmod", |tree| {
        let mut depmod = program(packages, "kmod", "/bin/kmod", "depmod")?;
        let status = depmod.arg("-b").arg(tree).arg(&release).status().context("running depmod")?;
        ensure!(status.success(), "depmod: {status}");
        Ok(())
    })?;
    Ok(Kernel { vmlinuz: tree.join(format!("boot/vmlinuz-{release}")), modules: tree.join(modules), release })
}

fn newest(names: &[String]) -> Option<String> {
    let number = |name: &&String| {
        let patch = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        Some((patch.parse::<u32>().ok()?, (*name).clone()))
    };
    names.iter().filter_map(|name| number(&name)).max().map(|(_, name)| name)
}

impl Kernel {
    /// The table of the modules that are wanted and all they need.
    pub fn table(&self) -> Result<Table> {
        let read = |file: &str| {
            std::fs::read_to_string(self.modules.join(file))
                .with_context(|| format!("reading {file} of {}", self.release))
        };
        let table = table(
            &self.release,
            &read("modules.dep")?,
            &read("modules.alias")?,
            &read("modules.softdep")?,
            &read("modules.builtin")?,
        )?;
        if let Some(missing) =
            select::MUST.iter().find(|name| !table.modules.contains_key(**name) && !table.is_builtin(name))
        {
            bail!("Linux {} has no module {missing}: see select.rs", self.release);
        }
        Ok(table)
    }
}

/// Pure: depmod's files in, table out.
fn table(release: &str, dep: &str, alias: &str, softdep: &str, builtin: &str) -> Result<Table> {
    let needs = dependencies(dep)?;
    let by_path: BTreeMap<&str, &str> =
        needs.iter().map(|(name, (path, _))| (*path, name.as_str())).collect();
    let softdeps = soft_dependencies(softdep);
    let mut all = Table { release: release.to_owned(), ..Table::default() };
    all.builtin = builtin.lines().map(module_name).collect();
    for (name, (path, paths)) in &needs {
        let needs = paths
            .iter()
            .map(|path| {
                by_path
                    .get(path)
                    .map(|name| (*name).to_owned())
                    .with_context(|| format!("modules.dep knows no {path}"))
            })
            .collect::<Result<_>>()?;
        all.modules.insert(name.clone(), Module { path: (*path).to_owned(), needs, ..Module::default() });
    }
    for line in alias.lines().filter(|line| !line.starts_with('#')) {
        // A pattern may hold spaces (DMI); none of those is a driver for us.
        if let ["alias", pattern, name] = line.split(' ').collect::<Vec<_>>()[..] {
            all.aliases.insert((pattern.to_owned(), normal_name(name)));
        }
    }
    for (name, before, after) in softdeps {
        // A soft dependency may be an alias ("crypto-crc32c"); every module behind it counts.
        let resolve = |names: Vec<&str>| {
            names.into_iter().flat_map(|wish| all.resolve(wish)).map(str::to_owned).collect::<Vec<_>>()
        };
        let (before, after) = (resolve(before), resolve(after));
        if let Some(module) = all.modules.get_mut(&name) {
            module.wants_before = before;
            module.wants_after = after;
        }
    }
    Ok(only_wanted(all))
}

/// Keeps the modules that are wanted, with all that they need or wish for.
fn only_wanted(mut all: Table) -> Table {
    let mut keep = BTreeSet::new();
    let mut todo: Vec<String> = all
        .modules
        .iter()
        .filter(|(_, module)| select::is_wanted(&module.path))
        .map(|(name, _)| name.clone())
        .collect();
    while let Some(name) = todo.pop() {
        if let Some(module) = all.modules.get(&name)
            && keep.insert(name)
        {
            todo.extend(
                [&module.needs, &module.wants_before, &module.wants_after].into_iter().flatten().cloned(),
            );
        }
    }
    all.modules.retain(|name, _| keep.contains(name));
    all.aliases.retain(|(_, name)| keep.contains(name));
    all
}

/// `modules.dep`: name -> (path, paths it needs).
fn dependencies(dep: &str) -> Result<BTreeMap<String, (&str, Vec<&str>)>> {
    dep.lines()
        .map(|line| {
            let (path, needs) = line.split_once(':').with_context(|| format!("modules.dep: '{line}'"))?;
            Ok((module_name(path), (path, needs.split_whitespace().collect())))
        })
        .collect()
}

/// `softdep NAME pre: A B post: C`.
fn soft_dependencies(softdep: &str) -> Vec<(String, Vec<&str>, Vec<&str>)> {
    let mut found = Vec::new();
    for line in softdep.lines().filter_map(|line| line.strip_prefix("softdep ")) {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut post = false;
        for word in words {
            match word {
                "pre:" => post = false,
                "post:" => post = true,
                word if post => after.push(word),
                word => before.push(word),
            }
        }
        found.push((normal_name(name), before, after));
    }
    found
}

/// `kernel/drivers/md/dm-mod.ko.xz` -> `dm_mod`.
fn module_name(path: &str) -> String {
    let file =
        Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    normal_name(file.split(".ko").next().unwrap_or(&file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_signed_kernel_is_chosen_by_number() {
        let names: Vec<String> = [
            "linux-image-6.12.9+deb12-amd64",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.95+deb12-amd64",
            "linux-image-6.12.200+deb12-rt-amd64",
            "linux-image-6.12.200+deb12-amd64-unsigned",
            "linux-image-6.12.200+deb13-amd64",
        ]
        .map(str::to_owned)
        .to_vec();
        assert_eq!(newest(&names).as_deref(), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(newest(&names[3..]), None);
    }

    const DEP: &str = "kernel/drivers/ata/ahci.ko.xz: kernel/drivers/ata/libahci.ko.xz kernel/drivers/scsi/scsi_mod.ko.xz\n\
        kernel/drivers/ata/libahci.ko.xz:\n\
        kernel/drivers/scsi/scsi_mod.ko.xz: kernel/drivers/hwmon/hwmon.ko.xz\n\
        kernel/drivers/hwmon/hwmon.ko.xz:\n\
        kernel/drivers/gpu/drm/i915.ko.xz:\n\
        kernel/fs/ext4/ext4.ko.xz:\n\
        kernel/net/odd/crc32c-other.ko.xz:\n";

    #[test]
    fn wanted_modules_come_with_needs_and_wishes_and_nothing_else() {
        let alias = "# comment\nalias pci:v1* ahci\nalias pci:v2* i915\nalias crypto-crc32c crc32c-other\nalias dmi*:a b ahci\n";
        let table =
            table("6.12", DEP, alias, "softdep ext4 pre: crypto-crc32c absent\n", "kernel/lib/crc16.ko\n")
                .unwrap();
        let names: Vec<&str> = table.modules.keys().map(String::as_str).collect();
        assert_eq!(names, ["ahci", "crc32c_other", "ext4", "hwmon", "libahci", "scsi_mod"]);
        assert_eq!(table.modules["ahci"].needs, ["libahci", "scsi_mod"]);
        assert_eq!(table.modules["ext4"].wants_before, ["crc32c_other"]);
        let aliases: Vec<&str> = table.aliases.iter().map(|(pattern, _)| pattern.as_str()).collect();
        assert_eq!(aliases, ["crypto-crc32c", "pci:v1*"]);
        assert!(table.is_builtin("crc16"));
    }

    #[test]
    fn a_need_that_is_not_there_is_an_error() {
        let error = table("6.12", "kernel/drivers/ata/ahci.ko.xz: kernel/x.ko.xz\n", "", "", "").unwrap_err();
        assert!(error.to_string().contains("kernel/x.ko.xz"), "{error}");
    }
}
