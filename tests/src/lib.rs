//! End-to-end tests: whole machines crossing.
//!
//! [`guest`] makes the machines that cross, from the Debian archive, as code. [`cache`] keeps what is dear to make outside the
//! tree. The tests themselves are in `tests/tests/`, one behaviour each.

pub mod cache;
pub mod guest;
pub mod random;
pub mod shell;
