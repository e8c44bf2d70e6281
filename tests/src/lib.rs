//! End-to-end tests: whole machines crossing.
