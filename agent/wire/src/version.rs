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

    /// Why two ends have no version in common, and which of them is to be updated. `theirs` is what `them` speaks; this
    /// end is called `us`.
    pub fn refusal(theirs: &[u16], them: &str, us: &str) -> String {
        let list = |numbers: &[u16]| numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let ours: Vec<u16> = Self::SPOKEN.iter().map(|version| version.number()).collect();
        let older = if theirs.iter().max() > ours.iter().max() { us } else { them };
        format!(
            "the {them} speaks version {} of the protocol, the {us} version {}: update Gantry on the {older}",
            list(theirs),
            list(&ours)
        )
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

    #[test]
    fn a_refusal_names_the_end_to_update() {
        let text = Version::refusal(&[1], "source", "target");
        assert_eq!(
            text,
            "the source speaks version 1 of the protocol, the target version 2: update Gantry on the source"
        );
        assert!(Version::refusal(&[4, 3], "source", "target").ends_with("update Gantry on the target"));
        assert!(Version::refusal(&[], "source", "target").ends_with("update Gantry on the source"));
    }
}
