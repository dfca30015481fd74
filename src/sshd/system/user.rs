//! Becoming another user: with all his groups, in the environment that sshd gives its command, and as this program anew.
//!
//! sshd gives its command every group of the command's user (misc.c, `subprocess`: initgroups(3)). A process can take
//! groups for itself alone, so a copy of this program starts as root, takes them, becomes the user and executes itself
//! with the rest of its words.

use std::ffi::{CString, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::unistd::{User, initgroups, setresgid, setresuid};

use crate::link::keeper::THIS_PROGRAM;

use super::run::PATH;

/// The first word of a call that becomes another user: his name follows, and then the words of the call itself.
pub const WORD: &str = "--as";

/// Becomes the user and this program anew, if that is what the arguments (without the program's name) ask for. Comes back
/// only with what was in the way.
pub fn asked(mut arguments: impl Iterator<Item = OsString>) -> Option<io::Error> {
    if arguments.next()? != WORD {
        return None;
    }
    let name = arguments.next()?.into_string().ok()?;
    Some(match become_user(&name) {
        Ok(()) => again().args(arguments).exec(),
        Err(error) => error,
    })
}

/// This program, to be started again.
#[must_use]
pub fn again() -> Command {
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0("ec2-instance-connect");
    command
}

/// What sshd gives its command of an environment, by the command's user, but for `LANG`.
#[must_use]
pub fn environment(user: &User) -> [(&'static str, OsString); 4] {
    [
        ("PATH", PATH.into()),
        ("USER", user.name.clone().into()),
        ("LOGNAME", user.name.clone().into()),
        ("HOME", user.dir.clone().into()),
    ]
}

fn become_user(name: &str) -> io::Result<()> {
    let user = User::from_name(name)?.ok_or(ErrorKind::NotFound)?;
    initgroups(&CString::new(name)?, user.gid)?;
    setresgid(user.gid, user.gid, user.gid)?;
    Ok(setresuid(user.uid, user.uid, user.uid)?)
}
