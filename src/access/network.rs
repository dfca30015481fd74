//! Networks in CIDR form.
//!
//! An IPv4 address that came in over an IPv6 socket (`::ffff:192.0.2.1`, RFC 4291 §2.5.5.2) is an IPv4 address, as
//! sshd has it.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::not_a;

/// A network, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(IpNet);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| {
                not_a(
                    &text,
                    "a network such as \"192.0.2.0/24\" or \"2001:db8::/32\", or one address",
                )
            })?,
        };
        // `10.0.0.1/8` is a slip of somebody who meant one or the other; sshd refuses it too (addr.c).
        if network.trunc() != network {
            return Err(format!(
                "\"{text}\" has bits behind its prefix: write \"{}\" or \"{}\"",
                network.trunc(),
                network.addr()
            ));
        }
        if let IpAddr::V6(address) = network.addr() {
            if address.to_ipv4_mapped().is_some() {
                return Err(format!(
                    "\"{text}\": write the IPv4 address itself, for which one that came in over IPv6 is taken"
                ));
            }
        }
        Ok(Self(network))
    }
}

impl Network {
    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether it holds every address of its family.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        Network::try_from(network.to_owned())
            .unwrap()
            .contains(address.parse().unwrap())
    }

    #[test]
    fn addresses_are_found_in_their_network_and_in_no_other() {
        assert!(contains("10.0.0.0/8", "10.255.255.255"));
        assert!(!contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("192.0.2.7", "192.0.2.7"));
        assert!(!contains("192.0.2.7", "192.0.2.8"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!contains("2001:db8::/32", "2001:db9::1"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(!contains("::/0", "192.0.2.1"));
    }

    #[test]
    fn ipv4_over_ipv6_is_ipv4() {
        assert!(contains("192.0.2.0/24", "::ffff:192.0.2.1"));
        assert!(!contains("::/0", "::ffff:192.0.2.1"));
    }

    #[test]
    fn what_is_no_network_or_means_two_is_refused() {
        for (text, word) in [
            ("", "is not a network"),
            ("office", "is not a network"),
            ("10.0.0.0/33", "is not a network"),
            ("10.0.0.0/", "is not a network"),
            ("10.0.0/8", "is not a network"),
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::ffff:10.0.0.0/104", "IPv4"),
            ("::ffff:10.0.0.1", "IPv4"),
            ("fe80::1%eth0", "is not a network"),
        ] {
            let error = Network::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
