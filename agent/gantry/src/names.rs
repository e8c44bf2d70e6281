//! What a name on the command line means: a disk, a file, an image with its format, an export of an NBD server.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use gantry_disk::image::{Format, ImageName};
use gantry_disk::nbd::Address;

use crate::machine::Refused;

/// A name, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndName {
    /// A disk by path, serial number or WWN, or a raw file by path.
    Plain(PathBuf),
    /// A raw image in a file, whatever it is called.
    Raw(PathBuf),
    /// An image of a given format.
    Image(ImageName),
    /// An export of an NBD server.
    Server(Address),
}

impl EndName {
    /// Understands `text`. Formats are never found out; a plain name that looks as if it had one is refused, because its
    /// header would be copied for the disk.
    pub fn parse(text: &str) -> Result<Self> {
        if Address::is_meant(text) {
            return text.parse().map(Self::Server).map_err(|why| anyhow!(Refused(why)));
        }
        if let Ok(image) = text.parse() {
            return Ok(Self::Image(image));
        }
        if let Some(path) = text.strip_prefix("raw:") {
            return Ok(Self::Raw(path.into()));
        }
        let path = PathBuf::from(text);
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if let Some(format) = Format::ALL.iter().find(|format| extension == format.name()) {
            let name = format.name();
            let why = format!("{text}: say what it is: {name}:{text}, or raw:{text} if it is a raw image");
            return Err(Refused(why).into());
        }
        Ok(Self::Plain(path))
    }

    /// Where it is on this machine; for a disk's serial number a path that does not exist.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Plain(path) | Self::Raw(path) => Some(path),
            Self::Image(image) => Some(&image.path),
            Self::Server(_) => None,
        }
    }

    /// Whether both mean the same file, or the same export in the same words.
    pub fn means(&self, other: &Self) -> bool {
        let real = |name: &Self| name.path().and_then(|path| path.canonicalize().ok());
        self == other || real(self).is_some_and(|path| real(other) == Some(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_they_say() {
        let plain = |text: &str| EndName::Plain(text.into());
        for text in ["/dev/sda", "disk.img", "QM00001", "naa.5000c500", "./qcow2:x"] {
            assert_eq!(EndName::parse(text).unwrap(), plain(text));
        }
        assert_eq!(EndName::parse("raw:disk.qcow2").unwrap(), EndName::Raw("disk.qcow2".into()));
        assert!(matches!(EndName::parse("vdi:x").unwrap(), EndName::Image(_)));
        assert!(matches!(EndName::parse("nbds://h/x").unwrap(), EndName::Server(_)));
        for (text, part) in [("x.QCOW2", "qcow2:x.QCOW2"), ("nbd://", "no host"), ("nbd+ssh://h", "scheme")] {
            let why = EndName::parse(text).unwrap_err().to_string();
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    #[test]
    fn a_file_is_the_same_in_any_format() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let name = |text: String| EndName::parse(&text).unwrap();
        assert!(name(format!("vdi:{path}")).means(&name(format!("raw:{path}"))));
        assert!(name("nbd://h/x".into()).means(&name("nbd://h/x".into())));
        assert!(!name("nbd://h/x".into()).means(&name("nbd://h/y".into())));
        assert!(!name("/nowhere/a".into()).means(&name("/nowhere/b".into())));
    }
}
