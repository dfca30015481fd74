//! Where a login comes from, by sshd's `%C`.
//!
//! `%C` is one argument of four words: two addresses, each with its port. The code of OpenSSH up to 10.4 gives the
//! local address first, its manual says the remote one. Neither is trusted: the word that is one of this host's own
//! addresses is ours, and the other one is the source.

use std::net::IpAddr;

/// More than any two addresses and ports need: two of 45 characters with a zone, two of five, three spaces.
const MAX_WORDS: usize = 256;

/// The two addresses of a connection, in sshd's order, whichever that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection([IpAddr; 2]);

impl Connection {
    /// Reads sshd's four words; `None` for anything else, such as sshd's `UNKNOWN` for what is no socket.
    #[must_use]
    pub fn parse(words: &str) -> Option<Self> {
        if words.len() > MAX_WORDS {
            return None;
        }
        let words: Vec<&str> = words.split(' ').collect();
        match words.as_slice() {
            [one, one_port, other, other_port] if is_port(one_port) && is_port(other_port) => {
                Some(Self([address(one)?, address(other)?]))
            }
            _ => None,
        }
    }

    /// The address that is not ours. `None` where that cannot be told: neither is, or both are and they differ.
    pub fn source(self, is_ours: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let Self([one, other]) = self;
        match (is_ours(one), is_ours(other)) {
            (true, false) => Some(other),
            (false, true) => Some(one),
            // A connection of the host to itself.
            (true, true) if one == other => Some(one),
            _ => None,
        }
    }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

/// An address, without the zone that a link-local one carries (RFC 4007 §11).
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.split_once('%').map_or(text, |(address, _)| address);
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Where a login comes from, as far as we were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// sshd does not say.
    #[default]
    Unknown,
    /// sshd's words: which address is ours has still to be looked up.
    Connection(Connection),
    /// An administrator asks about this one.
    Address(IpAddr),
}

impl Origin {
    /// The source's address. Looks up this host's own ones where it must.
    #[must_use]
    pub fn source(self) -> Option<IpAddr> {
        match self {
            Self::Unknown => None,
            Self::Address(address) => Some(address.to_canonical()),
            Self::Connection(connection) => {
                let ours = own_addresses()?;
                // All of 127.0.0.0/8 is this host, and its interface shows one address of it.
                connection.source(|address| address.is_loopback() || ours.contains(&address))
            }
        }
    }
}

/// The addresses of this host's interfaces (getifaddrs(3)); `None` where they cannot be had.
fn own_addresses() -> Option<Vec<IpAddr>> {
    let of = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let ipv4 = address.as_sockaddr_in().map(|found| IpAddr::from(found.ip()));
        ipv4.or_else(|| address.as_sockaddr_in6().map(|found| IpAddr::from(found.ip())))
    };
    Some(nix::ifaddrs::getifaddrs().ok()?.filter_map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(words: &str, ours: &[&str]) -> Option<IpAddr> {
        let ours: Vec<IpAddr> = ours.iter().map(|text| text.parse().unwrap()).collect();
        Connection::parse(words)?.source(|address| ours.contains(&address))
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_word_that_is_not_ours_is_the_source_in_either_order() {
        let ours = ["10.0.0.1", "2001:db8::1"];
        assert_eq!(source("10.0.0.1 22 192.0.2.9 40000", &ours), ip("192.0.2.9"));
        assert_eq!(source("192.0.2.9 40000 10.0.0.1 22", &ours), ip("192.0.2.9"));
        assert_eq!(
            source("2001:db8::1 22 2001:db8::9 40000", &ours),
            ip("2001:db8::9")
        );
        assert_eq!(
            source("::ffff:10.0.0.1 22 ::ffff:192.0.2.9 40000", &ours),
            ip("192.0.2.9")
        );
        assert_eq!(source("10.0.0.1 22 fe80::9%eth0 40000", &ours), ip("fe80::9"));
    }

    #[test]
    fn a_connection_of_the_host_to_itself_comes_from_that_address() {
        assert_eq!(
            source("10.0.0.1 22 10.0.0.1 40000", &["10.0.0.1"]),
            ip("10.0.0.1")
        );
    }

    #[test]
    fn two_of_ours_or_none_of_ours_leave_the_source_unknown() {
        assert_eq!(
            source("10.0.0.1 22 10.0.0.2 40000", &["10.0.0.1", "10.0.0.2"]),
            None
        );
        assert_eq!(source("10.0.0.1 22 10.0.0.2 40000", &[]), None);
    }

    #[test]
    fn words_of_another_form_are_no_connection() {
        for words in [
            "",
            "UNKNOWN 65535 UNKNOWN 65535",
            "10.0.0.1 22 192.0.2.9",
            "10.0.0.1 22 192.0.2.9 40000 x",
            "10.0.0.1  22 192.0.2.9 40000",
            "10.0.0.1 22 192.0.2.9 +1",
            "10.0.0.1 22 192.0.2.9 65536",
            "10.0.0.1 x 192.0.2.9 1",
            "10.0.0.1 22 host.example 1",
            "%C",
        ] {
            assert_eq!(Connection::parse(words), None, "{words}");
        }
        let long = format!("10.0.0.1 22 fe80::1%{} 1", "x".repeat(MAX_WORDS));
        assert_eq!(Connection::parse(&long), None);
    }

    #[test]
    fn a_connection_to_ourselves_is_known_by_our_interfaces() {
        let connection = Connection::parse("127.0.0.1 22 192.0.2.9 40000").unwrap();
        assert_eq!(Origin::Connection(connection).source(), ip("192.0.2.9"));
        let connection = Connection::parse("198.51.100.1 22 192.0.2.9 40000").unwrap();
        assert_eq!(Origin::Connection(connection).source(), None);
    }
}
