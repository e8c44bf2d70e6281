//! A report as it is kept: with the signatures of both ends.
//!
//! What is signed are the canonical bytes of the report: JSON without white space, the keys of every object in ascending
//! order, whole numbers only, no control characters but tab and the two of a line's end; `jq -cSj .report FILE` makes them
//! from any spelling of the same report (jq before 1.7 rounds numbers above 2^53). They follow a line that says what they are
//! and which end signs, so that no other message of the same key, nor the other end's signature, can be taken for this one.
//!
//! Each end signs with the Ed25519 key of the certificate that the other end saw when the code was proved ([`crate::tls`]);
//! both keys are in the report ([`crate::report::NamedMachine::key`]), so each has signed whom it was paired with. A key is made
//! when the process starts and dies with it. So two good signatures say: the two processes that were paired in one session
//! both stated this. They say nothing of who ran them; whoever makes up both keys can make up a report. For that there is
//! the operator's own key, which signs the file (`--sign-with`).

use anyhow::{Context, Result, anyhow, bail, ensure};
use gantry_wire::limits::REPORT;
use gantry_wire::message::Signature as Bytes;
use gantry_wire::tree::{hex, unhex};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::report::{Report, VERSION, check, limits, line};
use crate::stop::Stop;
use crate::tls::{PublicKey, TlsIdentity, verify};

/// Bytes of a report file that are read.
pub const FILE_LIMIT: u64 = 8 << 20;
/// Bytes that are kept free for what the commit adds: its moment and its phase.
const SPARE: usize = 256;

/// A report and who signed it.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The report, as far as this build understands it.
    pub report: Report,
    /// All of it: a field that this build does not know was signed too.
    said: Value,
    /// None for a copy on one host.
    pub signatures: Vec<Signature>,
}

/// A signature by one end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// Which end; its key is in the report.
    pub by: End,
    /// Ed25519 signature, in hex.
    pub signature: String,
}

/// An end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// The sender.
    Source,
    /// The receiver.
    Target,
}

impl End {
    /// "source" or "target".
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }

    /// What is signed: what stands before the canonical bytes, and these.
    fn message(self, canonical: &[u8]) -> Vec<u8> {
        [b"gantry report ", self.name().as_bytes(), b"\n", canonical].concat()
    }
}

/// Signs canonical bytes as one end.
pub fn sign(identity: &TlsIdentity, by: End, canonical: &[u8]) -> Result<Bytes> {
    identity.sign(&by.message(canonical))
}

/// Checks one end's signature of canonical bytes.
pub fn check_signature(key: &PublicKey, by: End, canonical: &[u8], signature: &Bytes) -> Result<()> {
    verify(key, &by.message(canonical), signature)
}

impl Kept {
    /// A report of this process, without signatures.
    pub fn new(report: Report) -> Result<Self> {
        let said = serde_json::to_value(&report).context("writing the report")?;
        Ok(Self { report, said, signatures: Vec::new() })
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// It is no report, one of another version, one that cannot be true, or not written as reports are when they are signed.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self> {
        let said: Value = serde_json::from_slice(bytes).context("it is no JSON")?;
        ensure!(canonical(&said)? == bytes, "it is not written as reports are");
        Self::understand(said, Vec::new())
    }

    /// Reads a report file.
    ///
    /// # Errors
    /// It is no report, or one that cannot be true; [`Stop`]: one of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() as u64 <= FILE_LIMIT, "more than {FILE_LIMIT} bytes: no report is so long");
        let mut file: Value = serde_json::from_slice(bytes).context("it is no JSON")?;
        let report = file.get_mut("report").map(Value::take);
        let report = report.context("it has no field \"report\": it is no report of Gantry")?;
        let signatures = file.get_mut("signatures").map(Value::take).unwrap_or_default();
        // The version first: another one may have other signatures too.
        let kept = Self::understand(report, Vec::new())?;
        let signatures = serde_json::from_value(signatures).context("reading its signatures")?;
        Ok(Self { signatures, ..kept })
    }

    fn understand(said: Value, signatures: Vec<Signature>) -> Result<Self> {
        let version = said.get("version").and_then(Value::as_u64);
        if version != Some(u64::from(VERSION)) {
            let found = version.map_or("unknown".to_owned(), |version| version.to_string());
            bail!(Stop(format!("its layout is version {found}, this program reads version {VERSION}")));
        }
        let report: Report = Report::deserialize(&said).context("it is no report of Gantry")?;
        check(&report).map_err(|why| anyhow!("it cannot be true: {why}"))?;
        Ok(Self { report, said, signatures })
    }

    /// The bytes that are signed.
    ///
    /// # Errors
    /// The report holds what has no one spelling.
    pub fn canonical(&self) -> Result<Vec<u8>> {
        canonical(&self.said)
    }

    /// The key of one end in hex; empty when there is none.
    pub fn key(&self, end: End) -> &str {
        match end {
            End::Source => &self.report.source.key,
            End::Target => &self.report.target.key,
        }
    }

    /// Adds a signature, good or not.
    pub fn add(&mut self, by: End, signature: &Bytes) {
        self.signatures.push(Signature { by, signature: hex(signature) });
    }

    /// The signature of one end: none, or whether it fits.
    pub fn signature(&self, by: End) -> Option<Result<()>> {
        let mut signatures = self.signatures.iter().filter(|signature| signature.by == by);
        let signature = signatures.next()?;
        Some(match signatures.next() {
            Some(_) => Err(anyhow!("there are two of them")),
            None => self.fits(by, &signature.signature),
        })
    }

    fn fits(&self, by: End, signature: &str) -> Result<()> {
        let key =
            unhex(self.key(by)).with_context(|| format!("the report names no key of the {}", by.name()))?;
        let signature = unhex(signature).context("it is not 64 bytes in hex")?;
        check_signature(&key, by, &self.canonical()?, &signature)
    }
}

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut kept = serializer.serialize_struct("Kept", 2)?;
        kept.serialize_field("report", &self.said)?;
        kept.serialize_field("signatures", &self.signatures)?;
        kept.end()
    }
}

fn canonical(report: &Value) -> Result<Vec<u8>> {
    ensure!(
        has_one_spelling(report),
        "the report holds a fraction or a control character: it cannot be signed"
    );
    // The keys of a `Value` are in order.
    serde_json::to_vec(report).context("writing the report")
}

/// Whether everybody writes it the same: fractions are rounded, and of control characters some are escaped by one
/// program and not by another (U+007F by jq).
fn has_one_spelling(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::String(text) => !text.chars().any(steers),
        Value::Array(items) => items.iter().all(has_one_spelling),
        Value::Object(fields) => {
            fields.iter().all(|(key, value)| !key.chars().any(steers) && has_one_spelling(value))
        }
        Value::Null | Value::Bool(_) => true,
    }
}

/// A control character that does not belong to the lines of a text.
fn steers(c: char) -> bool {
    c.is_control() && !matches!(c, '\t' | '\n' | '\r')
}

/// Makes a report of this process one that both ends can keep and sign: texts are cut and lose their control characters (in
/// a repair's diffs all but those of lines), and a repair that is too long for the wire is left out. To be called before
/// the commit: after it there is no way back.
///
/// # Errors
/// It cannot be kept: it contradicts itself, or there is too much of something.
pub fn prepare(report: &mut Report) -> Result<()> {
    let mut value = serde_json::to_value(&*report).context("writing the report")?;
    for (key, value) in value.as_object_mut().into_iter().flatten() {
        match key.as_str() {
            "repair" => clean(value, &|text| text.replace(steers, "?")),
            _ => clean(value, &|text| line(text, limits::TEXT)),
        }
    }
    *report = Report::deserialize(&value).context("reading the report back")?;
    check(report).map_err(|why| anyhow!("the report would be wrong: {why}"))?;
    let room = REPORT - SPARE;
    if canonical(&value)?.len() > room {
        report.repair = "too long for the wire; kept on the replica".into();
        value = serde_json::to_value(&*report).context("writing the report")?;
    }
    let length = canonical(&value)?.len();
    ensure!(length <= room, "the report would have {length} bytes, {room} at most");
    Ok(())
}

/// Changes every text in a value.
fn clean(value: &mut Value, change: &dyn Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, change)),
        Value::Object(fields) => {
            let old = std::mem::take(fields);
            fields.extend(old.into_iter().map(|(key, mut item)| {
                clean(&mut item, change);
                (change(&key), item)
            }));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use serde_json::json;

    use super::*;
    use crate::report::{After, DiskReport, NamedDisk, NamedMachine, Part, State};

    fn report(keys: [&TlsIdentity; 2]) -> Report {
        let disk = |path: &str| NamedDisk { path: path.into(), size: 3 << 20, ..NamedDisk::default() };
        let after = After {
            root: "11".repeat(32),
            changed: vec![(0, 65536)],
            known_by: "recorded".into(),
            span: 64 << 20,
            nodes: vec!["22".repeat(32)],
            ..After::default()
        };
        let disk = DiskReport {
            source: disk("/dev/sda"),
            target: disk("/dev/vda"),
            sector_size: 512,
            root: "33".repeat(32),
            after: Some(after),
            ..DiskReport::default()
        };
        let [source, target] = keys.map(|identity| NamedMachine {
            key: hex(&identity.public_key().unwrap()),
            ..NamedMachine::default()
        });
        let (version, state) = (VERSION, State::Verified);
        Report {
            version,
            state,
            session: "ab".into(),
            source,
            target,
            disks: vec![disk],
            ..Report::default()
        }
    }

    /// A report, and the keys of its ends.
    fn signed() -> (Kept, [TlsIdentity; 2]) {
        let keys = [(); 2].map(|()| TlsIdentity::generate().unwrap());
        let mut kept = Kept::new(report([&keys[0], &keys[1]])).unwrap();
        let bytes = kept.canonical().unwrap();
        for (by, key) in [(End::Target, &keys[1]), (End::Source, &keys[0])] {
            kept.add(by, &sign(key, by, &bytes).unwrap());
        }
        (kept, keys)
    }

    fn read(value: &Value) -> Result<Kept> {
        Kept::parse(&serde_json::to_vec_pretty(value).unwrap())
    }

    fn verdicts(value: &Value) -> [Option<bool>; 2] {
        let kept = read(value).unwrap();
        [End::Source, End::Target].map(|by| kept.signature(by).map(|verdict| verdict.is_ok()))
    }

    #[test]
    fn signatures_survive_spelling_and_unknown_fields_but_no_change() {
        let (kept, _) = signed();
        let good = serde_json::to_value(&kept).unwrap();
        assert_eq!(verdicts(&good), [Some(true); 2]);
        assert_eq!(Kept::parse(serde_json::to_string(&good).unwrap().as_bytes()).unwrap(), kept);

        let mut tampered = good.clone();
        tampered["report"]["disks"][0]["target"]["serial"] = "X".into();
        assert_eq!(verdicts(&tampered), [Some(false); 2]);
        let mut added = good.clone();
        added["report"]["more"] = "words".into();
        assert_eq!(verdicts(&added), [Some(false); 2], "a field that nobody signed");
        let mut fraction = good.clone();
        fraction["report"]["more"] = 0.5.into();
        assert_eq!(verdicts(&fraction), [Some(false); 2]);

        let mut broken = good.clone();
        let text = broken["signatures"][0]["signature"].as_str().unwrap().to_owned();
        let flipped = if text.starts_with('0') { "1" } else { "0" };
        broken["signatures"][0]["signature"] = format!("{flipped}{}", &text[1..]).into();
        assert_eq!(verdicts(&broken), [Some(true), Some(false)]);
        broken["signatures"][0]["signature"] = "zz".into();
        assert_eq!(verdicts(&broken), [Some(true), Some(false)]);
        broken["signatures"].as_array_mut().unwrap().remove(0);
        assert_eq!(verdicts(&broken), [Some(true), None], "missing is not broken");
        let twice = broken["signatures"][0].clone();
        broken["signatures"].as_array_mut().unwrap().push(twice);
        assert_eq!(verdicts(&broken), [Some(false), None]);
    }

    /// Whoever holds a report that only the target has signed cannot make two signatures of the one.
    #[test]
    fn a_signature_is_of_one_end() {
        let (kept, keys) = signed();
        let (key, bytes) = (keys[1].public_key().unwrap(), kept.canonical().unwrap());
        let signature = sign(&keys[1], End::Target, &bytes).unwrap();
        check_signature(&key, End::Target, &bytes, &signature).unwrap();
        assert!(check_signature(&key, End::Source, &bytes, &signature).is_err());
        let mut forged = serde_json::to_value(&kept).unwrap();
        forged["signatures"].as_array_mut().unwrap().truncate(1);
        let mut copied = forged["signatures"][0].clone();
        copied["by"] = "source".into();
        forged["signatures"].as_array_mut().unwrap().push(copied);
        assert_eq!(verdicts(&forged), [Some(false), Some(true)]);

        // Nor with the target's key in the source's place, even by whoever holds that key.
        let mut alone = Kept::new(report([&keys[1], &keys[1]])).unwrap();
        let bytes = alone.canonical().unwrap();
        for by in [End::Source, End::Target] {
            alone.add(by, &sign(&keys[1], by, &bytes).unwrap());
        }
        let error = format!("{:#}", read(&serde_json::to_value(&alone).unwrap()).unwrap_err());
        assert!(error.contains("both ends have one key"), "{error}");

        // A report that names no source has no signature of one.
        let mut nameless = report([&keys[0], &keys[1]]);
        nameless.source.key.clear();
        let mut nameless = Kept::new(nameless).unwrap();
        let bytes = nameless.canonical().unwrap();
        nameless.add(End::Source, &sign(&keys[0], End::Source, &bytes).unwrap());
        let error = format!("{:#}", nameless.signature(End::Source).unwrap().unwrap_err());
        assert!(error.contains("no key of the source"), "{error}");
    }

    #[test]
    fn a_field_that_this_build_does_not_know_is_signed_and_kept() {
        let keys = [(); 2].map(|()| TlsIdentity::generate().unwrap());
        let mut newer = serde_json::to_value(report([&keys[0], &keys[1]])).unwrap();
        newer["weather"] = json!({ "rain": [1, 2] });
        let bytes = canonical(&newer).unwrap();
        let mut kept = Kept::from_canonical(&bytes).unwrap();
        assert_eq!(kept.canonical().unwrap(), bytes);
        kept.add(End::Target, &sign(&keys[1], End::Target, &bytes).unwrap());
        let file = serde_json::to_value(&kept).unwrap();
        assert_eq!(file["report"]["weather"]["rain"][1], 2);
        assert_eq!(verdicts(&file), [None, Some(true)]);
        // The same report in other spellings is not what was signed.
        for other in [serde_json::to_vec_pretty(&newer).unwrap(), [&b" "[..], &bytes].concat()] {
            let error = format!("{:#}", Kept::from_canonical(&other).unwrap_err());
            assert!(error.contains("not written as reports are"), "{error}");
        }
    }

    #[test]
    fn the_example_of_the_documentation_is_a_signed_report() {
        let page = include_str!("../../../docs/report.md");
        let example = page.split("```json").nth(1).unwrap().split("```").next().unwrap();
        let value: Value = serde_json::from_str(example).unwrap();
        assert_eq!(verdicts(&value), [Some(true); 2]);
    }

    #[test]
    fn what_cannot_be_true_is_refused() {
        let good = serde_json::to_value(signed().0).unwrap();
        let huge = u64::MAX;
        let parts =
            || json!([{"name": "1", "offset": 0, "length": 512, "kind": "swap", "used": 0, "doubt": ""}]);
        for (path, value, why) in [
            ("/report/version", 9.into(), "version 9"),
            ("/report/state", "unfinished".into(), "did not end"),
            ("/report/state", "verified, being repaired".into(), "no repair is in it"),
            ("/report/state", "repaired, boot not proven".into(), "no repair is in it"),
            ("/report/state", State::Forgotten.words().into(), "1 disks, and its state"),
            ("/report/repair", json!({}), "a repair is in it"),
            ("/report/disks", json!([]), "0 disks, and its state"),
            ("/report/disks/0/after", Value::Null, "as it was committed"),
            ("/report/disks/0/after/changed", json!([]), "nothing was changed"),
            ("/report/disks/0/target/size", (4 << 20).into(), "behind the source"),
            ("/report/disks/0/parts", parts(), "and used maps were looked at"),
            ("/report/disks/0/doubt", "it sleeps".into(), "and used maps were looked at"),
            ("/report/source/key", "ab".into(), "is no key"),
            ("/report/source/clock", 9.into(), "clocks are not 0 s apart"),
            ("/report/target/name", "vm\nsignature of the source: good".into(), "control character"),
            ("/report/disks/0/source/path", "\u{9b}2J".into(), "control character"),
            ("/report/transforms", json!(["a\nb"]), "control character"),
            ("/report/target/name", "x".repeat(1025).into(), "1025 bytes of text"),
            ("/report/disks/0/source/size", huge.into(), "sizes of"),
            ("/report/disks/0/source/size", 0.into(), "sizes of"),
            ("/report/disks/0/sector_size", 513.into(), "sectors of 513"),
            ("/report/disks/0/after/span", 0.into(), "nodes"),
            ("/report/disks/0/after/span", (3u64 << 26).into(), "nodes"),
            ("/report/disks/0/after/span", (1u64 << 60).into(), "nodes"),
            ("/report/disks/0/after/nodes", json!([]), "0 nodes"),
            ("/report/disks/0/after/changed", json!([[huge, huge]]), "changed range"),
            ("/report/disks/0/after/changed", json!([[65536, 1], [0, 1]]), "changed range"),
            ("/report/disks/0/bad_sectors", json!([[1 << 30, 512]]), "bad range"),
            (
                "/report/disks/0/bad_sectors",
                vec![(0, 1); 20000].into_iter().map(|r| json!(r)).collect(),
                "20000 bad ranges",
            ),
            ("/report/disks/0/root", "abc".into(), "is no hash"),
            ("/report/disks/0/after/behind", json!({"offset": huge, "length": huge, "blake3": ""}), "behind"),
            ("/report/disks/0/source/size", (-1).into(), "no report of Gantry"),
            ("/report/state", "booted".into(), "no report of Gantry"),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = value;
            let error = format!("{:#}", read(&bad).unwrap_err());
            assert!(error.contains(why), "{path}: {error}");
        }
        let mut used = good.clone();
        used["report"]["disks"][0]["compared"] = "used".into();
        used["report"]["disks"][0]["parts"] = parts();
        read(&used).unwrap();
        for text in ["", "{}", "[1]", "{\"report\":1}", "{\"report\":{\"version\":1e400}}"] {
            assert!(Kept::parse(text.as_bytes()).is_err(), "{text}");
        }
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert!(Kept::parse(&deep).is_err());
    }

    /// What an end puts into its own report need not be fit for one.
    #[test]
    fn a_report_is_made_fit_before_it_is_kept() {
        let keys = [(); 2].map(|()| TlsIdentity::generate().unwrap());
        let mut raw = report([&keys[0], &keys[1]]);
        raw.target.name = "a\nb".into();
        raw.transforms = vec!["\u{7f}\u{1b}[2J".into(), "\u{fc}".repeat(600)];
        raw.repair = json!({ "diff\u{7f}": "-one\n+two\u{7f}\r\n" });
        raw.state = State::Repaired;
        assert!(check(&raw).is_err() && Kept::new(raw.clone()).unwrap().canonical().is_err(), "the fault");
        prepare(&mut raw).unwrap();
        assert_eq!((raw.target.name.as_str(), raw.transforms[0].as_str()), ("a?b", "??[2J"));
        assert_eq!(raw.transforms[1].len(), 1024);
        assert_eq!(raw.repair, json!({ "diff?": "-one\n+two?\r\n" }));
        let kept = Kept::new(raw).unwrap();
        assert_eq!(Kept::from_canonical(&kept.canonical().unwrap()).unwrap(), kept);
    }

    #[test]
    fn a_report_that_is_too_long_loses_its_repair_or_is_refused_before_the_commit() {
        let keys = [(); 2].map(|()| TlsIdentity::generate().unwrap());
        let mut long = report([&keys[0], &keys[1]]);
        long.state = State::Repaired;
        long.repair = "x".repeat(REPORT).into();
        prepare(&mut long).unwrap();
        assert_eq!(long.repair, "too long for the wire; kept on the replica");
        // What the commit adds still fits.
        let spare = SPARE - 200;
        long.repair = "".into();
        let base = Kept::new(long.clone()).unwrap().canonical().unwrap().len();
        long.repair = "x".repeat(REPORT - SPARE - base).into();
        prepare(&mut long).unwrap();
        assert_eq!(long.repair.as_str().unwrap().len(), REPORT - SPARE - base, "kept to the last byte");
        (long.committed, long.clock_offset) = (u64::MAX, long.clock_offset);
        long.phases.push(crate::report::Phase { name: "commit".into(), milliseconds: u64::MAX });
        let length = Kept::new(long.clone()).unwrap().canonical().unwrap().len();
        assert!(length + spare <= REPORT, "{length} bytes");

        // Many disks, each within its limits: together they are too much.
        let disk = &mut long.disks[0];
        disk.source.path = "\\".repeat(1024);
        disk.target.path = "\\".repeat(1024);
        disk.compared = crate::report::Compared::Used;
        let long_word = || "\"".repeat(256);
        let (name, kind, doubt) = (long_word(), long_word(), long_word());
        disk.parts = vec![Part { name, offset: 1 << 20, length: 1 << 20, kind, used: 1 << 20, doubt }; 8];
        long.disks = vec![long.disks[0].clone(); 64];
        long.phases.clear();
        let error = format!("{:#}", prepare(&mut long).unwrap_err());
        assert!(error.contains("bytes, ") && error.contains("at most"), "{error}");
    }

    /// Whoever has jq needs nothing of ours to see what was signed.
    #[test]
    fn jq_writes_the_canonical_bytes() {
        let keys = [(); 2].map(|()| TlsIdentity::generate().unwrap());
        let mut odd = report([&keys[0], &keys[1]]);
        let all: String =
            (0..0x300).chain(0x2000..0x2100).chain(0xfff0..0x1_0010).filter_map(char::from_u32).collect();
        odd.target.name = all.clone();
        odd.target.software = "\u{10ffff} \u{1f600} \\ \" / \u{fffd}".into();
        odd.disks[0].target.size = 1 << 52;
        odd.disks[0].after.as_mut().unwrap().behind =
            Some(crate::report::Behind { offset: (1 << 52) - 512, length: 512, blake3: "00".repeat(32) });
        (odd.began, odd.source.clock, odd.clock_offset) = (1 << 53, (1 << 53) - 1, -(1 << 53) + 1);
        odd.state = State::Repaired;
        odd.repair =
            json!({ "z": [1, {}, [], ""], "a": { "diff": all, "B": null, "\u{e9}": true, "b": -5 } });
        prepare(&mut odd).unwrap();
        let kept = Kept::new(odd).unwrap();
        let mut jq = Command::new("jq");
        jq.args(["-cSj", ".report"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            jq.spawn().unwrap_or_else(|error| panic!("jq, which scripts/setup installs: {error}"));
        child.stdin.take().unwrap().write_all(&serde_json::to_vec_pretty(&kept).unwrap()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let ours = kept.canonical().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), String::from_utf8(ours).unwrap());
        // What jq writes in its own way is never signed.
        assert!(canonical(&json!({ "a": "\u{7f}" })).is_err());
    }
}
