//! Captures: what is made fit for sharing, and a manifest that somebody else wrote.

use ec2_instance_connect::admin::capture::layout::Manifest;
use ec2_instance_connect::admin::capture::redact::{Redactor, SALT_BYTES};
use ec2_instance_connect::escape::text;
use ec2_instance_connect::trust::describe;

/// A run of letters and digits of this length could be a name's, a key's, a signature's; no pseudonym, no known word
/// of a record and no type of a key has as many.
const SECRET: usize = 24;

/// A key document: its form stays, and no long word of it does. Gives the number of lines.
pub fn redaction(data: &[u8]) -> usize {
    let redactor = Redactor::new([7; SALT_BYTES]);
    let redacted = String::from_utf8(redactor.records(data)).expect("it is text");
    let document = String::from_utf8_lossy(data);
    assert_eq!(redacted.split('\n').count(), document.split('\n').count());
    assert_eq!(
        redacted.split('\n').map(str::is_empty).collect::<Vec<_>>(),
        document.split('\n').map(str::is_empty).collect::<Vec<_>>()
    );
    for word in document.split(|c: char| !c.is_ascii_alphanumeric()) {
        let number = word.bytes().all(|b| b.is_ascii_digit());
        assert!(
            word.len() < SECRET || number || !redacted.contains(word),
            "{word} is still there"
        );
    }
    // Equal lines stay equal, so that who reads it sees that a key was pushed twice.
    assert_eq!(redactor.records(data), redacted.as_bytes());
    redacted.lines().count()
}

/// A manifest that is read is written, and read again, as the same.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(data) else {
        return;
    };
    let written = serde_json::to_vec(&manifest).expect("it can be written");
    let again: Manifest = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).expect("it can be written"), written);
}

/// Certificates and staples as they are described to people: foreign text, of whatever a certificate may hold, which
/// is harmless once it is escaped.
pub fn describe(data: &[u8]) -> usize {
    let certificates = describe::certificates(data);
    for certificate in &certificates {
        for name in [&certificate.subject, &certificate.issuer] {
            let shown = text(name).to_string();
            assert!(shown.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
        }
        assert!(certificate.serial.bytes().all(|b| b.is_ascii_hexdigit()));
    }
    let responses = describe::staple(data).unwrap_or_default();
    assert!(responses.iter().all(|response| response.serial.len() % 2 == 0));
    certificates.len() + responses.len()
}
