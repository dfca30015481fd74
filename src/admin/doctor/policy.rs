//! The administrator's own rules: what is odd about them, and whom they keep out.

use super::check::Finding;
use super::sshd::Sshd;
use crate::access::groups;
use crate::access::remarks::remarks;
use crate::admin::history::select::Pattern;
use crate::config::Config;
use crate::options::PRINCIPAL_VARIABLE;
use crate::sshd::dump;
use crate::sshd::system::judge::Opinion;

/// What is odd about the access rules.
pub fn access(config: &Config) -> Finding {
    let rules = &config.access.0;
    let mut found = remarks(config);
    // Any user will do: a group is found or not, whoever is in it.
    let unknown = groups::look_up("root", rules).unknown;
    found.extend(unknown.iter().map(|group| {
        format!(
            "there is no group {} here: no allow matches by it, and every deny does",
            group.as_str()
        )
    }));
    if !found.is_empty() {
        return Finding::warn(found.join("; "), "mend the rules: see docs/ACCESS.md");
    }
    Finding::pass(match rules.len() {
        0 => "there are no access rules: every proven key is given".to_owned(),
        1 => "there is 1 access rule".to_owned(),
        many => format!("there are {many} access rules"),
    })
}

/// Whether a guard keeps `user` out.
pub fn guards(config: &Config, user: &str) -> Finding {
    match config.guards.check(user) {
        Ok(()) => Finding::pass(format!("no guard keeps {user} out")),
        Err(refusal) => Finding::fail(
            format!("{} ({})", refusal.detail, refusal.reason),
            format!(
                "log in as another user; or see {} in docs/REASONS.md",
                refusal.reason
            ),
        ),
    }
}

/// Whether sshd lets the session be told who pushed its key (`PermitUserEnvironment`, session.c).
pub fn environment(config: &Config, opinion: &Opinion, sshd: &Sshd) -> Finding {
    if !config.options.name_principal() {
        return Finding::skip("[options] principal_environment is not set");
    }
    let value = dump::value(&opinion.user.stdout, "permituserenvironment").unwrap_or_default();
    let seen = format!(
        "PermitUserEnvironment {value} ({})",
        sshd.list_at("permituserenvironment")
    );
    let remedy = format!("PermitUserEnvironment {PRINCIPAL_VARIABLE}, from OpenSSH 7.8 on; then reload sshd");
    let lets_through = |pattern: &str| Pattern::new(pattern).fits(PRINCIPAL_VARIABLE);
    match value.as_str() {
        "no" | "" => Finding::warn(format!("{seen}: no session gets {PRINCIPAL_VARIABLE}"), remedy),
        "yes" => Finding::warn(
            format!("{seen}: every user may set LD_PRELOAD and the like in ~/.ssh/environment"),
            remedy,
        ),
        list if list.split(',').any(lets_through) => Finding::pass(seen),
        _ => Finding::warn(format!("{seen}: no session gets {PRINCIPAL_VARIABLE}"), remedy),
    }
}
