//! How a chunk's bytes travel: as they are, or as one zstd frame.

use anyhow::{Result, anyhow, ensure};
use gantry_wire::message::Encoding;
use gantry_wire::tree::{self, Hash};

/// Fast enough for a gigabit on one slow core, and most of what a higher level saves.
const ZSTD_LEVEL: i32 = 1;

/// Less than 5 % gain does not pay for the unpacking: then bytes travel as they are.
pub fn pack(bytes: &[u8]) -> (Encoding, Vec<u8>) {
    let packed = zstd::bulk::compress(bytes, ZSTD_LEVEL).ok();
    match packed.filter(|packed| packed.len() < bytes.len() - bytes.len() / 20) {
        Some(packed) => (Encoding::Zstd, packed),
        None => (Encoding::Raw, bytes.to_vec()),
    }
}

/// Unpacks into `bytes`, all of it, and checks the node.
///
/// # Errors
/// The peer's fault: other bytes, or another number of them, than it said.
pub fn unpack(encoding: Encoding, data: &[u8], node: &Hash, bytes: &mut [u8]) -> Result<()> {
    match encoding {
        Encoding::Raw => {
            ensure!(data.len() == bytes.len(), "it carries {} bytes, not {}", data.len(), bytes.len());
            bytes.copy_from_slice(data);
        }
        Encoding::Zstd => {
            // The output is bounded by the buffer, whatever the frame claims. zstd's errors are I/O errors by type, which
            // would look like a fault of the network that goes by.
            let made = zstd::bulk::decompress_to_buffer(data, bytes);
            let made = made.map_err(|error| anyhow!("unpacking: {error}"))?;
            ensure!(made == bytes.len(), "it unpacks to {made} bytes, not {}", bytes.len());
        }
    }
    ensure!(tree::chunk(bytes) == *node, "it arrived damaged");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn bytes_come_back_and_damage_is_seen() {
        let repeats: Vec<u8> = (0..70_000).map(|i| (i / 300) as u8).collect();
        let noise = noise(70_000);
        for (bytes, how) in [(repeats, Encoding::Zstd), (noise, Encoding::Raw)] {
            let (encoding, mut packed) = pack(&bytes);
            assert_eq!(encoding, how);
            let (node, mut back) = (tree::chunk(&bytes), vec![0; bytes.len()]);
            unpack(encoding, &packed, &node, &mut back).unwrap();
            assert!(back == bytes);
            let middle = packed.len() / 2;
            packed[middle] ^= 1;
            let error = unpack(encoding, &packed, &node, &mut back).unwrap_err();
            assert!(!error.is::<std::io::Error>(), "not the network's fault: {error}");
        }
    }
}
