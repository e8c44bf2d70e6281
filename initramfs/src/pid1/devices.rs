//! Devices: the kernel tells of each one, and its driver is loaded by alias.
//!
//! There is no udev. Two sources feed one queue of aliases: a walk over `/sys/devices` for what was there before us
//! (coldplug), and the kernel's messages for what comes later, which includes everything that the drivers loaded by the
//! walk bring to light: disks behind controllers, sticks behind hubs. A few threads empty the queue, because some
//! controllers keep their load busy for ten seconds.
//!
//! [`Devices::settle`] waits by condition: the queue is empty, no thread is loading, the kernel has been silent for a
//! moment, and every USB storage device has shown its disk (its driver waits a second before it looks, silently).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};

use super::console::Console;
use crate::modules::{LoadError, Loader};

/// Multicast group of the kernel's own messages; udev's copies come by another one.
const KERNEL_GROUP: u32 = 1;
/// Room for the storm of a machine with hundreds of devices while drivers load.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Longest silence that still belongs to one burst of events.
const SILENCE: Duration = Duration::from_millis(300);
/// Bounds the walk: sysfs is about 15 deep.
const DEEPEST: usize = 40;

/// The device side of PID 1. Cloned freely.
#[derive(Clone)]
pub struct Devices {
    shared: Arc<Shared>,
    queue: Sender<String>,
}

struct Shared {
    loader: Loader,
    console: Console,
    activity: Mutex<Activity>,
}

struct Activity {
    /// Aliases ever queued: the same one need not be looked up twice.
    seen: HashSet<String>,
    unfinished: usize,
    last_event: Instant,
}

impl Devices {
    /// Opens the kernel's messages, starts the threads and walks over what is there.
    ///
    /// Errors: the socket or the threads cannot be made; then no driver would ever load.
    pub fn start(loader: Loader, console: Console) -> io::Result<Devices> {
        let messages = kernel_messages()?;
        let activity = Activity { seen: HashSet::new(), unfinished: 0, last_event: Instant::now() };
        let shared = Arc::new(Shared { loader, console, activity: Mutex::new(activity) });
        let (queue, aliases) = channel();
        let aliases = Arc::new(Mutex::new(aliases));
        let devices = Devices { shared, queue };
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4);
        for number in 0..threads {
            let (devices, aliases) = (devices.clone(), Arc::clone(&aliases));
            let thread = std::thread::Builder::new().name(format!("modules-{number}"));
            thread.spawn(move || devices.load_queued(&aliases))?;
        }
        let listener = devices.clone();
        std::thread::Builder::new().name("uevents".to_owned()).spawn(move || listener.listen(&messages))?;
        devices.walk();
        Ok(devices)
    }

    /// How many modules were loaded so far.
    pub fn loaded(&self) -> usize {
        self.shared.loader.loaded()
    }

    /// Loads a module that no device asks for. A failure is said on the console.
    pub fn need(&self, name: &str) {
        if let Err(error) = self.shared.loader.load(name) {
            self.shared.console.say(&format!("module {error}"));
        }
    }

    /// Waits until devices have settled, at most `limit`. Whether they have.
    pub fn settle(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let quiet = {
                let activity = self.activity();
                activity.unfinished == 0 && activity.last_event.elapsed() >= SILENCE
            };
            if quiet && !usb_storage_pending(Path::new("/sys")) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn walk(&self) {
        for alias in aliases_below(Path::new("/sys/devices")) {
            self.queue(alias);
        }
    }

    fn queue(&self, alias: String) {
        // Processors ask for every cipher they can speed up: two dozen modules that cost seconds under emulation. The
        // kernel asks for them by name when something uses them.
        if alias.starts_with("cpu:") {
            return;
        }
        let mut activity = self.activity();
        if activity.seen.insert(alias.clone()) {
            activity.unfinished += 1;
            if self.queue.send(alias).is_err() {
                activity.unfinished -= 1;
            }
        }
    }

    fn load_queued(&self, aliases: &Mutex<Receiver<String>>) {
        loop {
            let next = aliases.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(alias) = next else { return };
            match self.shared.loader.load_wanted(&alias) {
                // The device of an alias may be a cousin of what the driver serves; ENODEV is the driver's "not mine".
                Ok(_) | Err(LoadError::Refused { errno: Errno::ENODEV, .. }) => {}
                Err(error) => self.shared.console.say(&format!("module {error}")),
            }
            let mut activity = self.activity();
            activity.unfinished -= 1;
            activity.last_event = Instant::now();
        }
    }

    fn listen(&self, messages: &OwnedFd) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match recv(messages.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    self.activity().last_event = Instant::now();
                    if let Some(alias) = new_device(&buffer[..length]) {
                        self.queue(alias);
                    }
                }
                Err(Errno::EINTR) => {}
                // The kernel dropped messages: what they told is found by another walk.
                Err(Errno::ENOBUFS) => self.walk(),
                Err(errno) => {
                    self.shared
                        .console
                        .say(&format!("device events ended: {errno}; new devices get no driver"));
                    return;
                }
            }
        }
    }

    fn activity(&self) -> MutexGuard<'_, Activity> {
        self.shared.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kernel_messages() -> Result<OwnedFd, Errno> {
    let messages = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    // More than the system's limit needs the privilege that PID 1 has; without it the default has to do.
    let _ = setsockopt(&messages, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    bind(messages.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
    Ok(messages)
}

/// The alias in a kernel message, if it tells of a new device: `add@PATH`, then `KEY=VALUE`, all ended by zeros.
fn new_device(message: &[u8]) -> Option<String> {
    let mut fields = message.split(|byte| *byte == 0);
    if !fields.next()?.starts_with(b"add@") {
        return None;
    }
    let alias = fields.find_map(|field| field.strip_prefix(b"MODALIAS="))?;
    String::from_utf8(alias.to_vec()).ok().filter(|alias| !alias.is_empty())
}

/// All aliases of devices below `root`, in the order of their paths.
fn aliases_below(root: &Path) -> Vec<String> {
    let mut aliases = Vec::new();
    let mut todo: Vec<(PathBuf, usize)> = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = todo.pop() {
        // Devices vanish while we walk.
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let mut below = Vec::new();
        for entry in entries.flatten() {
            if entry.file_name() == "modalias" {
                let alias = fs::read_to_string(entry.path()).unwrap_or_default();
                aliases.extend(Some(alias.trim().to_owned()).filter(|alias| !alias.is_empty()));
            } else if depth < DEEPEST && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below.push((entry.path(), depth + 1));
            }
        }
        below.sort();
        todo.extend(below.into_iter().rev());
    }
    aliases
}

/// Whether a USB storage driver holds an interface that has shown no SCSI target yet.
fn usb_storage_pending(sys: &Path) -> bool {
    ["usb-storage", "uas"].iter().any(|driver| {
        let Ok(entries) = fs::read_dir(sys.join("bus/usb/drivers").join(driver)) else { return false };
        // Interfaces are the links with a colon in their name: 1-2:1.0.
        let interfaces = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains(':'));
        interfaces.into_iter().any(|interface| !has_target(&interface.path()))
    })
}

fn has_target(interface: &Path) -> bool {
    let starts = |path: &Path, prefix: &str| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path())
            .collect::<Vec<_>>()
    };
    starts(interface, "host").iter().any(|host| !starts(host, "target").is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_new_devices_carry_an_alias() {
        for (message, expected) in [
            (&b"add@/devices/x\0ACTION=add\0MODALIAS=pci:v1\0SEQNUM=7\0"[..], Some("pci:v1")),
            (b"add@/devices/x\0ACTION=add\0SUBSYSTEM=block\0", None),
            (b"remove@/devices/x\0ACTION=remove\0MODALIAS=pci:v1\0", None),
            (b"add@/devices/x\0MODALIAS=\0", None),
            (b"add@/devices/x\0MODALIAS=\xff\xfe\0", None),
            (b"libudev\0\xfe\xed", None),
            (b"", None),
        ] {
            assert_eq!(new_device(message).as_deref(), expected, "{message:?}");
        }
    }

    #[test]
    fn the_walk_finds_aliases_and_follows_no_link() {
        let root = tempfile::tempdir().unwrap();
        for (path, alias) in
            [("pci0/0000:00:01.0", "pci:v1\n"), ("pci0/0000:00:01.0/virtio0", "virtio:d2\n"), ("a", "\n")]
        {
            fs::create_dir_all(root.path().join(path)).unwrap();
            fs::write(root.path().join(path).join("modalias"), alias).unwrap();
        }
        std::os::unix::fs::symlink(root.path(), root.path().join("pci0/subsystem")).unwrap();
        assert_eq!(aliases_below(root.path()), ["pci:v1", "virtio:d2"]);
    }

    #[test]
    fn a_stick_is_pending_until_its_target_shows() {
        let sys = tempfile::tempdir().unwrap();
        assert!(!usb_storage_pending(sys.path()));
        let interface = sys.path().join("bus/usb/drivers/usb-storage/1-2:1.0");
        fs::create_dir_all(interface.join("host3")).unwrap();
        assert!(usb_storage_pending(sys.path()));
        fs::create_dir_all(interface.join("host3/target3:0:0")).unwrap();
        assert!(!usb_storage_pending(sys.path()));
    }
}
