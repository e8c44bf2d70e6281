//! The kernel command line: everything an unattended appliance is told.
//!
//! Pure: text in, [`Settings`] or all problems out. A typo must never turn into another deed, so an unknown `gantry.*`
//! argument, a bad value and an argument given twice with different values are problems, and with a problem nothing is
//! started. The arguments are documented in docs/appliance.md.

use std::net::IpAddr;

use gantry_disk::schedule::Schedule;

/// What the machine is in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes a replica.
    Receive,
    /// Gives one.
    Send,
}

impl Role {
    /// The subcommand and the word on the console.
    pub fn name(self) -> &'static str {
        match self {
            Role::Receive => "receive",
            Role::Send => "send",
        }
    }
}

/// How addresses are found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Addressing {
    /// DHCP on every wired link with carrier.
    #[default]
    Dhcp,
    /// One fixed address on one link.
    Static {
        /// The address.
        address: IpAddr,
        /// Length of its network's prefix.
        prefix: u8,
        /// Default gateway.
        gateway: Option<IpAddr>,
        /// Name server.
        dns: Option<IpAddr>,
    },
}

/// What follows success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Stay and say so.
    Hold,
    /// Power off.
    PowerOff,
    /// Reset.
    Reboot,
}

/// Everything the command line can say to us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `gantry.role`.
    pub role: Option<Role>,
    /// `gantry.ip`.
    pub addressing: Addressing,
    /// `gantry.nic`: an interface name or a MAC address in lower case.
    pub nic: Option<String>,
    /// `gantry.target`: HOST:PORT.
    pub target: Option<String>,
    /// `gantry.code`: upper case, five groups of four with dashes.
    pub code: Option<String>,
    /// `gantry.erase`.
    pub erase: Vec<String>,
    /// `gantry.bad-sectors=zero`: sectors that cannot be read become zero instead of stopping the copy.
    pub zero_bad_sectors: bool,
    /// `gantry.hibernated=void`: what the source had in its memory is given up; without it repair refuses.
    pub void_hibernation: bool,
    /// `gantry.copy=whole`: also what no filesystem uses.
    pub whole: bool,
    /// `gantry.limit`: a rate or a schedule.
    pub limit: Option<String>,
    /// `gantry.read-limit`.
    pub read_limit: Option<String>,
    /// `gantry.base`.
    pub base: Vec<String>,
    /// `gantry.disks`.
    pub disks: Vec<String>,
    /// `gantry.map`: SOURCE:TARGET pairs.
    pub map: Vec<String>,
    /// `gantry.then`.
    pub then: Option<Then>,
    /// `gantry.console`: names of terminals below /dev.
    pub consoles: Vec<String>,
}

impl Settings {
    /// What follows success when nothing else was said: the target hands over to its disk, the source stays quiet.
    pub fn then(&self) -> Then {
        self.then.unwrap_or(match self.role {
            Some(Role::Receive) => Then::Reboot,
            Some(Role::Send) | None => Then::Hold,
        })
    }
}

/// Reads a kernel command line. Arguments that are not ours are ignored.
///
/// Comes with every problem found, one sentence each, fit for the console; with a problem nothing may be started, and the
/// settings only serve to show it where it will be seen.
pub fn parse(line: &str) -> (Settings, Vec<String>) {
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    let mut seen: Vec<(String, String)> = Vec::new();
    for argument in split(line) {
        let Some(ours) = argument.strip_prefix("gantry.") else { continue };
        let (key, value) = ours.split_once('=').unwrap_or((ours, ""));
        match seen.iter().find(|(name, _)| name == key) {
            Some((_, before)) if before == value => continue,
            Some(_) => {
                problems.push(format!("gantry.{key} is given twice with different values"));
                continue;
            }
            None => seen.push((key.to_owned(), value.to_owned())),
        }
        if let Err(problem) = apply(&mut settings, key, value) {
            problems.push(problem);
        }
    }
    if settings.role == Some(Role::Send) {
        for (missing, what) in [(settings.target.is_none(), "target"), (settings.code.is_none(), "code")] {
            if missing && !seen.iter().any(|(key, _)| key == what) {
                problems.push(format!("gantry.role=send needs gantry.{what}"));
            }
        }
    }
    (settings, problems)
}

fn apply(settings: &mut Settings, key: &str, value: &str) -> Result<(), String> {
    match key {
        "role" => {
            settings.role = Some(match value {
                "receive" => Role::Receive,
                "send" => Role::Send,
                _ => return Err(format!("gantry.role is receive or send, not '{value}'")),
            });
        }
        "ip" => settings.addressing = addressing(value)?,
        "nic" if value.is_empty() => {
            return Err("gantry.nic is an interface name or a MAC address".to_owned());
        }
        "nic" => settings.nic = Some(value.to_ascii_lowercase()),
        "target" => settings.target = Some(target(value)?),
        "code" => settings.code = Some(code(value)?),
        "erase" => settings.erase = list(key, value)?,
        "base" => settings.base = list(key, value)?,
        "bad-sectors" => {
            settings.zero_bad_sectors = match value {
                "zero" => true,
                "stop" => false,
                _ => return Err(format!("gantry.bad-sectors is stop or zero, not '{value}'")),
            }
        }
        "hibernated" => {
            settings.void_hibernation = match value {
                "void" => true,
                "refuse" => false,
                _ => return Err(format!("gantry.hibernated is refuse or void, not '{value}'")),
            }
        }
        "copy" => {
            settings.whole = match value {
                "whole" => true,
                "used" => false,
                _ => return Err(format!("gantry.copy is used or whole, not '{value}'")),
            }
        }
        "limit" => settings.limit = Some(limit(key, value)?),
        "read-limit" => settings.read_limit = Some(limit(key, value)?),
        "disks" => settings.disks = list(key, value)?,
        "map" => settings.map = map(value)?,
        "then" => {
            settings.then = Some(match value {
                "hold" => Then::Hold,
                "poweroff" => Then::PowerOff,
                "reboot" => Then::Reboot,
                _ => return Err(format!("gantry.then is hold, poweroff or reboot, not '{value}'")),
            });
        }
        "console" => settings.consoles = list(key, value)?,
        _ => return Err(format!("gantry.{key} is not an argument of this version")),
    }
    Ok(())
}

/// Splits as the kernel does: at white space, except within double quotes, which vanish.
fn split(line: &str) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut current = String::new();
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            letter if letter.is_ascii_whitespace() && !quoted => {
                if !current.is_empty() {
                    arguments.push(std::mem::take(&mut current));
                }
            }
            letter => current.push(letter),
        }
    }
    if !current.is_empty() {
        arguments.push(current);
    }
    arguments
}

fn list(key: &str, value: &str) -> Result<Vec<String>, String> {
    let items: Vec<String> = value.split(',').map(str::to_owned).collect();
    // An item that begins with a dash would become a flag of the child.
    match items.iter().find(|item| item.is_empty() || item.starts_with('-')) {
        Some(item) => Err(format!("gantry.{key} is a comma list of names, '{item}' is none")),
        None => Ok(items),
    }
}

fn map(value: &str) -> Result<Vec<String>, String> {
    let pairs = list("map", value)?;
    let pair =
        |item: &String| item.split_once(':').is_some_and(|(from, to)| !from.is_empty() && !to.is_empty());
    match pairs.iter().find(|item| !pair(item)) {
        Some(item) => Err(format!("gantry.map is a comma list of SOURCE:TARGET, '{item}' is none")),
        None => Ok(pairs),
    }
}

fn addressing(value: &str) -> Result<Addressing, String> {
    const FORM: &str = "gantry.ip is dhcp or ADDRESS/PREFIX[,GATEWAY[,DNS]]";
    if value == "dhcp" {
        return Ok(Addressing::Dhcp);
    }
    let parts: Vec<&str> = value.split(',').collect();
    let (network, others) = parts.split_first().ok_or(FORM)?;
    let (address, prefix) =
        network.split_once('/').ok_or_else(|| format!("{FORM}: no prefix in '{network}'"))?;
    let ip = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("{FORM}: '{text}' is no address"));
    let address = ip(address)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix
        .parse()
        .ok()
        .filter(|prefix| (1..=most).contains(prefix))
        .ok_or_else(|| format!("{FORM}: '{prefix}' is no prefix length"))?;
    if others.len() > 2 {
        return Err(format!("{FORM}: too many parts"));
    }
    let other =
        |index: usize| others.get(index).filter(|text| !text.is_empty()).map(|text| ip(text)).transpose();
    let (gateway, dns) = (other(0)?, other(1)?);
    if gateway.is_some_and(|gateway| gateway.is_ipv4() != address.is_ipv4()) {
        return Err(format!("{FORM}: address and gateway are of different families"));
    }
    Ok(Addressing::Static { address, prefix, gateway, dns })
}

fn target(value: &str) -> Result<String, String> {
    let sound = value.rsplit_once(':').is_some_and(|(host, port)| {
        let host_sound = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && !host.starts_with('-')
                    && host.chars().all(|letter| letter.is_ascii_alphanumeric() || "-._".contains(letter))
            }
        };
        host_sound && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if sound { Ok(value.to_owned()) } else { Err(format!("gantry.target is HOST:PORT, not '{value}'")) }
}

/// Read with the agent's own eyes, like a code.
fn limit(key: &str, value: &str) -> Result<String, String> {
    let schedule: Schedule = value.parse().map_err(|error| format!("gantry.{key}: {error}"))?;
    Ok(schedule.to_string())
}

/// Read with the same eyes as the agent's, so that a mistyped code is known before anything starts.
fn code(value: &str) -> Result<String, String> {
    gantry_wire::code::Code::parse(value)
        .map(|code| code.reveal())
        .map_err(|error| format!("gantry.code: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(line: &str) -> Settings {
        let (settings, problems) = parse(line);
        assert!(problems.is_empty(), "{line}: {problems:?}");
        settings
    }

    #[test]
    fn a_line_without_ours_is_the_default() {
        let parsed = settings("BOOT_IMAGE=/live/vmlinuz console=tty0 console=ttyS0 quiet");
        assert_eq!(parsed, Settings::default());
        assert_eq!(parsed.then(), Then::Hold);
    }

    #[test]
    fn a_receiver() {
        let parsed = settings("gantry.role=receive gantry.erase=QM00001,wwn-0x5000 gantry.disks=/dev/vda");
        assert_eq!(parsed.role, Some(Role::Receive));
        assert_eq!(parsed.erase, ["QM00001", "wwn-0x5000"]);
        assert_eq!(parsed.disks, ["/dev/vda"]);
        assert_eq!(parsed.then(), Then::Reboot);
    }

    #[test]
    fn a_sender() {
        let parsed = settings(
            "gantry.role=send gantry.target=10.0.0.2:7878 gantry.code=bcde-fghj-klnp-rstx-bcde \
             gantry.map=/dev/sda:/dev/vda,/dev/sdb:/dev/vdb gantry.then=poweroff gantry.nic=52:54:00:AB:cd:ef",
        );
        assert_eq!(parsed.role, Some(Role::Send));
        assert_eq!(parsed.target.as_deref(), Some("10.0.0.2:7878"));
        assert_eq!(parsed.code.as_deref(), Some("BCDE-FGHJ-KLNP-RSTX-BCDE"));
        assert_eq!(parsed.map, ["/dev/sda:/dev/vda", "/dev/sdb:/dev/vdb"]);
        assert_eq!(parsed.nic.as_deref(), Some("52:54:00:ab:cd:ef"));
        assert_eq!(parsed.then(), Then::PowerOff);
        assert_eq!(
            settings("gantry.role=send gantry.target=a:1 gantry.code=BCDEFGHJKLNPRSTXBCDE").then(),
            Then::Hold
        );
    }

    #[test]
    fn addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (value, expected) in [
            ("dhcp", Addressing::Dhcp),
            (
                "192.168.7.2/24",
                Addressing::Static { address: ip("192.168.7.2"), prefix: 24, gateway: None, dns: None },
            ),
            (
                "192.168.7.2/24,192.168.7.1,9.9.9.9",
                Addressing::Static {
                    address: ip("192.168.7.2"),
                    prefix: 24,
                    gateway: Some(ip("192.168.7.1")),
                    dns: Some(ip("9.9.9.9")),
                },
            ),
            (
                "fd00::2/64,,fd00::53",
                Addressing::Static {
                    address: ip("fd00::2"),
                    prefix: 64,
                    gateway: None,
                    dns: Some(ip("fd00::53")),
                },
            ),
        ] {
            assert_eq!(settings(&format!("gantry.ip={value}")).addressing, expected, "{value}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, problem) in [
            ("gantry.role=recieve", "gantry.role is receive or send, not 'recieve'"),
            ("gantry.role", "gantry.role is receive or send, not ''"),
            ("gantry.rol=receive", "gantry.rol is not an argument of this version"),
            ("gantry.role=receive gantry.role=send", "gantry.role is given twice with different values"),
            ("gantry.ip=192.168.7.2", "no prefix in '192.168.7.2'"),
            ("gantry.ip=192.168.7.2/33", "'33' is no prefix length"),
            ("gantry.ip=192.168.7.2/0", "'0' is no prefix length"),
            ("gantry.ip=192.168.7.2/24,fd00::1", "different families"),
            ("gantry.ip=192.168.7.2/24,1.1.1.1,1.1.1.1,1.1.1.1", "too many parts"),
            ("gantry.ip=host/24", "'host' is no address"),
            ("gantry.ip=", "no prefix in ''"),
            ("gantry.role=send gantry.code=BCDEFGHJKLNPRSTXBCDE", "gantry.role=send needs gantry.target"),
            ("gantry.role=send gantry.target=a:1", "gantry.role=send needs gantry.code"),
            ("gantry.target=host", "gantry.target is HOST:PORT, not 'host'"),
            ("gantry.target=host:0", "gantry.target is HOST:PORT"),
            ("gantry.target=host:70000", "gantry.target is HOST:PORT"),
            ("gantry.target=-host:7878", "gantry.target is HOST:PORT"),
            ("gantry.target=fd00::1", "gantry.target is HOST:PORT"),
            ("gantry.code=BCDE", "gantry.code: a pairing code has 20 letters, not 4"),
            ("gantry.code=BCDE-FGHJ-KLNP-RSTX-BCD1", "not '1'"),
            ("gantry.code=ÄÄÄÄÄÄÄÄÄÄ", "not 'Ä'"),
            ("gantry.erase=", "gantry.erase is a comma list of names"),
            ("gantry.erase=A,,B", "gantry.erase is a comma list of names"),
            ("gantry.base=", "gantry.base is a comma list of names"),
            ("gantry.bad-sectors=", "gantry.bad-sectors is stop or zero, not ''"),
            ("gantry.hibernated=yes", "gantry.hibernated is refuse or void, not 'yes'"),
            ("gantry.copy=all", "gantry.copy is used or whole, not 'all'"),
            ("gantry.limit=20MB", "gantry.limit: '20MB' is no rate"),
            ("gantry.limit=", "gantry.limit: '' is no rate"),
            ("gantry.read-limit=8-18=1M", "gantry.read-limit: '8-18' is no window"),
            ("gantry.disks=--all", "'--all' is none"),
            ("gantry.map=/dev/sda", "'/dev/sda' is none"),
            ("gantry.then=halt", "gantry.then is hold, poweroff or reboot, not 'halt'"),
            ("gantry.nic=", "gantry.nic is an interface name"),
        ] {
            let (_, problems) = parse(line);
            assert!(problems.iter().any(|found| found.contains(problem)), "{line}: {problems:?}");
        }
    }

    #[test]
    fn all_problems_are_reported_and_the_code_never_shown() {
        let (_, problems) = parse("gantry.role=x gantry.then=y gantry.code=KLNPRSTX");
        assert_eq!(problems.len(), 3);
        assert!(!problems.concat().contains("KLNP"));
    }

    #[test]
    fn quotes_hold_together_and_repeats_of_the_same_are_fine() {
        assert_eq!(settings("gantry.erase=\"WD 40\" x=\"gantry.role=send\"").erase, ["WD 40"]);
        assert_eq!(settings("gantry.role=receive gantry.role=receive").role, Some(Role::Receive));
        assert_eq!(settings("gantry.target=[fd00::1]:7878").target.as_deref(), Some("[fd00::1]:7878"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(line in "(gantry\\.(role|ip|code|target|map|erase|nic|then)=)?.*") {
            let _ = parse(&line);
        }
    }
}
