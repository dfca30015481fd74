//! A path from the signer's certificate to a trust anchor (RFC 5280 §6), and what that path must be like.

use std::cell::Cell;

use pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, VerifiedPath};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::anchors::AnchorSet;
use super::name::{self, Naming};
use super::pem;
use super::signature::ALGORITHMS;
use crate::reason::{Reason, Refusal};

/// Most certificates taken in one chain. The service sends four; each makes the search for a path longer.
pub(super) const MAX_CERTIFICATES: usize = 10;

/// Least bits of the signer's RSA modulus (NIST SP 800-57 part 1, and what AWS uses).
const MIN_RSA_BITS: usize = 2048;

/// The certificates that the metadata offers: the signer's first, then whatever may help to reach an anchor.
#[derive(Debug, Clone)]
pub struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    /// The issuer's name of each certificate, as the content of its DER.
    issuers: Vec<Vec<u8>>,
}

impl Chain {
    /// Reads a PEM document, leaf first.
    ///
    /// # Errors
    /// [`Reason::SignerMalformed`] where it is not PEM, holds no certificate or too many, or the signer's is
    /// none; [`Reason::SignerChain`] where the signer's has what no verifier may overlook. Others do no harm.
    pub fn from_pem(document: &[u8]) -> Result<Self, Refusal> {
        let malformed = |what| Refusal::new(Reason::SignerMalformed, what);
        let mut certificates = Vec::new();
        let mut issuers = Vec::new();
        for der in pem::certificates(document) {
            let der = der.map_err(|error| malformed(error.0))?;
            if certificates.len() == MAX_CERTIFICATES {
                return Err(malformed("the chain has too many certificates"));
            }
            match issuer(&der) {
                Ok(issuer) => {
                    issuers.push(issuer);
                    certificates.push(der);
                }
                Err(error) if certificates.is_empty() => return Err(explain(&error)),
                Err(_) => {}
            }
        }
        if certificates.is_empty() {
            return Err(malformed("there is no certificate"));
        }
        Ok(Self {
            certificates,
            issuers,
        })
    }

    /// The names of all issuers, as the content of the DER: an anchor must bear one of them.
    #[must_use]
    pub fn issuer_names(&self) -> Vec<&[u8]> {
        self.issuers.iter().map(Vec::as_slice).collect()
    }

    /// Finds a path from the signer to one of `anchors` that holds at `now`, and whose leaf bears `name`.
    ///
    /// # Errors
    /// One of the `signer-…` reasons.
    pub fn verify(&self, anchors: &AnchorSet, name: &str, now: UnixTime) -> Result<VerifiedChain, Refusal> {
        let Some((leaf, others)) = self.certificates.split_first() else {
            return Err(Refusal::new(Reason::SignerMalformed, "there is no certificate"));
        };
        let parsed_leaf = parse(leaf)?;
        let naming = name::naming(&parsed_leaf, name);
        let signer = EndEntityCert::try_from(leaf).map_err(|error| explain(&error))?;
        let anchors = anchors.trust_anchors();

        // The verifier asks this of every path it could take and goes on where the answer is no; it can carry
        // only its own errors, so ours wait beside it, the first one for all. A Cell, since a RefCell can panic.
        let objection = Cell::new(None);
        let examine = |path: &VerifiedPath<'_>| {
            examine(path, &parsed_leaf, naming).map_err(|refusal| {
                objection.set(objection.take().or(Some(refusal)));
                Error::UnknownIssuer
            })
        };
        let path = signer
            .verify_for_usage(
                ALGORITHMS,
                &anchors,
                others,
                now,
                KeyUsage::server_auth(),
                None,
                Some(&examine),
            )
            .map_err(|error| objection.take().unwrap_or_else(|| explain(&error)))?;

        if naming == Naming::Other {
            let detail = format!("the certificate is not {name}'s but `{}`", parsed_leaf.subject());
            return Err(Refusal::new(Reason::SignerName, detail));
        }
        let key = signing_key(&parsed_leaf)?.to_vec();
        let links = links(&path)?;
        let mut not_after = i64::MAX;
        for link in &links {
            not_after = not_after.min(parse(&link.certificate)?.validity().not_after.timestamp());
        }
        Ok(VerifiedChain {
            key,
            links,
            not_after,
        })
    }
}

/// The issuer's name of a certificate, as the content of its DER.
fn issuer(der: &CertificateDer<'_>) -> Result<Vec<u8>, Error> {
    EndEntityCert::try_from(der).map(|certificate| certificate.issuer().to_vec())
}

/// A signer's chain that leads to a trust anchor, bears the right name and may be used for this.
///
/// Only [`Chain::verify`] makes one. It is not yet trusted: somebody may have revoked a part of it.
#[derive(Debug, Clone)]
pub struct VerifiedChain {
    key: Vec<u8>,
    links: Vec<Link>,
    not_after: i64,
}

/// One certificate of the path, and who issued it.
#[derive(Debug, Clone)]
pub(super) struct Link {
    /// The certificate.
    pub(super) certificate: CertificateDer<'static>,
    /// Its issuer: the next certificate of the path, or the anchor.
    pub(super) issuer: TrustAnchor<'static>,
}

impl VerifiedChain {
    /// The certificates below the anchor, the signer's first: each needs a staple.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.links.iter().map(|link| &link.certificate)
    }

    /// When the first certificate of the path ends, in Unix seconds.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    pub(super) fn links(&self) -> &[Link] {
        &self.links
    }

    /// The signer's key: the DER of an RSAPublicKey (RFC 8017 §A.1.1).
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }
}

/// The links of the path, the signer's first.
fn links(path: &VerifiedPath<'_>) -> Result<Vec<Link>, Refusal> {
    let mut certificates = vec![path.end_entity().der().into_owned()];
    certificates.extend(
        path.intermediate_certificates()
            .map(|certificate| certificate.der().into_owned()),
    );
    let mut issuers = Vec::new();
    for certificate in certificates.iter().skip(1) {
        issuers.push(
            webpki::anchor_from_trusted_cert(certificate)
                .map_err(|error| explain(&error))?
                .to_owned(),
        );
    }
    issuers.push(path.anchor().to_owned());
    Ok(certificates
        .into_iter()
        .zip(issuers)
        .map(|(certificate, issuer)| Link { certificate, issuer })
        .collect())
}

/// What the verifier does not look at: keyUsage, and names that bypass name constraints.
fn examine(path: &VerifiedPath<'_>, leaf: &X509Certificate<'_>, naming: Naming) -> Result<(), Refusal> {
    // RFC 5280 §4.2.1.3: where the extension is there, it says all that the key may do. The signer's key signs
    // records, an issuer's signs certificates.
    let usage = key_usage(leaf)?;
    if !usage.is_none_or(|usage| usage.digital_signature()) {
        return Err(Refusal::new(
            Reason::SignerUsage,
            "the signer's key usage does not include digitalSignature",
        ));
    }
    let mut constrained = path.anchor().name_constraints.is_some();
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let issuer = parse(&der)?;
        if !key_usage(&issuer)?.is_none_or(|usage| usage.key_cert_sign()) {
            let detail = format!(
                "the key usage of `{}` does not include keyCertSign",
                issuer.subject()
            );
            return Err(Refusal::new(Reason::SignerUsage, detail));
        }
        constrained |= issuer
            .name_constraints()
            .map_or(true, |constraints| constraints.is_some());
    }
    // RFC 5280 §4.2.1.10 constrains the subjectAltName; a name in the common name alone would slip past it.
    if constrained && naming == Naming::ByCommonName {
        return Err(Refusal::new(
            Reason::SignerName,
            "the path has name constraints, and the signer's name is in its common name alone",
        ));
    }
    Ok(())
}

fn key_usage(
    certificate: &X509Certificate<'_>,
) -> Result<Option<x509_parser::extensions::KeyUsage>, Refusal> {
    match certificate.key_usage() {
        Ok(extension) => Ok(extension.map(|extension| *extension.value)),
        Err(_) => Err(Refusal::new(
            Reason::SignerUsage,
            "a key usage extension cannot be read",
        )),
    }
}

/// The signer's key, which must be RSA and long enough.
fn signing_key<'a>(leaf: &'a X509Certificate<'_>) -> Result<&'a [u8], Refusal> {
    let spki = leaf.public_key();
    let refuse = |what: String| Err(Refusal::new(Reason::SignerKey, what));
    if spki.algorithm.algorithm != OID_PKCS1_RSAENCRYPTION {
        return refuse("the signer's key is not an RSA key".to_owned());
    }
    match spki.parsed() {
        Ok(PublicKey::RSA(key)) if modulus_bits(key.modulus) >= MIN_RSA_BITS => {
            Ok(&spki.subject_public_key.data)
        }
        Ok(PublicKey::RSA(key)) => refuse(format!(
            "the signer's RSA key has {} bits, fewer than {MIN_RSA_BITS}",
            modulus_bits(key.modulus)
        )),
        _ => refuse("the signer's RSA key cannot be read".to_owned()),
    }
}

/// The length of a big-endian number in bits.
fn modulus_bits(modulus: &[u8]) -> usize {
    let significant = modulus.iter().skip_while(|byte| **byte == 0);
    let bits = significant.clone().count().saturating_mul(8);
    let leading = significant.copied().next().map_or(0, u8::leading_zeros);
    bits.saturating_sub(usize::try_from(leading).unwrap_or(0))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Refusal::new(
            Reason::SignerMalformed,
            "a certificate of the path cannot be read",
        )),
    }
}

/// The verifier's error as one of our reasons.
fn explain(error: &Error) -> Refusal {
    match error {
        Error::CertExpired { .. } => {
            Refusal::new(Reason::SignerExpired, "a certificate of the path has expired")
        }
        Error::CertNotValidYet { .. } => Refusal::new(
            Reason::SignerExpired,
            "a certificate of the path is not valid yet",
        ),
        Error::RequiredEkuNotFoundContext(_) | Error::EmptyEkuExtension => Refusal::new(
            Reason::SignerUsage,
            "a certificate of the path is not for server authentication",
        ),
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) | Error::MalformedExtensions => {
            Refusal::new(
                Reason::SignerMalformed,
                format!("a certificate cannot be read: {error}"),
            )
        }
        Error::UnknownIssuer => Refusal::new(Reason::SignerChain, "no path leads to a trust anchor"),
        other => Refusal::new(
            Reason::SignerChain,
            format!("no path leads to a trust anchor: {other}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_modulus_ignores_leading_zeros() {
        assert_eq!(modulus_bits(&[]), 0);
        assert_eq!(modulus_bits(&[0, 0]), 0);
        assert_eq!(modulus_bits(&[0, 1]), 1);
        assert_eq!(modulus_bits(&[0, 0x80, 0]), 16);
        assert_eq!(modulus_bits(&[0x7f; 256]), 2047);
    }
}
