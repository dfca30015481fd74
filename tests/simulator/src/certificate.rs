//! One X.509 certificate (RFC 5280) from a description, sound or unsound in exactly the way described.
//!
//! rcgen writes names, validity and public key. The extensions with knobs are written here: rcgen knows
//! only their usual form. So is the signature, since a test must be able to have the wrong one.

use crate::clock;
use crate::der;
use crate::key::{Hash, Key, Scheme};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, KeyIdMethod, KeyPair,
    RemoteKeyPair, SerialNumber,
};

/// An attribute of a distinguished name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// countryName.
    Country,
    /// organizationName.
    Organization,
    /// organizationalUnitName.
    Unit,
    /// commonName.
    CommonName,
    /// A second commonName in the same subject.
    AnotherCommonName,
    /// localityName.
    Locality,
}

/// A distinguished name: attributes in order, each in a set of its own.
pub type Name = Vec<(Attribute, String)>;

/// An entry of subjectAltName.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AltName {
    /// dNSName.
    Dns(String),
    /// rfc822Name.
    Email(String),
    /// uniformResourceIdentifier.
    Uri(String),
    /// iPAddress.
    Ip(Vec<u8>),
}

/// A bit of keyUsage (RFC 5280 section 4.2.1.3), by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyUsage {
    /// Bit 0.
    DigitalSignature = 0,
    /// Bit 2.
    KeyEncipherment = 2,
    /// Bit 5.
    KeyCertSign = 5,
    /// Bit 6.
    CrlSign = 6,
}

/// A purpose of extendedKeyUsage (RFC 5280 section 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// id-kp-serverAuth.
    ServerAuth,
    /// id-kp-clientAuth.
    ClientAuth,
    /// id-kp-codeSigning.
    CodeSigning,
    /// id-kp-OCSPSigning.
    OcspSigning,
    /// anyExtendedKeyUsage.
    Any,
}

/// basicConstraints (RFC 5280 section 4.2.1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BasicConstraints {
    /// cA.
    pub authority: bool,
    /// pathLenConstraint.
    pub path_length: Option<u8>,
    /// Whether the extension is marked critical.
    pub critical: bool,
}

/// Any other extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its OID.
    pub oid: Vec<u64>,
    /// Whether it is marked critical.
    pub critical: bool,
    /// What the OCTET STRING holds.
    pub value: Vec<u8>,
}

impl Extension {
    /// An extension that nobody knows.
    pub fn unknown(critical: bool) -> Self {
        Self {
            oid: vec![1, 3, 6, 1, 4, 1, 99_999, 1],
            critical,
            value: der::null(),
        }
    }
}

/// A certificate to be made. Times are seconds from the moment of making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertSpec {
    /// Subject.
    pub subject: Name,
    /// Subject's key.
    pub key: Key,
    /// Serial number, big-endian; by default derived from subject and key.
    pub serial: Option<Vec<u8>>,
    /// notBefore, from now.
    pub not_before: i64,
    /// notAfter, from now.
    pub not_after: i64,
    /// subjectAltName; `None` leaves the extension out.
    pub alt_names: Option<Vec<AltName>>,
    /// keyUsage, critical; `None` leaves it out.
    pub key_usage: Option<Vec<KeyUsage>>,
    /// extendedKeyUsage; `None` leaves it out.
    pub purposes: Option<Vec<Purpose>>,
    /// basicConstraints; `None` leaves it out.
    pub constraints: Option<BasicConstraints>,
    /// Further extensions.
    pub extensions: Vec<Extension>,
    /// Signature scheme; by default what suits the issuer's key.
    pub scheme: Option<Scheme>,
    /// Sign with this key instead of the issuer's, whose name stays.
    pub signed_with: Option<Key>,
    /// An issuer name other than the issuer's subject.
    pub issuer_name: Option<Name>,
    /// Spoil the signature.
    pub break_signature: bool,
}

/// A common name under the simulator's own organization.
pub fn name(common_name: &str) -> Name {
    vec![
        (Attribute::Country, "US".to_owned()),
        (Attribute::Organization, "Make-Believe Trust Services".to_owned()),
        (Attribute::CommonName, common_name.to_owned()),
    ]
}

impl CertSpec {
    /// A signer's certificate as the service has it: `host` as the only common name and only dNSName.
    pub fn signer(host: &str, key: Key) -> Self {
        Self {
            subject: vec![(Attribute::CommonName, host.to_owned())],
            key,
            serial: None,
            not_before: -30 * clock::DAY,
            not_after: 60 * clock::DAY,
            alt_names: Some(vec![AltName::Dns(host.to_owned())]),
            key_usage: Some(vec![KeyUsage::DigitalSignature, KeyUsage::KeyEncipherment]),
            purposes: Some(vec![Purpose::ServerAuth, Purpose::ClientAuth]),
            constraints: Some(BasicConstraints {
                authority: false,
                path_length: None,
                critical: true,
            }),
            extensions: Vec::new(),
            scheme: None,
            signed_with: None,
            issuer_name: None,
            break_signature: false,
        }
    }

    /// An issuing authority below a root: pathlen 0, limited to TLS purposes.
    pub fn intermediate(common_name: &str, key: Key) -> Self {
        Self {
            subject: name(common_name),
            not_before: -400 * clock::DAY,
            not_after: 1500 * clock::DAY,
            alt_names: None,
            key_usage: Some(vec![
                KeyUsage::DigitalSignature,
                KeyUsage::KeyCertSign,
                KeyUsage::CrlSign,
            ]),
            constraints: Some(BasicConstraints {
                authority: true,
                path_length: Some(0),
                critical: true,
            }),
            ..Self::signer(common_name, key)
        }
    }

    /// A root, or a cross-signed form of one.
    pub fn root(common_name: &str, key: Key) -> Self {
        Self {
            not_before: -3000 * clock::DAY,
            not_after: 5000 * clock::DAY,
            purposes: None,
            constraints: Some(BasicConstraints {
                authority: true,
                path_length: None,
                critical: true,
            }),
            ..Self::intermediate(common_name, key)
        }
    }

    /// A delegated OCSP responder (RFC 6960 section 4.2.2.2).
    pub fn responder(common_name: &str, key: Key) -> Self {
        Self {
            subject: name(common_name),
            alt_names: None,
            key_usage: Some(vec![KeyUsage::DigitalSignature]),
            purposes: Some(vec![Purpose::OcspSigning]),
            // id-pkix-ocsp-nocheck: a responder is not itself asked about
            extensions: vec![Extension {
                oid: vec![1, 3, 6, 1, 5, 5, 7, 48, 1, 5],
                critical: false,
                value: der::null(),
            }],
            ..Self::signer(common_name, key)
        }
    }

    /// The certificate, signed by `issuer`.
    pub fn signed_by(&self, issuer: &Cert, now: i64) -> Cert {
        self.build(&issuer.spec.subject, issuer.spec.key, now)
    }

    /// The certificate, signed by its own key.
    pub fn self_signed(&self, now: i64) -> Cert {
        self.build(&self.subject, self.key, now)
    }

    fn build(&self, issuer_name: &Name, issuer_key: Key, now: i64) -> Cert {
        let issuer_name = self.issuer_name.as_ref().unwrap_or(issuer_name);
        let signing_key = self.signed_with.unwrap_or(issuer_key);
        let scheme = self.scheme.unwrap_or_else(|| signing_key.usual_scheme());
        let serial = self.serial.clone().unwrap_or_else(|| self.derived_serial());

        let tbs = replace_algorithm(&self.template(issuer_name, issuer_key, &serial, now), scheme);
        let mut signature = signing_key.sign(scheme, &tbs);
        if self.break_signature {
            if let Some(last) = signature.last_mut() {
                *last ^= 1;
            }
        }
        let der = der::sequence(&[tbs, scheme.algorithm_identifier(), der::bits(&signature)]);
        Cert {
            subject: subject_of(&der),
            der,
            serial,
            spec: self.clone(),
        }
    }

    /// rcgen's to-be-signed part, with a signature algorithm that [`replace_algorithm`] puts right.
    fn template(&self, issuer_name: &Name, issuer_key: Key, serial: &[u8], now: i64) -> Vec<u8> {
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = distinguished(issuer_name);
        issuer.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(issuer_key));
        let issuer_key = unsigned_pair(issuer_key);
        let issuer = issuer.self_signed(&issuer_key).expect("rcgen takes plain names");

        let mut subject = CertificateParams::default();
        subject.not_before = clock::date(now.saturating_add(self.not_before));
        subject.not_after = clock::date(now.saturating_add(self.not_after));
        subject.serial_number = Some(SerialNumber::from_slice(serial));
        subject.distinguished_name = distinguished(&self.subject);
        subject.use_authority_key_identifier_extension = true;
        subject.custom_extensions = self.all_extensions();
        let made = subject
            .signed_by(&unsigned_pair(self.key), &issuer, &issuer_key)
            .expect("rcgen takes what it is given");
        der::read(made.der())
            .and_then(|outer| der::read(outer.content).map(|tbs| tbs.whole.to_vec()))
            .expect("rcgen writes DER")
    }

    fn all_extensions(&self) -> Vec<CustomExtension> {
        let mut all = vec![extension(
            &[2, 5, 29, 14],
            false,
            der::octets(&key_identifier(self.key)),
        )];
        if let Some(names) = &self.alt_names {
            let names: Vec<Vec<u8>> = names.iter().map(AltName::encode).collect();
            all.push(extension(&[2, 5, 29, 17], false, der::sequence(&names)));
        }
        if let Some(usages) = &self.key_usage {
            all.push(extension(&[2, 5, 29, 15], true, key_usage(usages)));
        }
        if let Some(purposes) = &self.purposes {
            let purposes: Vec<Vec<u8>> = purposes.iter().map(|p| der::oid(p.oid())).collect();
            all.push(extension(&[2, 5, 29, 37], false, der::sequence(&purposes)));
        }
        if let Some(constraints) = self.constraints {
            let mut fields = Vec::new();
            if constraints.authority {
                fields.push(der::truth());
            }
            if let Some(length) = constraints.path_length {
                fields.push(der::unsigned(&[length]));
            }
            all.push(extension(
                &[2, 5, 29, 19],
                constraints.critical,
                der::sequence(&fields),
            ));
        }
        all.extend(
            self.extensions
                .iter()
                .map(|e| extension(&e.oid, e.critical, e.value.clone())),
        );
        all
    }

    fn derived_serial(&self) -> Vec<u8> {
        let digest = Hash::Sha256.digest(format!("{:?}{:?}", self.subject, self.key).as_bytes());
        let mut serial: Vec<u8> = digest.into_iter().take(16).collect();
        if let Some(first) = serial.first_mut() {
            // 16 bytes, positive, and never with a leading zero
            *first = *first & 0x3f | 0x40;
        }
        serial
    }
}

impl AltName {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Email(text) => der::context_primitive(1, text.as_bytes()),
            Self::Dns(text) => der::context_primitive(2, text.as_bytes()),
            Self::Uri(text) => der::context_primitive(6, text.as_bytes()),
            Self::Ip(bytes) => der::context_primitive(7, bytes),
        }
    }
}

impl Purpose {
    fn oid(self) -> &'static [u64] {
        match self {
            Self::ServerAuth => &[1, 3, 6, 1, 5, 5, 7, 3, 1],
            Self::ClientAuth => &[1, 3, 6, 1, 5, 5, 7, 3, 2],
            Self::CodeSigning => &[1, 3, 6, 1, 5, 5, 7, 3, 3],
            Self::OcspSigning => &[1, 3, 6, 1, 5, 5, 7, 3, 9],
            Self::Any => &[2, 5, 29, 37, 0],
        }
    }
}

/// A finished certificate and what it was made from.
#[derive(Clone, Debug)]
pub struct Cert {
    /// The certificate.
    pub der: Vec<u8>,
    /// Its subject as encoded: what OCSP's issuerNameHash is taken over.
    pub subject: Vec<u8>,
    /// Its serial number, big-endian.
    pub serial: Vec<u8>,
    /// The description.
    pub spec: CertSpec,
}

impl Cert {
    /// As PEM, ending with a newline.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// Upper-case hex of the digest of the DER: how the metadata service names a staple.
    pub fn fingerprint(&self, hash: Hash) -> String {
        hash.digest(&self.der)
            .iter()
            .map(|b| format!("{b:02X}"))
            .collect()
    }
}

/// PEM (RFC 7468) with lines of 64 characters.
pub fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (i, character) in STANDARD.encode(der).chars().enumerate() {
        if i > 0 && i % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

/// keyUsage as DER has it: a named bit list without trailing zero bits (X.690 section 11.2.2).
fn key_usage(usages: &[KeyUsage]) -> Vec<u8> {
    let byte = usages
        .iter()
        .fold(0u8, |byte, usage| byte | 0x80 >> (*usage as u8));
    let unused = if byte == 0 {
        0
    } else {
        u8::try_from(byte.trailing_zeros()).unwrap_or(0)
    };
    if byte == 0 {
        der::tlv(3, &[0])
    } else {
        der::tlv(3, &[unused, byte])
    }
}

fn extension(oid: &[u64], critical: bool, value: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, value);
    extension.set_criticality(critical);
    extension
}

fn distinguished(name: &Name) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    for (attribute, value) in name {
        let kind = match attribute {
            Attribute::Country => DnType::CountryName,
            Attribute::Organization => DnType::OrganizationName,
            Attribute::Unit => DnType::OrganizationalUnitName,
            Attribute::CommonName => DnType::CommonName,
            // the same OID under another Rust value: rcgen keeps one value for each attribute otherwise
            Attribute::AnotherCommonName => DnType::CustomDnType(vec![2, 5, 4, 3]),
            Attribute::Locality => DnType::LocalityName,
        };
        let printable = rcgen::PrintableString::try_from(value.as_str());
        let value = printable.map_or_else(|_| DnValue::Utf8String(value.clone()), DnValue::PrintableString);
        distinguished.push(kind, value);
    }
    distinguished
}

/// RFC 5280 section 4.2.1.2 (1): SHA-1 of the public key's bits.
fn key_identifier(key: Key) -> Vec<u8> {
    Hash::Sha1.digest(&key.public_bits())
}

/// Puts `scheme` where a TBSCertificate says how it is signed.
fn replace_algorithm(tbs: &[u8], scheme: Scheme) -> Vec<u8> {
    let body = der::read(tbs).map(|e| e.content).unwrap_or_default();
    let fields: Vec<Vec<u8>> = der::elements(body)
        .iter()
        .enumerate()
        // version, serialNumber, signature: RFC 5280 section 4.1
        .map(|(i, e)| {
            if i == 2 {
                scheme.algorithm_identifier()
            } else {
                e.whole.to_vec()
            }
        })
        .collect();
    der::sequence(&fields)
}

/// The encoded subject of a certificate: the sixth field of its TBSCertificate.
fn subject_of(certificate: &[u8]) -> Vec<u8> {
    der::read(certificate)
        .and_then(|outer| der::read(outer.content))
        .and_then(|tbs| der::elements(tbs.content).get(5).map(|e| e.whole.to_vec()))
        .unwrap_or_default()
}

/// A key whose signatures nobody will look at.
struct Unsigned {
    public: Vec<u8>,
    algorithm: &'static rcgen::SignatureAlgorithm,
}

impl RemoteKeyPair for Unsigned {
    fn public_key(&self) -> &[u8] {
        &self.public
    }

    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

fn unsigned_pair(key: Key) -> KeyPair {
    let algorithm = match key {
        Key::P256(_) => &rcgen::PKCS_ECDSA_P256_SHA256,
        Key::P384(_) => &rcgen::PKCS_ECDSA_P384_SHA384,
        _ => &rcgen::PKCS_RSA_SHA256,
    };
    KeyPair::from_remote(Box::new(Unsigned {
        public: key.public_bits(),
        algorithm,
    }))
    .expect("a remote key is taken as it is")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_usage_has_no_trailing_zero_bits() {
        assert_eq!(
            key_usage(&[KeyUsage::DigitalSignature, KeyUsage::KeyEncipherment]),
            [3, 2, 5, 0xa0]
        );
        assert_eq!(
            key_usage(&[KeyUsage::KeyCertSign, KeyUsage::CrlSign]),
            [3, 2, 1, 6]
        );
        assert_eq!(key_usage(&[]), [3, 1, 0]);
    }

    #[test]
    fn two_common_names_are_two_attributes() {
        let mut spec = CertSpec::root("first", Key::P256(0));
        spec.subject
            .push((Attribute::AnotherCommonName, "second".to_owned()));
        let subject = spec.self_signed(clock::now()).subject;
        let oid = der::oid(&[2, 5, 4, 3]);
        assert_eq!(subject.windows(oid.len()).filter(|w| *w == oid).count(), 2);
    }

    #[test]
    fn a_key_usage_bit_is_not_lost() {
        let spec = CertSpec::intermediate("x", Key::P384(1));
        let cert = spec.self_signed(clock::now());
        let expected = key_usage(spec.key_usage.as_deref().expect("has one"));
        assert!(cert.der.windows(expected.len()).any(|w| w == expected));
    }
}
