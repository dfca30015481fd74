//! What a log line can mean to us, and who says so.
#![deny(clippy::disallowed_methods)]

use std::fmt;

use crate::escape;
use crate::instance::InstanceId;
use crate::request::{Fingerprint, LoginName};

use super::moment::Moment;

/// Foreign text that is safe to show: printable ASCII of at most [`escape::MAX_SHOWN`] bytes. What already is
/// stays as it is (the helper's words were escaped when it logged them); the rest is escaped here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Safe(String);

impl Safe {
    /// Makes `raw` safe.
    #[must_use]
    pub fn new(raw: &(impl AsRef<[u8]> + ?Sized)) -> Self {
        let raw = raw.as_ref();
        let safe = raw.len() <= escape::MAX_SHOWN && raw.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
        match std::str::from_utf8(raw) {
            Ok(text) if safe => Self(text.to_owned()),
            _ => Self(escape::text(raw).to_string()),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Safe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Who sent a line, as far as that is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The kernel told journald this uid.
    Uid(u32),
    /// A text file: whoever may log could have written it.
    Unproven,
}

/// One boot of one machine: pids mean something only within it. Unknown in a text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot(u128);

impl Boot {
    /// From journald's 32 hex digits.
    #[must_use]
    pub fn new(hex: &str) -> Option<Self> {
        let well_formed = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        well_formed
            .then(|| u128::from_str_radix(hex, 16).ok().map(Self))
            .flatten()
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl serde::Serialize for Boot {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One line that means something to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When the logger took it.
    pub time: Moment,
    /// In which boot, if that is known.
    pub boot: Option<Boot>,
    /// Who sent it.
    pub sender: Sender,
    /// The sending process.
    pub pid: u32,
    /// What it says.
    pub said: Said,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The helper's word.
    Helper(Helper),
    /// sshd's word.
    Sshd(Sshd),
}

/// What the helper says, ours or the shell scripts before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Helper {
    /// sshd asks about this key.
    Queried(Fingerprint),
    /// This key was given to sshd.
    Provided {
        /// The key.
        fingerprint: Fingerprint,
        /// Which push it came from.
        grant: Grant,
        /// The connection; the shell scripts do not name it.
        connection: Option<Connection>,
        /// The instance that the record was for.
        instance: Option<InstanceId>,
    },
    /// No key was given, and why.
    Refused {
        /// The stable code of the reason.
        reason: Safe,
        /// The same for people.
        detail: Safe,
        /// The connection.
        connection: Connection,
    },
    /// What came of a link: another command that is asked for keys.
    Linked {
        /// Its name.
        link: Safe,
        /// What became of its lines.
        lines: Lines,
        /// The key that sshd asked about, as sshd names it; absent where its line hands on no `%f`.
        fingerprint: Option<Fingerprint>,
        /// The connection.
        connection: Connection,
    },
}

/// What became of a link's lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lines {
    /// As many were given to sshd.
    Passed(u32),
    /// None were.
    Withheld {
        /// The stable code of the reason.
        reason: Safe,
        /// The same for people.
        detail: Safe,
    },
}

/// The push that a key came from, as the signed record names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// CloudTrail's `requestID`.
    pub request_id: Option<Safe>,
    /// Who pushed.
    pub principal: Option<Safe>,
    /// When the record expires, in Unix seconds; the scripts do not say.
    pub expires: Option<i64>,
}

/// sshd's connection, as its helper sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Who wants to log in: anything at all, where the helper refused.
    pub user: Safe,
    /// The pid in `sshd[PID]`.
    pub pid: u32,
}

/// Where a client connects from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Peer {
    /// Its address, as sshd writes it: IPv4, IPv6 with its zone.
    pub address: String,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.address)
    }
}

/// What sshd says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sshd {
    /// A login, or one step of it.
    Accepted {
        /// Whether more is asked for (`AuthenticationMethods`).
        partial: bool,
        /// Who.
        user: LoginName,
        /// From where.
        peer: Peer,
        /// By which key; none for other methods than publickey.
        key: Option<Key>,
    },
    /// PAM ended the session, said by the connection's monitor.
    Closed(LoginName),
    /// The connection is over, said by the monitor or by the session's own process. Up to OpenSSH 7.4 without
    /// the user.
    Gone(Option<LoginName>, Peer),
}

/// The key of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// `ED25519`, `RSA`, as sshd names it.
    pub kind: String,
    /// As sshd's `FingerprintHash` has it.
    pub fingerprint: Fingerprint,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_helper_escaped_is_not_escaped_again() {
        assert_eq!(Safe::new(r"a\x20b").as_str(), r"a\x20b");
        assert_eq!(Safe::new("a\x1b[2J").as_str(), r"a\x1b[2J");
        assert_eq!(Safe::new("\u{202e}").as_str(), r"\xe2\x80\xae");
        assert!(Safe::new(&vec![b'a'; 100_000]).as_str().len() < 600);
    }

    #[test]
    fn a_boot_is_32_hex_digits() {
        let text = "0123456789abcdef0123456789abcdef";
        assert_eq!(Boot::new(text).unwrap().to_string(), text);
        for wrong in ["", "+123456789abcdef0123456789abcdef", "0123"] {
            assert_eq!(Boot::new(wrong), None);
        }
    }
}
