//! How events reach the person or the machine that watches: a bar on a terminal, plain lines elsewhere, JSON on demand.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use gantry_disk::size::human;
use gantry_replicate::{Event, Events, Report};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Plain progress lines come this far apart.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Where events go in this process.
pub fn sink(json: bool) -> Events {
    if json {
        return Events::new(object);
    }
    if std::io::stderr().is_terminal() {
        let bar = Bar::new();
        return Events::new(move |event| bar.show(event));
    }
    let last: Mutex<Option<(Instant, &'static str, u64)>> = Mutex::new(None);
    Events::new(move |event| match event {
        Event::Progress { phase, done, total, .. } => {
            let Ok(mut last) = last.lock() else { return };
            let now = Instant::now();
            match *last {
                Some((at, of, _)) if of == *phase && now - at < PLAIN_EVERY => return,
                Some((at, of, before)) if of == *phase => {
                    let rate = done.saturating_sub(before) as f64 / (now - at).as_secs_f64();
                    say(&format!(
                        "{}, {}/s, {} left",
                        share(phase, *done, *total),
                        human(rate as u64),
                        left(*done, *total, rate)
                    ));
                }
                _ => say(&share(phase, *done, *total)),
            }
            *last = Some((now, phase, *done));
        }
        event => say(&words(event)),
    })
}

/// One event of `--json`, the engine's or one of the command's own (docs/replication.md lists both).
pub fn object(event: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(event) {
        // A reader that is gone does not stop a replication.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

/// One plain line; none of these with `--json`.
pub fn say(line: &str) {
    // Some of this is a peer's text: it must not steer the terminal.
    let plain: String = line.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect();
    let _ = writeln!(std::io::stdout(), "{plain}");
}

fn share(phase: &str, done: u64, total: u64) -> String {
    let percent = (done * 100).checked_div(total).unwrap_or(100);
    format!("{phase}: {percent}% ({} of {})", human(done), human(total))
}

fn left(done: u64, total: u64, rate: f64) -> String {
    if rate < 1.0 {
        return "unknown time".to_owned();
    }
    let seconds = ((total - done) as f64 / rate) as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// How a report is kept: `--report FILE`.
pub fn keep_report(file: Option<&Path>, report: &Report) -> Result<()> {
    let Some(path) = file else { return Ok(()) };
    let json = serde_json::to_vec_pretty(report).context("writing the report")?;
    std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))
}

/// An event in words, one line.
fn words(event: &Event) -> String {
    match event {
        Event::Listening { address } => format!("listening on {address}"),
        Event::Paired { peer } => format!("paired with {peer}"),
        Event::Mapped { source, target, size } => format!("disk {source} ({}) -> {target}", human(*size)),
        Event::Epoch { epoch, durable_chunks: 0 } => format!("epoch {epoch} begins"),
        Event::Epoch { epoch, durable_chunks } => {
            format!("epoch {epoch} begins; {} are there already", human(durable_chunks << 20))
        }
        Event::Progress { phase, done, total, .. } => share(phase, *done, *total),
        Event::PassDone { phase, differing: 0 } => format!("{phase} pass: done"),
        Event::PassDone { phase, differing } => {
            format!("{phase} pass: {differing} MiB differed and were written again")
        }
        Event::Verified { disk, root } => format!("verified {disk}: root {root}"),
        Event::Stage { text } => text.clone(),
        Event::Lost { reason, wait: 0 } => format!("link lost: {reason}; waiting for the sender"),
        Event::Lost { reason, wait } => format!("no link: {reason}; trying again in {wait} s"),
        Event::Refused { peer, reason } => format!("refused {peer}: {reason}"),
        Event::Committed => "committed: the target disks are whole".to_owned(),
    }
}

/// A bar on the terminal, with lines above it.
struct Bar {
    bar: ProgressBar,
    phase: Mutex<&'static str>,
}

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::hidden();
        let template = "{prefix:8} {bar:30} {percent:>3}% {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, phase: Mutex::new("") }
    }

    fn show(&self, event: &Event) {
        match event {
            Event::Progress { phase, done, total, .. } => {
                if let Ok(mut current) = self.phase.lock()
                    && *current != *phase
                {
                    *current = phase;
                    self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
                    self.bar.reset();
                    self.bar.set_prefix(*phase);
                }
                self.bar.set_length(*total);
                self.bar.set_position(*done);
            }
            event => self.bar.suspend(|| say(&words(event))),
        }
        if matches!(event, Event::Committed | Event::PassDone { .. }) {
            self.bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
            if let Ok(mut phase) = self.phase.lock() {
                *phase = "";
            }
        }
    }
}
