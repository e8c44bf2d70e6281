//! Ends that speak the protocol by script: honest until they are told what to say instead.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gantry_replicate::kept::{End, sign};
use gantry_replicate::link::{Link, LinkReader, LinkWriter, PeerFault};
use gantry_replicate::patch::ranges;
use gantry_replicate::report::{
    After, DiskReport, NamedDisk, NamedMachine, Report, SourceDiskFacts, SourceFacts, State, VERSION,
};
use gantry_replicate::tls::{PublicKey, TlsIdentity, key_of};
use gantry_wire::limits::{CHUNK, GROUP};
use gantry_wire::message::{DiskState, Encoding};
use gantry_wire::tree::{self, Hash, Leaves, RootBuilder};
use gantry_wire::{DiskInfo, Extent, Message, PassKind, Stage};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{anywhere, code};

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn disk_info(size: u64) -> DiskInfo {
    let text = String::new;
    DiskInfo { path: "fake".into(), serial: text(), model: text(), size, sector_size: 512, refusal: text() }
}

/// How far a [`FakeSender`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Both have proved the code.
    Paired,
    /// It has heard the offer.
    Offered,
    /// The epoch has begun, two data streams are open.
    Begun,
    /// A full pass is open.
    InFull,
    /// The full pass is done.
    Full,
    /// A compare pass is open.
    InCompare,
    /// The receiver has said that group 0 differs: from here on this end shows a source with one other byte in chunk 2.
    Asked,
    /// It wants the leaves of chunk 2.
    Wanted,
    /// It wants leaf 0 of chunk 2.
    Listed,
}

/// A sender.
pub struct FakeSender {
    identity: TlsIdentity,
    address: SocketAddr,
    hear: LinkReader,
    say: LinkWriter,
    streams: Vec<LinkWriter>,
    /// The source.
    pub bytes: Vec<u8>,
    /// What the receiver began with.
    pub epoch: u64,
    pub full: bool,
    pub durable: Vec<Extent>,
    /// The newest pass.
    pub pass: u32,
    /// What becomes of acknowledgements.
    pub on_ack: Box<dyn FnMut(Vec<Extent>) + Send>,
}

impl FakeSender {
    pub async fn dial(address: SocketAddr, bytes: Vec<u8>) -> Result<Self> {
        let identity = TlsIdentity::generate()?;
        let mut link = Link::connect(address, &identity).await?;
        link.pair_as_dialler(&code()).await?;
        let (hear, say) = link.split();
        Ok(Self {
            identity,
            address,
            hear,
            say,
            streams: Vec::new(),
            bytes,
            epoch: 0,
            full: false,
            durable: Vec::new(),
            pass: 0,
            on_ack: Box::new(drop),
        })
    }

    pub async fn frame(&mut self, frame: &[u8]) -> Result<()> {
        self.say.send_frame(frame).await
    }

    pub async fn say(&mut self, message: Message) -> Result<()> {
        self.frame(&message.to_frame()).await
    }

    /// A frame on a data stream.
    pub async fn stream(&mut self, stream: usize, frame: &[u8]) -> Result<()> {
        self.streams[stream].send_frame(frame).await
    }

    /// The next message that is no acknowledgement.
    pub async fn hear(&mut self) -> Result<Message> {
        loop {
            match timeout(PATIENCE, self.hear.receive()).await.context("nothing is heard")?? {
                Message::Ack { extents, .. } => (self.on_ack)(extents),
                message => return Ok(message),
            }
        }
    }

    /// Goes on honestly up to a point.
    pub async fn reach(&mut self, point: Point) -> Result<()> {
        if point >= Point::Offered {
            self.offer().await?;
        }
        if point >= Point::Begun {
            self.begin().await?;
        }
        if point == Point::InFull {
            self.start(PassKind::Full).await?;
        }
        if point >= Point::Full {
            self.full().await?;
        }
        if point >= Point::InCompare {
            self.start(PassKind::Compare).await?;
        }
        if point >= Point::Asked {
            self.bytes[2 * CHUNK as usize + 5] ^= 1;
            self.say(self.group(0)).await?;
            let answer = self.hear().await?;
            anyhow::ensure!(matches!(answer, Message::Compared { equal: false, .. }), "{answer:?}");
        }
        if point >= Point::Wanted {
            self.say(self.digests(0)).await?;
            let answer = self.hear().await?;
            anyhow::ensure!(matches!(answer, Message::Wanted { chunks: 0b100, .. }), "{answer:?}");
        }
        if point >= Point::Listed {
            self.say(self.leaves(2)).await?;
            let answer = self.hear().await?;
            anyhow::ensure!(matches!(answer, Message::WantedLeaves { leaves: 1, .. }), "{answer:?}");
        }
        Ok(())
    }

    pub fn hello(&self, versions: Vec<u16>, disks: Vec<DiskInfo>) -> Message {
        Message::Hello { versions, software: "fake".into(), machine: "fake".into(), disks }
    }

    pub async fn offer(&mut self) -> Result<Stage> {
        self.say(self.hello(vec![2], vec![disk_info(self.bytes.len() as u64)])).await?;
        match self.hear().await? {
            Message::Offer { stage, .. } => Ok(stage),
            other => bail!("{other:?}"),
        }
    }

    pub async fn begin(&mut self) -> Result<()> {
        self.say(Message::Assign { pairs: vec![(0, 0)] }).await?;
        let Message::Begin { epoch, token, full, disks } = self.hear().await? else { bail!("no Begin") };
        (self.epoch, self.full) = (epoch, full);
        self.durable = disks[0].durable.clone();
        for _ in 0..2 {
            let mut link = Link::connect(self.address, &self.identity).await?;
            link.send(&Message::Join { token }).await?;
            self.streams.push(link.patient().split().1);
        }
        Ok(())
    }

    pub async fn start(&mut self, kind: PassKind) -> Result<()> {
        self.pass += 1;
        self.say(Message::StartPass { pass: self.pass, kind }).await
    }

    pub fn chunks(&self) -> u64 {
        tree::chunks(self.bytes.len() as u64)
    }

    fn chunk_bytes(&self, index: u64) -> &[u8] {
        let start = (index * CHUNK) as usize;
        &self.bytes[start..self.bytes.len().min(start + CHUNK as usize)]
    }

    pub fn chunk(&self, index: u64) -> Message {
        let bytes = self.chunk_bytes(index);
        Message::Chunk {
            epoch: self.epoch,
            pass: self.pass,
            disk: 0,
            index,
            encoding: Encoding::Raw,
            length: bytes.len() as u32,
            node: tree::chunk(bytes),
            data: bytes.to_vec(),
        }
    }

    pub fn rows(&self, group: u64) -> Vec<Leaves> {
        let chunks = group * GROUP..self.chunks().min((group + 1) * GROUP);
        chunks.map(|index| tree::leaves(self.chunk_bytes(index))).collect()
    }

    pub fn group(&self, group: u64) -> Message {
        let nodes: Vec<_> = self.rows(group).iter().map(tree::chunk_of).collect();
        Message::Group { pass: self.pass, disk: 0, group, node: tree::group(&nodes) }
    }

    pub fn digests(&self, group: u64) -> Message {
        let nodes = self.rows(group).iter().map(tree::chunk_of).collect();
        Message::Digests { pass: self.pass, disk: 0, group, nodes }
    }

    pub fn leaves(&self, index: u64) -> Message {
        let leaves = Box::new(tree::leaves(self.chunk_bytes(index)));
        Message::Leaves { pass: self.pass, disk: 0, index, leaves }
    }

    pub fn patch(&self, index: u64, leaves: u16) -> Message {
        let chunk = self.chunk_bytes(index);
        let data =
            ranges(leaves, chunk.len()).into_iter().map(|range| &chunk[range]).collect::<Vec<_>>().concat();
        let (epoch, pass, node) = (self.epoch, self.pass, tree::chunk(&data));
        Message::Patch { epoch, pass, disk: 0, index, leaves, encoding: Encoding::Raw, node, data }
    }

    /// A full pass of all chunks, if one is asked for.
    pub async fn full(&mut self) -> Result<()> {
        if !self.full {
            return Ok(());
        }
        self.start(PassKind::Full).await?;
        for index in 0..self.chunks() {
            let frame = self.chunk(index).to_frame();
            self.stream(index as usize % 2, &frame).await?;
        }
        self.end(self.chunks()).await.map(drop)
    }

    /// Ends a pass; how many chunks differed.
    async fn end(&mut self, chunks: u64) -> Result<u64> {
        self.say(Message::EndPass { pass: self.pass, chunks }).await?;
        match self.hear().await? {
            Message::PassDone { differing, .. } => Ok(differing),
            other => bail!("{other:?}"),
        }
    }

    /// A compare pass; how many chunks differed.
    pub async fn compare(&mut self) -> Result<u64> {
        self.start(PassKind::Compare).await?;
        let mut differing = 0;
        for group in 0..self.chunks().div_ceil(GROUP) {
            self.say(self.group(group)).await?;
            match self.hear().await? {
                Message::Compared { equal: true, .. } => continue,
                Message::Compared { equal: false, .. } => {}
                other => bail!("{other:?}"),
            }
            self.say(self.digests(group)).await?;
            let Message::Wanted { chunks, .. } = self.hear().await? else { bail!("no Wanted") };
            for index in (0..GROUP).filter(|i| chunks & 1 << i != 0).map(|i| group * GROUP + i) {
                self.say(self.leaves(index)).await?;
                let Message::WantedLeaves { leaves, .. } = self.hear().await? else {
                    bail!("no WantedLeaves")
                };
                let patch = self.patch(index, leaves).to_frame();
                self.stream(index as usize % 2, &patch).await?;
                differing += 1;
            }
        }
        self.end(differing).await
    }

    /// From verified to committed. The receiver waits for [`Message::Done`].
    pub async fn commit(&mut self) -> Result<()> {
        let facts = SourceFacts { disks: vec![SourceDiskFacts::default()], ..SourceFacts::default() };
        self.commit_with(serde_json::to_vec(&facts)?).await
    }

    /// The same with other facts.
    pub async fn commit_with(&mut self, facts: Vec<u8>) -> Result<()> {
        let mut builder = RootBuilder::default();
        for group in 0..self.chunks().div_ceil(GROUP) {
            builder.push(&tree::group(&self.rows(group).iter().map(tree::chunk_of).collect::<Vec<_>>()));
        }
        self.say(Message::Roots { roots: vec![builder.finish(self.bytes.len() as u64, 512)] }).await?;
        let roots = self.hear().await?;
        anyhow::ensure!(matches!(roots, Message::Roots { .. }), "{roots:?}");
        self.say(Message::Finish { facts }).await?;
        loop {
            match self.hear().await? {
                Message::Progress { .. } => {}
                Message::Committed { .. } => return Ok(()),
                other => bail!("{other:?}"),
            }
        }
    }

    pub async fn farewell(&mut self) -> Result<()> {
        self.farewell_with(None).await
    }

    pub async fn farewell_with(&mut self, signature: Option<[u8; 64]>) -> Result<()> {
        self.say(Message::Done { signature }).await?;
        let bye = self.hear().await?;
        anyhow::ensure!(bye == Message::Bye, "{bye:?}");
        Ok(())
    }
}

/// What a [`FakeReceiver`] says on the control link instead of the honest answer, as frames.
pub type Say = Box<dyn Fn(&Message) -> Vec<Vec<u8>> + Send + Sync>;

/// A receiver that keeps nothing but a list of what came.
pub struct FakeReceiver {
    /// Bytes of its disk.
    pub size: u64,
    /// The message to which the lie is the answer, by tag, and the lie.
    pub lie: Option<(u16, Say)>,
    /// Whether it says that everything differs.
    pub differs: bool,
    /// After so many chunks of an epoch, which it acknowledges one by one, it breaks all connections.
    pub cut_after: Option<u64>,
    /// Data streams are answered by somebody else.
    pub impostor: bool,
    /// Instead of a lie it breaks all connections.
    pub hangs_up: bool,
    /// What becomes of its report before it is signed.
    pub spoils: Spoils,
}

/// Changes a report, as JSON.
pub type Spoils = fn(&mut serde_json::Value);

/// What a [`FakeReceiver`] has taken.
#[derive(Default)]
pub struct Taken {
    /// Extents of full passes, as they were acknowledged.
    pub extents: Vec<Extent>,
    pub epochs: u64,
    /// The sender, as it has said.
    machine: String,
    disks: Vec<DiskInfo>,
    roots: Vec<Hash>,
    /// Its key, as it has shown.
    key: Option<PublicKey>,
    /// Why it gave up.
    pub fault: Option<PeerFault>,
}

impl Taken {
    /// What an honest receiver reports that has changed nothing.
    fn report(&self, facts: SourceFacts, identity: &TlsIdentity) -> Result<Report> {
        let hex = |key: Option<PublicKey>| key.map(|key| tree::hex(&key)).unwrap_or_default();
        let machine = |name: &str, key| NamedMachine { name: name.into(), key, ..NamedMachine::default() };
        let disk = |(info, root): (&DiskInfo, &Hash)| {
            let DiskInfo { path, serial, model, size, .. } = info.clone();
            let root = tree::hex(root);
            let nodes = vec![root.clone(); tree::groups(size) as usize];
            DiskReport {
                source: NamedDisk { path, serial, model, size, wwn: String::new() },
                target: NamedDisk { path: "fake".into(), size, ..NamedDisk::default() },
                sector_size: info.sector_size,
                after: Some(After { root: root.clone(), span: CHUNK * GROUP, nodes, ..After::default() }),
                root,
                ..DiskReport::default()
            }
        };
        let mut report = Report {
            version: VERSION,
            state: State::Verified,
            source: machine(&self.machine, hex(self.key)),
            target: machine("fake", hex(Some(identity.public_key()?))),
            disks: self.disks.iter().zip(&self.roots).map(disk).collect(),
            ..Report::default()
        };
        report.verified(facts).map_err(anyhow::Error::msg)?;
        Ok(report)
    }
}

impl FakeReceiver {
    pub fn honest(size: u64) -> Self {
        Self {
            size,
            lie: None,
            differs: false,
            cut_after: None,
            impostor: false,
            hangs_up: false,
            spoils: |_| (),
        }
    }

    /// Listens for ever, or until the task that waits for it is dropped.
    pub async fn start(self) -> (SocketAddr, Arc<Mutex<Taken>>, JoinSet<()>) {
        let listener = TcpListener::bind(anywhere()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::<Mutex<Taken>>::default();
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&taken);
        tasks.spawn(async move {
            loop {
                // Whatever made an epoch fail: the test looks at the sender.
                drop(self.epoch(&listener, &shared).await);
            }
        });
        (address, taken, tasks)
    }

    /// One control link and the streams that come meanwhile.
    async fn epoch(&self, listener: &TcpListener, taken: &Mutex<Taken>) -> Result<()> {
        let (ours, other) = (TlsIdentity::generate()?, TlsIdentity::generate()?);
        let mut tasks = JoinSet::new();
        let (heard, mut control) = mpsc::channel(64);
        let (frames, mut data) = mpsc::channel(64);
        let mut say = None;
        let mut acknowledged = 0;
        let mut waiting: Option<Message> = None;
        taken.lock().unwrap().epochs += 1;
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (tcp, peer) = accepted?;
                    let identity = if self.impostor && say.is_some() { &other } else { &ours };
                    let mut link = Link::accept(tcp, peer, identity).await?;
                    match link.receive().await? {
                        Message::PairProof { .. } => {
                            link.prove_as_listener(&code()).await?;
                            taken.lock().unwrap().key = Some(key_of(&link.peer_certificate)?);
                            let (mut reader, writer) = link.split();
                            say = Some(writer);
                            let heard = heard.clone();
                            tasks.spawn(async move {
                                while heard.send(reader.receive().await).await.is_ok() {}
                            });
                        }
                        _ => {
                            let (mut reader, frames) = (link.patient().split().0, frames.clone());
                            tasks.spawn(async move {
                                while let Ok(message) = reader.receive_any().await {
                                    drop(frames.send(message).await);
                                }
                            });
                        }
                    }
                }
                Some(message) = control.recv() => {
                    let message = message.inspect_err(|error| {
                        taken.lock().unwrap().fault = error.downcast_ref::<PeerFault>().cloned();
                    })?;
                    if matches!(message, Message::EndPass { chunks, .. } if !self.differs && chunks > acknowledged) {
                        waiting = Some(message);
                        continue;
                    }
                    let writer = say.as_mut().context("no control link")?;
                    let answer = match &self.lie {
                        Some((on, _)) if *on == message.tag() && self.hangs_up => return Ok(()),
                        Some((on, say)) if *on == message.tag() => say(&message),
                        _ => self.answer(&message, taken, &ours)?.iter().map(Message::to_frame).collect(),
                    };
                    for frame in answer {
                        writer.send_frame(&frame).await?;
                    }
                }
                Some(frame) = data.recv() => {
                    let (pass, extent) = match frame {
                        Message::Chunk { pass, index, .. } => (pass, Extent { first: index, count: 1 }),
                        Message::Zeroes { pass, extent, .. } => (pass, extent),
                        _ => continue,
                    };
                    taken.lock().unwrap().extents.push(extent);
                    let ack = Message::Ack { pass, disk: 0, extents: vec![extent] };
                    say.as_mut().context("no control link")?.send_frame(&ack.to_frame()).await?;
                    acknowledged += extent.count;
                    if self.cut_after.is_some_and(|after| acknowledged >= after) {
                        return Ok(());
                    }
                    if let Some(message) = waiting.take_if(
                        |end| matches!(end, Message::EndPass { chunks, .. } if *chunks <= acknowledged),
                    ) {
                        drop(heard.send(Ok(message)).await);
                    }
                }
            }
        }
    }

    fn answer(
        &self,
        message: &Message,
        taken: &Mutex<Taken>,
        identity: &TlsIdentity,
    ) -> Result<Vec<Message>> {
        Ok(vec![match message {
            Message::Hello { machine, disks, .. } => {
                let mut taken = taken.lock().unwrap();
                (taken.machine, taken.disks) = (machine.clone(), disks.clone());
                let (stage, disks) = (Stage::Receiving, vec![disk_info(self.size)]);
                Message::Offer { version: 2, stage, machine: "fake".into(), disks }
            }
            Message::Assign { pairs } => {
                let taken = taken.lock().unwrap();
                let mut durable = taken.extents.clone();
                durable.sort_by_key(|extent| extent.first);
                let full = durable.iter().map(|extent| extent.count).sum::<u64>() < tree::chunks(self.size);
                let disks = vec![DiskState { source: pairs[0].0, target: pairs[0].1, durable }];
                Message::Begin { epoch: taken.epochs, token: [1; 32], full, disks }
            }
            Message::EndPass { pass, chunks } => {
                Message::PassDone { pass: *pass, differing: if self.differs { *chunks } else { 0 } }
            }
            &Message::Group { pass, disk, group, .. } => {
                Message::Compared { pass, disk, group, equal: !self.differs }
            }
            &Message::Digests { pass, disk, group, .. } => Message::Wanted { pass, disk, group, chunks: 1 },
            &Message::Leaves { pass, disk, index, .. } => {
                Message::WantedLeaves { pass, disk, index, leaves: 1 }
            }
            Message::Roots { roots } => {
                taken.lock().unwrap().roots.clone_from(roots);
                Message::Roots { roots: roots.clone() }
            }
            Message::Finish { facts } => {
                let facts = SourceFacts::parse(facts).map_err(anyhow::Error::msg)?;
                let mut report = serde_json::to_value(taken.lock().unwrap().report(facts, identity)?)?;
                (self.spoils)(&mut report);
                let report = serde_json::to_vec(&report)?;
                Message::Committed { signature: sign(identity, End::Target, &report)?, report }
            }
            Message::Done { .. } => Message::Bye,
            _ => return Ok(Vec::new()),
        }])
    }
}
