//! One epoch at the receiver: from the assignment to the loss of the link or the end of the session.
//!
//! The loop owns the epoch's state; streams and threads send it what they did. It ends at the first failure of any
//! part, and [`run`] returns only when every write that was begun has ended, so the caller may start the next epoch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use gantry_disk::WriteAt;
use gantry_wire::Message;
use gantry_wire::limits::{CHUNK, EXTENTS, STREAMS};
use gantry_wire::message::{Extent, PassKind};
use gantry_wire::tree::{Hash, Leaves};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::compare::{Asked, Place, Suspects, compare};
use super::session::{Session, SessionDisk};
use super::stream::{Stream, claim};
use crate::event::{Event, Events};
use crate::link::{Inbox, LinkReader, Outbox};
use crate::pool::{Pool, Queue};
use crate::progress::{Course, Done, Meter, add};
use crate::report::SourceFacts;

/// Disk threads of an epoch.
const THREADS: usize = 4;
/// A flush is begun after this many bytes, or [`FLUSH_EVERY`].
const FLUSH_BYTES: u64 = 256 << 20;
const FLUSH_EVERY: Duration = Duration::from_secs(1);
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// What streams and threads report to the loop.
pub enum Work {
    /// Chunks were written or zeroed.
    Written { disk: u16, extent: Extent },
    /// A group was read back: nothing if it is equal, else its leaves.
    Compared { place: Place, leaves: Option<Vec<Leaves>> },
    /// Something failed: the epoch ends.
    Failed(anyhow::Error),
}

struct Pass {
    number: u32,
    kind: PassKind,
    began: Instant,
    written: u64,
    /// Chunks that were compared, of each disk.
    compared: Vec<u64>,
    differing: u64,
    expected: Option<u64>,
    suspects: Suspects,
    meter: Meter,
}

/// The streams that join an epoch.
pub type Joins = mpsc::Receiver<LinkReader>;

/// Runs the epoch until [`Message::Finish`] (true) or an error. Drains before it returns.
pub async fn run(
    session: &mut Session,
    inbox: &mut Inbox,
    outbox: &Outbox,
    joins: &mut Joins,
    events: &Events,
) -> Result<()> {
    let pool = Pool::start("disk", THREADS).context("starting disk threads")?;
    let (report, work) = mpsc::unbounded_channel();
    let open_pass = watch::Sender::new((0, None));
    let mut epoch = Epoch {
        disks: Arc::clone(&session.disks),
        number: session.epoch,
        queue: pool.queue(),
        report,
        work,
        streams: Vec::new(),
        pass: None,
        open_pass,
        unflushed: HashMap::new(),
        unflushed_bytes: 0,
        flushing: None,
        flush_failed: false,
    };
    let outcome = epoch.run(session, inbox, outbox, joins, events).await;
    // Streams first: they hold queues. Then whatever the threads have taken.
    let Epoch { queue, streams, report, work, flushing, flush_failed, unflushed, disks, .. } = epoch;
    drop((queue, streams, report));
    pool.join().await;
    // A failed flush voids all that was written since the last good one; a second flush proves nothing (law 5).
    if !flush_failed && let Err(error) = settle(disks, work, flushing, unflushed).await {
        events.tell(Event::Stage { text: format!("what was written last does not count: {error:#}") });
        return outcome.and(Err(error));
    }
    outcome
}

/// After the drain: flushes what was written but not yet acknowledged, so that a cut costs only what was in flight.
async fn settle(
    disks: Arc<Vec<SessionDisk>>,
    mut work: mpsc::UnboundedReceiver<Work>,
    flushing: Option<Flushing>,
    mut unflushed: HashMap<u16, Vec<Extent>>,
) -> Result<()> {
    if let Some((flush, batch)) = flushing {
        flush.await.context("the flush broke off")??;
        batch.iter().for_each(|(disk, extents)| disks[usize::from(*disk)].set_durable(extents));
    }
    while let Some(done) = work.recv().await {
        if let Work::Written { disk, extent } = done {
            unflushed.entry(disk).or_default().push(extent);
        }
    }
    let flush = tokio::task::spawn_blocking(move || {
        flush_all(&disks)?;
        unflushed.iter().for_each(|(disk, extents)| disks[usize::from(*disk)].set_durable(extents));
        Ok(())
    });
    flush.await.context("the flush broke off")?
}

/// A flush at work, and what it will cover.
type Flushing = (JoinHandle<Result<()>>, HashMap<u16, Vec<Extent>>);

struct Epoch {
    disks: Arc<Vec<SessionDisk>>,
    number: u64,
    queue: Queue,
    report: mpsc::UnboundedSender<Work>,
    work: mpsc::UnboundedReceiver<Work>,
    streams: Vec<AbortOnDropHandle<()>>,
    pass: Option<Pass>,
    /// Number of the newest pass, and its kind while it is open: data streams look here.
    open_pass: watch::Sender<(u32, Option<PassKind>)>,
    unflushed: HashMap<u16, Vec<Extent>>,
    unflushed_bytes: u64,
    flushing: Option<Flushing>,
    flush_failed: bool,
}

enum Action {
    Message(Message),
    Join(LinkReader),
    Work(Work),
    Flushed(Result<()>),
    Flush,
    Progress,
}

impl Epoch {
    async fn run(
        &mut self,
        session: &mut Session,
        inbox: &mut Inbox,
        outbox: &Outbox,
        joins: &mut Joins,
        events: &Events,
    ) -> Result<()> {
        let mut flush = tokio::time::interval(FLUSH_EVERY);
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        loop {
            let action = tokio::select! {
                message = inbox.next() => Action::Message(message?),
                Some(join) = joins.recv() => Action::Join(join),
                Some(work) = self.work.recv() => Action::Work(work),
                done = flushed(&mut self.flushing) => Action::Flushed(done),
                _ = flush.tick() => Action::Flush,
                _ = progress.tick() => Action::Progress,
            };
            match action {
                Action::Message(Message::StartPass { pass, kind }) => self.start_pass(pass, kind).await?,
                Action::Message(Message::Group { pass, disk, group, node }) => {
                    self.group(pass, (disk, group), node).await?;
                }
                Action::Message(Message::Digests { pass, disk, group, nodes }) => {
                    let chunks = self.current(pass)?.suspects.digests((disk, group), &nodes)?;
                    self.current(pass)?.differing += u64::from(chunks.count_ones());
                    self.disk(disk)?.known().rewritten += u64::from(chunks.count_ones());
                    outbox.say(Message::Wanted { pass, disk, group, chunks }).await?;
                }
                Action::Message(Message::Leaves { pass, disk, index, leaves }) => {
                    let leaves = self.current(pass)?.suspects.leaves(disk, index, &leaves)?;
                    self.disk(disk)?.known().asked.ask(index, leaves)?;
                    outbox.say(Message::WantedLeaves { pass, disk, index, leaves }).await?;
                }
                Action::Message(Message::EndPass { pass, chunks }) => {
                    let current = self.current(pass)?;
                    current.expected = Some(chunks);
                }
                Action::Message(Message::Roots { roots }) => {
                    let ours = self.roots(&roots, events)?;
                    outbox.say(Message::Roots { roots: ours }).await?;
                }
                Action::Message(Message::Finish { facts }) => {
                    ensure!(self.pass.is_none(), "Finish in the middle of a pass");
                    for disk in self.disks.iter() {
                        ensure!(disk.root().is_some(), "Finish before {} was verified", disk.source.path);
                    }
                    let taken = SourceFacts::parse(&facts).and_then(|facts| session.report.verified(facts));
                    taken.map_err(|why| anyhow!("what the sender says of the source: {why}"))?;
                    return Ok(());
                }
                Action::Message(other) => bail!("message {} has no place in an epoch", other.tag()),
                Action::Join(reader) => self.serve_stream(reader),
                Action::Work(Work::Failed(error)) => return Err(error),
                Action::Work(Work::Written { disk, extent }) => self.written(disk, extent),
                Action::Work(Work::Compared { place: (disk, group), leaves }) => {
                    let count = self.disk(disk)?.known().groups.chunks_of(group).1;
                    let Some(pass) = &mut self.pass else { bail!("a comparison outlived its pass") };
                    let (number, equal) = (pass.number, leaves.is_none());
                    pass.compared[usize::from(disk)] += count;
                    pass.suspects.was_read((disk, group), leaves);
                    outbox.say(Message::Compared { pass: number, disk, group, equal }).await?;
                }
                Action::Flushed(done) => {
                    let batch = self.flushing.take().map(|(_, batch)| batch).unwrap_or_default();
                    self.flush_failed = done.is_err();
                    done.context("flushing")?;
                    self.acknowledge(batch, outbox).await?;
                }
                Action::Flush => self.begin_flush(),
                Action::Progress => self.tell_progress(events),
            }
            if self.unflushed_bytes >= FLUSH_BYTES {
                self.begin_flush();
            }
            self.end_pass(session, outbox, events).await?;
        }
    }

    fn current(&mut self, number: u32) -> Result<&mut Pass> {
        match &mut self.pass {
            Some(pass) if pass.number == number => Ok(pass),
            _ => bail!("pass {number} is not the current pass"),
        }
    }

    fn disk(&self, disk: u16) -> Result<&SessionDisk> {
        self.disks.get(usize::from(disk)).with_context(|| format!("disk {disk} is not in this session"))
    }

    async fn start_pass(&mut self, number: u32, kind: PassKind) -> Result<()> {
        ensure!(self.pass.is_none(), "a pass begins before the last one is acknowledged");
        let newest = self.open_pass.borrow().0;
        ensure!(number > newest, "pass {number} begins after pass {newest}");
        for disk in self.disks.iter() {
            let mut known = disk.known();
            known.claimed.clear();
            known.asked = Asked::default();
        }
        if kind == PassKind::Compare {
            // Read-back means: from the medium, after a flush.
            let disks = Arc::clone(&self.disks);
            let flush = tokio::task::spawn_blocking(move || flush_all(&disks));
            let flushed = flush.await.context("flushing")?;
            self.flush_failed = flushed.is_err();
            flushed?;
        }
        let (began, meter) = (Instant::now(), self.meter(kind));
        self.pass = Some(Pass {
            number,
            kind,
            began,
            meter,
            written: 0,
            compared: vec![0; self.disks.len()],
            differing: 0,
            expected: None,
            suspects: Suspects::default(),
        });
        self.open_pass.send_replace((number, Some(kind)));
        Ok(())
    }

    /// A group of the source was named: reads ours back.
    async fn group(&mut self, pass: u32, place: Place, node: Hash) -> Result<()> {
        let (index, group) = place;
        ensure!(self.current(pass)?.kind == PassKind::Compare, "a comparison in a full pass");
        let disk = self.disk(index)?;
        {
            let mut known = disk.known();
            let (first, count) = known.groups.chunks_of(group);
            ensure!(count > 0, "a group behind the end of {}", disk.source.path);
            claim(&mut known.claimed, first, count)?;
        }
        self.current(pass)?.suspects.begin(place)?;
        let (disks, report) = (Arc::clone(&self.disks), self.report.clone());
        let job = move || {
            let work = match compare(&disks[usize::from(index)], group, node) {
                Ok(leaves) => Work::Compared { place, leaves },
                Err(error) => Work::Failed(error),
            };
            // The loop may be gone; then nobody needs to know.
            drop(report.send(work));
        };
        ensure!(self.queue.submit(job).await, "the disk threads are gone");
        Ok(())
    }

    fn serve_stream(&mut self, reader: LinkReader) {
        if self.streams.len() >= usize::from(STREAMS) {
            return;
        }
        let stream = Stream {
            disks: Arc::clone(&self.disks),
            epoch: self.number,
            open_pass: self.open_pass.subscribe(),
            queue: self.queue.clone(),
            report: self.report.clone(),
        };
        self.streams.push(AbortOnDropHandle::new(tokio::spawn(stream.serve(reader))));
    }

    fn written(&mut self, disk: u16, extent: Extent) {
        self.unflushed.entry(disk).or_default().push(extent);
        let bytes = extent.count * CHUNK;
        self.unflushed_bytes += bytes;
        if let Some(disk) = self.disks.get(usize::from(disk)) {
            add(&disk.tally.sent, bytes);
        }
        if let Some(pass) = &mut self.pass {
            pass.written += extent.count;
        }
    }

    fn begin_flush(&mut self) {
        if self.flushing.is_some() || self.unflushed.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.unflushed);
        self.unflushed_bytes = 0;
        let disks = Arc::clone(&self.disks);
        let touched: Vec<u16> = batch.keys().copied().collect();
        let flush = tokio::task::spawn_blocking(move || {
            touched.iter().try_for_each(|disk| disks[usize::from(*disk)].replica.flush())?;
            Ok(())
        });
        self.flushing = Some((flush, batch));
    }

    /// After a good flush: what was written before it began is durable, and the sender is told.
    async fn acknowledge(&self, batch: HashMap<u16, Vec<Extent>>, outbox: &Outbox) -> Result<()> {
        let number = self.pass.as_ref().map_or(0, |pass| pass.number);
        for (disk, extents) in batch {
            self.disks[usize::from(disk)].set_durable(&extents);
            for extents in extents.chunks(EXTENTS) {
                outbox.say(Message::Ack { pass: number, disk, extents: extents.to_vec() }).await?;
            }
        }
        Ok(())
    }

    /// Ends the pass when all that was sent is written and durable.
    async fn end_pass(&mut self, session: &mut Session, outbox: &Outbox, events: &Events) -> Result<()> {
        let Some(Pass { expected: Some(expected), written, .. }) = self.pass else { return Ok(()) };
        ensure!(written <= expected, "{written} chunks came in a pass of {expected}");
        if written < expected {
            return Ok(());
        }
        if self.flushing.is_some() || !self.unflushed.is_empty() {
            self.begin_flush();
            return Ok(());
        }
        self.tell_progress(events);
        let Some(pass) = self.pass.take() else { return Ok(()) };
        self.open_pass.send_replace((pass.number, None));
        let phase = match pass.kind {
            PassKind::Full => {
                let missing: u64 = self.disks.iter().map(|d| d.chunks() - d.known().durable.count()).sum();
                ensure!(missing == 0, "the full pass ended with {missing} chunks missing");
                // A chunk that was taken and not counted would be written in the next pass, behind the compare's back.
                let taken: u64 = self.disks.iter().map(|d| d.known().claimed.count()).sum();
                ensure!(taken == expected, "{taken} chunks were taken in a pass of {expected}");
                "full"
            }
            PassKind::Compare => {
                let all: u64 = self.disks.iter().map(SessionDisk::chunks).sum();
                let compared: u64 = pass.compared.iter().sum();
                ensure!(compared == all, "the compare pass left {} chunks out", all - compared);
                ensure!(pass.suspects.is_empty(), "the compare pass ended with open questions");
                let differing = pass.differing;
                ensure!(
                    differing == expected,
                    "{differing} chunks differ, but the pass ended with {expected}"
                );
                "compare"
            }
        };
        session.report.phase(phase, pass.began);
        events.tell(Event::PassDone { phase, differing: pass.differing });
        outbox.say(Message::PassDone { pass: pass.number, differing: pass.differing }).await
    }

    fn roots(&self, theirs: &[Hash], events: &Events) -> Result<Vec<Hash>> {
        ensure!(theirs.len() == self.disks.len(), "roots of {} disks", theirs.len());
        let mut ours = Vec::new();
        for (disk, theirs) in self.disks.iter().zip(theirs) {
            let root = disk.root().with_context(|| format!("{} is not verified yet", disk.source.path))?;
            ensure!(root == *theirs, "the roots of {} differ", disk.source.path);
            let target = disk.replica.end().identity().path.clone();
            events.tell(Event::Verified { disk: target, root: gantry_wire::tree::hex(&root) });
            ours.push(root);
        }
        Ok(ours)
    }

    fn meter(&self, kind: PassKind) -> Meter {
        let phase = if kind == PassKind::Full { "full" } else { "compare" };
        let course = |disk: &SessionDisk| {
            let (total, path) = (disk.source.size, disk.replica.end().identity().path.clone());
            // What of the missing chunks is zero, and takes no time, only the sender knows.
            let (before, need) = match kind {
                PassKind::Full => (disk.known().durable.count(), None),
                PassKind::Compare => (0, Some(total)),
            };
            Course { disk: path, total, before, need, tally: Arc::clone(&disk.tally) }
        };
        Meter::new(phase, self.disks.iter().map(course).collect())
    }

    fn tell_progress(&mut self, events: &Events) {
        let Some(pass) = &mut self.pass else { return };
        let done = |chunks| Done { chunks, skipped: 0 };
        let done: Vec<_> = match pass.kind {
            PassKind::Full => self.disks.iter().map(|d| done(d.known().durable.count())).collect(),
            PassKind::Compare => pass.compared.iter().map(|chunks| done(*chunks)).collect(),
        };
        events.tell(Event::Progress(pass.meter.look(false, &done)));
    }
}

async fn flushed(flushing: &mut Option<Flushing>) -> Result<()> {
    match flushing {
        Some((flush, _)) => flush.await.context("the flush broke off")?,
        None => std::future::pending().await,
    }
}

fn flush_all(disks: &[SessionDisk]) -> Result<()> {
    disks.iter().try_for_each(|disk| disk.replica.flush()).context("flushing")
}
