//! `[guards]`: logins for which no pushed key is taken, whoever pushed it.
//!
//! Asked before the network, so that a refusal costs no request. Each look-up is made only where a guard needs it.
//! What cannot be looked up refuses.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::unistd::User;
use serde::Deserialize;

use crate::access::rule::{UserPattern, filled};
use crate::file::{self, FileError, Owner};
use crate::reason::{Reason, Refusal};

/// The shells of people (shells(5)).
const SHELLS: &str = "/etc/shells";

/// More shells than any system has.
const MAX_SHELLS: u64 = 64 * 1024;

/// What getusershell(3) takes where there is no such file.
const DEFAULT_SHELLS: [&str; 2] = ["/bin/sh", "/bin/csh"];

/// sshd's choice for an account without one (session.c).
const DEFAULT_SHELL: &str = "/bin/sh";

/// Programs that end a session at once. Some systems list them in /etc/shells all the same.
const NO_SHELLS: [&str; 3] = ["nologin", "false", "true"];

/// `[guards]`. The default guards nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guards {
    /// Login names that never get a key.
    pub deny_users: Vec<UserPattern>,
    /// The least uid that gets one.
    pub min_uid: u32,
    /// Whether the account's shell must be one of /etc/shells, and neither nologin, false nor true.
    pub require_shell: bool,
    /// While this is there, nobody gets a key but [`Guards::maintenance_users`].
    #[serde(deserialize_with = "absolute")]
    pub maintenance_file: Option<PathBuf>,
    /// Who still does.
    #[serde(deserialize_with = "filled")]
    pub maintenance_users: Vec<UserPattern>,
}

fn absolute<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(source)?;
    if path.is_absolute() {
        Ok(Some(path))
    } else {
        Err(serde::de::Error::custom("expected an absolute path"))
    }
}

impl Guards {
    /// Whether the login `user` may have keys at all.
    ///
    /// # Errors
    /// [`Reason::DenyUser`], [`Reason::Maintenance`], [`Reason::NoSuchUser`], [`Reason::MinUid`], [`Reason::Shell`].
    pub fn check(&self, user: &str) -> Result<(), Refusal> {
        let names = |list: &[UserPattern]| list.iter().any(|pattern| pattern.fits(user));
        if names(&self.deny_users) {
            return Err(Refusal::new(
                Reason::DenyUser,
                "[guards] deny_users names the login",
            ));
        }
        if let Some(path) = &self.maintenance_file {
            if is_there(path) && !names(&self.maintenance_users) {
                let detail = format!(
                    "{} is there, and maintenance_users does not name the login",
                    path.display()
                );
                return Err(Refusal::new(Reason::Maintenance, detail));
            }
        }
        if self.min_uid == 0 && !self.require_shell {
            return Ok(());
        }
        let account = look_up(user)?;
        let uid = account.uid.as_raw();
        if uid < self.min_uid {
            let detail = format!(
                "the uid is {uid}, and the least that is let in is {}",
                self.min_uid
            );
            return Err(Refusal::new(Reason::MinUid, detail));
        }
        if self.require_shell {
            let shells = file::read_trusted(Path::new(SHELLS), Owner::Root, MAX_SHELLS);
            check_shell(&account.shell, shells)?;
        }
        Ok(())
    }
}

/// Whatever keeps us from knowing that it is absent counts as present.
fn is_there(path: &Path) -> bool {
    !path
        .symlink_metadata()
        .is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

fn look_up(user: &str) -> Result<User, Refusal> {
    let detail = match User::from_name(user) {
        Ok(Some(account)) => return Ok(account),
        Ok(None) => "there is no such account here".to_owned(),
        Err(error) => {
            let error = io::Error::from(error);
            let number = error.raw_os_error().unwrap_or_default();
            format!(
                "the account cannot be looked up: {} (os error {number})",
                error.kind()
            )
        }
    };
    Err(Refusal::new(Reason::NoSuchUser, detail))
}

fn check_shell(shell: &Path, shells: Result<Vec<u8>, FileError>) -> Result<(), Refusal> {
    let shell = if shell.as_os_str().is_empty() {
        Path::new(DEFAULT_SHELL)
    } else {
        shell
    };
    let refuse = |what: &str| {
        let detail = format!("the shell {} {what}", shell.display());
        Err(Refusal::new(Reason::Shell, detail))
    };
    if shell
        .file_name()
        .is_some_and(|name| NO_SHELLS.iter().any(|none| name == *none))
    {
        return refuse("ends every session at once");
    }
    let listed = match shells {
        Ok(content) => String::from_utf8_lossy(&content)
            .lines()
            .filter_map(|line| line.split(['#', ' ', '\t']).next())
            .any(|listed| Path::new(listed) == shell),
        Err(FileError::NotFound) => DEFAULT_SHELLS.iter().any(|default| Path::new(default) == shell),
        Err(error) => return refuse(&format!("cannot be compared with {SHELLS}, which {error}")),
    };
    if listed {
        Ok(())
    } else {
        refuse(&format!("is not in {SHELLS}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn guards(text: &str) -> Guards {
        toml::from_str(text).unwrap()
    }

    fn reason(text: &str, user: &str) -> Option<Reason> {
        guards(text).check(user).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn without_guards_every_name_is_let_through_and_nothing_is_looked_up() {
        assert_eq!(reason("", "no-such-user-here"), None);
    }

    #[test]
    fn denied_name_is_refused_and_others_are_not() {
        let text = "deny_users = ['root', 'svc-*']";
        assert_eq!(reason(text, "root"), Some(Reason::DenyUser));
        assert_eq!(reason(text, "svc-backup"), Some(Reason::DenyUser));
        assert_eq!(reason(text, "svc"), None);
        assert_eq!(reason(text, "rooty"), None);
    }

    #[test]
    fn uid_below_the_least_is_refused_and_an_account_that_is_not_there_too() {
        assert_eq!(reason("min_uid = 1", "root"), Some(Reason::MinUid));
        assert_eq!(reason("min_uid = 1", "daemon"), None);
        assert_eq!(reason("min_uid = 2", "daemon"), Some(Reason::MinUid));
        assert_eq!(
            reason("min_uid = 1", "no-such-user-here"),
            Some(Reason::NoSuchUser)
        );
    }

    #[test]
    fn while_the_maintenance_file_is_there_only_the_named_get_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("maintenance");
        let text = format!(
            "maintenance_file = '{}'\nmaintenance_users = ['ops-*']",
            path.display()
        );
        assert_eq!(reason(&text, "alice"), None);
        // A symlink that leads nowhere is there as well.
        std::os::unix::fs::symlink("/nonexistent", &path).unwrap();
        assert_eq!(reason(&text, "alice"), Some(Reason::Maintenance));
        assert_eq!(reason(&text, "ops-anna"), None);
        fs::remove_file(&path).unwrap();
        assert_eq!(reason(&text, "alice"), None);
    }

    #[test]
    fn a_maintenance_file_that_cannot_be_looked_at_counts_as_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let below_a_file = format!("maintenance_file = '{}/x'", file.path().display());
        assert_eq!(reason(&below_a_file, "alice"), Some(Reason::Maintenance));
    }

    #[test]
    fn shell_must_be_listed_and_start_a_session() {
        let check = |shell: &str, shells: &str| {
            let outcome = check_shell(Path::new(shell), Ok(shells.as_bytes().to_vec()));
            outcome.err().map(|refusal| refusal.reason)
        };
        let shells = "# valid login shells\n/bin/sh\n/bin/bash # a comment\n#/bin/zsh\n/usr/sbin/nologin\n/bin/false\n";
        assert_eq!(check("/bin/sh", shells), None);
        assert_eq!(check("/bin/bash", shells), None);
        assert_eq!(check("", shells), None);
        for shell in [
            "/bin/zsh",
            "/usr/sbin/nologin",
            "/bin/false",
            "/bin/true",
            "/bin",
            "sh",
        ] {
            assert_eq!(check(shell, shells), Some(Reason::Shell), "{shell}");
        }
        assert_eq!(check("", "/bin/bash\n"), Some(Reason::Shell));
        let absent = |shell| check_shell(Path::new(shell), Err(FileError::NotFound)).is_ok();
        assert!(absent("/bin/sh") && !absent("/bin/bash"));
        assert!(check_shell(Path::new("/bin/sh"), Err(FileError::NotRegular)).is_err());
    }

    #[test]
    fn a_value_that_guards_nothing_or_something_else_is_no_configuration() {
        for text in [
            "min_uid = -1",
            "min_uid = 'root'",
            "maintenance_file = 'maintenance'",
            "maintenance_users = []",
            "deny_users = ['a b']",
            "shell = true",
        ] {
            assert!(toml::from_str::<Guards>(text).is_err(), "{text}");
        }
    }
}
