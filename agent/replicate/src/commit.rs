//! The end of a session: transforms, repair, and the heads.
//!
//! Order matters, because power may fail at any line (law 3): tails, then heads without LBA 0 but with the pending record
//! ([`gantry_disk::pending`]), flush, read back; then LBA 0 of each disk alone, flushed and read back, the boot disk (the
//! first) last; then, the boot disk first, what belongs in the record's place: the boot disk's mark. Until its LBA 0 is
//! written a disk says "unfinished replica" and nothing boots from it; until the record is gone a receiver that was started
//! again knows the disk; and no mark is there before the disk that it marks can be started.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use gantry_disk::label::{Label, LabelStage};
use gantry_disk::pending::{PLACE, put};
use gantry_disk::view::Written;
use gantry_disk::{Geometry, SectorSize};
use gantry_wire::Stage;

use crate::after::Changed;
use crate::event::Events;
use crate::groups::GroupNodes;
use crate::kept::prepare;
use crate::replica::{Pieces, Replica};
use crate::report::{Report, State, clock};
use crate::stop::Stop;

/// A verified disk as the finisher sees it.
#[derive(Debug)]
pub struct FinishDisk {
    /// Node or file of the target.
    pub path: String,
    /// Bytes of the target.
    pub size: u64,
    /// Bytes of the source.
    pub source_size: u64,
    /// Logical sector size.
    pub sector_size: SectorSize,
    /// Head and tail, in memory: what the finisher changes here is what will be committed.
    pub pieces: Pieces,
    /// What the finisher has written past the pieces: nothing, until it says otherwise.
    pub written: Written,
}

/// A replica that equals its source.
pub struct Verified<'a> {
    /// The disk.
    pub replica: &'a Replica,
    /// Its label.
    pub label: Label,
    /// Its nodes, all of them known.
    pub groups: GroupNodes,
}

/// What makes a verified replica fit its new machine: transforms and repair.
pub trait Finisher: Send + Sync {
    /// Works on the disks; adds what it did to the report. An error leaves the disks labelled as unfinished.
    fn finish(&self, disks: &mut [FinishDisk], report: &mut Report, tell: &dyn Fn(Stage, &str))
    -> Result<()>;
}

/// Finishes verified replicas, one a disk of the report.
pub fn finish(
    verified: &[Verified<'_>],
    finisher: &dyn Finisher,
    report: &mut Report,
    tell: &dyn Fn(Stage, &str),
    events: &Events,
) -> Result<()> {
    let replicas: Vec<&Replica> = verified.iter().map(|disk| disk.replica).collect();
    let labels: Vec<Label> = verified.iter().map(|disk| disk.label.clone()).collect();
    let (replicas, labels) = (&replicas[..], &labels[..]);
    relabel(replicas, labels, LabelStage::Repairing)?;
    let mut disks: Vec<FinishDisk> = replicas
        .iter()
        .map(|replica| FinishDisk {
            path: replica.identity().path.clone(),
            size: replica.size(),
            source_size: replica.source_size(),
            sector_size: replica.sector_size(),
            pieces: replica.pieces(),
            written: Written::Ranges(Vec::new()),
        })
        .collect();
    let began = Instant::now();
    report.state = State::Repairing;
    // Repair is not tried again by itself, whatever made it fail.
    finisher.finish(&mut disks, report, tell).map_err(|error| Stop(format!("repair: {error:#}")))?;
    report.phase("repair", began);
    let began = Instant::now();
    tell(Stage::Repairing, "reading back what was changed");
    for ((Verified { replica, groups, .. }, disk), report) in
        verified.iter().zip(disks).zip(&mut report.disks)
    {
        let pieces = replica.pieces();
        replica.set_pieces(disk.pieces)?;
        let changed = Changed { replica, before: groups, pieces: &pieces, written: &disk.written };
        let after = changed.after(verified.len(), events).context("reading back what was changed")?;
        report.after = Some(after);
    }
    report.phase("after", began);
    report.state = if report.repair.is_null() { State::Verified } else { State::Repaired };
    // Now: after the commit a report that the other end does not take could not be mended, and nobody could go on.
    prepare(report).map_err(|error| Stop(format!("the report cannot be kept: {error:#}")))?;
    tell(Stage::Committing, "writing heads");
    let labels = relabel(replicas, labels, LabelStage::Committing)?;
    let began = Instant::now();
    commit(replicas, &labels).context("committing")?;
    report.phase("commit", began);
    report.committed = clock();
    Ok(())
}

fn relabel(replicas: &[&Replica], labels: &[Label], stage: LabelStage) -> Result<Vec<Label>> {
    let relabel = |(replica, label): (&&Replica, &Label)| {
        let label = Label { stage, ..label.clone() };
        replica.relabel(&label)?;
        Ok(label)
    };
    replicas.iter().zip(labels).map(relabel).collect()
}

/// What is written to one disk, in the order of the module's head.
struct Planned {
    /// Everything held but LBA 0, with the pending record where it has a place.
    around: Pieces,
    /// LBA 0.
    sector_0: Vec<u8>,
    /// What belongs where the pending record is; `None`: it had no place.
    place: Option<Vec<u8>>,
}

impl Planned {
    fn new(replica: &Replica, label: &Label) -> Self {
        let mut planned = Self { around: Vec::new(), sector_0: Vec::new(), place: None };
        for (offset, mut bytes) in replica.pieces().into_iter().rev() {
            if offset > 0 {
                planned.around.push((offset, bytes));
                continue;
            }
            let place = bytes.get(PLACE).map(<[u8]>::to_vec);
            planned.place = place.filter(|_| put(&mut bytes[..PLACE.end], replica.sector_size(), label));
            let sector = bytes.len().min(replica.sector_size().bytes() as usize);
            let rest = bytes.split_off(sector);
            planned.around.push((sector as u64, rest));
            planned.sector_0 = bytes;
        }
        planned
    }
}

/// Writes everything that was held, in the order that the module's head explains.
fn commit(replicas: &[&Replica], labels: &[Label]) -> Result<()> {
    let planned: Vec<_> =
        replicas.iter().zip(labels).map(|(replica, label)| Planned::new(replica, label)).collect();
    for (replica, planned) in replicas.iter().zip(&planned) {
        for (offset, bytes) in &planned.around {
            replica.end().write_at(*offset, bytes)?;
        }
        replica.end().flush()?;
    }
    for (replica, planned) in replicas.iter().zip(&planned) {
        for (offset, bytes) in &planned.around {
            read_back(replica, *offset, bytes)?;
        }
    }
    for (replica, planned) in replicas.iter().zip(&planned).rev() {
        put_down(replica, 0, &planned.sector_0)?;
    }
    for (replica, planned) in replicas.iter().zip(&planned) {
        if let Some(bytes) = &planned.place {
            put_down(replica, PLACE.start as u64, bytes)?;
        }
    }
    Ok(())
}

/// One write that counts alone.
fn put_down(replica: &Replica, offset: u64, bytes: &[u8]) -> Result<()> {
    replica.end().write_at(offset, bytes)?;
    replica.end().flush()?;
    read_back(replica, offset, bytes)
}

fn read_back(replica: &Replica, offset: u64, planned: &[u8]) -> Result<()> {
    let mut found = vec![0; planned.len()];
    replica.end().read_at(offset, &mut found)?;
    if let Some(at) = found.iter().zip(planned).position(|(found, planned)| found != planned) {
        let path = &replica.identity().path;
        bail!(
            "{path}: byte {} does not read back as it was written: the disk is not reliable",
            offset + at as u64
        );
    }
    Ok(())
}
