//! What sshd reads: the keys and the links' lines, and nothing else, in one write at the end.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;

use crate::keys::AuthorizedKey;
use crate::link::lines::Lines;

/// Writes the keys to standard output, one to a line with its options, each once: of two records with one key the first
/// counts, since sshd takes the first line that matches (auth2-pubkey.c). Behind them stands what
/// the links gave.
///
/// A reader that has gone is no error: sshd up to 7.5 closes the pipe at the first line that matches. The
/// standard library's own handle is passed by, since it would write line by line.
///
/// # Errors
/// What the system says, but EPIPE.
pub fn print<'a>(keys: &[AuthorizedKey], links: impl Iterator<Item = &'a Lines>) -> io::Result<()> {
    let mut printed: Vec<&str> = Vec::new();
    let mut text = String::new();
    for key in keys {
        if !printed.contains(&key.line()) {
            printed.push(key.line());
            text.push_str(&format!("{}{}\n", key.options(), key.line()));
        }
    }
    let mut text = text.into_bytes();
    for lines in links {
        text.extend_from_slice(lines.text());
    }
    if text.is_empty() {
        return Ok(());
    }
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        match stdout.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            // `write_all` would panic where a system says that it wrote more than it was given.
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
