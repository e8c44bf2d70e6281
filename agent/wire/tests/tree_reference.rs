//! Another language, written from the documentation, finds the same roots.

use std::io::Write;
use std::process::Command;

use gantry_wire::limits::{CHUNK, GROUP};
use gantry_wire::tree::{RootBuilder, chunk, group, hex};

#[test]
fn python_recomputes_the_root_from_the_description() {
    for (size, seed) in [(512_usize, 1_u8), (200_704, 2), ((1 << 20) + 70_144, 3), ((64 << 20) + 512, 4)] {
        let mut data = vec![0; size];
        data.iter_mut()
            .enumerate()
            .filter(|(i, _)| i / 65_536 != 3 && !((1 << 20) + 90_000..64 << 20).contains(i))
            .for_each(|(i, b)| *b = (i / 7) as u8 ^ seed);
        let mut builder = RootBuilder::default();
        for part in data.chunks((GROUP * CHUNK) as usize) {
            builder.push(&group(&part.chunks(CHUNK as usize).map(chunk).collect::<Vec<_>>()));
        }
        let ours = hex(&builder.finish(size as u64, 4096));

        let mut image = tempfile::NamedTempFile::new().unwrap();
        image.write_all(&data).unwrap();
        let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tree_reference.py");
        let output = Command::new("python3").arg(reference).arg(image.path()).arg("4096").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ours, "{size} bytes");
    }
}
