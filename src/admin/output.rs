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
