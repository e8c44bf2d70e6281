//! The witness of law 1: has anybody written to the disks that are read?

use anyhow::Result;
use gantry_disk::inventory::Disk;
use gantry_disk::roots::Roots;
use gantry_disk::usage::{WriteCounter, write_counter};
use gantry_replicate::stop::Stop;

use crate::ends::Source;

/// The write counters of some sources, as they were. Files and servers have none.
pub struct Witness {
    disks: Vec<Disk>,
    before: Vec<WriteCounter>,
}

impl Witness {
    /// From now on.
    pub fn of<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Result<Self> {
        let disks: Vec<Disk> = sources.into_iter().filter_map(|source| source.disk.clone()).collect();
        let before = counters(&disks)?;
        Ok(Self { disks, before })
    }

    /// # Errors
    /// A [`Stop`] if one was written to since.
    pub fn unchanged(&self) -> Result<()> {
        if counters(&self.disks)? == self.before {
            return Ok(());
        }
        let text =
            "a source disk was written to while it was being copied: the replica would be torn; copy again";
        Err(Stop(text.to_owned()).into())
    }
}

fn counters(disks: &[Disk]) -> Result<Vec<WriteCounter>> {
    let roots = Roots::default();
    disks.iter().map(|disk| Ok(write_counter(&roots, disk)?)).collect()
}
