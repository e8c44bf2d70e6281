//! A session as the receiver knows it: disks, what is durable and verified on them, and how far it has come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use gantry_disk::label::{HEAD, Label, LabelStage};
use gantry_disk::pending::Trace;
use gantry_disk::{Geometry, SectorSize, WriteAt};
use gantry_wire::limits::{CHUNK, EXTENTS};
use gantry_wire::message::DiskState;
use gantry_wire::tree::{self, Hash};
use gantry_wire::{DiskInfo, Extent, Stage};
use tokio::sync::watch;

use super::compare::Asked;
use super::said::Said;
use crate::chunkset::ChunkSet;
use crate::groups::GroupNodes;
use crate::progress::Tally;
use crate::replica::Replica;
use crate::report::Report;

/// A disk of the receiver.
#[derive(Clone)]
pub struct TargetDisk {
    /// As it is told to the other end; its `refusal` says why it must not be written, if so.
    pub info: DiskInfo,
    /// The open disk; none when it is refused.
    pub end: Option<Arc<dyn WriteAt>>,
    /// Whether what it carries is taken as an older copy of the source: then only what differs crosses.
    pub base: bool,
}

impl TargetDisk {
    /// A disk that may be written.
    pub fn usable(end: Arc<dyn WriteAt>) -> Self {
        Self { info: disk_info(&*end), end: Some(end), base: false }
    }

    /// The label of an unfinished replica on it, or of a finished one whose session is not, if there is one.
    fn label(end: &dyn WriteAt) -> Result<Option<Label>> {
        let mut head = vec![0; HEAD.min(end.size() as usize)];
        end.read_at(0, &mut head).context("looking for a label")?;
        Ok(Trace::read(&head).map(|trace| trace.label().clone()))
    }
}

/// A disk end as it is told to the other end.
pub fn disk_info(end: &(impl Geometry + ?Sized)) -> DiskInfo {
    let identity = end.identity();
    DiskInfo {
        path: identity.path.clone(),
        serial: identity.serial.clone(),
        model: identity.model.clone(),
        size: end.size(),
        sector_size: end.sector_size().bytes(),
        refusal: String::new(),
    }
}

/// What is known of a target disk's content.
pub struct Known {
    /// Need not be sent in a full pass: written and flushed in this session, or there before, to be compared.
    pub durable: ChunkSet,
    /// Unused by the source's map, and zeroed in this process: once durable, such a chunk need not be read back.
    pub unused: ChunkSet,
    /// Groups that were read back since the last write to them, and are equal to the source's.
    pub groups: GroupNodes,
    /// Already sent in this full pass, or compared in this compare pass: nothing may come twice.
    pub claimed: ChunkSet,
    /// Leaves that this compare pass has asked for.
    pub asked: Asked,
    /// Chunks that a compare pass found to differ.
    pub rewritten: u64,
}

/// One disk of a session.
pub struct SessionDisk {
    /// The source disk, by the names that it had when the session began: those of the report follow its sender.
    pub source: DiskInfo,
    /// Index in the receiver's list.
    pub target: u16,
    /// The target disk.
    pub replica: Replica,
    /// What was written to it in this process.
    pub tally: Arc<Tally>,
    known: Mutex<Known>,
}

impl SessionDisk {
    /// What is known of its content.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chunks that a flush has covered.
    pub fn set_durable(&self, extents: &[Extent]) {
        let mut known = self.known();
        for index in extents.iter().flat_map(|extent| extent.first..extent.first + extent.count) {
            known.durable.insert(index);
        }
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        tree::chunks(self.source.size)
    }

    /// Bytes of chunk `index`; only the last may be short.
    pub fn chunk_length(&self, index: u64) -> u64 {
        CHUNK.min(self.source.size - index * CHUNK)
    }

    /// Nothing is known of these chunks from the moment a write to them begins.
    pub fn forget(&self, first: u64, count: u64) {
        let mut known = self.known();
        for index in first..first + count {
            known.durable.remove(index);
            known.unused.remove(index);
            known.groups.forget(index);
        }
    }

    /// Root over what was read back. Only whole when every group is verified.
    pub fn root(&self) -> Option<Hash> {
        self.known().groups.root(self.source.sector_size)
    }
}

/// The finishing thread, as others see it.
#[derive(Debug)]
pub struct Finishing {
    /// What it has said.
    pub said: Said,
    /// How far it is.
    pub state: Finish,
}

impl Finishing {
    /// Nothing said yet.
    pub fn new(state: Finish) -> Self {
        Self { said: Said::default(), state }
    }
}

/// How far the finishing thread is.
#[derive(Debug, Clone)]
pub enum Finish {
    /// At work.
    Working(Stage),
    /// Committed; the report.
    Committed(Box<Report>),
    /// It could not: a person must change something. The disks still carry their labels.
    Failed(String),
    /// A disk failed: in a next epoch it may not.
    Stumbled(String),
}

/// A session.
pub struct Session {
    /// Its id, also in the labels.
    pub id: [u8; 16],
    /// Tag of the code, in the labels.
    pub job: [u8; 8],
    /// Newest epoch.
    pub epoch: u64,
    /// Its disks, in the order of the sender's Assign.
    pub disks: Arc<Vec<SessionDisk>>,
    /// Finishing, once it has begun.
    pub finish: Option<watch::Receiver<Finishing>>,
    /// What is kept.
    pub report: Report,
}

impl Session {
    /// Starts a session on the assigned disks, or takes it up where their labels or pending records say that this job has
    /// written. Either way they are labelled, and blanked but for what lies between head and tail.
    pub fn begin(
        id: [u8; 16],
        job: [u8; 8],
        sources: &[DiskInfo],
        targets: &[TargetDisk],
        pairs: &[(u16, u16)],
    ) -> Result<Self> {
        let mut disks = Vec::new();
        let mut labels = Vec::new();
        for &(source, target) in pairs {
            let source = sources
                .get(usize::from(source))
                .context("assignment names a source disk that is not there")?;
            let disk = targets
                .get(usize::from(target))
                .context("assignment names a target disk that is not there")?;
            let Some(end) = &disk.end else { bail!("{}: {}", disk.info.path, disk.info.refusal) };
            if disks.iter().any(|d: &SessionDisk| d.target == target) {
                bail!("target disk {} is assigned twice", disk.info.path);
            }
            let sector = SectorSize::try_from(source.sector_size).map_err(anyhow::Error::msg)?;
            let replica = Replica::new(Arc::clone(end), source.size, sector)?;
            let chunks = tree::chunks(source.size);
            let known = Known {
                durable: ChunkSet::new(chunks),
                unused: ChunkSet::new(chunks),
                groups: GroupNodes::new(source.size),
                claimed: ChunkSet::new(chunks),
                asked: Asked::default(),
                rewritten: 0,
            };
            labels.push(
                TargetDisk::label(&**end)?
                    .filter(|label| label.job == job && label.source_size == source.size),
            );
            disks.push(SessionDisk {
                source: source.clone(),
                target,
                replica,
                tally: Arc::default(),
                known: Mutex::new(known),
            });
        }
        let old: Vec<&Label> = labels.iter().flatten().collect();
        let resumed = old.len() == disks.len() && old.iter().all(|label| label.session == old[0].session);
        let mut session = Self {
            id: if resumed { old[0].session } else { id },
            job,
            epoch: old.iter().map(|label| label.epoch).max().unwrap_or(0),
            disks: Arc::new(disks),
            finish: None,
            report: Report::default(),
        };
        // The number comes from a disk.
        session.epoch = session.epoch.checked_add(1).context("the labels' epoch is the last there can be")?;
        // The boot disk, which is the first, before all others: it must not start when these are not whole any more.
        for (index, disk) in session.disks.iter().enumerate() {
            disk.replica.label_and_blank(&session.label(index, LabelStage::Receiving))?;
            if resumed || targets[usize::from(disk.target)].base {
                disk.known().durable.fill();
            }
        }
        Ok(session)
    }

    /// The label of one of the disks.
    pub fn label(&self, index: usize, stage: LabelStage) -> Label {
        let names = |disk: &SessionDisk| {
            let target = disk.replica.identity();
            serde_json::json!({
                "source": disk.source.path, "source_serial": disk.source.serial, "size": disk.source.size,
                "target": target.path, "target_serial": target.serial,
            })
        };
        let map = serde_json::json!({ "disks": self.disks.iter().map(names).collect::<Vec<_>>() });
        Label {
            session: self.id,
            job: self.job,
            stage,
            epoch: self.epoch,
            disk: index as u8,
            disks: self.disks.len() as u8,
            source_size: self.disks[index].source.size,
            sector_size: self.disks[index].source.sector_size,
            map: map.to_string(),
        }
    }

    /// Whether chunks have yet to cross in a full pass.
    pub fn full(&self) -> bool {
        self.disks.iter().any(|disk| !disk.known().durable.is_full())
    }

    /// A further epoch on the same disks: the labels say so before anything is written in it.
    pub fn next_epoch(&mut self) -> Result<()> {
        self.epoch += 1;
        for (index, disk) in self.disks.iter().enumerate() {
            disk.replica.relabel(&self.label(index, LabelStage::Receiving))?;
        }
        Ok(())
    }

    /// Whether the same disks are mapped the same way, so that what is known still holds.
    pub fn matches(&self, sources: &[DiskInfo], pairs: &[(u16, u16)]) -> bool {
        let same = |(disk, pair): (&SessionDisk, &(u16, u16))| {
            let source = sources.get(usize::from(pair.0));
            disk.target == pair.1
                && source.is_some_and(|s| s.serial == disk.source.serial && s.size == disk.source.size)
        };
        self.disks.len() == pairs.len() && self.disks.iter().zip(pairs).all(same)
    }

    /// The disks as an epoch begins.
    pub fn states(&self, pairs: &[(u16, u16)]) -> Vec<DiskState> {
        let state = |(disk, pair): (&SessionDisk, &(u16, u16))| DiskState {
            source: pair.0,
            target: pair.1,
            durable: disk.known().durable.extents(EXTENTS / self.disks.len().max(1)),
        };
        self.disks.iter().zip(pairs).map(state).collect()
    }

    /// Where it stands, for the offer.
    pub fn stage(&self) -> Stage {
        match self.finish.as_ref().map(|finish| finish.borrow().state.clone()) {
            None | Some(Finish::Failed(_) | Finish::Stumbled(_)) => Stage::Receiving,
            Some(Finish::Working(stage)) => stage,
            Some(Finish::Committed(_)) => Stage::Committed,
        }
    }
}
