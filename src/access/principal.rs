//! Who pushed a key: an ARN as the service signs it, and patterns for such.
//!
//! ```text
//! arn:PARTITION:sts::ACCOUNT:assumed-role/ROLE/SESSION
//! arn:PARTITION:sts::ACCOUNT:federated-user/NAME
//! arn:PARTITION:iam::ACCOUNT:user/PATH/NAME
//! arn:PARTITION:iam::ACCOUNT:root
//! ```
//!
//! (IAM User Guide, "IAM identifiers" and "AWS JSON policy elements: Principal".) An ARN becomes its fields here, and
//! rules match field by field: a session's name, which whoever assumes a role may choose, is compared with a
//! session's pattern and nothing else. An ARN of any other form is nobody that a rule can name.

use std::fmt;

use serde::Deserialize;

use super::not_a;
use super::pattern::Pattern;

/// The longest ARN there is (IAM API, `arnType`).
pub const MAX_ARN: usize = 2048;

/// The longest name of a user, a role or a session (IAM quotas).
const MAX_NAME: usize = 64;

/// Digits of an account's id.
const ACCOUNT_DIGITS: usize = 12;

/// An IAM principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    partition: String,
    account: Account,
    identity: Identity,
}

/// What kind of principal, and its names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    /// The account itself.
    Root,
    /// A user of IAM's: the segments of its path, and its name last.
    User(Vec<String>),
    /// A session of a role. Who assumes the role chooses the session's name.
    AssumedRole { role: String, session: String },
    /// A session of `GetFederationToken`.
    FederatedUser(String),
}

/// The id of an account: twelve digits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Account(String);

impl TryFrom<String> for Account {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let sound = text.len() == ACCOUNT_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
        if sound {
            Ok(Self(text))
        } else {
            Err(not_a(&text, "an account's id: twelve digits"))
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an ARN consists of, uninterpreted.
struct Parts<'a> {
    partition: &'a str,
    service: &'a str,
    account: &'a str,
    /// Between the slashes.
    resource: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    /// Six fields exactly: a resource with a `:` in it is no principal that rules can tell from another.
    fn of(text: &'a str) -> Option<Self> {
        if text.len() > MAX_ARN {
            return None;
        }
        let fields: Vec<&str> = text.split(':').collect();
        match fields.as_slice() {
            ["arn", partition, service, "", account, resource] => Some(Self {
                partition,
                service,
                account,
                resource: resource.split('/').collect(),
            }),
            _ => None,
        }
    }
}

impl Principal {
    /// The principal that `arn` names; `None` when it is of no form that the service gives.
    #[must_use]
    pub fn parse(arn: &str) -> Option<Self> {
        let parts = Parts::of(arn)?;
        let identity = match (parts.service, parts.resource.as_slice()) {
            ("iam", ["root"]) => Identity::Root,
            ("iam", ["user", names @ ..]) if is_user(names) => {
                Identity::User(names.iter().map(|&name| name.to_owned()).collect())
            }
            ("sts", ["assumed-role", role, session]) if is_name(role) && is_name(session) => {
                Identity::AssumedRole {
                    role: (*role).to_owned(),
                    session: (*session).to_owned(),
                }
            }
            ("sts", ["federated-user", name]) if is_name(name) => Identity::FederatedUser((*name).to_owned()),
            _ => return None,
        };
        Some(Self {
            partition: Some(parts.partition)
                .filter(|text| is_partition(text))?
                .to_owned(),
            account: Account::try_from(parts.account.to_owned()).ok()?,
            identity,
        })
    }

    /// The account that it belongs to.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The role that it is a session of.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        match &self.identity {
            Identity::AssumedRole { role, .. } => Some(role),
            _ => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (partition, account) = (&self.partition, &self.account);
        match &self.identity {
            Identity::Root => write!(f, "arn:{partition}:iam::{account}:root"),
            Identity::User(segments) => {
                write!(f, "arn:{partition}:iam::{account}:user/{}", segments.join("/"))
            }
            Identity::AssumedRole { role, session } => {
                write!(f, "arn:{partition}:sts::{account}:assumed-role/{role}/{session}")
            }
            Identity::FederatedUser(name) => {
                write!(f, "arn:{partition}:sts::{account}:federated-user/{name}")
            }
        }
    }
}

/// The name of a user, a role or a session: `[\w+=,.@-]{1,64}` (IAM and STS API).
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.chars().all(of_name)
}

fn of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '=' | ',' | '.' | '@' | '-')
}

/// One segment of a path: `[!-~]+` without the marks that divide an ARN (IAM API, `pathType`).
/// A user's path, which may be none, and name.
fn is_user(names: &[&str]) -> bool {
    names
        .split_last()
        .is_some_and(|(user, path)| is_name(user) && path.iter().all(|part| is_path(part)))
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && text.chars().all(of_path)
}

fn of_path(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, ':' | '/')
}

/// `aws`, `aws-cn`, and whatever comes: new ones appear.
fn is_partition(text: &str) -> bool {
    text.starts_with("aws") && text.chars().all(of_partition)
}

fn of_partition(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

/// A pattern for principals: an ARN in whose fields `*` stands for any characters of that field.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PrincipalPattern {
    text: String,
    partition: Pattern,
    /// `None` for any.
    account: Option<Account>,
    identity: IdentityPattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum IdentityPattern {
    Root,
    User(Vec<Pattern>),
    AssumedRole { role: Pattern, session: Pattern },
    FederatedUser(Pattern),
}

impl TryFrom<String> for PrincipalPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            let arn = "a principal's ARN, such as \"arn:aws:iam::123456789012:user/alice\" or \
                       \"arn:aws:sts::123456789012:assumed-role/ROLE/SESSION\", with * for any characters of one field";
            not_a(&text, arn)
        };
        let parts = Parts::of(&text).ok_or_else(wrong)?;
        let identity = Self::identity(&parts)?.ok_or_else(wrong)?;
        let account = match parts.account {
            "*" => None,
            id => Some(Account::try_from(id.to_owned())?),
        };
        let partition = Pattern::new(parts.partition, of_partition).ok_or_else(wrong)?;
        Ok(Self {
            partition,
            account,
            identity,
            text,
        })
    }
}

impl PrincipalPattern {
    fn identity(parts: &Parts<'_>) -> Result<Option<IdentityPattern>, String> {
        let name = |text: &str| Pattern::new(text, of_name);
        Ok(match (parts.service, parts.resource.as_slice()) {
            ("iam", ["root"]) => Some(IdentityPattern::Root),
            ("iam", ["user", path @ .., user]) => {
                let path = path.iter().map(|part| Pattern::new(part, of_path));
                path.chain([name(user)])
                    .collect::<Option<Vec<_>>>()
                    .map(IdentityPattern::User)
            }
            ("sts", ["assumed-role", role, session]) => name(role)
                .zip(name(session))
                .map(|(role, session)| IdentityPattern::AssumedRole { role, session }),
            // What people copy from IAM's pages. The role's own ARN has no session, so any will do.
            ("iam", ["role", role]) => name(role)
                .zip(name("*"))
                .map(|(role, session)| IdentityPattern::AssumedRole { role, session }),
            ("iam", ["role", _, .., role]) => {
                return Err(format!(
                    "the signed caller holds a role's name and not its path: write role/{role}"
                ));
            }
            ("sts", ["assumed-role", role]) => {
                return Err(format!(
                    "a session's ARN ends in its name: write assumed-role/{role}/* for all sessions of the role"
                ));
            }
            ("sts", ["federated-user", user]) => name(user).map(IdentityPattern::FederatedUser),
            _ => None,
        })
    }

    /// Whether it stands for `principal`.
    #[must_use]
    pub fn fits(&self, principal: &Principal) -> bool {
        self.partition.fits(&principal.partition)
            && self
                .account
                .as_ref()
                .is_none_or(|account| *account == principal.account)
            && match (&self.identity, &principal.identity) {
                (IdentityPattern::Root, Identity::Root) => true,
                (IdentityPattern::User(patterns), Identity::User(segments)) => {
                    patterns.len() == segments.len()
                        && patterns
                            .iter()
                            .zip(segments)
                            .all(|(pattern, text)| pattern.fits(text))
                }
                (
                    IdentityPattern::AssumedRole { role, session },
                    Identity::AssumedRole {
                        role: its_role,
                        session: its_session,
                    },
                ) => role.fits(its_role) && session.fits(its_session),
                (IdentityPattern::FederatedUser(pattern), Identity::FederatedUser(name)) => {
                    pattern.fits(name)
                }
                _ => false,
            }
    }

    /// The account that it is bound to, if to one.
    #[must_use]
    pub fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// The pattern for a role's name, where it stands for sessions of roles.
    #[must_use]
    pub fn role(&self) -> Option<&Pattern> {
        match &self.identity {
            IdentityPattern::AssumedRole { role, .. } => Some(role),
            _ => None,
        }
    }

    /// Whether it stands for principals of this partition.
    #[must_use]
    pub fn in_partition(&self, name: &str) -> bool {
        self.partition.fits(name)
    }

    /// Whether it names nobody: every field in which names stand is a `*`.
    #[must_use]
    pub fn names_nobody(&self) -> bool {
        match &self.identity {
            IdentityPattern::Root => false,
            IdentityPattern::User(patterns) => patterns.iter().all(Pattern::fits_all),
            IdentityPattern::AssumedRole { role, .. } => role.fits_all(),
            IdentityPattern::FederatedUser(name) => name.fits_all(),
        }
    }
}

impl fmt::Display for PrincipalPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A pattern for the names of roles.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RolePattern(Pattern);

impl TryFrom<String> for RolePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Pattern::new(&text, of_name).map(Self).ok_or_else(|| {
            not_a(
                &text,
                "a role's name, without path or ARN, with * for any characters of it",
            )
        })
    }
}

impl RolePattern {
    /// Whether `principal` is a session of such a role.
    #[must_use]
    pub fn fits(&self, principal: &Principal) -> bool {
        principal.role().is_some_and(|role| self.0.fits(role))
    }

    /// The pattern for the name.
    #[must_use]
    pub fn name(&self) -> &Pattern {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn principal(arn: &str) -> Principal {
        Principal::parse(arn).unwrap_or_else(|| panic!("{arn}"))
    }

    fn pattern(text: &str) -> PrincipalPattern {
        PrincipalPattern::try_from(text.to_owned()).unwrap()
    }

    fn fits(text: &str, arn: &str) -> bool {
        pattern(text).fits(&principal(arn))
    }

    #[test]
    fn every_form_of_a_principal_is_read_and_written_alike() {
        for arn in [
            "arn:aws:iam::123456789012:root",
            "arn:aws:iam::123456789012:user/alice",
            "arn:aws-cn:iam::123456789012:user/ops/night~shift/alice",
            "arn:aws-us-gov:sts::123456789012:assumed-role/Ops/alice@example.com",
            "arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Admin_0123456789abcdef/a+b=c,d.e_f-g",
            "arn:aws:sts::123456789012:federated-user/bob",
        ] {
            assert_eq!(principal(arn).to_string(), arn);
        }
    }

    #[test]
    fn everything_else_names_nobody() {
        let long = "x".repeat(MAX_NAME + 1);
        let path = "p/".repeat(MAX_ARN);
        for arn in [
            "",
            "alice",
            "arn:aws:iam::123456789012:user/",
            "arn:aws:iam::123456789012:user",
            "arn:aws:iam::123456789012:user//alice",
            "arn:aws:iam::123456789012:user/a:b/alice",
            "arn:aws:iam::123456789012:user/al ice",
            "arn:aws:iam::123456789012:user/al*",
            "arn:aws:iam::123456789012:group/ops",
            "arn:aws:iam::123456789012:role/Ops",
            "arn:aws:iam::12345678901:root",
            "arn:aws:iam::1234567890123:root",
            "arn:aws:iam::12345678901x:root",
            "arn:aws:iam::123456789012:root/x",
            "arn:aws:iam::123456789012:root\n",
            " arn:aws:iam::123456789012:root",
            "arn:aws:iam:us-east-1:123456789012:root",
            "arn:aws:sts::123456789012:root",
            "arn:aws:sts::123456789012:user/alice",
            "arn:aws:iam::123456789012:assumed-role/Ops/alice",
            "arn:aws:sts::123456789012:assumed-role/Ops",
            "arn:aws:sts::123456789012:assumed-role/Ops/",
            "arn:aws:sts::123456789012:assumed-role//alice",
            "arn:aws:sts::123456789012:assumed-role/path/Ops/alice",
            "arn:aws:sts::123456789012:federated-user/a/b",
            "arn:AWS:iam::123456789012:root",
            "arn::iam::123456789012:root",
            "ARN:aws:iam::123456789012:root",
            "arn:aws:iam::123456789012:user/\u{e9}",
            &format!("arn:aws:iam::123456789012:user/{long}"),
            &format!("arn:aws:iam::123456789012:user/{path}alice"),
        ] {
            assert_eq!(Principal::parse(arn), None, "{arn:?}");
        }
    }

    #[test]
    fn a_field_of_a_pattern_meets_that_field_alone() {
        let alice = "arn:aws:sts::123456789012:assumed-role/Ops/alice";
        for text in [
            alice,
            "arn:aws:sts::123456789012:assumed-role/Ops/*",
            "arn:aws:sts::*:assumed-role/O*s/a*e",
            "arn:*:sts::*:assumed-role/*/*",
            "arn:aws:iam::123456789012:role/Ops",
        ] {
            assert!(fits(text, alice), "{text}");
        }
        for text in [
            "arn:aws-cn:sts::123456789012:assumed-role/Ops/*",
            "arn:aws:sts::210987654321:assumed-role/Ops/*",
            "arn:aws:sts::123456789012:assumed-role/ops/*",
            "arn:aws:sts::123456789012:assumed-role/Op/*",
            "arn:aws:sts::123456789012:federated-user/*",
            "arn:aws:iam::123456789012:user/*",
            "arn:aws:iam::123456789012:root",
        ] {
            assert!(!fits(text, alice), "{text}");
        }
        assert!(fits("arn:aws:iam::*:root", "arn:aws:iam::123456789012:root"));
    }

    #[test]
    fn star_crosses_no_slash_of_a_path() {
        let user = "arn:aws:iam::123456789012:user/ops/alice";
        assert!(fits("arn:aws:iam::123456789012:user/ops/*", user));
        assert!(fits("arn:aws:iam::123456789012:user/*/alice", user));
        assert!(!fits("arn:aws:iam::123456789012:user/*", user));
        assert!(!fits("arn:aws:iam::123456789012:user/ops/*/*", user));
        assert!(!fits(
            "arn:aws:iam::123456789012:user/ops/*",
            "arn:aws:iam::123456789012:user/ops/eu/alice"
        ));
    }

    #[test]
    fn patterns_that_could_never_mean_what_they_say_are_refused_with_the_right_form() {
        for (text, word) in [
            ("*", "ARN"),
            ("alice", "ARN"),
            ("arn:aws:iam::*", "ARN"),
            ("arn:aws:iam::123456789012:*", "ARN"),
            ("arn:aws:iam::123456789012:group/ops", "ARN"),
            ("arn:aws:iam::1234*:user/alice", "twelve digits"),
            ("arn:aws:iam::123456789012:role/path/Ops", "role/Ops"),
            ("arn:aws:sts::123456789012:assumed-role/Ops", "assumed-role/Ops/*"),
            ("arn:aws:iam::123456789012:user/al?ce", "ARN"),
        ] {
            let error = PrincipalPattern::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest! {
        /// Whatever a caller calls his session, a rule for another role, kind or account does not fit it.
        #[test]
        fn no_session_name_reaches_another_rule(session in "\\PC{0,80}") {
            let arn = format!("arn:aws:sts::123456789012:assumed-role/Low/{session}");
            if let Some(caller) = Principal::parse(&arn) {
                prop_assert_eq!(caller.role(), Some("Low"));
                for other in [
                    "arn:aws:sts::123456789012:assumed-role/Admin/*",
                    "arn:*:sts::*:assumed-role/A*/*",
                    "arn:aws:iam::123456789012:user/*",
                    "arn:aws:iam::*:user/*/*",
                    "arn:aws:sts::123456789012:federated-user/*",
                    "arn:aws:iam::*:root",
                    "arn:aws:sts::210987654321:assumed-role/*/*",
                ] {
                    prop_assert!(!pattern(other).fits(&caller), "{} {}", other, arn);
                }
            }
        }

        #[test]
        fn what_is_read_is_written_alike(arn in "arn:aws:(iam|sts)::123456789012:(user|assumed-role|root|federated-user)(/[a-z*.:~]{0,3}){0,3}") {
            if let Some(caller) = Principal::parse(&arn) {
                prop_assert_eq!(caller.to_string(), arn);
            }
        }
    }
}
