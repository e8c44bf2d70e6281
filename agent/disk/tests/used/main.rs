//! Used maps, proven by poison against real filesystems. One program, so that all kinds share one harness.

mod ext;
mod lvm;
mod md;
mod poison;
mod whole;
