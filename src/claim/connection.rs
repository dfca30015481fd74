//! A connection: the sshd process that runs us, by pid and start time.
//!
//! sshd's privileged monitor of the connection is our parent, for the probe and for the signature alike, and its pid is
//! the one in `sshd[PID]: Accepted publickey` (OpenSSH `subprocess` in misc.c; `sshd` up to 9.7, `sshd-session` from
//! 9.8). The start time tells it from a later process of the same pid.

use std::fmt;
use std::path::Path;

use nix::unistd::getppid;

use super::{name, unavailable};
use crate::escape;
use crate::file::{self, FileError};
use crate::reason::Refusal;

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
        let parent = getppid();
        // 0 where the parent is outside of our pid namespace.
        let pid = u32::try_from(parent.as_raw()).ok().filter(|pid| *pid > 0);
        let pid = pid.ok_or_else(|| unavailable("the parent process is out of sight"))?;
        let process = read(pid, "stat").and_then(|text| {
            Process::parse(&text).ok_or_else(|| unavailable(format!("/proc/{pid}/stat cannot be understood")))
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
            pid: name::decimal(pid)?,
            start: name::decimal(start)?,
        };
        (connection.to_string().as_bytes() == text).then_some(connection)
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.start)
    }
}

/// What `/proc/PID/stat` says of a process, as far as it is asked (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid, field 1.
    pub pid: u32,
    /// Its name, field 2: 15 bytes at most, which the process itself may choose.
    pub name: String,
    /// When it started, field 22: clock ticks since the boot.
    pub start: u64,
}

impl Process {
    /// Which field behind the name is the start time: field 22 is the 20th.
    const START: usize = 19;

    /// Reads the file's text. The name stands in parentheses and may hold some itself, and blanks: it ends with the
    /// last one.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let (pid, rest) = text.split_once(" (")?;
        let (name, fields) = rest.rsplit_once(") ")?;
        Some(Self {
            pid: name::decimal(pid)?,
            name: name.to_owned(),
            start: name::decimal(fields.trim_end_matches('\n').split(' ').nth(Self::START)?)?,
        })
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

    const STAT: &str = "4711 (sshd) S 1 4711 4711 0 -1 4194560 951 0 0 0 1 0 0 0 20 0 1 0 123456 15921152 2300 \
                        18446744073709551615 1 1 0 0 0 0 0 4096 81925 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn pid_name_and_start_time_are_read() {
        let process = Process::parse(STAT.as_bytes()).unwrap();
        assert_eq!(
            process,
            Process {
                pid: 4711,
                name: "sshd".to_owned(),
                start: 123_456
            }
        );
    }

    #[test]
    fn a_name_that_looks_like_the_rest_of_the_line_is_only_a_name() {
        let forged = STAT.replace("(sshd)", "(sshd) S 1 1 1) R (x)");
        let process = Process::parse(forged.as_bytes()).unwrap();
        assert_eq!(
            (process.name.as_str(), process.start),
            ("sshd) S 1 1 1) R (x", 123_456)
        );
        assert!(!SSHD.contains(&process.name.as_str()));
    }

    #[test]
    fn our_own_line_is_understood() {
        let process = Process::parse(&std::fs::read("/proc/self/stat").unwrap()).unwrap();
        assert_eq!(process.pid, std::process::id());
        assert!(process.start > 0);
    }

    #[test]
    fn everything_else_is_no_process() {
        for text in [
            "",
            "4711",
            "4711 (sshd",
            "4711 (sshd) S 1",
            "(sshd) S 1 4711 4711 0 -1 4194560 951 0 0 0 1 0 0 0 20 0 1 0 123456 1",
            "-1 (sshd) S 1 4711 4711 0 -1 4194560 951 0 0 0 1 0 0 0 20 0 1 0 123456 1",
            "1 (sshd) S 1 4711 4711 0 -1 4194560 951 0 0 0 1 0 0 0 20 0 1 0 -5 1",
        ] {
            assert_eq!(Process::parse(text.as_bytes()), None, "{text}");
        }
    }

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
