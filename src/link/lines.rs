//! What of a link's output may be passed on to sshd.
//!
//! The lines are an administrator's, options and all, and are not read as keys here: sshd does that. What is asked is
//! only that they are text of a bounded size, so that nothing but what the link meant to say reaches sshd's parser.
#![deny(clippy::disallowed_methods)]

use crate::reason::{Reason, Refusal};

/// The most that one link may give. A user has a few keys, at most 800 bytes each; this is room for 300 of them.
pub const MAX_OUTPUT: usize = 256 * 1024;

/// The longest line: sshd before 7.8 reads no longer one (`SSH_MAX_PUBKEY_BYTES` in its sshkey.h).
pub const MAX_LINE: usize = 16 * 1024;

/// Lines that may be passed on, each ended by a newline.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    text: Vec<u8>,
}

impl Lines {
    /// Takes a link's whole output, or nothing of it.
    ///
    /// # Errors
    /// [`Reason::LinkTooLarge`], [`Reason::LinkMalformed`].
    pub fn new(mut output: Vec<u8>) -> Result<Self, Refusal> {
        if output.len() > MAX_OUTPUT {
            return Err(too_large());
        }
        if let Some(last) = output.last() {
            if *last != b'\n' {
                output.push(b'\n');
            }
        }
        for (line, number) in output.split(|byte| *byte == b'\n').zip(1_usize..) {
            // A text from elsewhere may have its lines end as they do there; sshd takes the mark for white space.
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.len() > MAX_LINE {
                let detail = format!("line {number} is longer than {MAX_LINE} bytes");
                return Err(Refusal::new(Reason::LinkTooLarge, detail));
            }
            if let Some(byte) = line
                .iter()
                .find(|byte| byte.is_ascii_control() && **byte != b'\t')
            {
                let detail = format!("line {number} has the control character {byte:#04x}");
                return Err(Refusal::new(Reason::LinkMalformed, detail));
            }
        }
        Ok(Self { text: output })
    }

    /// The text to pass on.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// How many of them sshd would look at: neither empty nor a comment (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
    #[must_use]
    pub fn count(&self) -> usize {
        let lines = self
            .text
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii_start);
        lines
            .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
            .count()
    }
}

/// More than [`MAX_OUTPUT`].
pub(super) fn too_large() -> Refusal {
    Refusal::new(
        Reason::LinkTooLarge,
        format!("it gave more than {MAX_OUTPUT} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &[u8]) -> Vec<u8> {
        Lines::new(text.to_vec()).unwrap().text().to_vec()
    }

    fn refused(text: &[u8]) -> Reason {
        Lines::new(text.to_vec()).unwrap_err().reason
    }

    #[test]
    fn text_is_passed_on_as_it_is() {
        for text in [
            &b"ssh-ed25519 AAAA a\n"[..],
            b"# comment\n\nrestrict,command=\"x\"\tssh-rsa AAAA\r\n",
            "ssh-rsa AAAA caf\u{e9}\n".as_bytes(),
            b"ssh-rsa AAAA caf\xe9\n",
            b"",
        ] {
            assert_eq!(taken(text), text);
        }
    }

    #[test]
    fn an_unfinished_last_line_is_finished() {
        assert_eq!(taken(b"ssh-rsa AAAA"), b"ssh-rsa AAAA\n");
    }

    #[test]
    fn control_characters_are_refused_anywhere() {
        for text in [
            &b"a\0b\n"[..],
            b"a\x1b[2J\n",
            b"a\rb\n",
            b"a\x7f",
            b"\r\r\n",
            b"ok\n\x01\n",
        ] {
            assert_eq!(refused(text), Reason::LinkMalformed, "{text:?}");
        }
    }

    #[test]
    fn one_byte_over_a_limit_is_too_large() {
        let line = [b"a".repeat(MAX_LINE), b"\n".to_vec()].concat();
        assert_eq!(taken(&line), line);
        assert_eq!(refused(&[b"a", line.as_slice()].concat()), Reason::LinkTooLarge);
        let full = b"a\n".repeat(MAX_OUTPUT / 2);
        assert_eq!(taken(&full), full);
        assert_eq!(refused(&[full.as_slice(), b"\n"].concat()), Reason::LinkTooLarge);
    }

    #[test]
    fn only_lines_that_sshd_looks_at_are_counted() {
        let lines = Lines::new(b"# a\n\n  \nssh-rsa A\n\tssh-rsa B".to_vec()).unwrap();
        assert_eq!(lines.count(), 2);
        assert_eq!(Lines::default().count(), 0);
    }
}
