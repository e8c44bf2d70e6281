//! EFI_LOAD_OPTION: the content of a BootXXXX variable (UEFI specification 2.10, section 3.1.3).

use crate::error::{Error, Result};

/// One boot entry without optional data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOption {
    /// What the firmware's menu shows.
    pub description: String,
    /// Device path, ended.
    pub path: Vec<u8>,
}

impl LoadOption {
    /// As firmware stores it.
    ///
    /// # Errors
    /// `Replica` for a path of more than 64 KiB.
    pub fn encode(&self) -> Result<Vec<u8>> {
        const ACTIVE: u32 = 1;
        let length = u16::try_from(self.path.len())
            .map_err(|_| Error::Replica(String::from("a device path of more than 64 KiB")))?;
        let mut out = Vec::new();
        out.extend(ACTIVE.to_le_bytes());
        out.extend(length.to_le_bytes());
        out.extend(self.description.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
        out.extend(&self.path);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_the_specification() {
        let option = LoadOption { description: "ab".into(), path: vec![0x7f, 0xff, 4, 0] };
        let golden = [1, 0, 0, 0, 4, 0, b'a', 0, b'b', 0, 0, 0, 0x7f, 0xff, 4, 0];
        assert_eq!(option.encode().unwrap(), golden);
        assert!(LoadOption { description: String::new(), path: vec![0; 70_000] }.encode().is_err());
    }
}
