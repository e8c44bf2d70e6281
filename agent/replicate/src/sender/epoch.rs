//! One epoch at the sender: from dialling to the commit, or to the loss of any connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gantry_wire::limits::STREAMS;
use gantry_wire::message::{DiskState, Extent, Fault, PassKind};
use gantry_wire::{DiskInfo, Message, Stage, Version};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::arrived::Arrived;
use super::compare::compare;
use super::produce::{Frame, SourceDisk, Stamp};
use super::{Sender, is_final, map, resolve};
use crate::chunkset::ChunkSet;
use crate::event::Event;
use crate::kept::Kept;
use crate::link::{Inbox, Link, LinkWriter, Outbox, PING, PeerFault};
use crate::pool::{Pool, Queue};
use crate::progress::{Done, Meter, add};
use crate::stop::Stop;
use crate::throttle::{PIECE, Reads, Throttle};
use crate::tls::{PublicKey, key_of};

/// Threads that read, hash and compress.
pub const THREADS: usize = 4;
/// Compare passes that find differences before the target is called unreliable.
const ROUNDS: u32 = 8;
/// How long the receiver's reason is waited for when a stream has broken.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How often progress is told.
pub const PROGRESS_EVERY: Duration = Duration::from_millis(500);

impl Sender {
    /// Runs one epoch.
    pub(super) async fn epoch(&self) -> Result<Kept> {
        let address = resolve(&self.options.address).await?;
        let mut link = Link::connect(address, &self.identity).await?;
        link.pair_as_dialler(&self.options.code).await?;
        let certificate = link.peer_certificate.clone();
        // Its signature is asked for at the very end: that it can sign is seen now.
        let key = key_of(&certificate).map_err(|error| Stop(format!("{error:#}")))?;
        let (mut inbox, outbox) = link.into_channels(CancellationToken::new());
        let outcome = self.converse(address, &certificate, &key, &mut inbox, &outbox).await;
        outbox.close().await;
        outcome
    }

    async fn converse(
        &self,
        address: std::net::SocketAddr,
        certificate: &[u8],
        key: &PublicKey,
        inbox: &mut Inbox,
        outbox: &Outbox,
    ) -> Result<Kept> {
        let sources: Vec<_> = self.disks.iter().map(|disk| disk.info.clone()).collect();
        outbox.say(self.hello()).await?;
        let (stage, targets) = match inbox.next().await? {
            Message::Offer { version, stage, machine, disks } => {
                if Version::negotiate(&[version]).is_none() {
                    return Err(Stop(Version::refusal(&[version], "target", "source")).into());
                }
                self.events.tell(Event::Paired { peer: machine });
                (stage, disks)
            }
            other => bail!("expected an offer, not message {}", other.tag()),
        };
        if stage == Stage::Receiving
            && let Some((kept, _)) = self.known_commit()
        {
            // A receiver that has forgotten must not be given the machine once more.
            return Ok(kept);
        }
        if stage == Stage::Receiving {
            let pairs = match self.pair(&sources, &targets).await {
                Ok(pairs) => pairs,
                Err(error) => {
                    give_up(Fault::Disk, &error, inbox, outbox).await;
                    return Err(error);
                }
            };
            for &(source, target) in &pairs {
                let (source, target) = (&sources[usize::from(source)], &targets[usize::from(target)]);
                let names = (source.path.clone(), target.path.clone());
                self.events.tell(Event::Mapped { source: names.0, target: names.1, size: source.size });
            }
            outbox.say(Message::Assign { pairs: pairs.clone() }).await?;
            let (epoch, token, full, states) = match inbox.next().await? {
                Message::Begin { epoch, token, full, disks } => (epoch, token, full, disks),
                other => bail!("expected Begin, not message {}", other.tag()),
            };
            let said: Vec<_> = states.iter().map(|state| (state.source, state.target)).collect();
            ensure!(said == pairs, "the receiver began with other disks than were assigned");
            for (state, source) in states.iter().map(|state| (state, usize::from(state.source))) {
                check_durable(&state.durable, self.disks[source].source.chunks(), &sources[source].path)?;
            }
            let durable_chunks = states.iter().flat_map(|s| &s.durable).map(|extent| extent.count).sum();
            self.events.tell(Event::Epoch { epoch, durable_chunks });
            self.begun.store(true, Ordering::Relaxed);
            let pool = Pool::start("read", THREADS).context("starting reader threads")?;
            let streams = Streams::open(self, address, certificate, token).await?;
            let (queue, reads) = (pool.queue(), self.options.throttle.reads(CancellationToken::new()));
            let over = reads.clone();
            let mut passes = Passes { sender: self, epoch, number: 0, queue, reads, streams, inbox, outbox };
            let outcome = passes.all(full, states).await.and_then(|()| self.tell());
            let Passes { queue, streams, .. } = passes;
            drop(queue);
            match &outcome {
                Ok(facts) => outbox.say(Message::Finish { facts: facts.clone() }).await?,
                Err(error) => give_up(Fault::Disk, error, inbox, outbox).await,
            }
            let outcome = match outcome {
                Err(error) => Err(first_cause(error, inbox).await),
                Ok(_) => Ok(()),
            };
            // The streams stay open until the receiver has heard the reason: their end would look like a lost link.
            // With them the threads end: none must go on reading for an epoch that is over.
            let report = match outcome {
                Ok(()) => self.farewell(key, stage, inbox, outbox).await,
                Err(error) => Err(error),
            };
            drop(streams);
            over.end();
            pool.join().await;
            return report;
        }
        self.farewell(key, stage, inbox, outbox).await
    }

    /// Which source goes onto which target, and that each can. Nothing was written yet.
    async fn pair(&self, sources: &[DiskInfo], targets: &[DiskInfo]) -> Result<Vec<(u16, u16)>> {
        let pairs =
            map::pair(sources, targets, &self.options.map).map_err(|error| Stop(format!("{error:#}")))?;
        for &(source, target) in &pairs {
            let disks = Arc::clone(&self.disks);
            let size = targets[usize::from(target)].size;
            let fit = tokio::task::spawn_blocking(move || disks[usize::from(source)].source.check_fit(size));
            fit.await.context("the look at the partition table broke off")??;
        }
        Ok(pairs)
    }
}

/// A receiver that ends an epoch hangs up its streams and says why. Its word may come after the broken stream was
/// noticed, and is the better reason.
async fn first_cause(error: anyhow::Error, inbox: &mut Inbox) -> anyhow::Error {
    if is_final(&error) {
        return error;
    }
    let said = timeout(LAST_WORD, async {
        loop {
            if let Err(said) = inbox.next().await {
                return said;
            }
        }
    });
    match said.await {
        Ok(said) if said.is::<PeerFault>() => said,
        _ => error,
    }
}

/// Tells the receiver why this end gives up for good, and waits a moment until it has hung up.
pub async fn give_up(fault: Fault, error: &anyhow::Error, inbox: &mut Inbox, outbox: &Outbox) {
    if !is_final(error) || error.is::<PeerFault>() {
        return;
    }
    let text = format!("the sender gives up: {error:#}");
    if outbox.say(Message::Error { fault, text }).await.is_ok() {
        drop(timeout(PING, async { while inbox.next().await.is_ok() {} }).await);
    }
}

/// The data streams of an epoch: frames go in at one end, whichever stream is free takes them.
pub struct Streams {
    /// Where frames go in.
    pub frames: mpsc::Sender<Frame>,
    /// Why a stream has ended.
    pub failed: mpsc::Receiver<anyhow::Error>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Streams {
    async fn open(
        sender: &Sender,
        address: std::net::SocketAddr,
        certificate: &[u8],
        token: [u8; 32],
    ) -> Result<Self> {
        let count = sender.options.streams.clamp(1, STREAMS);
        let (frames, queue) = mpsc::channel::<Frame>(usize::from(count) * 2);
        let queue = Arc::new(Mutex::new(queue));
        let (fail, failed) = mpsc::channel(1);
        let mut tasks = Vec::new();
        for _ in 0..count {
            let mut link = Link::connect(address, &sender.identity).await.context("opening a data stream")?;
            ensure!(
                link.peer_certificate == certificate,
                "a data stream reached another machine than was paired"
            );
            link.send(&Message::Join { token }).await?;
            let (queue, fail, throttle) = (Arc::clone(&queue), fail.clone(), sender.options.throttle.clone());
            tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
                if let Err(error) = Self::serve(link.patient().split().1, &queue, &throttle).await {
                    drop(fail.send(error).await);
                }
            })));
        }
        Ok(Self { frames, failed, _tasks: tasks })
    }

    async fn serve(
        mut writer: LinkWriter,
        queue: &Mutex<mpsc::Receiver<Frame>>,
        throttle: &Throttle,
    ) -> Result<()> {
        loop {
            let frame = queue.lock().await.recv().await;
            let Some(frame) = frame else { return Ok(()) };
            for piece in frame.bytes.chunks(PIECE) {
                throttle.send(piece.len()).await;
                writer.send_frame(piece).await.context("data stream")?;
                add(&frame.tally.sent, piece.len() as u64);
            }
        }
    }
}

/// The passes of an epoch, one after the other.
pub struct Passes<'a> {
    pub(super) sender: &'a Sender,
    pub(super) epoch: u64,
    number: u32,
    pub(super) queue: Queue,
    pub(super) reads: Reads,
    pub(super) streams: Streams,
    pub(super) inbox: &'a mut Inbox,
    pub(super) outbox: &'a Outbox,
}

impl Passes<'_> {
    async fn all(&mut self, full: bool, states: Vec<DiskState>) -> Result<()> {
        if full {
            self.full(states).await?;
        }
        let mut rounds = 0;
        while compare(self).await? > 0 {
            rounds += 1;
            if rounds >= ROUNDS {
                let text = format!(
                    "the target does not keep what is written to it: {ROUNDS} compare passes differed"
                );
                return Err(Stop(text).into());
            }
        }
        let ours = self.sender.disks.iter().map(|disk| disk.source.root()).collect::<Result<Vec<_>>>()?;
        self.outbox.say(Message::Roots { roots: ours.clone() }).await?;
        match self.inbox.next().await? {
            Message::Roots { roots } if roots == ours => {}
            Message::Roots { .. } => {
                return Err(Stop("the roots of source and target differ".to_owned()).into());
            }
            other => bail!("expected roots, not message {}", other.tag()),
        }
        // Before the target is told to go on: a source that was written to would have left a torn replica (law 1).
        (self.sender.options.unchanged)()?;
        for (disk, root) in self.sender.disks.iter().zip(&ours) {
            let root = gantry_wire::tree::hex(root);
            self.sender.events.tell(Event::Verified { disk: disk.info.path.clone(), root });
        }
        Ok(())
    }

    /// The source's disks.
    pub fn disks(&self) -> &Arc<Vec<SourceDisk>> {
        &self.sender.disks
    }

    /// Begins the next pass; its number.
    pub async fn start(&mut self, kind: PassKind) -> Result<u32> {
        self.number += 1;
        self.disks().iter().for_each(|disk| disk.source.groups().begin_sweep());
        self.outbox.say(Message::StartPass { pass: self.number, kind }).await?;
        Ok(self.number)
    }

    /// Sends every chunk that is not durable.
    async fn full(&mut self, states: Vec<DiskState>) -> Result<()> {
        let pass = self.start(PassKind::Full).await?;
        let (mut arrived, mut courses) = (Vec::new(), Vec::new());
        for (disk, state) in self.disks().iter().zip(&states) {
            let there = done(disk.source.chunks(), &state.durable);
            courses.push(disk.source.full_course(&there));
            arrived.push(Arrived::new(there));
        }
        let mut meter = Meter::new("full", courses);
        let done_of = |arrived: &[Arrived]| arrived.iter().map(Arrived::done).collect::<Vec<_>>();
        let (fail, mut failed) = mpsc::channel(THREADS);
        let mut producing = AbortOnDropHandle::new(self.spawn_producer(pass, states, fail));
        let mut produced = false;
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                chunks = &mut producing, if !produced => {
                    produced = true;
                    let chunks = chunks.context("reading broke off")?;
                    self.outbox.say(Message::EndPass { pass, chunks }).await?;
                }
                Some(error) = failed.recv() => return Err(error),
                Some(error) = self.streams.failed.recv() => return Err(error),
                message = self.inbox.next() => match message? {
                    Message::Ack { pass: of, disk, extents } if of == pass => {
                        let arrived = arrived.get_mut(usize::from(disk)).context("an acknowledgement of no disk of ours")?;
                        arrived.acknowledge(&self.disks()[usize::from(disk)].source, &extents)?;
                    }
                    Message::PassDone { pass: done, .. } if done == pass && produced => {
                        self.progress(&mut meter, &done_of(&arrived));
                        self.sender.events.tell(Event::PassDone { phase: "full", differing: 0 });
                        return Ok(());
                    }
                    other => bail!("message {} in a full pass", other.tag()),
                },
                _ = tick.tick() => self.progress(&mut meter, &done_of(&arrived)),
            }
        }
    }

    /// Gives all missing chunks to the threads; ends with their number when every frame is queued.
    fn spawn_producer(
        &self,
        pass: u32,
        states: Vec<DiskState>,
        fail: mpsc::Sender<anyhow::Error>,
    ) -> JoinHandle<u64> {
        let (disks, queue, frames) =
            (Arc::clone(&self.sender.disks), self.queue.clone(), self.streams.frames.clone());
        let (epoch, reads) = (self.epoch, self.reads.clone());
        tokio::spawn(async move {
            let (working, mut idle) = mpsc::channel::<()>(1);
            let mut chunks = 0;
            for (index, state) in states.iter().enumerate() {
                let source = usize::from(state.source);
                for run in disks[source].source.runs(done(disks[source].source.chunks(), &state.durable)) {
                    chunks += run.extent().count;
                    let stamp = Stamp { epoch, pass, disk: index as u16 };
                    let (disks, frames) = (Arc::clone(&disks), frames.clone());
                    let (fail, working, reads) = (fail.clone(), working.clone(), reads.clone());
                    let job = move || {
                        if let Err(error) = disks[source].produce(stamp, run, &reads, &frames) {
                            drop(fail.try_send(error));
                        }
                        drop(working);
                    };
                    if !queue.submit(job).await {
                        return chunks;
                    }
                }
            }
            drop(working);
            idle.recv().await;
            chunks
        })
    }

    /// Tells how far a phase is: what is done of each disk.
    pub fn progress(&self, meter: &mut Meter, done: &[Done]) {
        let progress = meter.look(self.sender.options.throttle.is_paused(), done);
        self.sender.events.tell(Event::Progress(progress));
    }
}

/// Extents come from the peer: they must rise and lie on the disk, so that going through them has an end.
fn check_durable(durable: &[Extent], chunks: u64, disk: &str) -> Result<()> {
    let mut at = 0;
    for Extent { first, count } in durable {
        ensure!(
            *first >= at && *first < chunks,
            "what is said to be durable of {disk} makes no sense at {first}"
        );
        at = first.saturating_add(*count);
        ensure!(at <= chunks, "what is said to be durable of {disk} reaches behind its end");
    }
    Ok(())
}

/// The receiver's extents as a set.
fn done(chunks: u64, durable: &[Extent]) -> ChunkSet {
    let mut set = ChunkSet::new(chunks);
    for extent in durable {
        for index in extent.first..extent.first.saturating_add(extent.count) {
            set.insert(index);
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_to_be_durable_must_rise_and_lie_on_the_disk() {
        let check = |extents: &[(u64, u64)]| {
            let extents: Vec<_> = extents.iter().map(|&(first, count)| Extent { first, count }).collect();
            check_durable(&extents, 20, "a")
        };
        check(&[(2, 3), (5, 1), (19, 1)]).unwrap();
        for lie in [&[(2, 3), (4, 1)][..], &[(20, 1)], &[(19, 2)], &[(3, u64::MAX)], &[(0, 20), (0, 20)]] {
            assert!(check(lie).is_err(), "{lie:?}");
        }
    }
}
