//! Who may push which key where: a stand-in for IAM.
//!
//! The access key id in the Authorization header decides who is calling. The signature next to it is **not**
//! checked: the simulator knows no secrets.

use crate::world::ACCOUNT;
use serde::{Deserialize, Serialize};

/// Somebody with an access key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Principal {
    /// `AKIA…` or `ASIA…`.
    pub access_key_id: String,
    /// Who it is: becomes `#Caller` in the record.
    pub arn: String,
    /// Permitted values of `ec2:osuser`; `*` permits all.
    #[serde(default = "everything")]
    pub os_users: Vec<String>,
    /// Permitted instance ids; `*` permits all.
    #[serde(default = "everything")]
    pub instances: Vec<String>,
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

impl Principal {
    /// Somebody who may do everything.
    pub fn new(access_key_id: &str, arn: &str) -> Self {
        Self {
            access_key_id: access_key_id.to_owned(),
            arn: arn.to_owned(),
            os_users: everything(),
            instances: everything(),
        }
    }

    /// Whether the policy lets this principal push a key for `os_user` to `instance`.
    pub fn may_push(&self, os_user: &str, instance: &str) -> bool {
        let permits = |list: &[String], value: &str| list.iter().any(|entry| entry == "*" || entry == value);
        permits(&self.os_users, os_user) && permits(&self.instances, instance)
    }

    /// The account in the ARN.
    pub fn account(&self) -> &str {
        self.arn.split(':').nth(4).unwrap_or(ACCOUNT)
    }

    /// What kind of principal the ARN names.
    pub fn kind(&self) -> Kind<'_> {
        let resource = self.arn.splitn(6, ':').nth(5).unwrap_or_default();
        let (kind, rest) = resource.split_once('/').unwrap_or((resource, ""));
        match kind {
            // a path may stand before the name: user/division/alice
            "user" => Kind::User(rest.rsplit('/').next().unwrap_or(rest)),
            "assumed-role" => {
                let (role, session) = rest.split_once('/').unwrap_or((rest, ""));
                Kind::AssumedRole { role, session }
            }
            "federated-user" => Kind::Federated(rest),
            _ => Kind::Root,
        }
    }

    /// The unique id that IAM gives it, made up from the access key id.
    pub fn unique_id(&self) -> String {
        let tail: String = self.access_key_id.chars().skip(4).collect();
        match self.kind() {
            Kind::User(_) => format!("AIDA{tail}"),
            Kind::AssumedRole { session, .. } => format!("AROA{tail}:{session}"),
            Kind::Federated(name) => format!("{}:{name}", self.account()),
            Kind::Root => self.account().to_owned(),
        }
    }
}

/// Kinds of principals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// An IAM user of this name.
    User(&'a str),
    /// A role's session.
    AssumedRole {
        /// The role's name.
        role: &'a str,
        /// The session's name.
        session: &'a str,
    },
    /// A federated user.
    Federated(&'a str),
    /// The account's root user.
    Root,
}

/// All principals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principals {
    /// One entry for each access key.
    pub principals: Vec<Principal>,
}

/// Access key id of the user who may do everything, in the default set.
pub const ALICE: &str = "AKIAALICE0000EXAMPLE";
/// Access key id of an assumed role's session.
pub const BUILDER: &str = "ASIABUILDER00EXAMPLE";
/// Access key id of the account's root user.
pub const ROOT: &str = "AKIAROOT00000EXAMPLE";
/// Access key id of a federated user.
pub const FEDERATED: &str = "ASIAFEDERATEDEXAMPLE";
/// Access key id of a user who may push for the OS user `guest` alone.
pub const MALLORY: &str = "AKIAMALLORY00EXAMPLE";

impl Default for Principals {
    /// One of each kind, all allowed everything but Mallory.
    fn default() -> Self {
        let at = |service: &str, rest: &str| format!("arn:aws:{service}::{ACCOUNT}:{rest}");
        let mallory = Principal {
            os_users: vec!["guest".to_owned()],
            ..Principal::new(MALLORY, &at("iam", "user/mallory"))
        };
        Self {
            principals: vec![
                Principal::new(ALICE, &at("iam", "user/alice")),
                Principal::new(BUILDER, &at("sts", "assumed-role/Builder/nightly")),
                Principal::new(ROOT, &at("iam", "root")),
                Principal::new(FEDERATED, &at("sts", "federated-user/erin")),
                mallory,
            ],
        }
    }
}

impl Principals {
    /// Reads JSON, or TOML when the text is not JSON.
    ///
    /// # Errors
    /// What the TOML reader says.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        serde_json::from_str(text).or_else(|_| toml::from_str(text))
    }

    /// Whose access key this is.
    pub fn find(&self, access_key_id: &str) -> Option<&Principal> {
        self.principals.iter().find(|p| p.access_key_id == access_key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_tell_their_kind() {
        let set = Principals::default();
        let kind = |id| set.find(id).map(Principal::kind);
        assert_eq!(kind(ALICE), Some(Kind::User("alice")));
        assert_eq!(
            kind(BUILDER),
            Some(Kind::AssumedRole {
                role: "Builder",
                session: "nightly"
            })
        );
        assert_eq!(kind(ROOT), Some(Kind::Root));
        assert_eq!(kind(FEDERATED), Some(Kind::Federated("erin")));
    }

    #[test]
    fn policy_names_users_and_instances() {
        let set = Principals::parse(
            "[[principals]]\naccessKeyId = \"AKIAX\"\narn = \"arn:aws:iam::1:user/x\"\nosUsers = [\"a\"]\ninstances = [\"i-1\"]\n",
        )
        .expect("TOML");
        let x = set.find("AKIAX").expect("there");
        assert!(x.may_push("a", "i-1"));
        assert!(!x.may_push("b", "i-1"));
        assert!(!x.may_push("a", "i-2"));
    }
}
