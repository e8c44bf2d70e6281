//! What can go wrong between us and a server, by what it means for the connection.

use std::fmt;
use std::io;

use super::proto::Malformed;

/// A failure on one connection.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection is gone or silent. Another one may do.
    Lost(io::Error),
    /// The server refuses this request. The connection goes on.
    Refused {
        /// An NBD error number, which is Linux's.
        error: u32,
        /// The byte that the server names.
        offset: Option<u64>,
        /// In its words, made fit to print, in parentheses; or empty.
        text: String,
    },
    /// The server breaks the protocol or cannot do what is needed. Trying again is no use.
    Unusable(String),
}

pub(super) type Outcome<T> = Result<T, Fault>;

/// A fault that no retry helps.
pub(super) fn unusable<T>(why: impl Into<String>) -> Outcome<T> {
    Err(Fault::Unusable(why.into()))
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        // rustls reports a bad certificate or record in this way; dialling again shows the same.
        if error.kind() == io::ErrorKind::InvalidData {
            return Self::Unusable(error.to_string());
        }
        Self::Lost(error)
    }
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Unusable("the server's message is malformed".to_owned())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(error) => write!(f, "the connection is lost: {error}"),
            Self::Refused { error, text, .. } => write!(f, "the server refuses{text}: error {error}"),
            Self::Unusable(why) => f.write_str(why),
        }
    }
}

/// A server's words for the end of a sentence: short, without control characters, in parentheses; empty if there are none.
pub(super) fn printable(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(bytes);
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.trim_end_matches('\0').trim().chars().take(SHOWN).map(clean).collect();
    if text.is_empty() { text } else { format!(" ({text})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_are_tamed() {
        assert_eq!(printable(b"bad \x1b[31mdisk\n"), " (bad  [31mdisk)");
        assert_eq!(printable(&[b'x'; 5000]).len(), 203);
        assert_eq!(printable(b"\n\0"), "");
    }
}
