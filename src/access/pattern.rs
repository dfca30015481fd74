//! A pattern for one field: `*` stands for any characters of it, and everything else for itself.
//!
//! A pattern only ever meets the text of one field, and no field holds a `:` or a `/`, so that `*` cannot cross
//! either: what a caller writes into one field never reaches another one's rule.

use std::fmt;

/// A pattern for one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern that `text` is, in a field whose characters are those that `belongs` takes. `None` when it holds
    /// another one, such as a `?` that somebody takes for a wildcard, or is empty.
    #[must_use]
    pub fn new(text: &str, belongs: impl Fn(char) -> bool) -> Option<Self> {
        let sound = !text.is_empty() && text.chars().all(|c| c == '*' || belongs(c));
        sound.then(|| Self(text.to_owned()))
    }

    /// Whether it stands for all of `text`.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let mut pieces = self.0.as_bytes().split(|byte| *byte == b'*');
        let head = pieces.next().unwrap_or_default();
        let Some(last) = pieces.next_back() else {
            return head == text.as_bytes();
        };
        let Some(mut rest) = text.as_bytes().strip_prefix(head) else {
            return false;
        };
        // The first place where a piece is found is as good as any later one: it leaves the most to the others.
        for piece in pieces {
            match behind_first(rest, piece) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    /// Whether it stands for every text there is.
    #[must_use]
    pub fn fits_all(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// The one text that it stands for, where it has no `*`.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands behind the first `piece` in `text`. By hand, since the standard library's search has panics of its own.
fn behind_first<'a>(mut text: &'a [u8], piece: &[u8]) -> Option<&'a [u8]> {
    loop {
        if let Some(rest) = text.strip_prefix(piece) {
            return Some(rest);
        }
        (_, text) = text.split_first()?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern, |_| true).unwrap().fits(text)
    }

    #[test]
    fn star_stands_for_any_run_and_the_rest_for_itself() {
        for (pattern, text) in [
            ("a", "a"),
            ("*", ""),
            ("*", "abc"),
            ("a*", "a"),
            ("*a", "ba"),
            ("a*c", "abc"),
            ("a**c", "ac"),
            ("*b*b*", "abab"),
            ("a*b*c", "axbxbc"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("a", "A"),
            ("a", "ab"),
            ("a*", "ba"),
            ("*a", "ab"),
            ("ab*ba", "aba"),
            ("a*b*c", "acb"),
            ("a*b*b", "ab"),
        ] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn empty_pattern_and_foreign_character_are_refused() {
        let letters = |text| Pattern::new(text, |c: char| c.is_ascii_alphabetic());
        assert_eq!(letters(""), None);
        assert_eq!(letters("a?"), None);
        assert_eq!(letters("a/*"), None);
        assert!(letters("a*").is_some());
    }

    proptest! {
        /// By a regular expression engine.
        #[test]
        fn matching_is_that_of_a_regular_expression(pattern in "[ab*.]{1,8}", text in "[ab.]{0,10}") {
            let expression = format!("^{}$", regex::escape(&pattern).replace(r"\*", ".*"));
            let expected = regex::Regex::new(&expression).unwrap().is_match(&text);
            prop_assert_eq!(fits(&pattern, &text), expected);
        }
    }
}
