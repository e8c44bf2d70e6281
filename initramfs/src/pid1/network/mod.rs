//! The network: every wired link is switched on and gets an address, by DHCP or the one that was given.
//!
//! A manager thread looks for links once a second, so that a USB adapter plugged in late works too; each link has a
//! thread of its own that waits for carrier, leases, renews and starts over when the cable was out. Everything that
//! happens is said on the console. [`Network::settle`] is for the start: it waits until each link either has an address
//! or shows no sign that it ever will.

mod lease;
mod links;
mod message;
mod netlink;
mod packet;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::cmdline::{Addressing, Settings};
use super::console::Console;
use links::Link;
use netlink::Netlink;

/// Real links need up to four seconds for carrier after they were switched on.
const CARRIER_LIMIT: Duration = Duration::from_secs(6);
const SYS: &str = "/sys";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The network of the appliance. Cloned freely.
#[derive(Clone)]
pub struct Network {
    shared: Arc<Shared>,
}

struct Shared {
    console: Console,
    addressing: Addressing,
    nic: Option<String>,
    links: Mutex<BTreeMap<String, State>>,
    /// Set once "ready" was said: what comes later gets its marker at once.
    ready: AtomicBool,
}

#[derive(Debug, Clone)]
enum State {
    /// Switched on at this moment, no carrier yet.
    Waiting(Instant),
    /// There is carrier, and an address is asked for.
    Asking,
    /// Done.
    Up { address: IpAddr, prefix: u8, dns: Vec<IpAddr> },
    /// It cannot be used, or another link got the one address there was.
    Off,
}

impl Network {
    /// Switches on what is there and begins to look for more. What goes wrong is said on the console.
    pub fn start(settings: &Settings, console: Console) -> Network {
        let (addressing, nic) = (settings.addressing.clone(), settings.nic.clone());
        let shared =
            Shared { console, addressing, nic, links: Mutex::default(), ready: AtomicBool::new(false) };
        let network = Network { shared: Arc::new(shared) };
        // The kernel gives the loopback its addresses when it goes up. Its number is always 1.
        if let Err(error) = Netlink::open().and_then(|netlink| netlink.up(1)) {
            network.say(&format!("network: switching on lo: {error}"));
        }
        network.look();
        let manager = network.clone();
        let thread = std::thread::Builder::new().name("network".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                manager.look();
            }
        });
        if let Err(error) = thread {
            network.say(&format!("network: no thread to look for new links: {error}"));
        }
        network
    }

    /// Looks for links that are new.
    pub fn look(&self) {
        for link in links::read(Path::new(SYS)) {
            if !link.is_chosen(self.shared.nic.as_deref()) || self.links().contains_key(&link.name) {
                continue;
            }
            self.say(&format!("link     {} {} {}", link.name, link.mac_text(), link.driver));
            let name = link.name.clone();
            if let Err(error) = self.switch_on(link) {
                self.say(&format!("network: switching on {name}: {error}"));
                self.set(&name, State::Off);
            }
        }
    }

    /// Waits until every link has an address or no prospect of one, at most `limit`. Whether any has one.
    pub fn settle(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let (open, up) = {
                let links = self.links();
                let open = links.values().any(|state| match state {
                    State::Waiting(since) => since.elapsed() < CARRIER_LIMIT,
                    State::Asking => true,
                    State::Up { .. } | State::Off => false,
                });
                (open, links.values().any(|state| matches!(state, State::Up { .. })))
            };
            if !open || Instant::now() >= end {
                return up;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Says the marker of each address there is, and from now on of each that comes.
    pub fn announce(&self) {
        let links = self.links();
        self.shared.ready.store(true, Ordering::SeqCst);
        for (name, state) in links.iter() {
            if let State::Up { address, prefix, .. } = state {
                self.say(&format!("gantry: network {name} {address}/{prefix}"));
            }
        }
    }

    fn switch_on(&self, link: Link) -> io::Result<()> {
        Netlink::open()?.up(link.index)?;
        self.set(&link.name, State::Waiting(Instant::now()));
        let network = self.clone();
        let thread = std::thread::Builder::new().name(format!("link-{}", link.name));
        thread.spawn(move || network.serve(&link)).map(drop)
    }

    /// One link's life.
    fn serve(&self, link: &Link) {
        loop {
            while !links::has_carrier(Path::new(SYS), &link.name) {
                std::thread::sleep(Duration::from_millis(50));
            }
            match self.shared.addressing.clone() {
                Addressing::Dhcp => {
                    self.set(&link.name, State::Asking);
                    if let Err(error) = lease::keep(self, link) {
                        self.say(&format!("network: {}: {error}; trying again", link.name));
                        std::thread::sleep(Duration::from_secs(5));
                    }
                }
                Addressing::Static { address, prefix, gateway, dns } => {
                    // One address can live on one link only: the first with carrier has it.
                    let first = self.links().iter().all(|(_, state)| !matches!(state, State::Up { .. }));
                    if !first {
                        self.set(&link.name, State::Off);
                        return;
                    }
                    match self.use_address(link, address, prefix, gateway, dns.into_iter().collect()) {
                        Ok(()) => return,
                        Err(error) => {
                            self.say(&format!("network: {}: {error}", link.name));
                            self.set(&link.name, State::Off);
                            return;
                        }
                    }
                }
            }
            self.set(&link.name, State::Waiting(Instant::now()));
        }
    }

    /// Puts an address to use and says so in the line that tests wait for.
    fn use_address(
        &self,
        link: &Link,
        address: IpAddr,
        prefix: u8,
        gateway: Option<IpAddr>,
        dns: Vec<IpAddr>,
    ) -> io::Result<()> {
        let netlink = Netlink::open()?;
        netlink.add_address(link.index, address, prefix)?;
        if let Some(gateway) = gateway
            && let Err(error) = netlink.add_default_route(link.index, gateway)
        {
            self.say(&format!("network: {}: no route through {gateway}: {error}", link.name));
        }
        let renewed = {
            let mut links = self.links();
            let before = links.insert(link.name.clone(), State::Up { address, prefix, dns });
            let renewed = matches!(before, Some(State::Up { address: before, .. }) if before == address);
            if !renewed && self.shared.ready.load(Ordering::SeqCst) {
                self.say(&format!("gantry: network {} {address}/{prefix}", link.name));
            }
            renewed
        };
        if !renewed {
            self.write_resolv_conf();
        }
        Ok(())
    }

    /// Takes an address out of use.
    fn drop_address(&self, link: &Link, address: IpAddr, prefix: u8) {
        if let Err(error) =
            Netlink::open().and_then(|netlink| netlink.remove_address(link.index, address, prefix))
        {
            self.say(&format!("network: {}: removing {address}: {error}", link.name));
        }
        self.set(&link.name, State::Asking);
        self.write_resolv_conf();
    }

    fn write_resolv_conf(&self) {
        let mut servers: Vec<IpAddr> = Vec::new();
        for state in self.links().values() {
            if let State::Up { dns, .. } = state {
                servers.extend(dns);
            }
        }
        let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        if let Err(error) = std::fs::write(RESOLV_CONF, text) {
            self.say(&format!("network: writing {RESOLV_CONF}: {error}"));
        }
    }

    fn say(&self, line: &str) {
        self.shared.console.say(line);
    }

    fn set(&self, name: &str, state: State) {
        self.links().insert(name.to_owned(), state);
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
