//! After Finish: tells the sender what the finishing thread does, and ends the session when the sender has let go.
//!
//! Both ends sign the report: the receiver sends it with its signature, the sender answers with its own. A sender that was
//! started again since the roots agreed has nothing to compare the report with and does not sign.

use anyhow::{Context, Result, bail};
use gantry_wire::Message;
use gantry_wire::limits::REPORT;
use tokio::sync::watch;

use super::session::Finish;
use crate::kept::{End, Kept, Signature, canonical, check_signature, sign};
use crate::link::{Inbox, Outbox};
use crate::report::Report;
use crate::tls::{PublicKey, TlsIdentity};

/// How finishing ended.
pub enum Ending {
    /// Committed, and the sender knows.
    Committed(Box<Kept>),
    /// It could not; the disks still carry their labels.
    Failed(String),
    /// A disk failed in a way that may pass: the next epoch compares and finishes again.
    Stumbled(String),
}

/// Follows the finishing thread after [`Message::Finish`]; returns when the sender has let go. `sender` is the key that it
/// has shown.
pub async fn follow(
    mut finish: watch::Receiver<Finish>,
    inbox: &mut Inbox,
    outbox: &Outbox,
    identity: &TlsIdentity,
    sender: &PublicKey,
) -> Result<Ending> {
    loop {
        let state = finish.borrow_and_update().clone();
        match state {
            Finish::Working(_, text) => {
                outbox.say(Message::Progress { text }).await?;
            }
            Finish::Failed(text) => return Ok(Ending::Failed(text)),
            Finish::Stumbled(text) => return Ok(Ending::Stumbled(text)),
            Finish::Committed(report) => {
                outbox.say(Message::Progress { text: String::new() }).await?;
                let (report, bytes) = fitting(*report)?;
                let signature = sign(identity, &bytes)?;
                let mut signatures = vec![Signature::new(End::Target, &identity.public_key()?, &signature)];
                outbox.say(Message::Committed { report: bytes.clone(), signature }).await?;
                match inbox.next().await? {
                    Message::Done { signature: None } => {}
                    Message::Done { signature: Some(signature) } => {
                        check_signature(sender, &bytes, &signature).context("the sender's signature")?;
                        signatures.push(Signature::new(End::Source, sender, &signature));
                    }
                    other => bail!("expected Done, not message {}", other.tag()),
                }
                outbox.say(Message::Bye).await?;
                return Ok(Ending::Committed(Box::new(Kept { report, signatures })));
            }
        }
        tokio::select! {
            changed = finish.changed() => changed.context("the finishing thread broke off")?,
            message = inbox.next() => bail!("message {} while finishing", message?.tag()),
        }
    }
}

/// The report as both ends can keep it, and its canonical bytes.
fn fitting(mut report: Report) -> Result<(Report, Vec<u8>)> {
    let mut bytes = canonical(&report)?;
    if bytes.len() > REPORT {
        report.repair = "too long for the wire; kept on the replica".into();
        bytes = canonical(&report)?;
    }
    Ok((report, bytes))
}
