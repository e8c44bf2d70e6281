//! IPv4 packets straight to and from a link that has no address yet: a packet socket (packet(7)).
//!
//! An ordinary UDP socket would lose offers that a server sends to the address it is about to give.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

const IPV4: u16 = 0x0800;

/// A socket that sends to everybody on one link and hears what arrives there.
pub struct Packets {
    socket: OwnedFd,
    everybody: LinkAddr,
}

impl Packets {
    /// Opens it on the link with this index.
    pub fn open(index: u32) -> io::Result<Packets> {
        let socket =
            socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthIp)?;
        let everybody = link_address(index, [0xff; 6])?;
        bind(socket.as_raw_fd(), &everybody)?;
        Ok(Packets { socket, everybody })
    }

    /// Sends one IPv4 packet to every station.
    pub fn broadcast(&self, packet: &[u8]) -> io::Result<()> {
        sendto(self.socket.as_raw_fd(), packet, &self.everybody, MsgFlags::empty())?;
        Ok(())
    }

    /// The next IPv4 packet, or `None` when none came within `limit`.
    pub fn receive(&self, buffer: &mut [u8], limit: Duration) -> io::Result<Option<usize>> {
        // Zero would mean for ever.
        let limit = limit.max(Duration::from_millis(1));
        let seconds = libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX);
        let limit = TimeVal::new(seconds, libc::suseconds_t::from(limit.subsec_micros()));
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &limit)?;
        match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(length) => Ok(Some(length)),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// A `sockaddr_ll`; nix can read them but not make them.
fn link_address(index: u32, mac: [u8; 6]) -> io::Result<LinkAddr> {
    let index = libc::c_int::try_from(index).map_err(io::Error::other)?;
    let mut address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: IPV4.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    address.sll_addr[..6].copy_from_slice(&mac);
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is a whole, initialised sockaddr_ll of family AF_PACKET, and `length` is its size.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    address.ok_or_else(|| io::Error::other("not a link address"))
}
