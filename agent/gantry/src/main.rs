//! The `gantry` command: one match from subcommand to function.

mod address;
mod control;
mod copy;
mod ends;
mod events;
mod export;
mod finisher;
mod image;
mod inspect;
mod limit;
mod machine;
mod names;
mod pairing;
mod pause;
mod priority;
mod receive;
mod repair;
mod report;
mod resume;
mod send;
mod status;
mod verify;
mod witness;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Lifts whole machines from one platform to another.
#[derive(Parser)]
#[command(name = "gantry", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Copy(copy::Args),
    Export(export::Args),
    Receive(receive::Args),
    Send(send::Args),
    Status(status::Args),
    Pause(pause::Args),
    Resume(resume::Args),
    Limit(limit::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    #[command(subcommand)]
    Image(image::Command),
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return gantry_initramfs::pid1::main();
    }
    // In the appliance the kernel calls us by this name when it needs a module.
    if gantry_initramfs::modprobe::is_called(std::env::args_os().next().as_deref()) {
        return gantry_initramfs::modprobe::main(std::env::args());
    }
    let outcome = match Cli::parse().command {
        Command::Inspect(args) => inspect::run(args),
        Command::Copy(args) => copy::run(args),
        Command::Export(args) => export::run(args),
        Command::Receive(args) => receive::run(args),
        Command::Send(args) => send::run(args),
        Command::Status(args) => status::run(&args),
        Command::Pause(args) => pause::run(&args),
        Command::Resume(args) => resume::run(&args),
        Command::Limit(args) => limit::run(&args),
        Command::Verify(args) => verify::run(args),
        Command::Repair(args) => repair::run(args),
        Command::Image(command) => image::run(command),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("gantry: {error:#}");
        ExitCode::from(1)
    })
}
