//! Adopting somebody's `AuthorizedKeysCommand` as a link, and giving it back: the two texts that change.
//!
//! In sshd's configuration his lines get a prefix that makes them comments; in ours a marked block gets a `[[chain]]`.
//! Either undoing is the exact inverse, byte for byte. The block's first line has a digest of the block, so that one
//! that was edited is known and left to who edited it.

use sha2::{Digest as _, Sha256};

use super::config::{self, ConfigError};
use crate::link::Template;

/// What stands before each of his lines.
const PREFIX: &[u8] = b"#adopted by ec2-instance-connect# ";

/// The block's first line begins so, whatever a hand has done to the rest.
const BEGIN: &str = "# BEGIN adopted link";
/// The block's last line.
const END: &str = "# END adopted link";
/// Second line where the file before it did not end with a newline.
const UNFINISHED: &str = "# The line above had no end.";
/// Second line where there was no file.
const MADE: &str = "# The file was made for this block.";
/// And no directory either.
const MADE_BOTH: &str = "# The file and its directory were made for this block.";
/// So many hexadecimal digits tell an edited block from an untouched one; nobody forges one, since who may write the
/// file may do anything.
const DIGEST_DIGITS: usize = 16;

/// The block in a configuration of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkBlock {
    /// There is none.
    Absent,
    /// One, as it was written.
    Whole {
        /// What was there before it, and what was written since.
        rest: Rest,
    },
    /// Somebody has been there.
    Edited,
}

/// What stays of a configuration without the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// The file without it.
    File(Vec<u8>),
    /// Nothing: the file was made for the block.
    NoFile {
        /// And its directory.
        made_directory: bool,
    },
}

/// Where the block goes.
#[derive(Debug, Clone, Copy)]
pub enum Before<'a> {
    /// Into this file.
    File(&'a [u8]),
    /// Into a file that is to be made.
    NoFile {
        /// In a directory that is to be made too.
        no_directory: bool,
    },
}

/// Makes comments of whole lines, by their one-based numbers.
///
/// # Errors
/// [`ConfigError`] when the file is no configuration at all.
pub fn comment_out(bytes: &[u8], numbers: &[usize]) -> Result<Vec<u8>, ConfigError> {
    let mut out = Vec::new();
    for line in config::parse(bytes)?.lines {
        if numbers.contains(&line.number) {
            out.extend_from_slice(PREFIX);
        }
        out.extend_from_slice(bytes.get(line.span).unwrap_or_default());
    }
    Ok(out)
}

/// Takes every such comment back; `None` where there is none.
#[must_use]
pub fn give_back(bytes: &[u8]) -> Option<Vec<u8>> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let bare: Vec<u8> = lines
        .flat_map(|line| his(line).unwrap_or(line))
        .copied()
        .collect();
    (bare != bytes).then_some(bare)
}

/// His line behind our prefix. What a hand has made of it since, so that it is neither of the two settings that are ever
/// commented out, stays what it is: a comment.
fn his(line: &[u8]) -> Option<&[u8]> {
    let bare = line.strip_prefix(PREFIX)?;
    let config::Statement::Directive(directive) = config::statement(bare) else {
        return None;
    };
    matches!(
        &*directive.keyword,
        "authorizedkeyscommand" | "authorizedkeyscommanduser"
    )
    .then_some(bare)
}

/// The words of an `AuthorizedKeysCommand`'s value; `None` where sshd would cut it otherwise than its other settings.
#[must_use]
pub fn words(value: &str) -> Option<Vec<String>> {
    let line = format!("AuthorizedKeysCommand {value}");
    let config::Statement::Directive(directive) = config::statement(line.as_bytes()) else {
        return None;
    };
    if value.contains('#') {
        return None;
    }
    let words = directive.words.into_iter().map(String::from_utf8);
    let mut words: Vec<String> = words.collect::<Result<_, _>>().ok()?;
    if words.len() == 1 {
        // sshd hands over the login name where there is no argument (sshd_config(5)).
        words.push("%u".to_owned());
    }
    Some(words)
}

/// Puts the block for a command at the end of a configuration of ours, or of none.
#[must_use]
pub fn insert_link(before: Before<'_>, name: &str, command: &Template, timeout_ms: Option<u128>) -> Vec<u8> {
    let remark = match before {
        Before::NoFile { no_directory: true } => format!("{MADE_BOTH}\n"),
        Before::NoFile { no_directory: false } => format!("{MADE}\n"),
        Before::File(text) if !text.is_empty() && !text.ends_with(b"\n") => format!("{UNFINISHED}\n"),
        Before::File(_) => String::new(),
    };
    let before = match before {
        Before::File(text) => text,
        Before::NoFile { .. } => &[],
    };
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let command: Vec<String> = command.words().iter().map(|word| quoted(word)).collect();
    let timeout = timeout_ms.map_or_else(String::new, |limit| format!("timeout_ms = {limit}\n"));
    let body = format!(
        "{remark}[[chain]]\nname = {}\ncommand = [{}]\n{timeout}",
        quoted(name),
        command.join(", ")
    );
    let start = if remark.starts_with(UNFINISHED) { "\n" } else { "" };
    let block = format!(
        "{start}{BEGIN} {} (`ec2-instance-connect setup remove` gives the command back)\n{body}{END}\n",
        digest(&body)
    );
    [before, block.as_bytes()].concat()
}

/// Finds the block.
#[must_use]
pub fn find_link(bytes: &[u8]) -> LinkBlock {
    let text = String::from_utf8_lossy(bytes);
    let is_line = |line: &&str| line.starts_with(BEGIN) || *line == END;
    if !text.lines().any(|line| is_line(&line)) {
        return LinkBlock::Absent;
    }
    whole(bytes).map_or(LinkBlock::Edited, |rest| LinkBlock::Whole { rest })
}

fn whole(bytes: &[u8]) -> Option<Rest> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut begins = text.match_indices(BEGIN);
    let mut ends = text.match_indices(END);
    let ((begin, _), (end, _)) = (begins.next()?, ends.next()?);
    if begins.next().is_some() || ends.next().is_some() || !(begin == 0 || text.get(..begin)?.ends_with('\n'))
    {
        return None;
    }
    let block = text.get(begin..end)?;
    let (first, body) = block.split_once('\n')?;
    let tail = text.get(end..)?.strip_prefix(END)?.strip_prefix('\n')?;
    if first.strip_prefix(BEGIN)?.split_ascii_whitespace().next()? != digest(body) {
        return None;
    }
    let head = text.get(..begin)?;
    if head.is_empty() && tail.is_empty() && (body.starts_with(MADE) || body.starts_with(MADE_BOTH)) {
        let made_directory = body.starts_with(MADE_BOTH);
        return Some(Rest::NoFile { made_directory });
    }
    // Where something was written behind the block, the newline before it is needed.
    let head = match head.strip_suffix('\n') {
        Some(unfinished) if body.starts_with(UNFINISHED) && tail.is_empty() => unfinished,
        _ => head,
    };
    Some(Rest::File(format!("{head}{tail}").into_bytes()))
}

fn digest(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let hex = digest.iter().map(|byte| format!("{byte:02x}"));
    hex.collect::<String>().chars().take(DIGEST_DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    const NONE: Before<'_> = Before::NoFile { no_directory: false };

    fn command() -> Template {
        let words = ["/usr/bin/keys of", "%u", "a\"b\\", "100%%"].map(str::to_owned);
        Template::new(&words).unwrap()
    }

    #[test]
    fn the_block_is_a_link_of_the_command() {
        for before in [
            NONE,
            Before::File(b"[log]\nlevel = \"debug\""),
            Before::File(b"# x\n"),
        ] {
            let after = insert_link(before, "keys", &command(), Some(2000));
            let config = Config::parse(std::str::from_utf8(&after).unwrap()).unwrap();
            assert_eq!(config.chain.len(), 1);
            assert_eq!(config.chain[0].command(), &command());
            assert_eq!(config.chain[0].timeout.as_millis(), 2000);
        }
    }

    #[test]
    fn an_edited_block_is_left_to_who_edited_it() {
        let whole = String::from_utf8(insert_link(Before::File(b"# x\n"), "keys", &command(), None)).unwrap();
        for edited in [
            whole.replace("name", "#name"),
            whole.replace(END, ""),
            whole.replace(BEGIN, "#"),
            whole.replace(END, "when = \"no-key\"\n# END adopted link"),
            format!("{whole}{END}\n"),
        ] {
            assert_eq!(find_link(edited.as_bytes()), LinkBlock::Edited, "{edited}");
        }
        assert_eq!(find_link(b"# x\n"), LinkBlock::Absent);
    }

    #[test]
    fn what_stands_behind_the_block_stays() {
        for before in ["# x\n", "# x", ""] {
            let mut after = insert_link(Before::File(before.as_bytes()), "keys", &command(), None);
            after.extend_from_slice(b"[log]\n");
            let LinkBlock::Whole {
                rest: Rest::File(rest),
            } = find_link(&after)
            else {
                panic!("{before}")
            };
            let newline = if before == "# x" { "\n" } else { "" };
            assert_eq!(rest, format!("{before}{newline}[log]\n").into_bytes());
        }
        let mut made = insert_link(NONE, "keys", &command(), None);
        made.extend_from_slice(b"# mine\n");
        assert_eq!(
            find_link(&made),
            LinkBlock::Whole {
                rest: Rest::File(b"# mine\n".to_vec())
            }
        );
    }

    #[test]
    fn a_file_that_was_made_goes_and_so_does_its_directory() {
        for made_directory in [false, true] {
            let before = Before::NoFile {
                no_directory: made_directory,
            };
            let after = insert_link(before, "keys", &command(), None);
            let rest = Rest::NoFile { made_directory };
            assert_eq!(find_link(&after), LinkBlock::Whole { rest });
        }
    }

    #[test]
    fn a_value_is_cut_as_sshd_cuts_it() {
        assert_eq!(words("/x %u").unwrap(), ["/x", "%u"]);
        assert_eq!(words("\"/x y\" 'a b' %h").unwrap(), ["/x y", "a b", "%h"]);
        assert_eq!(words("/x").unwrap(), ["/x", "%u"]);
        assert_eq!(words("/x # y"), None);
        assert_eq!(words("/x \"y"), None);
    }

    #[test]
    fn what_a_hand_made_of_a_line_of_his_stays_a_comment() {
        let his = [PREFIX, b"AuthorizedKeysCommand /x %u\n"].concat();
        assert_eq!(give_back(&his).unwrap(), b"AuthorizedKeysCommand /x %u\n");
        for text in [
            "# BEGIN ec2-instance-connect\n",
            "Port 23\n",
            "# AuthorizedKeysCommand /x\n",
            "\n",
        ] {
            assert_eq!(give_back(&[PREFIX, text.as_bytes()].concat()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn removing_the_block_undoes_inserting_it(before in "[a-z#= \n\r]{0,40}") {
            let after = insert_link(Before::File(before.as_bytes()), "keys", &command(), None);
            let rest = Rest::File(before.into_bytes());
            prop_assert_eq!(find_link(&after), LinkBlock::Whole { rest });
        }

        #[test]
        fn giving_back_undoes_commenting_out(
            mut lines in proptest::collection::vec("[a-zA-Z# \t\r\"]{0,12}", 1..8),
            setting in "[ \t]{0,2}(AuthorizedKeysCommand|authorizedkeyscommanduser)[ \t=]/[a-z# ]{1,8}\r?",
            cut in any::<bool>(),
            number in 1_usize..9,
        ) {
            let at = number.min(lines.len());
            lines.insert(at, setting);
            let number = at + 1;
            let mut text = lines.join("\n");
            if !cut {
                text.push('\n');
            }
            let after = comment_out(text.as_bytes(), &[number]).unwrap();
            let back = give_back(&after).unwrap_or(after);
            prop_assert_eq!(back, text.into_bytes());
        }
    }
}
