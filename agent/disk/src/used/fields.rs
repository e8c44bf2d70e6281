//! Numbers in on-disk structures. A structure that is too short is a doubt, never a panic or a zero.

use super::Doubt;

macro_rules! reader {
    ($($name:ident $kind:ty, $convert:ident;)*) => {$(
        #[allow(dead_code, reason = "not every filesystem needs all of them")]
        #[doc = concat!("The `", stringify!($kind), "` at byte `at`.")]
        pub(super) fn $name(bytes: &[u8], at: usize) -> Result<$kind, Doubt> {
            let end = at.checked_add(size_of::<$kind>());
            let part = end.and_then(|end| bytes.get(at..end)).and_then(|part| part.try_into().ok());
            part.map(<$kind>::$convert).ok_or_else(|| {
                Doubt::new(format!("a structure of {} bytes is too short (byte {at} is needed)", bytes.len()))
            })
        }
    )*};
}

reader! {
    le16 u16, from_le_bytes;
    le32 u32, from_le_bytes;
    le64 u64, from_le_bytes;
    be16 u16, from_be_bytes;
    be32 u32, from_be_bytes;
    be64 u64, from_be_bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_short_structures_are_a_doubt() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!((le16(&bytes, 7).unwrap(), be16(&bytes, 7).unwrap()), (0x0908, 0x0809));
        assert_eq!((le32(&bytes, 1).unwrap(), be32(&bytes, 1).unwrap()), (0x0504_0302, 0x0203_0405));
        assert_eq!(le64(&bytes, 1).unwrap(), be64(&bytes, 1).unwrap().swap_bytes());
        assert!(le64(&bytes, 2).is_err() && le16(&bytes, usize::MAX).is_err());
    }
}
