//! A disk by the name a person gives: path, serial or WWN.

use std::fs;
use std::path::Path;

use super::names::WWN_KINDS;
use super::{DeviceNumber, Disk};
use crate::error::{DiskError, ErrorKind, Result};

/// The one disk that `name` means: its path (or a link to it), its serial, or its WWN with or without the prefix.
///
/// # Errors
/// `Missing` when no disk has that name, `Unsuitable` when several have; both list what there is.
pub fn select<'a>(disks: &'a [Disk], name: &str) -> Result<&'a Disk> {
    let name = name.trim();
    let found: Vec<&Disk> = disks.iter().filter(|disk| is_called(disk, name)).collect();
    match found[..] {
        [disk] => Ok(disk),
        [] => {
            let path = Path::new(name);
            let what = match path.exists() {
                true if path.is_dir() => "is a directory, not a disk or an image",
                false if looks_like_a_path(name) => "no such file, and no disk is called that",
                _ => "no disk is called that",
            };
            let there = match disks {
                [] => "this machine shows no disk at all (is the controller's driver loaded?)".to_owned(),
                _ => format!("there are {}", list(disks.iter())),
            };
            Err(DiskError::new(ErrorKind::Missing, name, format!("{what}; {there}")))
        }
        _ => {
            let list = list(found.into_iter());
            Err(DiskError::new(
                ErrorKind::Unsuitable,
                name,
                format!("several disks are called that: {list}; name one by its path"),
            ))
        }
    }
}

/// Whether a file is meant rather than a serial number or a WWN (naa.5...).
fn looks_like_a_path(name: &str) -> bool {
    let wwn = WWN_KINDS.iter().any(|kind| name.to_ascii_lowercase().starts_with(kind));
    name.contains('/') || (name.contains('.') && !wwn)
}

/// Whether `name` means `disk`: by the rules of [`select`].
pub fn is_called(disk: &Disk, name: &str) -> bool {
    if name.is_empty() {
        return false;
    }
    let identity = &disk.identity;
    if identity.path == name || identity.serial == name {
        return true;
    }
    if name.starts_with('/') {
        let path = Path::new(name);
        return DeviceNumber::of_node(path) == Some(disk.number)
            || fs::canonicalize(path).is_ok_and(|real| real == Path::new(&identity.path));
    }
    let wwn = &identity.wwn;
    let bare = name.to_ascii_lowercase();
    let bare = bare.strip_prefix("0x").unwrap_or(&bare);
    !wwn.is_empty() && (wwn == bare || wwn.split_once('.').is_some_and(|(_, digits)| digits == bare))
}

fn list<'a>(disks: impl Iterator<Item = &'a Disk>) -> String {
    disks.map(describe).collect::<Vec<_>>().join("; ")
}

/// One disk in a line: "/dev/sda (465.8 GiB, serial S3Z, naa.5…, Samsung SSD 860)".
pub fn describe(disk: &Disk) -> String {
    let identity = &disk.identity;
    let mut parts = vec![crate::size::human(disk.size)];
    if !identity.serial.is_empty() {
        parts.push(format!("serial {}", identity.serial));
    }
    parts.extend([&identity.wwn, &identity.model].into_iter().filter(|text| !text.is_empty()).cloned());
    format!("{} ({})", identity.path, parts.join(", "))
}
