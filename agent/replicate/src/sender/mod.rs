//! The sending end: dials, pairs, runs passes, and holds the source until the commit is acknowledged.

mod arrived;
mod compare;
mod epoch;
mod farewell;
mod map;
mod produce;
mod told;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gantry_disk::{BadSectors, DiskError, ReadAt};
use gantry_wire::Code;

use self::produce::SourceDisk;
use self::told::Told;
use crate::event::{Event, Events};
use crate::kept::Kept;
use crate::link::{PeerFault, Unanswered};
use crate::report::Part;
use crate::source::{Sources, sources};
use crate::stop::Stop;
use crate::throttle::Throttle;
use crate::tls::TlsIdentity;

/// How a sender is set up.
pub struct SendOptions {
    /// Where the receiver listens: an address and port, or a name and port.
    pub address: String,
    /// The pairing code.
    pub code: Code,
    /// The disks of this machine.
    pub disks: Vec<Arc<dyn ReadAt>>,
    /// Whether also what is unused is read.
    pub whole: bool,
    /// What becomes of sectors that cannot be read.
    pub bad_sectors: BadSectors,
    /// Pairs of source and target disk, by path or serial number; what is not named is proposed.
    pub map: Vec<(String, String)>,
    /// Data streams.
    pub streams: u8,
    /// How fast it may be; kept by the caller, it can be changed while this runs.
    pub throttle: Throttle,
    /// Asked before the target may finish: an error (a [`Stop`]) if something has written to the source.
    pub unchanged: Box<dyn Fn() -> Result<()> + Send + Sync>,
    /// What this machine is called, for the other end.
    pub machine: String,
    /// What the software is called, for the other end.
    pub software: String,
}

/// A sender between epochs: what it has read is still known after a lost link.
struct Sender {
    options: SendOptions,
    identity: TlsIdentity,
    disks: Arc<Vec<SourceDisk>>,
    volumes: Vec<Part>,
    begun: AtomicBool,
    /// What was said with the last Finish.
    told: Mutex<Option<Told>>,
    /// Set once the receiver has said that it committed: from then on only the farewell is missing.
    committed: Mutex<Option<(Kept, Instant)>>,
    events: Events,
}

/// What a session cost.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The report, as both ends signed it.
    pub kept: Kept,
    /// Bytes of frames on the data streams.
    pub wire_bytes: u64,
    /// Chunks (1 MiB) that crossed more than once in full passes.
    pub resent_chunks: u64,
}

/// Gives one machine. Returns when the receiver has committed it. A lost link is tried again for ever, with growing
/// pauses up to 30 s; what cannot get better by trying is an error.
pub async fn send(options: SendOptions, events: Events) -> Result<Sent> {
    let Sources { disks, volumes } = sources(&options.disks, options.bad_sectors, options.whole, &events)?;
    let disks = Arc::new(disks.into_iter().map(SourceDisk::new).collect());
    let identity = TlsIdentity::generate()?;
    let sender = Sender {
        options,
        identity,
        disks,
        volumes,
        begun: AtomicBool::new(false),
        told: Mutex::default(),
        committed: Mutex::default(),
        events,
    };
    let (mut wait, mut unanswered) = (1, 0);
    loop {
        match sender.epoch().await {
            Ok(kept) => return Ok(sender.sent(kept)),
            Err(error) => {
                if let Some((kept, since)) = sender.known_commit()
                    && (is_final(&error) || since.elapsed() > FAREWELL)
                {
                    // The receiver has most likely heard us and gone to start its replica.
                    return Ok(sender.sent(kept));
                }
                if is_final(&error) {
                    return Err(error);
                }
                // An epoch that had begun says that the other end is there: no reason to wait longer and longer.
                if sender.begun.swap(false, Ordering::Relaxed) {
                    wait = 1;
                }
                unanswered = if error.is::<Unanswered>() { unanswered + 1 } else { 0 };
                let hint = match unanswered {
                    _ if sender.known_commit().is_some() => "",
                    HINT_AFTER.. => GONE,
                    1.. if is_refused(&error) => CLOSED,
                    _ => "",
                };
                sender.events.tell(Event::Lost { reason: format!("{error:#}{hint}"), wait });
                tokio::time::sleep(Duration::from_secs(wait)).await;
                wait = (wait * 2).min(30);
            }
        }
    }
}

impl Sender {
    fn told(&self) -> Option<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn known_commit(&self) -> Option<(Kept, Instant)> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn sent(&self, kept: Kept) -> Sent {
        let resent_chunks = self.disks.iter().map(|disk| disk.resent.load(Ordering::Relaxed)).sum();
        let wire_bytes = self.disks.iter().map(|disk| disk.source.tally.sent.load(Ordering::Relaxed)).sum();
        Sent { kept, wire_bytes, resent_chunks }
    }
}

/// Once the commit is known, the farewell is tried for so long: the receiver waits for it before it starts the replica.
const FAREWELL: Duration = Duration::from_secs(600);

/// Tries in a row that nobody answered before it is said what that may mean.
const HINT_AFTER: u32 = 3;

/// A machine is there, and nobody listens: most often what was forgotten.
const CLOSED: &str = "; does gantry receive run there, and is the port open?";

/// A sender that died after its last word and was started again cannot know it: the receiver has gone, and only people can
/// tell a target that has become the machine from one that has yet to be switched on.
const GONE: &str = "; is gantry receive running there? If this machine was sent before and the target has said \"committed\", \
                    or runs as this machine already, then it is done: press ^C here";

/// Whether dialling again is pointless: the source is at fault, or the other end said no.
fn is_final(error: &anyhow::Error) -> bool {
    let no = error.downcast_ref::<PeerFault>().is_some_and(|peer| !peer.fault.retry_may_help());
    no || error.chain().any(|cause| cause.is::<DiskError>() || cause.is::<Stop>())
}

/// Whether the other machine is there and said that nobody listens.
fn is_refused(error: &anyhow::Error) -> bool {
    let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(refused))
}

async fn resolve(address: &str) -> Result<SocketAddr> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let mut found =
        tokio::net::lookup_host(address).await.with_context(|| format!("looking up {address}"))?;
    found.next().with_context(|| format!("{address} has no address"))
}
