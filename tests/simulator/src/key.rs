//! Signing keys, all published (`keys/README.md`), and every signature the tests need, good or bad.

use crate::der;
use base64::{Engine, engine::general_purpose::STANDARD};
use rsa::pkcs8::{DecodePrivateKey, EncodePublicKey};
use rsa::traits::PublicKeyParts;
use sha2::Digest;
use std::sync::OnceLock;

/// Which of the test keys. A name, so that descriptions of evidence stay plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// RSA of 2048 bits, numbers 0 to 13.
    Rsa2048(u8),
    /// RSA of 1024 bits: too short for any verifier of today.
    Rsa1024,
    /// RSA of 1536 bits: too short.
    Rsa1536,
    /// RSA of 2047 bits: one bit too short.
    Rsa2047,
    /// RSA of 3072 bits.
    Rsa3072,
    /// RSA of 4096 bits.
    Rsa4096,
    /// ECDSA on P-256, numbers 0 to 2.
    P256(u8),
    /// ECDSA on P-384, numbers 0 to 2.
    P384(u8),
}

/// How many keys of [`Key::Rsa2048`] there are.
pub const RSA_2048_KEYS: u8 = 14;

/// A digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1: names things in OCSP, must never prove anything.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A signature scheme. Which of them fits a key is the caller's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5 (RFC 8017 section 8.2).
    RsaPkcs1(Hash),
    /// RSASSA-PSS with MGF1 of the same hash (RFC 8017 section 8.1).
    RsaPss {
        /// Message and mask digest.
        hash: Hash,
        /// Salt length in bytes.
        salt: usize,
    },
    /// ECDSA, ASN.1 form, deterministic (RFC 6979).
    Ecdsa(Hash),
}

/// What the service signs records with.
pub const RECORD_SCHEME: Scheme = Scheme::RsaPss {
    hash: Hash::Sha256,
    salt: 32,
};

impl Hash {
    /// The digest of `data`.
    pub fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => sha1::Sha1::digest(data).to_vec(),
            Self::Sha256 => sha2::Sha256::digest(data).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(data).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(data).to_vec(),
        }
    }

    /// AlgorithmIdentifier with NULL parameters, as certIDs and PSS parameters carry it.
    pub fn algorithm_identifier(self) -> Vec<u8> {
        let arcs: &[u64] = match self {
            Self::Sha1 => &[1, 3, 14, 3, 2, 26],
            Self::Sha256 => &[2, 16, 840, 1, 101, 3, 4, 2, 1],
            Self::Sha384 => &[2, 16, 840, 1, 101, 3, 4, 2, 2],
            Self::Sha512 => &[2, 16, 840, 1, 101, 3, 4, 2, 3],
        };
        der::sequence(&[der::oid(arcs), der::null()])
    }
}

impl Scheme {
    /// The AlgorithmIdentifier that certificates and OCSP responses carry for this scheme.
    pub fn algorithm_identifier(self) -> Vec<u8> {
        const PKCS1: [u64; 6] = [1, 2, 840, 113_549, 1, 1];
        const ECDSA: [u64; 5] = [1, 2, 840, 10_045, 4];
        let arcs = |base: &[u64], last: &[u64]| der::oid(&[base, last].concat());
        match self {
            Self::RsaPkcs1(hash) => {
                let last = match hash {
                    Hash::Sha1 => 5,
                    Hash::Sha256 => 11,
                    Hash::Sha384 => 12,
                    Hash::Sha512 => 13,
                };
                der::sequence(&[arcs(&PKCS1, &[last]), der::null()])
            }
            Self::RsaPss { hash, salt } => {
                let digest = hash.algorithm_identifier();
                let mgf1 = der::sequence(&[arcs(&PKCS1, &[8]), digest.clone()]);
                let parameters = der::sequence(&[
                    der::context(0, &digest),
                    der::context(1, &mgf1),
                    der::context(2, &der::unsigned(&salt.to_be_bytes())),
                ]);
                der::sequence(&[arcs(&PKCS1, &[10]), parameters])
            }
            Self::Ecdsa(hash) => der::sequence(&[match hash {
                Hash::Sha1 => arcs(&ECDSA, &[1]),
                Hash::Sha256 => arcs(&ECDSA, &[3, 2]),
                Hash::Sha384 => arcs(&ECDSA, &[3, 3]),
                Hash::Sha512 => arcs(&ECDSA, &[3, 4]),
            }]),
        }
    }
}

impl Key {
    /// The scheme a certificate authority would use with this key.
    pub fn usual_scheme(self) -> Scheme {
        match self {
            Self::P256(_) => Scheme::Ecdsa(Hash::Sha256),
            Self::P384(_) => Scheme::Ecdsa(Hash::Sha384),
            _ => Scheme::RsaPkcs1(Hash::Sha256),
        }
    }

    /// The private key as PKCS#8 PEM, for use with other tools.
    pub fn pem(self) -> &'static str {
        const RSA_2048: [&str; 14] = [
            include_str!("../keys/rsa2048-00.pem"),
            include_str!("../keys/rsa2048-01.pem"),
            include_str!("../keys/rsa2048-02.pem"),
            include_str!("../keys/rsa2048-03.pem"),
            include_str!("../keys/rsa2048-04.pem"),
            include_str!("../keys/rsa2048-05.pem"),
            include_str!("../keys/rsa2048-06.pem"),
            include_str!("../keys/rsa2048-07.pem"),
            include_str!("../keys/rsa2048-08.pem"),
            include_str!("../keys/rsa2048-09.pem"),
            include_str!("../keys/rsa2048-10.pem"),
            include_str!("../keys/rsa2048-11.pem"),
            include_str!("../keys/rsa2048-12.pem"),
            include_str!("../keys/rsa2048-13.pem"),
        ];
        match self {
            Self::Rsa2048(n) => RSA_2048[usize::from(n) % RSA_2048.len()],
            Self::Rsa1024 => include_str!("../keys/rsa1024-00.pem"),
            Self::Rsa1536 => include_str!("../keys/rsa1536-00.pem"),
            Self::Rsa2047 => include_str!("../keys/rsa2047-00.pem"),
            Self::Rsa3072 => include_str!("../keys/rsa3072-00.pem"),
            Self::Rsa4096 => include_str!("../keys/rsa4096-00.pem"),
            Self::P256(n) => match n % 3 {
                0 => include_str!("../keys/p256-00.pem"),
                1 => include_str!("../keys/p256-01.pem"),
                _ => include_str!("../keys/p256-02.pem"),
            },
            Self::P384(n) => match n % 3 {
                0 => include_str!("../keys/p384-00.pem"),
                1 => include_str!("../keys/p384-01.pem"),
                _ => include_str!("../keys/p384-02.pem"),
            },
        }
    }

    /// The public key as SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).
    pub fn spki(self) -> Vec<u8> {
        match self.private() {
            Private::Rsa(key) => {
                let public = der::sequence(&[
                    der::unsigned(&key.slow().n().to_bytes_be()),
                    der::unsigned(&key.slow().e().to_bytes_be()),
                ]);
                let algorithm = der::sequence(&[der::oid(&[1, 2, 840, 113_549, 1, 1, 1]), der::null()]);
                der::sequence(&[algorithm, der::bits(&public)])
            }
            Private::P256(key) => published(p256::PublicKey::from(key.verifying_key()).to_public_key_der()),
            Private::P384(key) => published(p384::PublicKey::from(key.verifying_key()).to_public_key_der()),
        }
    }

    /// The bits of the public key alone: what OCSP's issuerKeyHash and key identifiers are taken over.
    pub fn public_bits(self) -> Vec<u8> {
        let spki = self.spki();
        der::read(&spki)
            .and_then(|outer| der::elements(outer.content).get(1).map(|e| e.content.to_vec()))
            .and_then(|bits| bits.get(1..).map(<[u8]>::to_vec))
            .unwrap_or_default()
    }

    /// Signs `message`.
    ///
    /// # Panics
    /// When the scheme is of another family than the key: a mistake in the test that asked.
    pub fn sign(self, scheme: Scheme, message: &[u8]) -> Vec<u8> {
        match (self.private(), scheme) {
            (Private::Rsa(key), Scheme::RsaPkcs1(_) | Scheme::RsaPss { .. }) => key.sign(scheme, message),
            (Private::P256(key), Scheme::Ecdsa(hash)) => {
                use p256::ecdsa::signature::hazmat::PrehashSigner;
                let signature: p256::ecdsa::Signature = key
                    .sign_prehash(&at_least(&hash.digest(message), 32))
                    .expect("P-256 signs any digest");
                signature.to_der().as_bytes().to_vec()
            }
            (Private::P384(key), Scheme::Ecdsa(hash)) => {
                use p384::ecdsa::signature::hazmat::PrehashSigner;
                let signature: p384::ecdsa::Signature = key
                    .sign_prehash(&at_least(&hash.digest(message), 48))
                    .expect("P-384 signs any digest");
                signature.to_der().as_bytes().to_vec()
            }
            _ => unreachable!("{self:?} cannot sign with {scheme:?}"),
        }
    }

    fn private(self) -> &'static Private {
        static RSA: [OnceLock<Private>; 14] = [const { OnceLock::new() }; 14];
        static OTHER: [OnceLock<Private>; 5] = [const { OnceLock::new() }; 5];
        static P256: [OnceLock<Private>; 3] = [const { OnceLock::new() }; 3];
        static P384: [OnceLock<Private>; 3] = [const { OnceLock::new() }; 3];
        let cell = match self {
            Self::Rsa2048(n) => &RSA[usize::from(n) % RSA.len()],
            Self::Rsa1024 => &OTHER[0],
            Self::Rsa1536 => &OTHER[1],
            Self::Rsa2047 => &OTHER[2],
            Self::Rsa3072 => &OTHER[3],
            Self::Rsa4096 => &OTHER[4],
            Self::P256(n) => &P256[usize::from(n) % 3],
            Self::P384(n) => &P384[usize::from(n) % 3],
        };
        cell.get_or_init(|| match self {
            Self::P256(_) => Private::P256(
                p256::ecdsa::SigningKey::from_pkcs8_pem(self.pem()).expect("a P-256 key in keys/"),
            ),
            Self::P384(_) => Private::P384(
                p384::ecdsa::SigningKey::from_pkcs8_pem(self.pem()).expect("a P-384 key in keys/"),
            ),
            _ => Private::Rsa(Box::new(RsaKey::from_pem(self.pem()))),
        })
    }
}

/// ECDSA over a digest shorter than the curve's field: the digest is the low end of the number
/// (FIPS 186-4 section 6.4), and the crates ask for the zeros to be there.
fn at_least(digest: &[u8], length: usize) -> Vec<u8> {
    let mut padded = vec![0; length.saturating_sub(digest.len())];
    padded.extend_from_slice(digest);
    padded
}

fn published(document: Result<rsa::pkcs8::Document, rsa::pkcs8::spki::Error>) -> Vec<u8> {
    document.map(|d| d.as_bytes().to_vec()).unwrap_or_default()
}

enum Private {
    Rsa(Box<RsaKey>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

/// ring is fast in debug builds too but takes 2048 to 4096 bits and no odd schemes; the `rsa` crate takes
/// everything and is slow there. Each is used where it shines.
struct RsaKey {
    pem: &'static str,
    fast: Option<ring::signature::RsaKeyPair>,
    slow: OnceLock<rsa::RsaPrivateKey>,
}

impl RsaKey {
    fn from_pem(pem: &'static str) -> Self {
        let body: String = pem.lines().filter(|l| !l.starts_with("-----")).collect();
        let der = STANDARD.decode(body).unwrap_or_default();
        Self {
            pem,
            fast: ring::signature::RsaKeyPair::from_pkcs8(&der).ok(),
            slow: OnceLock::new(),
        }
    }

    fn slow(&self) -> &rsa::RsaPrivateKey {
        self.slow
            .get_or_init(|| rsa::RsaPrivateKey::from_pkcs8_pem(self.pem).expect("an RSA key in keys/"))
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Vec<u8> {
        let padding: Option<&'static dyn ring::signature::RsaEncoding> = match scheme {
            Scheme::RsaPkcs1(Hash::Sha256) => Some(&ring::signature::RSA_PKCS1_SHA256),
            Scheme::RsaPkcs1(Hash::Sha384) => Some(&ring::signature::RSA_PKCS1_SHA384),
            Scheme::RsaPkcs1(Hash::Sha512) => Some(&ring::signature::RSA_PKCS1_SHA512),
            Scheme::RsaPss {
                hash: Hash::Sha256,
                salt: 32,
            } => Some(&ring::signature::RSA_PSS_SHA256),
            _ => None,
        };
        if let (Some(key), Some(padding)) = (&self.fast, padding) {
            let mut signature = vec![0; key.public().modulus_len()];
            let random = ring::rand::SystemRandom::new();
            if key.sign(padding, &random, message, &mut signature).is_ok() {
                return signature;
            }
        }
        self.sign_slowly(scheme, message)
    }

    fn sign_slowly(&self, scheme: Scheme, message: &[u8]) -> Vec<u8> {
        use rsa::{Pkcs1v15Sign, Pss};
        let mut random = rand_core::OsRng;
        let key = self.slow();
        let signature = match scheme {
            Scheme::RsaPkcs1(hash) => {
                let padding = match hash {
                    Hash::Sha1 => Pkcs1v15Sign::new::<sha1::Sha1>(),
                    Hash::Sha256 => Pkcs1v15Sign::new::<sha2::Sha256>(),
                    Hash::Sha384 => Pkcs1v15Sign::new::<sha2::Sha384>(),
                    Hash::Sha512 => Pkcs1v15Sign::new::<sha2::Sha512>(),
                };
                key.sign(padding, &hash.digest(message))
            }
            Scheme::RsaPss { hash, salt } => {
                let padding = match hash {
                    Hash::Sha1 => Pss::new_with_salt::<sha1::Sha1>(salt),
                    Hash::Sha256 => Pss::new_with_salt::<sha2::Sha256>(salt),
                    Hash::Sha384 => Pss::new_with_salt::<sha2::Sha384>(salt),
                    Hash::Sha512 => Pss::new_with_salt::<sha2::Sha512>(salt),
                };
                key.sign_with_rng(&mut random, padding, &hash.digest(message))
            }
            Scheme::Ecdsa(_) => unreachable!("an RSA key was asked for ECDSA"),
        };
        signature.expect("the key is long enough for the digest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_make_the_same_pkcs1_signature() {
        let Private::Rsa(key) = Key::Rsa2048(0).private() else {
            unreachable!()
        };
        let scheme = Scheme::RsaPkcs1(Hash::Sha256);
        assert!(key.fast.is_some());
        assert_eq!(key.sign(scheme, b"x"), key.sign_slowly(scheme, b"x"));
    }

    #[test]
    fn every_key_can_sign() {
        let two_thousand = (0..RSA_2048_KEYS).map(Key::Rsa2048);
        let others = [
            Key::Rsa1024,
            Key::Rsa1536,
            Key::Rsa2047,
            Key::Rsa3072,
            Key::Rsa4096,
        ];
        let curves = (0..3).flat_map(|n| [Key::P256(n), Key::P384(n)]);
        for key in two_thousand.chain(others).chain(curves) {
            assert!(!key.sign(key.usual_scheme(), b"x").is_empty(), "{key:?}");
        }
    }
}
