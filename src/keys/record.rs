//! The record's form:
//!
//! ```text
//! #Timestamp=1738233608          expiry, Unix seconds          ⎫
//! #Instance=i-0123456789abcdef0                                ⎪ signed, each line
//! #Caller=arn:aws:sts::…         optional                      ⎬ with its LF
//! #Request=…                     optional                      ⎪
//! ssh-ed25519 AAAA…              the key                       ⎭
//! base64 of the signature, on one line or several
//!                                a blank line, or the end of the document, ends the record
//! ```
//!
//! Other `#` lines are signed and ignored: the service's room to grow.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::reason::{Reason, Refusal};

/// One record, parsed and not believed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// The bytes that the signature is over.
    pub(super) signed: &'a [u8],
    /// Unix seconds.
    pub(super) expires: u64,
    pub(super) instance: &'a str,
    pub(super) caller: Option<&'a str>,
    pub(super) request_id: Option<&'a str>,
    /// The key line, without its LF.
    pub(super) key: &'a str,
    pub(super) signature: Vec<u8>,
}

/// The texts of the records in `document`: what stands between blank lines.
pub(super) fn split(document: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = document;
    std::iter::from_fn(move || {
        while let Some(after) = rest.strip_prefix(b"\n") {
            rest = after;
        }
        if rest.is_empty() {
            return None;
        }
        let end = rest
            .windows(2)
            .position(|pair| pair == b"\n\n")
            .unwrap_or(rest.len());
        let (record, after) = rest.split_at_checked(end)?;
        rest = after;
        Some(record)
    })
}

impl<'a> Record<'a> {
    /// Parses the text of one record.
    ///
    /// # Errors
    /// [`Reason::RecordMalformed`].
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, Refusal> {
        let malformed = |what: &'static str| Refusal::new(Reason::RecordMalformed, what);
        let text = std::str::from_utf8(text).map_err(|_| malformed("the record is not UTF-8"))?;

        let mut timestamp = Field::new("#Timestamp=");
        let mut instance = Field::new("#Instance=");
        let mut caller = Field::new("#Caller=");
        let mut request_id = Field::new("#Request=");
        let mut rest = text;
        let key = loop {
            let (line, after) = rest
                .split_once('\n')
                .ok_or_else(|| malformed("the record has no signature"))?;
            rest = after;
            if !line.starts_with('#') {
                break line;
            }
            for field in [&mut timestamp, &mut instance, &mut caller, &mut request_id] {
                field.take(line)?;
            }
        };
        let signed_length = text.len().saturating_sub(rest.len());
        let signed = text.as_bytes().get(..signed_length).unwrap_or_default();

        let expires = timestamp
            .value
            .ok_or_else(|| malformed("the record has no #Timestamp line"))?;
        let instance = instance
            .value
            .ok_or_else(|| malformed("the record has no #Instance line"))?;
        let decimal = expires.bytes().all(|b| b.is_ascii_digit());
        let expires = expires.parse().ok().filter(|_| decimal);
        let expires =
            expires.ok_or_else(|| malformed("the record's #Timestamp is not a number of seconds"))?;
        let base64: String = rest.lines().collect();
        let signature = STANDARD
            .decode(base64)
            .map_err(|_| malformed("the record's signature is not base64"))?;
        if signature.is_empty() {
            return Err(malformed("the record has no signature"));
        }
        Ok(Self {
            signed,
            expires,
            instance,
            caller: caller.value,
            request_id: request_id.value,
            key,
            signature,
        })
    }
}

/// A `#Name=` line, of which a record has at most one: with two, whoever reads the log and whoever judges
/// could each believe the other one.
struct Field<'a> {
    prefix: &'static str,
    value: Option<&'a str>,
}

impl<'a> Field<'a> {
    fn new(prefix: &'static str) -> Self {
        Self { prefix, value: None }
    }

    fn take(&mut self, line: &'a str) -> Result<(), Refusal> {
        let Some(value) = line.strip_prefix(self.prefix) else {
            return Ok(());
        };
        if self.value.replace(value).is_some() {
            let detail = format!("the record has two {} lines", self.prefix.trim_end_matches('='));
            return Err(Refusal::new(Reason::RecordMalformed, detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "#Timestamp=1738233608\n#Instance=i-0123456789abcdef0\n#New=x\n#Caller=arn:aws:iam::1:user/a\n\
                        #Request=r\nssh-ed25519 AAAA\nYWJj";

    fn parse(text: &str) -> Result<Record<'_>, Reason> {
        Record::parse(text.as_bytes()).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn a_whole_record_is_read() {
        let record = parse(GOOD).unwrap();
        assert_eq!(record.signed, &GOOD.as_bytes()[..GOOD.len() - 4]);
        assert_eq!(record.expires, 1_738_233_608);
        assert_eq!(record.instance, "i-0123456789abcdef0");
        assert_eq!(record.caller, Some("arn:aws:iam::1:user/a"));
        assert_eq!(record.request_id, Some("r"));
        assert_eq!(record.key, "ssh-ed25519 AAAA");
        assert_eq!(record.signature, b"abc");
    }

    #[test]
    fn caller_and_request_may_be_absent_and_the_signature_may_span_lines() {
        let record = parse("#Instance=i\n#Timestamp=1\nkey\nYW\nJj\n").unwrap();
        assert_eq!(
            (record.caller, record.request_id, record.signature),
            (None, None, b"abc".to_vec())
        );
    }

    #[test]
    fn everything_else_is_malformed() {
        for text in [
            "",
            "#",
            "key\nYWJj",
            "#Timestamp=1\nkey\nYWJj",
            "#Instance=i\nkey\nYWJj",
            "#Timestamp=1\n#Instance=i\nkey",
            "#Timestamp=1\n#Instance=i\nkey\n",
            "#Timestamp=1\n#Instance=i\nYWJj",
            "#Timestamp=\n#Instance=i\nkey\nYWJj",
            "#Timestamp=+1\n#Instance=i\nkey\nYWJj",
            "#Timestamp=-1\n#Instance=i\nkey\nYWJj",
            "#Timestamp=1 \n#Instance=i\nkey\nYWJj",
            "#Timestamp=99999999999999999999\n#Instance=i\nkey\nYWJj",
            "#Timestamp=1\n#Timestamp=2\n#Instance=i\nkey\nYWJj",
            "#Timestamp=1\n#Instance=i\n#Instance=i\nkey\nYWJj",
            "#Timestamp=1\n#Instance=i\n#Caller=a\n#Caller=b\nkey\nYWJj",
            "#Timestamp=1\n#Instance=i\n#Request=a\n#Request=b\nkey\nYWJj",
            "#Timestamp=1\n#Instance=i\nkey\nYWJj\n#Timestamp=1",
            "#Timestamp=1\n#Instance=i\nkey\nYWJ",
            "#Timestamp=1\n#Instance=i\nkey\nYWJj\nkey two",
            "#Timestamp=1\n#Instance=i\nkey\n \nYWJj",
        ] {
            assert_eq!(parse(text).unwrap_err(), Reason::RecordMalformed, "{text:?}");
        }
        assert_eq!(
            Record::parse(b"#Timestamp=1\n#Instance=\xff\nkey\nYWJj")
                .unwrap_err()
                .reason,
            Reason::RecordMalformed
        );
    }

    #[test]
    fn blank_lines_divide_records() {
        let split = |text: &'static str| split(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(split("a\nb\n\nc\n"), [&b"a\nb"[..], b"c\n"]);
        assert_eq!(split("\n\na\n\n\n\nb"), [&b"a"[..], b"b"]);
        assert_eq!(split("\n\n"), Vec::<&[u8]>::new());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_signed_is_a_prefix(text: Vec<u8>) {
            for text in split(&text) {
                prop_assert!(!text.is_empty());
                if let Ok(record) = Record::parse(text) {
                    prop_assert!(text.starts_with(record.signed));
                    prop_assert!(record.signed.ends_with(b"\n"));
                }
            }
        }
    }
}
