//! The receiving end: listens, pairs, runs epochs one after the other, finishes, and lets go when the sender has.

mod compare;
mod door;
mod epoch;
mod farewell;
mod said;
mod session;
mod stream;
mod work;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use gantry_disk::DiskError;
use gantry_disk::label::LabelStage;
use gantry_wire::message::Fault;
use gantry_wire::{Code, DiskInfo, Message, Stage, Version, tree};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::door::{Arrival, Door};
use self::farewell::Ending;
use self::session::{Finish, Finishing, Session};
pub use self::session::{TargetDisk, disk_info};
use self::work::fault_of;
use crate::commit::{Finisher, Verified, finish};
use crate::event::{Event, Events};
use crate::kept::{Kept, prepare};
use crate::link::{Inbox, Link, LinkReader, Outbox, PeerFault};
use crate::random;
use crate::report::{self, DiskReport, NamedDisk, NamedMachine, Report, clock};
use crate::stop::Stop;
use crate::tls::{PublicKey, TlsIdentity, key_of};

/// How a receiver is set up.
pub struct ReceiveOptions {
    /// The pairing code.
    pub code: Code,
    /// First 8 bytes of the job tag, for the labels.
    pub job: [u8; 8],
    /// How long the code may be used for the first pairing.
    pub code_valid: Duration,
    /// Disks that were named or found.
    pub disks: Vec<TargetDisk>,
    /// The report of this very job if it was committed before this process was started again: then the sender is
    /// only told so.
    pub committed: Option<Report>,
    /// What this machine is called, for the other end.
    pub machine: String,
    /// What the software is called, for the report.
    pub software: String,
}

/// The epoch that is running, as the door needs to know it.
struct Running {
    cancel: CancellationToken,
    joins: mpsc::Sender<LinkReader>,
    token: [u8; 32],
    certificate: Vec<u8>,
}

/// How an epoch ended.
enum End {
    /// Committed, and the sender knows.
    Done(Box<Kept>),
    /// Cannot be finished without a person; the disks still carry their labels.
    Stuck(String),
    /// The link or a disk failed; another epoch may follow.
    Lost(String),
}

/// The pairing code cannot be used any more. Where it is kept, it must go: a receiver that is started again must not take it up.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CodeVoid(String);

/// Takes one machine from whoever dials `listener` and knows the code. Returns when it is committed and the sender has let go.
///
/// # Errors
/// [`CodeVoid`]; a repair that needs a person, or a sender that does not take the report: [`Stop`]. Lost links are not
/// errors: it waits.
pub async fn receive(
    listener: std::net::TcpListener,
    mut options: ReceiveOptions,
    finisher: Box<dyn Finisher>,
    events: Events,
) -> Result<Kept> {
    listener.set_nonblocking(true).context("listening")?;
    let listener = TcpListener::from_std(listener).context("listening")?;
    let address = listener.local_addr().context("asking for the own address")?;
    events.tell(Event::Listening { address: address.to_string() });
    let identity = TlsIdentity::generate()?;
    if let Some(report) = &mut options.committed {
        report.target.key = tree::hex(&identity.public_key()?);
        prepare(report)?;
    }
    let door = Door::new(options.code.clone(), Instant::now() + options.code_valid);
    let (arrivals, mut arrived) = mpsc::channel(4);
    let host = Arc::new(Host {
        options,
        events: events.clone(),
        session: Mutex::new(None),
        finisher: finisher.into(),
        identity: identity.clone(),
    });
    let _listening =
        AbortOnDropHandle::new(tokio::spawn(door.listen(listener, identity, arrivals, events.clone())));
    let (ends, mut ended) = mpsc::channel(4);
    let mut running: Option<Running> = None;
    loop {
        tokio::select! {
            arrival = arrived.recv() => match arrival.context("the listener is gone")? {
                Arrival::Void(text) => return Err(CodeVoid(text).into()),
                Arrival::Control(link) => {
                    // The newest dialler who knows the code wins: a dead link may look alive for long.
                    if let Some(running) = running.take() {
                        running.cancel.cancel();
                    }
                    let cancel = CancellationToken::new();
                    let (joins, joined) = mpsc::channel(16);
                    let token = random::bytes()?;
                    let certificate = link.peer_certificate.clone();
                    running = Some(Running { cancel: cancel.clone(), joins, token, certificate });
                    let (host, ends) = (Arc::clone(&host), ends.clone());
                    tokio::spawn(async move {
                        let end = host.serve(link, joined, token, cancel).await;
                        drop(ends.send(end).await);
                    });
                }
                Arrival::Data { link, token } => {
                    if let Some(running) = &running
                        && token == running.token
                        && link.peer_certificate == running.certificate
                    {
                        // A full queue means more streams than any sender opens: the stream is dropped.
                        drop(running.joins.try_send(link.patient().split().0));
                    }
                }
            },
            end = ended.recv() => match end.context("the epochs are gone")? {
                End::Done(kept) => return Ok(*kept),
                End::Stuck(text) => return Err(Stop(text).into()),
                End::Lost(reason) => events.tell(Event::Lost { reason, wait: 0 }),
            },
        }
    }
}

struct Host {
    options: ReceiveOptions,
    events: Events,
    /// Held by the epoch that runs: the next one waits here until the last one has drained (law 4).
    session: Mutex<Option<Session>>,
    finisher: Arc<dyn Finisher>,
    identity: TlsIdentity,
}

impl Host {
    async fn serve(
        &self,
        link: Link,
        joins: mpsc::Receiver<LinkReader>,
        token: [u8; 32],
        cancel: CancellationToken,
    ) -> End {
        let mut slot = self.session.lock().await;
        if cancel.is_cancelled() {
            return End::Lost("another connection has taken over".to_owned());
        }
        let key = key_of(&link.peer_certificate);
        let (mut inbox, outbox) = link.into_channels(cancel);
        let outcome = match &key {
            Ok(key) => self.epoch(&mut slot, &mut inbox, &outbox, joins, token, key).await,
            Err(error) => Err(anyhow!("{error:#}")),
        };
        let end = match outcome {
            Ok(Ending::Committed(kept)) => End::Done(kept),
            Ok(Ending::Disowned(text)) => {
                End::Stuck(format!("the replica is committed, but the source does not agree: {text}"))
            }
            Ok(Ending::Failed(text)) => {
                drop(outbox.say(Message::Error { fault: Fault::Refused, text: text.clone() }).await);
                End::Stuck(text)
            }
            Ok(Ending::Stumbled(text)) => {
                drop(outbox.say(Message::Error { fault: Fault::Disk, text: text.clone() }).await);
                End::Lost(text)
            }
            Err(error) => {
                let text = format!("{error:#}");
                if !error.is::<PeerFault>() {
                    let fault = error.downcast_ref::<Refusal>().map_or(fault_of(&error), |_| Fault::Refused);
                    drop(outbox.say(Message::Error { fault, text: text.clone() }).await);
                }
                End::Lost(text)
            }
        };
        outbox.close().await;
        end
    }

    async fn epoch(
        &self,
        slot: &mut Option<Session>,
        inbox: &mut Inbox,
        outbox: &Outbox,
        mut joins: mpsc::Receiver<LinkReader>,
        token: [u8; 32],
        sender: &PublicKey,
    ) -> Result<Ending> {
        let (sources, machine) = match inbox.next().await? {
            Message::Hello { versions, software: _, machine, disks } => {
                if Version::negotiate(&versions).is_none() {
                    let text = Version::refusal(&versions, "source", "target");
                    drop(outbox.say(Message::Error { fault: Fault::Version, text: text.clone() }).await);
                    bail!(text);
                }
                (disks, machine)
            }
            other => bail!("expected Hello, not message {}", other.tag()),
        };
        self.events.tell(Event::Paired { peer: machine.clone() });
        let committed = self.options.committed.clone().map(|report| Finish::Committed(Box::new(report)));
        let stage = match &committed {
            Some(_) => Stage::Committed,
            None => slot.as_ref().map_or(Stage::Receiving, Session::stage),
        };
        let disks = self.options.disks.iter().map(|disk| disk.info.clone()).collect();
        let version = Version::V2.number();
        let offer = Message::Offer { version, stage, machine: self.options.machine.clone(), disks };
        outbox.say(offer).await?;
        if let Some(committed) = committed {
            let finish = watch::channel(Finishing::new(committed)).1;
            return farewell::follow(finish, inbox, outbox, &self.identity).await;
        }
        if stage == Stage::Receiving {
            let pairs = match inbox.next().await? {
                Message::Assign { pairs } => pairs,
                other => bail!("expected Assign, not message {}", other.tag()),
            };
            self.begin(slot, random::bytes()?, &sources, &pairs, machine)?;
            let Some(session) = slot.as_mut() else { bail!("no session") };
            let states = session.states(&pairs);
            let durable = states.iter().flat_map(|state| &state.durable).map(|extent| extent.count).sum();
            self.events.tell(Event::Epoch { epoch: session.epoch, durable_chunks: durable });
            outbox
                .say(Message::Begin { epoch: session.epoch, token, full: session.full(), disks: states })
                .await?;
            epoch::run(session, inbox, outbox, &mut joins, &self.events).await?;
            self.start_finish(session, sender)?;
        }
        let finish =
            slot.as_ref().and_then(|session| session.finish.clone()).context("nothing is being finished")?;
        farewell::follow(finish, inbox, outbox, &self.identity).await
    }

    /// A new session, or a further epoch of the one that is there.
    fn begin(
        &self,
        slot: &mut Option<Session>,
        id: [u8; 16],
        sources: &[DiskInfo],
        pairs: &[(u16, u16)],
        machine: String,
    ) -> Result<()> {
        if pairs.is_empty() {
            return Err(Refusal("no disk was assigned".to_owned()).into());
        }
        // Finishing has changed the medium and the held heads: what was known no longer holds (law 6).
        if slot.as_ref().is_some_and(|session| session.finish.is_some()) {
            *slot = None;
        }
        if let Some(session) = slot.as_mut()
            && session.matches(sources, pairs)
        {
            // A sender that was started again may call its disks something else: the report says what it says now.
            session.report.source.name = machine;
            for (told, (source, _)) in session.report.disks.iter_mut().zip(pairs) {
                let info = sources.get(usize::from(*source)).context("a source disk that is not there")?;
                told.source = source_of(info);
            }
            return session.next_epoch();
        }
        let named: HashSet<u16> = pairs.iter().map(|(source, _)| *source).collect();
        if named.len() != pairs.len() {
            return Err(Refusal("a source disk is assigned twice".to_owned()).into());
        }
        let begun = Session::begin(id, self.options.job, sources, &self.options.disks, pairs);
        let mut session = begun.map_err(|error| match error.downcast_ref::<DiskError>() {
            Some(disk) if disk.retry_may_help() => error,
            _ => anyhow!(Refusal(format!("{error:#}"))),
        })?;
        for disk in session.disks.iter() {
            let (source, target) = (disk.source.path.clone(), disk.replica.end().identity().path.clone());
            self.events.tell(Event::Mapped { source, target, size: disk.source.size });
        }
        let named = |name: String, software: &str| NamedMachine {
            name,
            software: software.to_owned(),
            ..NamedMachine::default()
        };
        session.report = Report {
            version: report::VERSION,
            session: tree::hex(&session.id),
            source: named(machine, ""),
            target: named(self.options.machine.clone(), &self.options.software),
            began: clock(),
            disks: session.disks.iter().map(disk_report).collect(),
            ..Report::default()
        };
        *slot = Some(session);
        Ok(())
    }

    /// Starts the finishing thread for a source with this key. It goes on whatever happens to the link: all it needs is here.
    fn start_finish(&self, session: &mut Session, sender: &PublicKey) -> Result<()> {
        let mut report = session.report.clone();
        report.source.key = tree::hex(sender);
        report.target.key = tree::hex(&self.identity.public_key()?);
        for (report, disk) in report.disks.iter_mut().zip(session.disks.iter()) {
            report.root = disk.root().map(|root| tree::hex(&root)).unwrap_or_default();
            report.rewritten_chunks = disk.known().rewritten;
        }
        let labels =
            (0..session.disks.len()).map(|i| session.label(i, LabelStage::Repairing)).collect::<Vec<_>>();
        let mut finishing = Finishing::new(Finish::Working(Stage::Repairing));
        finishing.said.push("the replica is verified".to_owned());
        let (finishing, watch) = watch::channel(finishing);
        session.finish = Some(watch);
        let disks = Arc::clone(&session.disks);
        let (finisher, events) = (Arc::clone(&self.finisher), self.events.clone());
        let work = move || {
            let verified = disks.iter().zip(labels).map(|(disk, label)| Verified {
                replica: &disk.replica,
                label,
                groups: disk.known().groups.clone(),
            });
            let verified: Vec<_> = verified.collect();
            let tell = |stage: Stage, text: &str| {
                events.tell(Event::Stage { text: text.to_owned() });
                finishing.send_modify(|finishing| {
                    finishing.said.push(text.to_owned());
                    finishing.state = Finish::Working(stage);
                });
            };
            let end = match finish(&verified, &*finisher, &mut report, &tell, &events) {
                Ok(()) => {
                    events.tell(Event::Committed);
                    Finish::Committed(Box::new(report))
                }
                Err(error) if fault_of(&error) == Fault::Disk => Finish::Stumbled(format!("{error:#}")),
                Err(error) => Finish::Failed(format!("{error:#}")),
            };
            finishing.send_modify(|finishing| finishing.state = end);
        };
        std::thread::Builder::new()
            .name("finish".to_owned())
            .spawn(work)
            .context("starting the finishing thread")?;
        Ok(())
    }
}

/// A disk as it is known when the session begins.
fn disk_report(disk: &session::SessionDisk) -> DiskReport {
    DiskReport {
        source: source_of(&disk.source),
        target: NamedDisk::of(&**disk.replica.end()),
        sector_size: disk.source.sector_size,
        ..DiskReport::default()
    }
}

/// A disk as the sender calls it.
fn source_of(info: &DiskInfo) -> NamedDisk {
    let DiskInfo { path, serial, model, size, sector_size: _, refusal: _ } = info.clone();
    NamedDisk { path, serial, model, size, wwn: String::new() }
}

/// Disks that do not fit or may not be erased: a person must change something.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);
