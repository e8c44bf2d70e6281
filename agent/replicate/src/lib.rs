//! Passes over disks: read, hash, compress, send, write, flush, verify.
