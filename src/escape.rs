//! Foreign text, made safe and short before it reaches a log or a terminal.
//!
//! ARNs, request ids, host names and whatever else came over the network may hold newlines (a forged log
//! line), escape sequences (a broken terminal) or a megabyte. Two forms: [`token`] for a field among fields,
//! where a space would let a value pretend to be the next field, and [`text`] for a sentence.
#![deny(clippy::disallowed_methods)]

use std::fmt;

/// Longest piece of foreign text shown, in bytes of the original. An ARN has at most 2048; a record's
/// `#Caller` of an assumed role stays below 300.
pub const MAX_SHOWN: usize = 512;

/// What stands for the rest where text was longer than [`MAX_SHOWN`].
const ELLIPSIS: &str = "...";

/// Foreign bytes as one word: printable ASCII without space, quote and backslash, everything else as `\xNN`.
#[must_use]
pub fn token(raw: &(impl AsRef<[u8]> + ?Sized)) -> Escaped<'_> {
    Escaped {
        raw: raw.as_ref(),
        spaces: false,
    }
}

/// Foreign bytes as a piece of a sentence: like [`token`], but a space stays a space.
#[must_use]
pub fn text(raw: &(impl AsRef<[u8]> + ?Sized)) -> Escaped<'_> {
    Escaped {
        raw: raw.as_ref(),
        spaces: true,
    }
}

/// Foreign text that displays escaped and bounded.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a> {
    raw: &'a [u8],
    spaces: bool,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.raw.iter().take(MAX_SHOWN) {
            let plain = match byte {
                b'"' | b'\\' => false,
                b' ' => self.spaces,
                other => other.is_ascii_graphic(),
            };
            if plain {
                fmt::Write::write_char(f, char::from(byte))?;
            } else {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if self.raw.len() > MAX_SHOWN {
            f.write_str(ELLIPSIS)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_is_shown_as_it_is() {
        let arn = "arn:aws:sts::123456789012:assumed-role/Admin/alice@example.com";
        assert_eq!(token(arn).to_string(), arn);
    }

    #[test]
    fn control_bytes_quotes_and_backslashes_are_escaped() {
        assert_eq!(
            text("a\nb\x1b[2J\"\\\u{e9}").to_string(),
            r"a\x0ab\x1b[2J\x22\x5c\xc3\xa9"
        );
    }

    #[test]
    fn a_token_has_no_space_so_that_no_field_can_be_forged() {
        assert_eq!(token("arn sshd-pid=1").to_string(), r"arn\x20sshd-pid=1");
        assert_eq!(text("two words").to_string(), "two words");
    }

    #[test]
    fn long_text_is_bounded_and_says_so() {
        let shown = token(&vec![b'a'; 1_000_000]).to_string();
        assert_eq!(shown.len(), MAX_SHOWN + ELLIPSIS.len());
        assert!(shown.ends_with("a..."));
        assert!(!token(&vec![b'a'; MAX_SHOWN]).to_string().ends_with('.'));
    }
}
