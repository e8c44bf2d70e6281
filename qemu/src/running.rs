//! A machine that is switched on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::console::{Console, Shared};
use crate::evidence::Evidence;
use crate::limit::Limit;
use crate::machine::{Machine, Places};
use crate::process::Process;
use crate::qmp::Qmp;

/// The emulator.
const QEMU: &str = "qemu-system-x86_64";
/// Where the VGA text mode keeps its screen, and how much there is of it: 80 by 25 cells of character and colour.
const TEXT_SCREEN: (u64, u64) = (0xB_8000, 80 * 25 * 2);

/// A running machine; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    /// Its serial console.
    pub console: Console,
    name: String,
    process: Process,
    monitor: Qmp,
    power_on: Instant,
    evidence: Evidence,
    /// Holds the monitor's socket; removed with the machine.
    scratch: tempfile::TempDir,
}

impl Machine {
    /// Switches the machine on. `variables` is its UEFI variable store: kept from start to start it is the machine's NVRAM;
    /// when it is not there a fresh one is made. Machines with BIOS do not touch it.
    ///
    /// # Errors
    /// When QEMU or the firmware is missing, or QEMU refuses the machine.
    pub fn start(&self, evidence: &Evidence, variables: &Path) -> Result<Running> {
        // The path of a Unix socket may have 107 bytes: not below the evidence, whose path can be long.
        let scratch = tempfile::Builder::new()
            .prefix("gantry-qemu-")
            .tempdir()
            .context("making a scratch directory")?;
        let places = Places { monitor: scratch.path().join("monitor"), variables: variables.into() };
        self.firmware.prepare(variables)?;
        let mut command = Command::new(QEMU);
        command.args(self.arguments(&places));
        let name = &self.name;
        let log = evidence.file(&format!("{name}.serial"), "log");
        let create =
            |path: &Path| std::fs::File::create(path).with_context(|| format!("making {}", path.display()));
        let (serial, errors_path) = (create(&log)?, evidence.file(&format!("{name}.qemu"), "err"));
        let errors = create(&errors_path)?;
        let line = evidence.file(&format!("{name}.command"), "txt");
        std::fs::write(&line, shell_line(&command)).with_context(|| format!("writing {}", line.display()))?;

        let power_on = Instant::now();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let mut process =
            Process::spawn(name, &command, errors, move |output| serving.serve(output, serial, power_on))?;
        let input = process.take_input().context("QEMU's standard input")?;
        let monitor = match Qmp::connect(&places.monitor) {
            Ok(monitor) => monitor,
            Err(error) => {
                let said = std::fs::read_to_string(&errors_path).unwrap_or_default();
                return Err(error.context(format!("starting {name}; QEMU says: {}", said.trim())));
            }
        };
        let console = Console::new(shared, input, log);
        Ok(Running {
            console,
            name: name.clone(),
            process,
            monitor,
            power_on,
            evidence: evidence.clone(),
            scratch,
        })
    }
}

impl Running {
    /// The machine's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keeps a picture of the screen in the evidence and returns its path.
    ///
    /// # Errors
    /// When QEMU cannot write it.
    pub fn screenshot(&mut self, name: &str) -> Result<PathBuf> {
        let path = self.evidence.file(&format!("{}.{name}", self.name), "png");
        self.monitor
            .execute("screendump", &json!({ "filename": path, "format": "png" }))
            .with_context(|| format!("taking a screenshot of {}", self.name))?;
        Ok(path)
    }

    /// The 25 lines of a screen in VGA text mode, trailing blanks cut off; nonsense in any other mode.
    ///
    /// # Errors
    /// When QEMU cannot read the memory.
    pub fn vga_text(&mut self) -> Result<String> {
        let file = self.scratch.path().join("vga");
        let (address, size) = TEXT_SCREEN;
        self.monitor.execute("pmemsave", &json!({ "val": address, "size": size, "filename": file }))?;
        let cells = std::fs::read(&file).context("reading the text screen")?;
        Ok(text_screen(&cells))
    }

    /// Takes the first medium out of its drive, locked or not.
    ///
    /// # Errors
    /// When QEMU has ended, or there is none.
    pub fn eject(&mut self) -> Result<()> {
        self.monitor.execute("eject", &json!({ "device": "medium0", "force": true })).map(drop)
    }

    /// Pulls the plug: kill -9.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }

    /// Waits until QEMU has ended by itself: the guest powered off, or reset with `end_at_reset`.
    ///
    /// # Errors
    /// When it has not within the limit, or ended with an error.
    pub fn wait_end(mut self, limit: Limit) -> Result<Duration> {
        let status = self.process.wait(limit)?;
        anyhow::ensure!(status.success(), "QEMU of {} ended with {status}", self.name);
        Ok(self.power_on.elapsed())
    }
}

impl Drop for Running {
    /// Whatever ends the run, its last picture is in the evidence. A QEMU that has ended already has none to give.
    fn drop(&mut self) {
        let _ = self.screenshot("last");
    }
}

/// The characters of a text screen, line by line.
fn text_screen(cells: &[u8]) -> String {
    let line = |row: &[u8]| {
        let text: String =
            row.iter().step_by(2).map(|c| if c.is_ascii_graphic() { char::from(*c) } else { ' ' }).collect();
        text.trim_end().to_owned()
    };
    cells.chunks(160).map(line).collect::<Vec<_>>().join("\n")
}

/// The command as a line for a shell, so that a person can start the same machine.
fn shell_line(command: &Command) -> String {
    let quote = |word: &std::ffi::OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let words: Vec<String> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect();
    words.join(" ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_screen_is_read_cell_by_cell() {
        let mut cells = vec![b' '; 80 * 25 * 2];
        for (index, byte) in b"unfinished".iter().enumerate() {
            cells[160 + index * 2] = *byte;
            cells[160 + index * 2 + 1] = 7;
        }
        assert_eq!(text_screen(&cells).lines().nth(1), Some("unfinished"));
        assert_eq!(text_screen(&cells).lines().next(), Some(""));
    }

    #[test]
    fn the_command_line_can_be_pasted_into_a_shell() {
        let mut command = Command::new("qemu");
        command.args(["-append", "a b='c'", "-m", "1024", ""]);
        assert_eq!(shell_line(&command), "qemu -append 'a b='\\''c'\\''' -m 1024 ''\n");
    }
}
