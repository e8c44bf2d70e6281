//! A plan: what repair would do to one replica, to be read, approved, kept, and applied to exactly that replica.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::edit::Edit;
use crate::error::{Error, Result};
use crate::facts::{Facts, Firmware};
use crate::network;
use crate::rules::{self, Consent, Finding, Proposed, Severity};

/// Raised when the meaning of a plan's fields changes.
pub const FORMAT: u32 = 1;

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of Gantry that made it.
    pub made_by: String,
    /// Digest of the facts it was made from.
    pub facts: String,
    /// What the replica is, and where it goes: lines for people.
    pub overview: Vec<String>,
    /// Edits in order, each with its reason and diff.
    pub steps: Vec<Step>,
    /// What else there is to say.
    pub findings: Vec<Finding>,
}

/// One edit of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The edit, its rule and reason.
    #[serde(flatten)]
    pub proposed: Proposed,
    /// Unified diff of a text file, else empty.
    pub diff: String,
    /// Whether the kept originals can take it back.
    pub can_be_undone: bool,
}

impl Plan {
    /// Makes the plan for these facts.
    pub fn make(facts: &Facts, consent: Consent) -> Result<Self> {
        let (proposal, _) = rules::run(facts, consent);
        let mut now = facts.clone();
        let mut steps = Vec::new();
        for proposed in proposal.edits {
            let diff = diff(&now, &proposed.edit);
            now.apply(&proposed.edit);
            steps.push(Step { diff, can_be_undone: proposed.edit.can_be_undone(), proposed });
        }
        Ok(Self {
            format: FORMAT,
            made_by: format!("gantry {}", env!("CARGO_PKG_VERSION")),
            facts: facts.digest()?,
            overview: overview(facts),
            steps,
            findings: proposal.findings,
        })
    }

    /// Reads a kept plan.
    pub fn from_json(text: &str) -> Result<Self> {
        let plan: Self =
            serde_json::from_str(text).map_err(|e| Error::Replica(format!("this is no repair plan: {e}")))?;
        if plan.format != FORMAT {
            let Self { format, made_by, .. } = plan;
            return Err(Error::Stale(format!(
                "the plan has format {format} (by {made_by}), this is {FORMAT}: plan again"
            )));
        }
        Ok(plan)
    }

    /// As kept.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Replica(format!("encoding the plan: {e}")))?;
        Ok(text + "\n")
    }

    /// Whether a person has to decide something before it can be applied.
    pub fn is_blocked(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Blocker)
    }

    /// Whether it gives up a suspended system's memory: then consent was given when it was made.
    pub fn voids_hibernation(&self) -> bool {
        self.steps.iter().any(|s| matches!(s.proposed.edit, Edit::VoidHibernation { .. }))
    }

    /// The reasons that block it, with remedies.
    pub fn blockers(&self) -> String {
        let all = self.findings.iter().filter(|f| f.severity == Severity::Blocker);
        all.map(|f| format!("{}; {}", f.text, f.remedy)).collect::<Vec<_>>().join("\n")
    }

    /// For people.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for line in &self.overview {
            let _ = writeln!(out, "{line}");
        }
        for (number, step) in self.steps.iter().enumerate() {
            let _ =
                writeln!(out, "\n{}. {}  [{}]", number + 1, step.proposed.edit.summary(), step.proposed.rule);
            let _ = writeln!(out, "   why: {}", step.proposed.reason);
            if !step.can_be_undone {
                let _ = writeln!(out, "   THIS CANNOT BE UNDONE");
            }
            if let Edit::UpdateInitramfs { images } = &step.proposed.edit {
                for image in images {
                    let modules: Vec<&str> = image.modules.iter().map(String::as_str).collect();
                    let _ = writeln!(out, "   {} must have: {}", image.path, modules.join(" "));
                }
            }
            for line in step.diff.lines() {
                let _ = writeln!(out, "   {line}");
            }
        }
        for finding in &self.findings {
            let word = match finding.severity {
                Severity::Note => "note",
                Severity::Warning => "WARNING",
                Severity::Blocker => "REFUSED",
            };
            let _ = writeln!(out, "\n{word}: {}  [{}]", finding.text, finding.rule);
            if !finding.remedy.is_empty() {
                let _ = writeln!(out, "   remedy: {}", finding.remedy);
            }
        }
        let ending = match (self.is_blocked(), self.steps.len()) {
            (true, _) => String::from("This replica cannot be repaired as it is: see REFUSED."),
            (false, 0) => String::from("Nothing to do: this replica is ready to start here."),
            (false, n) => format!("{n} changes; originals are kept on the replica below /var/lib/gantry."),
        };
        let _ = writeln!(out, "\n{ending}");
        out
    }
}

fn diff(facts: &Facts, edit: &Edit) -> String {
    let (path, old, new) = match edit {
        Edit::WriteFile { path, text, .. } => (path, facts.file(path).unwrap_or_default(), text.as_str()),
        Edit::RemoveFile { path, .. } => match facts.file(path) {
            Some(old) => (path, old, ""),
            None => return String::new(),
        },
        _ => return String::new(),
    };
    similar::TextDiff::from_lines(old, new).unified_diff().header(path, path).to_string()
}

fn overview(facts: &Facts) -> Vec<String> {
    let mut lines = vec![format!("{} on {}", facts.system.name, facts.system.root)];
    for (i, disk) in facts.disks.iter().enumerate() {
        let table = disk.table.map_or("no partition table", |t| match t {
            crate::facts::TableKind::Mbr => "MBR",
            crate::facts::TableKind::Gpt => "GPT",
        });
        lines.push(format!("disk {}: {} MiB, {table}", i + 1, disk.size >> 20));
        let mounted = |number| {
            facts.system.mounts.iter().find(|m| m.partition.disk == i && m.partition.number == number)
        };
        for p in &disk.partitions {
            let at = mounted(p.number).map(|m| format!(" at {}", m.at)).unwrap_or_default();
            lines.push(format!("  {}: {} {}{at}", p.number, p.content, p.uuid));
        }
    }
    let kernels: Vec<&str> = facts.system.kernels.iter().map(|k| k.version.as_str()).collect();
    lines.push(format!("kernels: {}", kernels.join(", ")));
    let starts: Vec<&str> = [(Firmware::Bios, "BIOS"), (Firmware::Uefi, "UEFI")]
        .into_iter()
        .filter(|(f, _)| facts.installed_for(*f))
        .map(|(_, name)| name)
        .collect();
    lines.push(format!("installed to start by: {}", starts.join(", ")));
    for pair in network::pair(facts).pairs {
        let old = pair.old.name.or(pair.old.mac).unwrap_or_default();
        let new = pair.new.map_or_else(
            || String::from("the target's card"),
            |n| format!("{} {} {}", n.mac, n.driver, n.slot),
        );
        lines.push(format!("network: {old} -> {}", new.trim_end()));
    }
    lines.push(if facts.target.here {
        String::from("target: this machine")
    } else {
        String::from("target: not this machine; its disks and cards are assumed, not seen")
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_plan_of_a_planned_replica_is_empty() {
        for mut facts in [testing::bios(), testing::uefi()] {
            facts.target.nics = vec![testing::nic("aa:00:00:00:00:01", "0000:00:03.0")];
            assert!(!Plan::make(&facts, Consent::default()).unwrap().steps.is_empty());
            let (_, after) = rules::run(&facts, Consent::default());
            let second = Plan::make(&after, Consent::default()).unwrap();
            assert!(second.steps.is_empty(), "{}", second.render());
        }
    }

    #[test]
    fn it_survives_being_kept_and_says_what_it_does() {
        let plan = Plan::make(&testing::bios(), Consent::default()).unwrap();
        assert_eq!(Plan::from_json(&plan.to_json().unwrap()).unwrap(), plan);
        let text = plan.render();
        for wanted in [
            "-/dev/sda1 / ext4",
            "+UUID=1111-root / ext4",
            "virtio_blk",
            "network: enp0s2 -> the target's card",
        ] {
            assert!(text.contains(wanted), "{wanted} in:\n{text}");
        }
    }

    #[test]
    fn another_replica_has_another_digest() {
        let facts = testing::bios();
        let mut other = facts.clone();
        other.system.files.insert("/etc/fstab".into(), "changed\n".into());
        assert_ne!(facts.digest().unwrap(), other.digest().unwrap());
    }

    #[test]
    fn what_cannot_be_undone_is_marked() {
        let mut facts = testing::bios();
        facts.disks[0].partitions[1].hibernation = Some("S1SUSPEND".into());
        assert!(Plan::make(&facts, Consent::default()).unwrap().is_blocked());
        let plan = Plan::make(&facts, Consent { void_hibernation: true }).unwrap();
        assert!(!plan.is_blocked() && !plan.steps[0].can_be_undone);
        assert!(plan.render().contains("THIS CANNOT BE UNDONE"));
    }

    #[test]
    fn other_text_is_no_plan() {
        assert!(Plan::from_json("{}").is_err());
        let mut plan = Plan::make(&testing::bios(), Consent::default()).unwrap();
        plan.format = 99;
        assert!(Plan::from_json(&plan.to_json().unwrap()).unwrap_err().needs_a_human());
    }
}
