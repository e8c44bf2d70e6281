//! Proof that an end knows the code, bound to this very TLS connection.
//!
//! Both ends take keying material from the TLS exporter; a man in the middle has two connections with different
//! material, so a proof made on one is worthless on the other. The dialler proves first, so that somebody who only
//! listens for diallers learns nothing that a listener would answer to.

use crate::code::Code;
use crate::message::Role;

/// Label for the TLS exporter (RFC 8446, section 7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-gantry-pairing-1";

/// The proof of the end that plays `role`.
pub fn proof(code: &Code, exporter: &[u8; 32], role: Role) -> [u8; 32] {
    let mut mac = blake3::Hasher::new_keyed(&code.key("gantry 2026 pairing proof"));
    mac.update(&[role.tag()]);
    mac.update(exporter);
    *mac.finalize().as_bytes()
}

/// Compares two proofs without telling by time how far they agree.
pub fn proof_matches(ours: &[u8; 32], theirs: &[u8; 32]) -> bool {
    // blake3::Hash compares in constant time.
    blake3::Hash::from_bytes(*ours) == blake3::Hash::from_bytes(*theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_bound_to_code_role_and_connection() {
        let code = Code::from_random([1; 10]);
        let good = proof(&code, &[7; 32], Role::Sender);
        assert!(proof_matches(&good, &proof(&code, &[7; 32], Role::Sender)));
        assert!(!proof_matches(&good, &proof(&code, &[7; 32], Role::Receiver)));
        assert!(!proof_matches(&good, &proof(&code, &[8; 32], Role::Sender)));
        assert!(!proof_matches(&good, &proof(&Code::from_random([2; 10]), &[7; 32], Role::Sender)));
    }
}
