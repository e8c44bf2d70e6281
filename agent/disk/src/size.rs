//! Sizes for people.

/// "465.8 GiB"; exact multiples lose the fraction ("512 MiB"), small ones are bytes.
pub fn human(bytes: u64) -> String {
    const UNITS: [(&str, u32); 5] = [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if bytes >> shift == 0 {
            continue;
        }
        let whole = bytes >> shift;
        // Tenths, rounded down: a disk is never shown larger than it is.
        let tenths = ((u128::from(bytes) * 10) >> shift) % 10;
        return if tenths == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenths} {unit}") };
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_read_well() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 20, "1 MiB"),
            (500_107_862_016, "465.7 GiB"),
            (2048 << 30, "2 TiB"),
            (u64::MAX, "16383.9 PiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(human(bytes), text);
        }
    }
}
