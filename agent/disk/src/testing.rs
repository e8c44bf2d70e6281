//! Tools written by others that judge our work in tests.

use std::path::Path;
use std::process::{Command, Output};

/// Runs a program that the tests need. A test that cannot run is a failure, not a silence.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).env("LC_ALL", "C").output();
    output.unwrap_or_else(|error| panic!("{program}: {error}: scripts/setup installs what tests need"))
}

/// Runs a tool that must succeed, and gives its output as text.
pub(crate) fn good(program: &str, arguments: &[&str]) -> String {
    let output = tool(program, arguments);
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// A sparse file of `size` bytes.
pub(crate) fn blank(path: &Path, size: u64) {
    std::fs::File::create(path).unwrap().set_len(size).unwrap();
}

/// A disk end in memory.
pub(crate) struct Memory {
    pub(crate) bytes: Vec<u8>,
    sector: crate::SectorSize,
    identity: crate::Identity,
}

impl Memory {
    pub(crate) fn new(bytes: Vec<u8>, sector: u32) -> Self {
        let identity = crate::Identity { path: "memory".to_owned(), ..Default::default() };
        Self { bytes, sector: sector.try_into().unwrap(), identity }
    }
}

impl crate::Geometry for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn sector_size(&self) -> crate::SectorSize {
        self.sector
    }
    fn identity(&self) -> &crate::Identity {
        &self.identity
    }
}

impl crate::ReadAt for Memory {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> crate::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let Some(bytes) = start.checked_add(buffer.len()).and_then(|end| self.bytes.get(start..end)) else {
            return Err(crate::DiskError::new(crate::ErrorKind::Range, "memory", "reading").at(offset));
        };
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// Feeds a script to sfdisk on `path`.
pub(crate) fn sfdisk(path: &Path, arguments: &[&str], script: &str) {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new("/usr/sbin/sfdisk")
        .args(["-q", "--no-reread", "--no-tell-kernel"])
        .args(arguments)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "sfdisk refuses:\n{script}");
}
