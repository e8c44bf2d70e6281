//! NBD URIs: where a server is, and which of its exports is meant.
//!
//! Source: doc/uri.md of NetworkBlockDevice/nbd. `nbd://HOST[:PORT]/EXPORT`, `nbds://…` with TLS,
//! `nbd+unix:///EXPORT?socket=PATH`, `nbds+unix://…`. Of the parameters, `socket` and `tls-certificates` are known.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::proto::LONGEST_STRING;

/// The port that IANA gave to NBD.
const PORT: u16 = 10809;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A host, by name or address, and a port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A parsed URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Where.
    pub place: Place,
    /// Name of the export; empty for the server's default.
    pub export: String,
    /// Speak TLS, and check the server's certificate.
    pub tls: bool,
    /// Folder with `ca-cert.pem`, and with `client-cert.pem` and `client-key.pem` if the server wants them.
    pub certificates: Option<PathBuf>,
    text: String,
}

impl Address {
    /// Whether `name` is meant as an NBD URI.
    pub fn is_meant(name: &str) -> bool {
        ["nbd", "nbds"].contains(&name.split([':', '+']).next().unwrap_or_default()) && name.contains("://")
    }

    /// The default export of a server on a Unix socket, shown as `name`.
    pub fn of_socket(socket: PathBuf, name: &str) -> Self {
        Self {
            place: Place::Unix(socket),
            export: String::new(),
            tls: false,
            certificates: None,
            text: name.to_owned(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no = |why: &str| format!("{text}: {why}");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| no("not an NBD URI"))?;
        let (tls, unix) = match scheme {
            "nbd" => (false, false),
            "nbds" => (true, false),
            "nbd+unix" => (false, true),
            "nbds+unix" => (true, true),
            _ => return Err(no("the scheme is not nbd, nbds, nbd+unix or nbds+unix")),
        };
        if rest.contains('#') {
            return Err(no("an NBD URI has no fragment; write %23 for '#'"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decoded(export).map_err(|why| no(&why))?;
        if export.len() > LONGEST_STRING {
            return Err(no("the name of the export is too long"));
        }
        let (mut socket, mut certificates) = (None, None);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = decoded(value).map_err(|why| no(&why))?;
            match name {
                "socket" if unix => socket = Some(PathBuf::from(value)),
                "tls-certificates" if tls => certificates = Some(PathBuf::from(value)),
                "tls-psk-file" => {
                    return Err(no(
                        "pre-shared keys are not spoken here: use certificates (tls-certificates=DIR)",
                    ));
                }
                _ => return Err(no(&format!("the parameter {name} is not known with {scheme}://"))),
            }
        }
        let place = if unix {
            if !authority.is_empty() {
                return Err(no("with a Unix socket there is no host: write three slashes"));
            }
            Place::Unix(socket.ok_or_else(|| no("which socket? add ?socket=PATH"))?)
        } else {
            let (host, port) = host_and_port(authority).ok_or_else(|| no("no host, or a bad port"))?;
            Place::Tcp(host, port)
        };
        Ok(Self { place, export, tls, certificates, text: text.to_owned() })
    }
}

/// "host", "host:port", `[::1]:port`. User names are refused: only pre-shared keys have them.
fn host_and_port(authority: &str) -> Option<(String, u16)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(literal) => {
            let (host, rest) = literal.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => port.parse().ok()?,
        None if rest.is_empty() => PORT,
        None => return None,
    };
    (!host.is_empty() && !host.contains('@')).then(|| (host.to_owned(), port))
}

/// Percent-encoded bytes back to text.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        bytes.push(match byte {
            b'%' => match (digit(rest.next()), digit(rest.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err("a % without two hexadecimal digits".to_owned()),
            },
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_say_where_and_which() {
        let tcp = |host: &str, port| Place::Tcp(host.to_owned(), port);
        let table = [
            ("nbd://example.com", tcp("example.com", 10809), "", false),
            ("nbd://example.com/", tcp("example.com", 10809), "", false),
            ("nbds://192.0.2.7:99/disk", tcp("192.0.2.7", 99), "disk", true),
            ("nbd://[2001:db8::1]:1//a%20b", tcp("2001:db8::1", 1), "/a b", false),
            ("nbd+unix:///x?socket=/tmp/a%3Fb", Place::Unix("/tmp/a?b".into()), "x", false),
            ("nbds+unix:///?socket=s&tls-certificates=/etc/x", Place::Unix("s".into()), "", true),
        ];
        for (text, place, export, tls) in table {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.place, address.export.as_str(), address.tls), (place, export, tls), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let table = [
            ("http://x", "scheme"),
            ("nbd://", "no host"),
            ("nbd://h:99999", "bad port"),
            ("nbd://user@h", "no host"),
            ("nbd://[::g]", "no host"),
            ("nbd://h/a%2", "hexadecimal"),
            ("nbd://h/a%ff", "UTF-8"),
            ("nbd://h/a#b", "fragment"),
            ("nbd+unix:///x", "socket"),
            ("nbd+unix://h/x?socket=s", "three slashes"),
            ("nbds://h?tls-psk-file=x", "pre-shared"),
            ("nbds://h?tls-verify-peer=false", "tls-verify-peer is not known"),
            ("nbd://h?tls-certificates=x", "not known with nbd://"),
        ];
        for (text, part) in table {
            let why = text.parse::<Address>().unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
