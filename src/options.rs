//! `[options]`: what stands before a key that we print (sshd(8), "AUTHORIZED_KEYS FILE FORMAT").
//!
//! Options are live in what sshd reads from us, so each is a typed value here, and only [`LineOptions`] writes them.
#![deny(clippy::disallowed_methods)]

use std::fmt;

use serde::Deserialize;
use serde::de::Error as _;

use crate::access::principal::MAX_ARN;
use crate::reason::{Reason, Refusal};

/// The variable that names who pushed the key.
pub const PRINCIPAL_VARIABLE: &str = "EIC_PRINCIPAL";

/// `[options]`. The default sets none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Take everything away but the command itself, and give these back.
    restrict: Option<Vec<Permission>>,
    /// Whether the session is told who pushed its key.
    principal_environment: bool,
}

/// What `restrict` takes away and can be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Permission {
    /// A terminal.
    #[serde(rename = "pty")]
    Pty,
    /// The client's agent.
    #[serde(rename = "agent-forwarding")]
    AgentForwarding,
    /// The client's and the host's ports.
    #[serde(rename = "port-forwarding")]
    PortForwarding,
    /// The client's display.
    #[serde(rename = "X11-forwarding")]
    X11Forwarding,
    /// `~/.ssh/rc`.
    #[serde(rename = "user-rc")]
    UserRc,
}

impl Permission {
    /// sshd's word for it.
    const fn word(self) -> &'static str {
        match self {
            Self::Pty => "pty",
            Self::AgentForwarding => "agent-forwarding",
            Self::PortForwarding => "port-forwarding",
            Self::X11Forwarding => "X11-forwarding",
            Self::UserRc => "user-rc",
        }
    }
}

/// The table's form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    restrict: bool,
    #[serde(default)]
    permit: Vec<Permission>,
    #[serde(default)]
    principal_environment: bool,
}

impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let table = Table::deserialize(source)?;
        // Whoever lists what is permitted believes that the rest is not.
        if !table.restrict && !table.permit.is_empty() {
            return Err(D::Error::custom(
                "permit gives back what restrict takes: it needs restrict = true",
            ));
        }
        let mut restrict: Option<Vec<Permission>> = table.restrict.then(Vec::new);
        if let Some(permitted) = &mut restrict {
            for permission in table.permit {
                if !permitted.contains(&permission) {
                    permitted.push(permission);
                }
            }
        }
        Ok(Self {
            restrict,
            principal_environment: table.principal_environment,
        })
    }
}

impl Options {
    /// Whether the session is told who pushed its key.
    #[must_use]
    pub fn name_principal(&self) -> bool {
        self.principal_environment
    }

    /// The options of a key that `caller` pushed.
    ///
    /// # Errors
    /// [`Reason::Policy`] where the session is to be told who pushed the key, and the record does not say, or holds
    /// what may not stand in an option: such a session would be anybody's.
    pub fn of_key(&self, caller: Option<&str>) -> Result<LineOptions, Refusal> {
        let refuse = |what: &'static str| Refusal::new(Reason::Policy, what);
        let principal = if self.principal_environment {
            let caller = caller
                .ok_or_else(|| refuse("[options] principal_environment: the record names no caller"))?;
            Some(Value::new(caller).ok_or_else(|| {
                refuse("[options] principal_environment: the caller holds what may not stand in an option")
            })?)
        } else {
            None
        };
        Ok(LineOptions {
            restrict: self.restrict.clone(),
            principal,
        })
    }
}

/// A variable's value that means itself between an option's quotes, in a shell and in a log: no quote, no backslash,
/// no `$`, no blank. All that IAM takes in a name is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value(String);

impl Value {
    fn new(text: &str) -> Option<Self> {
        let sound = (1..=MAX_ARN).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b));
        sound.then(|| Self(text.to_owned()))
    }
}

/// The options of one key; displays as what stands before it, with the blank that parts them, or as nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineOptions {
    restrict: Option<Vec<Permission>>,
    principal: Option<Value>,
}

impl fmt::Display for LineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(permitted) = &self.restrict {
            f.write_str("restrict")?;
            for permission in permitted {
                write!(f, ",{}", permission.word())?;
            }
        }
        if let Some(Value(value)) = &self.principal {
            let comma = if self.restrict.is_some() { "," } else { "" };
            write!(f, "{comma}environment=\"{PRINCIPAL_VARIABLE}={value}\"")?;
        }
        if self.restrict.is_some() || self.principal.is_some() {
            f.write_str(" ")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALICE: &str = "arn:aws:sts::123456789012:assumed-role/Ops/alice@example.com";

    fn options(text: &str) -> Options {
        toml::from_str(text).unwrap()
    }

    fn line(text: &str, caller: Option<&str>) -> String {
        options(text).of_key(caller).unwrap().to_string()
    }

    #[test]
    fn without_options_nothing_stands_before_the_key() {
        assert_eq!(options(""), Options::default());
        assert_eq!(line("", None), "");
        assert_eq!(line("restrict = false", Some(ALICE)), "");
    }

    #[test]
    fn options_are_written_as_sshd_reads_them() {
        assert_eq!(line("restrict = true", None), "restrict ");
        assert_eq!(
            line(
                "restrict = true\npermit = ['pty', 'X11-forwarding', 'pty']\nprincipal_environment = true",
                Some(ALICE)
            ),
            format!("restrict,pty,X11-forwarding,environment=\"EIC_PRINCIPAL={ALICE}\" ")
        );
    }

    #[test]
    fn permission_without_restriction_and_unknown_permission_are_no_configuration() {
        for text in [
            "permit = ['pty']",
            "restrict = false\npermit = ['pty']",
            "restrict = true\npermit = ['command']",
            "restrict = true\npermit = ['x11-forwarding']",
            "restrict = 'pty'",
            "environment = true",
        ] {
            assert!(toml::from_str::<Options>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn session_that_must_know_its_principal_is_refused_where_it_cannot() {
        let options = options("principal_environment = true");
        let long = format!("arn:{}", "x".repeat(MAX_ARN));
        for caller in [
            None,
            Some(""),
            Some("a b"),
            Some("a\"b"),
            Some("a\\b"),
            Some("a\nb"),
            Some("$HOME"),
            Some("a#b"),
            Some("\u{e9}"),
            Some(long.as_str()),
        ] {
            assert_eq!(
                options.of_key(caller).unwrap_err().reason,
                Reason::Policy,
                "{caller:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_the_caller_a_line_has_two_quotes_or_none_and_one_blank(caller in "\\PC{0,60}") {
            if let Ok(found) = options("principal_environment = true").of_key(Some(&caller)) {
                let text = found.to_string();
                prop_assert_eq!(&text, &format!("environment=\"EIC_PRINCIPAL={}\" ", caller));
                prop_assert_eq!(text.matches('"').count(), 2);
                prop_assert_eq!(text.matches(|c: char| c.is_whitespace() || c == '\\').count(), 1);
            }
        }
    }
}
