//! The other implementation: a command, run as sshd would run it.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, Uid, User};

use crate::escape;
use crate::keys;

/// How long it may take: longer than any of sshd's clients waits twice, and the shell scripts need about a second.
const TIME: Duration = Duration::from_secs(10);

/// How much it may print. A key document is at most 256 KiB, and what is printed of it is less.
const MAX_BYTES: u64 = 512 * 1024;

/// How often a command that has closed its output is looked at.
const POLL: Duration = Duration::from_millis(5);

/// sshd's own search path for its command (`_PATH_STDPATH`).
const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// The longest part of a line that is no bare key which is shown.
const SHOWN: usize = 60;

/// What it came to.
#[derive(Debug)]
pub(super) struct Answer {
    /// What sshd would take, as [`Keys`].
    pub(super) keys: Keys,
    /// How it ended, where that was not exit 0.
    pub(super) note: Option<String>,
    /// Whether a login would have hung or drowned in it, whatever the keys.
    pub(super) broken: bool,
}

/// A set of keys: canonical lines of bare keys, and what other lines there were.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Keys(BTreeSet<String>);

impl Keys {
    /// The keys on `lines`.
    pub(super) fn of<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let meant = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let canonical = |line: &str| keys::bare(line).map_or_else(|| line.to_owned(), |(line, _)| line);
        Self(lines.map(str::trim).filter(meant).map(canonical).collect())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What is in this set alone.
    pub(super) fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).cloned().collect())
    }

    /// For people: fingerprints, and of a line that is no bare key its beginning. No usable key.
    pub(super) fn shown(&self) -> Vec<String> {
        let shown = |line: &String| match keys::bare(line) {
            Some((_, fingerprint)) => fingerprint.to_string(),
            None => {
                let start: String = line.chars().take(SHOWN).collect();
                format!("line \"{}\"", escape::text(&start))
            }
        };
        self.0.iter().map(shown).collect()
    }
}

/// Runs `words` for `user`, with sshd's tokens `%u`, `%f` and `%%` replaced; without any argument, as `%u %f`. An
/// argument `%f` is left out where there is no fingerprint.
///
/// # Errors
/// When it can't be started.
pub(super) fn ask(words: &[String], user: &str, fingerprint: Option<&str>) -> io::Result<Answer> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let default = ["%u".to_owned(), "%f".to_owned()];
    let arguments = if arguments.is_empty() {
        &default[..]
    } else {
        arguments
    };
    let mut command = Command::new(program);
    command
        .args(
            arguments
                .iter()
                .filter_map(|word| expanded(word, user, fingerprint)),
        )
        .env_clear()
        .envs(environment())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // So that what it leaves behind can be ended with it.
        .process_group(0);
    let started = Instant::now();
    let mut child = command.spawn()?;
    let printed = printed(&mut child, started);
    // Also whatever it started and left behind. The child itself is not reaped yet, so the group's number is still its.
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let status = child.wait()?;
    Ok(match printed {
        Err(note) => Answer {
            keys: Keys::default(),
            note: Some(note),
            broken: true,
        },
        Ok(bytes) => Answer {
            // sshd throws away what a command printed that ends in any other way.
            keys: if status.success() {
                Keys::of(String::from_utf8_lossy(&bytes).lines())
            } else {
                Keys::default()
            },
            note: ending(status),
            broken: false,
        },
    })
}

/// Reads until the output ends, then waits for the end of the command, all within [`TIME`]; else says what was amiss.
fn printed(child: &mut Child, started: Instant) -> Result<Vec<u8>, String> {
    let late = || format!("did not end within {} s", TIME.as_secs());
    let left = || TIME.saturating_sub(started.elapsed());
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take();
    // Not joined: whoever holds the other end of the pipe may be out of our reach.
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            let _ = stdout.take(MAX_BYTES.saturating_add(1)).read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    let bytes = receiver.recv_timeout(left()).map_err(|_| late())?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(format!("printed more than {MAX_BYTES} bytes"));
    }
    while !has_ended(child) {
        if left().is_zero() {
            return Err(late());
        }
        thread::sleep(POLL);
    }
    Ok(bytes)
}

/// Whether the child has ended; it stays to be waited for.
fn has_ended(child: &Child) -> bool {
    let Ok(pid) = i32::try_from(child.id()) else {
        return true;
    };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(
        waitid(Id::Pid(Pid::from_raw(pid)), flags),
        Ok(WaitStatus::StillAlive)
    )
}

/// How a command ended that sshd would call failed.
fn ending(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exit {code}, upon which sshd takes nothing")),
        (None, Some(signal)) => Some(format!("ended by signal {signal}, upon which sshd takes nothing")),
        (None, None) => Some("ended in an unknown way".to_owned()),
    }
}

/// One argument with sshd's tokens replaced; `None` where it is the fingerprint and there is none.
fn expanded(word: &str, user: &str, fingerprint: Option<&str>) -> Option<String> {
    let mut text = String::new();
    let mut parts = word.split('%');
    text.push_str(parts.next().unwrap_or_default());
    while let Some(part) = parts.next() {
        match part.chars().next() {
            Some('u') => text.push_str(user),
            Some('f') => text.push_str(fingerprint?),
            // `%%`: what stands between the two is empty.
            None => {
                text.push('%');
                text.push_str(parts.next().unwrap_or_default());
                continue;
            }
            Some(_) => {
                text.push('%');
                text.push_str(part);
                continue;
            }
        }
        text.push_str(part.get(1..).unwrap_or_default());
    }
    Some(text)
}

/// What sshd gives to its command (`subprocess` in OpenSSH's misc.c).
fn environment() -> Vec<(&'static str, String)> {
    let me = User::from_uid(Uid::effective()).ok().flatten();
    let (name, home) = me.map_or_else(
        || (Uid::effective().to_string(), "/".to_owned()),
        |user| (user.name, user.dir.to_string_lossy().into_owned()),
    );
    vec![
        ("PATH", PATH.to_owned()),
        ("USER", name.clone()),
        ("LOGNAME", name),
        ("HOME", home),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_replaced_as_sshd_does() {
        let with = |word| expanded(word, "alice", Some("SHA256:x"));
        assert_eq!(with("%u").as_deref(), Some("alice"));
        assert_eq!(with("%f").as_deref(), Some("SHA256:x"));
        assert_eq!(with("a%ub%f").as_deref(), Some("aalicebSHA256:x"));
        assert_eq!(with("%%u").as_deref(), Some("%u"));
        assert_eq!(with("100%%").as_deref(), Some("100%"));
        assert_eq!(with("plain").as_deref(), Some("plain"));
        assert_eq!(expanded("%f", "alice", None), None);
        assert_eq!(expanded("%u", "alice", None).as_deref(), Some("alice"));
    }

    #[test]
    fn keys_are_compared_by_what_they_are_and_other_lines_as_they_stand() {
        const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
        let plain = Keys::of([KEY].into_iter());
        let commented = format!("{KEY} somebody@somewhere");
        assert_eq!(plain, Keys::of(["", "# a comment", &commented, KEY].into_iter()));
        let restricted = format!("restrict {KEY}");
        let other = Keys::of([restricted.as_str()].into_iter());
        assert_eq!(other.without(&plain).len(), 1);
        assert_eq!(
            plain.without(&other).shown(),
            ["SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ"]
        );
        assert!(other.shown()[0].starts_with("line \"restrict"));
    }
}
