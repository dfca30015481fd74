//! PEM certificates (RFC 7468), as the metadata and the trust stores hold them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pki_types::CertificateDer;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The document is not a sequence of PEM certificates; says what was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotPem(pub(super) &'static str);

/// The certificates of `document`, in order. Text outside of the certificates is explanatory (RFC 7468 §2, §5.2).
pub(super) fn certificates(
    document: &[u8],
) -> impl Iterator<Item = Result<CertificateDer<'static>, NotPem>> + '_ {
    let mut lines = document.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    std::iter::from_fn(move || {
        lines.find(|line| *line == BEGIN.as_bytes())?;
        let mut base64 = Vec::new();
        loop {
            match lines.next() {
                None => return Some(Err(NotPem("a certificate has no end"))),
                Some(line) if line == END.as_bytes() => break,
                Some(line) => base64.extend_from_slice(line),
            }
        }
        let der = STANDARD
            .decode(&base64)
            .map_err(|_| NotPem("a certificate is not base64"));
        Some(der.map(CertificateDer::from))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(document: &str) -> Result<Vec<Vec<u8>>, NotPem> {
        certificates(document.as_bytes())
            .map(|der| der.map(|der| der.to_vec()))
            .collect()
    }

    #[test]
    fn certificates_come_in_order_whatever_stands_between_them() {
        let document = "# one\r\n-----BEGIN CERTIFICATE-----\r\nYW\r\nJj\r\n-----END CERTIFICATE-----\r\n\
                        two\n-----BEGIN CERTIFICATE-----\nZGVm\n-----END CERTIFICATE-----";
        assert_eq!(decode(document).unwrap(), [b"abc".to_vec(), b"def".to_vec()]);
        assert_eq!(decode("").unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_certificate_without_end_or_with_foreign_characters_is_an_error() {
        assert!(decode("-----BEGIN CERTIFICATE-----\nYWJj\n").is_err());
        assert!(decode("-----BEGIN CERTIFICATE-----\nYW*j\n-----END CERTIFICATE-----\n").is_err());
        // A second BEGIN inside is not base64, so no certificate can swallow its neighbour.
        assert!(
            decode(
                "-----BEGIN CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----"
            )
            .is_err()
        );
    }
}
