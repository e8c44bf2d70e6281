//! The pairing code: 20 letters in groups of four, 80 bits.
//!
//! The 16 letters sit on the same keys on QWERTY, QWERTZ and AZERTY, and none looks like a digit or another letter.

use std::fmt;

use crate::tree::hex;

const ALPHABET: &[u8; 16] = b"BCDEFGHJKLNPRSTX";
const LETTERS: usize = 20;

/// A pairing code. It is a secret: `Debug` does not show it, [`Code::reveal`] does.
#[derive(Clone, PartialEq, Eq)]
pub struct Code([u8; LETTERS]);

/// Why a text is no code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// A character that codes do not use.
    #[error("a pairing code has only the letters BCDEFGHJKLNPRSTX, not '{0}'")]
    Letter(char),
    /// Too few or too many letters.
    #[error("a pairing code has 20 letters, not {0}")]
    Length(usize),
}

impl Code {
    /// A code from 10 random bytes.
    pub fn from_random(random: [u8; 10]) -> Self {
        let mut letters = [0; LETTERS];
        for (pair, byte) in letters.chunks_exact_mut(2).zip(random) {
            pair[0] = ALPHABET[usize::from(byte >> 4)];
            pair[1] = ALPHABET[usize::from(byte & 15)];
        }
        Self(letters)
    }

    /// Reads a code as a person types it: case, blanks and dashes do not matter.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let mut letters = Vec::with_capacity(LETTERS);
        for c in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let upper = c.to_ascii_uppercase();
            if !upper.is_ascii() || !ALPHABET.contains(&(upper as u8)) {
                return Err(CodeError::Letter(c));
            }
            letters.push(upper as u8);
            if letters.len() > LETTERS {
                break;
            }
        }
        let found = letters.len();
        letters.try_into().map(Self).map_err(|_| CodeError::Length(found))
    }

    /// The code as people read it: `XXXX-XXXX-XXXX-XXXX-XXXX`.
    pub fn reveal(&self) -> String {
        let groups: Vec<String> = self.0.chunks(4).map(|g| String::from_utf8_lossy(g).into_owned()).collect();
        groups.join("-")
    }

    /// Key for a purpose named by `context`.
    pub fn key(&self, context: &str) -> [u8; 32] {
        blake3::derive_key(context, &self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(secret)")
    }
}

/// What a label carries to name the job of a code without giving it away.
pub fn job(code: &Code) -> [u8; 8] {
    let key = code.key("gantry 2026 job tag");
    let mut job = [0; 8];
    job.copy_from_slice(&key[..8]);
    job
}

/// The same as 16 hex digits, for a finished disk's mark and our media.
pub fn job_tag(code: &Code) -> String {
    hex(&job(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_how_people_type_it() {
        let code = Code::from_random([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x00, 0xff]);
        assert_eq!(code.reveal(), "BCDE-FGHJ-KLNP-RSTX-BBXX");
        assert_eq!(Code::parse(" bcde fghj-klnp RSTXbbxx\n").unwrap(), code);
        assert_eq!(job_tag(&code).len(), 16);
    }

    #[test]
    fn wrong_letters_and_lengths_are_named() {
        assert_eq!(Code::parse("BCDA").unwrap_err(), CodeError::Letter('A'));
        assert_eq!(Code::parse("BCDE").unwrap_err(), CodeError::Length(4));
        assert_eq!(Code::parse(&"B".repeat(21)).unwrap_err(), CodeError::Length(21));
    }

    #[test]
    fn debug_keeps_the_secret() {
        assert_eq!(format!("{:?}", Code::from_random([0; 10])), "Code(secret)");
    }
}
