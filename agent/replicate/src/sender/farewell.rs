//! From Finish to Bye: the receiver's report is taken, compared with what this end knows, signed, and the source let go.

use std::sync::PoisonError;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use gantry_wire::message::{Fault, Signature};
use gantry_wire::tree::hex;
use gantry_wire::{Message, Stage};

use super::Sender;
use super::epoch::give_up;
use crate::event::Event;
use crate::kept::{End, Kept, check_signature, sign};
use crate::link::{Inbox, Outbox};
use crate::report::State;
use crate::stop::Stop;
use crate::tls::PublicKey;

impl Sender {
    /// Follows the receiver, who has shown `key` and offered itself in `stage`, from Finish to Bye.
    pub(super) async fn farewell(
        &self,
        key: &PublicKey,
        stage: Stage,
        inbox: &mut Inbox,
        outbox: &Outbox,
    ) -> Result<Kept> {
        let (bytes, signature) = loop {
            match inbox.next().await? {
                Message::Progress { text } if text.is_empty() => {}
                Message::Progress { text } => self.events.tell(Event::Stage { text }),
                Message::Committed { report, signature } => break (report, signature),
                other => bail!("message {} while finishing", other.tag()),
            }
        };
        let (kept, ours) = match self.take(key, stage, &bytes, &signature) {
            Ok(taken) => taken,
            Err(error) => {
                // It would say the same again however often it is asked.
                let text = format!(
                    "the receiver has committed, and its report is not taken: {error:#}. Do not trust the replica; check \
                     it with gantry verify"
                );
                let error = Stop(text).into();
                give_up(Fault::Refused, &error, inbox, outbox).await;
                return Err(error);
            }
        };
        // What was known first may say more: a receiver that was started again since has forgotten.
        let known = (kept, Instant::now());
        let known =
            self.committed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(known).clone();
        self.events.tell(Event::Committed);
        outbox.say(Message::Done { signature: ours }).await?;
        match inbox.next().await {
            Ok(Message::Bye) => Ok(known.0),
            // The commit is known at this end; the receiver holds until it hears Done, so say so again if it dials.
            Ok(other) => bail!("expected Bye, not message {}", other.tag()),
            Err(error) => Err(error.context("waiting for Bye")),
        }
    }

    /// The report, and this end's signature of it unless it cannot vouch for it: a process that was started again since
    /// the roots agreed does not know, and of a receiver that was there is nothing to know.
    ///
    /// # Errors
    /// It is none, or is not so.
    fn take(
        &self,
        key: &PublicKey,
        stage: Stage,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(Kept, Option<Signature>)> {
        check_signature(key, End::Target, bytes, signature)
            .context("the receiver's signature of its report")?;
        let mut kept = Kept::from_canonical(bytes)?;
        ensure!(kept.key(End::Target) == hex(key), "it names another key than that of its maker");
        kept.add(End::Target, signature);
        match kept.report.state {
            State::Verified | State::Repaired => {}
            State::Forgotten if stage == Stage::Committed => return Ok((kept, None)),
            state => bail!("its state is {:?} in a session that went on to its end", state.words()),
        }
        let Some(told) = self.told() else { return Ok((kept, None)) };
        told.compare(&kept.report, &self.identity.public_key()?)?;
        let ours = sign(&self.identity, End::Source, bytes)?;
        kept.add(End::Source, &ours);
        Ok((kept, Some(ours)))
    }
}
