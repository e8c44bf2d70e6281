//! End-to-end tests: whole machines crossing.
//!
//! [`guest`] makes the machines that cross, from the Debian archive, as code. [`crossing`] sets up source, target and the way
//! between them ([`proxy`]), starts [`appliance`] on both and judges what arrives; [`junk`] makes target disks with a past.
//! [`cache`] keeps what is dear to make outside the tree. The tests themselves are in `tests/tests/`, one behaviour each.

pub mod appliance;
pub mod cache;
pub mod crossing;
pub mod guest;
pub mod junk;
pub mod proxy;
pub mod random;
pub mod shell;
