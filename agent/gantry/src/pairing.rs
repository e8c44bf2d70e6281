//! Where a pairing code comes from: a file, standard input, a person; never the command line.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use gantry_wire::Code;

use crate::machine::Refused;

/// The sender's code: from `file` (`-`: standard input), or asked for.
///
/// # Errors
/// [`Refused`]: only a person can give another one.
pub fn read(file: Option<&Path>) -> Result<Code> {
    let text = match file {
        Some(path) if path != Path::new("-") => {
            let text = std::fs::read_to_string(path);
            text.map_err(|error| Refused(format!("reading the code from {}: {error}", path.display())))?
        }
        from_stdin => {
            if from_stdin.is_none() {
                if !std::io::stdin().is_terminal() {
                    bail!(Refused(
                        "no terminal to ask for the pairing code: use --code-file FILE, or --code-file - for stdin"
                            .to_owned()
                    ));
                }
                // Not on stdout: with --json that is for events alone.
                eprint!("pairing code: ");
            }
            std::io::read_to_string(Line(std::io::stdin())).context("reading the code")?
        }
    };
    Ok(Code::parse(&text).map_err(|error| Refused(error.to_string()))?)
}

/// The receiver's code: from `file` if it has one, else a new one, which is kept there for a restart.
///
/// # Errors
/// [`Refused`] if what is in the file is no code.
pub fn keep(file: Option<&Path>) -> Result<Code> {
    if let Some(path) = file {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let wrong = |error| Refused(format!("{}: {error}; remove it for a new code", path.display()));
                return Ok(Code::parse(&text).map_err(wrong)?);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(error).with_context(|| format!("reading the code from {}", path.display()));
            }
        }
    }
    let code = Code::from_random(gantry_replicate::random::bytes()?);
    if let Some(path) = file {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        made.and_then(|mut file| writeln!(file, "{}", code.reveal()))
            .with_context(|| format!("keeping the code in {}", path.display()))?;
    }
    Ok(code)
}

/// Reads up to the first line end, so that a terminal need not be closed.
struct Line(std::io::Stdin);

impl std::io::Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut byte = [0];
        if self.0.lock().read(&mut byte)? == 0 || byte[0] == b'\n' {
            return Ok(0);
        }
        buffer[0] = byte[0];
        Ok(1)
    }
}
