//! Lines of any length in bounded memory.
#![deny(clippy::disallowed_methods)]

use std::io::{self, BufRead};

/// Calls `take` for each line of `input`, without its newline; a line longer than `limit` bytes is skipped
/// unread. The number of those comes back.
///
/// # Errors
/// What reading said, or `take`.
pub fn for_each<E: From<io::Error>>(
    mut input: impl BufRead,
    limit: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<u64, E> {
    let mut line = Vec::new();
    let mut too_long = false;
    let mut skipped: u64 = 0;
    loop {
        let chunk = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            chunk => chunk?,
        };
        let end = chunk.iter().position(|&b| b == b'\n');
        let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or(chunk);
        let at_eof = chunk.is_empty();
        too_long |= line.len().saturating_add(piece.len()) > limit;
        if too_long {
            line.clear();
        } else {
            line.extend_from_slice(piece);
        }
        let consumed = piece.len().saturating_add(usize::from(end.is_some()));
        input.consume(consumed);
        if end.is_some() || at_eof {
            if too_long {
                skipped = skipped.saturating_add(1);
            } else if end.is_some() || !line.is_empty() {
                take(&line)?;
            }
            line.clear();
            too_long = false;
        }
        if at_eof {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Read as _};

    fn lines(input: &[u8], limit: usize) -> (Vec<Vec<u8>>, u64) {
        let mut seen = Vec::new();
        // A tiny buffer, so that every line crosses its edge.
        let skipped = for_each(BufReader::with_capacity(3, input), limit, |line| {
            seen.push(line.to_vec());
            io::Result::Ok(())
        });
        (seen, skipped.unwrap())
    }

    #[test]
    fn lines_come_without_their_newline_also_the_last() {
        assert_eq!(
            lines(b"one\n\nthree", 5),
            (vec![b"one".to_vec(), vec![], b"three".to_vec()], 0)
        );
        assert_eq!(lines(b"", 5), (vec![], 0));
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_its_neighbours_are_not() {
        assert_eq!(
            lines(b"one\nsixsix\nfive5\nsixsix", 5),
            (vec![b"one".to_vec(), b"five5".to_vec()], 2)
        );
    }

    #[test]
    fn a_line_without_end_costs_no_memory() {
        let endless = BufReader::new(io::repeat(b'x').take(1 << 24));
        let skipped = for_each(endless, 1 << 16, |_| io::Result::Ok(()));
        assert_eq!(skipped.unwrap(), 1);
    }
}
