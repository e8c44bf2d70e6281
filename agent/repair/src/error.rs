//! What can go wrong, and whether a person has to decide.

use std::fmt::Display;
use std::io;

use gantry_disk::DiskError;

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a device, a file or a mount failed.
    #[error("{what}: {cause}")]
    Io {
        /// Operation and object, such as `opening /dev/vda`.
        what: String,
        /// What the system said.
        cause: io::Error,
    },
    /// Repair will not go on without a person: consent is missing, or nothing safe can be done. The text says what to do.
    #[error("{0}")]
    Refused(String),
    /// The replica is not what the plan was made from.
    #[error("{0}")]
    Stale(String),
    /// Something on the replica is not as it must be.
    #[error("{0}")]
    Replica(String),
    /// A program of the guest, or a check after it, failed.
    #[error("{0}")]
    Guest(String),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether a person has to decide before the same call can succeed.
    pub fn needs_a_human(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Stale(_))
    }

    /// An error about `what` with the system's last words.
    pub fn io(what: impl Display, cause: impl Into<io::Error>) -> Self {
        Self::Io { what: what.to_string(), cause: cause.into() }
    }
}

impl From<DiskError> for Error {
    fn from(mut error: DiskError) -> Self {
        match error.source.take() {
            Some(cause) => Self::io(error, cause),
            None => Self::Replica(error.to_string()),
        }
    }
}

/// Names the operation that an I/O result belongs to.
pub(crate) trait During<T> {
    /// `what` is operation and object, such as `opening /dev/vda`; built only when it failed.
    fn during<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<io::Error>> During<T> for std::result::Result<T, E> {
    fn during<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|cause| Error::io(what(), cause))
    }
}
