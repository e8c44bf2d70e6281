//! What a replication tells the person or machine that watches it. The `--json` lines are these, serialised.

use std::sync::Arc;

use serde::Serialize;

use crate::progress::Progress;
use crate::report::Part;

/// Something worth telling. Byte counts are bytes.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The receiver waits for a sender.
    Listening {
        /// Address and port.
        address: String,
    },
    /// Both ends have proved the code.
    Paired {
        /// The other machine.
        peer: String,
    },
    /// What lies on a source disk, and how much of it is used.
    Part(Part),
    /// Which disk goes onto which.
    Mapped {
        /// Source disk, as its end calls it.
        source: String,
        /// Target disk, as its end calls it.
        target: String,
        /// Source size.
        size: u64,
    },
    /// An epoch begins.
    Epoch {
        /// Its number.
        epoch: u64,
        /// Chunks that need not cross again.
        durable_chunks: u64,
    },
    /// How far a phase is.
    Progress(Progress),
    /// A pass is complete and durable.
    PassDone {
        /// "full", "compare" or "copy".
        phase: &'static str,
        /// Chunks that differed (compare).
        differing: u64,
    },
    /// The medium was read back and equals the source.
    Verified {
        /// Target disk.
        disk: String,
        /// Root in hex.
        root: String,
    },
    /// What is being done after verification.
    Stage {
        /// In words.
        text: String,
    },
    /// The connection is gone; it is tried again.
    Lost {
        /// Why.
        reason: String,
        /// Seconds until the next try.
        wait: u64,
    },
    /// Somebody tried to connect and was sent away.
    Refused {
        /// Where from.
        peer: String,
        /// Why.
        reason: String,
    },
    /// All disks are committed.
    Committed,
}

/// Where events go. Cheap to clone; called from any thread.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(&Event) + Send + Sync>);

impl Events {
    /// Events go to this function.
    pub fn new(sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }
    /// Nobody listens.
    pub fn nowhere() -> Self {
        Self::new(|_| {})
    }
    /// Tells.
    pub fn tell(&self, event: Event) {
        (self.0)(&event);
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
