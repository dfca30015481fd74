//! The user's account, as sshd looks at it before any key counts (OpenSSH's `allowed_user` in auth.c).

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use nix::unistd::{Group, User, getgrouplist};

use crate::admin::history::select::Pattern;
use crate::request::LoginName;
use crate::sshd::dump;
use crate::sshd::system::judge::Opinion;

use super::check::Finding;
use super::sshd::Sshd;

/// Seconds in a day: the unit of shadow(5).
const DAY: u64 = 86_400;

/// Whether a key can be pushed for it.
pub fn name(user: &str) -> Finding {
    match LoginName::new(user) {
        Ok(_) => Finding::pass(format!("a key can be pushed for {user}")),
        Err(refusal) => Finding::fail(
            format!("{user}: {}", refusal.detail),
            "log in as a user whose name has at most 32 letters, digits and @._-",
        ),
    }
}

/// Whether it is there.
pub fn exists(user: &str) -> (Option<User>, Finding) {
    match User::from_name(user) {
        Ok(Some(found)) => {
            let seen = format!("{user} has uid {}, shell {}", found.uid, found.shell.display());
            (Some(found), Finding::pass(seen))
        }
        Ok(None) => (
            None,
            Finding::fail(
                format!("there is no user {user} here"),
                format!("push the key for a user that exists, or `useradd -m -s /bin/sh {user}`"),
            ),
        ),
        Err(error) => (
            None,
            Finding::fail(
                format!("{user} cannot be looked up: {error}"),
                "see that the directory service behind nsswitch.conf answers",
            ),
        ),
    }
}

/// Locked, or expired. A `!` before the password keeps keys out where sshd does not ask PAM (platform.c,
/// `platform_locked_account`).
pub fn locked(user: &str, opinion: Option<&Opinion>) -> Finding {
    let Ok(shadow) = fs::read_to_string("/etc/shadow") else {
        return Finding::skip("/etc/shadow cannot be read");
    };
    let Some(line) = shadow.lines().find(|line| line.split(':').next() == Some(user)) else {
        return Finding::skip("/etc/shadow does not know the user: a directory service does");
    };
    let mut fields = line.split(':').skip(1);
    let password = fields.next().unwrap_or_default();
    let today = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| now.as_secs() / DAY);
    // The eighth field of the line, the seventh behind the name: the day on which the account ends.
    let ends = fields.nth(5).and_then(|day| day.parse::<u64>().ok());
    if ends.is_some_and(|day| day <= today) {
        return Finding::fail(
            format!("the account of {user} has expired"),
            format!("`chage -E -1 {user}`"),
        );
    }
    let pam = opinion
        .and_then(|opinion| dump::value(&opinion.user.stdout, "usepam"))
        .is_some_and(|value| value == "yes");
    if password.starts_with('!') && !pam {
        return Finding::fail(
            format!(
                "the password of {user} is locked with !, and without UsePAM sshd then takes no key either"
            ),
            format!("`usermod -p '*' {user}`: no password fits, and keys do"),
        );
    }
    Finding::pass(if password.starts_with('!') {
        "the password is locked, which with UsePAM keeps no key out"
    } else {
        "neither locked nor expired"
    })
}

/// Whether its shell can be started.
pub fn shell(user: &User) -> Finding {
    use std::os::unix::fs::PermissionsExt as _;
    let shell = if user.shell.as_os_str().is_empty() {
        Path::new("/bin/sh")
    } else {
        &user.shell
    };
    let remedy = format!("`usermod -s /bin/sh {}`", user.name);
    let runs = fs::metadata(shell).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if !runs {
        return Finding::fail(
            format!(
                "the shell {} is not a program: sshd lets nobody in",
                shell.display()
            ),
            remedy,
        );
    }
    let name = shell.file_name().unwrap_or_default().to_string_lossy();
    if matches!(name.as_ref(), "nologin" | "false" | "true") {
        return Finding::fail(
            format!("the shell {} ends every session at once", shell.display()),
            remedy,
        );
    }
    Finding::pass(format!("{} is there", shell.display()))
}

/// nologin(5): only root may come in while one of these is there.
pub fn nologin(user: Option<&User>) -> Finding {
    let found = ["/etc/nologin", "/run/nologin", "/var/run/nologin"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    match found {
        Some(path) if user.is_none_or(|user| !user.uid.is_root()) => Finding::fail(
            format!("{path} exists: only root may log in (a shutdown, a boot that is not done, or by hand)"),
            format!("`rm {path}` when nothing needs it"),
        ),
        _ => Finding::pass("no nologin file stands in the way"),
    }
}

/// `DenyUsers`, `AllowUsers`, `DenyGroups`, `AllowGroups`, in sshd's order.
pub fn allowed(user: &User, sshd: &Sshd, opinion: &Opinion) -> Finding {
    let groups = groups(user);
    let by_name = [user.name.clone()];
    let lists: [(&str, &str, bool, &[String]); 4] = [
        ("denyusers", "DenyUsers", false, &by_name),
        ("allowusers", "AllowUsers", true, &by_name),
        ("denygroups", "DenyGroups", false, &groups),
        ("allowgroups", "AllowGroups", true, &groups),
    ];
    let mut hosts = Vec::new();
    for (keyword, shown, allows, names) in lists {
        let patterns = Sshd::list(opinion, keyword);
        if patterns.is_empty() {
            continue;
        }
        // Only the lists of users know `USER@HOST`; the last @ divides (match.c, `match_user`).
        let divide = |pattern: &str| match pattern.rsplit_once('@') {
            Some((name, host)) if keyword.ends_with("users") => (name.to_owned(), Some(host.to_owned())),
            _ => (pattern.to_owned(), None),
        };
        let mut fitted = Vec::new();
        let fitting: Vec<Option<String>> = patterns
            .iter()
            .map(|pattern| divide(pattern))
            .filter(|(pattern, _)| names.iter().any(|name| Pattern::new(pattern).fits(name)))
            .inspect(|(pattern, _)| fitted.push(pattern.clone()))
            .map(|(_, host)| host)
            .collect();
        let at = sshd.list_at(keyword);
        let everywhere = fitting.iter().any(Option::is_none);
        if allows && fitting.is_empty() {
            return Finding::fail(
                format!(
                    "{shown} {} does not name {} ({at})",
                    patterns.join(" "),
                    user.name
                ),
                format!(
                    "add {} to {shown} at {at}, then {}",
                    names.join(" or "),
                    sshd.reload()
                ),
            );
        }
        if !allows && everywhere {
            return Finding::fail(
                format!("{shown} {} names {} ({at})", patterns.join(" "), user.name),
                format!(
                    "take {} out of {shown} at {at}, then {}",
                    fitted.join(" and "),
                    sshd.reload()
                ),
            );
        }
        if !everywhere {
            hosts.extend(
                fitting
                    .into_iter()
                    .flatten()
                    .map(|host| format!("{shown} at {host}")),
            );
        }
    }
    if hosts.is_empty() {
        Finding::pass(format!("no list keeps {} out", user.name))
    } else {
        Finding::warn(
            format!(
                "it depends on where {} comes from: {}",
                user.name,
                hosts.join(", ")
            ),
            "see that the address of the client fits",
        )
    }
}

/// The names of all groups, the primary one's first.
fn groups(user: &User) -> Vec<String> {
    let gids = CString::new(user.name.as_bytes())
        .ok()
        .and_then(|name| getgrouplist(&name, user.gid).ok())
        .unwrap_or_else(|| vec![user.gid]);
    let names = gids
        .into_iter()
        .filter_map(|gid| Group::from_gid(gid).ok().flatten());
    names.map(|group| group.name).collect()
}
