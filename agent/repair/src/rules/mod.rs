//! The rules. Each is one small file: what it looks for, what it changes, why, and its source.
//!
//! A rule is a pure function from facts to edits and findings. They run in the order of [`ALL`], each on the facts as
//! the edits before it leave them, so that a rule neither repeats nor undoes another's work and the images are built
//! last, from the configuration as it will be. A rule that finds its wish already fulfilled proposes nothing: that is
//! what makes the plan of a repaired replica empty.

mod bios_loader;
mod debconf;
mod device_map;
mod firmware;
mod fstab_names;
mod grub_config;
mod grub_defaults;
mod hibernation;
mod initramfs;
mod network_names;
mod network_others;
mod resume;
mod space;
mod uefi_fallback;
mod uefi_stub;

pub(crate) use initramfs::wanted as wanted_modules;
use serde::{Deserialize, Serialize};

use crate::edit::{Edit, digest};
use crate::facts::Facts;

/// A rule and what is printed about it.
pub struct Rule {
    /// Stable name, in plans and documentation.
    pub id: &'static str,
    /// What it is for, in one line.
    pub what: &'static str,
    /// The rules of `docs/repair.md` it rests on.
    pub sources: &'static str,
    /// The rule itself.
    pub run: fn(&Facts, &mut Proposal),
}

/// All rules in the order they run.
pub const ALL: &[Rule] = &[
    hibernation::RULE,
    firmware::RULE,
    fstab_names::RULE,
    resume::RULE,
    grub_defaults::RULE,
    grub_config::RULE,
    device_map::RULE,
    debconf::RULE,
    bios_loader::RULE,
    uefi_fallback::RULE,
    uefi_stub::RULE,
    network_names::RULE,
    network_others::RULE,
    initramfs::RULE,
    space::RULE,
];

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Note,
    /// May bite later; repair goes on.
    Warning,
    /// Repair refuses.
    Blocker,
}

/// Something a rule has to say that is no edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// [`Rule::id`].
    pub rule: String,
    /// How much it matters.
    pub severity: Severity,
    /// What was found, where.
    pub text: String,
    /// What to do about it.
    pub remedy: String,
}

/// An edit with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    /// [`Rule::id`].
    pub rule: String,
    /// Why, in a sentence.
    pub reason: String,
    /// What.
    pub edit: Edit,
}

/// What rules hand back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    rule: &'static str,
    /// Edits in the order they are to be applied.
    pub edits: Vec<Proposed>,
    /// What else there is to say.
    pub findings: Vec<Finding>,
    /// Consents the user has given.
    pub consent: Consent,
}

/// What the user has agreed to beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consent {
    /// A hibernation image may be voided.
    pub void_hibernation: bool,
}

impl Proposal {
    /// Proposes an edit.
    pub fn edit(&mut self, reason: impl Into<String>, edit: Edit) {
        self.edits.push(Proposed { rule: self.rule.to_string(), reason: reason.into(), edit });
    }

    /// Proposes to write a text file, unless it says so already.
    pub fn write(&mut self, facts: &Facts, path: &str, text: String, reason: impl Into<String>) {
        let old = facts.file(path);
        if old != Some(text.as_str()) {
            // The second change of one rule to one file is made on the first: it is one edit.
            let earlier = self.edits.iter_mut().find_map(|e| match &mut e.edit {
                Edit::WriteFile { path: p, text, .. } if p == path => Some(text),
                _ => None,
            });
            if let Some(earlier) = earlier {
                *earlier = text;
                return;
            }
            let before = old.map(|t| digest(t.as_bytes()));
            self.edit(reason, Edit::WriteFile { path: path.to_string(), before, text });
        }
    }

    /// Says something that is good to know.
    pub fn note(&mut self, text: impl Into<String>) {
        self.say(Severity::Note, text.into(), String::new());
    }

    /// Warns; `remedy` says what to do.
    pub fn warn(&mut self, text: impl Into<String>, remedy: impl Into<String>) {
        self.say(Severity::Warning, text.into(), remedy.into());
    }

    /// Refuses; `remedy` says what to do.
    pub fn block(&mut self, text: impl Into<String>, remedy: impl Into<String>) {
        self.say(Severity::Blocker, text.into(), remedy.into());
    }

    fn say(&mut self, severity: Severity, text: String, remedy: String) {
        self.findings.push(Finding { rule: self.rule.to_string(), severity, text, remedy });
    }
}

/// Runs all rules. The second value is the facts as they will be.
pub fn run(facts: &Facts, consent: Consent) -> (Proposal, Facts) {
    let mut all = Proposal { consent, ..Proposal::default() };
    let mut facts = facts.clone();
    for rule in ALL {
        let mut one = Proposal { rule: rule.id, consent, ..Proposal::default() };
        (rule.run)(&facts, &mut one);
        for proposed in &one.edits {
            facts.apply(&proposed.edit);
        }
        all.edits.extend(one.edits);
        all.findings.extend(one.findings);
    }
    (all, facts)
}

/// Runs one rule alone, for its table of tests.
#[cfg(test)]
pub(crate) fn run_one(rule: &Rule, facts: &Facts) -> Proposal {
    let mut one = Proposal { rule: rule.id, ..Proposal::default() };
    (rule.run)(facts, &mut one);
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_and_what_it_rests_on_is_documented() {
        let page = include_str!("../../../../docs/repair.md");
        let (rules, numbers) = page.split_once("## The numbers rules rest on").unwrap();
        for rule in ALL {
            let row = format!("| `{}` |", rule.id);
            let line = rules
                .lines()
                .find(|l| l.starts_with(&row))
                .unwrap_or_else(|| panic!("{} is not in docs/repair.md", rule.id));
            assert!(line.ends_with(&format!("| {} |", rule.sources)), "{}: {}", rule.id, rule.sources);
            assert!(!rule.what.is_empty());
            for id in rule.sources.split(' ') {
                // L-60 to L-64 are one row.
                let known = numbers.contains(id) || ["L-61", "L-62", "L-63"].contains(&id);
                assert!(known, "{id} of {} is not explained", rule.id);
            }
        }
    }
}
