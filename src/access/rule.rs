//! `[[access]]`: one rule, as an administrator writes it.
#![deny(clippy::disallowed_methods)]

use std::fmt;

use serde::Deserialize;
use serde::de::Error as _;

use super::network::Network;
use super::not_a;
use super::pattern::Pattern;
use super::principal::{Account, PrincipalPattern, RolePattern};

/// One rule. Every key that it has must hold, and of a list's entries one; `users` and `groups` are one list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What it is for.
    pub effect: Effect,
    /// Login names.
    #[serde(default, deserialize_with = "filled")]
    pub users: Vec<UserPattern>,
    /// Groups of this host that the login is a member of.
    #[serde(default, deserialize_with = "filled")]
    pub groups: Vec<GroupName>,
    /// Who pushed the key, by ARN.
    #[serde(default, deserialize_with = "filled")]
    pub principals: Vec<PrincipalPattern>,
    /// Who pushed the key, by account.
    #[serde(default, deserialize_with = "filled")]
    pub accounts: Vec<Account>,
    /// Who pushed the key, by the role that was assumed for it.
    #[serde(default, deserialize_with = "filled")]
    pub roles: Vec<RolePattern>,
    /// Where the login comes from.
    #[serde(default, deserialize_with = "filled")]
    pub from: Vec<Network>,
}

/// What a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Lets in whom it fits, unless another rule denies.
    Allow,
    /// Keeps out whom it fits, whatever another rule allows.
    Deny,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl Rule {
    /// Whether it says anything of who pushed the key.
    #[must_use]
    pub fn asks_caller(&self) -> bool {
        !(self.principals.is_empty() && self.accounts.is_empty() && self.roles.is_empty())
    }
}

/// A pattern for login names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UserPattern(Pattern);

impl TryFrom<String> for UserPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The characters of the service's login names: for a name with another one no key can be pushed.
        let belongs = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '@' | '.' | '$' | '-');
        Pattern::new(&text, belongs)
            .map(Self)
            .ok_or_else(|| not_a(&text, "a login name, with * for any characters of it"))
    }
}

impl UserPattern {
    /// Whether it stands for the login `name`.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        self.0.fits(name)
    }

    /// The name itself, where it is one.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        self.0.literal()
    }
}

impl fmt::Display for UserPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a group of this host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct GroupName(String);

impl GroupName {
    /// The longest name that is looked up: twice what useradd(8) takes, for directories.
    const MAX_LEN: usize = 64;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for GroupName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // Directories have groups with spaces in their names; none has a colon (group(5)).
        let sound = !text.is_empty()
            && text.len() <= Self::MAX_LEN
            && !text.contains([':', '*'])
            && !text.chars().any(char::is_control);
        if sound {
            Ok(Self(text))
        } else {
            Err(not_a(&text, "the name of a group; * stands for nothing in it"))
        }
    }
}

/// A list that has something in it: an empty one would read as "nobody" to one person and as "anybody" to another.
///
/// # Errors
/// For an empty one, and what its entries say.
pub fn filled<'de, D, T>(source: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Vec::deserialize(source)?;
    if list.is_empty() {
        return Err(D::Error::custom(
            "expected at least one entry: leave the key out if it is not to matter",
        ));
    }
    Ok(list)
}
