//! The door: accepts connections, asks for the code, counts wrong ones. Nobody gets past it without a proof.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use gantry_wire::message::Fault;
use gantry_wire::{Code, Message, Role};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::event::{Event, Events};
use crate::link::{HANDSHAKE, Link};
use crate::tls::TlsIdentity;

/// Wrong codes before the code is void.
const TRIES: u32 = 5;
/// Connections that are not past the door at one time.
const CROWD: usize = 32;

/// Somebody came in, or nobody ever will.
pub enum Arrival {
    /// A sender who knows the code.
    Control(Link),
    /// A stream that claims to belong to an epoch; its token and certificate are still to be compared.
    Data { link: Link, token: [u8; 32] },
    /// The code is void.
    Void(String),
}

/// The door.
pub struct Door {
    code: Code,
    /// The first pairing must come before this; afterwards the code is good as long as the session.
    expires: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wrong: u32,
    paired: bool,
}

impl Door {
    /// A door for one code.
    pub fn new(code: Code, expires: Instant) -> Arc<Self> {
        Arc::new(Self { code, expires, state: Mutex::default() })
    }

    /// Accepts for ever. Each connection has a task and a time limit of its own.
    pub async fn listen(
        self: Arc<Self>,
        listener: TcpListener,
        identity: TlsIdentity,
        arrivals: mpsc::Sender<Arrival>,
        events: Events,
    ) {
        let crowd = Arc::new(Semaphore::new(CROWD));
        loop {
            let Ok(place) = Arc::clone(&crowd).acquire_owned().await else { return };
            let (tcp, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or a connection that died in the queue: neither ends the listener.
                    events.tell(Event::Refused { peer: "?".to_owned(), reason: error.to_string() });
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (door, identity) = (Arc::clone(&self), identity.clone());
            let (arrivals, events) = (arrivals.clone(), events.clone());
            tokio::spawn(async move {
                let arrival = timeout(2 * HANDSHAKE, door.admit(tcp, peer, &identity)).await;
                drop(place);
                match arrival.unwrap_or_else(|_| bail_silent()) {
                    Ok(arrival) => drop(arrivals.send(arrival).await),
                    Err(error) => {
                        events.tell(Event::Refused { peer: peer.to_string(), reason: format!("{error:#}") });
                        if let Some(text) = door.void() {
                            drop(arrivals.send(Arrival::Void(text)).await);
                        }
                    }
                }
            });
        }
    }

    async fn admit(&self, tcp: TcpStream, peer: SocketAddr, identity: &TlsIdentity) -> Result<Arrival> {
        let mut link = Link::accept(tcp, peer, identity).await?;
        match link.receive().await.context("waiting for a proof")? {
            Message::Join { token } => Ok(Arrival::Data { link, token }),
            Message::PairProof { role, mac } => match self.judge(&link, role, &mac) {
                Ok(()) => {
                    link.prove_as_listener(&self.code).await?;
                    Ok(Arrival::Control(link))
                }
                Err((fault, text)) => {
                    link.send(&Message::Error { fault, text: text.clone() }).await?;
                    link.split().1.close().await;
                    bail!(text)
                }
            },
            other => bail!("message {} before pairing", other.tag()),
        }
    }

    fn judge(&self, link: &Link, role: Role, mac: &[u8; 32]) -> Result<(), (Fault, String)> {
        let right = link.check_dialler(&self.code, role, mac);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.paired && Instant::now() >= self.expires {
            return Err((Fault::CodeVoid, "the pairing code has expired: start receive again".to_owned()));
        }
        if !state.paired && state.wrong >= TRIES {
            return Err((Fault::CodeVoid, "too many wrong codes: start receive again".to_owned()));
        }
        if !right {
            state.wrong += 1;
            return Err(match TRIES.saturating_sub(state.wrong) {
                0 => (Fault::CodeVoid, "wrong pairing code (no try left): start receive again".to_owned()),
                1 => (Fault::WrongCode, "wrong pairing code (1 try left)".to_owned()),
                left => (Fault::WrongCode, format!("wrong pairing code ({left} tries left)")),
            });
        }
        state.paired = true;
        Ok(())
    }

    /// Why the code can no longer be used, if so.
    fn void(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.paired {
            true => None,
            false if state.wrong >= TRIES => {
                Some(format!("{TRIES} wrong pairing codes were tried; this code is void"))
            }
            false if Instant::now() >= self.expires => Some("the pairing code has expired".to_owned()),
            false => None,
        }
    }
}

fn bail_silent() -> Result<Arrival> {
    bail!("no handshake in time")
}
