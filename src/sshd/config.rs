//! One `sshd_config` file: bytes in, lines out.
//!
//! The reader cuts lines and words exactly as OpenSSH does (`load_server_config`, `strdelim` and `argv_split` in
//! servconf.c and misc.c), because a line that we read otherwise than sshd is a line that we might overrule. It knows
//! no keyword but `Match`: meaning is [`super::tree`]'s business. Every line keeps its byte range, so that a patch
//! can be cut at line borders and the rest of the file stays as it was, byte for byte.

use std::ops::Range;

/// Longest file that is read. Real ones are below 10 KiB; the bound only keeps a mistake (a log file matched by an
/// Include) from filling memory.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// What strdelim(3)-like functions in OpenSSH skip: misc.c's `WHITESPACE`.
const WHITESPACE: &[u8] = b" \t\r\n";

/// A file that sshd would read differently from us, or that is not a configuration at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// More than [`MAX_CONFIG_BYTES`].
    TooLarge,
    /// A NUL byte at this line: sshd joins such a line with the next one.
    Nul {
        /// One-based line number.
        line: usize,
    },
}

/// One file, cut into lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// All lines in order. A final newline does not start another line.
    pub lines: Vec<Line>,
}

/// One physical line; `sshd_config` has no continuation lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// One-based, as sshd counts in its messages.
    pub number: usize,
    /// Where the line stands in the file, its line ending included.
    pub span: Range<usize>,
    /// What it says.
    pub statement: Statement,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Nothing but white space.
    Blank,
    /// `#` and anything.
    Comment,
    /// A keyword with arguments.
    Directive(Directive),
    /// sshd refuses to start over this line (no argument, an open quote).
    Malformed,
}

/// A keyword and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// In lower case: sshd compares keywords without case.
    pub keyword: String,
    /// The rest of the line, raw, without the white space around it. This *is* the value of an
    /// `AuthorizedKeysCommand`: quotes and even a trailing `# comment` are part of it (servconf.c, `parse_command`).
    pub rest: Vec<u8>,
    /// The rest cut into words, quotes removed, up to a comment (misc.c, `argv_split`).
    pub words: Vec<Vec<u8>>,
}

impl Directive {
    /// The rest of the line as text, with bytes that are no UTF-8 replaced.
    #[must_use]
    pub fn value(&self) -> String {
        String::from_utf8_lossy(&self.rest).into_owned()
    }

    /// The first word as text, which is the value of a keyword that takes one argument.
    #[must_use]
    pub fn first_word(&self) -> String {
        self.words
            .first()
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .unwrap_or_default()
    }
}

/// Reads a file's bytes.
///
/// # Errors
/// [`ConfigError`] where sshd's reading and ours could part ways. A line that sshd would refuse is no error here:
/// the real parser is asked about those.
pub fn parse(bytes: &[u8]) -> Result<Config, ConfigError> {
    if bytes.len() > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge);
    }
    let mut lines = Vec::new();
    let mut start = 0_usize;
    for (index, text) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let number = index.saturating_add(1);
        if text.contains(&0) {
            return Err(ConfigError::Nul { line: number });
        }
        let end = start.saturating_add(text.len());
        lines.push(Line {
            number,
            span: start..end,
            statement: statement(text),
        });
        start = end;
    }
    Ok(Config { lines })
}

/// Reads one `keyword arguments` text, as it stands on a line of its own or after `sshd -o`.
#[must_use]
pub fn statement(text: &[u8]) -> Statement {
    // servconf.c strips trailing white space, a form feed included, and leading blanks.
    let text = trim_end(text, b" \t\r\n\x0c");
    let text = trim_start(text, b" \t\r");
    if text.is_empty() {
        return Statement::Blank;
    }
    let Some((mut keyword, mut rest)) = delimited(text) else {
        return Statement::Malformed;
    };
    if keyword.is_empty() {
        let Some(again) = rest.and_then(delimited) else {
            return Statement::Malformed;
        };
        (keyword, rest) = again;
    }
    if keyword.is_empty() {
        return Statement::Blank;
    }
    if keyword.first() == Some(&b'#') {
        return Statement::Comment;
    }
    let rest = match rest {
        Some(rest) if !rest.is_empty() => rest,
        _ => return Statement::Malformed,
    };
    let Some(words) = words(rest) else {
        return Statement::Malformed;
    };
    Statement::Directive(Directive {
        keyword: String::from_utf8_lossy(&keyword).to_ascii_lowercase(),
        rest: trim_start(rest, WHITESPACE).to_vec(),
        words,
    })
}

/// misc.c, `strdelim`: the first token, and what follows it. White space, one `=` or a quoted string end a token.
/// `None` is an open quote; a missing rest means that the line ended with the token.
fn delimited(text: &[u8]) -> Option<(Vec<u8>, Option<&[u8]>)> {
    let Some(at) = text
        .iter()
        .position(|byte| WHITESPACE.contains(byte) || matches!(byte, b'"' | b'='))
    else {
        return Some((text.to_vec(), None));
    };
    let (token, tail) = text.split_at_checked(at)?;
    let (stop, tail) = tail.split_first()?;
    if *stop == b'"' {
        let close = tail.iter().position(|byte| *byte == b'"')?;
        let (quoted, tail) = tail.split_at_checked(close)?;
        let (_, tail) = tail.split_first()?;
        return Some(([token, quoted].concat(), Some(trim_start(tail, WHITESPACE))));
    }
    let tail = trim_start(tail, WHITESPACE);
    let tail = match tail.split_first() {
        // Only one '=' may be skipped.
        Some((b'=', after)) if *stop != b'=' => trim_start(after, WHITESPACE),
        _ => tail,
    };
    Some((token.to_vec(), Some(tail)))
}

/// misc.c, `argv_split` with `terminate_on_comment`. `None` is an open quote.
#[must_use]
pub fn words(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut bytes = text.iter().copied().peekable();
    loop {
        while bytes.next_if(|byte| matches!(byte, b' ' | b'\t')).is_some() {}
        match bytes.peek() {
            None | Some(b'#') => return Some(words),
            Some(_) => {}
        }
        let mut word = Vec::new();
        let mut quote = None;
        while let Some(byte) = bytes.next() {
            match (byte, quote) {
                (b'\\', _) => {
                    let escaped = bytes.next_if(|next| {
                        matches!(next, b'\'' | b'"' | b'\\') || (quote.is_none() && *next == b' ')
                    });
                    word.push(escaped.unwrap_or(b'\\'));
                }
                (b' ' | b'\t', None) => break,
                (b'"' | b'\'', None) => quote = Some(byte),
                (_, Some(open)) if byte == open => quote = None,
                _ => word.push(byte),
            }
        }
        if quote.is_some() {
            return None;
        }
        words.push(word);
    }
}

fn trim_start<'a>(mut text: &'a [u8], set: &[u8]) -> &'a [u8] {
    while let Some((first, rest)) = text.split_first() {
        if !set.contains(first) {
            break;
        }
        text = rest;
    }
    text
}

fn trim_end<'a>(mut text: &'a [u8], set: &[u8]) -> &'a [u8] {
    while let Some((last, rest)) = text.split_last() {
        if !set.contains(last) {
            break;
        }
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directive(text: &str) -> (String, String, Vec<String>) {
        match statement(text.as_bytes()) {
            Statement::Directive(found) => {
                let words = found
                    .words
                    .iter()
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect();
                (found.keyword.clone(), found.value(), words)
            }
            other => panic!("{text:?} is {other:?}"),
        }
    }

    fn words_of(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn keyword_is_cut_as_strdelim_cuts_it() {
        for text in [
            "Port 22",
            "  pOrT\t22  ",
            "port=22",
            "Port = 22",
            "\"port\" 22",
            "Port 22\r\n",
            "Port 22\x0c",
        ] {
            assert_eq!(
                directive(text),
                ("port".into(), "22".into(), words_of(&["22"])),
                "{text:?}"
            );
        }
        assert_eq!(directive("Port == 22").1, "= 22");
    }

    #[test]
    fn comment_after_a_command_belongs_to_its_value() {
        let (_, value, words) = directive("AuthorizedKeysCommand /x %u # mine");
        assert_eq!(value, "/x %u # mine");
        assert_eq!(words, words_of(&["/x", "%u"]));
    }

    #[test]
    fn words_keep_what_quotes_hold() {
        assert_eq!(
            directive(r#"X "a b" 'c' d\ e "f\"g" h\i"#).2,
            words_of(&["a b", "c", "d e", "f\"g", r"h\i"])
        );
    }

    #[test]
    fn unusable_lines_are_told_apart() {
        assert_eq!(statement(b" \t\r\n"), Statement::Blank);
        assert_eq!(statement(b"  # Port 22"), Statement::Comment);
        assert_eq!(statement(b"Port"), Statement::Malformed);
        assert_eq!(statement(b"Port \"22"), Statement::Malformed);
    }

    #[test]
    fn lines_cover_the_file_without_gap() {
        let text = b"a 1\r\n\n# x\nMatch all\n\tb 2";
        let config = parse(text).unwrap();
        assert_eq!(config.lines.len(), 5);
        let joined: Vec<u8> = config
            .lines
            .iter()
            .flat_map(|line| text[line.span.clone()].to_vec())
            .collect();
        assert_eq!(joined, text);
        assert_eq!(config.lines[4].number, 5);
    }

    #[test]
    fn nul_byte_is_refused() {
        assert_eq!(parse(b"a 1\nb\0 2\n"), Err(ConfigError::Nul { line: 2 }));
    }

    #[test]
    fn file_beyond_the_limit_is_refused() {
        assert_eq!(
            parse(&vec![b'#'; MAX_CONFIG_BYTES + 1]),
            Err(ConfigError::TooLarge)
        );
    }
}
