//! A compare pass at the sender: from groups to chunks to leaves, and only leaves that differ cross.
//!
//! ```text
//! sender                                   receiver
//! Group(node)            ------>           reads the group back from its medium
//!                        <------           Compared(equal): done, or
//! Digests(64 nodes)      ------>
//!                        <------           Wanted(bits)
//! Leaves(16 hashes) ...  ------>           one for each chunk that differs
//!                        <------           WantedLeaves(bits) ...
//! Patch ...              ==data==>         the leaves that differ
//! ```
//!
//! A group that this process has read before costs no reading; one that differs is read again for its leaves. At most
//! [`WINDOW`] groups are between their first message and their last patch, and each holds 32 KiB of hashes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use gantry_wire::Message;
use gantry_wire::limits::GROUP;
use gantry_wire::message::PassKind;
use gantry_wire::tree::{self, Leaves};
use tokio::sync::mpsc;

use super::epoch::{PROGRESS_EVERY, Passes, THREADS};
use super::produce::{SourceDisk, Stamp};
use crate::event::Event;
use crate::pool::Job;
use crate::progress::{Done, Meter};

/// Groups that are being compared at once.
const WINDOW: usize = 16;

/// A group of a disk.
type Place = (u16, u64);

/// Where a group stands that is being compared.
enum Open {
    /// Its node was sent, or is about to be; its leaves are here if it was read for that.
    Asked(Option<Rows>),
    /// It differs: the nodes of its chunks are sent when it has been read.
    Differs,
    /// The nodes of its chunks were sent.
    Digested(Rows),
    /// The leaves of these chunks (a bit each) wait for an answer.
    Listed(Rows, u64),
}

/// The leaves of a group's chunks.
type Rows = Arc<Vec<Leaves>>;

/// One compare pass.
pub struct Compare<'a, 'p> {
    passes: &'a mut Passes<'p>,
    number: u32,
    disks: Arc<Vec<SourceDisk>>,
    open: HashMap<Place, Open>,
    /// Messages that wait for a place in the outbox: the inbox is read all the same, or two full queues would wait for
    /// each other for ever.
    unsaid: VecDeque<Message>,
    /// What waits for a reader. In a pause, or under a low limit, the readers stand still for long; the loop must not: it
    /// is where a lost link is noticed. While more than [`WINDOW`] wait no group is begun.
    jobs: VecDeque<Job>,
    read: mpsc::Sender<Result<(Place, Rows)>>,
    fail: mpsc::Sender<anyhow::Error>,
    /// What was compared, of each disk.
    compared: Vec<Done>,
    /// Chunks that differed.
    differing: u64,
}

enum Action {
    Read(Place, Rows),
    Message(Message),
    Tick,
}

/// Lets the receiver compare its medium with the source; sends what differs. The number of chunks that did.
pub async fn compare(passes: &mut Passes<'_>) -> Result<u64> {
    let number = passes.start(PassKind::Compare).await?;
    let disks = Arc::clone(passes.disks());
    let (read, mut rows) = mpsc::channel(WINDOW);
    let (fail, mut failed) = mpsc::channel(THREADS);
    let (open, unsaid, jobs) = (HashMap::new(), VecDeque::new(), VecDeque::new());
    let compared = vec![Done::default(); disks.len()];
    let mut meter = Meter::new("compare", disks.iter().map(|disk| disk.source.compare_course()).collect());
    let mut pass = Compare { passes, number, disks, open, unsaid, jobs, read, fail, compared, differing: 0 };
    let places = pass.disks.iter().enumerate();
    let places: Vec<(u16, u64)> =
        places.map(|(index, disk)| (index as u16, disk.source.groups().count())).collect();
    let mut places = places.into_iter().flat_map(|(disk, groups)| (0..groups).map(move |g| (disk, g)));
    let mut next = places.next();
    let mut ended = false;
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        // In a pause nothing new is begun; the tick looks whether it is over.
        while pass.open.len() < WINDOW
            && pass.jobs.len() < WINDOW
            && !pass.passes.sender.options.throttle.is_paused()
            && let Some(place) = next
        {
            pass.begin(place)?;
            next = places.next();
        }
        if pass.open.is_empty() && next.is_none() && !ended {
            ended = true;
            pass.unsaid.push_back(Message::EndPass { pass: number, chunks: pass.differing });
        }
        let action = tokio::select! {
            permit = pass.passes.outbox.reserve(), if !pass.unsaid.is_empty() => {
                let permit = permit?;
                if let Some(message) = pass.unsaid.pop_front() {
                    permit.send(message);
                }
                continue;
            }
            place = pass.passes.queue.reserve(), if !pass.jobs.is_empty() => {
                let place = place.context("the reader threads are gone")?;
                if let Some(job) = pass.jobs.pop_front() {
                    place.send(job);
                }
                continue;
            }
            Some(done) = rows.recv() => {
                let (place, rows) = done?;
                Action::Read(place, rows)
            }
            Some(error) = failed.recv() => return Err(error),
            Some(error) = pass.passes.streams.failed.recv() => return Err(error),
            message = pass.passes.inbox.next() => Action::Message(message?),
            _ = tick.tick() => Action::Tick,
        };
        match action {
            Action::Read(place, rows) => pass.read(place, rows)?,
            Action::Tick => pass.passes.progress(&mut meter, &pass.compared),
            Action::Message(Message::PassDone { pass: done, differing }) if done == number && ended => {
                pass.passes.progress(&mut meter, &pass.compared);
                let phase = "compare";
                pass.passes.sender.events.tell(Event::PassDone { phase, differing });
                return Ok(differing);
            }
            Action::Message(message) => pass.heard(message)?,
        }
    }
}

impl Compare<'_, '_> {
    fn disk(&self, disk: u16) -> Result<&SourceDisk> {
        self.disks.get(usize::from(disk)).context("the receiver names a disk that is not there")
    }

    /// Begins with a group: its node is known, or it is read.
    fn begin(&mut self, place: Place) -> Result<()> {
        let node = self.disk(place.0)?.source.groups().node(place.1);
        self.open.insert(place, Open::Asked(None));
        match node {
            Some(node) => {
                let (disk, group) = place;
                self.unsaid.push_back(Message::Group { pass: self.number, disk, group, node });
            }
            None => self.read_group(place),
        }
        Ok(())
    }

    fn read_group(&mut self, place: Place) {
        let (disks, read, reads) = (Arc::clone(&self.disks), self.read.clone(), self.passes.reads.clone());
        let job = move || {
            let rows = disks[usize::from(place.0)].source.leaves(place.1, &reads);
            // The pass may be over; then nobody needs it.
            drop(read.blocking_send(rows.map(|rows| (place, Arc::new(rows)))));
        };
        self.jobs.push_back(Box::new(job));
    }

    /// A group was read.
    fn read(&mut self, place: Place, rows: Rows) -> Result<()> {
        let (pass, (disk, group)) = (self.number, place);
        let nodes: Vec<_> = rows.iter().map(tree::chunk_of).collect();
        match self.open.get_mut(&place).context("a group was read that is not open")? {
            Open::Asked(kept) => {
                *kept = Some(rows);
                self.unsaid.push_back(Message::Group { pass, disk, group, node: tree::group(&nodes) });
            }
            open => {
                *open = Open::Digested(rows);
                self.unsaid.push_back(Message::Digests { pass, disk, group, nodes });
            }
        }
        Ok(())
    }

    fn heard(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Ack { .. } => Ok(()),
            Message::Compared { pass, disk, group, equal } if pass == self.number => {
                self.compared((disk, group), equal)
            }
            Message::Wanted { pass, disk, group, chunks } if pass == self.number => {
                self.wanted((disk, group), chunks)
            }
            Message::WantedLeaves { pass, disk, index, leaves } if pass == self.number => {
                self.wanted_leaves(disk, index, leaves)
            }
            other => bail!("message {} in a compare pass", other.tag()),
        }
    }

    fn compared(&mut self, place: Place, equal: bool) -> Result<()> {
        let Some(Open::Asked(rows)) = self.open.remove(&place) else {
            bail!("an answer about a group that was not asked for");
        };
        let count = self.disk(place.0)?.source.groups().chunks_of(place.1).1;
        self.compared[usize::from(place.0)].chunks += count;
        if equal {
            return Ok(());
        }
        self.open.insert(place, Open::Differs);
        match rows {
            Some(rows) => self.read(place, rows)?,
            None => self.read_group(place),
        }
        Ok(())
    }

    fn wanted(&mut self, place: Place, chunks: u64) -> Result<()> {
        let Some(Open::Digested(rows)) = self.open.remove(&place) else {
            bail!("an answer about chunks that were not asked for");
        };
        ensure!(chunks != 0, "a group differs, but none of its chunks does");
        ensure!(
            rows.len() as u64 == GROUP || chunks >> rows.len() == 0,
            "the receiver wants chunks behind the end"
        );
        for i in (0..rows.len()).filter(|i| chunks & 1 << i != 0) {
            let index = place.1 * GROUP + i as u64;
            self.unsaid.push_back(Message::Leaves {
                pass: self.number,
                disk: place.0,
                index,
                leaves: Box::new(rows[i]),
            });
        }
        self.open.insert(place, Open::Listed(rows, chunks));
        Ok(())
    }

    fn wanted_leaves(&mut self, disk: u16, index: u64, leaves: u16) -> Result<()> {
        let (place, bit) = ((disk, index / GROUP), 1 << (index % GROUP));
        let Some(Open::Listed(rows, waiting)) = self.open.get_mut(&place) else {
            bail!("an answer about leaves that were not asked for");
        };
        ensure!(*waiting & bit != 0 && leaves != 0, "an answer about leaves that makes no sense");
        *waiting &= !bit;
        let (rows, done) = (Arc::clone(rows), *waiting == 0);
        if done {
            self.open.remove(&place);
        }
        self.differing += 1;
        let stamp = Stamp { epoch: self.passes.epoch, pass: self.number, disk };
        let (disks, frames, fail) =
            (Arc::clone(&self.disks), self.passes.streams.frames.clone(), self.fail.clone());
        let reads = self.passes.reads.clone();
        let job = move || {
            let known = &rows[(index % GROUP) as usize];
            if let Err(error) = disks[usize::from(disk)].patch(stamp, index, known, leaves, &reads, &frames) {
                drop(fail.try_send(error));
            }
        };
        self.jobs.push_back(Box::new(job));
        Ok(())
    }
}
