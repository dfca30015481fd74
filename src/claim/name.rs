//! A claim's name: when its record expires, and which record it is.
//!
//! ```text
//! 1738233608-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//! ```
//!
//! The digest is SHA-256 over the record's signed bytes: the same record under another signature, or pushed into
//! another user's document, is the same record. The time stands in the name so that whoever sweeps reads nothing else.
#![deny(clippy::disallowed_methods)]

use std::fmt;

use crate::stat::decimal;

/// One record, as claims know it. In the order in which records are used: the soonest to expire first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// When the record expires, in Unix seconds.
    pub expires: u64,
    /// SHA-256 of the record's signed bytes.
    pub digest: [u8; 32],
}

impl Entry {
    /// Reads a name; `None` where it is not exactly what [`fmt::Display`] writes.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let (expires, mut digits) = std::str::from_utf8(name).ok()?.split_once('-')?;
        let entry = Self {
            expires: decimal(expires)?,
            digest: {
                let mut digest = [0; 32];
                for byte in &mut digest {
                    let (pair, rest) = digits.split_at_checked(2)?;
                    *byte = u8::from_str_radix(pair, 16).ok()?;
                    digits = rest;
                }
                digest
            },
        };
        // Signs, capital letters and anything left over are not of the form.
        (entry.to_string().as_bytes() == name).then_some(entry)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.expires)?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "1738233608-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_name_is_read_and_written_alike() {
        let entry = Entry::parse(NAME.as_bytes()).unwrap();
        assert_eq!(entry.expires, 1_738_233_608);
        assert_eq!(entry.digest[..2], [0x9f, 0x86]);
        assert_eq!(entry.to_string(), NAME);
    }

    #[test]
    fn everything_else_is_no_claim() {
        let capitals = NAME.to_uppercase();
        let (longer, signed) = (format!("{NAME}0"), format!("+{NAME}"));
        let sign_within = NAME.replace("-9f", "-+f");
        let leading_zero = format!("0{NAME}");
        for name in [
            "",
            "-",
            ".",
            "..",
            "1738233608",
            "1738233608-",
            "1738233608-é",
            &NAME[..NAME.len() - 1],
            &NAME[..NAME.len() - 2],
            &capitals,
            &longer,
            &signed,
            &sign_within,
            &leading_zero,
            "18446744073709551616-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        ] {
            assert_eq!(Entry::parse(name.as_bytes()), None, "{name}");
        }
        assert_eq!(Entry::parse(b"\xff-00"), None);
    }

    #[test]
    fn entries_are_in_the_order_of_their_expiry() {
        let later = Entry {
            expires: 10,
            digest: [0; 32],
        };
        let sooner = Entry {
            expires: 9,
            digest: [1; 32],
        };
        assert!(sooner < later);
    }
}
