//! A child process that cannot outlive its owner.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::limit::Limit;

/// How often an ended process is looked for.
const POLL: Duration = Duration::from_millis(20);

/// A child that is killed when this value is dropped, and by the kernel when this process dies.
///
/// `setpriv --pdeathsig` asks the kernel for the second. The kernel ties that to the *thread* that started the child, so a
/// thread of our own starts it and stays until the child has ended: one that left when the output closed would kill a child
/// that is still on its way out.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts `command` (its program looked up in PATH) with standard input and output as pipes; `serve` runs on the
    /// thread that guards the child and must read its output until the end.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(
        what: &str,
        command: &Command,
        stderr: std::fs::File,
        serve: impl FnOnce(std::process::ChildStdout) + Send + 'static,
    ) -> Result<Self> {
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        guarded.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let (sender, receiver) = mpsc::channel();
        std::thread::Builder::new()
            .name(format!("guard {what}"))
            .spawn(move || {
                let mut started = guarded.spawn();
                let output = started.as_mut().ok().and_then(|child| child.stdout.take());
                let id =
                    started.as_ref().ok().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw);
                // A receiver that is gone means the owner died: the child is dead with it, or ends at its closed input.
                let _ = sender.send(started);
                if let Some(output) = output {
                    serve(output);
                }
                if let Some(id) = id {
                    await_end(id);
                }
            })
            .context("starting a thread")?;
        let child = receiver
            .recv()
            .context("the guarding thread ended")?
            .with_context(|| format!("starting {what}"))?;
        Ok(Self { child, what: what.into() })
    }

    /// The child's standard input; only the first caller gets it.
    pub fn take_input(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// When it has not within the limit.
    pub fn wait(&mut self, limit: Limit) -> Result<ExitStatus> {
        let end = Instant::now() + limit.duration();
        loop {
            if let Some(status) =
                self.child.try_wait().with_context(|| format!("waiting for {}", self.what))?
            {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("{} still runs after {:?}", self.what, limit.duration());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Kills the process (SIGKILL) and waits until it is gone; one that has ended already is fine.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("killing {}", self.what))?;
        self.child.wait().with_context(|| format!("waiting for {}", self.what))?;
        Ok(())
    }
}

/// Waits until a child of this process has ended, and leaves it to its owner to collect.
fn await_end(id: Pid) {
    // An error means that the owner has collected it already.
    while waitid(Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn start(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let null = std::fs::File::create("/dev/null").unwrap();
        Process::spawn("child", &command, null, |mut output| {
            let mut text = String::new();
            let _ = output.read_to_string(&mut text);
        })
        .unwrap()
    }

    #[test]
    fn dropping_it_kills_it() {
        let process = start("exec sleep 1000");
        let id = nix::unistd::Pid::from_raw(i32::try_from(process.id()).unwrap());
        assert!(nix::sys::signal::kill(id, None).is_ok());
        drop(process);
        assert!(nix::sys::signal::kill(id, None).is_err());
    }

    #[test]
    fn a_child_that_closes_its_output_before_it_ends_is_left_to_end() {
        assert_eq!(start("exec >&-; sleep 0.3; exit 5").wait(Limit::quiet(10)).unwrap().code(), Some(5));
    }

    #[test]
    fn waiting_ends_with_the_process_or_with_the_limit() {
        assert_eq!(start("exit 7").wait(Limit::quiet(10)).unwrap().code(), Some(7));
        let error = start("exec sleep 1000").wait(Limit::quiet(0)).unwrap_err();
        assert!(error.to_string().contains("still runs"), "{error}");
    }
}
