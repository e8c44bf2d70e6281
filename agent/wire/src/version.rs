//! Versions of the protocol.

/// A version, newest first. Each line says what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 2: compare passes go from groups to chunks to leaves, and only changed leaves cross. Replaces 1, which was never
    /// released.
    V2,
}

impl Version {
    /// All that this build speaks, newest first.
    pub const SPOKEN: &'static [Version] = &[Version::V2];

    /// The number on the wire.
    pub fn number(self) -> u16 {
        match self {
            Version::V2 => 2,
        }
    }

    /// The newest version that both speak.
    pub fn negotiate(theirs: &[u16]) -> Option<Version> {
        Self::SPOKEN.iter().copied().find(|ours| theirs.contains(&ours.number()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_taken() {
        assert_eq!(Version::negotiate(&[7, 2]), Some(Version::V2));
        assert_eq!(Version::negotiate(&[7, 1]), None);
    }
}
