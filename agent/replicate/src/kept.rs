//! A report as it is kept: with the signatures of both ends.
//!
//! What is signed are the canonical bytes of the report: JSON without white space, the keys of every object in ascending
//! order, whole numbers only; `jq -cSj .report FILE` makes them from any spelling of the same report. They follow a line
//! that says what they are, so that no other message of the same key can be taken for a report.
//!
//! Each end signs with the Ed25519 key of the certificate that the other end saw when the code was proved ([`crate::tls`]).
//! That key is made when the process starts and dies with it. So two good signatures say: the two processes that were
//! paired in one session both stated this. They say nothing of who ran them; whoever makes up both keys can make up a
//! report. For that there is the operator's own key, which signs the file (`--sign-with`).

use anyhow::{Context, Result, anyhow, ensure};
use gantry_wire::message::Signature as Bytes;
use gantry_wire::tree::hex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::report::{Report, check, unhex};
use crate::tls::{PublicKey, TlsIdentity, verify};

/// What stands before the canonical bytes when they are signed.
const PREFIX: &[u8] = b"gantry report\n";
/// Bytes of a report file that are read.
pub const FILE_LIMIT: u64 = 8 << 20;

/// A report and who signed it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The report.
    pub report: Report,
    /// None for a copy on one host.
    pub signatures: Vec<Signature>,
}

/// A signature by one end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signature {
    /// Which end.
    pub by: End,
    /// Its Ed25519 public key, in hex.
    pub key: String,
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

impl Signature {
    /// As it is kept.
    pub fn new(by: End, key: &PublicKey, signature: &Bytes) -> Self {
        Self { by, key: hex(key), signature: hex(signature) }
    }

    /// Checks it against canonical bytes.
    pub fn check(&self, canonical: &[u8]) -> Result<()> {
        let key = unhex(&self.key).context("its key is not 32 bytes in hex")?;
        let signature = unhex(&self.signature).context("it is not 64 bytes in hex")?;
        check_signature(&key, canonical, &signature)
    }
}

/// Signs canonical bytes.
pub fn sign(identity: &TlsIdentity, canonical: &[u8]) -> Result<Bytes> {
    identity.sign(&[PREFIX, canonical].concat())
}

/// Checks a signature of canonical bytes.
pub fn check_signature(key: &PublicKey, canonical: &[u8], signature: &Bytes) -> Result<()> {
    verify(key, &[PREFIX, canonical].concat(), signature)
}

/// The bytes that are signed.
///
/// # Errors
/// The report holds a fraction, which has no one spelling.
pub fn canonical(report: &impl Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(report).context("writing the report")?;
    ensure!(is_whole(&value), "the report holds a number that is not whole: it cannot be signed");
    // The keys of a `Value` are in order.
    serde_json::to_vec(&value).context("writing the report")
}

fn is_whole(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(items) => items.iter().all(is_whole),
        Value::Object(fields) => fields.values().all(is_whole),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// A report as it was read, with what its signatures are worth.
#[derive(Debug)]
pub struct Read {
    /// The report and its signatures.
    pub kept: Kept,
    /// What was signed, if it can be told.
    canonical: Result<Vec<u8>>,
}

impl Read {
    /// Reads a report file.
    ///
    /// # Errors
    /// It is no report, one of another version, or one that cannot be true.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() as u64 <= FILE_LIMIT, "more than {FILE_LIMIT} bytes: no report is so long");
        let value: Value = serde_json::from_slice(bytes).context("it is no JSON")?;
        let report = value.get("report").context("it has no field \"report\": it is no report of Gantry")?;
        let version = report.get("version").and_then(Value::as_u64);
        let ours = u64::from(crate::report::VERSION);
        ensure!(
            version == Some(ours),
            "its layout is version {}, this program reads version {ours}",
            version.map_or("unknown".to_owned(), |version| version.to_string())
        );
        // From what was read, not from what was understood: a field that this build does not know was signed too.
        let canonical = canonical(report);
        let kept: Kept = serde_json::from_value(value).context("it is no report of Gantry")?;
        check(&kept.report).map_err(|why| anyhow!("it cannot be true: {why}"))?;
        Ok(Self { kept, canonical })
    }

    /// The signature of one end: none, or whether it fits.
    pub fn signature(&self, by: End) -> Option<Result<()>> {
        let mut signatures = self.kept.signatures.iter().filter(|signature| signature.by == by);
        let signature = signatures.next()?;
        Some(match (&self.canonical, signatures.next()) {
            (_, Some(_)) => Err(anyhow!("there are two of them")),
            (Err(why), None) => Err(anyhow!("{why:#}")),
            (Ok(canonical), None) => signature.check(canonical),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{After, Disk, DiskReport};

    fn signed() -> Kept {
        let disk = |path: &str| Disk { path: path.into(), size: 3 << 20, ..Disk::default() };
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
            after,
            ..DiskReport::default()
        };
        let report = Report { version: 2, session: "ab".into(), disks: vec![disk], ..Report::default() };
        let bytes = canonical(&report).unwrap();
        let signature = |by| {
            let identity = TlsIdentity::generate().unwrap();
            let signature = sign(&identity, &bytes).unwrap();
            Signature::new(by, &identity.public_key().unwrap(), &signature)
        };
        Kept { signatures: vec![signature(End::Target), signature(End::Source)], report }
    }

    fn read(value: &Value) -> Result<Read> {
        Read::parse(&serde_json::to_vec_pretty(value).unwrap())
    }

    fn verdicts(value: &Value) -> [Option<bool>; 2] {
        let read = read(value).unwrap();
        [End::Source, End::Target].map(|by| read.signature(by).map(|verdict| verdict.is_ok()))
    }

    #[test]
    fn signatures_survive_spelling_and_unknown_fields_but_no_change() {
        let kept = signed();
        let good = serde_json::to_value(&kept).unwrap();
        assert_eq!(verdicts(&good), [Some(true); 2]);
        let read = Read::parse(serde_json::to_string(&good).unwrap().as_bytes()).unwrap();
        assert_eq!(read.kept, kept);

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

    #[test]
    fn the_example_of_the_documentation_is_a_signed_report() {
        let page = include_str!("../../../docs/report.md");
        let example = page.split("```json").nth(1).unwrap().split("```").next().unwrap();
        let value: Value = serde_json::from_str(example).unwrap();
        assert_eq!(verdicts(&value), [Some(true); 2]);
    }

    #[test]
    fn what_cannot_be_true_is_refused() {
        let good = serde_json::to_value(signed()).unwrap();
        let huge = u64::MAX;
        for (path, value, why) in [
            ("/report/version", 9.into(), "version 9"),
            ("/report/disks/0/source/size", huge.into(), "sizes of"),
            ("/report/disks/0/source/size", 0.into(), "sizes of"),
            ("/report/disks/0/sector_size", 513.into(), "sectors of 513"),
            ("/report/disks/0/after/span", 0.into(), "nodes"),
            ("/report/disks/0/after/span", (3u64 << 26).into(), "nodes"),
            ("/report/disks/0/after/nodes", Value::Array(vec![]), "0 nodes"),
            ("/report/disks/0/after/changed", serde_json::json!([[huge, huge]]), "changed range"),
            ("/report/disks/0/after/changed", serde_json::json!([[65536, 1], [0, 1]]), "changed range"),
            ("/report/disks/0/bad_sectors", serde_json::json!([[1 << 30, 512]]), "bad range"),
            (
                "/report/disks/0/bad_sectors",
                vec![(0, 1); 20000].into_iter().map(|r| serde_json::json!(r)).collect(),
                "20000 bad ranges",
            ),
            ("/report/disks/0/root", "abc".into(), "is no hash"),
            (
                "/report/disks/0/after/behind",
                serde_json::json!({"offset": huge, "length": huge, "blake3": ""}),
                "behind",
            ),
            ("/report/disks/0/source/size", (-1).into(), "no report of Gantry"),
            ("/report/state", "booted".into(), "no report of Gantry"),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = value;
            let error = format!("{:#}", read(&bad).unwrap_err());
            assert!(error.contains(why), "{path}: {error}");
        }
        for text in ["", "{}", "[1]", "{\"report\":1}", "{\"report\":{\"version\":1e400}}"] {
            assert!(Read::parse(text.as_bytes()).is_err(), "{text}");
        }
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert!(Read::parse(&deep).is_err());
    }
}
