//! A connection: the sshd process that runs us, by pid and start time.
//!
//! sshd's privileged monitor of the connection is our parent, for the probe and for the signature alike, and its pid is
//! the one in `sshd[PID]: Accepted publickey` (OpenSSH `subprocess` in misc.c; `sshd` up to 9.7, `sshd-session` from
//! 9.8). The start time tells it from a later process of the same pid.

use std::fmt;
use std::path::Path;

use rustix::process::getppid;

use super::unavailable;
use crate::escape;
use crate::file::{self, FileError};
use crate::reason::Refusal;
use crate::stat::{Stat, decimal};

/// What the process of a connection is called.
const SSHD: [&str; 2] = ["sshd", "sshd-session"];

/// `/proc/PID/stat` has some 52 numbers and `/proc/PID/status` some 60 lines: a tenth of this.
const MAX_BYTES: u64 = 16 * 1024;

/// One connection to sshd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// The pid of its monitor.
    pub pid: u32,
    /// When that process started, in clock ticks since the boot.
    pub start: u64,
}

impl Connection {
    /// The connection that this process was started for.
    ///
    /// # Errors
    /// [`crate::reason::Reason::OneTimeUnavailable`] where the parent cannot be seen, or is not root's sshd.
    pub fn of_parent() -> Result<Self, Refusal> {
        // None where the parent is outside of our pid namespace.
        let parent = getppid();
        let pid = parent.and_then(|parent| u32::try_from(parent.as_raw_pid()).ok());
        let pid = pid.ok_or_else(|| unavailable("the parent process is out of sight"))?;
        let process = read(pid, "stat").and_then(|text| {
            Stat::parse(&text).ok_or_else(|| unavailable(format!("/proc/{pid}/stat cannot be understood")))
        })?;
        let status = read(pid, "status")?;
        // While it is our parent no other process can have its pid: what was read is of the one that started us.
        if getppid() != parent || process.pid != pid {
            return Err(unavailable("the parent process has ended"));
        }
        if !SSHD.contains(&process.name.as_str()) {
            let detail = format!(
                "the parent process is {}, not sshd: a wrapper must exec the helper",
                escape::token(&process.name)
            );
            return Err(unavailable(detail));
        }
        if !is_root(&status) {
            return Err(unavailable("the parent process is not root's"));
        }
        Ok(Self {
            pid,
            start: process.start,
        })
    }

    /// Reads what [`fmt::Display`] writes, and nothing else.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (pid, start) = std::str::from_utf8(text).ok()?.split_once('-')?;
        let connection = Self {
            pid: decimal(pid)?,
            start: decimal(start)?,
        };
        (connection.to_string().as_bytes() == text).then_some(connection)
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.start)
    }
}

/// Whether `/proc/PID/status` says that the real user is root. The effective one is the run-as user while sshd reads
/// what its command prints (`temporarily_use_uid` in OpenSSH's auth2-pubkey.c).
fn is_root(status: &[u8]) -> bool {
    let status = String::from_utf8_lossy(status);
    // The name, which could hold anything, has its newlines escaped there.
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.unwrap_or_default().split_ascii_whitespace().next() == Some("0")
}

/// Whether a process of root's can be seen, as the connection's must be: every system has one of pid 1.
///
/// # Errors
/// [`crate::reason::Reason::OneTimeUnavailable`].
pub(super) fn proc_is_visible() -> Result<(), Refusal> {
    read(1, "stat").map(|_| ())
}

fn read(pid: u32, file: &str) -> Result<Vec<u8>, Refusal> {
    let path = format!("/proc/{pid}/{file}");
    file::read_kernel(Path::new(&path), MAX_BYTES).map_err(|error| {
        let why = match error {
            FileError::NotFound => "hidden or not mounted (hidepid)".to_owned(),
            other => format!("{other} (hidepid)"),
        };
        unavailable(format!("{path}: {why}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_who_really_is() {
        for (line, root) in [
            ("Name:\tsshd\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n", true),
            ("Uid:\t1000\t0\t0\t0\n", false),
            ("Uid:\t0\t1000\t0\t0\n", true),
            ("Name:\tx\\nUid:\\t0\nUid:\t1000\t1000\t1000\t1000\n", false),
            ("Uid:\t\n", false),
            ("", false),
        ] {
            assert_eq!(is_root(line.as_bytes()), root, "{line:?}");
        }
    }

    #[test]
    fn a_claimant_is_read_and_written_alike_and_nothing_else_is_one() {
        let text = "4711-123456";
        assert_eq!(Connection::parse(text.as_bytes()).unwrap().to_string(), text);
        for text in [
            "",
            "-",
            "4711",
            "4711-",
            "04711-1",
            "+1-1",
            "1-1\n",
            "1-1-1",
            "/etc/passwd",
            "4294967296-1",
        ] {
            assert_eq!(Connection::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_test_program_has_no_sshd_for_a_parent() {
        let refusal = Connection::of_parent().unwrap_err();
        assert_eq!(refusal.reason, crate::reason::Reason::OneTimeUnavailable);
    }
}
