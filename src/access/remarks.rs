//! What is worth a word about rules and guards whose text is right: for `config check` and `doctor`.
#![deny(clippy::disallowed_methods)]

use super::principal::{PrincipalPattern, RolePattern};
use super::rule::{Effect, Rule};
use crate::config::Config;
use crate::place::Partition;
use crate::request::LoginName;

/// The one account that may do anything.
const ROOT: &str = "root";

/// One sentence for each thing that a person who wrote `config` should know.
#[must_use]
pub fn remarks(config: &Config) -> Vec<String> {
    let rules = &config.access.0;
    let mut found = Vec::new();
    let allows = |rule: &Rule| rule.effect == Effect::Allow;
    if !rules.is_empty() && !rules.iter().any(allows) {
        found.push("[[access]]: no rule allows anything, so that no key is ever given".to_owned());
    }
    for (rule, number) in rules.iter().zip(1_usize..) {
        if let Some(why) = never_fits(rule, config) {
            found.push(format!("[[access]] rule {number} can never match: {why}"));
        } else if rule.effect == Effect::Deny && is_for_all(rule) {
            found.push(format!(
                "[[access]] rule {number} denies every login: no key is ever given"
            ));
        } else if allows(rule) && lets_all_become_root(rule, config) {
            found.push(format!(
                "[[access]] rule {number} lets everybody who may push a key for this instance become root"
            ));
        }
    }
    if config.guards.maintenance_file.is_none() && !config.guards.maintenance_users.is_empty() {
        found.push("[guards] maintenance_users has no effect without maintenance_file".to_owned());
    }
    found
}

/// Why no login and no caller can ever fit, where that can be said.
fn never_fits(rule: &Rule, config: &Config) -> Option<&'static str> {
    let names_only = !rule.users.is_empty() && rule.groups.is_empty();
    let none = |holds: &dyn Fn(&str) -> bool| {
        names_only && rule.users.iter().all(|user| user.literal().is_some_and(holds))
    };
    if none(&|name| LoginName::new(name).is_err()) {
        return Some("no key can be pushed for a login name of this shape");
    }
    let guarded = |name: &str| config.guards.deny_users.iter().any(|pattern| pattern.fits(name));
    if rule.effect == Effect::Allow && none(&guarded) {
        return Some("[guards] deny_users names its users");
    }
    let principals = &rule.principals;
    if principals.is_empty() {
        return None;
    }
    if let Some(partition) = config.instance.partition.map(Partition::name) {
        if !principals.iter().any(|one| one.in_partition(partition)) {
            return Some("its principals are of another partition than [instance] partition");
        }
    }
    let of_account = |one: &PrincipalPattern| {
        rule.accounts.is_empty()
            || one
                .account()
                .is_none_or(|account| rule.accounts.contains(account))
    };
    let of_role =
        |one: &PrincipalPattern| rule.roles.is_empty() || rule.roles.iter().any(|role| may_be_one(one, role));
    if !principals.iter().any(of_account) {
        return Some("its principals are of other accounts than its accounts");
    }
    if !principals.iter().any(|one| of_account(one) && of_role(one)) {
        return Some("its principals are no sessions of its roles");
    }
    None
}

/// Whether a principal may fit both. Two patterns with a `*` each may.
fn may_be_one(principal: &PrincipalPattern, role: &RolePattern) -> bool {
    let Some(name) = principal.role() else {
        return false;
    };
    match (name.literal(), role.name().literal()) {
        (Some(name), _) => role.name().fits(name),
        (None, Some(wanted)) => name.fits(wanted),
        (None, None) => true,
    }
}

/// Whether it asks nothing about caller and source that not everybody fits.
fn is_unconditional(rule: &Rule) -> bool {
    let any_role = rule.roles.iter().all(|role| role.name().fits_all());
    let anybody = rule.principals.is_empty() || rule.principals.iter().any(PrincipalPattern::names_nobody);
    let anywhere = rule.from.is_empty() || rule.from.iter().any(|network| network.is_everywhere());
    any_role && anybody && anywhere
}

fn is_for_all(rule: &Rule) -> bool {
    !rule.asks_caller() && rule.users.is_empty() && rule.groups.is_empty() && is_unconditional(rule)
}

fn fits_root(rule: &Rule) -> bool {
    (rule.users.is_empty() && rule.groups.is_empty())
        || rule.users.iter().any(|user| user.fits(ROOT))
        || rule.groups.iter().any(|group| group.as_str() == ROOT)
}

fn lets_all_become_root(rule: &Rule, config: &Config) -> bool {
    let guards = &config.guards;
    let guarded = guards.min_uid > 0 || guards.deny_users.iter().any(|pattern| pattern.fits(ROOT));
    let denied = config.access.0.iter().any(|other| {
        other.effect == Effect::Deny && fits_root(other) && !other.asks_caller() && other.from.is_empty()
    });
    fits_root(rule) && is_unconditional(rule) && !guarded && !denied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        remarks(&Config::parse(text).unwrap())
    }

    #[test]
    fn sound_rules_are_worth_no_word() {
        for text in [
            "",
            "[[access]]\neffect = 'allow'\nusers = ['ec2-user']",
            "[[access]]\neffect = 'allow'\nroles = ['Ops']",
            "[[access]]\neffect = 'allow'\nfrom = ['10.0.0.0/8']",
            "[[access]]\neffect = 'allow'\n[[access]]\neffect = 'deny'\nusers = ['root']",
            "[[access]]\neffect = 'allow'\n[guards]\nmin_uid = 1000",
            "[[access]]\neffect = 'allow'\n[guards]\ndeny_users = ['r*']",
            "[[access]]\neffect = 'allow'\nusers = ['*']\nprincipals = ['arn:aws:sts::*:assumed-role/Ops/*']",
            "[[access]]\neffect = 'allow'\nusers = ['a']\nroles = ['O*']\nprincipals = ['arn:aws:sts::*:assumed-role/*s/*']",
            "[[access]]\neffect = 'allow'\nusers = ['a']\naccounts = ['123456789012']\nprincipals = ['arn:aws:iam::*:user/*']",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn rule_that_lets_everybody_become_root_is_named() {
        for keys in [
            "",
            "users = ['*']",
            "users = ['alice', 'root']",
            "groups = ['root']",
            "accounts = ['123456789012']",
            "roles = ['*']",
            "principals = ['arn:aws:iam::123456789012:user/*', 'arn:aws:sts::123456789012:assumed-role/*/x']",
            "from = ['0.0.0.0/0']",
        ] {
            let text = format!(
                "[[access]]\neffect = 'allow'\nroles = ['Ops']\n[[access]]\neffect = 'allow'\n{keys}\n\
                 [[access]]\neffect = 'deny'\nusers = ['root']\nroles = ['Dev']"
            );
            assert_eq!(
                found(&text),
                ["[[access]] rule 2 lets everybody who may push a key for this instance become root"],
                "{keys}"
            );
        }
    }

    #[test]
    fn rule_that_can_never_match_is_named_with_its_reason() {
        for (keys, word) in [
            ("users = ['-x', '1']", "shape"),
            ("users = ['svc-a']", "deny_users"),
            (
                "accounts = ['123456789012']\nprincipals = ['arn:aws:iam::210987654321:user/*']",
                "other accounts",
            ),
            (
                "roles = ['Ops']\nprincipals = ['arn:aws:iam::123456789012:user/*']",
                "no sessions",
            ),
            (
                "roles = ['Ops']\nprincipals = ['arn:aws:sts::123456789012:assumed-role/Dev/*']",
                "no sessions",
            ),
            (
                "roles = ['Ops']\nprincipals = ['arn:aws:sts::123456789012:assumed-role/D*/*']",
                "no sessions",
            ),
            (
                "principals = ['arn:aws-cn:iam::123456789012:user/*']",
                "partition",
            ),
        ] {
            let text = format!(
                "[instance]\npartition = 'aws'\n[guards]\ndeny_users = ['svc-*']\n[[access]]\neffect = 'allow'\n{keys}"
            );
            let found = found(&text);
            assert_eq!(found.len(), 1, "{keys}: {found:?}");
            assert!(
                found[0].starts_with("[[access]] rule 1 can never match: "),
                "{found:?}"
            );
            assert!(found[0].contains(word), "{found:?}");
        }
    }

    #[test]
    fn rules_that_keep_everybody_out_are_named() {
        assert_eq!(found("[[access]]\neffect = 'deny'\nusers = ['root']").len(), 1);
        let all = found("[[access]]\neffect = 'allow'\nusers = ['a']\n[[access]]\neffect = 'deny'");
        assert_eq!(
            all,
            ["[[access]] rule 2 denies every login: no key is ever given"]
        );
        assert_eq!(found("[guards]\nmaintenance_users = ['a']").len(), 1);
    }
}
