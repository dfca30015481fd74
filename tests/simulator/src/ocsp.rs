//! OCSP responses (RFC 6960 section 4.2.1), written from scratch so that every field can lie.

use crate::certificate::{Cert, CertSpec, Extension};
use crate::clock;
use crate::der;
use crate::key::{Hash, Key, Scheme};

/// certStatus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// good.
    Good,
    /// revoked, this many seconds from now (negative: in the past).
    Revoked(i64),
    /// unknown.
    Unknown,
}

/// One SingleResponse. Times are seconds from the moment of making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Single {
    /// Digest of the certID.
    pub hash: Hash,
    /// Spoil issuerNameHash.
    pub wrong_name_hash: bool,
    /// Spoil issuerKeyHash.
    pub wrong_key_hash: bool,
    /// A serial number other than the certificate's.
    pub serial: Option<Vec<u8>>,
    /// certStatus.
    pub status: Status,
    /// thisUpdate.
    pub this_update: i64,
    /// nextUpdate, if any.
    pub next_update: Option<i64>,
    /// singleExtensions.
    pub extensions: Vec<Extension>,
}

impl Single {
    /// The certificate is good, as of an hour ago and for a week to come.
    pub fn good() -> Self {
        Self {
            hash: Hash::Sha1,
            wrong_name_hash: false,
            wrong_key_hash: false,
            serial: None,
            status: Status::Good,
            this_update: -3600,
            next_update: Some(7 * clock::DAY),
            extensions: Vec::new(),
        }
    }
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Responder {
    /// The certificate's issuer itself.
    Issuer,
    /// A responder certificate signed by the issuer (unless its description says otherwise) and embedded.
    Delegate(Box<CertSpec>),
    /// As `Delegate`, but the responder's certificate signed itself under the issuer's name.
    SelfSigned(Box<CertSpec>),
    /// As `Delegate`, but with a responder certificate that the certificate in question signed.
    SignedBySubject(Box<CertSpec>),
    /// Another key under the issuer's name, nothing embedded.
    Impostor(Key),
}

/// How the responder is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponderId {
    /// byName.
    Name,
    /// byKey.
    Key,
    /// byName, with the name of somebody else.
    WrongName,
}

/// A whole response about one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// OCSPResponseStatus; 0 is successful, and only then is there a body.
    pub status: u8,
    /// The SingleResponses, in order.
    pub singles: Vec<Single>,
    /// Who signs.
    pub responder: Responder,
    /// responderID.
    pub responder_id: ResponderId,
    /// producedAt, seconds from now.
    pub produced_at: i64,
    /// Signature scheme; by default what suits the responder's key.
    pub scheme: Option<Scheme>,
    /// responseExtensions.
    pub extensions: Vec<Extension>,
    /// Embed the issuer's certificate too.
    pub with_issuer: bool,
    /// Spoil the signature.
    pub break_signature: bool,
    /// Bytes behind the response.
    pub trailing: Vec<u8>,
}

impl Response {
    /// A sound response signed by the issuer.
    pub fn good() -> Self {
        Self {
            status: 0,
            singles: vec![Single::good()],
            responder: Responder::Issuer,
            responder_id: ResponderId::Key,
            produced_at: -3600,
            scheme: None,
            extensions: Vec::new(),
            with_issuer: false,
            break_signature: false,
            trailing: Vec::new(),
        }
    }

    /// A sound response signed by a delegate.
    pub fn delegated(key: Key) -> Self {
        let delegate = CertSpec::responder("Make-Believe OCSP Responder", key);
        Self {
            responder: Responder::Delegate(Box::new(delegate)),
            ..Self::good()
        }
    }

    /// The DER of the response about `subject`, which `issuer` issued.
    pub fn build(&self, subject: &Cert, issuer: &Cert, now: i64) -> Vec<u8> {
        let mut response = if self.status == 0 {
            let basic = der::octets(&self.basic(subject, issuer, now));
            // id-pkix-ocsp-basic
            let bytes = der::sequence(&[der::oid(&[1, 3, 6, 1, 5, 5, 7, 48, 1, 1]), basic]);
            der::sequence(&[der::enumerated(0), der::context(0, &bytes)])
        } else {
            der::sequence(&[der::enumerated(self.status)])
        };
        response.extend_from_slice(&self.trailing);
        response
    }

    /// BasicOCSPResponse.
    fn basic(&self, subject: &Cert, issuer: &Cert, now: i64) -> Vec<u8> {
        let (key, name, mut embedded) = match &self.responder {
            Responder::Issuer => (issuer.spec.key, issuer.subject.clone(), Vec::new()),
            Responder::Impostor(key) => (*key, issuer.subject.clone(), Vec::new()),
            Responder::Delegate(spec) => embed(spec.signed_by(issuer, now)),
            Responder::SelfSigned(spec) => embed(
                CertSpec {
                    issuer_name: Some(issuer.spec.subject.clone()),
                    signed_with: Some(spec.key),
                    ..(**spec).clone()
                }
                .signed_by(issuer, now),
            ),
            Responder::SignedBySubject(spec) => embed(spec.signed_by(subject, now)),
        };
        if self.with_issuer {
            embedded.push(issuer.der.clone());
        }

        let data = self.response_data(key, &name, subject, issuer, now);
        let scheme = self.scheme.unwrap_or_else(|| key.usual_scheme());
        let mut signature = key.sign(scheme, &data);
        if self.break_signature {
            if let Some(last) = signature.last_mut() {
                *last ^= 1;
            }
        }
        let mut fields = vec![data, scheme.algorithm_identifier(), der::bits(&signature)];
        if !embedded.is_empty() {
            fields.push(der::context(0, &der::sequence(&embedded)));
        }
        der::sequence(&fields)
    }

    /// ResponseData: what is signed.
    fn response_data(&self, key: Key, name: &[u8], subject: &Cert, issuer: &Cert, now: i64) -> Vec<u8> {
        let responder_id = match self.responder_id {
            ResponderId::Name => der::context(1, name),
            ResponderId::Key => der::context(2, &der::octets(&Hash::Sha1.digest(&key.public_bits()))),
            ResponderId::WrongName => der::context(1, &subject.subject),
        };
        let singles: Vec<Vec<u8>> = self
            .singles
            .iter()
            .map(|s| s.encode(subject, issuer, now))
            .collect();
        let mut fields = vec![
            responder_id,
            der::generalized_time(now.saturating_add(self.produced_at)),
            der::sequence(&singles),
        ];
        if !self.extensions.is_empty() {
            fields.push(der::context(1, &extensions(&self.extensions)));
        }
        der::sequence(&fields)
    }
}

impl Single {
    fn encode(&self, subject: &Cert, issuer: &Cert, now: i64) -> Vec<u8> {
        let spoil = |mut digest: Vec<u8>, wrong: bool| {
            if wrong {
                digest.iter_mut().for_each(|b| *b ^= 0xff);
            }
            der::octets(&digest)
        };
        let cert_id = der::sequence(&[
            self.hash.algorithm_identifier(),
            spoil(self.hash.digest(&issuer.subject), self.wrong_name_hash),
            spoil(
                self.hash.digest(&issuer.spec.key.public_bits()),
                self.wrong_key_hash,
            ),
            der::unsigned(self.serial.as_deref().unwrap_or(&subject.serial)),
        ]);
        let status = match self.status {
            Status::Good => der::context_primitive(0, &[]),
            Status::Revoked(at) => der::context(1, &der::generalized_time(now.saturating_add(at))),
            Status::Unknown => der::context_primitive(2, &[]),
        };
        let mut fields = vec![
            cert_id,
            status,
            der::generalized_time(now.saturating_add(self.this_update)),
        ];
        if let Some(next) = self.next_update {
            fields.push(der::context(0, &der::generalized_time(now.saturating_add(next))));
        }
        if !self.extensions.is_empty() {
            fields.push(der::context(1, &extensions(&self.extensions)));
        }
        der::sequence(&fields)
    }
}

fn embed(cert: Cert) -> (Key, Vec<u8>, Vec<Vec<u8>>) {
    (cert.spec.key, cert.subject, vec![cert.der])
}

/// Extensions (RFC 5280 section 4.1).
fn extensions(list: &[Extension]) -> Vec<u8> {
    let encoded: Vec<Vec<u8>> = list
        .iter()
        .map(|extension| {
            let mut fields = vec![der::oid(&extension.oid)];
            if extension.critical {
                fields.push(der::truth());
            }
            fields.push(der::octets(&extension.value));
            der::sequence(&fields)
        })
        .collect();
    der::sequence(&encoded)
}
