//! Looking for a byte that is not zero.

use crate::end::ReadAt;
use crate::error::Result;
use crate::extents;

const MIB: u64 = 1 << 20;
/// How many samples are taken between head and tail, and how long each is.
const SAMPLES: u64 = 1000;
const SAMPLE: u64 = 4096;

/// The first byte found in head, tail or the samples that is not zero.
pub(super) fn in_samples(disk: &dyn ReadAt) -> Result<Option<u64>> {
    let size = disk.size();
    let tail = size.saturating_sub(MIB);
    let mut ranges = vec![(0, MIB.min(size)), (tail, size - tail)];
    ranges.extend(samples(size));
    for (at, length) in ranges {
        if let Some(found) = first_byte(disk, at, length)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// One sample in each of a thousand equal stretches of what lies between the first and the last MiB, each at another place in
/// its stretch so that nothing periodic hides. The same for the same size, so that a second look sees the same.
fn samples(size: u64) -> Vec<(u64, u64)> {
    let Some(middle) = size.checked_sub(2 * MIB).filter(|&middle| middle > 0) else {
        return Vec::new();
    };
    if middle <= SAMPLES * SAMPLE {
        return vec![(MIB, middle)];
    }
    let stretch = middle / SAMPLES;
    let mut state = size;
    let place = |number: u64| {
        // The step of the splitmix64 generator (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let slots = stretch / SAMPLE;
        let within = if slots == 0 { 0 } else { (mixed ^ (mixed >> 31)) % slots * SAMPLE };
        ((MIB + number * stretch + within) / SAMPLE * SAMPLE, SAMPLE)
    };
    (0..SAMPLES).map(place).collect()
}

/// The first non-zero byte of what is not known to be zero.
pub(super) fn in_extents(disk: &dyn ReadAt) -> Result<Option<u64>> {
    let mut found = None;
    extents::walk(disk, |extent| {
        if !extent.zero && found.is_none() {
            found = first_byte(disk, extent.offset, extent.length)?;
        }
        Ok(())
    })?;
    Ok(found)
}

fn first_byte(disk: &dyn ReadAt, start: u64, length: u64) -> Result<Option<u64>> {
    let mut buffer = vec![0; usize::try_from(length.min(MIB)).unwrap_or(0)];
    let mut done = 0;
    while done < length {
        let step = usize::try_from((length - done).min(MIB)).unwrap_or(0);
        let piece = &mut buffer[..step];
        disk.read_at(start + done, piece)?;
        if let Some(at) = piece.iter().position(|&byte| byte != 0) {
            return Ok(Some(start + done + at as u64));
        }
        done += step as u64;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;

    #[test]
    fn samples_lie_between_head_and_tail_and_cover_every_stretch() {
        for size in [0, 4096, MIB, 2 * MIB, 2 * MIB + 512, 7 * MIB, 10 * MIB + 512, 3 << 40] {
            let samples = samples(size);
            let mut reach = MIB;
            for (at, length) in &samples {
                assert!(*at >= MIB && at + length <= size - MIB, "{size}: {at}");
                assert!(*at >= reach || samples.len() == 1, "{size}: {at}");
                reach = at + length;
            }
            let read: u64 = samples.iter().map(|(_, length)| length).sum();
            assert!(read <= 4 * MIB, "{size}: {read}");
            if size > 1 << 30 {
                assert_eq!(samples.len(), 1000);
                let stretch = (size - 2 * MIB) / SAMPLES;
                assert!(samples.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 2 * stretch));
            }
        }
    }

    #[test]
    fn one_byte_in_head_tail_or_middle_is_found() {
        for at in [0, 5, 1 << 20, (3 << 20) + 17, (5 << 20) - 1] {
            let mut disk = Memory::new(vec![0; 5 << 20], 512);
            assert_eq!(in_samples(&disk).unwrap(), None);
            disk.bytes[at] = 1;
            assert_eq!(in_samples(&disk).unwrap(), Some(at as u64));
        }
        assert_eq!(in_samples(&Memory::new(vec![], 512)).unwrap(), None);
    }
}
