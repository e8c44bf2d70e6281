//! Edits: everything repair may do to a replica, as data. A plan is a list of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::facts::PartitionRef;

/// One change. Paths are absolute in the guest. `before` is the BLAKE3 of the content that is replaced, `None` where
/// nothing was; an edit whose object has changed since is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Edit {
    /// Replace or create a text file; mode and owner of an old one stay, a new one is root's, 0644.
    WriteFile {
        /// What is written.
        path: String,
        /// See [`Edit`].
        before: Option<String>,
        /// The whole new text.
        text: String,
    },
    /// Remove a file.
    RemoveFile {
        /// What is removed.
        path: String,
        /// See [`Edit`].
        before: String,
    },
    /// Copy a file of the guest to another place in the guest, over what is there.
    CopyFile {
        /// From where.
        from: String,
        /// To where.
        to: String,
        /// BLAKE3 of what is copied.
        digest: String,
    },
    /// Let the guest's own `update-initramfs` build these images again.
    UpdateInitramfs {
        /// The images and what must be in them afterwards.
        images: Vec<WantedImage>,
    },
    /// Write the plain swap signature over that of a hibernation image; the memory it held is lost.
    VoidHibernation {
        /// Where it lies (or where the filesystem of `file` lies).
        partition: PartitionRef,
        /// The swap file, when it is one.
        file: Option<String>,
        /// The signature that is there now.
        signature: String,
    },
}

/// An initramfs as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedImage {
    /// Kernel version.
    pub kernel: String,
    /// Path in the guest.
    pub path: String,
    /// Whether there is one already (`-u`) or it is made (`-c`).
    pub exists: bool,
    /// Modules that must be in it.
    pub modules: BTreeSet<String>,
    /// Configuration that must be in it, as the generator copies it there: path in the image to text.
    pub files: BTreeMap<String, String>,
}

impl Edit {
    /// Whether the originals kept on the replica suffice to take it back.
    pub fn can_be_undone(&self) -> bool {
        // The signature can be put back, but by then the filesystems have moved on and resuming would destroy them.
        !matches!(self, Self::VoidHibernation { .. })
    }

    /// Files of the guest that change, for keeping their originals.
    pub fn touches(&self) -> Vec<&str> {
        match self {
            Self::WriteFile { path, .. } | Self::RemoveFile { path, .. } => vec![path],
            Self::CopyFile { to, .. } => vec![to],
            Self::UpdateInitramfs { images } => images.iter().map(|i| i.path.as_str()).collect(),
            Self::VoidHibernation { .. } => Vec::new(),
        }
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        match self {
            Self::WriteFile { path, before: Some(_), .. } => format!("change {path}"),
            Self::WriteFile { path, before: None, .. } => format!("create {path}"),
            Self::RemoveFile { path, .. } => format!("remove {path}"),
            Self::CopyFile { from, to, .. } => format!("copy {from} to {to}"),
            Self::UpdateInitramfs { images } => {
                let versions: Vec<_> = images.iter().map(|i| i.kernel.as_str()).collect();
                format!(
                    "rebuild the initramfs of {} with the guest's own update-initramfs",
                    versions.join(", ")
                )
            }
            Self::VoidHibernation { file: Some(file), signature, .. } => {
                format!("void the hibernation image ({signature}) in {file}")
            }
            Self::VoidHibernation { partition, signature, .. } => {
                format!("void the hibernation image ({signature}) in {partition}")
            }
        }
    }
}

/// BLAKE3 in hex, as edits and manifests carry it.
pub fn digest(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}
