//! Kernel modules: the table made at build time, and loading by it.
//!
//! There is no kmod in the image. `depmod`'s text files are boiled down by the composer to one table that holds only
//! the modules in the image ([`Table`]); PID 1 and the `modprobe` applet look names and device aliases up in it and
//! hand the files, compressed as Debian ships and signs them, to the kernel ([`Loader`]).

mod load;
mod pattern;
mod table;

pub use load::{LoadError, Loader};
pub use pattern::matches;
pub use table::{Module, Table, TableError, normal_name};

/// Where the table lies in the image.
pub const TABLE_PATH: &str = "/usr/lib/gantry/modules.table";
