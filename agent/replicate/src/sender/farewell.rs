//! From Finish to Bye: the receiver's report is taken, compared with what this end knows, signed, and the source let go.

use std::sync::PoisonError;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use gantry_wire::tree::hex;
use gantry_wire::{DiskInfo, Message};

use super::Sender;
use super::produce::SourceDisk;
use crate::event::Event;
use crate::kept::{End, Kept, Signature, canonical, check_signature, sign};
use crate::link::{Inbox, Outbox};
use crate::report::{DiskReport, Report, check};
use crate::stop::Stop;
use crate::tls::key_of;

impl Sender {
    /// Follows the receiver, who has shown `certificate`, from Finish to Bye.
    pub(super) async fn farewell(
        &self,
        certificate: &[u8],
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
        let key = key_of(certificate)?;
        check_signature(&key, &bytes, &signature).context("the receiver's signature of its report")?;
        let report: Report = serde_json::from_slice(&bytes).context("reading the receiver's report")?;
        let whole = check(&report).and_then(|()| match canonical(&report) {
            Ok(ours) if ours == bytes => Ok(()),
            _ => Err("it is not written as reports are".to_owned()),
        });
        whole.map_err(|why| anyhow!("the receiver's report: {why}"))?;
        let mut signatures = vec![Signature::new(End::Target, &key, &signature)];
        let ours = match self.vouches(&report)? {
            true => Some(sign(&self.identity, &bytes)?),
            false => None,
        };
        if let Some(ours) = &ours {
            signatures.push(Signature::new(End::Source, &self.identity.public_key()?, ours));
        }
        let kept = Kept { report, signatures };
        let known = (kept.clone(), Instant::now());
        self.committed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(known);
        self.events.tell(Event::Committed);
        outbox.say(Message::Done { signature: ours }).await?;
        match inbox.next().await {
            Ok(Message::Bye) => {}
            // The commit is known at this end; the receiver holds until it hears Done, so say so again if it dials.
            Ok(other) => bail!("expected Bye, not message {}", other.tag()),
            Err(error) => return Err(error.context("waiting for Bye")),
        }
        Ok(kept)
    }

    /// Whether this process knows that what the report says of its disks is so. One that was started again does not.
    ///
    /// # Errors
    /// It knows that it is not so.
    fn vouches(&self, report: &Report) -> Result<bool> {
        let roots: Option<Vec<_>> = self.disks.iter().map(|disk| disk.source.root().ok()).collect();
        let Some(roots) = roots.filter(|_| !report.disks.is_empty()) else { return Ok(false) };
        let as_read = |(disk, root, told): (&SourceDisk, &[u8; 32], &DiskReport)| {
            let DiskInfo { path, serial, size, .. } = &disk.info;
            let names = (&told.source.path, &told.source.serial, told.source.size) == (path, serial, *size);
            names && told.root == hex(root) && told.bad_sectors == disk.source.facts().bad_sectors
        };
        let mut disks = self.disks.iter().zip(&roots).zip(&report.disks).map(|((d, r), t)| (d, r, t));
        match report.disks.len() == self.disks.len() && disks.all(as_read) {
            true => Ok(true),
            false => {
                let text = "the receiver has committed, and its report does not say what this end has read: do not \
                            trust the replica; check it with gantry verify";
                Err(Stop(text.to_owned()).into())
            }
        }
    }
}
