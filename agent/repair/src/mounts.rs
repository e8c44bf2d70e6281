//! Mounting the guest where nobody else sees it.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::error::{During, Error, Result};

/// Runs `work` on a thread with its own mounts. They are gone when it returns, also when it fails or the process is killed.
pub fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).during(|| "getting mounts of our own (root is needed)")?;
            mount(None::<&CStr>, "/", None::<&CStr>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&CStr>)
                .during(|| "keeping our mounts to ourselves")?;
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::Replica(String::from("repair stopped by a fault of its own"))))
    })
}

/// Mounts of the guest; undone in reverse order.
#[derive(Debug, Default)]
pub struct Mounts {
    at: Vec<PathBuf>,
}

impl Mounts {
    /// Mounts a filesystem; never with device files or set-uid programs in force.
    pub fn add(&mut self, device: &Path, at: &Path, kind: &str, read_only: bool) -> Result<()> {
        let mut flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
        if read_only {
            flags |= MsFlags::MS_RDONLY;
        }
        // The guest's own setting may be to go on after an error; here the first error must stop the work.
        let data = if kind.starts_with("ext") { Some("errors=remount-ro") } else { None };
        mount(Some(device), at, Some(kind), flags, data)
            .during(|| format!("mounting {} ({kind}) at {}", device.display(), at.display()))?;
        self.at.push(at.to_path_buf());
        Ok(())
    }

    /// Unmounts everything; the first error is returned after all were tried.
    pub fn undo(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        while let Some(at) = self.at.pop() {
            let one = umount2(&at, MntFlags::empty()).during(|| format!("unmounting {}", at.display()));
            outcome = outcome.and(one);
        }
        outcome
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        // On the way out of an error: the namespace ends with the thread, so what fails here changes nothing.
        for at in self.at.iter().rev() {
            let _ = umount2(at, MntFlags::MNT_DETACH);
        }
    }
}
