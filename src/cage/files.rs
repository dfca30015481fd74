//! Landlock: no file is opened, made or removed, nothing is run, no socket is connected, but what the rest of the
//! login was said to need.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CreateRulesetError, PathBeneath, PathFd, RestrictSelfError,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};

use super::{Layer, Needs};

/// The newest of Landlock's versions whose rights we know and mean to refuse. An older kernel refuses those that it
/// knows.
const KNOWN: ABI = ABI::V6;

/// Restricts this thread to `needs`.
pub(super) fn restrict(needs: &Needs<'_>) -> Layer {
    match ruleset(needs) {
        Ok(RulesetStatus::NotEnforced) => Err("not in this kernel, or not switched on".to_owned()),
        Ok(_) => Ok(()),
        // The system's words alone: which right was meant does not matter here, and all their names would make the program larger.
        Err(
            RulesetError::CreateRuleset(CreateRulesetError::CreateRulesetCall { source, .. })
            | RulesetError::RestrictSelf(RestrictSelfError::RestrictSelfCall { source, .. }),
        ) => Err(source.to_string()),
        Err(_) => Err("not as the kernel wants it".to_owned()),
    }
}

fn ruleset(needs: &Needs<'_>) -> Result<RulesetStatus, RulesetError> {
    // Children that were started before are outside of our domain; with this scope nobody could end them.
    let scope = if needs.children {
        Scope::AbstractUnixSocket.into()
    } else {
        Scope::from_all(KNOWN)
    };
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(scope)?
        .create()?;
    for path in needs.read {
        // What is not there cannot be read, and needs no rule.
        if let Ok(file) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(file, AccessFs::ReadFile))?;
        }
    }
    if let Some(directory) = needs.claims {
        // A claim is a symbolic link that leads nowhere (`crate::claim`).
        rules = rules.add_rule(PathBeneath::new(directory, AccessFs::MakeSym))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}
