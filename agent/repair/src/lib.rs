//! Makes a replica boot on its new hardware: inspect, plan, apply, check.
//!
//! ```text
//!  nodes --replica--> mounted tree --inspect--> Facts --rules--> edits --plan--> Plan (JSON, diff)
//!                                                                                  |
//!      Report <--check (facts anew, rules silent, fsck)-- edits applied <--apply--+   originals kept on the replica
//! ```
//!
//! * [`facts`] is plain data: everything rules decide by, and nothing that depends on this machine unless this machine is
//!   the target. A plan is bound to the digest of the facts.
//! * [`rules`] are pure functions from facts to [`edit`]s, one small file each, tested on tables without a disk. A new
//!   case is a new rule, sometimes a new fact, rarely a new kind of edit.
//! * [`apply`] keeps the originals on the replica ([`originals`]), applies the edits and then demands that the rules have
//!   nothing left to say. The guest's own programs run only in [`isolate`].
//! * [`handover`] makes UEFI firmware start the finished disk next.
//!
//! Everything that mounts runs within [`mounts::apart`]: mounts and loop devices vanish with the process, however it ends.

pub mod apply;
pub mod config;
pub mod disks;
pub mod drivers;
pub mod edit;
pub mod error;
pub mod ext;
pub mod facts;
pub mod handover;
pub mod image;
pub mod inspect;
mod ioctl;
pub mod isolate;
pub mod mounts;
pub mod names;
pub mod network;
pub mod originals;
pub mod plan;
pub mod replica;
pub mod root;
pub mod rules;
pub mod target;
#[cfg(test)]
mod testing;

pub use apply::Report;
pub use error::{Error, Result};
pub use facts::{Facts, Target};
pub use plan::Plan;
pub use replica::Opening;
pub use rules::Consent;

/// Inspects a replica: journals are replayed and filesystems checked, nothing else is written.
///
/// # Errors
/// See [`replica::Replica::open`].
pub fn inspect(how: &Opening, target: &Target) -> Result<Facts> {
    mounts::apart(|| {
        let replica = replica::Replica::open(&Opening { write: false, check: true, ..how.clone() })?;
        let facts = inspect::facts(&replica, target)?;
        replica.close()?;
        Ok(facts)
    })
}

/// Plans the repair of a replica.
///
/// # Errors
/// See [`inspect`](crate::inspect()).
pub fn plan(how: &Opening, target: &Target, consent: Consent) -> Result<Plan> {
    Plan::make(&inspect(how, target)?, consent)
}

/// Applies a plan; see [`apply::apply`].
///
/// # Errors
/// See [`apply::apply`].
pub fn apply_plan(how: &Opening, target: &Target, what: &apply::Apply<'_>) -> Result<Report> {
    mounts::apart(|| apply::apply(how, target, what))
}

/// Takes back the newest repair; returns where its record lies on the replica.
///
/// # Errors
/// `Refused` when there is none, or a file was changed since.
pub fn undo(how: &Opening) -> Result<String> {
    mounts::apart(|| {
        let replica = replica::Replica::open(&Opening { write: true, check: false, ..how.clone() })?;
        let place = originals::undo(&replica.root)?;
        replica.close_and_check()?;
        Ok(place)
    })
}
