//! Colour, for people at a terminal and for nobody else.

use std::fmt;
use std::io::{self, IsTerminal as _};

/// What a word is worth to the reader. Colour only repeats what the word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shade {
    /// All is well.
    Good,
    /// Worth a look.
    Notable,
    /// Wrong.
    Bad,
    /// Of no account here.
    Faint,
}

/// Whether standard output is in colour: on a terminal, unless `NO_COLOR` is set and not empty (no-color.org) or the
/// terminal says that it can't.
#[must_use]
pub fn wanted() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// `word` in its shade, where `colour` is wanted.
#[must_use]
pub fn word(word: &str, shade: Shade, colour: bool) -> Painted<'_> {
    Painted {
        word,
        shade: colour.then_some(shade),
    }
}

/// A word that displays in colour, or plain.
#[derive(Debug, Clone, Copy)]
pub struct Painted<'a> {
    word: &'a str,
    shade: Option<Shade>,
}

impl fmt::Display for Painted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SGR (ECMA-48 §8.3.117): green, yellow, red, dim.
        let code = match self.shade {
            None => return f.write_str(self.word),
            Some(Shade::Good) => 32,
            Some(Shade::Notable) => 33,
            Some(Shade::Bad) => 31,
            Some(Shade::Faint) => 2,
        };
        write!(f, "\x1b[{code}m{}\x1b[0m", self.word)
    }
}
