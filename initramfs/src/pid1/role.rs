//! From settings to the child that does the work, and from its end to what follows. Pure.

use std::path::Path;
use std::time::Duration;

use super::cmdline::{Role, Settings, Then};

/// Where the child listens.
pub const LISTEN: &str = "0.0.0.0:7878";
/// Where the pairing code lies for the child: in a file, because everybody may read a command line.
pub const CODE_FILE: &str = "/run/gantry/code";
/// The exit code by which a child says that only a person can help.
const REFUSED: i32 = 3;
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The child's arguments, or `None` without a role.
pub fn arguments(settings: &Settings) -> Option<Vec<String>> {
    let role = settings.role?;
    let mut arguments = vec![role.name().to_owned()];
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    match role {
        Role::Receive => {
            add(&["--listen", LISTEN, "--appliance"]);
            if settings.code.is_some() {
                // A code that stood on a kernel line opens only what cannot be harmed (law 13).
                add(&["--code-file", CODE_FILE, "--blank-only"]);
            }
            if settings.void_hibernation {
                add(&["--void-hibernation"]);
            }
            settings.erase.iter().for_each(|disk| add(&["--erase", disk]));
            settings.base.iter().for_each(|disk| add(&["--base", disk]));
        }
        Role::Send => {
            add(&[settings.target.as_deref().unwrap_or_default(), "--code-file", CODE_FILE]);
            settings.map.iter().for_each(|pair| add(&["--map", pair]));
            if settings.zero_bad_sectors {
                add(&["--bad-sectors", "zero"]);
            }
            if settings.whole {
                add(&["--whole"]);
            }
            settings.limit.iter().for_each(|limit| add(&["--limit", limit]));
            settings.read_limit.iter().for_each(|limit| add(&["--read-limit", limit]));
        }
    }
    settings.disks.iter().for_each(|disk| add(&[disk]));
    Some(arguments)
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "{code}"),
            Ended::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What PID 1 does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Success: what was asked to follow.
    Finish(Then),
    /// Refused: show and wait for a person.
    HoldRefused,
    /// Once more, after this long.
    RestartAfter(Duration),
}

/// Decides from the child's end and the number of tries that failed before this one.
pub fn next(ended: Ended, failures: u32, then: Then) -> Next {
    match ended {
        Ended::Code(0) => Next::Finish(then),
        Ended::Code(REFUSED) => Next::HoldRefused,
        Ended::Code(_) | Ended::Signal(_) => {
            Next::RestartAfter(Duration::from_secs(1 << failures.min(5)).min(LONGEST_PAUSE))
        }
    }
}

/// The program that is every child.
pub fn program() -> &'static Path {
    Path::new("/bin/gantry")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pid1::cmdline::parse;

    #[test]
    fn the_child_gets_the_arguments_of_the_contract() {
        for (line, expected) in [
            ("", None),
            ("gantry.role=receive", Some("receive --listen 0.0.0.0:7878 --appliance")),
            (
                "gantry.role=receive gantry.code=BCDEFGHJKLNPRSTXBCDE gantry.erase=S1,/dev/sdb gantry.base=S2 gantry.hibernated=void gantry.disks=/dev/sda",
                Some(
                    "receive --listen 0.0.0.0:7878 --appliance --code-file /run/gantry/code --blank-only \
                     --void-hibernation --erase S1 --erase /dev/sdb --base S2 /dev/sda",
                ),
            ),
            (
                "gantry.role=send gantry.target=10.0.2.2:7878 gantry.code=BCDEFGHJKLNPRSTXBCDE gantry.map=a:b,c:d \
                 gantry.bad-sectors=zero gantry.copy=whole \
                 gantry.limit=08:00-18:00=20M,else=none gantry.read-limit=100M gantry.disks=a,c",
                Some(
                    "send 10.0.2.2:7878 --code-file /run/gantry/code --map a:b --map c:d --bad-sectors zero --whole \
                     --limit 08:00-18:00=20M,else=none --read-limit 100M a c",
                ),
            ),
        ] {
            let (settings, _) = parse(line);
            assert_eq!(arguments(&settings).map(|words| words.join(" ")).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn the_code_never_stands_on_a_command_line() {
        let (settings, _) = parse("gantry.role=receive gantry.code=BCDEFGHJKLNPRSTXBCDE");
        assert!(!arguments(&settings).unwrap().concat().contains("BCDE"));
    }

    #[test]
    fn what_follows_an_end() {
        let seconds = |seconds| Next::RestartAfter(Duration::from_secs(seconds));
        for (ended, failures, expected) in [
            (Ended::Code(0), 0, Next::Finish(Then::Reboot)),
            (Ended::Code(3), 9, Next::HoldRefused),
            (Ended::Code(1), 0, seconds(1)),
            (Ended::Code(101), 1, seconds(2)),
            (Ended::Signal(9), 2, seconds(4)),
            (Ended::Signal(9), 4, seconds(16)),
            (Ended::Signal(9), 5, seconds(30)),
            (Ended::Signal(9), u32::MAX, seconds(30)),
        ] {
            assert_eq!(next(ended, failures, Then::Reboot), expected, "{ended} after {failures}");
        }
    }
}
