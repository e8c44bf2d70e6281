//! Arguments baked into a medium: what the appliance does when nobody is there to tell it.
//!
//! They are read with the appliance's own parser, so a medium that could only complain at boot is not made. They also
//! decide whether the medium may hand a machine over to a migrated disk (law 10: an explicit role always wins).

use anyhow::{Result, bail, ensure};
use gantry_initramfs::pid1::cmdline::{self, Role};
use gantry_wire::code::{Code, job_tag};

/// Letters that mean nothing to GRUB's shell.
const HARMLESS: &str = "._:/,=@+-";

/// Which live marks make the medium start a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOver {
    /// None: the medium is for sources.
    Never,
    /// Any for this machine.
    AnyJob,
    /// Only those of the job whose code is baked in.
    Job(String),
}

/// Arguments for the kernel line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baked {
    arguments: String,
    hand_over: HandOver,
}

impl Baked {
    /// Checks arguments, separated by blanks. Anything on a kernel line is allowed; what is ours must be right.
    ///
    /// A role of `send` that lacks its target or code is allowed: a person may add them in the menu.
    pub fn new(arguments: &str) -> Result<Baked> {
        let harmless =
            |letter: char| letter.is_ascii_alphanumeric() || letter == ' ' || HARMLESS.contains(letter);
        if let Some(letter) = arguments.chars().find(|letter| !harmless(*letter)) {
            bail!("the argument character {letter:?} cannot be baked into a boot menu");
        }
        let (settings, problems) = cmdline::parse(arguments);
        let problems: Vec<String> =
            problems.into_iter().filter(|problem| !problem.contains(" needs ")).collect();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        let hand_over = match (settings.role, settings.code) {
            (Some(Role::Send), _) => HandOver::Never,
            (Some(Role::Receive), Some(code)) => HandOver::Job(job_tag(&Code::parse(&code)?)),
            (Some(Role::Receive) | None, _) => HandOver::AnyJob,
        };
        Ok(Baked { arguments: arguments.split_whitespace().collect::<Vec<_>>().join(" "), hand_over })
    }

    /// The arguments, separated by single blanks.
    pub fn arguments(&self) -> &str {
        &self.arguments
    }

    /// Which marks count.
    pub fn hand_over(&self) -> &HandOver {
        &self.hand_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "BCDE-FGHJ-KLNP-RSTX-BCDE";

    #[test]
    fn the_role_decides_which_marks_count() {
        let tag = job_tag(&Code::parse(CODE).unwrap());
        for (arguments, expected) in [
            (String::new(), HandOver::AnyJob),
            ("quiet".to_owned(), HandOver::AnyJob),
            ("gantry.role=receive".to_owned(), HandOver::AnyJob),
            (format!("gantry.role=receive gantry.code={CODE}"), HandOver::Job(tag)),
            ("gantry.role=send".to_owned(), HandOver::Never),
            (format!("gantry.role=send gantry.target=10.0.0.1:7878 gantry.code={CODE}"), HandOver::Never),
        ] {
            assert_eq!(*Baked::new(&arguments).unwrap().hand_over(), expected, "{arguments}");
        }
    }

    #[test]
    fn what_cannot_work_is_not_baked() {
        for (arguments, problem) in [
            ("gantry.role=recieve", "receive or send"),
            ("gantry.role=receive gantry.role=send", "given twice"),
            ("quiet; reboot", "';'"),
            ("a=$b", "'$'"),
            ("a=\"b\"", "'\"'"),
            ("a\nb", "'\\n'"),
        ] {
            let error = Baked::new(arguments).unwrap_err().to_string();
            assert!(error.contains(problem), "{arguments}: {error}");
        }
    }
}
