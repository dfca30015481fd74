//! Links: other commands that are asked for keys, since sshd has room for one `AuthorizedKeysCommand`.
//!
//! ```text
//! [[chain]] ──▶ Link ──(sshd's words)──▶ keeper ──▶ the command
//!                                          │
//!                         lines ◀── output ┘     passed on as they are, or not at all
//! ```
//!
//! This module is a link as an administrator wrote it, and its arguments for one login. [`run`] starts links and takes
//! what they gave, [`keeper`] is the process between us and a command, [`lines`] says what may be passed on. Whatever a
//! link does costs none of our own keys.

pub mod keeper;
pub mod lines;
pub mod process;
pub mod run;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::{TimeLimit, milliseconds};
use crate::reason::{Reason, Refusal};
use crate::request::Words;
use crate::sshd::call;

/// More than anybody has sources of keys; each costs two processes in every login.
const MAX_LINKS: usize = 8;

/// As the word in a log line.
const MAX_NAME: usize = 32;

/// A link holds up the login for as long; sssd answers from its cache within milliseconds, from a directory within
/// some hundred. The most is the longest whole that can be configured.
pub(crate) const TIMEOUT: TimeLimit = TimeLimit {
    key: "timeout_ms",
    default: 1000,
    least: 50,
    most: 10_000,
};

/// Programs whose argument behind `-c` is a program text, where a login name must never stand.
const SHELLS: [&str; 9] = ["sh", "bash", "dash", "ksh", "mksh", "zsh", "ash", "fish", "csh"];

/// One `[[chain]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What the log calls it.
    pub name: String,
    /// When its lines are passed on.
    pub when: When,
    /// How long it is waited for, from its start.
    pub timeout: Duration,
    command: Template,
}

/// `when`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// At every login.
    Always,
    /// Only where EC2 Instance Connect gives no key.
    NoKey,
}

/// The words of a command: the program, which is fixed, and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    program: PathBuf,
    arguments: Vec<Vec<Piece>>,
}

/// A part of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Token(Token),
}

/// One of sshd's tokens (sshd_config(5), TOKENS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// `%u`, the login name.
    User,
    /// `%f`, the offered key's fingerprint.
    Fingerprint,
    /// `%h`, the home directory.
    Home,
    /// `%k`, the offered key in base64.
    Key,
    /// `%t`, the offered key's type.
    KeyType,
}

impl Token {
    const ALL: [Self; 5] = [
        Self::User,
        Self::Fingerprint,
        Self::Home,
        Self::Key,
        Self::KeyType,
    ];

    const fn letter(self) -> char {
        match self {
            Self::User => 'u',
            Self::Fingerprint => 'f',
            Self::Home => 'h',
            Self::Key => 'k',
            Self::KeyType => 't',
        }
    }

    /// What the token is in this login, if sshd's line says.
    fn value(self, words: &Words) -> Option<&OsStr> {
        match self {
            Self::User => Some(&words.user),
            Self::Fingerprint => words.fingerprint.as_deref(),
            Self::Home => words.home.as_deref(),
            Self::Key => words.key.as_deref(),
            Self::KeyType => words.key_type.as_deref(),
        }
    }
}

impl Link {
    /// The program and its arguments, as they are written.
    #[must_use]
    pub const fn command(&self) -> &Template {
        &self.command
    }

    /// Those of sshd's tokens that our own line has to pass for this link; name and fingerprint it always passes.
    pub fn sshd_tokens(&self) -> impl Iterator<Item = call::Token> {
        self.command.tokens().filter_map(|token| match token {
            Token::User | Token::Fingerprint => None,
            Token::Home => Some(call::Token::Home),
            Token::Key => Some(call::Token::Key),
            Token::KeyType => Some(call::Token::KeyType),
        })
    }
}

impl Template {
    /// A command from its words.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn new(words: &[String]) -> Result<Self, String> {
        let Some((program, arguments)) = words.split_first() else {
            return Err("command is empty".to_owned());
        };
        if !program.starts_with('/') || program.contains('\0') {
            return Err("a command begins with the absolute path of a program".to_owned());
        }
        let program = PathBuf::from(program);
        let arguments: Vec<Vec<Piece>> = arguments
            .iter()
            .map(|word| pieces(word))
            .collect::<Result<_, _>>()?;
        let command = Self { program, arguments };
        if command.has_token_in_a_program_text() {
            return Err(
                "what stands behind -c is a shell's program text: a token in it would let whoever chooses \
                        the name write it; pass it as an argument of its own behind the text, and use \"$1\""
                    .to_owned(),
            );
        }
        Ok(command)
    }

    /// The words that make this command again.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let word = |pieces: &Vec<Piece>| pieces.iter().map(ToString::to_string).collect();
        let program = self.program.display().to_string();
        std::iter::once(program)
            .chain(self.arguments.iter().map(word))
            .collect()
    }

    /// The program's path.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The tokens in use.
    pub fn tokens(&self) -> impl Iterator<Item = Token> {
        self.arguments.iter().flatten().filter_map(|piece| match piece {
            Piece::Token(token) => Some(*token),
            Piece::Text(_) => None,
        })
    }

    /// The arguments for one login. A token's value is never split and never interpreted.
    ///
    /// # Errors
    /// [`Reason::LinkToken`] where sshd's line does not pass a token, or where its value is empty or begins with a hyphen:
    /// sshd would hand it over, and the command could take it, or the text behind it, for an option.
    pub fn expand(&self, words: &Words) -> Result<Vec<OsString>, Refusal> {
        let argument = |pieces: &Vec<Piece>| {
            let mut argument = OsString::new();
            for piece in pieces {
                match piece {
                    Piece::Text(text) => argument.push(text),
                    Piece::Token(token) => argument.push(value(*token, words)?),
                }
            }
            Ok(argument)
        };
        self.arguments.iter().map(argument).collect()
    }

    fn has_token_in_a_program_text(&self) -> bool {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        let is_option = |pieces: &[Piece]| {
            matches!(pieces, [Piece::Text(text)]
                if text.starts_with('-') && !text.starts_with("--") && text.contains('c'))
        };
        let text = self
            .arguments
            .windows(2)
            .find(|pair| matches!(pair, [first, _] if is_option(first)));
        SHELLS.contains(&name.as_ref())
            && text.is_some_and(|pair| {
                pair.iter()
                    .flatten()
                    .any(|piece| matches!(piece, Piece::Token(_)))
            })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(" "))
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&text.replace('%', "%%")),
            Self::Token(token) => write!(f, "%{}", token.letter()),
        }
    }
}

fn value(token: Token, words: &Words) -> Result<&OsStr, Refusal> {
    let refused = |why: &str| {
        let detail = format!("%{} {why}", token.letter());
        Err(Refusal::new(Reason::LinkToken, detail))
    };
    match token.value(words) {
        None => refused("is not on sshd's line; run `ec2-instance-connect setup apply`"),
        Some(value) if value.is_empty() => refused("is empty"),
        Some(value) if value.as_bytes().starts_with(b"-") => {
            refused("begins with a hyphen, which a command could take for an option")
        }
        Some(value) => Ok(value),
    }
}

/// Cuts an argument at its tokens; `%%` is a percent sign.
fn pieces(word: &str) -> Result<Vec<Piece>, String> {
    if word.contains('\0') {
        return Err("an argument has a NUL".to_owned());
    }
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut letters = word.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let next = letters.next();
        if next == Some('%') {
            text.push('%');
            continue;
        }
        let Some(token) = Token::ALL.into_iter().find(|token| Some(token.letter()) == next) else {
            let next = next.map(String::from).unwrap_or_default();
            return Err(format!("%{next} is not one of %u, %f, %h, %k, %t and %%"));
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Token(token));
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// The table's form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default, deserialize_with = "name")]
    name: Option<String>,
    #[serde(deserialize_with = "command")]
    command: Template,
    #[serde(default, deserialize_with = "timeout")]
    timeout_ms: Option<Duration>,
    when: Option<When>,
}

/// Reads all `[[chain]]` tables.
pub(crate) fn from_tables<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Vec<Link>, D::Error> {
    let tables = Vec::<Table>::deserialize(source)?;
    let wrong = serde::de::Error::custom;
    if tables.len() > MAX_LINKS {
        return Err(wrong(format!("there may be {MAX_LINKS} links")));
    }
    let mut links: Vec<Link> = Vec::new();
    for table in tables {
        let of_program = || {
            table
                .command
                .program
                .file_name()?
                .to_str()
                .filter(|name| is_name(name))
        };
        let Some(name) = table.name.as_deref().or_else(of_program) else {
            return Err(wrong(
                "the program's name is none for a log: give the link a name".to_owned(),
            ));
        };
        if links.iter().any(|link| link.name == name) {
            return Err(wrong(format!("two links are called {name}: give each a name")));
        }
        links.push(Link {
            name: name.to_owned(),
            when: table.when.unwrap_or(When::Always),
            timeout: table.timeout_ms.unwrap_or(Duration::from_millis(TIMEOUT.default)),
            command: table.command,
        });
    }
    Ok(links)
}

/// Whether a name can stand in a log line as one plain word.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain)
}

fn name<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(source)?;
    if is_name(&name) {
        Ok(Some(name))
    } else {
        Err(serde::de::Error::custom(format!(
            "a name is 1 to {MAX_NAME} of A-Z a-z 0-9 . _ -"
        )))
    }
}

fn command<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Template, D::Error> {
    let words = Vec::<String>::deserialize(source)?;
    Template::new(&words).map_err(serde::de::Error::custom)
}

fn timeout<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    milliseconds(source, &TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn template(words: &[&str]) -> Result<Template, String> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        Template::new(&words)
    }

    fn words(user: &str) -> Words {
        Words {
            user: user.into(),
            fingerprint: Some("SHA256:x".into()),
            home: Some("/home/a b".into()),
            key: Some("AAAA".into()),
            key_type: Some("ssh-ed25519".into()),
            connection: None,
        }
    }

    #[test]
    fn tokens_become_words_that_nothing_splits() {
        let template = template(&["/bin/x", "%u", "--dir=%h/.ssh", "100%%", "%t:%k", "%f", ""]).unwrap();
        assert_eq!(
            template.expand(&words("a b;$(c)")).unwrap(),
            [
                "a b;$(c)",
                "--dir=/home/a b/.ssh",
                "100%",
                "ssh-ed25519:AAAA",
                "SHA256:x",
                ""
            ]
        );
        assert_eq!(template.to_string(), "/bin/x %u --dir=%h/.ssh 100%% %t:%k %f ");
    }

    #[test]
    fn a_name_that_could_be_an_option_reaches_no_command() {
        for command in [["/bin/x", "%u"], ["/bin/x", "--user=%u"]] {
            let template = template(&command).unwrap();
            assert_eq!(
                template.expand(&words("-x")).unwrap_err().reason,
                Reason::LinkToken
            );
            assert!(template.expand(&words("x-")).is_ok());
        }
    }

    #[test]
    fn a_token_that_sshd_does_not_pass_is_refused() {
        let bare = Words {
            user: "a".into(),
            ..Words::default()
        };
        for token in ["%f", "%h", "%k", "%t"] {
            let template = template(&["/bin/x", token]).unwrap();
            let refusal = template.expand(&bare).unwrap_err();
            assert_eq!(refusal.reason, Reason::LinkToken);
            assert!(refusal.detail.starts_with(token));
        }
        assert!(template(&["/bin/x", "%u"]).unwrap().expand(&bare).is_ok());
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for (command, word) in [
            (&[][..], "empty"),
            (&["x"], "absolute"),
            (&["%u"], "absolute"),
            (&["/bin/x", "%"], "%"),
            (&["/bin/x", "%C"], "%C"),
            (&["/bin/x", "a%"], "not one of"),
            (&["/bin/x", "a\0b"], "NUL"),
            (&["/bin/sh", "-c", "keys %u"], "program text"),
            (&["/usr/bin/bash", "-e", "-euc", "%u"], "program text"),
        ] {
            let error = template(command).unwrap_err();
            assert!(error.contains(word), "{command:?}: {error}");
        }
        for command in [
            &["/bin/sh", "-c", "keys \"$1\"", "sh", "%u"][..],
            &["/bin/sh", "/opt/keys", "%u"],
            &["/opt/x", "-c", "%u"],
        ] {
            assert!(template(command).is_ok(), "{command:?}");
        }
    }

    #[test]
    fn a_link_has_its_programs_name_and_the_defaults() {
        let config =
            Config::parse("[[chain]]\ncommand = [\"/usr/bin/sss_ssh_authorizedkeys\", \"%u\"]\n").unwrap();
        let [link] = config.chain.as_slice() else {
            panic!("{config:?}")
        };
        assert_eq!(link.name, "sss_ssh_authorizedkeys");
        assert_eq!(link.when, When::Always);
        assert_eq!(link.timeout, Duration::from_secs(1));
        assert_eq!(link.sshd_tokens().count(), 0);
    }

    #[test]
    fn sshds_line_passes_what_the_links_use() {
        let text = "[[chain]]\ncommand = [\"/a\", \"%u\", \"%h\"]\n[[chain]]\ncommand = [\"/b\", \"%t%k\"]\n";
        let options = call::Options::of(&Config::parse(text).unwrap());
        let expected = [call::Token::Home, call::Token::Key, call::Token::KeyType];
        assert_eq!(options.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_wrong_with_a_link_is_named_with_its_line() {
        let link = "[[chain]]\ncommand = [\"/bin/x\"]\n";
        for (text, line, word) in [
            ("[[chain]]\nname = \"x\"\n".to_owned(), 1, "command"),
            (format!("{link}timeout_ms = 20\n"), 3, "between 50 and 10000"),
            (format!("{link}when = \"never\"\n"), 3, "never"),
            (format!("{link}name = \"a b\"\n"), 3, "a name is"),
            (format!("{link}user = \"root\"\n"), 3, "user"),
            ("\n[[chain]]\ncommand = [\"x\"]\n".to_owned(), 3, "absolute"),
            ("[[chain]]\ncommand = [\"/bin/x\", \"%z\"]\n".to_owned(), 2, "%z"),
            ("[[chain]]\ncommand = \"/bin/x %u\"\n".to_owned(), 2, "sequence"),
            (link.repeat(2), 1, "two links are called x"),
            (link.repeat(9), 1, "8 links"),
            (
                "[[chain]]\ncommand = [\"/\"]\n".to_owned(),
                1,
                "give the link a name",
            ),
        ] {
            let error = Config::parse(&text).unwrap_err();
            assert_eq!(
                error.position.map(|(line, _)| line),
                Some(line),
                "{text}: {error}"
            );
            assert!(error.message.contains(word), "{text}: {error}");
        }
    }
}
