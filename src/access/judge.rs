//! Which rule decides. Pure: the rules, and what is known of one login.
//!
//! **A key is given if a rule allows it and no rule denies it.** The order of the rules does not matter, and a rule
//! that is added can be read by itself. Without any rule every proven key is given.
//!
//! What cannot be known (no caller in the record, no word of sshd's about the source, a directory that does not
//! answer) lets no `allow` fit and keeps no `deny` from fitting.
#![deny(clippy::disallowed_methods)]

use std::fmt;
use std::net::IpAddr;

use super::principal::Principal;
use super::rule::{Effect, GroupName, Rule};
use crate::escape;
use crate::reason::{Reason, Refusal};

/// What is known of one login, apart from who pushed its key.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// The login name.
    pub user: &'a str,
    /// The groups.
    pub groups: &'a Groups,
    /// Where it comes from; `None` where that is not known.
    pub source: Option<IpAddr>,
}

/// Of which of the rules' groups a login is a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Of these it is.
    pub member: Vec<GroupName>,
    /// Of these nobody could say.
    pub unknown: Vec<GroupName>,
}

/// What the rules say about one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Ruling {
    /// There are no rules.
    NoRules,
    /// This rule allows it, and none denies it. Rules are counted from 1, in the order of the file.
    Allowed(usize),
    /// This rule denies it.
    Denied(usize),
    /// No rule allows it.
    NoneAllows,
}

impl Ruling {
    /// Whether the key is given.
    #[must_use]
    pub const fn is_given(self) -> bool {
        matches!(self, Self::NoRules | Self::Allowed(_))
    }

    /// The number of the rule that decides.
    #[must_use]
    pub const fn rule(self) -> Option<usize> {
        match self {
            Self::Allowed(rule) | Self::Denied(rule) => Some(rule),
            Self::NoRules | Self::NoneAllows => None,
        }
    }

    /// The refusal of a key that `caller` pushed, where it is refused.
    ///
    /// # Errors
    /// [`Reason::Policy`].
    pub fn refuse(self, caller: Option<&str>, source: Option<IpAddr>) -> Result<(), Refusal> {
        if self.is_given() {
            return Ok(());
        }
        let caller = caller.map_or_else(|| "nobody named".to_owned(), |arn| escape::token(arn).to_string());
        let source = source.map_or_else(|| "an unknown address".to_owned(), |address| address.to_string());
        Err(Refusal::new(
            Reason::Policy,
            format!("{self}, the key pushed by {caller}, from {source}"),
        ))
    }
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRules => f.write_str("there are no access rules"),
            Self::Allowed(rule) => write!(f, "access rule {rule} allows"),
            Self::Denied(rule) => write!(f, "access rule {rule} denies"),
            Self::NoneAllows => f.write_str("no access rule allows"),
        }
    }
}

/// Decides about a key that `caller` pushed: an ARN, of whatever form, where the record has one.
pub fn judge(rules: &[Rule], login: Login<'_>, caller: Option<&str>) -> Ruling {
    if rules.is_empty() {
        return Ruling::NoRules;
    }
    let caller = caller.and_then(Principal::parse);
    let first = |effect: Effect, enough: fn(Truth) -> bool| {
        let fits =
            |(rule, _): &(&Rule, usize)| rule.effect == effect && enough(fits(rule, login, caller.as_ref()));
        rules.iter().zip(1..).find(fits).map(|(_, number)| number)
    };
    if let Some(rule) = first(Effect::Deny, |truth| truth != Truth::Fails) {
        return Ruling::Denied(rule);
    }
    match first(Effect::Allow, |truth| truth == Truth::Holds) {
        Some(rule) => Ruling::Allowed(rule),
        None => Ruling::NoneAllows,
    }
}

/// Whether something holds, as far as can be known. The order is that of "and": the least of all counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Truth {
    Fails,
    Unknown,
    Holds,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Fails }
    }
}

/// Whether `rule` is about this login and this caller.
fn fits(rule: &Rule, login: Login<'_>, caller: Option<&Principal>) -> Truth {
    /// One entry of a list must fit what is known; a key that is not there always holds.
    fn one_of<T, V>(list: &[T], known: Option<V>, fits: impl Fn(&T, &V) -> bool) -> Truth {
        match known {
            _ if list.is_empty() => Truth::Holds,
            Some(known) => list.iter().any(|entry| fits(entry, &known)).into(),
            None => Truth::Unknown,
        }
    }
    let all = [
        fits_user(rule, login),
        one_of(&rule.principals, caller, |pattern, caller| pattern.fits(caller)),
        one_of(&rule.accounts, caller, |account, caller| {
            account == caller.account()
        }),
        one_of(&rule.roles, caller, |role, caller| role.fits(caller)),
        one_of(&rule.from, login.source, |network, source| {
            network.contains(*source)
        }),
    ];
    all.into_iter().min().unwrap_or(Truth::Fails)
}

fn fits_user(rule: &Rule, login: Login<'_>) -> Truth {
    if rule.users.is_empty() && rule.groups.is_empty() {
        return Truth::Holds;
    }
    let by_name = rule.users.iter().map(|pattern| pattern.fits(login.user).into());
    let by_group = rule.groups.iter().map(|group| {
        if login.groups.member.contains(group) {
            Truth::Holds
        } else if login.groups.unknown.contains(group) {
            Truth::Unknown
        } else {
            Truth::Fails
        }
    });
    by_name.chain(by_group).max().unwrap_or(Truth::Fails)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::access::Rules;

    const ALICE: &str = "arn:aws:sts::123456789012:assumed-role/Ops/alice";
    const BOB: &str = "arn:aws:iam::123456789012:user/bob";

    fn rules(text: &str) -> Vec<Rule> {
        #[derive(serde::Deserialize)]
        struct Document {
            access: Rules,
        }
        toml::from_str::<Document>(text).unwrap().access.0
    }

    /// The ruling on `ec2-user`, who is in wheel, from 192.0.2.9.
    fn ruling(text: &str, caller: Option<&str>) -> Ruling {
        let groups = Groups {
            member: vec![GroupName::try_from("wheel".to_owned()).unwrap()],
            unknown: vec![GroupName::try_from("directory".to_owned()).unwrap()],
        };
        let login = Login {
            user: "ec2-user",
            groups: &groups,
            source: Some("192.0.2.9".parse().unwrap()),
        };
        judge(&rules(text), login, caller)
    }

    #[test]
    fn without_rules_every_key_is_given() {
        let groups = Groups::default();
        let login = Login {
            user: "root",
            groups: &groups,
            source: None,
        };
        assert_eq!(judge(&[], login, None), Ruling::NoRules);
    }

    #[test]
    fn each_key_of_an_allow_is_a_condition() {
        let whole = "[[access]]\neffect = 'allow'\nusers = ['ec2-*']\naccounts = ['123456789012']\nroles = ['Ops']\n\
                     principals = ['arn:aws:sts::*:assumed-role/*/*']\nfrom = ['192.0.2.0/24']\n";
        assert_eq!(ruling(whole, Some(ALICE)), Ruling::Allowed(1));
        for (key, other) in [
            ("['ec2-*']", "['ubuntu', 'root']"),
            ("['123456789012']", "['210987654321']"),
            ("['Ops']", "['Dev', 'Op']"),
            ("assumed-role/*/*", "federated-user/*"),
            ("192.0.2.0/24", "198.51.100.0/24"),
        ] {
            assert!(whole.contains(key));
            assert_eq!(
                ruling(&whole.replace(key, other), Some(ALICE)),
                Ruling::NoneAllows,
                "{key}"
            );
        }
    }

    #[test]
    fn users_and_groups_are_one_list() {
        let rule = |keys: &str| ruling(&format!("[[access]]\neffect = 'allow'\n{keys}"), None);
        assert_eq!(rule("users = ['nobody']\ngroups = ['wheel']"), Ruling::Allowed(1));
        assert_eq!(
            rule("users = ['ec2-user']\ngroups = ['sudo']"),
            Ruling::Allowed(1)
        );
        assert_eq!(rule("users = ['nobody']\ngroups = ['sudo']"), Ruling::NoneAllows);
        assert_eq!(rule("groups = ['directory']"), Ruling::NoneAllows);
    }

    #[test]
    fn a_deny_wins_wherever_it_stands() {
        let allow = "[[access]]\neffect = 'allow'\n";
        let deny = "[[access]]\neffect = 'deny'\nroles = ['Ops']\n";
        assert_eq!(ruling(&format!("{allow}{deny}"), Some(ALICE)), Ruling::Denied(2));
        assert_eq!(ruling(&format!("{deny}{allow}"), Some(ALICE)), Ruling::Denied(1));
        assert_eq!(ruling(&format!("{deny}{allow}"), Some(BOB)), Ruling::Allowed(2));
        assert_eq!(ruling(deny, Some(BOB)), Ruling::NoneAllows);
    }

    #[test]
    fn what_is_unknown_fits_no_allow_and_every_deny() {
        let allow = "[[access]]\neffect = 'allow'\n";
        for keys in [
            "accounts = ['123456789012']",
            "roles = ['*']",
            "principals = ['arn:aws:iam::*:root']",
            "groups = ['directory']",
        ] {
            for caller in [None, Some("somebody"), Some("arn:aws:iam::123456789012:role/Ops")] {
                let denies = format!("{allow}[[access]]\neffect = 'deny'\n{keys}\n");
                assert_eq!(ruling(&denies, caller), Ruling::Denied(2), "{keys}");
                assert_eq!(
                    ruling(&format!("{allow}{keys}"), caller),
                    Ruling::NoneAllows,
                    "{keys}"
                );
            }
        }
        // A deny that another of its keys keeps from fitting does not fit for want of knowledge.
        let other = format!("{allow}[[access]]\neffect = 'deny'\nusers = ['root']\nroles = ['Ops']\n");
        assert_eq!(ruling(&other, None), Ruling::Allowed(1));
    }

    #[test]
    fn an_unknown_source_fits_no_allow_and_every_deny() {
        let groups = Groups::default();
        let login = Login {
            user: "ec2-user",
            groups: &groups,
            source: None,
        };
        let allow = rules("[[access]]\neffect = 'allow'\nfrom = ['0.0.0.0/0', '::/0']");
        assert_eq!(judge(&allow, login, Some(ALICE)), Ruling::NoneAllows);
        let deny =
            rules("[[access]]\neffect = 'allow'\n[[access]]\neffect = 'deny'\nfrom = ['198.51.100.1']");
        assert_eq!(judge(&deny, login, Some(ALICE)), Ruling::Denied(2));
    }

    #[test]
    fn a_refusal_names_rule_caller_and_source() {
        let refusal = Ruling::Denied(3)
            .refuse(Some("arn:x y"), Some("192.0.2.9".parse().unwrap()))
            .unwrap_err();
        assert_eq!(refusal.reason, Reason::Policy);
        assert_eq!(
            refusal.detail,
            r"access rule 3 denies, the key pushed by arn:x\x20y, from 192.0.2.9"
        );
        assert!(Ruling::Allowed(1).refuse(None, None).is_ok());
        assert!(Ruling::NoRules.refuse(None, None).is_ok());
        assert!(Ruling::NoneAllows.refuse(None, None).is_err());
    }

    /// A rule, its effect aside, that may or may not be about alice.
    fn keys() -> impl Strategy<Value = String> {
        let user = prop_oneof![
            Just(""),
            Just("users = ['ec2-user']\n"),
            Just("users = ['root']\n")
        ];
        let caller = prop_oneof![
            Just(""),
            Just("roles = ['Ops']\n"),
            Just("roles = ['Dev']\n"),
            Just("accounts = ['123456789012']\n"),
            Just("principals = ['arn:aws:iam::123456789012:user/*']\n"),
        ];
        let from = prop_oneof![
            Just(""),
            Just("from = ['192.0.2.0/24']\n"),
            Just("from = ['10.0.0.0/8']\n")
        ];
        (user, caller, from).prop_map(|(user, caller, from)| format!("{user}{caller}{from}"))
    }

    proptest! {
        /// The order never matters; one more deny never lets in; one more allow never keeps out.
        #[test]
        fn a_rule_can_be_read_by_itself(
            list in proptest::collection::vec((any::<bool>(), keys()), 0..6),
            more in keys(),
            caller in prop_oneof![Just(Some(ALICE)), Just(Some(BOB)), Just(None)],
        ) {
            let write = |list: &[(bool, String)]| -> String {
                list.iter()
                    .map(|(deny, keys)| {
                        let effect = if *deny { "deny" } else { "allow" };
                        format!("[[access]]\neffect = '{effect}'\n{keys}")
                    })
                    .collect()
            };
            let given = |list: &[(bool, String)]| {
                !list.is_empty() && ruling(&write(list), caller).refuse(caller, None).is_ok()
            };
            let reversed: Vec<_> = list.iter().rev().cloned().collect();
            prop_assert_eq!(given(&list), given(&reversed));
            let with = |deny: bool| [list.clone(), vec![(deny, more.clone())]].concat();
            prop_assert!(!given(&with(true)) || given(&list));
            prop_assert!(given(&with(false)) || !given(&list));
        }
    }
}
