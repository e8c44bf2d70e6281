//! Addresses as people type them, and those of this machine as they can be typed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;

use crate::machine::Refused;

/// Where a receiver listens unless it is told otherwise.
pub const PORT: u16 = 7878;

/// HOST:PORT of what a person typed: an address or a name, with or without a port ([`PORT`] then), IPv6 with or without
/// brackets. Whether a name means anything is seen when it is dialled.
///
/// # Errors
/// It cannot be an address, whatever the network says.
pub fn typed(text: &str) -> Result<String, Refused> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(no_address(text)) } else { Ok(address.to_string()) };
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Ok(address) = bare.unwrap_or(text).parse::<Ipv6Addr>() {
        return Ok(SocketAddr::new(IpAddr::V6(address), PORT).to_string());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)),
        None => (text, Some(PORT)),
    };
    let letter = |letter: char| letter.is_alphanumeric() || "-._".contains(letter);
    let named = !host.is_empty() && !host.starts_with('-') && host.chars().all(letter);
    // Digits and dots alone are no name: 10.0.2 and 10.0.2.300 are slips.
    let number = host.chars().all(|letter| letter.is_ascii_digit() || letter == '.');
    let sound = named && (!number || host.parse::<IpAddr>().is_ok());
    match port {
        Some(port) if sound => Ok(format!("{host}:{port}")),
        _ => Err(no_address(text)),
    }
}

fn no_address(text: &str) -> Refused {
    Refused(format!("'{text}' cannot be an address: write HOST or HOST:PORT, like 192.0.2.7:{PORT}"))
}

/// What to type on the source when this machine listens on `address`, if that itself cannot be typed.
pub fn line(address: &str) -> Option<String> {
    let address: SocketAddr =
        address.parse().ok().filter(|address: &SocketAddr| address.ip().is_unspecified())?;
    // Without them the line is missing, no more: "listening on" has been said.
    let own: Vec<IpAddr> = getifaddrs().ok()?.filter_map(|found| ip(&found.address?)).collect();
    let own = reachable(own.into_iter().filter(|own| address.is_ipv6() || own.is_ipv4()).collect());
    let own: Vec<String> = own.iter().map(|ip| SocketAddr::new(*ip, address.port()).to_string()).collect();
    let (first, others) = own.split_first()?;
    let others = if others.is_empty() { String::new() } else { format!(" (or {})", others.join(", ")) };
    Some(format!("on the source: gantry send {first}{others}"))
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// Those that others can dial; if there is none, those that only this machine or this link can.
fn reachable(mut own: Vec<IpAddr>) -> Vec<IpAddr> {
    let near = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    if !own.iter().all(near) {
        own.retain(|ip| !near(ip));
    }
    // What is short is typed with fewer slips.
    own.sort_by_key(IpAddr::is_ipv6);
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_gets_a_port_or_is_refused() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1:7878"),
            ("10.0.2.15:99", "10.0.2.15:99"),
            ("new-server.example", "new-server.example:7878"),
            ("host:7879", "host:7879"),
            ("fd00::2", "[fd00::2]:7878"),
            ("[fd00::2]", "[fd00::2]:7878"),
            ("[fd00::2]:99", "[fd00::2]:99"),
            ("bücher.example:99", "bücher.example:99"),
        ] {
            assert_eq!(typed(text).unwrap(), expected);
        }
        for text in [
            "",
            ":7878",
            "host:",
            "host:0",
            "host:70000",
            "a b",
            "http://host",
            "-x",
            "10.0.2",
            "10.0.2.300:7878",
            "1.2.3.4:0",
        ] {
            let refusal = typed(text).unwrap_err().to_string();
            assert!(
                refusal.contains("cannot be an address") && refusal.contains("HOST:PORT"),
                "{text}: {refusal}"
            );
        }
    }

    #[test]
    fn near_addresses_are_shown_only_when_there_is_nothing_else() {
        let ips = |text: &str| text.split(' ').map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        for (own, expected) in [
            ("127.0.0.1 ::1 fe80::1 fd00::2 10.0.2.15", "10.0.2.15 fd00::2"),
            ("127.0.0.1 169.254.3.4", "127.0.0.1 169.254.3.4"),
        ] {
            assert_eq!(reachable(ips(own)), ips(expected));
        }
    }

    #[test]
    fn only_what_cannot_be_typed_gets_a_line() {
        assert!(line("0.0.0.0:7878").unwrap().starts_with("on the source: gantry send "));
        assert!(line("0.0.0.0:7878").unwrap().contains(":7878"));
        assert_eq!(line("192.0.2.7:7878"), None);
    }
}
