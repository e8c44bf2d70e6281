//! What this process has said of its source, to be found again in the report: it signs what it knows, as a whole.

use std::sync::PoisonError;

use anyhow::{Result, anyhow, bail, ensure};
use gantry_wire::message::HEADER;
use gantry_wire::tree::{Hash, hex};
use gantry_wire::{DiskInfo, Message, Version};

use super::Sender;
use crate::report::{NamedDisk, Report, SourceFacts};
use crate::stop::Stop;
use crate::tls::PublicKey;

/// The source, as it was said with the last Finish.
#[derive(Clone)]
pub struct Told {
    machine: String,
    disks: Vec<DiskInfo>,
    facts: SourceFacts,
    roots: Vec<Hash>,
}

impl Sender {
    /// The first message.
    pub(super) fn hello(&self) -> Message {
        Message::Hello {
            versions: Version::SPOKEN.iter().map(|version| version.number()).collect(),
            software: self.options.software.clone(),
            machine: self.options.machine.clone(),
            disks: self.disks.iter().map(|disk| disk.info.clone()).collect(),
        }
    }

    /// All is verified: what only this end knows, as it crosses. It is remembered.
    ///
    /// # Errors
    /// A [`Stop`] where no report would take it.
    pub(super) fn tell(&self) -> Result<Vec<u8>> {
        let facts = self.disks.iter().map(|disk| disk.source.facts()).collect();
        let facts = SourceFacts::new(&self.options.software, facts, self.volumes.clone());
        let sizes: Vec<u64> = self.disks.iter().map(|disk| disk.info.size).collect();
        let bytes = facts.bytes(&sizes).map_err(|why| {
            Stop(format!(
                "this source cannot be reported on ({why}): send fewer disks in one session, or mend them"
            ))
        })?;
        let roots = self.disks.iter().map(|disk| disk.source.root()).collect::<Result<_>>()?;
        // Names are cut and lose their control characters on the way.
        let hello = self.hello();
        let Message::Hello { machine, disks, .. } =
            Message::decode(hello.tag(), &hello.to_frame()[HEADER..]).map_err(|error| anyhow!(error))?
        else {
            bail!("a Hello is no Hello");
        };
        let told = Told { machine, disks, facts, roots };
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        Ok(bytes)
    }
}

impl Told {
    /// Compares the report with it: all that the report says of the source, word for word. `key` is this process's.
    ///
    /// # Errors
    /// What differs.
    pub fn compare(&self, report: &Report, key: &PublicKey) -> Result<()> {
        ensure!(report.source.key == hex(key), "it names another source's key");
        ensure!(report.source.name == self.machine, "it names another machine as the source");
        ensure!(SourceFacts::from(report) == self.facts, "it tells other facts of the source than were sent");
        ensure!(report.disks.len() == self.disks.len(), "it tells of {} disks", report.disks.len());
        for ((told, info), root) in report.disks.iter().zip(&self.disks).zip(&self.roots) {
            let DiskInfo { path, serial, model, size, sector_size, refusal: _ } = info.clone();
            let named = NamedDisk { path, serial, model, size, wwn: told.source.wwn.clone() };
            ensure!(told.source == named, "{}: it is called something else", info.path);
            ensure!(told.sector_size == sector_size, "{}: its sectors are other ones", info.path);
            ensure!(told.root == hex(root), "{}: its root is another one", info.path);
        }
        Ok(())
    }
}
