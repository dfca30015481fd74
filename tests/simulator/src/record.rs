//! The active-keys document: signed records, one after the other.

use crate::key::{Key, RECORD_SCHEME, Scheme};
use base64::{Engine, engine::general_purpose::STANDARD};

/// One header line of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// `#Timestamp=`, this many seconds after the record was made.
    Expires(i64),
    /// Any other line, without its newline.
    Line(String),
}

/// One record to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The header lines, in order.
    pub headers: Vec<Header>,
    /// The key line.
    pub key_line: String,
    /// Sign with this key instead of the signer's.
    pub signed_with: Option<Key>,
    /// Signature scheme.
    pub scheme: Scheme,
    /// Break the signature into lines of this many characters.
    pub wrap: Option<usize>,
    /// Spoil this bit of the signature.
    pub flip: Option<usize>,
    /// Replace text in headers and key line after signing: what an attacker would do.
    pub forged: Option<(String, String)>,
    /// Leave the signature out.
    pub unsigned: bool,
    /// What ends each line; the service writes a line feed.
    pub line_end: &'static str,
}

/// Seconds a pushed key lives at the service.
pub const KEY_LIFETIME: i64 = 60;

impl Record {
    /// A record as the service makes it, with the two obligatory headers.
    pub fn new(instance: &str, key_line: &str) -> Self {
        Self {
            headers: vec![
                Header::Expires(KEY_LIFETIME),
                Header::Line(format!("#Instance={instance}")),
            ],
            key_line: key_line.to_owned(),
            signed_with: None,
            scheme: RECORD_SCHEME,
            wrap: None,
            flip: None,
            forged: None,
            unsigned: false,
            line_end: "\n",
        }
    }

    /// Adds a header line.
    #[must_use]
    pub fn header(mut self, line: &str) -> Self {
        self.headers.push(Header::Line(line.to_owned()));
        self
    }

    /// Adds `#Caller=`.
    #[must_use]
    pub fn caller(self, arn: &str) -> Self {
        self.header(&format!("#Caller={arn}"))
    }

    /// Adds `#Request=`.
    #[must_use]
    pub fn request(self, id: &str) -> Self {
        self.header(&format!("#Request={id}"))
    }

    /// Sets how many seconds from now the record expires.
    #[must_use]
    pub fn expires(mut self, seconds: i64) -> Self {
        for header in &mut self.headers {
            if let Header::Expires(at) = header {
                *at = seconds;
            }
        }
        self
    }

    /// Drops the header lines that start with `prefix`, such as `#Timestamp`.
    #[must_use]
    pub fn without(mut self, prefix: &str) -> Self {
        self.headers.retain(|header| match header {
            Header::Expires(_) => prefix != "#Timestamp",
            Header::Line(line) => !line.starts_with(prefix),
        });
        self
    }

    /// The record's lines, signed with `key`, without a blank line at the end.
    pub fn render(&self, key: Key, now: i64) -> Vec<u8> {
        let mut lines: Vec<String> = self
            .headers
            .iter()
            .map(|header| match header {
                Header::Expires(seconds) => format!("#Timestamp={}", now.saturating_add(*seconds)),
                Header::Line(line) => line.clone(),
            })
            .collect();
        lines.push(self.key_line.clone());

        let signed: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let mut signature = self
            .signed_with
            .unwrap_or(key)
            .sign(self.scheme, signed.as_bytes());
        if let Some(bit) = self.flip {
            let bits = signature.len() * 8;
            if let Some(byte) = signature.get_mut(bit % bits / 8) {
                *byte ^= 1 << (bit % 8);
            }
        }
        if let Some((from, to)) = &self.forged {
            lines.iter_mut().for_each(|line| *line = line.replace(from, to));
        }
        if !self.unsigned {
            let encoded = STANDARD.encode(signature);
            match self.wrap {
                Some(width) => lines.extend(chunks(&encoded, width)),
                None => lines.push(encoded),
            }
        }
        lines
            .iter()
            .flat_map(|line| [line.as_bytes(), self.line_end.as_bytes()].concat())
            .collect()
    }
}

/// A document of several records, each followed by a blank line.
pub fn document(records: &[Record], key: Key, now: i64) -> Vec<u8> {
    let mut text = Vec::new();
    for record in records {
        text.extend(record.render(key, now));
        text.extend_from_slice(record.line_end.as_bytes());
    }
    text
}

fn chunks(text: &str, width: usize) -> Vec<String> {
    text.as_bytes()
        .chunks(width.max(1))
        .map(|c| String::from_utf8_lossy(c).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(record: &Record) -> String {
        String::from_utf8(record.render(Key::Rsa2048(0), 1000)).expect("ASCII")
    }

    #[test]
    fn a_record_has_headers_key_and_one_signature_line() {
        let record = Record::new("i-0123456789abcdef0", "ssh-ed25519 AAAA").caller("arn:x");
        let lines: Vec<String> = text(&record).lines().map(str::to_owned).collect();
        assert_eq!(
            lines[..4],
            [
                "#Timestamp=1060",
                "#Instance=i-0123456789abcdef0",
                "#Caller=arn:x",
                "ssh-ed25519 AAAA"
            ]
        );
        assert_eq!(lines[4].len(), 344);
        assert_eq!(lines.len(), 5);
    }

    #[test]
    fn a_wrapped_signature_is_the_same_signature() {
        let mut record = Record::new("i-0123456789abcdef0", "ssh-ed25519 AAAA");
        record.scheme = Scheme::RsaPkcs1(crate::key::Hash::Sha256);
        let plain: String = text(&record).lines().skip(3).collect();
        record.wrap = Some(76);
        assert_eq!(text(&record).lines().count(), 3 + 5);
        assert_eq!(text(&record).lines().skip(3).collect::<String>(), plain);
    }

    #[test]
    fn without_drops_the_named_header_only() {
        let record = Record::new("i-0123456789abcdef0", "k").caller("a");
        assert!(!text(&record.clone().without("#Timestamp")).contains("#Timestamp"));
        assert!(!text(&record.clone().without("#Instance")).contains("#Instance"));
        assert!(text(&record.without("#Instance")).contains("#Caller"));
    }
}
