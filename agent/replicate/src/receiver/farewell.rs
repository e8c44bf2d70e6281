//! After Finish: tells the sender what the finishing thread does, and ends the session when the sender has let go.
//!
//! Both ends sign the report: the receiver sends it with its signature, the sender answers with its own. A sender that was
//! started again since the roots agreed has nothing to compare the report with and does not sign. One that knows that the
//! report is wrong says so, and the session ends without it: nobody may start that replica unasked.

use anyhow::{Context, Result, bail};
use gantry_wire::Message;
use tokio::sync::watch;

use super::session::{Finish, Finishing};
use crate::kept::{End, Kept, sign};
use crate::link::{Inbox, Outbox, PeerFault};
use crate::report::Report;
use crate::tls::TlsIdentity;

/// How finishing ended.
pub enum Ending {
    /// Committed, and the sender knows.
    Committed(Box<Kept>),
    /// Committed, and the sender does not take the report.
    Disowned(String),
    /// It could not; the disks still carry their labels.
    Failed(String),
    /// A disk failed in a way that may pass: the next epoch compares and finishes again.
    Stumbled(String),
}

/// Follows the finishing thread after [`Message::Finish`]; returns when the sender has let go. A sender that has lost its
/// link hears from the beginning what was said: it may be another process.
pub async fn follow(
    mut finish: watch::Receiver<Finishing>,
    inbox: &mut Inbox,
    outbox: &Outbox,
    identity: &TlsIdentity,
) -> Result<Ending> {
    let mut heard = 0;
    loop {
        let (news, state) = {
            let finishing = finish.borrow_and_update();
            (finishing.said.since(&mut heard), finishing.state.clone())
        };
        for text in news {
            outbox.say(Message::Progress { text }).await?;
        }
        match state {
            Finish::Working(_) => {}
            Finish::Failed(text) => return Ok(Ending::Failed(text)),
            Finish::Stumbled(text) => return Ok(Ending::Stumbled(text)),
            Finish::Committed(report) => return part(*report, inbox, outbox, identity).await,
        }
        tokio::select! {
            changed = finish.changed() => changed.context("the finishing thread broke off")?,
            message = inbox.next() => bail!("message {} while finishing", message?.tag()),
        }
    }
}

/// From the commit to Bye.
async fn part(report: Report, inbox: &mut Inbox, outbox: &Outbox, identity: &TlsIdentity) -> Result<Ending> {
    outbox.say(Message::Progress { text: String::new() }).await?;
    let mut kept = Kept::new(report)?;
    let bytes = kept.canonical()?;
    let signature = sign(identity, End::Target, &bytes)?;
    kept.add(End::Target, &signature);
    outbox.say(Message::Committed { report: bytes, signature }).await?;
    match inbox.next().await {
        Ok(Message::Done { signature: None }) => {}
        Ok(Message::Done { signature: Some(signature) }) => {
            kept.add(End::Source, &signature);
            kept.signature(End::Source).transpose().context("the sender's signature")?;
        }
        Ok(other) => bail!("expected Done, not message {}", other.tag()),
        Err(error) => {
            return match error.downcast::<PeerFault>() {
                Ok(peer) if !peer.fault.retry_may_help() => Ok(Ending::Disowned(peer.text)),
                Ok(peer) => Err(peer.into()),
                Err(error) => Err(error),
            };
        }
    }
    outbox.say(Message::Bye).await?;
    Ok(Ending::Committed(Box::new(kept)))
}
