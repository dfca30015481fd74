//! As whom the metadata is asked.
//!
//! sshd runs the helper as `ec2-instance-connect`; a firewall that knows uids, or the permissions of a file, may
//! treat root otherwise. So root hands the whole question to a copy of this program that runs as that user, and
//! only passes its exit status on.
//!
//! That user has groups, and sshd gives the helper all of them (misc.c, `subprocess`: initgroups(3)). A process can take
//! groups for itself alone, so the copy starts as root, takes them, becomes the user and then this program once more.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::{Uid, User};

use super::EXIT_REFUSED;
use super::output::{self, Page};
use crate::escape;
use crate::link::keeper::THIS_PROGRAM;
use crate::sshd::system::run::PATH;
use crate::sshd::system::trial::become_user;

/// The first word of a call that becomes another user: his name follows, and then the words of the call itself.
const WORD: &str = "--as";

/// What this program is called.
const NAME: &str = "ec2-instance-connect";

/// The user that sshd runs the helper as.
const HELPER_USER: &str = "ec2-instance-connect";

/// Who asked.
pub(super) enum Asked {
    /// The helper's user, who has printed the page: what is left of it.
    There(Page),
    /// Nobody yet: it is for us to ask. What a person should know about that, if anything.
    Here(String),
}

/// Becomes the user and this program once more, if that is what the arguments (without the program's name) ask for.
/// Comes back only where it did not work, having said why.
pub(super) fn asked(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.next()? != WORD {
        return None;
    }
    let user = arguments.next()?.into_string().ok()?;
    let error = match become_user(&user) {
        Ok(()) => again().args(arguments).exec(),
        Err(error) => error,
    };
    Some(output::show(&Page {
        err: format!("{NAME}: cannot become {}: {error}\n", escape::token(&user)),
        exit: EXIT_REFUSED,
        ..Page::default()
    }))
}

/// This program again, to be started by root: as `user`, with the environment that sshd gives its command. The words of
/// the call come behind.
pub(super) fn command(user: &User) -> Command {
    let mut command = again();
    command
        .args([WORD, &user.name])
        .env_clear()
        .envs(environment(user))
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

fn again() -> Command {
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0(NAME);
    command
}

/// Asks as the helper's user, where we are root and there is such a user.
pub(super) fn ask_as_helper_user(arguments: &[OsString]) -> Asked {
    if !Uid::effective().is_root() {
        return Asked::Here(String::new());
    }
    let Ok(Some(user)) = User::from_name(HELPER_USER) else {
        return Asked::Here(format!("There is no user {HELPER_USER}: asked as root.\n"));
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
            "Cannot run as {HELPER_USER} ({}): asked as root.\n",
            escape::text(&error.to_string())
        )),
    }
}

/// What sshd gives its command of an environment (auth.c, `subprocess`): a link sees it.
fn environment(user: &User) -> [(&'static str, OsString); 4] {
    [
        ("PATH", PATH.into()),
        ("USER", user.name.clone().into()),
        ("LOGNAME", user.name.clone().into()),
        ("HOME", user.dir.clone().into()),
    ]
}

/// Who we are, for people.
pub(super) fn me() -> String {
    let uid = Uid::effective();
    match User::from_uid(uid) {
        Ok(Some(user)) => format!("{} (uid {uid})", escape::token(&user.name)),
        _ => format!("uid {uid}"),
    }
}
