//! Of which groups a login is a member, by this host's name service.

use std::collections::BTreeSet;
use std::ffi::CString;

use nix::unistd::{Gid, Group, User, getgrouplist};

use super::judge::Groups;
use super::rule::{GroupName, Rule};

/// Looks up the groups that `rules` name, and no other; none where they name none.
#[must_use]
pub fn look_up(user: &str, rules: &[Rule]) -> Groups {
    let wanted: BTreeSet<&GroupName> = rules.iter().flat_map(|rule| &rule.groups).collect();
    let mut groups = Groups::default();
    if wanted.is_empty() {
        return groups;
    }
    let gids = gids(user);
    for name in wanted {
        match is_member(user, gids.as_deref(), name) {
            Some(true) => groups.member.push(name.clone()),
            Some(false) => {}
            None => groups.unknown.push(name.clone()),
        }
    }
    groups
}

/// `None` also for a group that is not found: a directory that is down says the same of its groups as of a
/// misspelled one.
fn is_member(user: &str, gids: Option<&[Gid]>, group: &GroupName) -> Option<bool> {
    let group = Group::from_name(group.as_str()).ok().flatten()?;
    Some(gids?.contains(&group.gid) || group.mem.iter().any(|member| member == user))
}

fn gids(user: &str) -> Option<Vec<Gid>> {
    let account = User::from_name(user).ok().flatten()?;
    getgrouplist(&CString::new(user).ok()?, account.gid).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::rule::Effect;

    fn rule(groups: &[&str]) -> Rule {
        Rule {
            effect: Effect::Allow,
            users: Vec::new(),
            groups: groups
                .iter()
                .map(|&name| GroupName::try_from(name.to_owned()).unwrap())
                .collect(),
            principals: Vec::new(),
            accounts: Vec::new(),
            roles: Vec::new(),
            from: Vec::new(),
        }
    }

    #[test]
    fn a_member_is_one_and_others_are_none_and_the_unknown_is_unknown() {
        // These three are on every system with a passwd file.
        let groups = look_up(
            "root",
            &[rule(&["root", "daemon"]), rule(&["no-such-group-here"])],
        );
        let names = |list: &[GroupName]| {
            list.iter()
                .map(|name| name.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&groups.member), ["root"]);
        assert_eq!(names(&groups.unknown), ["no-such-group-here"]);
        let groups = look_up("no-such-user-here", &[rule(&["root"])]);
        assert_eq!(names(&groups.unknown), ["root"]);
        assert_eq!(look_up("root", &[]), Groups::default());
    }
}
