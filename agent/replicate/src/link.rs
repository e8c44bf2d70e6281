//! A TLS connection that carries frames.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use gantry_wire::limits::{FRAME_PAYLOAD, UNPAIRED_PAYLOAD};
use gantry_wire::message::{Fault, HEADER, decode_header};
use gantry_wire::pairing::{EXPORTER_LABEL, proof, proof_matches};
use gantry_wire::{Code, Message, Role};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::tls::TlsIdentity;

/// A connection that does not complete a handshake in this time is dropped.
pub const HANDSHAKE: Duration = Duration::from_secs(20);
/// A link on which nothing arrives for this long is dead. Pings come every [`PING`].
pub const SILENCE: Duration = Duration::from_secs(30);
/// A peer whose disk is slow takes nothing for a while; whether it lives, the pings on the control link say.
const STALL: Duration = Duration::from_secs(600);
/// How often an idle end says that it is alive.
pub const PING: Duration = Duration::from_secs(5);

/// What to do about a wrong code.
const NEW_CODE: &str = "a receiver that was started again without --code-file has a new code: start send again with the \
                        code that it shows";

/// Seconds after which a silent connection is probed.
const PROBE: u32 = 30;

/// What the other end said when it gave up.
#[derive(Debug, Clone)]
pub struct PeerFault {
    /// Why.
    pub fault: Fault,
    /// In its words.
    pub text: String,
}

impl fmt::Display for PeerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the other end says: {}", self.text)
    }
}

impl std::error::Error for PeerFault {}

/// Nobody answered there: no listener, no way to it, or silence.
#[derive(Debug, thiserror::Error)]
#[error("connecting to {0}")]
pub struct Unanswered(SocketAddr);

/// A framed TLS connection.
pub struct Link {
    reader: LinkReader,
    writer: LinkWriter,
    exporter: [u8; 32],
    /// The certificate that the peer has proved to hold.
    pub peer_certificate: Vec<u8>,
    /// Where the peer is.
    pub peer: SocketAddr,
}

/// Reads frames.
pub struct LinkReader {
    stream: ReadHalf<TlsStream<TcpStream>>,
    limit: usize,
}

/// Writes frames.
pub struct LinkWriter {
    stream: WriteHalf<TlsStream<TcpStream>>,
    patience: Duration,
}

impl Link {
    /// Dials.
    pub async fn connect(address: SocketAddr, identity: &TlsIdentity) -> Result<Self> {
        let tcp = timeout(HANDSHAKE, TcpStream::connect(address)).await;
        let tcp = tcp.context("no answer").and_then(|tcp| Ok(tcp?)).context(Unanswered(address))?;
        let connector = TlsConnector::from(identity.client.clone());
        let tls = timeout(HANDSHAKE, connector.connect(TlsIdentity::server_name(), tcp)).await;
        let tls = tls.context("no answer")?.with_context(|| format!("TLS handshake with {address}"))?;
        Self::new(TlsStream::Client(tls), address)
    }

    /// Answers somebody who dialled.
    pub async fn accept(tcp: TcpStream, peer: SocketAddr, identity: &TlsIdentity) -> Result<Self> {
        let acceptor = TlsAcceptor::from(identity.server.clone());
        let tls = timeout(HANDSHAKE, acceptor.accept(tcp)).await.context("no TLS handshake in time")?;
        Self::new(TlsStream::Server(tls.context("TLS handshake")?), peer)
    }

    fn new(tls: TlsStream<TcpStream>, peer: SocketAddr) -> Result<Self> {
        tls.get_ref().0.set_nodelay(true).context("setting TCP_NODELAY")?;
        probe(tls.get_ref().0).context("setting TCP keep-alive")?;
        let (certificate, exporter) = {
            let (certificates, exporter) = match &tls {
                TlsStream::Client(tls) => {
                    let connection = tls.get_ref().1;
                    (
                        connection.peer_certificates(),
                        connection.export_keying_material([0; 32], EXPORTER_LABEL, None),
                    )
                }
                TlsStream::Server(tls) => {
                    let connection = tls.get_ref().1;
                    (
                        connection.peer_certificates(),
                        connection.export_keying_material([0; 32], EXPORTER_LABEL, None),
                    )
                }
            };
            let certificate =
                certificates.and_then(|c| c.first()).context("the peer showed no certificate")?;
            (certificate.to_vec(), exporter.context("TLS exporter")?)
        };
        let (reader, writer) = tokio::io::split(tls);
        Ok(Self {
            reader: LinkReader { stream: reader, limit: UNPAIRED_PAYLOAD },
            writer: LinkWriter { stream: writer, patience: SILENCE },
            exporter,
            peer_certificate: certificate,
            peer,
        })
    }

    /// The dialler's side of pairing: prove, then hear the proof of the other end.
    pub async fn pair_as_dialler(&mut self, code: &Code) -> Result<()> {
        let mac = proof(code, &self.exporter, Role::Sender);
        self.send(&Message::PairProof { role: Role::Sender, mac }).await?;
        let answer = self.receive().await.map_err(with_remedy);
        match answer.context("waiting for the other end's proof")? {
            Message::PairProof { role: Role::Receiver, mac } => {
                let expected = proof(code, &self.exporter, Role::Receiver);
                if !proof_matches(&expected, &mac) {
                    let text = "the other end does not know the pairing code: is this the right address?";
                    return Err(PeerFault { fault: Fault::WrongCode, text: text.to_owned() }.into());
                }
                self.trust();
                Ok(())
            }
            other => bail!("expected a pairing proof, not message {}", other.tag()),
        }
    }

    /// Whether the dialler's proof is good.
    pub fn check_dialler(&self, code: &Code, role: Role, mac: &[u8; 32]) -> bool {
        role == Role::Sender && proof_matches(&proof(code, &self.exporter, Role::Sender), mac)
    }

    /// The listener's proof, after the dialler's was found good.
    pub async fn prove_as_listener(&mut self, code: &Code) -> Result<()> {
        let mac = proof(code, &self.exporter, Role::Receiver);
        self.send(&Message::PairProof { role: Role::Receiver, mac }).await?;
        self.trust();
        Ok(())
    }

    /// From now on frames of full size are taken.
    pub fn trust(&mut self) {
        self.reader.limit = FRAME_PAYLOAD;
    }

    /// Makes this a data stream: whether the peer lives, the control link says; here only its disk's pace is seen.
    pub fn patient(mut self) -> Self {
        self.trust();
        self.writer.patience = STALL;
        self
    }

    /// Writes one message.
    pub async fn send(&mut self, message: &Message) -> Result<()> {
        self.writer.send(message).await
    }

    /// Reads one message; a peer's error becomes a [`PeerFault`].
    pub async fn receive(&mut self) -> Result<Message> {
        self.reader.receive().await
    }

    /// The two directions, for two tasks.
    pub fn split(self) -> (LinkReader, LinkWriter) {
        (self.reader, self.writer)
    }
}

/// A wrong code is most often no slip of the hand: the receiver has made a new one since.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<PeerFault>() {
        Ok(PeerFault { fault: Fault::WrongCode, text }) => {
            PeerFault { fault: Fault::WrongCode, text: format!("{text}; {NEW_CODE}") }.into()
        }
        Ok(other) => other.into(),
        Err(error) => error,
    }
}

/// In a pause a data stream is silent for as long as people like: probes keep the firewalls on the way from forgetting it.
fn probe(tcp: &TcpStream) -> nix::Result<()> {
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &PROBE)?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &PROBE)
}

/// What a control link hears: messages, then one error, then nothing.
pub struct Inbox {
    messages: mpsc::Receiver<Result<Message>>,
    cancel: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl Inbox {
    /// The next message. Cancel-safe.
    pub async fn next(&mut self) -> Result<Message> {
        tokio::select! {
            message = self.messages.recv() => message.unwrap_or_else(|| Err(anyhow!("the link is closed"))),
            () = self.cancel.cancelled() => Err(anyhow!("another connection has taken over")),
        }
    }
}

/// Says things on a control link; pings when there is nothing to say. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    messages: mpsc::Sender<Message>,
    task: Arc<AbortOnDropHandle<()>>,
}

impl Outbox {
    /// Queues a message.
    pub async fn say(&self, message: Message) -> Result<()> {
        self.messages.send(message).await.map_err(|_| anyhow!("the link is closed"))
    }

    /// Waits for a place in the queue. Cancel-safe.
    pub async fn reserve(&self) -> Result<mpsc::Permit<'_, Message>> {
        self.messages.reserve().await.map_err(|_| anyhow!("the link is closed"))
    }

    /// Waits, for a limited time, until what was queued has been written and the stream is shut down.
    pub async fn close(self) {
        let Self { messages, task } = self;
        drop(messages);
        if let Some(task) = Arc::into_inner(task) {
            drop(timeout(PING, task).await);
        }
    }
}

impl Link {
    /// Turns a control link into two ends of channels, each served by a task that dies with it. Once cancelled, the
    /// inbox hears nothing but an error.
    pub fn into_channels(self, cancel: CancellationToken) -> (Inbox, Outbox) {
        let (mut reader, mut writer) = self.split();
        let (heard, messages) = mpsc::channel(64);
        let task = tokio::spawn(async move {
            loop {
                let message = reader.receive().await;
                let last = message.is_err();
                if heard.send(message).await.is_err() || last {
                    break;
                }
            }
        });
        let inbox = Inbox { messages, cancel, _task: AbortOnDropHandle::new(task) };
        let (messages, mut queued) = mpsc::channel(64);
        let task = tokio::spawn(async move {
            loop {
                let message = match timeout(PING, queued.recv()).await {
                    Ok(Some(message)) => message,
                    Ok(None) => return writer.close().await,
                    Err(_) => Message::Ping,
                };
                // A broken link is noticed by the reader, which names the cause.
                if writer.send(&message).await.is_err() {
                    break;
                }
            }
        });
        (inbox, Outbox { messages, task: Arc::new(AbortOnDropHandle::new(task)) })
    }
}

impl LinkReader {
    /// Reads one message other than Ping; a peer's error becomes a [`PeerFault`]. Not cancel-safe: a task of its own.
    pub async fn receive(&mut self) -> Result<Message> {
        loop {
            let message = timeout(SILENCE, self.receive_any()).await.context("the link is silent")??;
            match message {
                Message::Ping => {}
                Message::Error { fault, text } => return Err(PeerFault { fault, text }.into()),
                message => return Ok(message),
            }
        }
    }

    /// The same without a limit of silence, for data streams: the control link says whether the peer lives.
    pub async fn receive_any(&mut self) -> Result<Message> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).await.map_err(broken)?;
        let (length, tag) = decode_header(&header, self.limit).context("bad frame")?;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.map_err(broken)?;
        Message::decode(tag, &payload).context("bad message")
    }
}

/// A connection that ends without a farewell, in words for people; TLS has a longer story about it.
fn broken(error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        // Still an I/O error: that is how a fault of the network is told from one of the peer.
        kind @ std::io::ErrorKind::UnexpectedEof => std::io::Error::new(kind, "the connection broke").into(),
        _ => anyhow::Error::from(error).context("reading from the link"),
    }
}

impl LinkWriter {
    /// Writes one message and pushes it out.
    pub async fn send(&mut self, message: &Message) -> Result<()> {
        self.send_frame(&message.to_frame()).await
    }

    /// Writes a frame that was encoded before, or the next piece of one, and pushes it out.
    pub async fn send_frame(&mut self, bytes: &[u8]) -> Result<()> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(self.patience, write).await.context("the link takes nothing")?.context("writing to the link")
    }

    /// Ends the stream in order. The peer has acknowledged before, so a failure changes nothing.
    pub async fn close(mut self) {
        drop(timeout(PING, self.stream.shutdown()).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn linked() -> (Link, Link) {
        let (one, two) = (TlsIdentity::generate().unwrap(), TlsIdentity::generate().unwrap());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = async {
            let (tcp, peer) = listener.accept().await.unwrap();
            Link::accept(tcp, peer, &two).await.unwrap()
        };
        let (dialled, answered) = tokio::join!(Link::connect(address, &one), answer);
        (dialled.unwrap(), answered)
    }

    /// What a paused sender's control link does for an hour: nothing but its pings. The hour is the clock's, not ours.
    #[tokio::test]
    async fn a_link_with_nothing_to_say_lives_as_long_as_it_pings() {
        let (dialled, answered) = linked().await;
        tokio::time::pause();
        let (mut here, _here) = dialled.into_channels(CancellationToken::new());
        let (mut there, _there) = answered.into_channels(CancellationToken::new());
        let hour = Duration::from_secs(3600);
        let heard = timeout(hour, async {
            tokio::select! { m = here.next() => m, m = there.next() => m }
        })
        .await;
        assert!(heard.is_err(), "{:?}", heard.map(|heard| heard.map_err(|error| format!("{error:#}"))));
    }

    #[tokio::test]
    async fn a_link_that_does_not_ping_would_be_given_up() {
        let (dialled, answered) = linked().await;
        tokio::time::pause();
        let (mut here, _here) = dialled.into_channels(CancellationToken::new());
        let _silent = answered.split();
        let heard = timeout(2 * SILENCE, here.next()).await.unwrap();
        assert!(format!("{:#}", heard.unwrap_err()).contains("silent"));
    }
}
