//! The host's own rules: a configuration, a caller, a connection and a login name, divided by lines of `%%`.

use std::net::IpAddr;

use ec2_instance_connect::access::connection::Connection;
use ec2_instance_connect::access::principal::Principal;
use ec2_instance_connect::access::{Effect, Groups, Login, Rule, judge};
use ec2_instance_connect::config::Config;

/// Whoever the caller is, a rule can be read by itself: the order does not matter, what is not known lets nobody in, and
/// no line that we print has more options than were meant. Gives 1 if the key would be given.
pub fn access(data: &[u8]) -> usize {
    let parts = super::parts(data);
    let text = |index: usize| {
        let part = parts.get(index).copied().unwrap_or_default();
        std::str::from_utf8(part.strip_suffix(b"\n").unwrap_or(part)).ok()
    };
    let (Some(config), Some(caller), Some(words), Some(user)) = (text(0), text(1), text(2), text(3)) else {
        return 0;
    };
    let principal = Principal::parse(caller);
    if let Some(principal) = &principal {
        assert_eq!(principal.to_string(), caller);
    }
    let ours = |address: IpAddr| address.is_loopback();
    let source = Connection::parse(words).and_then(|connection| connection.source(ours));
    if let Some(source) = source {
        assert_eq!(source, source.to_canonical());
    }
    let Ok(config) = Config::parse(config) else {
        return 0;
    };
    let rules = &config.access.0;
    let groups = Groups::default();
    let login = Login {
        user,
        groups: &groups,
        source,
    };
    let given = |rules: &[Rule], caller: Option<&str>, source| {
        judge(rules, Login { source, ..login }, caller).is_given()
    };
    let now = given(rules, Some(caller), source);
    let reversed: Vec<Rule> = rules.iter().rev().cloned().collect();
    assert_eq!(now, given(&reversed, Some(caller), source));
    assert!(
        now || !given(rules, None, source),
        "a caller that nobody named got more"
    );
    assert!(
        now || !given(rules, Some(caller), None),
        "an unknown source got more"
    );
    if principal.is_none() {
        assert_eq!(now, given(rules, None, source), "what is no principal is nobody");
    }
    for rule in rules {
        let is_deny = rule.effect == Effect::Deny;
        let alone = given(std::slice::from_ref(rule), Some(caller), source);
        assert!(!(is_deny && alone), "a deny alone let somebody in");
        assert!(!alone || principal.is_some() || !rule.asks_caller());
        assert!(!alone || source.is_some() || rule.from.is_empty());
    }
    if let Ok(options) = config.options.of_key(Some(caller)) {
        let line = options.to_string();
        let named = format!("environment=\"EIC_PRINCIPAL={caller}\" ");
        let rest = line.strip_suffix(&named).unwrap_or(&line);
        assert_eq!(line.ends_with(&named), config.options.name_principal());
        assert!(
            rest.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b", -".contains(&byte)),
            "{line}"
        );
    }
    usize::from(now)
}
