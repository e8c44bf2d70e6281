//! DHCPv4 messages (RFC 2131, options of RFC 2132) in their IPv4 and UDP wrapping. Pure, without I/O.
//!
//! Own code, about two hundred lines: of the crates, mozim brings an async runtime and its own netlink stack, and
//! dhcproto a DNS library; neither belongs into a process that must never fail. What comes in is a stranger's bytes:
//! every length is checked, and what cannot be understood is not for us.

use std::net::Ipv4Addr;
use std::time::Duration;

const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// Options begin behind 236 bytes of BOOTP and the cookie.
const OPTIONS: usize = 240;
/// Some servers and relays drop messages shorter than BOOTP's 300 bytes.
const SHORTEST: usize = 300;

mod option {
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const REQUESTED: u8 = 50;
    pub const LEASE: u8 = 51;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const WANTED: u8 = 55;
    pub const LARGEST: u8 = 57;
    pub const RENEW: u8 = 58;
    pub const CLIENT: u8 = 61;
    pub const END: u8 = 255;
}

/// What the client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Who can give me an address?
    Discover,
    /// I take this one from that server.
    Request {
        /// The offered address.
        address: Ipv4Addr,
        /// The server that offered.
        server: Ipv4Addr,
    },
    /// I have this one and want to keep it.
    Renew {
        /// The address in use.
        address: Ipv4Addr,
    },
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// You may have this.
    Offer(Lease),
    /// It is yours.
    Granted(Lease),
    /// It is not yours (any more).
    Refused,
}

/// An address and what comes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// How long it is ours.
    pub lasts: Duration,
    /// When to ask again.
    pub renew: Duration,
}

/// One exchange between a client and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exchange {
    /// Random number that holds it together.
    pub id: u32,
    /// The client's MAC address.
    pub mac: [u8; 6],
}

impl Exchange {
    /// The packet that says it, ready for the link.
    pub fn say(&self, what: Say, since: Duration) -> Vec<u8> {
        let mut dhcp = vec![0; OPTIONS];
        // Request, Ethernet, six bytes of address.
        dhcp[..3].copy_from_slice(&[1, 1, 6]);
        dhcp[4..8].copy_from_slice(&self.id.to_be_bytes());
        dhcp[8..10].copy_from_slice(&u16::try_from(since.as_secs()).unwrap_or(u16::MAX).to_be_bytes());
        dhcp[28..34].copy_from_slice(&self.mac);
        dhcp[236..240].copy_from_slice(&COOKIE);
        let mut add = |kind: u8, value: &[u8]| {
            dhcp.extend([kind, value.len() as u8]);
            dhcp.extend(value);
        };
        add(option::KIND, &[if what == Say::Discover { 1 } else { 3 }]);
        let mut client = vec![1];
        client.extend(self.mac);
        add(option::CLIENT, &client);
        add(option::LARGEST, &1472_u16.to_be_bytes());
        add(option::WANTED, &[option::MASK, option::ROUTER, option::DNS, option::LEASE, option::RENEW]);
        let mut source = Ipv4Addr::UNSPECIFIED;
        match what {
            Say::Discover => {}
            Say::Request { address, server } => {
                add(option::REQUESTED, &address.octets());
                add(option::SERVER, &server.octets());
            }
            Say::Renew { address } => {
                dhcp[12..16].copy_from_slice(&address.octets());
                source = address;
            }
        }
        dhcp.push(option::END);
        dhcp.resize(dhcp.len().max(SHORTEST), 0);
        wrap(source, &dhcp)
    }

    /// What an incoming packet says to this exchange; `None` for everything else on the link.
    pub fn hear(&self, packet: &[u8]) -> Option<Heard> {
        let dhcp = unwrap(packet)?;
        let fixed = dhcp.get(..OPTIONS)?;
        let ours = fixed[0] == 2
            && fixed[4..8] == self.id.to_be_bytes()
            && fixed[28..34] == self.mac
            && fixed[236..240] == COOKIE;
        if !ours {
            return None;
        }
        let options = &dhcp[OPTIONS..];
        let address = address(&fixed[16..20])?;
        match find(options, option::KIND)? {
            [2] => Some(Heard::Offer(lease(address, options)?)),
            [5] => Some(Heard::Granted(lease(address, options)?)),
            [6] => Some(Heard::Refused),
            _ => None,
        }
    }
}

fn lease(yours: Ipv4Addr, options: &[u8]) -> Option<Lease> {
    if yours.is_unspecified() || yours.is_broadcast() || yours.is_multicast() || yours.is_loopback() {
        return None;
    }
    let seconds = |kind| find(options, kind).and_then(|value| value.try_into().ok()).map(u32::from_be_bytes);
    let lasts = Duration::from_secs(u64::from(seconds(option::LEASE).unwrap_or(3600).max(60)));
    let renew = seconds(option::RENEW).map_or(lasts / 2, |renew| Duration::from_secs(u64::from(renew)));
    let mask = find(options, option::MASK).and_then(address).unwrap_or(Ipv4Addr::new(255, 255, 255, 0));
    Some(Lease {
        address: yours,
        prefix: u8::try_from(u32::from(mask).leading_ones()).unwrap_or(32).max(1),
        gateway: find(options, option::ROUTER).and_then(|value| address(value.get(..4)?)),
        dns: find(options, option::DNS)
            .unwrap_or_default()
            .chunks_exact(4)
            .filter_map(address)
            .take(3)
            .collect(),
        server: find(options, option::SERVER).and_then(address)?,
        lasts,
        renew: renew.clamp(Duration::from_secs(30), lasts.max(Duration::from_secs(30))),
    })
}

/// The value of the first option of this kind.
fn find(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        match *options.first()? {
            0 => options = &options[1..],
            option::END => return None,
            kind => {
                let length = usize::from(*options.get(1)?);
                let value = options.get(2..2 + length)?;
                if kind == wanted {
                    return Some(value);
                }
                options = &options[2 + length..];
            }
        }
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn wrap(source: Ipv4Addr, dhcp: &[u8]) -> Vec<u8> {
    let length = |extra: usize| u16::try_from(dhcp.len() + extra).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0x45, 0];
    packet.extend(length(IP_HEADER + UDP_HEADER));
    // Identification 0, do not fragment, 64 hops, UDP, checksum filled in below.
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend([255; 4]);
    let checksum = checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(CLIENT_PORT.to_be_bytes());
    packet.extend(SERVER_PORT.to_be_bytes());
    packet.extend(length(UDP_HEADER));
    // A UDP checksum of zero means none, which IPv4 allows.
    packet.extend([0, 0]);
    packet.extend(dhcp);
    packet
}

/// The payload of a UDP packet to the client's port.
///
/// The UDP checksum is not judged: on virtual links it is left to the hardware that does not exist, and what arrives
/// from the same host is right by construction.
fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff;
    let sound = packet[0] >> 4 == 4 && header >= IP_HEADER && fragment == 0 && *packet.get(9)? == 17;
    let udp = packet.get(header..total).filter(|_| sound)?;
    let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    udp.get(UDP_HEADER..length).filter(|_| port == CLIENT_PORT)
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let sum: u32 =
        header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCHANGE: Exchange = Exchange { id: 0x1234_5678, mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56] };

    /// A server's answer with these options.
    fn answer(options: &[u8]) -> Vec<u8> {
        let mut dhcp = vec![0; OPTIONS];
        dhcp[0] = 2;
        dhcp[4..8].copy_from_slice(&EXCHANGE.id.to_be_bytes());
        dhcp[16..20].copy_from_slice(&[10, 0, 2, 15]);
        dhcp[28..34].copy_from_slice(&EXCHANGE.mac);
        dhcp[236..240].copy_from_slice(&COOKIE);
        dhcp.extend(options);
        let mut packet = wrap(Ipv4Addr::new(10, 0, 2, 2), &dhcp);
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        packet
    }

    const FULL: &[u8] = &[
        53, 1, 2, 0, 1, 4, 255, 255, 252, 0, 3, 8, 10, 0, 2, 2, 10, 0, 2, 9, 6, 4, 10, 0, 2, 3, 51, 4, 0, 0,
        14, 16, 54, 4, 10, 0, 2, 2, 255,
    ];

    #[test]
    fn an_offer_is_understood() {
        let expected = Lease {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 22,
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            dns: vec![Ipv4Addr::new(10, 0, 2, 3)],
            server: Ipv4Addr::new(10, 0, 2, 2),
            lasts: Duration::from_secs(3600),
            renew: Duration::from_secs(1800),
        };
        assert_eq!(EXCHANGE.hear(&answer(FULL)), Some(Heard::Offer(expected)));
        assert_eq!(EXCHANGE.hear(&answer(&[53, 1, 6, 255])), Some(Heard::Refused));
    }

    #[test]
    fn what_is_not_for_us_is_passed_over() {
        let spoilt = |at: usize, value: u8| {
            let mut packet = answer(FULL);
            packet[at] = value;
            packet
        };
        let dhcp = IP_HEADER + UDP_HEADER;
        for (packet, why) in [
            (spoilt(0, 0x65), "IPv6"),
            (spoilt(9, 6), "TCP"),
            (spoilt(7, 1), "a fragment"),
            (spoilt(23, 67), "another port"),
            (spoilt(dhcp, 1), "a request"),
            (spoilt(dhcp + 4, 0), "another exchange"),
            (spoilt(dhcp + 28, 0), "another client"),
            (spoilt(dhcp + 236, 0), "no cookie"),
            (spoilt(dhcp + 16, 224), "a multicast address"),
            (answer(&[53, 1, 2, 255]), "no server"),
            (answer(&[54, 4, 10, 0, 2, 2, 255]), "no kind"),
            (answer(&[53, 200, 2]), "an option beyond the end"),
            (EXCHANGE.say(Say::Discover, Duration::ZERO), "our own question"),
        ] {
            assert_eq!(EXCHANGE.hear(&packet), None, "{why}");
        }
    }

    #[test]
    fn a_request_names_address_and_server() {
        let say = Say::Request { address: Ipv4Addr::new(10, 0, 2, 15), server: Ipv4Addr::new(10, 0, 2, 2) };
        let packet = EXCHANGE.say(say, Duration::from_secs(3));
        assert_eq!(checksum(&packet[..IP_HEADER]), 0, "a header with its checksum sums up to nothing");
        assert_eq!(packet[16..20], [255; 4]);
        let options = &packet[IP_HEADER + UDP_HEADER + OPTIONS..];
        assert_eq!(find(options, option::KIND), Some(&[3][..]));
        assert_eq!(find(options, option::REQUESTED), Some(&[10, 0, 2, 15][..]));
        assert_eq!(find(options, option::SERVER), Some(&[10, 0, 2, 2][..]));
        assert!(packet.len() >= IP_HEADER + UDP_HEADER + SHORTEST);
    }

    #[test]
    fn a_renewal_speaks_from_its_address() {
        let packet = EXCHANGE.say(Say::Renew { address: Ipv4Addr::new(10, 0, 2, 15) }, Duration::ZERO);
        assert_eq!(packet[12..16], [10, 0, 2, 15]);
        assert_eq!(packet[IP_HEADER + UDP_HEADER + 12..][..4], [10, 0, 2, 15]);
        assert_eq!(find(&packet[IP_HEADER + UDP_HEADER + OPTIONS..], option::REQUESTED), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(packet in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            EXCHANGE.hear(&packet);
        }

        #[test]
        fn never_panics_on_options(options in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            EXCHANGE.hear(&answer(&options));
        }
    }
}
