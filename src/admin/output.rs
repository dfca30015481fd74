//! The one place of the administrator's tool that prints.

use std::io::{self, Write};
use std::process::ExitCode;

/// What a subcommand has to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Standard output: the result. With `--json` one JSON document and nothing else.
    pub out: Vec<u8>,
    /// Standard error: what a person should read beside it.
    pub err: String,
    /// Exit status.
    pub exit: u8,
}

/// One JSON document on one line, in printable ASCII: what a terminal would obey among foreign text (C1 controls,
/// changes of direction) is escaped as RFC 8259 §7 has it, and reads back as it was.
///
/// # Errors
/// serde's, of types that cannot be JSON.
pub fn json_line(document: &impl serde::Serialize) -> serde_json::Result<Vec<u8>> {
    let json = serde_json::to_string(document)?;
    let mut line = String::with_capacity(json.len().saturating_add(1));
    for letter in json.chars() {
        // Outside of strings JSON has no such letter.
        if letter.is_ascii() && letter != '\u{7f}' {
            line.push(letter);
        } else {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    line.push('\n');
    Ok(line.into_bytes())
}

/// Prints a page. A reader that has gone away (`| head`) is no failure; a full disk is.
#[must_use]
pub fn show(page: &Page) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(&page.out).and_then(|()| stdout.flush());
    // Nobody is left to be told when standard error fails.
    let _ = io::stderr().lock().write_all(page.err.as_bytes());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            ExitCode::from(page.exit.max(super::EXIT_REFUSED))
        }
        _ => ExitCode::from(page.exit),
    }
}

/// Prints clap's help, version or complaint, with its own exit status: 0 for what was asked for, 2 for wrong usage.
#[must_use]
pub fn show_usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_printable_ascii_and_reads_back_as_it_was() {
        let hostile = "a\u{9b}31m\u{202e}\u{7f}\u{1f600}\n\"\\";
        let line = json_line(&[hostile]).unwrap();
        let (end, text) = line.split_last().unwrap();
        assert_eq!(*end, b'\n');
        assert!(text.iter().all(u8::is_ascii_graphic));
        assert_eq!(serde_json::from_slice::<Vec<String>>(&line).unwrap(), [hostile]);
    }
}
