//! OCSP responses (RFC 6960), stapled: parsed, matched by their certID, and their signature checked.

use pki_types::{CertificateDer, TrustAnchor, UnixTime};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::asn1_rs::{Class, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::der::{self, Malformed, Reader};
use super::signature::{ALGORITHMS, PublicKey};

/// Most certificates embedded in one response. One, the delegate's, is all that is ever needed; each one more
/// is a path to build.
const MAX_EMBEDDED: usize = 4;

/// Most single responses in one staple. A responder that answers for several certificates stays far below.
const MAX_SINGLE_RESPONSES: usize = 32;

/// `id-pkix-ocsp-basic`, 1.3.6.1.5.5.7.48.1.1 (RFC 6960 §4.2.1).
const OCSP_BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
/// `id-kp-OCSPSigning`, 1.3.6.1.5.5.7.3.9 (RFC 6960 §4.2.2.2).
const OCSP_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09];
/// `id-sha1`, 1.3.14.3.2.26: a name for a certificate, here, not a proof of anything.
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
/// `id-sha256`, 2.16.840.1.101.3.4.2.1.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

/// OCSPResponseStatus `successful` (RFC 6960 §4.2.1).
const SUCCESSFUL: &[u8] = &[0];

/// One staple: an OCSP response of the basic type, its signature not yet checked.
#[derive(Debug, Clone)]
pub struct Staple<'a> {
    /// `tbsResponseData` as it stood in the input: what the signature is over.
    signed: &'a [u8],
    /// The content of `signatureAlgorithm`.
    algorithm: &'a [u8],
    signature: &'a [u8],
    embedded: Vec<CertificateDer<'a>>,
    responses: Vec<SingleResponse<'a>>,
}

/// What a staple says of one certificate (RFC 6960 §4.2.1, SingleResponse).
#[derive(Debug, Clone)]
pub(super) struct SingleResponse<'a> {
    certificate: CertId<'a>,
    pub(super) status: CertStatus,
    /// Unix seconds.
    pub(super) this_update: i64,
    /// Unix seconds.
    pub(super) next_update: Option<i64>,
}

impl SingleResponse<'_> {
    /// The content of the INTEGER that is the certificate's serial number.
    pub(super) fn serial(&self) -> &[u8] {
        self.certificate.serial
    }
}

/// `certStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertStatus {
    Good,
    Revoked,
    Unknown,
}

/// `certID`: a certificate, named by its issuer and its serial number (RFC 6960 §4.1.1).
#[derive(Debug, Clone)]
struct CertId<'a> {
    hash: CertIdHash,
    issuer_name: &'a [u8],
    issuer_key: &'a [u8],
    serial: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CertIdHash {
    Sha1,
    Sha256,
    /// Another one: it names nothing that we can recognise.
    Other,
}

/// A certificate, as a certID would name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    /// The issuer's name, DER.
    pub(super) issuer_name: &'a [u8],
    /// The octets of the issuer's key.
    pub(super) issuer_key: &'a [u8],
    /// The content of the serial number's INTEGER.
    pub(super) serial: &'a [u8],
}

impl<'a> Staple<'a> {
    /// Parses the DER of an OCSPResponse.
    ///
    /// # Errors
    /// Where it is not one, is not successful, is not of the basic type, has bytes left over, passes a limit or
    /// has a critical extension.
    pub fn parse(der: &'a [u8]) -> Result<Self, NotAStaple> {
        Self::parse_response(der).map_err(|Malformed| NotAStaple)
    }

    fn parse_response(der: &'a [u8]) -> Result<Self, Malformed> {
        let mut response = Reader::new(der::whole(der, Tag::Sequence)?);
        if response.expect(Tag::Enumerated)? != SUCCESSFUL {
            return Err(Malformed);
        }
        let bytes = response.optional(0)?.ok_or(Malformed)?;
        response.finish()?;

        let mut typed = Reader::new(der::whole(bytes, Tag::Sequence)?);
        if typed.expect(Tag::Oid)? != OCSP_BASIC {
            return Err(Malformed);
        }
        let basic = typed.expect(Tag::OctetString)?;
        typed.finish()?;

        let mut basic = Reader::new(der::whole(basic, Tag::Sequence)?);
        let data = basic.next()?;
        if !data.is(Class::Universal, Tag::Sequence.0) {
            return Err(Malformed);
        }
        let algorithm = basic.expect(Tag::Sequence)?;
        let signature = der::octets(basic.expect(Tag::BitString)?)?;
        let embedded = basic
            .optional(0)?
            .map(embedded_certificates)
            .transpose()?
            .unwrap_or_default();
        basic.finish()?;
        Ok(Self {
            signed: data.raw,
            algorithm,
            signature,
            embedded,
            responses: responses(data.content())?,
        })
    }

    /// Everything that the staple says of `subject`: one response may name it twice, by either hash.
    pub(super) fn about(&self, subject: Subject<'_>) -> Vec<&SingleResponse<'a>> {
        self.responses
            .iter()
            .filter(|response| response.certificate.names(subject))
            .collect()
    }

    /// What the staple says of each certificate that it names.
    pub(super) fn responses(&self) -> &[SingleResponse<'a>] {
        &self.responses
    }

    /// Whether one who may speak for `issuer` signed this: the issuer, or a delegate whose certificate is
    /// embedded, was issued by that same issuer, is valid at `now` and is for OCSP signing (RFC 6960 §4.2.2.2).
    #[must_use]
    pub(super) fn is_signed_for(&self, issuer: &TrustAnchor<'_>, now: UnixTime) -> bool {
        let spki = webpki::spki_for_anchor(issuer);
        let by_issuer = PublicKey::from_spki(&spki)
            .is_ok_and(|key| key.verifies(self.algorithm, self.signed, self.signature));
        by_issuer
            || self
                .embedded
                .iter()
                .any(|delegate| self.is_signed_by_delegate(delegate, issuer, now))
    }

    fn is_signed_by_delegate(
        &self,
        delegate: &CertificateDer<'_>,
        issuer: &TrustAnchor<'_>,
        now: UnixTime,
    ) -> bool {
        let Ok(certificate) = EndEntityCert::try_from(delegate) else {
            return false;
        };
        let anchors = std::slice::from_ref(issuer);
        let usage = KeyUsage::required(OCSP_SIGNING);
        let issued = certificate
            .verify_for_usage(ALGORITHMS, anchors, &[], now, usage, None, None)
            .is_ok();
        let spki = certificate.subject_public_key_info();
        issued
            && may_sign(delegate)
            && PublicKey::from_spki(&spki)
                .is_ok_and(|key| key.verifies(self.algorithm, self.signed, self.signature))
    }
}

/// The bytes are no OCSP response that could be a staple.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAStaple;

/// Whether a keyUsage extension, where there is one, includes digitalSignature (RFC 5280 §4.2.1.3).
fn may_sign(delegate: &CertificateDer<'_>) -> bool {
    let Ok(([], delegate)) = X509Certificate::from_der(delegate) else {
        return false;
    };
    delegate
        .key_usage()
        .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.digital_signature()))
}

fn embedded_certificates(content: &[u8]) -> Result<Vec<CertificateDer<'_>>, Malformed> {
    let mut list = Reader::new(der::whole(content, Tag::Sequence)?);
    let mut certificates = Vec::new();
    while !list.is_empty() {
        if certificates.len() == MAX_EMBEDDED {
            return Err(Malformed);
        }
        certificates.push(CertificateDer::from(list.next()?.raw));
    }
    Ok(certificates)
}

/// The single responses of a ResponseData.
fn responses(data: &[u8]) -> Result<Vec<SingleResponse<'_>>, Malformed> {
    let mut data = Reader::new(data);
    // version [0] DEFAULT v1: DER leaves a default out, but responders have been seen to send it.
    if let Some(version) = data.optional(0)? {
        if der::whole(version, Tag::Integer)? != [0] {
            return Err(Malformed);
        }
    }
    // responderID: a CHOICE of byName [1] and byKey [2]. It names a key; the signature proves one.
    if data.optional(1)?.is_none() && data.optional(2)?.is_none() {
        return Err(Malformed);
    }
    der::generalized_time(data.expect(Tag::GeneralizedTime)?)?;
    let mut list = Reader::new(data.expect(Tag::Sequence)?);
    refuse_critical_extensions(data.optional(1)?)?;
    data.finish()?;
    let mut responses = Vec::new();
    while !list.is_empty() {
        if responses.len() == MAX_SINGLE_RESPONSES {
            return Err(Malformed);
        }
        responses.push(single_response(list.expect(Tag::Sequence)?)?);
    }
    Ok(responses)
}

fn single_response(content: &[u8]) -> Result<SingleResponse<'_>, Malformed> {
    let mut fields = Reader::new(content);
    let certificate = CertId::parse(fields.expect(Tag::Sequence)?)?;
    let status = fields.next()?;
    let status = match () {
        // good is [0] IMPLICIT NULL: there is nothing in it.
        () if status.is(Class::ContextSpecific, 0) && status.content().is_empty() => CertStatus::Good,
        () if status.is(Class::ContextSpecific, 1) => CertStatus::Revoked,
        () if status.is(Class::ContextSpecific, 2) => CertStatus::Unknown,
        () => return Err(Malformed),
    };
    let this_update = der::generalized_time(fields.expect(Tag::GeneralizedTime)?)?;
    let next_update = match fields.optional(0)? {
        Some(time) => Some(der::generalized_time(der::whole(time, Tag::GeneralizedTime)?)?),
        None => None,
    };
    refuse_critical_extensions(fields.optional(1)?)?;
    fields.finish()?;
    Ok(SingleResponse {
        certificate,
        status,
        this_update,
        next_update,
    })
}

/// Extensions are ignored, but a critical one must be understood, and none is (RFC 5280 §4.2, RFC 6960 §4.4).
fn refuse_critical_extensions(extensions: Option<&[u8]>) -> Result<(), Malformed> {
    let Some(extensions) = extensions else {
        return Ok(());
    };
    let mut list = Reader::new(der::whole(extensions, Tag::Sequence)?);
    while !list.is_empty() {
        let mut extension = Reader::new(list.expect(Tag::Sequence)?);
        extension.expect(Tag::Oid)?;
        let second = extension.next()?;
        if second.is(Class::Universal, Tag::Boolean.0) {
            if second.content() != [0] {
                return Err(Malformed);
            }
            extension.expect(Tag::OctetString)?;
        } else if !second.is(Class::Universal, Tag::OctetString.0) {
            return Err(Malformed);
        }
        extension.finish()?;
    }
    Ok(())
}

impl<'a> CertId<'a> {
    fn parse(content: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(content);
        let mut algorithm = Reader::new(fields.expect(Tag::Sequence)?);
        let hash = match algorithm.expect(Tag::Oid)? {
            SHA1 => CertIdHash::Sha1,
            SHA256 => CertIdHash::Sha256,
            _ => CertIdHash::Other,
        };
        let issuer_name = fields.expect(Tag::OctetString)?;
        let issuer_key = fields.expect(Tag::OctetString)?;
        let serial = fields.expect(Tag::Integer)?;
        fields.finish()?;
        Ok(Self {
            hash,
            issuer_name,
            issuer_key,
            serial,
        })
    }

    fn names(&self, subject: Subject<'_>) -> bool {
        let hashed = |bytes: &[u8], hash: &[u8]| match self.hash {
            CertIdHash::Sha1 => Sha1::digest(bytes).as_slice() == hash,
            CertIdHash::Sha256 => Sha256::digest(bytes).as_slice() == hash,
            CertIdHash::Other => false,
        };
        self.serial == subject.serial
            && hashed(subject.issuer_name, self.issuer_name)
            && hashed(subject.issuer_key, self.issuer_key)
    }
}
