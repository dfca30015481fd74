//! What sshd asks: a login name and, unless it was not told to, the fingerprint of the offered key.
//!
//! Both are attacker-chosen: anybody who can reach port 22 picks the user name. They become typed values
//! here or go no further.
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::access::connection::{Connection, Origin};
use crate::reason::{Reason, Refusal};

/// A login name of the shape that the service accepts for `InstanceOSUser`.
///
/// The shape also makes it safe as one segment of a URL's path: no `/`, no `%`, no `?`, and never `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginName(String);

impl LoginName {
    /// The service's limit: one first character, 30 middle ones, one last.
    pub const MAX_LEN: usize = 32;

    /// Takes `name` if the service could ever hold a key for it.
    ///
    /// The service's model has two shapes, both of at most 32 characters:
    /// `[A-Za-z_][A-Za-z0-9@._-]{0,30}[A-Za-z0-9$_-]?`, and
    /// `[0-9]+[A-Za-z@._-][A-Za-z0-9@._-]*[A-Za-z0-9$_-]?`.
    ///
    /// # Errors
    /// [`Reason::User`] for every other name.
    pub fn new(name: &str) -> Result<Self, Refusal> {
        let is_mark = |c: char| matches!(c, '@' | '.' | '_' | '-');
        let body = name.trim_start_matches(|c: char| c.is_ascii_digit());
        let with_digits = body.len() < name.len();
        let mut inner = body.chars();
        let first = inner.next();
        // The last class is optional, so it matters in two ways only: `$` may end a name and stand nowhere else,
        // and a name of the first shape that fills all 32 places cannot end in `@` or `.`.
        let middle = inner.as_str().strip_suffix('$').unwrap_or(inner.as_str());
        let full = !with_digits && name.len() == Self::MAX_LEN;
        let well_formed = name.len() <= Self::MAX_LEN
            && first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || (with_digits && is_mark(c)))
            && middle.chars().all(|c| c.is_ascii_alphanumeric() || is_mark(c))
            && !(full && name.ends_with(['@', '.']));
        if well_formed {
            Ok(Self(name.to_owned()))
        } else {
            Err(Refusal::new(
                Reason::User,
                "no key can be pushed for a login name of this shape",
            ))
        }
    }

    /// The name, as it stands in the metadata path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LoginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key's fingerprint as sshd's `%f` gives it: what it is depends on sshd's `FingerprintHash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fingerprint {
    /// `SHA256:` and unpadded base64, sshd's default.
    Sha256([u8; 32]),
    /// `MD5:` and colon-separated hex pairs.
    Md5([u8; 16]),
}

impl Fingerprint {
    /// Reads sshd's form.
    ///
    /// # Errors
    /// [`Reason::FingerprintForm`] for anything else.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        Self::parse(text).ok_or_else(|| {
            Refusal::new(
                Reason::FingerprintForm,
                "not SHA256:… or MD5:… as sshd's %f gives it",
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(base64) = text.strip_prefix("SHA256:") {
            let digest = STANDARD_NO_PAD.decode(base64).ok()?;
            return digest.try_into().ok().map(Self::Sha256);
        }
        let mut pairs = text.strip_prefix("MD5:")?.split(':');
        let mut digest = [0; 16];
        for byte in &mut digest {
            let pair = pairs.next()?;
            // from_str_radix also takes a sign, which no fingerprint has.
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        pairs.next().is_none().then_some(Self::Md5(digest))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(digest)),
            Self::Md5(digest) => {
                f.write_str("MD5")?;
                digest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
            }
        }
    }
}

/// sshd's words for one login, as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// The login name, sshd's `%u`.
    pub user: OsString,
    /// The offered key's fingerprint, `%f`, where sshd's line passes it; and so on.
    pub fingerprint: Option<OsString>,
    /// The user's home directory, `%h`.
    pub home: Option<OsString>,
    /// The offered key in base64, `%k`.
    pub key: Option<OsString>,
    /// The offered key's type, `%t`.
    pub key_type: Option<OsString>,
    /// Both ends of the connection, `%C`.
    pub connection: Option<OsString>,
}

impl Words {
    /// The typed request that they are.
    ///
    /// # Errors
    /// As [`Request::new`].
    pub fn request(&self) -> Result<Request, Refusal> {
        let connection = self.connection.as_ref().and_then(|words| words.to_str());
        let origin = connection
            .and_then(Connection::parse)
            .map_or(Origin::Unknown, Origin::Connection);
        let request = Request::new(&self.user(), self.fingerprint().as_deref())?;
        Ok(request.coming_from(origin))
    }

    /// The login name for the log, and for the service's names, which are ASCII: what is not UTF-8 becomes a name
    /// that can have no key.
    #[must_use]
    pub fn user(&self) -> Cow<'_, str> {
        self.user.to_string_lossy()
    }

    /// The fingerprint, likewise.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Cow<'_, str>> {
        self.fingerprint.as_ref().map(|text| text.to_string_lossy())
    }
}

/// One question of sshd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who wants to log in.
    pub user: LoginName,
    /// The offered key, when sshd was configured to say (`%f`).
    pub fingerprint: Option<Fingerprint>,
    /// Where the login comes from, as far as sshd was told to say (`%C`).
    pub origin: Origin,
}

impl Request {
    /// A request from sshd's words.
    ///
    /// # Errors
    /// [`Reason::User`] or [`Reason::FingerprintForm`].
    pub fn new(user: &str, fingerprint: Option<&str>) -> Result<Self, Refusal> {
        Ok(Self {
            user: LoginName::new(user)?,
            fingerprint: fingerprint.map(Fingerprint::new).transpose()?,
            origin: Origin::Unknown,
        })
    }

    /// The same request, coming from `origin`.
    #[must_use]
    pub fn coming_from(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_services_shape_are_taken() {
        for name in [
            "ec2-user",
            "_",
            "a",
            "A.b@c",
            "svc$",
            "_$",
            "0abc",
            "42_x",
            "user_name",
            "a-",
            "x@example.com",
        ] {
            assert!(LoginName::new(name).is_ok(), "{name}");
        }
        assert!(LoginName::new(&"a".repeat(32)).is_ok());
        assert!(LoginName::new(&format!("{}$", "a".repeat(31))).is_ok());
    }

    proptest::proptest! {
        /// The service's pattern as its API model has it, by a regular expression engine.
        #[test]
        fn exactly_the_services_pattern_is_taken(name in "[a-c0-1@._$/-]{0,34}") {
            let first = r"^[A-Za-z_][A-Za-z0-9@\._-]{0,30}[A-Za-z0-9$_-]?$";
            let second = r"^[0-9]{1,32}[A-Za-z@\._-][A-Za-z0-9@\._-]*[A-Za-z0-9$_-]?$";
            let holds = |pattern| regex::Regex::new(pattern).unwrap().is_match(&name);
            let expected = holds(first) || ((2..=32).contains(&name.len()) && holds(second));
            proptest::prop_assert_eq!(LoginName::new(&name).is_ok(), expected);
        }
    }

    #[test]
    fn every_other_name_is_refused_with_reason_user() {
        for name in [
            "", ".", "..", "-x", "1$", "@", "$", "123", "a/b", "a b", "a%40b", "a$b", "a$$", "é", "a\n",
            "\n", "a?", "a#", "../root", "a\0",
        ] {
            assert_eq!(LoginName::new(name).unwrap_err().reason, Reason::User, "{name:?}");
        }
        for name in [
            "a".repeat(33),
            format!("{}.", "a".repeat(31)),
            format!("{}@", "a".repeat(31)),
        ] {
            assert_eq!(LoginName::new(&name).unwrap_err().reason, Reason::User, "{name}");
        }
        assert!(LoginName::new(&format!("{}.", "a".repeat(30))).is_ok());
    }

    #[test]
    fn a_connection_that_is_none_is_an_unknown_origin() {
        let request = |connection: &str| {
            let words = Words {
                user: "a".into(),
                connection: Some(connection.into()),
                ..Words::default()
            };
            words.request().unwrap()
        };
        let known = request("10.0.0.1 22 192.0.2.9 40000");
        assert!(matches!(known.origin, Origin::Connection(_)));
        assert_eq!(request("%C").origin, Origin::Unknown);
    }

    #[test]
    fn fingerprints_are_read_and_written_alike() {
        for text in [
            "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "MD5:d4:1d:8c:d9:8f:00:b2:04:e9:80:09:98:ec:f8:42:7e",
        ] {
            assert_eq!(Fingerprint::new(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn everything_else_is_no_fingerprint() {
        for text in [
            "",
            "SHA256:",
            "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuF",
            "SHA512:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "MD5:d4:1d:8c:d9:8f:00:b2:04:e9:80:09:98:ec:f8:42",
            "MD5:d4:1d:8c:d9:8f:00:b2:04:e9:80:09:98:ec:f8:42:7e:00",
            "MD5:+4:1d:8c:d9:8f:00:b2:04:e9:80:09:98:ec:f8:42:7e",
            "d4:1d:8c:d9:8f:00:b2:04:e9:80:09:98:ec:f8:42:7e",
        ] {
            assert_eq!(
                Fingerprint::new(text).unwrap_err().reason,
                Reason::FingerprintForm,
                "{text:?}"
            );
        }
    }
}
