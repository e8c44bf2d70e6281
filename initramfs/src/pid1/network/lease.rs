//! The DHCP client: gets a lease, puts it to use, keeps it while the cable is in.
//!
//! ```text
//! discover -> offer -> request -> ack -> use ... half the time ... renew -> ack -> use ...
//!    ^                    | nak                                      | nak, or silence to the end
//!    +--------------------+------------------------------------------+  the address is given up
//! ```
//!
//! Renewals are broadcast as in RFC 2131's REBINDING state: it saves a unicast path, and every server takes them.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::links::{self, Link};
use super::message::{Exchange, Heard, Lease, Say};
use super::packet::Packets;
use super::{Network, SYS};

/// Pauses between two questions; the last one repeats.
const PAUSES: [u64; 5] = [1, 2, 4, 8, 16];
/// How often a held lease looks at the cable.
const LOOK: Duration = Duration::from_secs(1);
/// After this many fruitless questions the console hears of it.
const SILENT_TRIES: usize = 4;

/// Why an exchange ended without a lease.
enum Failure {
    Refused,
    Unplugged,
    OutOfTime,
}

/// Gets and keeps an address for `link`. Returns when it is lost: unplugged, refused or run out.
///
/// Errors: the link cannot be spoken on.
pub fn keep(network: &Network, link: &Link) -> io::Result<()> {
    let mut lease = loop {
        match obtain(network, link)? {
            Ok(lease) => break lease,
            Err(Failure::Unplugged) => return Ok(()),
            Err(Failure::Refused | Failure::OutOfTime) => {}
        }
    };
    loop {
        let dns = lease.dns.iter().copied().map(IpAddr::from).collect();
        let address = IpAddr::from(lease.address);
        network.use_address(link, address, lease.prefix, lease.gateway.map(IpAddr::from), dns)?;
        let renewed = renew(network, link, &lease)?;
        match renewed {
            Ok(new) if new.address == lease.address => lease = new,
            Ok(new) => {
                network.drop_address(link, address, lease.prefix);
                lease = new;
            }
            Err(why) => {
                let why = match why {
                    Failure::Refused => "the server took it back",
                    Failure::Unplugged => "the cable is out",
                    Failure::OutOfTime => "its time is over and no server answers",
                };
                network.say(&format!("network: {}: {address} is given up: {why}", link.name));
                network.drop_address(link, address, lease.prefix);
                return Ok(());
            }
        }
    }
}

/// Asks until a server grants an address.
fn obtain(network: &Network, link: &Link) -> io::Result<Result<Lease, Failure>> {
    let packets = Packets::open(link.index)?;
    let exchange = exchange(link)?;
    let start = Instant::now();
    for attempt in 0.. {
        if !links::has_carrier(Path::new(SYS), &link.name) {
            return Ok(Err(Failure::Unplugged));
        }
        if attempt == SILENT_TRIES {
            network.say(&format!("network: {}: no DHCP server answers; still asking", link.name));
        }
        packets.broadcast(&exchange.say(Say::Discover, start.elapsed()))?;
        let Some(Heard::Offer(offer)) =
            hear(&packets, &exchange, pause(attempt), |heard| matches!(heard, Heard::Offer(_)))?
        else {
            continue;
        };
        let request = Say::Request { address: offer.address, server: offer.server };
        for _ in 0..2 {
            packets.broadcast(&exchange.say(request, start.elapsed()))?;
            match hear(&packets, &exchange, Duration::from_secs(2), |heard| {
                !matches!(heard, Heard::Offer(_))
            })? {
                Some(Heard::Granted(lease)) => return Ok(Ok(lease)),
                Some(_) => return Ok(Err(Failure::Refused)),
                None => {}
            }
        }
    }
    Ok(Err(Failure::OutOfTime))
}

/// Holds a lease until it is time, then asks for more until it has it or the time is over.
fn renew(network: &Network, link: &Link, lease: &Lease) -> io::Result<Result<Lease, Failure>> {
    let start = Instant::now();
    let mut unplugged: Option<Instant> = None;
    let mut attempt = 0;
    loop {
        // A cable that is out for a moment (a switch that restarts) does not end connections.
        match (links::has_carrier(Path::new(SYS), &link.name), unplugged) {
            (true, _) => unplugged = None,
            (false, None) => {
                unplugged = Some(Instant::now());
                network.say(&format!("network: {} has no carrier", link.name));
            }
            (false, Some(since)) if since.elapsed() > Duration::from_secs(60) => {
                return Ok(Err(Failure::Unplugged));
            }
            (false, Some(_)) => {}
        }
        if start.elapsed() >= lease.lasts {
            return Ok(Err(Failure::OutOfTime));
        }
        if unplugged.is_some() || start.elapsed() < lease.renew {
            std::thread::sleep(LOOK);
            continue;
        }
        let packets = Packets::open(link.index)?;
        let exchange = exchange(link)?;
        packets.broadcast(&exchange.say(Say::Renew { address: lease.address }, start.elapsed()))?;
        match hear(&packets, &exchange, pause(attempt), |heard| !matches!(heard, Heard::Offer(_)))? {
            Some(Heard::Granted(lease)) => return Ok(Ok(lease)),
            Some(_) => return Ok(Err(Failure::Refused)),
            None => attempt += 1,
        }
    }
}

fn pause(attempt: usize) -> Duration {
    Duration::from_secs(PAUSES.get(attempt).or(PAUSES.last()).copied().unwrap_or(1))
}

/// The first answer to this exchange that is `wanted`, within `limit`.
fn hear(
    packets: &Packets,
    exchange: &Exchange,
    limit: Duration,
    wanted: impl Fn(&Heard) -> bool,
) -> io::Result<Option<Heard>> {
    let end = Instant::now() + limit;
    let mut buffer = [0; 2048];
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        let Some(length) = packets.receive(&mut buffer, left)? else { continue };
        if let Some(heard) = exchange.hear(&buffer[..length]).filter(&wanted) {
            return Ok(Some(heard));
        }
    }
    Ok(None)
}

fn exchange(link: &Link) -> io::Result<Exchange> {
    let mut id = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(Exchange { id: u32::from_ne_bytes(id), mac: link.mac })
}
