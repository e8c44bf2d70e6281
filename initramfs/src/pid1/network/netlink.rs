//! Links, addresses and routes by rtnetlink.
//!
//! PID 1 needs five messages, all of fixed shape, so they are written out here as bytes (linux/rtnetlink.h) over nix's
//! safe sockets. The rtnetlink crate would bring an async runtime into the process that must never fail.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const ERROR: u16 = 2;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;

const HEADER: usize = 16;

/// A connection to the kernel's routing tables.
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Opens it.
    pub fn open() -> io::Result<Netlink> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Netlink { socket })
    }

    /// Switches a link on.
    pub fn up(&self, index: u32) -> io::Result<()> {
        self.ask(&link_up(index))
    }

    /// Gives a link an address; giving it again is fine.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        self.ask(&self::address(NEW_ADDRESS, REPLACE | CREATE, index, address, prefix))
    }

    /// Takes an address away.
    pub fn remove_address(&self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        self.ask(&self::address(DELETE_ADDRESS, 0, index, address, prefix))
    }

    /// Sends what has no better way through `gateway`. Of several links the one with the lowest index wins.
    pub fn add_default_route(&self, index: u32, gateway: IpAddr) -> io::Result<()> {
        self.ask(&default_route(index, gateway))
    }

    fn ask(&self, message: &[u8]) -> io::Result<()> {
        send(self.socket.as_raw_fd(), message, MsgFlags::empty())?;
        let mut answer = [0; 4096];
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        outcome(&answer[..length])
    }
}

/// What the kernel's acknowledgement says: an error number in the four bytes behind the header, 0 for success.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(io::Error::other("the kernel's answer cannot be understood")),
    }
}

/// Puts the header before a body and fills in the length.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | REQUEST | ACKNOWLEDGE).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// `struct ifinfomsg` with only the flag IFF_UP changed.
fn link_up(index: u32) -> Vec<u8> {
    const UP: u32 = 1;
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(UP.to_ne_bytes());
    body.extend(UP.to_ne_bytes());
    message(NEW_LINK, 0, &body)
}

/// `struct ifaddrmsg`, then IFA_ADDRESS, IFA_LOCAL and for IPv4 IFA_BROADCAST.
fn address(kind: u16, flags: u16, index: u32, address: IpAddr, prefix: u8) -> Vec<u8> {
    let mut body = vec![family(address), prefix, 0, 0];
    body.extend(index.to_ne_bytes());
    attribute(&mut body, 1, &octets(address));
    attribute(&mut body, 2, &octets(address));
    if let IpAddr::V4(address) = address
        && (1..31).contains(&prefix)
    {
        attribute(&mut body, 4, &(u32::from(address) | (u32::MAX >> prefix)).to_be_bytes());
    }
    message(kind, flags, &body)
}

/// `struct rtmsg` for the main table, then RTA_OIF, RTA_GATEWAY and RTA_PRIORITY.
///
/// The flag ONLINK lets the gateway lie outside of the link's own network, as some clouds have it (/32 addresses).
fn default_route(index: u32, gateway: IpAddr) -> Vec<u8> {
    const MAIN_TABLE: u8 = 254;
    const BY_BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    const ONLINK: u32 = 4;
    const FIRST_PRIORITY: u32 = 100;
    let mut body = vec![family(gateway), 0, 0, 0, MAIN_TABLE, BY_BOOT, 0, UNICAST];
    body.extend(ONLINK.to_ne_bytes());
    attribute(&mut body, 4, &index.to_ne_bytes());
    attribute(&mut body, 5, &octets(gateway));
    attribute(&mut body, 6, &FIRST_PRIORITY.saturating_add(index).to_ne_bytes());
    message(NEW_ROUTE, REPLACE | CREATE, &body)
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_message_has_the_kernels_shape() {
        let message = address(NEW_ADDRESS, REPLACE | CREATE, 2, IpAddr::from([10, 0, 2, 15]), 24);
        let mut expected = vec![48, 0, 0, 0, 20, 0, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0, 2, 24, 0, 0, 2, 0, 0, 0];
        expected.extend([8, 0, 1, 0, 10, 0, 2, 15, 8, 0, 2, 0, 10, 0, 2, 15, 8, 0, 4, 0, 10, 0, 2, 255]);
        assert_eq!(message, expected);
    }

    #[test]
    fn a_host_address_has_no_broadcast() {
        assert_eq!(address(NEW_ADDRESS, 0, 2, IpAddr::from([10, 0, 2, 15]), 32).len(), 40);
    }

    #[test]
    fn answers_are_read_with_care() {
        let answer = |code: i32| {
            let mut answer = vec![20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            answer.extend(code.to_ne_bytes());
            answer
        };
        assert!(outcome(&answer(0)).is_ok());
        assert_eq!(outcome(&answer(-17)).unwrap_err().raw_os_error(), Some(17));
        assert!(outcome(&answer(i32::MIN)).is_err());
        assert!(outcome(&[]).is_err());
        assert!(outcome(&answer(0)[..18]).is_err());
    }

    #[test]
    fn the_kernel_takes_it() {
        // Needs no privilege to be refused: the kernel must understand the message to say EPERM or "no such device".
        let netlink = Netlink::open().unwrap();
        let missing = netlink.add_address(u32::MAX / 2, IpAddr::from([10, 0, 2, 15]), 24).unwrap_err();
        let code = missing.raw_os_error().unwrap();
        assert!([nix::libc::EPERM, nix::libc::ENODEV].contains(&code), "{missing}");
    }
}
