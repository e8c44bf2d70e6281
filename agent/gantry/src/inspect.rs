//! `gantry inspect`: what is here, can it cross, how long will it take. Reads only, in seconds, and says what it
//! could not see. Facts, rules, report: each in its own file; the page that documents them is `docs/inspect.md`.

mod disks;
mod facts;
mod machine;
mod report;
mod rules;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use facts::{Facts, Sources};

/// Say what this machine (or a disk, or an image file) is and whether it can cross. Reads only.
///
/// Exit code: 0 ready, 10 ready with warnings, 11 blocked, 1 the inspection itself failed.
#[derive(clap::Args)]
pub struct Args {
    /// Disks (path, serial or WWN) or raw image files; by default this whole machine.
    disks: Vec<String>,
    /// Print one JSON document instead of text (docs/inspect.md has the schema).
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let sources = Sources::default();
    let facts = gather(&sources, &args.disks)?;
    let findings = rules::judge(&facts);
    let verdict = rules::verdict(&findings);
    if args.json {
        println!("{}", report::json(&facts, &findings, verdict)?);
    } else {
        print!("{}", report::text(&facts, &findings, verdict));
    }
    Ok(ExitCode::from(verdict.exit_code()))
}

fn gather(sources: &Sources, named: &[String]) -> anyhow::Result<Facts> {
    let inventory = gantry_disk::inventory::scan(&sources.roots);
    if named.is_empty() {
        let inventory = inventory.context("looking for disks")?;
        return Ok(Facts {
            machine: Some(machine::look(sources)),
            nics: machine::nics(sources),
            disks: inventory.disks.iter().map(|disk| disks::of_machine(sources, disk)).collect(),
            left_out: inventory.left_out,
        });
    }
    // Image files can be inspected where there is no sysfs at all.
    let known = inventory.unwrap_or_default().disks;
    let mut facts = Facts::default();
    for name in named {
        let disk = match gantry_disk::inventory::select(&known, name) {
            Ok(disk) => disks::of_machine(sources, disk),
            Err(_) if PathBuf::from(name).exists() => disks::of_path(&PathBuf::from(name))?,
            Err(error) => return Err(error.into()),
        };
        facts.disks.push(disk);
    }
    Ok(facts)
}

#[cfg(test)]
mod tests;
