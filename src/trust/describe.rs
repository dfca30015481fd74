//! What certificates and staples say of themselves, for people: nothing here is proven, and nothing is decided by it.

use std::fmt::Write as _;

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::ocsp::{CertStatus, Staple};
use super::{pem, revocation};

/// Most certificates described: more are no chain of the service's, and a person reads none of them.
const MAX_DESCRIBED: usize = 16;

/// A certificate, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The subject, as text: foreign.
    pub subject: String,
    /// The issuer, as text: foreign.
    pub issuer: String,
    /// The serial number in hexadecimal, as [`Response::serial`] gives it.
    pub serial: String,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
}

/// What a staple says of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The certificate's serial number in hexadecimal.
    pub serial: String,
    /// `good`, `revoked` or `unknown`.
    pub status: &'static str,
    /// Unix seconds.
    pub this_update: i64,
    /// Unix seconds.
    pub next_update: Option<i64>,
}

/// The certificates of a PEM document that can be read, in order.
#[must_use]
pub fn certificates(document: &[u8]) -> Vec<Certificate> {
    let readable = pem::certificates(document)
        .take(MAX_DESCRIBED)
        .filter_map(Result::ok);
    readable
        .filter_map(|der| {
            let (_, certificate) = X509Certificate::from_der(&der).ok()?;
            Some(Certificate {
                subject: certificate.subject().to_string(),
                issuer: certificate.issuer().to_string(),
                serial: hex(certificate.raw_serial()),
                not_before: certificate.validity().not_before.timestamp(),
                not_after: certificate.validity().not_after.timestamp(),
            })
        })
        .collect()
}

/// What a staple in base64 says; `None` where it is no OCSP response that could be a staple.
#[must_use]
pub fn staple(base64: &[u8]) -> Option<Vec<Response>> {
    let der = revocation::decode(base64)?;
    let staple = Staple::parse(&der).ok()?;
    let responses = staple.responses().iter();
    Some(
        responses
            .map(|response| Response {
                serial: hex(response.serial()),
                status: match response.status {
                    CertStatus::Good => "good",
                    CertStatus::Revoked => "revoked",
                    CertStatus::Unknown => "unknown",
                },
                this_update: response.this_update,
                next_update: response.next_update,
            })
            .collect(),
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
