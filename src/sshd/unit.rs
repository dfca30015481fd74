//! systemd's side of sshd's arguments: unit files, environment files, and what `ExecStart=` becomes.
//!
//! Only what a real sshd unit uses is understood: continuation lines, quotes, `%%`, `$NAME`, `${NAME}` and resets
//! (systemd.service(5), systemd.exec(5)). Other specifiers stay as they are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::args::Arguments;
use super::call::Call;
use super::{RUN_AS, tree::Place};

/// One unit file: the fragment or a drop-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFile {
    /// Its path.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// An assignment in a unit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Section without brackets.
    pub section: String,
    /// Left of `=`.
    pub key: String,
    /// Right of it, continuation lines joined.
    pub value: String,
    /// One-based line on which it starts.
    pub line: usize,
}

/// What a unit starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// Program and arguments, expanded.
    pub argv: Vec<String>,
    /// `Environment=` and the environment files, merged.
    pub environment: BTreeMap<String, String>,
    /// Where the `ExecStart=` that counts stands.
    pub place: Option<Place>,
}

/// Reads a unit file's assignments.
#[must_use]
pub fn assignments(bytes: &[u8]) -> Vec<Assignment> {
    let text = String::from_utf8_lossy(bytes);
    let mut found = Vec::new();
    let mut section = String::new();
    let mut lines = text.lines().zip(1_usize..);
    while let Some((first, number)) = lines.next() {
        let first = first.trim();
        if first.is_empty() || first.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = first.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
            continue;
        }
        let mut whole = first.to_owned();
        while let Some(stem) = whole.strip_suffix('\\').map(str::to_owned) {
            let Some((more, _)) = lines.next() else { break };
            // Comments between continued lines are skipped (systemd.syntax(7)).
            let more = more.trim();
            whole = if more.starts_with(['#', ';']) {
                format!("{stem}\\")
            } else {
                format!("{stem} {more}")
            };
        }
        if let Some((key, value)) = whole.split_once('=') {
            found.push(Assignment {
                section: section.clone(),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
                line: number,
            });
        }
    }
    found
}

/// What the unit would start: its files in the order in which systemd reads them, and a reader of environment files.
#[must_use]
pub fn start(files: &[UnitFile], environment_file: &dyn Fn(&str) -> Option<Vec<u8>>) -> Start {
    let mut from_unit = BTreeMap::new();
    let mut env_files: Vec<String> = Vec::new();
    let mut commands: Vec<(String, Place)> = Vec::new();
    for file in files {
        for found in assignments(&file.bytes)
            .into_iter()
            .filter(|found| found.section == "Service")
        {
            match (found.key.as_str(), found.value.is_empty()) {
                ("ExecStart", true) => commands.clear(),
                ("ExecStart", false) => {
                    commands.push((
                        found.value,
                        Place {
                            file: file.path.clone(),
                            line: found.line,
                        },
                    ));
                }
                ("Environment", true) => from_unit.clear(),
                ("Environment", false) => {
                    for word in words(&found.value) {
                        if let Some((name, value)) = word.split_once('=') {
                            from_unit.insert(name.to_owned(), value.to_owned());
                        }
                    }
                }
                ("EnvironmentFile", true) => env_files.clear(),
                ("EnvironmentFile", false) => env_files.push(found.value.trim_start_matches('-').to_owned()),
                _ => {}
            }
        }
    }
    // Files are read late and beat Environment= (systemd.exec(5)).
    let mut environment = from_unit;
    for path in env_files {
        environment.extend(
            environment_file(&path)
                .map(|bytes| parse_environment(&bytes))
                .unwrap_or_default(),
        );
    }
    let Some((command, place)) = commands.into_iter().last() else {
        return Start {
            environment,
            ..Start::default()
        };
    };
    let argv = expand(&command, &environment);
    Start {
        argv,
        environment,
        place: Some(place),
    }
}

/// An environment file: `NAME=value` lines, quotes removed, a backslash at the end joining lines.
#[must_use]
pub fn parse_environment(bytes: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(bytes).replace("\\\n", "");
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), unquoted(value.trim())))
        .collect()
}

/// The value of an environment file's line: quoted parts without their quotes, blanks inside kept.
fn unquoted(text: &str) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', Some('"') | None) => out.extend(letters.next()),
            ('"' | '\'', None) => quote = Some(letter),
            (_, Some(open)) if letter == open => quote = None,
            _ => out.push(letter),
        }
    }
    out
}

/// Cuts a command line into words: single and double quotes, backslash escapes (systemd.syntax(7)).
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', _) => {
                let escaped = letters.next();
                let escaped = match escaped {
                    Some('n') => Some('\n'),
                    Some('t') => Some('\t'),
                    Some('s') => Some(' '),
                    other => other,
                };
                word.get_or_insert_default().extend(escaped);
            }
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (_, Some(open)) if letter == open => quote = None,
            (_, None) if letter.is_ascii_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// `ExecStart=` as an argument vector: prefixes off, `%%` and variables expanded.
fn expand(command: &str, environment: &BTreeMap<String, String>) -> Vec<String> {
    let command = command.trim_start_matches(['@', '-', ':', '+', '!', '|']);
    let mut argv = Vec::new();
    for word in words(command) {
        let word = word.replace("%%", "%");
        match word.strip_prefix('$') {
            // A variable that is a word of its own becomes as many words as it holds.
            Some(name) if is_name(name) => {
                argv.extend(words(
                    environment.get(name).map(String::as_str).unwrap_or_default(),
                ));
            }
            _ => argv.push(substitute(&word, environment)),
        }
    }
    argv
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

fn substitute(word: &str, environment: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        match after.split_once('}') {
            Some((name, tail)) => {
                out.push_str(environment.get(name).map(String::as_str).unwrap_or_default());
                rest = tail;
            }
            None => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// The override that the reference's deb and rpm leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Override {
    /// Its shape and nothing else: may be taken away.
    Whole {
        /// The command it names.
        command: &'static str,
    },
    /// It carries one of the reference's `-o`, and something of somebody else's.
    Modified {
        /// The line with it.
        line: usize,
    },
}

/// Whether a drop-in is the reference's `ExecStart=` override. `None` when it names no command of ours.
#[must_use]
pub fn reference_override(bytes: &[u8]) -> Option<Override> {
    let found = assignments(bytes);
    let argv = |one: &Assignment| Arguments::parse(&expand(&one.value, &BTreeMap::new()));
    let command = |one: &Assignment| {
        argv(one)
            .value_of("authorizedkeyscommand")
            .and_then(|it| Call::parse(&it.value()))
            .map(|call| call.path)
    };
    let (line, known) = found
        .iter()
        .find_map(|one| command(one).map(|known| (one.line, known)))?;
    let whole = match found.as_slice() {
        [reset, start] => {
            let arguments = argv(start);
            let mut keywords: Vec<String> = arguments.directives().map(|it| it.keyword).collect();
            keywords.sort();
            let user = arguments
                .value_of("authorizedkeyscommanduser")
                .map(|it| it.first_word());
            [reset, start]
                .iter()
                .all(|one| one.section == "Service" && one.key == "ExecStart")
                && reset.value.is_empty()
                && keywords == ["authorizedkeyscommand", "authorizedkeyscommanduser"]
                && arguments.config.is_none()
                && user.as_deref() == Some(RUN_AS)
        }
        _ => false,
    };
    Some(if whole {
        Override::Whole { command: known }
    } else {
        Override::Modified { line }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sshd::COMMANDS;

    const DEB: &[u8] = br#"[Service]
ExecStart=
ExecStart=/usr/sbin/sshd -D -o "AuthorizedKeysCommand /usr/share/ec2-instance-connect/eic_run_authorized_keys %%u %%f" -o "AuthorizedKeysCommandUser ec2-instance-connect" $SSHD_OPTS
"#;

    fn file(path: &str, text: &[u8]) -> UnitFile {
        UnitFile {
            path: path.into(),
            bytes: text.to_vec(),
        }
    }

    fn env(path: &str) -> Option<Vec<u8>> {
        (path == "/etc/default/ssh").then(|| b"# x\nSSHD_OPTS='-o \"Port 22\" -4'\n".to_vec())
    }

    #[test]
    fn variable_alone_becomes_words() {
        let unit = b"[Service]\nEnvironmentFile=-/etc/default/ssh\nExecStart=-/usr/sbin/sshd -D \\\n  $SSHD_OPTS ${NONE}x\n";
        let start = start(&[file("/u", unit)], &env);
        assert_eq!(start.argv, ["/usr/sbin/sshd", "-D", "-o", "Port 22", "-4", "x"]);
        assert_eq!(start.place.unwrap().line, 3);
    }

    #[test]
    fn empty_assignment_resets_the_start() {
        let fragment = b"[Service]\nEnvironment=SSHD_OPTS=-6\nExecStart=/usr/sbin/sshd -D -p 23\n";
        let start = start(&[file("/u", fragment), file("/u.d/x.conf", DEB)], &|_| None);
        assert_eq!(start.argv.len(), 7);
        assert_eq!(
            start.argv[3],
            "AuthorizedKeysCommand /usr/share/ec2-instance-connect/eic_run_authorized_keys %u %f"
        );
        assert_eq!(start.argv[6], "-6");
    }

    #[test]
    fn references_override_is_known() {
        assert_eq!(
            reference_override(DEB),
            Some(Override::Whole { command: COMMANDS[0] })
        );
        let rpm = String::from_utf8_lossy(DEB).replace("/usr/share/ec2-instance-connect", "/opt/aws/bin");
        assert_eq!(
            reference_override(rpm.as_bytes()),
            Some(Override::Whole { command: COMMANDS[1] })
        );
    }

    #[test]
    fn edited_override_is_somebody_elses_too() {
        let more = [DEB, b"LimitNOFILE=9\n"].concat();
        assert_eq!(reference_override(&more), Some(Override::Modified { line: 3 }));
        let option = String::from_utf8_lossy(DEB).replace("-D -o", "-D -o \"Port 23\" -o");
        assert_eq!(
            reference_override(option.as_bytes()),
            Some(Override::Modified { line: 3 })
        );
    }

    #[test]
    fn other_override_is_not_ours() {
        assert_eq!(
            reference_override(
                b"[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D -o \"AuthorizedKeysCommand /x\"\n"
            ),
            None
        );
    }
}
