//! Facts and findings for people, and for machines.

use std::fmt::Write;

use gantry_disk::size::human;
use gantry_disk::survey::content_words;
use gantry_disk::table::Kind;
use gantry_disk::usage::Use;
use serde::Serialize;

use super::facts::{DiskFacts, Facts, Machine};
use super::rules::{Finding, Severity};
use gantry_disk::machine::Firmware;

/// The rate that the estimate assumes: a gigabit network, or an old disk.
const RATE: u64 = 100_000_000;

#[derive(Serialize)]
struct Document<'a> {
    /// Version of this document's layout.
    gantry_inspect: u32,
    verdict: Severity,
    exit_code: u8,
    estimate: Estimate,
    findings: &'a [Finding],
    #[serde(flatten)]
    facts: &'a Facts,
}

#[derive(Serialize)]
struct Estimate {
    bytes: u64,
    bytes_per_second: u64,
    seconds: u64,
}

fn estimate(facts: &Facts) -> Estimate {
    let bytes = facts.disks.iter().map(|disk| disk.size).fold(0, u64::saturating_add);
    Estimate { bytes, bytes_per_second: RATE, seconds: bytes.div_ceil(RATE) }
}

/// The JSON document.
pub fn json(facts: &Facts, findings: &[Finding], verdict: Severity) -> serde_json::Result<String> {
    let document = Document {
        gantry_inspect: 1,
        verdict,
        exit_code: verdict.exit_code(),
        estimate: estimate(facts),
        findings,
        facts,
    };
    serde_json::to_string_pretty(&document)
}

/// The text. Writing to a string cannot fail.
pub fn text(facts: &Facts, findings: &[Finding], verdict: Severity) -> String {
    let mut out = String::new();
    if let Some(machine) = &facts.machine {
        let _ = writeln!(out, "Machine\n  {}", machine_line(machine));
        out.push_str("Network\n");
        for nic in &facts.nics {
            let link = match (nic.carrier, nic.speed) {
                (false, _) => "no link".to_owned(),
                (true, None) => "link".to_owned(),
                (true, Some(speed)) => format!("{speed} Mb/s"),
            };
            let _ = writeln!(out, "  {}", join(&[&nic.name, &nic.mac, &nic.driver, &link], "  "));
        }
        if facts.nics.is_empty() {
            out.push_str("  no network card\n");
        }
    }
    out.push_str("Disks\n");
    for disk in &facts.disks {
        disk_lines(&mut out, disk);
    }
    for left in facts.left_out.iter().filter(|left| left.boot_medium) {
        let _ = writeln!(out, "  {}  {}: left out", left.identity.path, left.reason);
    }
    if !findings.is_empty() {
        out.push_str("Findings\n");
    }
    for finding in findings {
        let Finding { code, severity, subject, text, remedy } = finding;
        let _ = writeln!(out, "  {:<8} {code}  {subject}: {text}\n           -> {remedy}", severity.word());
    }
    let _ = writeln!(out, "{}", verdict_line(facts, findings, verdict));
    out
}

fn machine_line(machine: &Machine) -> String {
    let firmware = match (machine.firmware, machine.secure_boot) {
        (Firmware::Bios, _) => "BIOS",
        (Firmware::Uefi, Some(true)) => "UEFI, Secure Boot on",
        (Firmware::Uefi, Some(false)) => "UEFI, Secure Boot off",
        (Firmware::Uefi, None) => "UEFI, Secure Boot not known",
    };
    let name = join(&[&machine.vendor, &machine.product], " ");
    let memory = format!("{} memory", human(machine.memory));
    let kernel = if machine.kernel.is_empty() { String::new() } else { format!("Linux {}", machine.kernel) };
    let medium = if machine.appliance { "started from Gantry's medium" } else { "" };
    join(&[&name, firmware, &memory, &machine.os, &kernel, medium], " | ")
}

fn join(parts: &[&str], between: &str) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(between)
}

fn disk_lines(out: &mut String, disk: &DiskFacts) {
    let serial = if disk.serial.is_empty() { String::new() } else { format!("serial {}", disk.serial) };
    let transport = disk.transport.map(|transport| transport.to_string()).unwrap_or_default();
    let sector = if disk.sector == 512 { String::new() } else { format!("{}-byte sectors", disk.sector) };
    let flags = [(disk.removable, "removable"), (disk.read_only, "read-only")];
    let flags = flags.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect::<Vec<_>>().join(", ");
    let parts = [
        &disk.path,
        &human(disk.size),
        &transport,
        &disk.driver,
        &serial,
        &disk.wwn,
        &disk.model,
        &sector,
        &flags,
    ];
    let _ = writeln!(out, "  {}", join(&parts.map(String::as_str), "  "));
    let whole = disk.uses.iter().filter(|used| device_of(used) == disk.path);
    for used in whole {
        let _ = writeln!(out, "    {used}");
    }
    match (&disk.table, &disk.unreadable, &disk.bad_table) {
        (Some(table), ..) => {
            let kind = if table.kind == Kind::Gpt { "GPT" } else { "MBR" };
            let _ = writeln!(out, "    {kind} {}", table.id);
        }
        (None, Some(why), _) => {
            let _ = writeln!(out, "    content not seen: {}", why.reason);
        }
        (None, None, Some(reason)) => {
            let _ = writeln!(out, "    {reason}");
        }
        (None, None, None) => {}
    }
    for found in &disk.signatures {
        let label = if found.label.is_empty() { String::new() } else { format!(" \"{}\"", found.label) };
        let _ = writeln!(out, "    {}{label} on the whole disk", found.kind);
    }
    for part in &disk.partitions {
        let uses: Vec<String> = disk
            .uses
            .iter()
            .filter(|used| is_of_partition(used, part.number, &disk.path))
            .map(short_use)
            .collect();
        let _ = writeln!(
            out,
            "    {:>3}  {:>10}  {}  {}{}",
            part.number,
            human(part.length),
            part.type_name,
            content_words(&part.content),
            if uses.is_empty() { String::new() } else { format!("  ({})", uses.join(", ")) }
        );
    }
}

fn device_of(used: &Use) -> &str {
    match used {
        Use::Mounted { device, .. } | Use::Swap { device } | Use::Held { device, .. } => device,
        Use::Loop { device, .. } | Use::Claimed { device } => device,
    }
}

/// "/dev/sda1", "/dev/nvme0n1p1".
fn is_of_partition(used: &Use, number: u32, disk: &str) -> bool {
    let rest = device_of(used).strip_prefix(disk);
    rest.is_some_and(|rest| rest.strip_prefix('p').unwrap_or(rest).parse() == Ok(number))
}

fn short_use(used: &Use) -> String {
    match used {
        Use::Mounted { at, .. } => format!("mounted on {at}"),
        Use::Swap { .. } => "swap in use".to_owned(),
        Use::Held { by, .. } => format!("part of {by}"),
        Use::Loop { by, .. } => format!("attached to {by}"),
        Use::Claimed { .. } => "claimed".to_owned(),
    }
}

fn verdict_line(facts: &Facts, findings: &[Finding], verdict: Severity) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let words = match verdict {
        Severity::Ready => "ready: it can cross".to_owned(),
        Severity::Warning => format!("it can cross, with {}", plural(count(Severity::Warning), "warning")),
        Severity::Blocked => {
            format!("blocked: {} must be solved first", plural(count(Severity::Blocked), "finding"))
        }
    };
    let Estimate { bytes, seconds, .. } = estimate(facts);
    let time = match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => "under a minute".to_owned(),
        (0, minutes) => format!("about {minutes} min"),
        (hours, minutes) => format!("about {hours} h {minutes} min"),
    };
    format!("Verdict: {words}. {} in {time} at 100 MB/s.", human(bytes))
}
