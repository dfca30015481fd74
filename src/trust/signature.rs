//! Signatures over certificates and OCSP responses: which are taken, and by whose key.

use pki_types::SignatureVerificationAlgorithm;
use x509_parser::asn1_rs::Tag;

use super::der::{self, Malformed, Reader};

/// RSA of 2048 to 8192 bits and ECDSA on P-256 and P-384, with SHA-256 or better. SHA-1 is not among them.
pub(super) static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
    webpki::ring::RSA_PKCS1_2048_8192_SHA384,
    webpki::ring::RSA_PKCS1_2048_8192_SHA512,
    webpki::ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    webpki::ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    webpki::ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P256_SHA384,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
];

/// A SubjectPublicKeyInfo, taken apart (RFC 5280 §4.1.2.7).
#[derive(Debug, Clone, Copy)]
pub(super) struct PublicKey<'a> {
    /// The content of the AlgorithmIdentifier.
    algorithm: &'a [u8],
    /// The octets of `subjectPublicKey`: what OCSP's `issuerKeyHash` is the hash of.
    pub(super) bits: &'a [u8],
}

impl<'a> PublicKey<'a> {
    /// Takes apart the DER of a SubjectPublicKeyInfo.
    pub(super) fn from_spki(der: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(der::whole(der, Tag::Sequence)?);
        let algorithm = fields.expect(Tag::Sequence)?;
        let bits = der::octets(fields.expect(Tag::BitString)?)?;
        fields.finish()?;
        Ok(Self { algorithm, bits })
    }

    /// Whether `signature`, made with the algorithm whose identifier has the content `algorithm`, is this
    /// key's over `message`. A combination that is not in [`ALGORITHMS`] never holds.
    #[must_use]
    pub(super) fn verifies(self, algorithm: &[u8], message: &[u8], signature: &[u8]) -> bool {
        ALGORITHMS.iter().any(|taken| {
            taken.public_key_alg_id().as_ref() == self.algorithm
                && taken.signature_alg_id().as_ref() == algorithm
                && taken.verify_signature(self.bits, message, signature).is_ok()
        })
    }
}
