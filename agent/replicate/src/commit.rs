//! The end of a session: transforms, repair, and the heads.
//!
//! Order matters, because power may fail at any line (law 3): tails, then heads without LBA 0, flush, read back; then
//! LBA 0 of each disk alone, flushed and read back, the boot disk (the first) last. Until its LBA 0 is written a disk
//! says "unfinished replica" and nothing boots from it.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use gantry_disk::label::{Label, LabelStage};
use gantry_disk::{Geometry, SectorSize};
use gantry_wire::Stage;

use crate::replica::{Pieces, Replica};
use crate::report::Report;

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
}

/// What makes a verified replica fit its new machine: transforms and repair.
pub trait Finisher: Send + Sync {
    /// Works on the disks; adds what it did to the report. An error leaves the disks labelled as unfinished.
    fn finish(&self, disks: &mut [FinishDisk], report: &mut Report, tell: &dyn Fn(Stage, &str))
    -> Result<()>;
}

/// Finishes verified replicas. `labels` are theirs, one a disk.
pub fn finish(
    replicas: &[&Replica],
    labels: &[Label],
    finisher: &dyn Finisher,
    report: &mut Report,
    tell: &dyn Fn(Stage, &str),
) -> Result<()> {
    relabel(replicas, labels, LabelStage::Repairing)?;
    let mut disks: Vec<FinishDisk> = replicas
        .iter()
        .map(|replica| FinishDisk {
            path: replica.identity().path.clone(),
            size: replica.size(),
            source_size: replica.source_size(),
            sector_size: replica.sector_size(),
            pieces: replica.pieces(),
        })
        .collect();
    let began = Instant::now();
    finisher.finish(&mut disks, report, tell)?;
    report.phase("repair", began);
    for (replica, disk) in replicas.iter().zip(disks) {
        replica.set_pieces(disk.pieces)?;
    }
    tell(Stage::Committing, "writing heads");
    relabel(replicas, labels, LabelStage::Committing)?;
    let began = Instant::now();
    commit(replicas).context("committing")?;
    report.phase("commit", began);
    Ok(())
}

fn relabel(replicas: &[&Replica], labels: &[Label], stage: LabelStage) -> Result<()> {
    for (replica, label) in replicas.iter().zip(labels) {
        replica.relabel(&Label { stage, ..label.clone() })?;
    }
    Ok(())
}

/// Writes everything that was held, in the order that the module's head explains.
pub fn commit(replicas: &[&Replica]) -> Result<()> {
    let mut sectors_0 = Vec::new();
    for replica in replicas {
        let sector = replica.sector_size().bytes() as usize;
        for (offset, bytes) in replica.pieces().into_iter().rev() {
            if offset > 0 {
                replica.end().write_at(offset, &bytes)?;
            } else {
                let (sector_0, rest) = bytes.split_at(sector.min(bytes.len()));
                replica.end().write_at(sector as u64, rest)?;
                sectors_0.push(sector_0.to_vec());
            }
        }
        replica.end().flush()?;
    }
    for replica in replicas {
        let sector = u64::from(replica.sector_size().bytes());
        for (offset, bytes) in replica.pieces() {
            let skip = if offset == 0 { sector.min(bytes.len() as u64) } else { 0 };
            read_back(replica, offset + skip, &bytes[skip as usize..])?;
        }
    }
    for (replica, sector_0) in replicas.iter().zip(&sectors_0).rev() {
        replica.end().write_at(0, sector_0)?;
        replica.end().flush()?;
        read_back(replica, 0, sector_0)?;
    }
    Ok(())
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
