//! The crate's one error: what kind, where, why.

use std::fmt;

/// Shorthand for results of this crate.
pub type Result<T, E = DiskError> = std::result::Result<T, E>;

/// What went wrong, for callers that act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The medium or the system call failed.
    Io,
    /// A read, write or flush that lies outside the disk, or is not aligned as the disk needs.
    Range,
    /// The disk is mounted, used as swap, or held by another driver.
    InUse,
    /// The disk carries something that nobody allowed to be erased.
    NotBlank,
    /// What was found does not fit: sector sizes, sizes, a malformed table.
    Unsuitable,
    /// The thing named does not exist.
    Missing,
}

/// An error on a disk end: which device, which operation, at which byte, and the cause.
#[derive(Debug)]
pub struct DiskError {
    /// What kind of fault; callers match on this.
    pub kind: ErrorKind,
    /// The device or file.
    pub device: String,
    /// What was being done, as a gerund phrase: "reading 65536 bytes".
    pub operation: String,
    /// Byte offset on the device, where there is one.
    pub offset: Option<u64>,
    /// The cause.
    pub source: Option<std::io::Error>,
}

impl DiskError {
    /// An error without an offset or a system cause.
    pub fn new(kind: ErrorKind, device: impl Into<String>, operation: impl Into<String>) -> Self {
        Self { kind, device: device.into(), operation: operation.into(), offset: None, source: None }
    }

    /// A failed system call.
    pub fn io(device: impl Into<String>, operation: impl Into<String>, source: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Io, device, operation);
        error.source = Some(source);
        error
    }

    /// Names the byte at which it happened.
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Whether the same call may succeed later: only faults of the system, never those of the request.
    pub fn retry_may_help(&self) -> bool {
        self.kind == ErrorKind::Io
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.device, self.operation)?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
