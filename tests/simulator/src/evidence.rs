//! Evidence without a server: the documents that a login would fetch, sound or varied in named ways.
//!
//! For tests that judge documents as bytes, for fuzzing seeds, and for asking other verifiers about the same
//! thing. A [`Scene`] is plain data; a seed always gives the same scene (PSS salts apart, signatures too).

use crate::certificate::{
    AltName, Attribute, BasicConstraints, CertSpec, Extension, KeyUsage, Purpose, name,
};
use crate::clock::DAY;
use crate::key::{Hash, Key, Scheme};
use crate::ocsp::{Responder, ResponderId, Response, Single, Status};
use crate::record::{self, Record};
use crate::signer::{Part, SignerSpec, Staple, StapleName, keys};

/// The key line of the usual scene's record.
pub const KEY_LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
/// The instance of the usual scene.
pub const INSTANCE: &str = "i-0123456789abcdef0";
/// Its signer's name.
pub const HOST: &str = "managed-ssh-signer.us-east-1.amazonaws.com";

/// What one login would fetch, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// `i-…`.
    pub instance: String,
    /// `us-east-1`.
    pub region: String,
    /// `amazonaws.com`.
    pub domain: String,
    /// Chain and staples.
    pub signer: SignerSpec,
    /// The records of the one user.
    pub records: Vec<Record>,
}

/// What one login would fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// `i-…`.
    pub instance: String,
    /// `us-east-1`.
    pub region: String,
    /// `amazonaws.com`.
    pub domain: String,
    /// The document at `active-keys/USER/`.
    pub active_keys: Vec<u8>,
    /// The PEM text at `signer-cert/`.
    pub signer_cert: Vec<u8>,
    /// Names and DER of the staples.
    pub staples: Vec<(String, Vec<u8>)>,
    /// DER of the roots to trust.
    pub roots: Vec<Vec<u8>>,
    /// Unix seconds at which all of it was made.
    pub now: i64,
}

/// What of a scene a variation touches. Variations of different parts can be combined, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touches {
    /// The leaf's names, extensions and validity.
    Leaf,
    /// The leaf's key and the signature on it.
    LeafKey,
    /// The issuing authority.
    Issuer,
    /// What is served beside leaf and issuer, and in which order.
    Chain,
    /// The staple about the leaf.
    LeafStaple,
    /// The staple about the issuer.
    IssuerStaple,
    /// The list of staples.
    Staples,
    /// The record.
    Record,
}

/// A named change to a sound scene.
#[derive(Clone, Copy)]
pub struct Variation {
    /// Its name, in words.
    pub name: &'static str,
    /// What it touches.
    pub touches: Touches,
    /// Whether the key must still come out.
    pub sound: bool,
    /// The change.
    pub apply: fn(&mut Scene),
}

impl Scene {
    /// What production serves for one key that has a minute to live.
    pub fn usual() -> Self {
        let record = Record::new(INSTANCE, KEY_LINE)
            .caller("arn:aws:iam::123456789012:user/alice")
            .request("c0ffee00-0000-4000-8000-000000000000");
        Self {
            instance: INSTANCE.to_owned(),
            region: "us-east-1".to_owned(),
            domain: "amazonaws.com".to_owned(),
            signer: SignerSpec::production(HOST),
            records: vec![record],
        }
    }

    /// The usual scene with up to three variations that `seed` chooses, no two of which touch the same part.
    /// The key must come out when all of them are sound.
    pub fn varied(seed: u64) -> (Self, Vec<&'static Variation>) {
        let mut random = Splitmix(seed);
        let mut scene = Self::usual();
        let mut chosen: Vec<&'static Variation> = Vec::new();
        for _ in 0..random.below(4) {
            let candidate = &VARIATIONS[random.below(VARIATIONS.len())];
            if chosen.iter().all(|c| c.touches != candidate.touches) {
                chosen.push(candidate);
            }
        }
        // parts before the lists that hold them
        chosen.sort_by_key(|variation| variation.touches);
        for variation in &chosen {
            (variation.apply)(&mut scene);
        }
        (scene, chosen)
    }

    /// Makes and signs everything as of `now`.
    pub fn build(&self, now: i64) -> Evidence {
        let signer = self.signer.build(now);
        Evidence {
            instance: self.instance.clone(),
            region: self.region.clone(),
            domain: self.domain.clone(),
            active_keys: record::document(&self.records, signer.key(), now),
            roots: vec![signer.root.der.clone()],
            signer_cert: signer.chain.into_bytes(),
            staples: signer.staples,
            now,
        }
    }

    fn leaf(&mut self) -> &mut CertSpec {
        &mut self.signer.leaf
    }

    fn issuer(&mut self) -> &mut CertSpec {
        &mut self.signer.issuers[0]
    }

    fn response(&mut self, about: Part) -> &mut Response {
        let place = self.signer.staples.iter().position(|s| s.about == about);
        &mut self.signer.staples[place.unwrap_or(0)].response
    }

    fn leaf_response(&mut self) -> &mut Response {
        self.response(Part::Leaf)
    }

    fn leaf_single(&mut self) -> &mut Single {
        &mut self.leaf_response().singles[0]
    }

    fn record(&mut self) -> &mut Record {
        &mut self.records[0]
    }

    fn headers(&mut self, change: impl FnOnce(Record) -> Record) {
        self.records[0] = change(self.records[0].clone());
    }
}

/// Sebastiano Vigna's splitmix64: small, and good enough to choose with.
struct Splitmix(u64);

impl Splitmix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % limit
    }
}

const fn sound(name: &'static str, touches: Touches, apply: fn(&mut Scene)) -> Variation {
    Variation {
        name,
        touches,
        sound: true,
        apply,
    }
}

const fn unsound(name: &'static str, touches: Touches, apply: fn(&mut Scene)) -> Variation {
    Variation {
        name,
        touches,
        sound: false,
        apply,
    }
}

fn dns(host: &str) -> AltName {
    AltName::Dns(host.to_owned())
}

fn delegate(change: impl FnOnce(&mut CertSpec)) -> Box<CertSpec> {
    let mut spec = CertSpec::responder("Make-Believe OCSP Responder", keys::RESPONDER);
    change(&mut spec);
    Box::new(spec)
}

use Touches::{Chain, Issuer, IssuerStaple, Leaf, LeafKey, LeafStaple, Staples};

/// Every variation there is.
pub const VARIATIONS: &[Variation] = &[
    // --- the leaf ---
    sound("leaf without a common name", Leaf, |s| {
        s.leaf().subject = vec![(Attribute::Organization, "Make-Believe".to_owned())];
    }),
    sound("leaf without subjectAltName", Leaf, |s| s.leaf().alt_names = None),
    sound("leaf with a name in capitals", Leaf, |s| {
        s.leaf().alt_names = Some(vec![dns(&HOST.to_uppercase())]);
    }),
    sound("leaf with other names too", Leaf, |s| {
        let email = AltName::Email("ops@example.com".to_owned());
        let names = [
            dns("a.example"),
            email,
            AltName::Ip(vec![192, 0, 2, 1]),
            dns(HOST),
        ];
        s.leaf().alt_names = Some(names.to_vec());
    }),
    sound("leaf without extendedKeyUsage", Leaf, |s| {
        s.leaf().purposes = None
    }),
    sound("leaf for servers only", Leaf, |s| {
        s.leaf().purposes = Some(vec![Purpose::ServerAuth])
    }),
    sound("leaf without keyUsage", Leaf, |s| s.leaf().key_usage = None),
    sound("leaf with an unknown extension", Leaf, |s| {
        s.leaf().extensions.push(Extension::unknown(false))
    }),
    sound("leaf of three days", Leaf, |s| {
        (s.leaf().not_before, s.leaf().not_after) = (-DAY, 2 * DAY)
    }),
    unsound("leaf expired", Leaf, |s| s.leaf().not_after = -1),
    unsound("leaf not yet valid", Leaf, |s| s.leaf().not_before = 3600),
    unsound("leaf for another region", Leaf, |s| {
        let host = HOST.replace("us-east-1", "us-east-2");
        let key = s.leaf().key;
        *s.leaf() = CertSpec::signer(&host, key);
    }),
    unsound(
        "leaf whose name is in the common name only, beside another subjectAltName",
        Leaf,
        |s| {
            s.leaf().alt_names = Some(vec![dns("managed-ssh-signer.example.com")]);
        },
    ),
    unsound("leaf with a wildcard", Leaf, |s| {
        s.leaf().alt_names = Some(vec![dns("*.us-east-1.amazonaws.com")]);
    }),
    unsound("leaf whose organization poses as its common name", Leaf, |s| {
        s.leaf().alt_names = None;
        s.leaf().subject = vec![(Attribute::Organization, format!("x CN = {HOST}"))];
    }),
    unsound("leaf with two common names", Leaf, |s| {
        s.leaf().alt_names = None;
        s.leaf()
            .subject
            .insert(0, (Attribute::AnotherCommonName, "other.example".to_owned()));
    }),
    unsound("leaf for clients only", Leaf, |s| {
        s.leaf().purposes = Some(vec![Purpose::ClientAuth])
    }),
    unsound("leaf with an unknown critical extension", Leaf, |s| {
        s.leaf().extensions.push(Extension::unknown(true));
    }),
    // --- the leaf's key and signature ---
    sound("leaf of 3072 bits", LeafKey, |s| s.leaf().key = Key::Rsa3072),
    sound("leaf of 4096 bits", LeafKey, |s| s.leaf().key = Key::Rsa4096),
    sound("leaf signed with SHA-384", LeafKey, |s| {
        s.leaf().scheme = Some(Scheme::RsaPkcs1(Hash::Sha384));
    }),
    unsound("leaf of 1024 bits", LeafKey, |s| s.leaf().key = Key::Rsa1024),
    unsound("leaf of 2047 bits", LeafKey, |s| s.leaf().key = Key::Rsa2047),
    unsound("leaf signed with SHA-1", LeafKey, |s| {
        s.leaf().scheme = Some(Scheme::RsaPkcs1(Hash::Sha1));
    }),
    unsound("leaf with a broken signature", LeafKey, |s| {
        s.leaf().break_signature = true
    }),
    unsound("leaf signed by a stranger", LeafKey, |s| {
        s.leaf().signed_with = Some(keys::STRANGER)
    }),
    // --- the issuer ---
    sound("another issuer's turn", Issuer, |s| {
        *s.issuer() = SignerSpec::issuer(2)
    }),
    sound("issuer without extendedKeyUsage", Issuer, |s| {
        s.issuer().purposes = None
    }),
    sound("issuer without keyUsage", Issuer, |s| s.issuer().key_usage = None),
    sound("issuer without pathlen", Issuer, |s| {
        s.issuer().constraints = Some(BasicConstraints {
            authority: true,
            path_length: None,
            critical: true,
        });
    }),
    sound("issuer whose basicConstraints are not critical", Issuer, |s| {
        s.issuer().constraints = Some(BasicConstraints {
            authority: true,
            path_length: Some(0),
            critical: false,
        });
    }),
    sound("root on P-384", Issuer, |s| s.signer.root.key = Key::P384(0)),
    unsound("issuer that is no authority", Issuer, |s| {
        s.issuer().constraints = Some(BasicConstraints {
            authority: false,
            path_length: None,
            critical: true,
        });
    }),
    unsound("issuer without basicConstraints", Issuer, |s| {
        s.issuer().constraints = None
    }),
    unsound("issuer without keyCertSign", Issuer, |s| {
        s.issuer().key_usage = Some(vec![KeyUsage::DigitalSignature]);
    }),
    unsound("issuer for code signing only", Issuer, |s| {
        s.issuer().purposes = Some(vec![Purpose::CodeSigning]);
    }),
    unsound("issuer expired", Issuer, |s| s.issuer().not_after = -1),
    unsound("issuer with an unknown critical extension", Issuer, |s| {
        s.issuer().extensions.push(Extension::unknown(true));
    }),
    unsound("issuer with a broken signature", Issuer, |s| {
        s.issuer().break_signature = true
    }),
    // --- the chain as served ---
    sound("leaf and issuer served alone", Chain, |s| {
        s.signer.served.truncate(2)
    }),
    sound("issuers served in reverse", Chain, |s| {
        s.signer.served[1..].reverse()
    }),
    sound("a stranger's certificate served too", Chain, |s| {
        s.signer.served.push(Part::Unrelated)
    }),
    sound("the root served too", Chain, |s| {
        s.signer.served.insert(2, Part::Root)
    }),
    sound("the issuer served twice", Chain, |s| {
        s.signer.served.push(Part::Issuer(0))
    }),
    sound("PEM with carriage returns", Chain, |s| s.signer.line_end = "\r\n"),
    unsound("issuer not served", Chain, |s| {
        s.signer.served.retain(|p| *p != Part::Issuer(0))
    }),
    unsound("an authority too many for pathlen 0", Chain, |s| {
        let mut middle = CertSpec::intermediate("Make-Believe Middle", keys::MIDDLE);
        middle.subject = name("Make-Believe Middle");
        s.signer.issuers.push(middle);
        s.signer.served.insert(2, Part::Issuer(1));
        s.signer.staples.push(Staple::good(Part::Issuer(1)));
    }),
    // --- the staple about the leaf ---
    sound("certID by SHA-256", LeafStaple, |s| {
        s.leaf_single().hash = Hash::Sha256
    }),
    sound("staple by a delegate", LeafStaple, |s| {
        *s.leaf_response() = Response::delegated(keys::RESPONDER)
    }),
    sound("staple by a delegate on P-256", LeafStaple, |s| {
        *s.leaf_response() = Response::delegated(Key::P256(0));
    }),
    sound("staple by a delegate on P-384", LeafStaple, |s| {
        *s.leaf_response() = Response::delegated(Key::P384(0));
    }),
    sound("staple by a delegate, named by name", LeafStaple, |s| {
        *s.leaf_response() = Response::delegated(keys::RESPONDER);
        s.leaf_response().responder_id = ResponderId::Name;
    }),
    sound("staple that names its responder by name", LeafStaple, |s| {
        s.leaf_response().responder_id = ResponderId::Name;
    }),
    sound("staple that carries the issuer", LeafStaple, |s| {
        s.leaf_response().with_issuer = true
    }),
    sound(
        "staple with another certificate's answer first",
        LeafStaple,
        |s| {
            let other = Single {
                serial: Some(vec![1, 2, 3]),
                ..Single::good()
            };
            s.leaf_response().singles.insert(0, other);
        },
    ),
    sound("staple of a clock four minutes ahead", LeafStaple, |s| {
        s.leaf_single().this_update = 240;
        s.leaf_response().produced_at = 240;
    }),
    sound("staple that ended four minutes ago", LeafStaple, |s| {
        s.leaf_single().next_update = Some(-240)
    }),
    sound("staple with an unknown extension", LeafStaple, |s| {
        s.leaf_response().extensions.push(Extension::unknown(false));
    }),
    unsound("leaf revoked", LeafStaple, |s| {
        s.leaf_single().status = Status::Revoked(-60)
    }),
    unsound("leaf unknown to its issuer", LeafStaple, |s| {
        s.leaf_single().status = Status::Unknown
    }),
    unsound("staple that ended an hour ago", LeafStaple, |s| {
        s.leaf_single().this_update = -7200;
        s.leaf_single().next_update = Some(-3600);
    }),
    unsound("staple of the next hour", LeafStaple, |s| {
        s.leaf_single().this_update = 3600
    }),
    unsound("staple without an end", LeafStaple, |s| {
        s.leaf_single().next_update = None
    }),
    unsound("staple for another serial number", LeafStaple, |s| {
        s.leaf_single().serial = Some(vec![1, 2, 3]);
    }),
    unsound("staple for another issuer's key", LeafStaple, |s| {
        s.leaf_single().wrong_key_hash = true
    }),
    unsound("staple for another issuer's name", LeafStaple, |s| {
        s.leaf_single().wrong_name_hash = true
    }),
    unsound("staple that says try later", LeafStaple, |s| {
        s.leaf_response().status = 3
    }),
    unsound("staple with a broken signature", LeafStaple, |s| {
        s.leaf_response().break_signature = true
    }),
    unsound("staple signed with SHA-1", LeafStaple, |s| {
        *s.leaf_response() = Response::delegated(keys::RESPONDER);
        s.leaf_response().scheme = Some(Scheme::RsaPkcs1(Hash::Sha1));
    }),
    unsound("staple by an impostor", LeafStaple, |s| {
        s.leaf_response().responder = Responder::Impostor(keys::STRANGER);
    }),
    unsound("staple by a delegate without the purpose", LeafStaple, |s| {
        s.leaf_response().responder = Responder::Delegate(delegate(|d| d.purposes = None));
    }),
    unsound("staple by an expired delegate", LeafStaple, |s| {
        s.leaf_response().responder = Responder::Delegate(delegate(|d| d.not_after = -1));
    }),
    unsound("staple by a delegate that a stranger signed", LeafStaple, |s| {
        s.leaf_response().responder =
            Responder::Delegate(delegate(|d| d.signed_with = Some(keys::STRANGE_ROOT)));
    }),
    unsound("staple by a delegate that signed itself", LeafStaple, |s| {
        s.leaf_response().responder = Responder::SelfSigned(delegate(|_| {}));
    }),
    unsound("staple by a delegate that the leaf signed", LeafStaple, |s| {
        s.leaf_response().responder = Responder::SignedBySubject(delegate(|_| {}));
    }),
    unsound("staple with a critical unknown extension", LeafStaple, |s| {
        s.leaf_response().extensions.push(Extension::unknown(true));
    }),
    unsound("staple with bytes behind it", LeafStaple, |s| {
        s.leaf_response().trailing = vec![0]
    }),
    // --- the staple about the issuer ---
    sound("issuer's staple by SHA-256", IssuerStaple, |s| {
        s.response(Part::Issuer(0)).singles[0].hash = Hash::Sha256;
    }),
    unsound("issuer revoked", IssuerStaple, |s| {
        s.response(Part::Issuer(0)).singles[0].status = Status::Revoked(-60);
    }),
    unsound("issuer's staple with a broken signature", IssuerStaple, |s| {
        s.response(Part::Issuer(0)).break_signature = true;
    }),
    // --- the list of staples ---
    sound("staples named by SHA-256", Staples, |s| {
        for staple in &mut s.signer.staples {
            staple.name = StapleName::Fingerprint(Hash::Sha256);
        }
    }),
    sound("staples of any name", Staples, |s| {
        for (number, staple) in s.signer.staples.iter_mut().enumerate() {
            staple.name = StapleName::Text(format!("staple-{number}"));
        }
    }),
    sound("a stranger's broken staple too", Staples, |s| {
        let mut staple = Staple::good(Part::Unrelated);
        staple.response.break_signature = true;
        s.signer.staples.insert(0, staple);
    }),
    sound("no staple for what is off the path", Staples, |s| {
        s.signer.staples.retain(|staple| staple.about != Part::CrossRoot);
    }),
    unsound("no staples", Staples, |s| s.signer.staples.clear()),
    unsound("no staple for the leaf", Staples, |s| {
        s.signer.staples.retain(|staple| staple.about != Part::Leaf);
    }),
    unsound("no staple for the issuer", Staples, |s| {
        s.signer.staples.retain(|staple| staple.about != Part::Issuer(0));
    }),
    // --- the record ---
    sound("record without caller and request", Touches::Record, |s| {
        s.headers(|r| r.without("#Caller").without("#Request"));
    }),
    sound("record with a header of the future", Touches::Record, |s| {
        s.headers(|r| r.header("#Novel=thing"))
    }),
    sound("record with its signature wrapped", Touches::Record, |s| {
        s.record().wrap = Some(76)
    }),
    sound("record beside a bad one", Touches::Record, |s| {
        let mut bad = s.record().clone();
        bad.flip = Some(7);
        s.records.insert(0, bad);
    }),
    unsound("record expired", Touches::Record, |s| {
        s.headers(|r| r.expires(-1))
    }),
    unsound("record that expires now", Touches::Record, |s| {
        s.headers(|r| r.expires(0))
    }),
    unsound("record for another instance", Touches::Record, |s| {
        s.headers(|r| r.without("#Instance").header("#Instance=i-0fedcba9876543210"));
    }),
    unsound("record without a timestamp", Touches::Record, |s| {
        s.headers(|r| r.without("#Timestamp"))
    }),
    unsound("record without an instance", Touches::Record, |s| {
        s.headers(|r| r.without("#Instance"))
    }),
    unsound("record with two instances", Touches::Record, |s| {
        s.headers(|r| r.header("#Instance=i-0fedcba9876543210"));
    }),
    unsound("record with two timestamps", Touches::Record, |s| {
        s.headers(|r| r.header("#Timestamp=9999999999"));
    }),
    unsound(
        "record with a flipped bit in its signature",
        Touches::Record,
        |s| s.record().flip = Some(1000),
    ),
    unsound("record with a forged caller", Touches::Record, |s| {
        s.record().forged = Some(("alice".to_owned(), "root".to_owned()));
    }),
    unsound("record without a signature", Touches::Record, |s| {
        s.record().unsigned = true
    }),
    unsound("record signed by a stranger", Touches::Record, |s| {
        s.record().signed_with = Some(keys::STRANGER);
    }),
    unsound("record signed with PKCS #1 padding", Touches::Record, |s| {
        s.record().scheme = Scheme::RsaPkcs1(Hash::Sha256);
    }),
    unsound("record signed with a salt of 20 bytes", Touches::Record, |s| {
        s.record().scheme = Scheme::RsaPss {
            hash: Hash::Sha256,
            salt: 20,
        };
    }),
    unsound("record signed with SHA-1", Touches::Record, |s| {
        s.record().scheme = Scheme::RsaPss {
            hash: Hash::Sha1,
            salt: 20,
        };
    }),
    unsound("record whose key has options", Touches::Record, |s| {
        s.record().key_line = format!("no-pty {KEY_LINE}");
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn variations_have_names_of_their_own_and_change_something() {
        let names: HashSet<&str> = VARIATIONS.iter().map(|v| v.name).collect();
        assert_eq!(names.len(), VARIATIONS.len());
        for variation in VARIATIONS {
            let mut scene = Scene::usual();
            (variation.apply)(&mut scene);
            assert_ne!(scene, Scene::usual(), "{}", variation.name);
        }
    }

    #[test]
    fn every_variation_can_be_built() {
        for variation in VARIATIONS {
            let mut scene = Scene::usual();
            (variation.apply)(&mut scene);
            let evidence = scene.build(1_767_225_600);
            assert!(!evidence.active_keys.is_empty(), "{}", variation.name);
        }
    }

    #[test]
    fn a_seed_gives_one_scene() {
        for seed in 0..2000 {
            assert_eq!(Scene::varied(seed).0, Scene::varied(seed).0);
        }
        for seed in 0..20 {
            Scene::varied(seed).0.build(1_767_225_600);
        }
    }
}
