//! sshd's command line: which options change what it reads, and what a check has to repeat.

use std::path::PathBuf;

use super::config::{Directive, Statement, statement};

/// Options of sshd(8) that take a value, in any version since 6.6.
const WITH_VALUE: &str = "bCcEfghkopuR";

/// Options with a value that a check repeats: configuration, host keys, overrides.
const REPEATED: &str = "cfghopu";

/// What a daemon's arguments say about its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The file of the last `-f`.
    pub config: Option<PathBuf>,
    /// Every `-o`, in order; the first of a keyword wins, over every file.
    pub overrides: Vec<String>,
    /// The arguments that `sshd -T` needs to see the same configuration.
    pub repeat: Vec<String>,
}

impl Arguments {
    /// Reads arguments, without the program's name, as getopt(3) would.
    #[must_use]
    pub fn parse(words: &[String]) -> Self {
        let mut found = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(cluster) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
                continue;
            };
            let mut letters = cluster.chars();
            while let Some(letter) = letters.next() {
                if !WITH_VALUE.contains(letter) {
                    if matches!(letter, '4' | '6') {
                        found.repeat.push(format!("-{letter}"));
                    }
                    continue;
                }
                let attached = letters.as_str().to_owned();
                let value = if attached.is_empty() {
                    words.next().cloned()
                } else {
                    Some(attached)
                };
                if let Some(value) = value {
                    found.take(letter, value);
                }
                break;
            }
        }
        found
    }

    fn take(&mut self, letter: char, value: String) {
        match letter {
            'f' => self.config = Some(PathBuf::from(&value)),
            'o' => self.overrides.push(value.clone()),
            _ => {}
        }
        if REPEATED.contains(letter) {
            self.repeat.push(format!("-{letter}"));
            self.repeat.push(value);
        }
    }

    /// The overrides as directives, for those that sshd would take.
    pub fn directives(&self) -> impl Iterator<Item = Directive> + '_ {
        self.overrides
            .iter()
            .filter_map(|text| match statement(text.as_bytes()) {
                Statement::Directive(directive) => Some(directive),
                _ => None,
            })
    }

    /// The first `-o` of this keyword (in lower case): the one that holds.
    #[must_use]
    pub fn value_of(&self, keyword: &str) -> Option<Directive> {
        self.directives().find(|directive| directive.keyword == keyword)
    }
}

/// Reads the arguments of a running sshd from `/proc/PID/cmdline`, without the program's name.
///
/// Up to OpenSSH 8.1 that is the argument vector. From 8.2 the listener shows a title instead: `sshd: PATH ARGUMENTS
/// [listener] 0 of 10-100 startups`, in which blanks inside an argument can't be told from blanks between two. There
/// an option's value is taken to end at the next word with a dash, which holds for every value that sshd knows.
#[must_use]
pub fn from_cmdline(cmdline: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(cmdline);
    let Some(title) = text.strip_prefix("sshd: ") else {
        return text
            .trim_end_matches('\0')
            .split('\0')
            .skip(1)
            .map(str::to_owned)
            .collect();
    };
    let title = title.split(['\0']).next().unwrap_or_default();
    let title = title.split(" [listener]").next().unwrap_or_default();
    let mut arguments: Vec<String> = Vec::new();
    for word in title.split_ascii_whitespace().skip(1) {
        let takes_more = arguments
            .iter()
            .rev()
            .take(2)
            .any(|last| last.starts_with("-o") || last.starts_with("-C"));
        match arguments.last_mut() {
            Some(last)
                if takes_more && !word.starts_with('-') && !(last.len() == 2 && last.starts_with('-')) =>
            {
                last.push(' ');
                last.push_str(word);
            }
            _ => arguments.push(word.to_owned()),
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Arguments {
        Arguments::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_as_getopt_reads_them() {
        let found = parsed(&[
            "-D4e",
            "-f/etc/x",
            "-o",
            "Port 22",
            "-oAuthorizedKeysCommand=/x %u",
            "-E",
            "/log",
            "-dp",
            "23",
        ]);
        assert_eq!(found.config, Some("/etc/x".into()));
        assert_eq!(found.overrides, ["Port 22", "AuthorizedKeysCommand=/x %u"]);
        assert_eq!(
            found.repeat,
            [
                "-4",
                "-f",
                "/etc/x",
                "-o",
                "Port 22",
                "-o",
                "AuthorizedKeysCommand=/x %u",
                "-p",
                "23"
            ]
        );
        assert_eq!(found.value_of("authorizedkeyscommand").unwrap().value(), "/x %u");
    }

    #[test]
    fn option_without_its_value_is_dropped() {
        assert_eq!(parsed(&["-D", "-o"]), Arguments::default());
    }

    #[test]
    fn vector_of_an_old_daemon_is_exact() {
        assert_eq!(
            from_cmdline(b"/usr/sbin/sshd\0-D\0-o\0A b\0"),
            ["-D", "-o", "A b"]
        );
    }

    #[test]
    fn title_of_a_new_daemon_is_cut_at_dashes() {
        let title = b"sshd: /usr/sbin/sshd -D -o AuthorizedKeysCommand /x %u %f -oPort 22 -p 23 [listener] 0 of 10-100 startups\0\0";
        assert_eq!(
            from_cmdline(title),
            [
                "-D",
                "-o",
                "AuthorizedKeysCommand /x %u %f",
                "-oPort 22",
                "-p",
                "23"
            ]
        );
    }
}
