//! Copy and verify on one host.
