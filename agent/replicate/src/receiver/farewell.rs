//! After Finish: tells the sender what the finishing thread does, and ends the session when the sender has let go.

use anyhow::{Context, Result, bail};
use gantry_wire::Message;
use gantry_wire::limits::REPORT;
use tokio::sync::watch;

use super::session::Finish;
use crate::link::{Inbox, Outbox};

/// Follows the finishing thread after [`Message::Finish`]; returns when the sender has let go.
pub async fn follow(
    mut finish: watch::Receiver<Finish>,
    inbox: &mut Inbox,
    outbox: &Outbox,
) -> Result<Finish> {
    loop {
        let state = finish.borrow_and_update().clone();
        match &state {
            Finish::Working(_, text) => {
                outbox.say(Message::Progress { text: text.clone() }).await?;
            }
            Finish::Failed(_) | Finish::Stumbled(_) => return Ok(state),
            Finish::Committed(report) => {
                outbox.say(Message::Progress { text: String::new() }).await?;
                let mut kept = (**report).clone();
                let mut report = serde_json::to_vec(&kept).context("writing the report")?;
                if report.len() > REPORT {
                    kept.repair = "too long for the wire; kept on the replica".into();
                    report = serde_json::to_vec(&kept).context("writing the report")?;
                }
                outbox.say(Message::Committed { report }).await?;
                match inbox.next().await? {
                    Message::Done => {}
                    other => bail!("expected Done, not message {}", other.tag()),
                }
                outbox.say(Message::Bye).await?;
                return Ok(state);
            }
        }
        tokio::select! {
            changed = finish.changed() => changed.context("the finishing thread broke off")?,
            message = inbox.next() => bail!("message {} while finishing", message?.tag()),
        }
    }
}
