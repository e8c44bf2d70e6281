//! A disk against a kept report: is it still what was committed, or what the source was, and if neither, where not.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use gantry_disk::{DiskError, ErrorKind, ReadAt};
use gantry_wire::limits::GROUP;
use gantry_wire::tree::{self, hex};

use crate::event::Events;
use crate::groups::GroupNodes;
use crate::report::{Behind, DiskReport};
use crate::sweep::{leaves, node_of, sweep_freely};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Root over as many bytes as the source has, in hex.
    pub root: String,
    /// What that is.
    pub state: Standing,
}

/// Which state of the report a disk is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// As it was committed.
    After,
    /// As the source was, before transforms and repair.
    Before,
    /// Neither. Where it differs from what was committed: offset and length, as fine as the report's nodes are.
    Neither(Vec<(u64, u64)>),
}

/// Reads a disk and compares it with one disk of a report that was checked ([`crate::report::check`]).
///
/// # Errors
/// The disk is smaller than the source was, or cannot be read.
pub fn compare(disk: &dyn ReadAt, told: &DiskReport, events: &Events) -> Result<Found> {
    let size = told.source.size;
    if disk.size() < size {
        let found = disk.size();
        let why = format!("it has {found} bytes, the disk of the report {size}: it is another disk");
        return Err(DiskError::new(ErrorKind::Unsuitable, &disk.identity().path, why).into());
    }
    let (nodes, queue) = (Mutex::new(GroupNodes::new(size)), Mutex::new(0..tree::groups(size)));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    sweep_freely("compare", (&disk.identity().path, size), next, events, |group, reads| {
        let node = node_of(&leaves(disk, size, group, reads)?);
        nodes.lock().unwrap_or_else(PoisonError::into_inner).set(group, node);
        Ok(GROUP)
    })?;
    let nodes = nodes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let root = nodes.root(told.sector_size).context("not every group was read")?;
    let root = hex(&root);
    let after = &told.after;
    let behind = match &after.behind {
        // On a disk of another size the table's copy lies elsewhere, if at all.
        Some(behind) if disk.size() == told.target.size => is_behind(disk, behind)?,
        _ => true,
    };
    let state = if root == after.root && behind {
        Standing::After
    } else if root == told.root {
        Standing::Before
    } else {
        let (_, ours) = nodes.spans(after.nodes.len());
        let pairs = ours.iter().zip(&after.nodes).enumerate();
        let places = pairs.filter(|(_, (ours, theirs))| hex(*ours) != **theirs).map(|(i, _)| {
            let offset = i as u64 * after.span;
            (offset, after.span.min(size - offset))
        });
        let tail = after.behind.iter().filter(|_| !behind).map(|tail| (tail.offset, tail.length));
        Standing::Neither(places.chain(tail).collect())
    };
    Ok(Found { root, state })
}

fn is_behind(disk: &dyn ReadAt, behind: &Behind) -> Result<bool> {
    let mut bytes = vec![0; behind.length as usize];
    disk.read_at(behind.offset, &mut bytes)?;
    Ok(blake3::hash(&bytes).to_hex().as_str() == behind.blake3)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gantry_disk::{BadSectors, ImageFile, WriteAt};
    use gantry_wire::Stage;

    use super::*;
    use crate::commit::{FinishDisk, Finisher};
    use crate::local::{CopyOptions, copy};
    use crate::report::Report;

    const MIB: u64 = 1 << 20;

    /// Changes a byte of the head and one of the tail of a larger disk, as transforms do.
    struct Transform;
    impl Finisher for Transform {
        fn finish(&self, disks: &mut [FinishDisk], _: &mut Report, _: &dyn Fn(Stage, &str)) -> Result<()> {
            disks[0].pieces[0].1[70_000] ^= 1;
            disks[0].pieces.last_mut().unwrap().1[5] ^= 1;
            Ok(())
        }
    }

    #[test]
    fn a_disk_is_known_as_committed_as_the_source_or_as_neither() {
        let folder = tempfile::tempdir().unwrap();
        let image = |name: &str, size| Arc::new(ImageFile::create(&folder.path().join(name), size).unwrap());
        let (source, target) = (image("source", 150 * MIB), image("target", 153 * MIB));
        for at in [0, 100 * MIB, 149 * MIB] {
            source.write_at(at, &[3; 4096]).unwrap();
        }
        let options = CopyOptions {
            base: false,
            bad_sectors: BadSectors::Stop,
            throttle: crate::throttle::Throttle::unlimited(),
            machine: "here".into(),
            software: "test".into(),
        };
        let report = copy(source.clone(), target.clone(), &options, &Transform, &Events::nowhere()).unwrap();
        crate::report::check(&report).unwrap();
        let told = &report.disks[0];
        assert_eq!(told.after.changed, [(65536, 65536), (152 * MIB, 65536)]);
        let state = |disk: &dyn ReadAt| compare(disk, told, &Events::nowhere()).unwrap().state;
        assert_eq!(state(&*target), Standing::After);
        assert_eq!(state(&*source), Standing::Before);

        let flip = |at: u64| {
            let mut byte = [0; 512];
            target.read_at(at, &mut byte).unwrap();
            byte[9] ^= 1;
            target.write_at(at, &byte).unwrap();
        };
        flip(70 * MIB);
        assert_eq!(state(&*target), Standing::Neither(vec![(64 * MIB, 64 * MIB)]));
        flip(70 * MIB);
        flip(153 * MIB - 512);
        assert_eq!(state(&*target), Standing::Neither(vec![(152 * MIB, MIB)]), "behind the source's extent");
        flip(153 * MIB - 512);
        assert_eq!(state(&*target), Standing::After);

        let small = image("small", 149 * MIB);
        let error = format!("{:#}", compare(&*small, told, &Events::nowhere()).unwrap_err());
        assert!(error.contains("another disk"), "{error}");
    }
}
