//! As whom the metadata is asked.
//!
//! sshd runs the helper as `ec2-instance-connect`; a firewall that knows uids, or the permissions of a file, may
//! treat root otherwise. So root hands the whole question to a copy of this program that runs as that user, and
//! only passes its exit status on.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use super::EXIT_REFUSED;
use super::output::Page;
use crate::escape;
use crate::sshd::RUN_AS;
use crate::sshd::system::user;

/// Who asked.
pub(super) enum Asked {
    /// The helper's user, who has printed the page: what is left of it.
    There(Page),
    /// Nobody yet: it is for us to ask. What a person should know about that, if anything.
    Here(String),
}

/// This program again, to be started by root: as this user, with the environment that sshd gives its command. The words of
/// the call come behind.
pub(super) fn command(account: &User) -> Command {
    let mut command = user::again();
    command
        .args([user::WORD, &account.name])
        .env_clear()
        .envs(user::environment(account))
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

/// Asks as the helper's user, where we are root and there is such a user, unless `here` is where it is wanted.
pub(super) fn ask_as_helper_user(here: bool, arguments: &[OsString]) -> Asked {
    if here || !Uid::effective().is_root() {
        return Asked::Here(String::new());
    }
    let Ok(Some(user)) = User::from_name(RUN_AS) else {
        return Asked::Here(format!("There is no user {RUN_AS}: asked as root.\n"));
    };
    // What decides whether the page is in colour (`admin::paint`).
    let terminal = ["NO_COLOR", "TERM"].map(|name| (name, std::env::var_os(name)));
    let terminal = terminal
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let status = command(&user).args(arguments).envs(terminal).status();
    match status {
        // It has printed its page itself.
        Ok(status) => Asked::There(Page {
            exit: status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(EXIT_REFUSED),
            ..Page::default()
        }),
        Err(error) => Asked::Here(format!(
            "Cannot run as {RUN_AS} ({}): asked as root.\n",
            escape::text(&error.to_string())
        )),
    }
}

/// Who we are, for people.
pub(super) fn me() -> String {
    let uid = Uid::effective();
    match User::from_uid(uid) {
        Ok(Some(user)) => format!("{} (uid {uid})", escape::token(&user.name)),
        _ => format!("uid {uid}"),
    }
}
