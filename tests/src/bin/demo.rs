//! `scripts/demo`: the crossing, with what both machines say on the screen, and at the end verdict, times and a picture.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gantry_qemu::Firmware;
use gantry_tests::crossing::{Crossing, Start};
use gantry_tests::guest::Recipe;
use regex::bytes::Regex;

/// What is worth showing of a serial log: such lines, and the indented ones that belong to them.
const WORTH: &str = r"^(gantry: |full|compare|epoch|paired|listening|verified|repair|edit|state|phase|hand-over|committed|GUEST-PROOF|disk |link lost|no link|.*login:)";

fn main() -> Result<()> {
    say("making the source machine (Debian 12 on an AHCI disk) and a target disk full of old data");
    let mut crossing = Crossing::prepare("demo", Recipe::bookworm_bios(), Firmware::Bios, Start::Cd)?;
    let evidence = crossing.evidence.directory().to_owned();
    let over = Arc::new(AtomicBool::new(false));
    let tails: Vec<_> = [("target", "\x1b[36m"), ("source", "\x1b[33m")]
        .into_iter()
        .map(|(name, colour)| {
            let (log, over) = (evidence.join(format!("{name}.serial.log")), Arc::clone(&over));
            std::thread::spawn(move || follow(&log, name, colour, &over))
        })
        .collect();
    say("the target machine (virtio disk and network card) starts from the Gantry ISO");
    let (target, code) = crossing.start_target()?;
    say("the source machine starts from the Gantry ISO, with the target's address and pairing code");
    let source = crossing.start_source(&code)?;
    let mut replica = crossing.hand_over(target)?;
    say("the target resets, the ISO still first in the boot order");
    let arrival = crossing.arrive(&mut replica)?;
    source.kill()?;
    crossing.source_is_unchanged()?;
    over.store(true, Ordering::Relaxed);
    for tail in tails {
        // A tail that failed has shown less; the verdict does not depend on it.
        drop(tail.join());
    }
    let times = std::fs::read(evidence.join("timings.json")).context("reading the times")?;
    let times: BTreeMap<String, f64> = serde_json::from_slice(&times).context("reading the times")?;
    say("times in seconds");
    // Their names sort as the steps followed each other; what is part of a step (3.2) is indented.
    for (phase, seconds) in &times {
        let part = phase.split_once(' ').is_some_and(|(number, _)| number.contains('.'));
        let indent = if part { "    " } else { "" };
        println!("{indent}{seconds:8.1}  {phase}");
    }
    let picture = evidence.join("target.arrived.png");
    ensure!(picture.is_file(), "no picture of the migrated machine: {}", picture.display());
    say(
        "verdict: the machine crossed. Its own login prompt, its files by checksum, its network and its SSH host key",
    );
    say(&format!(
        "were seen on the new hardware (root on {}); the source disk is bit for bit unchanged",
        arrival.root
    ));
    say(&format!("screenshot of the migrated machine: {}", picture.display()));
    Ok(())
}

/// `text` in a colour, on a terminal.
fn in_colour(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("{code}{text}\x1b[0m") } else { text.to_owned() }
}

fn say(text: &str) {
    println!("{}", in_colour("\x1b[1m", &format!("== {text}")));
}

/// Shows the lines of a growing serial log that a person wants to see.
fn follow(log: &Path, name: &str, colour: &str, over: &AtomicBool) -> Result<()> {
    let worth = Regex::new(WORTH).context("compiling a pattern")?;
    let mut file = loop {
        match File::open(log) {
            Ok(file) => break file,
            Err(_) if over.load(Ordering::Relaxed) => return Ok(()),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    };
    let (mut line, mut shown) = (Vec::new(), false);
    loop {
        let mut fresh = Vec::new();
        file.read_to_end(&mut fresh).context("reading a serial log")?;
        if fresh.is_empty() {
            if over.load(Ordering::Relaxed) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
            continue;
        }
        for byte in fresh {
            if byte == b'\n' {
                shown = worth.is_match(&line) || (shown && line.starts_with(b"  "));
                if shown {
                    let text = String::from_utf8_lossy(&line);
                    writeln!(std::io::stdout(), "{}  {}", in_colour(colour, name), text.trim_end())?;
                }
                line.clear();
            } else {
                line.push(byte);
            }
        }
    }
}
