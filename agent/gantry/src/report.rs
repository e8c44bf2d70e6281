//! Reports as files: kept, signed with the operator's key, shown.
//!
//! The operator's signature is made by `ssh-keygen -Y sign`, which every host with OpenSSH has, over the file as it lies
//! there. So keys in an agent or on a token work as they do for everything else, and `ssh-keygen -Y verify` checks it.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use gantry_disk::size::human;
use gantry_replicate::kept::{End, FILE_LIMIT, Kept, Read};
use gantry_replicate::report::{DiskReport, Report, State};

use crate::machine::Refused;

/// The namespace of the operator's signatures (`ssh-keygen -Y verify -n`).
const NAMESPACE: &str = "gantry-report";

/// Options of all commands that make a report.
#[derive(clap::Args)]
pub struct Keep {
    /// Keep the report as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Sign the report with this SSH key (the public one, if the private one is in an agent): FILE.sig is made, and
    /// "ssh-keygen -Y verify -n gantry-report" checks it.
    #[arg(long, value_name = "KEY", requires = "report")]
    sign_with: Option<PathBuf>,
}

impl Keep {
    /// Tries the key before anything else is done.
    ///
    /// # Errors
    /// No ssh-keygen here, or the key cannot sign.
    pub fn prepare(&self) -> Result<()> {
        match &self.sign_with {
            Some(key) => sign(key, b"a trial").map(drop),
            None => Ok(()),
        }
    }

    /// Keeps and signs the report as it was asked for.
    pub fn keep(&self, kept: &Kept) -> Result<()> {
        let Some(file) = &self.report else { return Ok(()) };
        let mut json = serde_json::to_vec_pretty(kept).context("writing the report")?;
        json.push(b'\n');
        fs::write(file, &json).with_context(|| format!("writing {}", file.display()))?;
        match &self.sign_with {
            Some(key) => sign_file(key, file, &json),
            None => Ok(()),
        }
    }
}

/// Writes the operator's signature of a file beside it.
pub fn sign_file(key: &Path, file: &Path, content: &[u8]) -> Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    let signature = sign(key, content)?;
    fs::write(&name, signature).with_context(|| format!("writing {}", Path::new(&name).display()))
}

fn sign(key: &Path, content: &[u8]) -> Result<Vec<u8>> {
    let name = key.display();
    if !key.exists() {
        bail!(Refused(format!("{name}: there is no such key")));
    }
    let mut command = Command::new("ssh-keygen");
    command.args(["-Y", "sign", "-n", NAMESPACE, "-f"]).arg(key);
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| {
        Refused(format!(
            "ssh-keygen could not be started ({error}): --sign-with needs OpenSSH. Where there is none, as in the \
             appliance, sign later: gantry verify --report FILE --sign-with KEY"
        ))
    })?;
    // If it has ended already, its own words say more than our broken pipe.
    let given = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(content));
    let output = child.wait_with_output().context("waiting for ssh-keygen")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let good = output.status.success() && output.stdout.starts_with(b"-----BEGIN SSH SIGNATURE-----");
    if !good {
        bail!(Refused(format!("signing with {name}: {}: {}", output.status, said.trim())));
    }
    given.context("giving the report to ssh-keygen")?;
    Ok(output.stdout)
}

/// Reads a report file; its bytes, and what they say.
pub fn read(file: &Path) -> Result<(Vec<u8>, Read)> {
    let name = || format!("reading the report {}", file.display());
    let opened = fs::File::open(file).with_context(name)?;
    let mut bytes = Vec::new();
    opened.take(FILE_LIMIT + 1).read_to_end(&mut bytes).with_context(name)?;
    let read = Read::parse(&bytes).with_context(name)?;
    Ok((bytes, read))
}

/// What the signatures of both ends are worth, in words; an error when one is broken.
pub fn signatures(read: &Read) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (end, name) in [(End::Source, "source"), (End::Target, "target")] {
        lines.push(match read.signature(end) {
            Some(verdict) => {
                let text = format!(
                    "signature of the {name} is BROKEN: the report was changed since, or it was made up"
                );
                verdict.map_err(|error| Refused(format!("{text} ({error:#})")))?;
                format!("signature of the {name}: good")
            }
            None => format!("signature of the {name}: none"),
        });
    }
    Ok(lines)
}

/// The state in one line.
pub fn state(report: &Report) -> String {
    format!("state: {}", report.state.words())
}

/// A report for people.
pub fn render(report: &Report) -> Result<String> {
    let mut text = String::new();
    let t = &mut text;
    ensure!(report.state != State::Unfinished, "the report is of a session that did not end");
    for (what, machine) in [("source", &report.source), ("target", &report.target)] {
        writeln!(t, "{what}: {}, {}, its clock {}", machine.name, machine.software, machine.clock)?;
    }
    writeln!(t, "the target's clock was {} s ahead", report.clock_offset)?;
    let took = report.committed.saturating_sub(report.began);
    let session = if report.session.is_empty() { "a copy on one host" } else { &report.session };
    writeln!(t, "session: {session}, begun at {} by the target's clock, {took} s", report.began)?;
    for disk in &report.disks {
        render_disk(t, disk)?;
    }
    for note in &report.transforms {
        writeln!(t, "changed to fit: {note}")?;
    }
    if let Some(steps) = report.repair.get("steps").and_then(serde_json::Value::as_array) {
        writeln!(t, "repair: {} steps; the JSON holds plan and diffs", steps.len())?;
    }
    for phase in &report.phases {
        writeln!(t, "phase {}: {:.1} s", phase.name, phase.milliseconds as f64 / 1000.0)?;
    }
    writeln!(t, "{}", state(report))?;
    Ok(text)
}

fn render_disk(t: &mut String, disk: &DiskReport) -> Result<()> {
    for (what, names) in [("disk", &disk.source), ("  onto", &disk.target)] {
        let more: Vec<&str> = [&names.serial, &names.wwn, &names.model]
            .into_iter()
            .map(String::as_str)
            .filter(|s| !s.is_empty())
            .collect();
        let sector = disk.sector_size;
        writeln!(t, "{what} {} ({} bytes, sectors of {sector}) {}", names.path, names.size, more.join(", "))?;
    }
    let after = &disk.after;
    writeln!(t, "  compared: {:?}; root before repair {}", disk.compared, disk.root)?;
    for part in &disk.skipped {
        let (used, length) = (human(part.used), human(part.length));
        writeln!(t, "  at byte {}: {}, {used} of {length} read: {}", part.offset, part.kind, part.why)?;
    }
    for (offset, length) in &disk.bad_sectors {
        writeln!(t, "  BAD: {length} bytes at byte {offset} could not be read and are zero")?;
    }
    if disk.rewritten_chunks > 0 {
        writeln!(
            t,
            "  {} MiB did not read back as they were written, and were written again",
            disk.rewritten_chunks
        )?;
    }
    let bytes: u64 = after.changed.iter().map(|(_, length)| length).sum();
    let places = after.changed.len();
    let known = &after.known_by;
    writeln!(
        t,
        "  changed afterwards: {} in {places} places ({known}); root after {}",
        human(bytes),
        after.root
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(folder: &Path) -> PathBuf {
        let key = folder.join("id");
        let mut made = Command::new("ssh-keygen");
        made.args(["-q", "-t", "ed25519", "-N", "", "-C", "op", "-f"]).arg(&key);
        assert!(made.status().unwrap().success());
        key
    }

    /// `ssh-keygen -Y verify` as an auditor runs it.
    fn accepted(folder: &Path, content: &[u8], signature: &Path) -> bool {
        let public = fs::read_to_string(folder.join("id.pub")).unwrap();
        fs::write(folder.join("allowed"), format!("operator {public}")).unwrap();
        let mut command = Command::new("ssh-keygen");
        command.args(["-Y", "verify", "-I", "operator", "-n", NAMESPACE, "-f"]).arg(folder.join("allowed"));
        command.arg("-s").arg(signature).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(content).unwrap();
        child.wait().unwrap().success()
    }

    #[test]
    fn ssh_keygen_accepts_the_signature_and_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let key = key(folder.path());
        let file = folder.path().join("report.json");
        let keep = Keep { report: Some(file.clone()), sign_with: Some(key) };
        keep.prepare().unwrap();
        keep.keep(&Kept::default()).unwrap();
        // An older signature is no obstacle.
        keep.keep(&Kept::default()).unwrap();
        let (content, signature) = (fs::read(&file).unwrap(), folder.path().join("report.json.sig"));
        assert!(accepted(folder.path(), &content, &signature));
        let changed = String::from_utf8(content).unwrap().replace("unfinished", "Unfinished");
        assert!(!accepted(folder.path(), changed.as_bytes(), &signature));
    }

    #[test]
    fn a_key_that_cannot_sign_is_told_before_anything_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let no_key = folder.path().join("id");
        let keep = Keep { report: Some("r".into()), sign_with: Some(no_key.clone()) };
        assert!(keep.prepare().unwrap_err().is::<Refused>());
        fs::write(&no_key, "nonsense").unwrap();
        let error = format!("{:#}", keep.prepare().unwrap_err());
        assert!(error.contains("signing with"), "{error}");
    }
}
