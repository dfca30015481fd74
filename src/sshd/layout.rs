//! What in a configuration is ours, and what Amazon's packages have left there.
//!
//! Four layouts give keys from EC2 Instance Connect:
//!
//! | layout | left by |
//! |---|---|
//! | drop-in with our header, or a marked block | this package |
//! | `60-ec2-instance-connect.conf` with the two lines | Amazon's package for Amazon Linux 2023 |
//! | the two lines in `sshd_config` | Amazon Linux |
//! | an `ExecStart=` override with two `-o` | the reference's deb and rpm |
//!
//! All functions are pure. A patch is cut at line borders: what it adds, the undoing takes away, byte for byte.

use std::ops::Range;

use super::call::Call;
use super::config::{self, Config, ConfigError, Directive, Line, Statement};
use super::{COMMANDS, RUN_AS};

/// First line of our drop-in; by it the file is known.
pub const DROPIN_HEADER: &str =
    "# Managed by `ec2-instance-connect setup`: `ec2-instance-connect setup remove` takes this file away.";
/// Second line of our drop-in.
const DROPIN_ADVICE: &str =
    "# Edits are refused at the next change: settings of your own belong in a file of another name.";
/// Third line, when the directory was missing: so that `remove` knows whether to take it away again.
const DROPIN_DIR_MADE: &str = "# The directory was made for this file.";

/// First line of the marked block.
pub const BLOCK_BEGIN: &str =
    "# BEGIN ec2-instance-connect (`ec2-instance-connect setup remove` takes this block away)";
/// Last line of the marked block.
pub const BLOCK_END: &str = "# END ec2-instance-connect";
/// What any of our markers starts with, whatever a hand has done to the rest of the line.
const BEGIN_STEM: &[u8] = b"# BEGIN ec2-instance-connect";
const END_STEM: &[u8] = b"# END ec2-instance-connect";

/// The file at our drop-in's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropIn {
    /// Written by us and untouched.
    Ours {
        /// How it calls the helper.
        call: Call,
        /// Whether its directory was made for it.
        made_directory: bool,
    },
    /// Amazon's: the two lines and comments, nothing else.
    Amazon {
        /// How it calls the helper.
        call: Call,
    },
    /// Ours once, but somebody wrote into it.
    Modified {
        /// The first line that is not ours.
        line: usize,
    },
    /// Somebody else's file under our name (an empty one counts: that is how a drop-in is switched off).
    Other,
}

/// The marked block of a main file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// No marker anywhere.
    Absent,
    /// One whole block.
    Whole {
        /// Its bytes.
        span: Range<usize>,
        /// How it calls the helper.
        call: Call,
    },
    /// Markers without partner, doubled, or with something foreign between them.
    Damaged {
        /// The offending line.
        line: usize,
    },
}

/// Text of our drop-in.
#[must_use]
pub fn dropin_text(call: Call, made_directory: bool) -> String {
    let made = if made_directory {
        format!("{DROPIN_DIR_MADE}\n")
    } else {
        String::new()
    };
    format!("{DROPIN_HEADER}\n{DROPIN_ADVICE}\n{made}{}", pair(call, "\n"))
}

/// The two lines. A command without its user stops sshd from starting, so they are never apart.
fn pair(call: Call, eol: &str) -> String {
    format!(
        "AuthorizedKeysCommand {}{eol}AuthorizedKeysCommandUser {RUN_AS}{eol}",
        call.value()
    )
}

/// The calls that stand in a text of ours, should it be one.
fn calls(bytes: &[u8]) -> Vec<Call> {
    let values = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.strip_prefix(b"AuthorizedKeysCommand "));
    values
        .filter_map(|value| Call::parse(std::str::from_utf8(value).ok()?))
        .collect()
}

/// Says whose the file at our drop-in's path is.
///
/// # Errors
/// [`ConfigError`] when it is no configuration at all.
pub fn classify_dropin(bytes: &[u8]) -> Result<DropIn, ConfigError> {
    for call in calls(bytes) {
        for made_directory in [false, true] {
            if bytes == dropin_text(call, made_directory).as_bytes() {
                return Ok(DropIn::Ours { call, made_directory });
            }
        }
    }
    let config = config::parse(bytes)?;
    if bytes.starts_with(DROPIN_HEADER.as_bytes()) {
        let ours: Vec<String> = calls(bytes)
            .into_iter()
            .chain(COMMANDS.map(Call::plain))
            .flat_map(|call| {
                dropin_text(call, true)
                    .lines()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect();
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines().zip(1_usize..);
        let line = lines
            .find(|(line, _)| !ours.iter().any(|known| known == line))
            .map_or(1, |(_, number)| number);
        return Ok(DropIn::Modified { line });
    }
    let directives: Vec<&Directive> = directives(&config).collect();
    Ok(match directives.as_slice() {
        [first, second] => pair_of(first, second)
            .or_else(|| pair_of(second, first))
            .map_or(DropIn::Other, |call| DropIn::Amazon { call }),
        _ => DropIn::Other,
    })
}

fn directives(config: &Config) -> impl Iterator<Item = &Directive> {
    config.lines.iter().filter_map(|line| match &line.statement {
        Statement::Directive(directive) => Some(directive),
        _ => None,
    })
}

/// The call of two directives that are the traditional pair.
fn pair_of(command: &Directive, user: &Directive) -> Option<Call> {
    let known = (command.keyword == "authorizedkeyscommand")
        .then(|| Call::parse(&command.value()))
        .flatten()?;
    (user.keyword == "authorizedkeyscommanduser" && user.words.as_slice() == [RUN_AS.as_bytes()])
        .then_some(known)
}

/// Finds our block in a main file.
///
/// # Errors
/// [`ConfigError`] when the file is no configuration at all.
pub fn find_block(bytes: &[u8]) -> Result<Block, ConfigError> {
    let config = config::parse(bytes)?;
    let marker = |line: &&Line, stem: &[u8]| {
        bytes
            .get(line.span.clone())
            .is_some_and(|text| text.starts_with(stem))
    };
    let begins: Vec<&Line> = config
        .lines
        .iter()
        .filter(|line| marker(line, BEGIN_STEM))
        .collect();
    let ends: Vec<&Line> = config
        .lines
        .iter()
        .filter(|line| marker(line, END_STEM))
        .collect();
    let (begin, end) = match (begins.as_slice(), ends.as_slice()) {
        ([], []) => return Ok(Block::Absent),
        ([begin], [end]) => (*begin, *end),
        ([begin], []) => return Ok(Block::Damaged { line: begin.number }),
        ([], [end, ..]) => return Ok(Block::Damaged { line: end.number }),
        ([_, second, ..], _) => return Ok(Block::Damaged { line: second.number }),
        (_, [_, second, ..]) => return Ok(Block::Damaged { line: second.number }),
    };
    let span = begin.span.start..end.span.end;
    let text = bytes.get(span.clone()).unwrap_or_default();
    for call in calls(text) {
        for eol in ["\n", "\r\n"] {
            if text == block_text(call, eol).as_bytes() {
                return Ok(Block::Whole { span, call });
            }
        }
    }
    Ok(Block::Damaged { line: begin.number })
}

fn block_text(call: Call, eol: &str) -> String {
    format!("{BLOCK_BEGIN}{eol}{}{BLOCK_END}{eol}", pair(call, eol))
}

/// Puts our block into a main file that has none: before the first `Match`, or at the end.
///
/// A comment that stands directly above the Match belongs to it and stays with it. A last line without newline stays
/// the last line: the block goes before it, so that undoing is nothing but a deletion. The file's own line ending is
/// used. `None` when the file has a marker already.
///
/// # Errors
/// [`ConfigError`] when the file is no configuration at all.
pub fn insert_block(bytes: &[u8], call: Call) -> Result<Option<Vec<u8>>, ConfigError> {
    if find_block(bytes)? != Block::Absent {
        return Ok(None);
    }
    let config = config::parse(bytes)?;
    let at = insertion_point(&config, bytes);
    let crlf =
        bytes.ends_with(b"\r\n") || (!bytes.ends_with(b"\n") && bytes.windows(2).any(|pair| pair == b"\r\n"));
    let block = block_text(call, if crlf { "\r\n" } else { "\n" });
    let (head, tail) = bytes.split_at_checked(at).unwrap_or((bytes, &[]));
    Ok(Some([head, block.as_bytes(), tail].concat()))
}

fn insertion_point(config: &Config, bytes: &[u8]) -> usize {
    let is_match =
        |line: &Line| matches!(&line.statement, Statement::Directive(found) if found.keyword == "match");
    if let Some(index) = config.lines.iter().position(is_match) {
        let above = config.lines.get(..index).unwrap_or_default();
        let attached = above
            .iter()
            .rev()
            .take_while(|line| line.statement == Statement::Comment);
        let first = attached.last().or_else(|| config.lines.get(index));
        return first.map_or(bytes.len(), |line| line.span.start);
    }
    match config.lines.last() {
        Some(last) if !bytes.ends_with(b"\n") => last.span.start,
        _ => bytes.len(),
    }
}

/// Takes our block out again. `None` when there is none, or none that is whole.
///
/// # Errors
/// [`ConfigError`] when the file is no configuration at all.
pub fn remove_block(bytes: &[u8]) -> Result<Option<Vec<u8>>, ConfigError> {
    Ok(match find_block(bytes)? {
        Block::Whole { span, .. } => Some(without(bytes, &[span])),
        Block::Absent | Block::Damaged { .. } => None,
    })
}

/// Takes whole lines out of a file, by their one-based numbers.
///
/// # Errors
/// [`ConfigError`] when the file is no configuration at all.
pub fn delete_lines(bytes: &[u8], numbers: &[usize]) -> Result<Vec<u8>, ConfigError> {
    let config = config::parse(bytes)?;
    let spans: Vec<Range<usize>> = config
        .lines
        .iter()
        .filter(|line| numbers.contains(&line.number))
        .map(|line| line.span.clone())
        .collect();
    Ok(without(bytes, &spans))
}

/// `spans` in ascending order and apart.
fn without(bytes: &[u8], spans: &[Range<usize>]) -> Vec<u8> {
    let kept = |at: &usize| !spans.iter().any(|span| span.contains(at));
    bytes
        .iter()
        .enumerate()
        .filter(|(at, _)| kept(at))
        .map(|(_, byte)| *byte)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sshd::call::Token;

    fn deb() -> Call {
        Call::plain(COMMANDS[0])
    }

    /// With an option, as a link needs it.
    fn rpm() -> Call {
        let mut call = Call::plain(COMMANDS[1]);
        call.options.insert(Token::Home);
        call
    }

    fn inserted(text: &str) -> String {
        String::from_utf8(insert_block(text.as_bytes(), deb()).unwrap().unwrap()).unwrap()
    }

    #[test]
    fn block_stands_before_the_first_match_and_its_comment() {
        let text = inserted("Port 22\n\n# for bob\nMatch User bob\n  X11Forwarding no\nMatch all\n");
        let (head, tail) = text.split_once(BLOCK_BEGIN).unwrap();
        assert_eq!(head, "Port 22\n\n");
        assert!(tail.contains("# END ec2-instance-connect\n# for bob\nMatch User bob\n"));
    }

    #[test]
    fn block_stands_at_the_end_without_a_match() {
        assert!(inserted("Port 22\n").starts_with("Port 22\n# BEGIN"));
        assert!(inserted("").starts_with("# BEGIN"));
    }

    #[test]
    fn unfinished_last_line_stays_last() {
        let text = inserted("Port 22\nUsePAM yes");
        assert!(
            text.starts_with("Port 22\n# BEGIN") && text.ends_with("# END ec2-instance-connect\nUsePAM yes")
        );
    }

    #[test]
    fn carriage_returns_are_kept() {
        let text = inserted("Port 22\r\nUsePAM yes\r\n");
        assert_eq!(text.matches("\r\n").count(), text.matches('\n').count());
    }

    #[test]
    fn second_block_is_not_inserted() {
        let once = inserted("Port 22\n");
        assert_eq!(insert_block(once.as_bytes(), deb()).unwrap(), None);
    }

    #[test]
    fn damaged_markers_are_found() {
        let whole = inserted("Port 22\n");
        for (text, line) in [
            (whole.replace(BLOCK_END, ""), 2),
            (whole.replace(BLOCK_BEGIN, ""), 5),
            (format!("{whole}{BLOCK_END}\n"), 6),
            (format!("{whole}{BLOCK_BEGIN}\n"), 6),
            (whole.replace("%u %f", "%u"), 2),
            (
                whole.replace(BLOCK_END, "UsePAM yes\n# END ec2-instance-connect"),
                2,
            ),
        ] {
            assert_eq!(find_block(text.as_bytes()), Ok(Block::Damaged { line }), "{text}");
            assert_eq!(remove_block(text.as_bytes()), Ok(None));
        }
    }

    #[test]
    fn dropins_are_told_apart() {
        let ours = dropin_text(deb(), false);
        assert_eq!(
            classify_dropin(ours.as_bytes()),
            Ok(DropIn::Ours {
                call: deb(),
                made_directory: false
            })
        );
        assert_eq!(
            classify_dropin(dropin_text(rpm(), true).as_bytes()),
            Ok(DropIn::Ours {
                call: rpm(),
                made_directory: true
            })
        );
        let amazon = "# x\n\nAuthorizedKeysCommand /opt/aws/bin/eic_run_authorized_keys %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n";
        assert_eq!(
            classify_dropin(amazon.as_bytes()),
            Ok(DropIn::Amazon {
                call: Call::plain(COMMANDS[1])
            })
        );
        assert_eq!(classify_dropin(b""), Ok(DropIn::Other));
        assert_eq!(
            classify_dropin(amazon.replace("%u %f", "%u").as_bytes()),
            Ok(DropIn::Other)
        );
        assert_eq!(
            classify_dropin(format!("{amazon}Port 22\n").as_bytes()),
            Ok(DropIn::Other)
        );
        assert_eq!(
            classify_dropin(format!("{ours}Port 22\n").as_bytes()),
            Ok(DropIn::Modified { line: 5 })
        );
    }

    #[test]
    fn lines_are_deleted_whole() {
        assert_eq!(delete_lines(b"a 1\r\nb 2\nc 3", &[1, 3]).unwrap(), b"b 2\n");
    }

    /// Texts that look like configurations more often than random bytes do.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just("Match User bob".to_owned()),
            Just("# comment".to_owned()),
            Just(String::new()),
            Just("Include /etc/ssh/sshd_config.d/*.conf".to_owned()),
            Just("# END ec2-instance-connect".to_owned()),
            "[a-zA-Z \t\"=#\r\x0c]{0,12}",
        ];
        let eol = prop_oneof![Just("\n"), Just("\r\n")];
        (proptest::collection::vec((line, eol), 0..12), any::<bool>()).prop_map(|(lines, cut)| {
            let mut text: String = lines.iter().map(|(line, eol)| format!("{line}{eol}")).collect();
            if cut {
                text.pop();
            }
            text.into_bytes()
        })
    }

    proptest! {
        #[test]
        fn removing_undoes_inserting_in_texts(bytes in text()) {
            if let Some(patched) = insert_block(&bytes, deb()).unwrap() {
                prop_assert_eq!(remove_block(&patched).unwrap(), Some(bytes));
            }
        }

        #[test]
        fn removing_undoes_inserting_in_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(patched)) = insert_block(&bytes, rpm()) {
                prop_assert_eq!(remove_block(&patched).unwrap(), Some(bytes));
            }
        }

        #[test]
        fn inserting_moves_no_line_into_or_out_of_a_match(bytes in text()) {
            if let Some(patched) = insert_block(&bytes, deb()).unwrap() {
                let scoped = |bytes: &[u8]| {
                    let mut inside = false;
                    let mut out = Vec::new();
                    for line in config::parse(bytes).unwrap().lines {
                        if let Statement::Directive(found) = line.statement {
                            inside |= found.keyword == "match";
                            if !found.keyword.starts_with("authorizedkeyscommand") {
                                out.push((inside, found));
                            } else {
                                assert!(!inside);
                            }
                        }
                    }
                    out
                };
                prop_assert_eq!(scoped(&patched), scoped(&bytes));
            }
        }
    }
}
