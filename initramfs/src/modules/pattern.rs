//! Shell patterns as they occur in module aliases: `*`, `?` and `[...]` with ranges.
//!
//! The rules are those of fnmatch(3) without flags, as kmod applies them, except that `-` and `_` are *not* folded:
//! device aliases carry both with meaning (only module names are folded, see [`super::normal_name`]).

/// Whether `text` matches `pattern` as a whole.
///
/// A `[` that is never closed matches itself. Time is bounded by `pattern.len() * text.len()`: a star remembers only
/// its last position, so no pattern can make the match exponential.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: behind the last star, one more byte of text swallowed by it.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            None if t == text.len() => return true,
            None => None,
            Some(_) if t == text.len() => return pattern[p..].iter().all(|byte| *byte == b'*'),
            Some(_) => one(&pattern[p..], text[t]),
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after_star, swallowed))) if swallowed < text.len() => {
                retry = Some((after_star, swallowed + 1));
                p = after_star;
                t = swallowed + 1;
            }
            (None, _) => return false,
        }
    }
}

/// Length of the one-byte pattern at the start of `pattern` if it matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'[' => match class(pattern) {
            Some((length, members, negated)) => (contains(members, byte) != negated).then_some(length),
            None => (byte == b'[').then_some(1),
        },
        literal => (literal == byte).then_some(1),
    }
}

/// Splits `[abc]...` into its length, its members and whether it is negated. The first member may be `]`.
fn class(pattern: &[u8]) -> Option<(usize, &[u8], bool)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let start = if negated { 2 } else { 1 };
    let end = pattern.iter().skip(start + 1).position(|byte| *byte == b']')? + start + 1;
    Some((end + 1, &pattern[start..end], negated))
}

fn contains(members: &[u8], byte: u8) -> bool {
    let mut at = 0;
    while at < members.len() {
        if at + 2 < members.len() && members[at + 1] == b'-' {
            if (members[at]..=members[at + 2]).contains(&byte) {
                return true;
            }
            at += 3;
        } else {
            if members[at] == byte {
                return true;
            }
            at += 1;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_like_fnmatch() {
        let table = [
            // An AHCI controller by class, a virtio disk, a SCSI disk: the aliases that boot machines.
            ("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", true),
            ("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i00", false),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            ("virtio:d00000002v*", "virtio:d00000001v00001AF4", false),
            ("scsi:t-0x00*", "scsi:t-0x00", true),
            ("scsi:t-0x05*", "scsi:t-0x00", false),
            // usb-storage has classes in its aliases.
            ("usb:v04E6p000[!7]d*dc*", "usb:v04E6p0006d0100dc00", true),
            ("usb:v04E6p000[!7]d*dc*", "usb:v04E6p0007d0100dc00", false),
            ("usb:v0421p0019d059[0-9]dc*", "usb:v0421p0019d0592dc00", true),
            ("usb:v0421p0019d059[0-9]dc*", "usb:v0421p0019d05A2dc00", false),
            ("a[]x]b", "a]b", true),
            ("a[b", "a[b", true),
            ("a[b", "ab", false),
            ("*", "", true),
            ("?", "", false),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXcYb", false),
            ("dm-*", "dm_crypt", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches(pattern, text), expected, "{pattern} against {text}");
        }
    }

    #[test]
    fn many_stars_stay_quick() {
        let pattern = "*a".repeat(200);
        let text = "a".repeat(4000) + "b";
        assert!(!matches(&pattern, &text));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(pattern in ".*", text in ".*") {
            matches(&pattern, &text);
        }

        #[test]
        fn a_text_without_specials_matches_itself(text in "[a-zA-Z0-9:_-]*") {
            proptest::prop_assert!(matches(&text, &text));
        }
    }
}
