//! Runs in a bitmap whose bit 0 is the lowest of byte 0 (ext, NTFS).

use std::ops::Range;

/// The runs of set bits among the first `bits`; bits beyond the slice count as set.
pub(super) fn set_runs(bytes: &[u8], bits: u64) -> impl Iterator<Item = Range<u64>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = next(bytes, at, bits, true);
        if start >= bits {
            return None;
        }
        at = next(bytes, start, bits, false);
        Some(start..at)
    })
}

/// How many of the first `bits` are set; bits beyond the slice count as set.
pub(super) fn count_set(bytes: &[u8], bits: u64) -> u64 {
    set_runs(bytes, bits).map(|run| run.end - run.start).sum()
}

/// The first bit at or behind `at` that is `wanted`, or `bits`.
fn next(bytes: &[u8], mut at: u64, bits: u64, wanted: bool) -> u64 {
    let skip = if wanted { 0x00 } else { 0xff };
    while at < bits {
        let byte = usize::try_from(at / 8).ok().and_then(|index| bytes.get(index)).copied().unwrap_or(0xff);
        let rest = if byte == skip { 0 } else { (byte ^ skip) >> (at % 8) };
        if rest != 0 {
            return (at + u64::from(rest.trailing_zeros())).min(bits);
        }
        at = (at / 8 + 1) * 8;
    }
    bits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_what_looking_at_each_bit_gives(
            bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..20),
            bits in 0u64..180,
        ) {
            let bit = |at: u64| bytes.get(at as usize / 8).is_none_or(|byte| byte >> (at % 8) & 1 == 1);
            let runs: Vec<_> = set_runs(&bytes, bits).collect();
            for at in 0..bits {
                prop_assert_eq!(runs.iter().any(|run| run.contains(&at)), bit(at));
            }
            prop_assert!(runs.iter().all(|run| run.end <= bits && !run.is_empty()));
            prop_assert_eq!(count_set(&bytes, bits), (0..bits).filter(|&at| bit(at)).count() as u64);
        }
    }
}
