//! A disk against a kept report: is it still what was committed, or what the source was, and if neither, where not.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use gantry_disk::{DiskError, ErrorKind, ReadAt};
use gantry_wire::limits::{CHUNK, GROUP};
use gantry_wire::tree::{self, hex};

use crate::event::Events;
use crate::groups::GroupNodes;
use crate::report::{After, Behind, DiskReport};
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
    /// As it was committed over as many bytes as the source has. What was committed behind them, the backup of a GPT, has
    /// no place on a disk of this size, and was not compared.
    AfterButTail,
    /// As the source was, before transforms and repair. Not as it was committed.
    Before,
    /// Neither. Where it differs from what was committed: offset and length, as fine as the report's nodes are.
    Neither(Vec<(u64, u64)>),
}

/// What of the bytes behind the source's extent was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// As committed, or nothing was.
    Good,
    Spoilt,
    /// The disk has another size: the backup of a table lies elsewhere, if at all.
    Elsewhere,
}

/// Whether a disk can be compared with one of a report that was checked ([`crate::report::check`]); how it was committed.
///
/// # Errors
/// `Unsuitable`: the disk is smaller than the source was, or the report was kept before the commit.
pub fn fits<'a>(disk: &dyn ReadAt, told: &'a DiskReport) -> Result<&'a After, DiskError> {
    let (found, size) = (disk.size(), told.source.size);
    let unsuitable = |why: String| DiskError::new(ErrorKind::Unsuitable, &disk.identity().path, why);
    if found < size {
        let why = format!("it has {found} bytes, the disk of the report {size}: it is another disk");
        return Err(unsuitable(why));
    }
    told.after.as_ref().ok_or_else(|| {
        unsuitable(
            "the report was kept before the commit: take the one that send or receive has kept".to_owned(),
        )
    })
}

/// Reads a disk and compares it with one disk of a report that was checked.
///
/// # Errors
/// Those of [`fits`], or it cannot be read.
pub fn compare(disk: &dyn ReadAt, told: &DiskReport, events: &Events) -> Result<Found> {
    let (after, size) = (fits(disk, told)?, told.source.size);
    let (nodes, queue) = (Mutex::new(GroupNodes::new(size)), Mutex::new(0..tree::groups(size)));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    sweep_freely("compare", (&disk.identity().path, size), next, events, |group, reads| {
        let node = node_of(&leaves(disk, size, group, reads)?);
        nodes.lock().unwrap_or_else(PoisonError::into_inner).set(group, node);
        Ok(GROUP)
    })?;
    let nodes = nodes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let root = hex(&nodes.root(told.sector_size).context("not every group was read")?);
    let tail = match &after.behind {
        Some(_) if disk.size() != told.target.size => Tail::Elsewhere,
        Some(behind) if !is_behind(disk, behind)? => Tail::Spoilt,
        _ => Tail::Good,
    };
    let state = match tail {
        Tail::Good if root == after.root => Standing::After,
        Tail::Elsewhere if root == after.root => Standing::AfterButTail,
        Tail::Good | Tail::Elsewhere if root == told.root => Standing::Before,
        _ => {
            let ours = nodes.spans((after.span / (GROUP * CHUNK)).trailing_zeros());
            let pairs = ours.iter().zip(&after.nodes).enumerate();
            let places = pairs.filter(|(_, (ours, theirs))| hex(*ours) != **theirs).map(|(i, _)| {
                let offset = i as u64 * after.span;
                (offset, after.span.min(size - offset))
            });
            let tail = after.behind.iter().filter(|_| tail == Tail::Spoilt);
            Standing::Neither(places.chain(tail.map(|tail| (tail.offset, tail.length))).collect())
        }
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

    /// As [`Transform`], and changes nothing of what the source has.
    struct TailOnly;
    impl Finisher for TailOnly {
        fn finish(&self, disks: &mut [FinishDisk], _: &mut Report, _: &dyn Fn(Stage, &str)) -> Result<()> {
            disks[0].pieces.last_mut().unwrap().1[5] ^= 1;
            Ok(())
        }
    }

    struct Copied {
        folder: tempfile::TempDir,
        source: Arc<ImageFile>,
        target: Arc<ImageFile>,
        report: Report,
    }

    impl Copied {
        /// Of a source of 150 MiB onto a target of 153 MiB.
        fn by(finisher: &dyn Finisher) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let image =
                |name: &str, size| Arc::new(ImageFile::create(&folder.path().join(name), size).unwrap());
            let (source, target) = (image("source", 150 * MIB), image("target", 153 * MIB));
            for at in [0, 100 * MIB, 149 * MIB] {
                source.write_at(at, &[3; 4096]).unwrap();
            }
            let options = CopyOptions {
                base: false,
                whole: false,
                bad_sectors: BadSectors::Stop,
                throttle: crate::throttle::Throttle::unlimited(),
                machine: "here".into(),
                software: "test".into(),
            };
            let report =
                copy(source.clone(), target.clone(), &options, finisher, &Events::nowhere()).unwrap();
            crate::report::check(&report).unwrap();
            Self { folder, source, target, report }
        }

        fn state(&self, disk: &dyn ReadAt) -> Standing {
            compare(disk, &self.report.disks[0], &Events::nowhere()).unwrap().state
        }

        /// Spoils a byte of the target, or mends it.
        fn flip(&self, at: u64) {
            let mut sector = [0; 512];
            self.target.read_at(at, &mut sector).unwrap();
            sector[9] ^= 1;
            self.target.write_at(at, &sector).unwrap();
        }

        /// The first MiBs of the target on a disk of another size.
        fn elsewhere(&self, size: u64) -> ImageFile {
            let image = ImageFile::create(&self.folder.path().join(format!("other{size}")), size).unwrap();
            let mut bytes = vec![0; MIB as usize];
            for at in (0..size.min(153 * MIB)).step_by(MIB as usize) {
                self.target.read_at(at, &mut bytes).unwrap();
                image.write_at(at, &bytes).unwrap();
            }
            image
        }
    }

    #[test]
    fn a_disk_is_known_as_committed_as_the_source_or_as_neither() {
        let copied = Copied::by(&Transform);
        let (source, target) = (&*copied.source, &*copied.target);
        let changed = &copied.report.disks[0].after.as_ref().unwrap().changed;
        assert_eq!(changed[..], [(65536, 65536), (152 * MIB, 65536)]);
        assert_eq!(copied.state(target), Standing::After);
        assert_eq!(copied.state(source), Standing::Before);

        copied.flip(70 * MIB);
        assert_eq!(copied.state(target), Standing::Neither(vec![(64 * MIB, 64 * MIB)]));
        copied.flip(70 * MIB);
        copied.flip(153 * MIB - 512);
        assert_eq!(
            copied.state(target),
            Standing::Neither(vec![(152 * MIB, MIB)]),
            "behind the source's extent"
        );
        copied.flip(153 * MIB - 512);
        assert_eq!(copied.state(target), Standing::After);

        let small = ImageFile::create(&copied.folder.path().join("small"), 149 * MIB).unwrap();
        let error = compare(&small, &copied.report.disks[0], &Events::nowhere()).unwrap_err();
        assert!(format!("{error:#}").contains("another disk"), "{error:#}");
        let early = DiskReport { after: None, ..copied.report.disks[0].clone() };
        let error = compare(target, &early, &Events::nowhere()).unwrap_err();
        assert!(format!("{error:#}").contains("before the commit"), "{error:#}");
    }

    /// The committed disk as an image of another size: all of the source's extent is right, and the GPT's backup is not there.
    #[test]
    fn a_tail_that_could_not_be_compared_is_not_called_good() {
        let copied = Copied::by(&Transform);
        for size in [150 * MIB, 152 * MIB, 160 * MIB] {
            assert_eq!(copied.state(&copied.elsewhere(size)), Standing::AfterButTail, "{size} bytes");
        }
        assert_eq!(copied.state(&copied.elsewhere(153 * MIB)), Standing::After);
    }

    /// Nothing but the tail was changed, so both roots are one: a spoilt tail is not "as the source".
    #[test]
    fn a_spoilt_tail_is_neither_whatever_the_root_says() {
        let copied = Copied::by(&TailOnly);
        let told = &copied.report.disks[0];
        assert_eq!(told.root, told.after.as_ref().unwrap().root);
        assert_eq!(copied.state(&*copied.source), Standing::AfterButTail);
        copied.flip(153 * MIB - 512);
        assert_eq!(copied.state(&*copied.target), Standing::Neither(vec![(152 * MIB, MIB)]));
        // The source's bytes on the very target: its head is not as committed, its tail is neither.
        let copied = Copied::by(&Transform);
        let mut head = [0; 4096];
        copied.source.read_at(69632, &mut head).unwrap();
        copied.target.write_at(69632, &head).unwrap();
        assert_eq!(copied.state(&*copied.target), Standing::Before);
        copied.flip(153 * MIB - 512);
        assert_eq!(copied.state(&*copied.target), Standing::Neither(vec![(0, 64 * MIB), (152 * MIB, MIB)]));
    }

    /// A report of another maker may have coarser nodes than we would make.
    #[test]
    fn nodes_are_as_coarse_as_the_report_says() {
        let mut copied = Copied::by(&Transform);
        let after = copied.report.disks[0].after.as_mut().unwrap();
        let nodes: Vec<_> = after.nodes.iter().map(|node| tree::unhex(node).unwrap()).collect();
        after.span = 256 * MIB;
        after.nodes = tree::spans(&nodes, 2).iter().map(|node| hex(node)).collect();
        assert_eq!(after.nodes.len(), 1);
        crate::report::check(&copied.report).unwrap();
        assert_eq!(copied.state(&*copied.target), Standing::After);
        copied.flip(153 * MIB - 512);
        assert_eq!(
            copied.state(&*copied.target),
            Standing::Neither(vec![(152 * MIB, MIB)]),
            "no node differs"
        );
    }
}
