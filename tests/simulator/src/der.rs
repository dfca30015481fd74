//! Just enough DER (X.690) to write OCSP responses and odd extensions, and to take a certificate apart.
//!
//! The encoder writes whatever it is told: a test may need nonsense.

/// Universal, context and class-constructed tags used below.
mod tag {
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const BIT_STRING: u8 = 0x03;
    pub(super) const OCTET_STRING: u8 = 0x04;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const OID: u8 = 0x06;
    pub(super) const ENUMERATED: u8 = 0x0a;
    pub(super) const GENERALIZED_TIME: u8 = 0x18;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const CONTEXT_CONSTRUCTED: u8 = 0xa0;
    pub(super) const CONTEXT_PRIMITIVE: u8 = 0x80;
}

/// One tag, the shortest length, the content.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let significant: Vec<u8> = bytes.iter().copied().skip_while(|b| *b == 0).collect();
            out.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
            out.extend(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A SEQUENCE of already encoded elements.
pub fn sequence<T: AsRef<[u8]>>(elements: &[T]) -> Vec<u8> {
    tlv(tag::SEQUENCE, &concat(elements))
}

/// An unsigned INTEGER from big-endian bytes.
pub fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let mut minimal: Vec<u8> = bytes.iter().copied().skip_while(|b| *b == 0).collect();
    if minimal.first().is_none_or(|b| b & 0x80 != 0) {
        minimal.insert(0, 0);
    }
    tlv(tag::INTEGER, &minimal)
}

/// OCTET STRING.
pub fn octets(content: &[u8]) -> Vec<u8> {
    tlv(tag::OCTET_STRING, content)
}

/// BIT STRING without unused bits.
pub fn bits(content: &[u8]) -> Vec<u8> {
    tlv(tag::BIT_STRING, &concat(&[&[0], content]))
}

/// BOOLEAN TRUE.
pub fn truth() -> Vec<u8> {
    tlv(tag::BOOLEAN, &[0xff])
}

/// NULL.
pub fn null() -> Vec<u8> {
    tlv(tag::NULL, &[])
}

/// ENUMERATED of one byte.
pub fn enumerated(value: u8) -> Vec<u8> {
    tlv(tag::ENUMERATED, &[value])
}

/// `[number] EXPLICIT` or the constructed form of `[number] IMPLICIT`.
pub fn context(number: u8, content: &[u8]) -> Vec<u8> {
    tlv(tag::CONTEXT_CONSTRUCTED | number, content)
}

/// The primitive form of `[number] IMPLICIT`.
pub fn context_primitive(number: u8, content: &[u8]) -> Vec<u8> {
    tlv(tag::CONTEXT_PRIMITIVE | number, content)
}

/// OBJECT IDENTIFIER.
pub fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    let (head, tail) = match arcs {
        [first, second, tail @ ..] => (first * 40 + second, tail),
        _ => (0, [].as_slice()),
    };
    for arc in std::iter::once(head).chain(tail.iter().copied()) {
        let mut groups = vec![u8::try_from(arc & 0x7f).unwrap_or(0)];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push(0x80 | u8::try_from(rest & 0x7f).unwrap_or(0));
            rest >>= 7;
        }
        content.extend(groups.iter().rev());
    }
    tlv(tag::OID, &content)
}

/// GeneralizedTime, `YYYYMMDDHHMMSSZ` (RFC 5280 section 4.1.2.5.2), from Unix seconds.
pub fn generalized_time(unix: i64) -> Vec<u8> {
    let t = crate::clock::date(unix);
    let text = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    );
    tlv(tag::GENERALIZED_TIME, text.as_bytes())
}

/// One element and what follows it.
pub struct Element<'a> {
    /// The identifier octet.
    pub tag: u8,
    /// Tag, length and content.
    pub whole: &'a [u8],
    /// The content alone.
    pub content: &'a [u8],
    /// What stands behind the element.
    pub rest: &'a [u8],
}

/// Takes the first element off `input`; `None` when it does not hold one.
pub fn read(input: &[u8]) -> Option<Element<'_>> {
    let (&tag, after_tag) = input.split_first()?;
    let (&first, mut body) = after_tag.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let (digits, tail) = body.split_at_checked(usize::from(first & 0x7f))?;
        length = digits
            .iter()
            .try_fold(0usize, |n, d| n.checked_mul(256)?.checked_add(usize::from(*d)))?;
        body = tail;
    }
    let (content, rest) = body.split_at_checked(length)?;
    let whole = input.get(..input.len() - rest.len())?;
    Some(Element {
        tag,
        whole,
        content,
        rest,
    })
}

/// All elements of a constructed content, in order; stops at the first that is broken.
pub fn elements(mut content: &[u8]) -> Vec<Element<'_>> {
    let mut found = Vec::new();
    while let Some(element) = read(content) {
        content = element.rest;
        found.push(element);
    }
    found
}

fn concat<T: AsRef<[u8]>>(parts: &[T]) -> Vec<u8> {
    parts.iter().flat_map(|p| p.as_ref().iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        assert_eq!(tlv(4, &[0; 127])[..2], [4, 127]);
        assert_eq!(tlv(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[0; 256])[..4], [4, 0x82, 1, 0]);
    }

    #[test]
    fn oid_and_integer_match_known_encodings() {
        assert_eq!(
            oid(&[1, 2, 840, 113_549]),
            [6, 6, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d]
        );
        assert_eq!(unsigned(&[0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[]), [2, 1, 0]);
    }

    #[test]
    fn what_is_written_reads_back() {
        let inner = octets(&[7; 300]);
        let outer = sequence(&[&inner, &null()]);
        let read = read(&outer).expect("an element");
        assert_eq!(read.whole, outer);
        assert_eq!(elements(read.content).len(), 2);
        assert!(super::read(&outer[..10]).is_none());
    }
}
