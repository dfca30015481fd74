//! What `/proc/PID/stat` says of a process, as far as it is asked (proc_pid_stat(5)).
//!
//! The process itself chooses its name, of any bytes: it may be no text, or read like the fields that follow it.

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its pid, field 1.
    pub pid: u32,
    /// Its name, field 2: 15 bytes at most; what is no text is replaced.
    pub name: String,
    /// Its parent's pid, field 4; 0 where that is outside of our pid namespace.
    pub parent: u32,
    /// When it started, field 22: clock ticks since the boot.
    pub start: u64,
}

impl Stat {
    /// Which field behind the name is the parent: field 4 is the second.
    const PARENT: usize = 1;

    /// And which the start time: field 22 is the 20th.
    const START: usize = 19;

    /// Reads the file's text. The name stands in parentheses and may hold some itself, and blanks: it ends with the
    /// last one.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(text);
        let (pid, rest) = text.split_once(' ')?;
        let (name, fields) = rest.strip_prefix('(')?.rsplit_once(')')?;
        let fields = fields.strip_prefix(' ')?;
        let field = |at: usize| fields.trim_end_matches('\n').split(' ').nth(at);
        Some(Self {
            pid: decimal(pid)?,
            name: name.to_owned(),
            parent: decimal(field(Self::PARENT)?)?,
            start: decimal(field(Self::START)?)?,
        })
    }
}

/// A number in decimal digits, without a sign, which `parse` would take.
pub(crate) fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4711 (sshd) S 1 4711 4711 0 -1 4194560 951 0 0 0 1 0 0 0 20 0 1 0 123456 15921152 2300 \
                        18446744073709551615 1 1 0 0 0 0 0 4096 81925 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn pid_name_parent_and_start_time_are_read() {
        let process = Stat::parse(STAT.as_bytes()).unwrap();
        assert_eq!(
            process,
            Stat {
                pid: 4711,
                name: "sshd".to_owned(),
                parent: 1,
                start: 123_456
            }
        );
    }

    #[test]
    fn a_name_that_looks_like_the_rest_of_the_line_is_only_a_name() {
        let forged = STAT.replace("(sshd)", "(sshd) S 2 2 2) R (x)");
        let process = Stat::parse(forged.as_bytes()).unwrap();
        assert_eq!(
            (process.name.as_str(), process.parent, process.start),
            ("sshd) S 2 2 2) R (x", 1, 123_456)
        );
    }

    #[test]
    fn a_name_that_is_no_text_hides_nothing() {
        let mut bytes = STAT.as_bytes().to_vec();
        bytes.splice(6..10, *b"\xff\xfe");
        let process = Stat::parse(&bytes).unwrap();
        assert_eq!((process.pid, process.parent), (4711, 1));
        assert_eq!(process.name, "\u{fffd}\u{fffd}");
    }

    #[test]
    fn our_own_line_is_understood() {
        let process = Stat::parse(&std::fs::read("/proc/self/stat").unwrap()).unwrap();
        assert_eq!(process.pid, std::process::id());
        assert_eq!(process.parent, std::os::unix::process::parent_id());
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
            "1 (sshd) S -1 4711 4711 0 -1 4194560 951 0 0 0 1 0 0 0 20 0 1 0 123456 1",
            "1 (sshd) S 1 4711 4711 0 -1 4194560 951 0 0 0 1 0 0 0 20 0 1 0 -5 1",
        ] {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text}");
        }
    }
}
