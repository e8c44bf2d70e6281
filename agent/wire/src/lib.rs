//! Gantry's protocol, without I/O.
