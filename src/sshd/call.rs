//! How sshd is told to call the command: one of the two paths, options before USER, then `%u %f`.
//!
//! The options follow from the helper's configuration: each brings one of sshd's tokens that a setting needs. Without
//! such a setting there are none, and the line is the one that the world knows.

use super::{ARGUMENTS, COMMANDS};
use crate::config::Config;
use crate::link::Link;

/// A release of OpenSSH, as `(major, minor)`.
pub type Release = (u32, u32);

/// An option, in the order in which they stand on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// The connection's addresses and ports.
    Connection,
    /// The user's home directory.
    Home,
    /// The offered key, in base64.
    Key,
    /// The offered key's type.
    KeyType,
}

impl Token {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connection, Self::Home, Self::Key, Self::KeyType];

    /// The helper's option, and sshd's token that is its value.
    #[must_use]
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Connection => ("--connection", "%C"),
            Self::Home => ("--home", "%h"),
            Self::Key => ("--key", "%k"),
            Self::KeyType => ("--type", "%t"),
        }
    }

    /// The first release that knows the token (OpenSSH's release notes). An older one kills every session over it, and
    /// `sshd -t` does not notice.
    #[must_use]
    pub const fn since(self) -> Release {
        match self {
            Self::Connection => (9, 4),
            // As `%f`, without which none of our lines would work.
            Self::Home | Self::Key | Self::KeyType => (6, 9),
        }
    }
}

/// The options on a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    connection: bool,
    home: bool,
    key: bool,
    key_type: bool,
}

impl Options {
    /// What this configuration needs.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut options = Self::default();
        if config.access.ask_source() {
            options.insert(Token::Connection);
        }
        for token in config.chain.iter().flat_map(Link::sshd_tokens) {
            options.insert(token);
        }
        options
    }

    /// Adds one.
    pub const fn insert(&mut self, token: Token) {
        *self.slot(token) = true;
    }

    /// Takes one away.
    pub const fn remove(&mut self, token: Token) {
        *self.slot(token) = false;
    }

    /// Those that are there, in the line's order.
    pub fn iter(self) -> impl Iterator<Item = Token> {
        Token::ALL.into_iter().filter(move |token| self.has(*token))
    }

    /// Whether this one is there.
    #[must_use]
    pub const fn has(mut self, token: Token) -> bool {
        *self.slot(token)
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Only what `sshd` of this release knows. Of an unknown release only what every sshd knows that knows `%f`.
    #[must_use]
    pub fn known_to(mut self, release: Option<Release>) -> Self {
        for token in Token::ALL {
            let known = release.unwrap_or(Token::Home.since()) >= token.since();
            if !known {
                self.remove(token);
            }
        }
        self
    }

    const fn slot(&mut self, token: Token) -> &mut bool {
        match token {
            Token::Connection => &mut self.connection,
            Token::Home => &mut self.home,
            Token::Key => &mut self.key,
            Token::KeyType => &mut self.key_type,
        }
    }
}

/// A value of `AuthorizedKeysCommand` that calls the helper as setup writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// One of [`COMMANDS`].
    pub path: &'static str,
    /// The options before USER.
    pub options: Options,
}

impl Call {
    /// The call without options, as the reference has it.
    #[must_use]
    pub fn plain(path: &'static str) -> Self {
        Self {
            path,
            options: Options::default(),
        }
    }

    /// The value to write.
    #[must_use]
    pub fn value(&self) -> String {
        let mut value = self.path.to_owned();
        for token in self.options.iter() {
            let (option, token) = token.words();
            value.push_str(&format!(" {option} {token}"));
        }
        format!("{value} {ARGUMENTS}")
    }

    /// The call that a value is: one of the two paths, options that setup could have written, exactly `%u %f`; `None`
    /// for any other.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let words: Vec<&str> = value.split_ascii_whitespace().collect();
        let path = words.first()?;
        let path = COMMANDS.into_iter().find(|known| known == path)?;
        let mut call = Self::plain(path);
        for token in Token::ALL {
            let (option, value) = token.words();
            if words.windows(2).any(|pair| pair == [option, value]) {
                call.options.insert(token);
            }
        }
        (call.value() == words.join(" ")).then_some(call)
    }
}

/// The release that an sshd names itself as: `OpenSSH_9.2p1 Debian-2+deb12u7, …`, wherever in its words.
#[must_use]
pub fn release(words: &str) -> Option<Release> {
    let (_, tail) = words.split_once("OpenSSH_")?;
    let (major, tail) = tail.split_once('.')?;
    let minor: String = tail.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(tokens: &[Token]) -> Options {
        let mut options = Options::default();
        for token in tokens {
            options.insert(*token);
        }
        options
    }

    #[test]
    fn every_call_that_setup_writes_is_read_again() {
        for path in COMMANDS {
            for set in 0..16_u32 {
                let mut call = Call::plain(path);
                for (bit, token) in Token::ALL.into_iter().enumerate() {
                    if set >> bit & 1 == 1 {
                        call.options.insert(token);
                    }
                }
                assert_eq!(Call::parse(&call.value()), Some(call));
            }
        }
    }

    #[test]
    fn only_the_two_paths_with_our_options_in_order_are_ours() {
        assert_eq!(
            Call::parse("/opt/aws/bin/eic_run_authorized_keys  %u\t%f"),
            Some(Call::plain(COMMANDS[1]))
        );
        for value in [
            "/opt/aws/bin/eic_run_authorized_keys %u",
            "/opt/aws/bin/eic_run_authorized_keys %u %f # x",
            "/opt/aws/bin/eic_run_authorized_keys --config /x %u %f",
            "/opt/aws/bin/eic_run_authorized_keys --home %k %u %f",
            "/opt/aws/bin/eic_run_authorized_keys --key %k --home %h %u %f",
            "/opt/aws/bin/eic_run_authorized_keys --home %h --home %h %u %f",
            "/opt/aws/bin/eic_run_authorized_keys %u %f --home %h",
            "none",
            "",
        ] {
            assert_eq!(Call::parse(value), None, "{value}");
        }
    }

    #[test]
    fn a_token_that_sshd_does_not_know_is_left_out() {
        let all = options(&Token::ALL);
        assert_eq!(all.known_to(Some((9, 4))), all);
        assert_eq!(all.known_to(Some((10, 0))), all);
        let old = options(&[Token::Home, Token::Key, Token::KeyType]);
        assert_eq!(all.known_to(Some((9, 3))), old);
        assert_eq!(all.known_to(None), old);
        assert!(all.known_to(Some((6, 8))).is_empty());
    }

    #[test]
    fn the_release_is_read_from_what_each_sshd_says() {
        for (words, expected) in [
            ("OpenSSH_9.2p1 Debian-2+deb12u7, OpenSSL 3.0.17", Some((9, 2))),
            (
                "unknown option -- V\nOpenSSH_8.4p1 Debian-5, OpenSSL 1.1.1n",
                Some((8, 4)),
            ),
            ("OpenSSH_10.0p2 Debian-7, OpenSSL 3.5.1", Some((10, 0))),
            ("OpenSSH_7.4p1, OpenSSL 1.0.2k-fips", Some((7, 4))),
            ("dropbear", None),
            ("OpenSSH_x.y", None),
        ] {
            assert_eq!(release(words), expected, "{words}");
        }
    }
}
