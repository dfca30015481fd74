//! Reading DER values one after another, and refusing what is left over.

use x509_parser::asn1_rs::{Any, Class, FromDer as _, GeneralizedTime, Tag};

/// The bytes are not DER of the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The values that follow one another in some bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// One value.
#[derive(Debug, Clone)]
pub(super) struct Value<'a> {
    any: Any<'a>,
    /// The value with its tag and length, as it stood in the input.
    pub(super) raw: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(self) -> bool {
        self.rest.is_empty()
    }

    /// The next value, whatever it is.
    pub(super) fn next(&mut self) -> Result<Value<'a>, Malformed> {
        let (rest, any) = Any::from_der(self.rest).map_err(|_| Malformed)?;
        let length = self.rest.len().saturating_sub(rest.len());
        let raw = self.rest.get(..length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(Value { any, raw })
    }

    /// The content of the next value, which must be universal and have this tag.
    pub(super) fn expect(&mut self, tag: Tag) -> Result<&'a [u8], Malformed> {
        let value = self.next()?;
        if value.is(Class::Universal, tag.0) {
            Ok(value.any.data)
        } else {
            Err(Malformed)
        }
    }

    /// The content of the next value, if it is explicitly tagged with this context-specific tag.
    pub(super) fn optional(&mut self, tag: u32) -> Result<Option<&'a [u8]>, Malformed> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut ahead = *self;
        let value = ahead.next()?;
        if value.is_explicit(tag) {
            *self = ahead;
            return Ok(Some(value.any.data));
        }
        Ok(None)
    }

    /// Holds only where everything was read.
    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

impl<'a> Value<'a> {
    /// Whether the value has this tag. DER leaves no choice of primitive or constructed (X.690 §8, §10.2): a universal
    /// SEQUENCE is constructed and what else is read here is primitive.
    pub(super) fn is(&self, class: Class, tag: u32) -> bool {
        let tagged = self.any.class() == class && self.any.tag().0 == tag;
        tagged && (class != Class::Universal || self.any.header.is_constructed() == (tag == Tag::Sequence.0))
    }

    /// Whether the value has this context-specific tag and holds other values.
    fn is_explicit(&self, tag: u32) -> bool {
        self.is(Class::ContextSpecific, tag) && self.any.header.is_constructed()
    }

    pub(super) fn content(&self) -> &'a [u8] {
        self.any.data
    }
}

/// The content of the one universal value of this tag that `bytes` consist of.
pub(super) fn whole(bytes: &[u8], tag: Tag) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(bytes);
    let content = reader.expect(tag)?;
    reader.finish()?;
    Ok(content)
}

/// The content of a BIT STRING of whole octets (X.690 §8.6.2: the first octet counts the unused bits).
pub(super) fn octets(content: &[u8]) -> Result<&[u8], Malformed> {
    content.strip_prefix(&[0]).ok_or(Malformed)
}

/// A GeneralizedTime's content as Unix seconds: `YYYYMMDDHHMMSSZ` and nothing else (RFC 5280 §4.1.2.5.2).
pub(super) fn generalized_time(content: &[u8]) -> Result<i64, Malformed> {
    const LENGTH: usize = "YYYYMMDDHHMMSSZ".len();
    if content.len() != LENGTH || content.last() != Some(&b'Z') {
        return Err(Malformed);
    }
    let time = GeneralizedTime::from_bytes(content).and_then(|time| time.utc_datetime());
    time.map(|time| time.unix_timestamp()).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_over_bytes_are_an_error() {
        assert_eq!(whole(&[0x04, 1, 7], Tag::OctetString), Ok([7].as_slice()));
        assert_eq!(whole(&[0x04, 1, 7, 0], Tag::OctetString), Err(Malformed));
        assert_eq!(whole(&[0x04, 2, 7], Tag::OctetString), Err(Malformed));
        assert_eq!(whole(&[0x05, 0], Tag::OctetString), Err(Malformed));
    }

    #[test]
    fn a_primitive_sequence_and_a_constructed_string_are_not_der() {
        assert!(whole(&[0x30, 0], Tag::Sequence).is_ok());
        assert_eq!(whole(&[0x10, 0], Tag::Sequence), Err(Malformed));
        assert_eq!(whole(&[0x24, 1, 7], Tag::OctetString), Err(Malformed));
        assert_eq!(Reader::new(&[0x81, 0]).optional(1), Ok(None));
    }

    #[test]
    fn an_optional_value_is_taken_only_where_its_tag_stands() {
        let mut reader = Reader::new(&[0xa1, 0, 0x05, 0]);
        assert_eq!(reader.optional(0), Ok(None));
        assert_eq!(reader.optional(1), Ok(Some([].as_slice())));
        assert_eq!(reader.optional(1), Ok(None));
        assert!(reader.expect(Tag::Null).is_ok());
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn only_whole_octets_are_a_signature() {
        assert_eq!(octets(&[0, 1, 2]), Ok([1, 2].as_slice()));
        assert_eq!(octets(&[1, 2]), Err(Malformed));
        assert_eq!(octets(&[]), Err(Malformed));
    }

    #[test]
    fn times_are_utc_to_the_second() {
        assert_eq!(generalized_time(b"19700101000001Z"), Ok(1));
        assert_eq!(generalized_time(b"20250130113328Z"), Ok(1_738_236_808));
        for bad in [
            &b"197001010000Z"[..],
            b"19700101000001",
            b"19700101000001.5Z",
            b"19701301000001Z",
            b"19700101000001+",
        ] {
            assert_eq!(generalized_time(bad), Err(Malformed), "{bad:?}");
        }
    }
}
