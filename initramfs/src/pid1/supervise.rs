//! The life after "ready": the role's child is started, watched and followed up; or the machine waits for a person.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cmdline::{Settings, Then};
use super::console::Console;
use super::role::{self, Ended, Next};
use super::{children, power, signals};

/// How long a child may take to end when the machine is to go down.
const CHILD_LIMIT: Duration = Duration::from_secs(10);

/// The emergency shell.
const BUSYBOX: &str = "/usr/bin/busybox";

/// What can happen.
enum Event {
    Signal(Signal),
}

/// Where the child is.
enum Child {
    /// There is none: no role, or nothing more to do.
    None,
    Running(Pid),
    /// Started again at this moment.
    Waiting(Instant),
}

/// Runs the role, or the idle console. `complaints` keep everything from starting.
pub fn run(settings: &Settings, complaints: &[String], console: &Console) -> ! {
    let events = match events() {
        Ok(events) => events,
        Err(error) => power::stand_still(console, &format!("no thread for signals: {error}")),
    };
    let mut supervisor = Supervisor { settings, console, child: Child::None, failures: 0 };
    if complaints.is_empty() {
        supervisor.start();
    } else {
        console.say("gantry: the kernel arguments cannot be followed, nothing is started:");
        complaints.iter().for_each(|complaint| console.say(&format!("gantry: {complaint}")));
        console.say("gantry: correct them in the boot menu (e) or on the medium; Ctrl-Alt-Del restarts");
        offer_shells(console);
    }
    loop {
        match events.recv_timeout(supervisor.patience()) {
            Ok(Event::Signal(Signal::SIGCHLD)) => supervisor.reap(),
            Ok(Event::Signal(Signal::SIGINT)) => supervisor.go_down("Ctrl-Alt-Del", Then::Reboot),
            Ok(Event::Signal(_)) => supervisor.go_down("asked to end", Then::PowerOff),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                power::stand_still(console, "signals are not read any more")
            }
        }
        supervisor.start_if_due();
    }
}

struct Supervisor<'a> {
    settings: &'a Settings,
    console: &'a Console,
    child: Child,
    failures: u32,
}

impl Supervisor<'_> {
    fn start(&mut self) {
        let (Some(role), Some(arguments)) = (self.settings.role, role::arguments(self.settings)) else {
            idle(self.console);
            return;
        };
        self.console.say(&format!("gantry: role {} starting", role.name()));
        match children::start(role::program(), &arguments, self.console) {
            Ok(pid) => self.child = Child::Running(pid),
            Err(error) => {
                self.console.say(&format!("gantry: starting {}: {error}", role::program().display()));
                self.follow(Ended::Code(1));
            }
        }
    }

    fn start_if_due(&mut self) {
        if let Child::Waiting(at) = self.child
            && Instant::now() >= at
        {
            self.start();
        }
    }

    /// How long the loop may sleep.
    fn patience(&self) -> Duration {
        match self.child {
            Child::Waiting(at) => at.saturating_duration_since(Instant::now()),
            Child::None | Child::Running(_) => Duration::from_secs(60),
        }
    }

    fn reap(&mut self) {
        for (pid, ended) in children::reap() {
            if let Child::Running(child) = self.child
                && child == pid
            {
                // Its last words are still on their way through the pipes.
                std::thread::sleep(Duration::from_millis(100));
                if let Some(role) = self.settings.role {
                    self.console.say(&format!("gantry: role {} exited with {ended}", role.name()));
                }
                self.follow(ended);
            }
        }
    }

    fn follow(&mut self, ended: Ended) {
        self.child = Child::None;
        match role::next(ended, self.failures, self.settings.then()) {
            Next::Finish(Then::Hold) => {
                self.console.say("gantry: done; this machine holds. Ctrl-Alt-Del restarts it");
            }
            Next::Finish(then) => self.go_down("done", then),
            Next::HoldRefused => {
                self.console.say(
                    "gantry: this needs a person: see above. Nothing is tried again; Ctrl-Alt-Del restarts",
                );
                offer_shells(self.console);
            }
            Next::RestartAfter(pause) => {
                self.failures += 1;
                self.console.say(&format!("gantry: starting again in {} s", pause.as_secs()));
                self.child = Child::Waiting(Instant::now() + pause);
            }
        }
    }

    /// Ends the child in order, then the machine.
    fn go_down(&mut self, why: &str, then: Then) {
        if let Child::Running(pid) = std::mem::replace(&mut self.child, Child::None) {
            self.console.say("gantry: ending the role first");
            let _ = kill(pid, Signal::SIGTERM);
            let end = Instant::now() + CHILD_LIMIT;
            while Instant::now() < end && !children::reap().iter().any(|(ended, _)| *ended == pid) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        match then {
            Then::PowerOff => {
                self.console.say(&format!("gantry: {why}; powering off"));
                power::power_off(self.console);
            }
            Then::Reboot | Then::Hold => {
                self.console.say(&format!("gantry: {why}; resetting"));
                power::reset(self.console);
            }
        }
    }
}

/// Without a role no disk is touched; the console says what would start something.
fn idle(console: &Console) {
    for line in [
        "",
        "No role was given: this machine waits, and no disk is touched. To start something, boot again with one of",
        "  gantry.role=receive                                     this machine takes a replica",
        "  gantry.role=send gantry.target=HOST:7878 gantry.code=CODE   this machine is the source",
        "added to the kernel line (in the boot menu: press e). Also: gantry.ip=, gantry.disks=, gantry.erase=, gantry.map=.",
        "Ctrl-Alt-Del restarts.",
    ] {
        console.say(line);
    }
    offer_shells(console);
}

/// Where a person is needed, a person gets a shell on every terminal.
fn offer_shells(console: &Console) {
    if Path::new(BUSYBOX).exists() {
        console.terminals().iter().for_each(|terminal| shell(console, terminal));
    }
}

/// A shell for emergencies on a terminal, behind the Enter key.
fn shell(console: &Console, terminal: &Path) {
    const ASK: &str = "read -r -p 'Enter opens a shell. ' _ && exec setsid -c sh -l";
    if let Err(error) = children::start_on_terminal(Path::new(BUSYBOX), &["sh", "-c", ASK], terminal) {
        console.say(&format!("gantry: no shell on {}: {error}", terminal.display()));
    }
}

/// Signals as events, read by one thread.
fn events() -> std::io::Result<Receiver<Event>> {
    let (sender, receiver): (Sender<Event>, _) = channel();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while let Ok(signal) = signals().wait() {
            if sender.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}
