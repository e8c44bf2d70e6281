//! How events reach the person or the machine that watches: a bar on a terminal, plain lines elsewhere, JSON on demand.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use console::Term;
use gantry_disk::size::human;
use gantry_replicate::progress::{Figures, Progress};
use gantry_replicate::{Event, Events, Kept};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{address, report};

/// Plain progress lines come this far apart.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Where events go in this process.
pub fn sink(json: bool) -> Events {
    if json {
        return Events::new(object);
    }
    if std::io::stderr().is_terminal() {
        let bars = Bars::new();
        return Events::new(move |event| bars.show(event));
    }
    let last: Mutex<Option<(Instant, String)>> = Mutex::new(None);
    Events::new(move |event| match event {
        Event::Progress(progress) => {
            let Ok(mut last) = last.lock() else { return };
            let due =
                last.as_ref().is_none_or(|(at, of)| *of != progress.phase || at.elapsed() >= PLAIN_EVERY);
            if due {
                *last = Some((Instant::now(), progress.phase.to_string()));
                lines(progress).iter().for_each(|line| say(line));
            }
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

/// The last event of a replication that went well: the report and its signatures, and what else there is to say.
pub fn done(kept: &Kept, more: &Value) {
    let mut event = json!({ "event": "done" });
    for fields in [json!(kept), more.clone()] {
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
    }
    object(&event);
}

/// One plain line; none of these with `--json`.
pub fn say(line: &str) {
    // Some of this is a peer's text: it must not steer the terminal.
    let _ = writeln!(std::io::stdout(), "{}", plain(line));
}

/// Text that stays where it is put: tabs, which are in the files that repair's plan shows, become spaces, and whatever else
/// steers a terminal but for line ends becomes a question mark.
fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' { '?' } else { c };
    text.replace('\t', "    ").chars().map(plain).collect()
}

/// How far a phase is, in words: a line for all disks, and one for each if there are several.
pub fn lines(progress: &Progress) -> Vec<String> {
    let Progress { phase, paused, sum, disks } = progress;
    let line = |name: &str, figures: &Figures| {
        let percent = (figures.done * 100).checked_div(figures.total).unwrap_or(100);
        let (done, total) = (human(figures.done), human(figures.total));
        format!("{name}: {percent}% ({done} of {total}), {}", pace(figures, *paused).concat())
    };
    let mut lines = vec![line(phase, sum)];
    if disks.len() > 1 {
        lines.extend(disks.iter().map(|disk| line(&format!("  {}", disk.disk), &disk.figures)));
    }
    lines
}

/// How fast and how long yet; then, piece by piece, what became of the bytes.
fn pace(figures: &Figures, paused: bool) -> Vec<String> {
    let Figures { rate, mean, left, read, skipped, sent, saved, .. } = *figures;
    let first = match (paused, left) {
        (true, _) => "paused".to_owned(),
        (false, Some(seconds)) => format!("{}/s, {} left", human(rate), clock(seconds)),
        (false, None) => format!("{}/s, unknown time left", human(rate)),
    };
    let mut pieces = vec![first, format!("; mean {}/s", human(mean))];
    for (what, bytes) in [("read", read), ("skipped", skipped), ("sent", sent), ("saved", saved)] {
        if bytes > 0 {
            pieces.push(format!(", {what} {}", human(bytes)));
        }
    }
    pieces
}

/// As many pieces as there is room for, in characters, and the first in any case: half a number is worse than none.
fn fitting(pieces: &[String], room: usize) -> String {
    let mut text = String::new();
    for piece in pieces {
        if !text.is_empty() && text.chars().count() + piece.chars().count() > room {
            break;
        }
        text += piece;
    }
    text
}

fn clock(seconds: u64) -> String {
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

/// An event in words.
fn words(event: &Event) -> String {
    match event {
        Event::Listening { address } => {
            let dial = address::line(address).map(|line| format!("\n{line}")).unwrap_or_default();
            format!("listening on {address}{dial}")
        }
        Event::Paired { peer } => format!("paired with {peer}"),
        Event::Part(part) => report::part(part),
        Event::Mapped { source, target, size } => format!("disk {source} ({}) -> {target}", human(*size)),
        Event::Epoch { epoch, durable_chunks: 0 } => format!("epoch {epoch} begins"),
        Event::Epoch { epoch, durable_chunks } => {
            format!(
                "epoch {epoch} begins; {} do not cross again unless they differ",
                human(durable_chunks << 20)
            )
        }
        Event::Progress(progress) => lines(progress).join("\n"),
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

/// Bars on the terminal, one for all disks and one for each if there are several; lines go above them.
struct Bars {
    screen: MultiProgress,
    /// The phase they show, and the bars.
    shown: Mutex<(String, Vec<ProgressBar>)>,
}

impl Bars {
    fn new() -> Self {
        Self { screen: MultiProgress::new(), shown: Mutex::default() }
    }

    fn show(&self, event: &Event) {
        let Ok(mut shown) = self.shown.lock() else { return };
        let (phase, bars) = &mut *shown;
        match event {
            Event::Progress(progress) => {
                let rows = if progress.disks.len() > 1 { progress.disks.as_slice() } else { &[] };
                if *phase != progress.phase || bars.len() != rows.len() + 1 {
                    clear(&self.screen, bars);
                    *phase = progress.phase.to_string();
                    let names = rows.iter().map(|row| row.disk.clone()).chain([phase.clone()]);
                    *bars = names.map(|name| self.screen.add(bar(&name))).collect();
                }
                let figures = rows.iter().map(|row| &row.figures).chain([&progress.sum]);
                let width = usize::from(Term::stderr().size().1);
                for (bar, figures) in bars.iter().zip(figures) {
                    let room = width.saturating_sub(bar.prefix().chars().count().max(NAME) + BESIDE);
                    bar.set_length(figures.total);
                    bar.set_position(figures.done);
                    bar.set_message(fitting(&pace(figures, progress.paused), room));
                }
            }
            event => {
                if matches!(event, Event::Committed | Event::PassDone { .. } | Event::Lost { .. }) {
                    clear(&self.screen, bars);
                }
                self.screen.suspend(|| say(&words(event)));
            }
        }
    }
}

/// Columns for a bar's name, if it is not longer; and those of all that stands between it and the message.
const NAME: usize = 8;
const BESIDE: usize = " ".len() + 20 + " 100% ".len();

fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    let template = format!("{{prefix:{NAME}}} {{bar:20}} {{percent:>3}}% {{wide_msg}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.with_prefix(name.to_owned())
}

fn clear(screen: &MultiProgress, bars: &mut Vec<ProgressBar>) {
    for bar in bars.drain(..) {
        bar.finish_and_clear();
        screen.remove(&bar);
    }
}

#[cfg(test)]
mod tests {
    use gantry_replicate::progress::DiskProgress;

    use super::*;

    #[test]
    fn text_does_not_steer_the_terminal_and_tabs_are_no_question_marks() {
        assert_eq!(plain("+\tGRUB_CMDLINE\n\u{1b}[2J\u{7f}\r"), "+    GRUB_CMDLINE\n?[2J??");
    }

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long_yet() {
        let figures = Figures {
            done: 860 << 20,
            total: 2 << 30,
            read: 900 << 20,
            sent: 300 << 20,
            saved: 500 << 20,
            rate: 20 << 20,
            mean: 19 << 20,
            left: Some(3725),
            ..Figures::default()
        };
        let disk = |name: &str| DiskProgress { disk: name.into(), figures };
        let mut progress =
            Progress { phase: "full".into(), paused: false, sum: figures, disks: vec![disk("/dev/sda")] };
        let line = "full: 41% (860 MiB of 2 GiB), 20 MiB/s, 1:02:05 left; mean 19 MiB/s, read 900 MiB, sent 300 MiB, \
                    saved 500 MiB";
        assert_eq!(lines(&progress), [line]);
        // A terminal of 80 columns leaves 45 of them; no number is ever cut.
        for (room, expected) in [
            (45, "20 MiB/s, 1:02:05 left; mean 19 MiB/s"),
            (52, "20 MiB/s, 1:02:05 left; mean 19 MiB/s, read 900 MiB"),
            (51, "20 MiB/s, 1:02:05 left; mean 19 MiB/s, read 900 MiB"),
            (50, "20 MiB/s, 1:02:05 left; mean 19 MiB/s"),
            (3, "20 MiB/s, 1:02:05 left"),
        ] {
            assert_eq!(fitting(&pace(&figures, false), room), expected);
        }
        progress.disks.push(disk("/dev/sdb"));
        progress.paused = true;
        let lines = lines(&progress);
        assert_eq!(lines.len(), 3);
        assert!(lines[2].starts_with("  /dev/sdb: 41% (860 MiB of 2 GiB), paused; mean"), "{lines:?}");
    }
}
