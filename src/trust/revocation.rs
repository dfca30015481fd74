//! No certificate of the path is revoked: each has a staple that says so and that counts.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pki_types::{CertificateDer, UnixTime};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::chain::{Link, MAX_CERTIFICATES, VerifiedChain};
use super::ocsp::{CertStatus, NotAStaple, SingleResponse, Staple, Subject};
use super::pem;
use super::signature::PublicKey;
use crate::config::OcspPolicy;
use crate::reason::{Reason, Refusal};

/// How far the responder's clock and ours may be apart, in seconds.
const CLOCK_TOLERANCE: i64 = 300;

/// A signer that AWS made and nobody revoked: the only one whose records are read.
///
/// Only [`TrustedSigner::prove`] makes one.
#[derive(Debug, Clone)]
pub struct TrustedSigner {
    key: Vec<u8>,
    not_after: i64,
    next_update: Option<i64>,
}

impl TrustedSigner {
    /// Proves that no certificate of `chain` is revoked at `now`, by `staples`: OCSP responses in base64, as the
    /// metadata holds them.
    ///
    /// # Errors
    /// One of the `staple-…` reasons, for the first certificate that lacks a staple that counts.
    pub fn prove<'a>(
        chain: &VerifiedChain,
        staples: impl IntoIterator<Item = &'a [u8]>,
        policy: OcspPolicy,
        now: UnixTime,
    ) -> Result<Self, Refusal> {
        let decoded: Vec<_> = staples.into_iter().map(decode).collect();
        let parsed: Vec<_> = decoded
            .iter()
            .map(|der| der.as_deref().ok_or(NotAStaple).and_then(Staple::parse))
            .collect();
        let mut next_update = None;
        for link in chain.links() {
            match standing(link, &parsed, now) {
                Ok(window_end) => {
                    next_update =
                        Some(next_update.map_or(window_end, |earliest: i64| earliest.min(window_end)));
                }
                // A response that cannot be read says nothing of any certificate: as good as none.
                Err(Refusal {
                    reason: Reason::StapleMissing | Reason::StapleMalformed,
                    ..
                }) if policy == OcspPolicy::IfPresent => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(Self {
            key: chain.key().to_vec(),
            not_after: chain.not_after(),
            next_update,
        })
    }

    /// The key that records must be signed with: the DER of an RSAPublicKey (RFC 8017 §A.1.1).
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// When the first certificate of the path ends, in Unix seconds.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// When the first staple ends, in Unix seconds; `None` where policy let all be absent.
    #[must_use]
    pub fn next_update(&self) -> Option<i64> {
        self.next_update
    }
}

/// By what names staples for the certificates of a PEM document may go: the upper-case hexadecimal SHA-1 of the
/// certificate, as documented, or its SHA-256, as once seen. A hint what to fetch first, nothing more; what is wrong
/// with the document is for [`Chain::from_pem`](super::Chain::from_pem) to say.
#[must_use]
pub fn staple_names(document: &[u8]) -> Vec<String> {
    fn hex(hash: impl AsRef<[u8]>) -> String {
        hash.as_ref().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02X}");
            text
        })
    }
    let names = |der: CertificateDer<'_>| [hex(Sha1::digest(&der)), hex(Sha256::digest(&der))];
    pem::certificates(document)
        .map_while(Result::ok)
        .take(MAX_CERTIFICATES)
        .flat_map(names)
        .collect()
}

/// The DER of a staple; nothing where it is not base64. White space may stand anywhere.
pub(super) fn decode(base64: &[u8]) -> Option<Vec<u8>> {
    let base64: Vec<u8> = base64
        .iter()
        .copied()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    STANDARD.decode(base64).ok()
}

/// Until when the certificate of `link` is known to be good, in Unix seconds.
fn standing(link: &Link, staples: &[Result<Staple<'_>, NotAStaple>], now: UnixTime) -> Result<i64, Refusal> {
    let Ok(([], certificate)) = X509Certificate::from_der(&link.certificate) else {
        return Err(Refusal::new(
            Reason::SignerMalformed,
            "a certificate of the path cannot be read",
        ));
    };
    let spki = webpki::spki_for_anchor(&link.issuer);
    let Ok(issuer_key) = PublicKey::from_spki(&spki) else {
        return Err(Refusal::new(
            Reason::SignerMalformed,
            "an issuer's key cannot be read",
        ));
    };
    // The verifier saw that this name and the issuer's own are the same bytes.
    let subject = Subject {
        issuer_name: certificate.issuer().as_raw(),
        issuer_key: issuer_key.bits,
        serial: certificate.raw_serial(),
    };

    let mut good = None;
    let mut bad: Option<Refusal> = None;
    for staple in staples.iter().flatten() {
        let responses = staple.about(subject);
        if responses.is_empty() {
            continue;
        }
        if !staple.is_signed_for(&link.issuer, now) {
            let detail = "neither the issuer nor a delegate of the issuer's signed the staple";
            bad = bad.or(Some(Refusal::new(Reason::StapleSignature, detail)));
            continue;
        }
        for response in responses {
            match judge(response, now) {
                Ok(until) => good = good.max(Some(until)),
                // One who may say so says it is revoked: nothing that is said elsewhere counts against that.
                Err(refusal) if refusal.reason == Reason::StapleRevoked => {
                    return Err(of(&certificate, refusal));
                }
                Err(refusal) => bad = bad.or(Some(refusal)),
            }
        }
    }
    if let Some(until) = good {
        return Ok(until);
    }
    let refusal = bad.unwrap_or_else(|| {
        if staples.iter().any(Result::is_err) {
            Refusal::new(
                Reason::StapleMalformed,
                "a staple is not an OCSP response, and there is no other",
            )
        } else {
            Refusal::new(Reason::StapleMissing, "there is no OCSP staple")
        }
    });
    Err(of(&certificate, refusal))
}

/// Until when `response`, whose signature holds, vouches for its certificate, in Unix seconds.
fn judge(response: &SingleResponse<'_>, now: UnixTime) -> Result<i64, Refusal> {
    if response.status == CertStatus::Revoked {
        // Whatever its window: what was revoked once does not become good by waiting.
        return Err(Refusal::new(Reason::StapleRevoked, "the certificate is revoked"));
    }
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let (earliest, latest) = (
        now.saturating_sub(CLOCK_TOLERANCE),
        now.saturating_add(CLOCK_TOLERANCE),
    );
    let Some(next_update) = response.next_update else {
        return Err(Refusal::new(Reason::StapleStale, "the staple has no nextUpdate"));
    };
    if next_update < response.this_update {
        return Err(Refusal::new(
            Reason::StapleStale,
            "the staple's nextUpdate is before its thisUpdate",
        ));
    }
    if response.this_update > latest {
        return Err(Refusal::new(
            Reason::StapleStale,
            "the staple's thisUpdate is still to come",
        ));
    }
    if next_update < earliest {
        return Err(Refusal::new(
            Reason::StapleStale,
            "the staple's nextUpdate is past",
        ));
    }
    if response.status != CertStatus::Good {
        return Err(Refusal::new(
            Reason::StapleUnknown,
            "the responder does not know the certificate",
        ));
    }
    Ok(next_update)
}

/// The refusal, with the subject of the certificate that it is about.
fn of(certificate: &X509Certificate<'_>, refusal: Refusal) -> Refusal {
    Refusal::new(
        refusal.reason,
        format!("{}: `{}`", refusal.detail, certificate.subject()),
    )
}
