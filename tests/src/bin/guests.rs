//! Builds and lists the guests that the end-to-end tests use: `cargo run -p gantry-tests --bin guests -- build bookworm-bios`.

use anyhow::Result;
use clap::{Parser, Subcommand};
use gantry_tests::guest::{Guest, Recipe};

/// The guests of the end-to-end tests.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build guests that are not in the cache, all when none is named, and print where their disks are.
    Build {
        /// Names of guests.
        names: Vec<String>,
    },
    /// Print the names of all guests.
    List,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::List => Recipe::all().iter().for_each(|recipe| println!("{}", recipe.name)),
        Command::Build { names } => {
            let chosen: Vec<Recipe> = if names.is_empty() {
                Recipe::all().to_vec()
            } else {
                names.iter().map(|name| Recipe::named(name)).collect::<Result<_>>()?
            };
            for recipe in chosen {
                println!("{}: {}", recipe.name, Guest::get(recipe)?.disk().display());
            }
        }
    }
    Ok(())
}
