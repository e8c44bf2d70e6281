//! Reports as files: kept, signed with the operator's key, shown.
//!
//! The operator's signature is made by `ssh-keygen -Y sign`, which every host with OpenSSH has, over the file as it lies
//! there. So keys in an agent or on a token work as they do for everything else, and `ssh-keygen -Y verify` checks it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use gantry_disk::size::human;
use gantry_replicate::kept::{End, FILE_LIMIT, Kept};
use gantry_replicate::report::{DiskReport, Part, Report};
use serde_json::{Value, json};

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
    /// Tries the place and the key before anything else is done.
    ///
    /// # Errors
    /// The report could not be written there, no ssh-keygen here, or the key cannot sign.
    pub fn prepare(&self) -> Result<()> {
        if let Some(file) = &self.report {
            try_place(file)?;
        }
        match &self.sign_with {
            Some(key) => try_key(key),
            None => Ok(()),
        }
    }

    /// Keeps and signs the report as it was asked for. To be called when everything else is done.
    ///
    /// # Errors
    /// Never a refusal, whatever stood in the way: the machine has crossed.
    pub fn keep(&self, kept: &Kept) -> Result<()> {
        let kept = self.write(kept);
        kept.map_err(|error| anyhow!("all is committed, but the report could not be kept: {error:#}"))
    }

    fn write(&self, kept: &Kept) -> Result<()> {
        let Some(file) = &self.report else { return Ok(()) };
        let mut json = serde_json::to_vec_pretty(kept).context("writing the report")?;
        json.push(b'\n');
        replace(file, &json)?;
        match &self.sign_with {
            Some(key) => sign_file(key, file, &json),
            None => Ok(()),
        }
    }
}

/// Writes a file so that it is there as a whole or as it was. What is no file (a pipe, a terminal) is written to.
fn replace(file: &Path, content: &[u8]) -> Result<()> {
    let what = || format!("writing {}", file.display());
    if fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return fs::write(file, content).with_context(what);
    }
    let temporary = beside(file, &format!(".{}.new", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut new| {
        new.write_all(content)?;
        new.sync_all()?;
        fs::rename(&temporary, file)
    });
    if written.is_err() {
        // The first cause is what is told.
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(what)
}

/// Tries whether [`replace`] could write a file there.
///
/// # Errors
/// [`Refused`]: a directory of that name, no directory that it could be in, or no right to write there.
pub fn try_place(file: &Path) -> Result<()> {
    let refused = |why: String| Err(Refused(format!("{}: {why}", file.display())).into());
    match fs::metadata(file) {
        Ok(found) if found.is_dir() => return refused("is a directory: name the file in it".to_owned()),
        Ok(found) if !found.is_file() => return Ok(()),
        _ => {}
    }
    let trial = beside(file, &format!(".{}.new", std::process::id()));
    match fs::File::create(&trial).and_then(|_| fs::remove_file(&trial)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            refused("there is no such directory: make it first, or name another place".to_owned())
        }
        Err(error) => refused(format!("it could not be written: {error}")),
    }
}

/// The file's name with something behind it.
fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Tries whether a key can sign.
pub fn try_key(key: &Path) -> Result<()> {
    sign(key, b"a trial").map(drop)
}

/// Writes the operator's signature of a file beside it.
pub fn sign_file(key: &Path, file: &Path, content: &[u8]) -> Result<()> {
    replace(&beside(file, ".sig"), &sign(key, content)?)
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
pub fn read(file: &Path) -> Result<(Vec<u8>, Kept)> {
    let name = || format!("reading the report {}", file.display());
    let opened = fs::File::open(file).with_context(name)?;
    let mut bytes = Vec::new();
    opened.take(FILE_LIMIT + 1).read_to_end(&mut bytes).with_context(name)?;
    let kept = Kept::parse(&bytes).with_context(name)?;
    Ok((bytes, kept))
}

/// Which ends have signed a report.
pub struct Signed {
    /// Each end, the name of its key, and whether there is a good signature by it.
    ends: [(End, String, bool); 2],
}

impl Signed {
    /// # Errors
    /// A signature is broken.
    pub fn of(kept: &Kept) -> Result<Self> {
        let verdict = |end: End| {
            let good = kept.signature(end).transpose().map_err(|error| {
                let end = end.name();
                Refused(format!(
                    "signature of the {end} is BROKEN: the report was changed since, or it was made up ({error:#})"
                ))
            });
            anyhow::Ok((end, kept.key(end).to_owned(), good?.is_some()))
        };
        Ok(Self { ends: [verdict(End::Source)?, verdict(End::Target)?] })
    }

    /// Whether both ends have.
    pub fn is_whole(&self) -> bool {
        self.ends.iter().all(|(.., good)| *good)
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let line = |(end, key, good): &(End, String, bool)| match good {
            true => format!("signature of the {}: good, by key {key}", end.name()),
            false => format!("signature of the {}: none", end.name()),
        };
        self.ends.iter().map(line).collect()
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let word = |good: bool| if good { "good" } else { "none" };
        let [source, target] = self.ends.each_ref().map(|(.., good)| word(*good));
        json!({ "source": source, "target": target })
    }
}

/// The state in one line.
pub fn state(report: &Report) -> String {
    format!("state: {}", report.state.words())
}

/// The keys of the session in lines: noted at both ends they tell later that a report is of this very session.
pub fn keys(kept: &Kept) -> Vec<String> {
    let ends = [End::Source, End::Target].into_iter().filter(|end| !kept.key(*end).is_empty());
    ends.map(|end| format!("key of the {} in this session: {}", end.name(), kept.key(end))).collect()
}

/// A report for people, in lines. What it says cannot make lines of its own.
pub fn render(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for (what, machine) in [("source", &report.source), ("target", &report.target)] {
        lines.push(format!("{what}: {}, {}, its clock {}", machine.name, machine.software, machine.clock));
    }
    lines.push(format!("the target's clock was {} s ahead", report.clock_offset));
    let took = report.committed.saturating_sub(report.began);
    let session = if report.session.is_empty() { "a copy on one host" } else { &report.session };
    lines.push(format!("session: {session}, begun at {} by the target's clock, {took} s", report.began));
    report.disks.iter().for_each(|disk| render_disk(&mut lines, disk));
    lines.extend(report.volumes.iter().map(part));
    lines.extend(report.transforms.iter().map(|note| format!("changed to fit: {note}")));
    if let Some(steps) = report.repair.get("steps").and_then(Value::as_array) {
        lines.push(format!("repair: {} steps; the JSON holds plan and diffs", steps.len()));
    }
    for phase in &report.phases {
        lines.push(format!("phase {}: {:.1} s", phase.name, phase.milliseconds as f64 / 1000.0));
    }
    lines.push(state(report));
    lines.iter().map(|line| line.replace(char::is_control, "?")).collect()
}

/// A partition or volume in one line: how much of it is used, or why all of it counts as used.
pub fn part(part: &Part) -> String {
    let Part { name, kind, length, used, doubt, .. } = part;
    let kind = if kind.is_empty() { "nothing known" } else { kind };
    let (used, length) = (human(*used), human(*length));
    match doubt.as_str() {
        "" => format!("{name}: {kind}, {used} of {length} used"),
        doubt => format!("{name}: {kind}, all {length} taken as used: {doubt}"),
    }
}

fn render_disk(lines: &mut Vec<String>, disk: &DiskReport) {
    for (what, names) in [("disk", &disk.source), ("  onto", &disk.target)] {
        let more: Vec<&str> = [&names.serial, &names.wwn, &names.model]
            .into_iter()
            .map(String::as_str)
            .filter(|s| !s.is_empty())
            .collect();
        let (sector, more) = (disk.sector_size, more.join(", "));
        lines.push(format!("{what} {} ({} bytes, sectors of {sector}) {more}", names.path, names.size));
    }
    lines.push(format!("  compared: {:?}; root before repair {}", disk.compared, disk.root));
    if !disk.doubt.is_empty() {
        lines.push(format!("  all of it was copied: {}", disk.doubt));
    }
    lines.extend(disk.parts.iter().map(|p| format!("  {}", part(p))));
    for (offset, length) in &disk.bad_sectors {
        lines.push(format!("  BAD: {length} bytes at byte {offset} could not be read and are zero"));
    }
    if disk.rewritten_chunks > 0 {
        let count = disk.rewritten_chunks;
        lines.push(format!("  {count} MiB did not read back as they were written, and were written again"));
    }
    let Some(after) = &disk.after else { return };
    let bytes: u64 = after.changed.iter().map(|(_, length)| length).sum();
    let (bytes, places, known) = (human(bytes), after.changed.len(), &after.known_by);
    let root = &after.root;
    lines.push(format!("  changed afterwards: {bytes} in {places} places ({known}); root after {root}"));
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
        let kept = Kept::new(Report::default()).unwrap();
        keep.keep(&kept).unwrap();
        // An older signature is no obstacle.
        keep.keep(&kept).unwrap();
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
    /// After the commit nothing is refused any more, and what was there before stays.
    #[test]
    fn a_report_that_cannot_be_kept_is_no_refusal_and_spoils_no_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let (key, file) = (key(folder.path()), folder.path().join("report.json"));
        let kept = Kept::new(Report::default()).unwrap();
        let keep = Keep { report: Some(file.clone()), sign_with: Some(key.clone()) };
        keep.prepare().unwrap();
        fs::remove_file(&key).unwrap();
        let error = keep.keep(&kept).unwrap_err();
        assert!(!error.chain().any(|cause| cause.is::<Refused>()), "{error:#}");
        assert!(error.to_string().contains("committed, but the report could not be kept"), "{error:#}");
        assert!(file.exists(), "what could be done was");
        let nowhere = Keep { report: Some(folder.path().join("no/report")), sign_with: None };
        assert!(nowhere.keep(&kept).unwrap_err().to_string().contains("no/report"));
        let names = |folder: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(folder.path()), ["id.pub", "report.json"], "nothing half written");
    }

    #[test]
    fn what_a_report_says_makes_no_lines_of_its_own() {
        let forged = "vm7\nsignature of the source: good\r\u{1b}[2J".to_owned();
        let mut report = Report { transforms: vec![forged.clone()], ..Report::default() };
        report.source.name.clone_from(&forged);
        let mut disk = DiskReport::default();
        disk.source.path = forged;
        report.disks = vec![disk];
        let lines = render(&report);
        assert!(lines.iter().filter(|line| line.contains("vm7?signature")).count() == 3, "{lines:#?}");
        assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:#?}");
    }
}
