//! What can be different about a chain, a staple, a record: beside the simulator's named variations, all that its
//! descriptions can say and a judge might see otherwise than we do.

use eic_simulator::certificate::{
    AltName, Attribute, BasicConstraints, CertSpec, Extension, KeyUsage, Purpose, name,
};
use eic_simulator::clock::DAY;
use eic_simulator::der;
use eic_simulator::evidence::{HOST, INSTANCE, KEY_LINE};
use eic_simulator::key::{Hash, Key, Scheme};
use eic_simulator::ocsp::{Responder, ResponderId, Response, Single, Status};
use eic_simulator::record::Record;
use eic_simulator::signer::{Part, keys};

use super::draft::{Anchor, Draft, Knob};

const fn knob(name: &'static str, turn: fn(&mut Draft)) -> Knob {
    Knob::new(name, turn)
}

fn dns(name: &str) -> AltName {
    AltName::Dns(name.to_owned())
}

fn common_name(text: &str) -> (Attribute, String) {
    (Attribute::CommonName, text.to_owned())
}

/// id-ce, 2.5.29, with the given last arc.
fn standard(arc: u64, critical: bool, value: Vec<u8>) -> Extension {
    Extension {
        oid: vec![2, 5, 29, arc],
        critical,
        value,
    }
}

/// nameConstraints (RFC 5280 §4.2.1.10): permitted (0) or excluded (1) subtrees of one dNSName.
fn name_constraints(which: u8, dns: &str) -> Extension {
    let subtree = der::sequence(&[der::context_primitive(2, dns.as_bytes())]);
    standard(30, true, der::sequence(&[der::context(which, &subtree)]))
}

fn authority(path_length: Option<u8>) -> Option<BasicConstraints> {
    Some(BasicConstraints {
        authority: true,
        path_length,
        critical: true,
    })
}

/// One more authority between issuer and root.
fn middle(draft: &mut Draft, change: fn(&mut CertSpec)) {
    let mut middle = CertSpec::intermediate("Make-Believe Middle", keys::MIDDLE);
    middle.constraints = authority(Some(1));
    change(&mut middle);
    draft.scene.signer.issuers.push(middle);
    draft.scene.signer.served.insert(2, Part::Issuer(1));
}

pub(crate) const CHAIN: &[Knob] = &[
    // --- the leaf's names ---
    knob("common name alone, in capitals", |d| {
        d.leaf().alt_names = None;
        d.leaf().subject = vec![common_name(&HOST.to_uppercase())];
    }),
    knob("common name alone, twice the same", |d| {
        d.leaf().alt_names = None;
        d.leaf()
            .subject
            .push((Attribute::AnotherCommonName, HOST.to_owned()));
    }),
    knob("common name alone, a wildcard", |d| {
        d.leaf().alt_names = None;
        d.leaf().subject = vec![common_name("*.us-east-1.amazonaws.com")];
    }),
    knob("common name alone, a zero byte in it", |d| {
        d.leaf().alt_names = None;
        d.leaf().subject = vec![common_name(&format!("{HOST}\0.example.com"))];
    }),
    knob("common name alone, a dot behind it", |d| {
        d.leaf().alt_names = None;
        d.leaf().subject = vec![common_name(&format!("{HOST}."))];
    }),
    knob("common name alone, a space behind it", |d| {
        d.leaf().alt_names = None;
        d.leaf().subject = vec![common_name(&format!("{HOST} "))];
    }),
    knob("no name at all", |d| {
        d.leaf().alt_names = None;
        d.leaf().subject = Vec::new();
    }),
    knob("subjectAltName without entries", |d| {
        d.leaf().alt_names = Some(Vec::new())
    }),
    knob("subjectAltName with the name as an email address", |d| {
        d.leaf().alt_names = Some(vec![AltName::Email(HOST.to_owned())]);
    }),
    knob("subjectAltName with the name as a URI", |d| {
        d.leaf().subject = vec![common_name("x")];
        d.leaf().alt_names = Some(vec![AltName::Uri(HOST.to_owned())]);
    }),
    knob("subjectAltName with an address only", |d| {
        d.leaf().alt_names = Some(vec![AltName::Ip(vec![192, 0, 2, 1])]);
    }),
    knob("subjectAltName with a zero byte", |d| {
        d.leaf().alt_names = Some(vec![dns(&format!("{HOST}\0.example.com"))]);
    }),
    knob("subjectAltName with a dot behind the name", |d| {
        d.leaf().alt_names = Some(vec![dns(&format!("{HOST}."))]);
    }),
    knob("subjectAltName with a wildcard inside a label", |d| {
        d.leaf().alt_names = Some(vec![dns("managed-*.us-east-1.amazonaws.com")]);
    }),
    knob("subjectAltName with a parent domain", |d| {
        d.leaf().alt_names = Some(vec![dns("us-east-1.amazonaws.com")]);
    }),
    knob(
        "subjectAltName with a byte that is no ASCII, then the name",
        |d| {
            d.leaf().alt_names = Some(vec![dns("b\u{fc}cher.example"), dns(HOST)]);
        },
    ),
    knob(
        "subjectAltName with an address of three bytes, then the name",
        |d| {
            d.leaf().alt_names = Some(vec![AltName::Ip(vec![1, 2, 3]), dns(HOST)]);
        },
    ),
    knob("subjectAltName twice, the first one another's", |d| {
        d.leaf().alt_names = Some(vec![dns("other.example")]);
        let names = der::sequence(&[der::context_primitive(2, HOST.as_bytes())]);
        d.leaf().extensions.push(standard(17, false, names));
    }),
    knob("subjectAltName that is no DER", |d| {
        d.leaf().alt_names = None;
        d.leaf().extensions.push(standard(17, false, vec![0x30, 5, 1]));
    }),
    knob("empty subject, subjectAltName not critical", |d| {
        d.leaf().subject = Vec::new()
    }),
    // --- the leaf's uses ---
    knob("leaf for encipherment only", |d| {
        d.leaf().key_usage = Some(vec![KeyUsage::KeyEncipherment])
    }),
    knob("leaf for certificates only", |d| {
        d.leaf().key_usage = Some(vec![KeyUsage::KeyCertSign])
    }),
    knob("leaf for no use", |d| d.leaf().key_usage = Some(Vec::new())),
    knob("leaf whose keyUsage is no DER", |d| {
        d.leaf().key_usage = None;
        d.leaf().extensions.push(standard(15, true, vec![3, 5, 0]));
    }),
    knob("leaf for any purpose", |d| {
        d.leaf().purposes = Some(vec![Purpose::Any])
    }),
    knob("leaf for servers and any purpose", |d| {
        d.leaf().purposes = Some(vec![Purpose::Any, Purpose::ServerAuth]);
    }),
    knob("leaf for no purpose", |d| d.leaf().purposes = Some(Vec::new())),
    knob("leaf for code signing", |d| {
        d.leaf().purposes = Some(vec![Purpose::CodeSigning])
    }),
    knob("leaf without basicConstraints", |d| d.leaf().constraints = None),
    knob("leaf that is an authority", |d| {
        d.leaf().constraints = authority(None)
    }),
    knob("leaf that is an authority and may sign certificates", |d| {
        d.leaf().constraints = authority(None);
        d.leaf().key_usage = Some(vec![KeyUsage::DigitalSignature, KeyUsage::KeyCertSign]);
    }),
    knob("leaf with a pathlen and no authority", |d| {
        d.leaf().constraints = Some(BasicConstraints {
            authority: false,
            path_length: Some(0),
            critical: true,
        });
    }),
    knob("leaf with an extension twice", |d| {
        d.leaf().extensions = vec![Extension::unknown(false), Extension::unknown(false)];
    }),
    knob("leaf with basicConstraints twice", |d| {
        d.leaf()
            .extensions
            .push(standard(19, true, der::sequence::<Vec<u8>>(&[])));
    }),
    knob("leaf with critical certificate policies", |d| {
        let policy = der::sequence(&[der::oid(&[2, 23, 140, 1, 2, 1])]);
        d.leaf()
            .extensions
            .push(standard(32, true, der::sequence(&[policy])));
    }),
    knob("leaf with policies that are no DER", |d| {
        d.leaf().extensions.push(standard(32, false, vec![1, 2, 3]));
    }),
    knob("leaf that demands OCSP stapling", |d| {
        d.leaf().extensions.push(Extension {
            oid: vec![1, 3, 6, 1, 5, 5, 7, 1, 24],
            critical: false,
            value: der::sequence(&[der::unsigned(&[5])]),
        });
    }),
    // --- the leaf's time, number, key, signature ---
    knob("leaf that ends this second", |d| d.leaf().not_after = 0),
    knob("leaf that ends the next second", |d| d.leaf().not_after = 1),
    knob("leaf that begins this second", |d| d.leaf().not_before = 0),
    knob("leaf that begins the next second", |d| d.leaf().not_before = 1),
    knob("leaf that ends before it begins", |d| {
        (d.leaf().not_before, d.leaf().not_after) = (-DAY, -2 * DAY)
    }),
    knob("leaf of a century", |d| d.leaf().not_after = 36_500 * DAY),
    knob("leaf numbered zero", |d| d.leaf().serial = Some(vec![0])),
    knob("leaf with a number of twenty bytes", |d| {
        d.leaf().serial = Some(vec![0x7f; 20])
    }),
    knob("leaf with a number of twenty-one bytes", |d| {
        d.leaf().serial = Some(vec![0x7f; 21])
    }),
    knob("leaf with a number of forty bytes", |d| {
        d.leaf().serial = Some(vec![0x7f; 40])
    }),
    knob("leaf on P-256", |d| d.leaf().key = Key::P256(1)),
    knob("leaf of 1536 bits", |d| d.leaf().key = Key::Rsa1536),
    knob("leaf signed with SHA-512", |d| {
        d.leaf().scheme = Some(Scheme::RsaPkcs1(Hash::Sha512))
    }),
    knob("leaf signed with PSS", |d| {
        d.leaf().scheme = Some(Scheme::RsaPss {
            hash: Hash::Sha256,
            salt: 32,
        });
    }),
    knob("leaf signed with PSS and SHA-512", |d| {
        d.leaf().scheme = Some(Scheme::RsaPss {
            hash: Hash::Sha512,
            salt: 64,
        });
    }),
    knob("leaf signed with PSS and an odd salt", |d| {
        d.leaf().scheme = Some(Scheme::RsaPss {
            hash: Hash::Sha256,
            salt: 20,
        });
    }),
    knob("leaf signed with PSS and SHA-1", |d| {
        d.leaf().scheme = Some(Scheme::RsaPss {
            hash: Hash::Sha1,
            salt: 20,
        });
    }),
    knob("leaf that names another issuer", |d| {
        d.leaf().issuer_name = Some(name("Somebody Else"))
    }),
    // --- the issuer ---
    knob("issuer that may sign certificates and nothing else", |d| {
        d.issuer().key_usage = Some(vec![KeyUsage::KeyCertSign]);
    }),
    knob("issuer that may sign revocation lists only", |d| {
        d.issuer().key_usage = Some(vec![KeyUsage::CrlSign])
    }),
    knob("issuer for servers only", |d| {
        d.issuer().purposes = Some(vec![Purpose::ServerAuth])
    }),
    knob("issuer for clients only", |d| {
        d.issuer().purposes = Some(vec![Purpose::ClientAuth])
    }),
    knob("issuer for any purpose", |d| {
        d.issuer().purposes = Some(vec![Purpose::Any])
    }),
    knob("issuer for no purpose", |d| {
        d.issuer().purposes = Some(Vec::new())
    }),
    knob("issuer that ends this second", |d| d.issuer().not_after = 0),
    knob("issuer that begins the next second", |d| {
        d.issuer().not_before = 1
    }),
    knob("issuer without a subject", |d| d.issuer().subject = Vec::new()),
    knob("issuer numbered zero", |d| d.issuer().serial = Some(vec![0])),
    knob("issuer of 1024 bits", |d| d.issuer().key = Key::Rsa1024),
    knob("issuer of 2047 bits", |d| d.issuer().key = Key::Rsa2047),
    knob("issuer of 4096 bits", |d| d.issuer().key = Key::Rsa4096),
    knob("issuer on P-256", |d| d.issuer().key = Key::P256(0)),
    knob("issuer on P-256 that signs with SHA-384", |d| {
        d.issuer().key = Key::P256(0);
        d.leaf().scheme = Some(Scheme::Ecdsa(Hash::Sha384));
    }),
    knob("issuer on P-256 that signs with SHA-512", |d| {
        d.issuer().key = Key::P256(0);
        d.leaf().scheme = Some(Scheme::Ecdsa(Hash::Sha512));
    }),
    knob("issuer on P-384 that signs with SHA-256", |d| {
        d.issuer().key = Key::P384(0);
        d.leaf().scheme = Some(Scheme::Ecdsa(Hash::Sha256));
    }),
    knob("issuer on P-256 that signs with SHA-1", |d| {
        d.issuer().key = Key::P256(0);
        d.leaf().scheme = Some(Scheme::Ecdsa(Hash::Sha1));
    }),
    knob("issuer signed with SHA-1", |d| {
        d.issuer().scheme = Some(Scheme::RsaPkcs1(Hash::Sha1))
    }),
    knob("issuer signed by a stranger", |d| {
        d.issuer().signed_with = Some(keys::STRANGE_ROOT)
    }),
    knob("issuer that permits the name", |d| {
        d.issuer().extensions.push(name_constraints(0, "amazonaws.com"))
    }),
    knob("issuer that permits other names only", |d| {
        d.issuer().extensions.push(name_constraints(0, "example.com"));
    }),
    knob("issuer that excludes the name", |d| {
        d.issuer().extensions.push(name_constraints(1, "amazonaws.com"))
    }),
    knob("issuer that permits other names only, a common name alone", |d| {
        d.leaf().alt_names = None;
        d.issuer().extensions.push(name_constraints(0, "example.com"));
    }),
    knob("issuer that permits the name, a common name alone", |d| {
        d.leaf().alt_names = None;
        d.issuer().extensions.push(name_constraints(0, "amazonaws.com"));
    }),
    knob("issuer that demands an explicit policy", |d| {
        let value = der::sequence(&[der::context_primitive(0, &[0])]);
        d.issuer().extensions.push(standard(36, true, value));
    }),
    knob("issuer with an extension twice", |d| {
        d.issuer().extensions = vec![Extension::unknown(false), Extension::unknown(false)];
    }),
    // --- longer chains ---
    knob("an authority more", |d| middle(d, |_| {})),
    knob("an authority more, without keyCertSign", |d| {
        middle(d, |m| m.key_usage = Some(vec![KeyUsage::DigitalSignature]));
    }),
    knob("an authority more, expired", |d| middle(d, |m| m.not_after = -1)),
    knob("an authority more, for code signing", |d| {
        middle(d, |m| m.purposes = Some(vec![Purpose::CodeSigning]));
    }),
    knob("an authority more, without pathlen", |d| {
        middle(d, |m| m.constraints = authority(None))
    }),
    knob("an authority more, that excludes the name", |d| {
        middle(d, |m| m.extensions.push(name_constraints(1, "amazonaws.com")));
    }),
    // --- the anchor ---
    knob("anchored at the cross-signed root", |d| {
        d.anchor = Anchor::CrossRoot
    }),
    knob("anchored at the oldest root", |d| d.anchor = Anchor::OldestRoot),
    knob("anchored at the issuer", |d| d.anchor = Anchor::Issuer),
    knob("anchored elsewhere", |d| d.anchor = Anchor::Strange),
    knob("root expired", |d| d.root().not_after = -DAY),
    knob("root not yet valid", |d| d.root().not_before = DAY),
    knob("root that is no authority", |d| {
        d.root().constraints = Some(BasicConstraints {
            authority: false,
            path_length: None,
            critical: true,
        });
    }),
    knob("root without basicConstraints", |d| d.root().constraints = None),
    knob("root with a pathlen too short", |d| {
        d.root().constraints = authority(Some(0))
    }),
    knob("root without keyUsage", |d| d.root().key_usage = None),
    knob("root without keyCertSign", |d| {
        d.root().key_usage = Some(vec![KeyUsage::DigitalSignature])
    }),
    knob("root for clients only", |d| {
        d.root().purposes = Some(vec![Purpose::ClientAuth])
    }),
    knob("root with an unknown critical extension", |d| {
        d.root().extensions.push(Extension::unknown(true))
    }),
    knob("root that excludes the name", |d| {
        d.root().extensions.push(name_constraints(1, "amazonaws.com"))
    }),
    knob("root whose own signature is broken", |d| {
        d.root().break_signature = true
    }),
    knob("root signed with SHA-1", |d| {
        d.root().scheme = Some(Scheme::RsaPkcs1(Hash::Sha1))
    }),
    knob("root of 1024 bits", |d| d.root().key = Key::Rsa1024),
    knob("root of 4096 bits", |d| d.root().key = Key::Rsa4096),
    // --- the PEM text ---
    knob("text between the certificates", |d| {
        d.served
            .push(|pem| pem.replace("-----BEGIN", "subject=CN = x\n\n-----BEGIN"));
    }),
    knob("no line feed behind the last certificate", |d| {
        d.served.push(|pem| pem.trim_end().to_owned())
    }),
    knob("spaces behind the lines", |d| {
        d.served.push(|pem| pem.replace('\n', "  \n"))
    }),
    knob("base64 in one line", |d| {
        d.served.push(|pem| {
            let joined = pem.replace('\n', "");
            joined
                .replace("-----BEGIN CERTIFICATE-----", "\n-----BEGIN CERTIFICATE-----\n")
                .replace("-----END", "\n-----END")
        });
    }),
    knob("a certificate that is no DER behind the leaf", |d| {
        d.served.push(|pem| {
            let end = "-----END CERTIFICATE-----\n";
            pem.replacen(
                end,
                &format!("{end}-----BEGIN CERTIFICATE-----\nMAMCAQE=\n{end}"),
                1,
            )
        });
    }),
    knob("a private key behind the leaf", |d| {
        d.served
            .push(|pem| format!("{pem}-----BEGIN PRIVATE KEY-----\nMAMCAQE=\n-----END PRIVATE KEY-----\n"));
    }),
    knob("the issuer before the leaf", |d| d.scene.signer.served.swap(0, 1)),
    knob("eleven certificates", |d| {
        d.scene.signer.served.resize(11, Part::Unrelated)
    }),
    knob("ten certificates", |d| {
        d.scene.signer.served.resize(10, Part::Unrelated)
    }),
    knob("the last certificate cut off", |d| {
        d.served.push(|pem| {
            let keep = pem.len() - 100;
            pem[..keep].to_owned()
        });
    }),
];

pub(crate) const STAPLE: &[Knob] = &[
    // --- the response ---
    knob("no answer", |d| d.response().singles.clear()),
    knob("malformed request, it says", |d| d.response().status = 1),
    knob("internal error, it says", |d| d.response().status = 2),
    knob("signature required, it says", |d| d.response().status = 5),
    knob("unauthorized, it says", |d| d.response().status = 6),
    knob("an unknown status, it says", |d| d.response().status = 7),
    knob("produced in an hour", |d| d.response().produced_at = 3600),
    knob("signed with SHA-384", |d| {
        d.response().scheme = Some(Scheme::RsaPkcs1(Hash::Sha384))
    }),
    knob("signed with SHA-512", |d| {
        d.response().scheme = Some(Scheme::RsaPkcs1(Hash::Sha512))
    }),
    knob("signed with SHA-1 by the issuer", |d| {
        d.response().scheme = Some(Scheme::RsaPkcs1(Hash::Sha1))
    }),
    knob("signed with PSS by the issuer", |d| {
        d.response().scheme = Some(Scheme::RsaPss {
            hash: Hash::Sha256,
            salt: 32,
        });
    }),
    knob("signed with PSS and an odd salt by the issuer", |d| {
        d.response().scheme = Some(Scheme::RsaPss {
            hash: Hash::Sha256,
            salt: 20,
        });
    }),
    knob("named by another's name", |d| {
        d.response().responder_id = ResponderId::WrongName
    }),
    knob("named by another's name, by a delegate", |d| {
        d.delegate(|_| {});
        d.response().responder_id = ResponderId::WrongName;
    }),
    knob("an unknown extension of the response", |d| {
        d.response().extensions.push(Extension::unknown(false))
    }),
    knob("a nonce that nobody asked for", |d| {
        d.response().extensions.push(Extension {
            oid: vec![1, 3, 6, 1, 5, 5, 7, 48, 1, 2],
            critical: false,
            value: der::octets(&[7; 16]),
        });
    }),
    knob("an unknown extension of the answer", |d| {
        d.single().extensions.push(Extension::unknown(false))
    }),
    knob("an unknown critical extension of the answer", |d| {
        d.single().extensions.push(Extension::unknown(true))
    }),
    // --- the answer ---
    knob("certID by SHA-384", |d| d.single().hash = Hash::Sha384),
    knob("certID by SHA-512", |d| d.single().hash = Hash::Sha512),
    knob("both hashes wrong", |d| {
        (d.single().wrong_name_hash, d.single().wrong_key_hash) = (true, true)
    }),
    knob("number with a byte more", |d| {
        d.single().serial = Some(vec![1; 17])
    }),
    knob("revoked in an hour", |d| {
        d.single().status = Status::Revoked(3600)
    }),
    knob("revoked a year ago", |d| {
        d.single().status = Status::Revoked(-365 * DAY)
    }),
    knob("good, then revoked", |d| {
        d.response().singles.push(Single {
            status: Status::Revoked(-60),
            ..Single::good()
        });
    }),
    knob("revoked, then good", |d| {
        d.single().status = Status::Revoked(-60);
        d.response().singles.push(Single::good());
    }),
    knob("good by SHA-1, revoked by SHA-256", |d| {
        d.response().singles.push(Single {
            hash: Hash::Sha256,
            status: Status::Revoked(-60),
            ..Single::good()
        });
    }),
    knob("ended by SHA-1, good by SHA-256", |d| {
        (d.single().this_update, d.single().next_update) = (-2 * DAY, Some(-DAY));
        d.response().singles.push(Single {
            hash: Hash::Sha256,
            ..Single::good()
        });
    }),
    knob("thirty answers for others first", |d| others(d, 30)),
    knob("thirty-three answers", |d| others(d, 32)),
    knob("began seven minutes ahead", |d| d.single().this_update = 420),
    knob("began three minutes ahead", |d| d.single().this_update = 180),
    knob("ended seven minutes ago", |d| d.single().next_update = Some(-420)),
    knob("ended three minutes ago", |d| d.single().next_update = Some(-180)),
    knob("ends before it begins, both within the tolerance", |d| {
        (d.single().this_update, d.single().next_update) = (120, Some(-120));
    }),
    knob("began a year ago", |d| d.single().this_update = -365 * DAY),
    // --- the delegate ---
    knob("delegate for servers too", |d| {
        d.delegate(|c| c.purposes = Some(vec![Purpose::ServerAuth, Purpose::OcspSigning]));
    }),
    knob("delegate for servers only", |d| {
        d.delegate(|c| c.purposes = Some(vec![Purpose::ServerAuth]))
    }),
    knob("delegate for any purpose", |d| {
        d.delegate(|c| c.purposes = Some(vec![Purpose::Any]))
    }),
    knob("delegate for no purpose", |d| {
        d.delegate(|c| c.purposes = Some(Vec::new()))
    }),
    knob("delegate not yet valid", |d| d.delegate(|c| c.not_before = 3600)),
    knob("delegate that is an authority", |d| {
        d.delegate(|c| c.constraints = authority(None))
    }),
    knob("delegate without basicConstraints", |d| {
        d.delegate(|c| c.constraints = None)
    }),
    knob("delegate without keyUsage", |d| {
        d.delegate(|c| c.key_usage = None)
    }),
    knob("delegate for encipherment only", |d| {
        d.delegate(|c| c.key_usage = Some(vec![KeyUsage::KeyEncipherment]));
    }),
    knob("delegate for no use", |d| {
        d.delegate(|c| c.key_usage = Some(Vec::new()))
    }),
    knob("delegate without the no-check extension", |d| {
        d.delegate(|c| c.extensions.clear())
    }),
    knob("delegate with an unknown critical extension", |d| {
        d.delegate(|c| c.extensions.push(Extension::unknown(true)));
    }),
    knob("delegate of 1024 bits", |d| d.delegate(|c| c.key = Key::Rsa1024)),
    knob("delegate of 2047 bits", |d| d.delegate(|c| c.key = Key::Rsa2047)),
    knob("delegate of 4096 bits", |d| d.delegate(|c| c.key = Key::Rsa4096)),
    knob("delegate signed with SHA-1", |d| {
        d.delegate(|c| c.scheme = Some(Scheme::RsaPkcs1(Hash::Sha1)));
    }),
    knob("delegate with a broken signature", |d| {
        d.delegate(|c| c.break_signature = true)
    }),
    knob("delegate that names another issuer", |d| {
        d.delegate(|c| c.issuer_name = Some(name("Somebody Else")));
    }),
    knob("delegate with the issuer's name", |d| {
        let issuer = d.scene.signer.issuers[0].subject.clone();
        d.delegate(|c| c.subject = issuer);
        d.response().responder_id = ResponderId::Name;
    }),
    knob("delegate, and the issuer embedded too", |d| {
        d.delegate(|_| {});
        d.response().with_issuer = true;
    }),
    knob("delegate on P-256 that signs with SHA-384", |d| {
        *d.response() = Response::delegated(Key::P256(1));
        d.response().scheme = Some(Scheme::Ecdsa(Hash::Sha384));
    }),
    knob("delegate on P-256 that signs with SHA-1", |d| {
        *d.response() = Response::delegated(Key::P256(1));
        d.response().scheme = Some(Scheme::Ecdsa(Hash::Sha1));
    }),
    knob("the leaf as its own delegate", |d| {
        let leaf = d.leaf().clone();
        d.response().responder = Responder::Delegate(Box::new(leaf));
    }),
    knob("impostor named by name", |d| {
        d.response().responder = Responder::Impostor(keys::STRANGER);
        d.response().responder_id = ResponderId::Name;
    }),
    // --- who issued ---
    knob("issuer's key on P-256", |d| d.issuer().key = Key::P256(2)),
    knob("issuer's key of 4096 bits", |d| d.issuer().key = Key::Rsa4096),
    knob("root's key on P-384", |d| d.root().key = Key::P384(1)),
];

fn others(draft: &mut Draft, count: u8) {
    for number in 0..count {
        let other = Single {
            serial: Some(vec![2, number + 1]),
            ..Single::good()
        };
        draft.response().singles.insert(0, other);
    }
}

/// ssh-ed25519, another than [`KEY_LINE`], made by ssh-keygen.
const OTHER_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGhJKvIPFZnT/ELYPYqf4oFX6Qe/2nvtk8uPJl6nHJoJ";
const ECDSA_KEY: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBKF9VgxhQXTHoXiE+H3c6AzH/xcwGz3zGvjYXgYsdEnOj6ljaBAI8Rsu6vhX/f6JX7gcfZnqqhAn4XtEgNPDuzk=";

fn other() -> Record {
    Record::new(INSTANCE, OTHER_KEY).caller("arn:aws:iam::123456789012:user/bob")
}

fn pss(hash: Hash, salt: usize) -> Scheme {
    Scheme::RsaPss { hash, salt }
}

pub(crate) const RECORD: &[Knob] = &[
    // --- the signature ---
    knob("no salt", |d| d.record().scheme = pss(Hash::Sha256, 0)),
    knob("a salt of 31 bytes", |d| {
        d.record().scheme = pss(Hash::Sha256, 31)
    }),
    knob("a salt of 33 bytes", |d| {
        d.record().scheme = pss(Hash::Sha256, 33)
    }),
    knob("the longest salt", |d| d.record().scheme = pss(Hash::Sha256, 222)),
    knob("signed with SHA-384", |d| {
        d.record().scheme = pss(Hash::Sha384, 48)
    }),
    knob("signed with SHA-512 and a salt of 32 bytes", |d| {
        d.record().scheme = pss(Hash::Sha512, 32)
    }),
    knob("first bit of the signature flipped", |d| {
        d.record().flip = Some(0)
    }),
    knob("last bit of the signature flipped", |d| {
        d.record().flip = Some(2047)
    }),
    knob("signature in lines of one character", |d| {
        d.record().wrap = Some(1)
    }),
    knob("signature in lines of 64", |d| d.record().wrap = Some(64)),
    knob("signature in two lines, the second of one character", |d| {
        d.record().wrap = Some(343)
    }),
    knob("a word behind the signature", |d| {
        d.document.push(|text| replace(text, "\n\n", "\nsignature\n\n"))
    }),
    knob("a space behind the signature", |d| {
        d.document.push(|text| replace(text, "\n\n", " \n\n"))
    }),
    knob("a tab before the signature", |d| {
        d.document
            .push(|text| replace(text, &format!("{KEY_LINE}\n"), &format!("{KEY_LINE}\n\t")));
    }),
    knob("signature without its padding", |d| {
        d.document.push(|text| replace(text, "==\n", "\n"))
    }),
    knob("a byte more in the signature", |d| {
        d.document.push(|text| replace(text, "==\n", "AA==\n"))
    }),
    knob("signer's key of 3072 bits", |d| d.leaf().key = Key::Rsa3072),
    knob("signer's key of 4096 bits", |d| d.leaf().key = Key::Rsa4096),
    knob("the forger changed the instance", |d| {
        d.headers(|r| r.without("#Instance").header("#Instance=i-0fedcba9876543210"));
        d.record().forged = Some(("i-0fedcba9876543210".to_owned(), INSTANCE.to_owned()));
    }),
    knob("the forger changed the key", |d| {
        d.record().forged = Some((KEY_LINE.to_owned(), OTHER_KEY.to_owned()));
    }),
    knob("the forger changed an unknown header", |d| {
        d.headers(|r| r.header("#Novel=a"));
        d.record().forged = Some(("#Novel=a".to_owned(), "#Novel=b".to_owned()));
    }),
    // --- the headers ---
    knob("headers in another order", |d| {
        let record = d.record();
        record.headers.reverse();
    }),
    knob("a header without a value", |d| d.headers(|r| r.header("#"))),
    knob("a header of 4000 characters", |d| {
        d.headers(|r| r.header(&format!("#Long={}", "x".repeat(4000))))
    }),
    knob("a header with a tab behind it", |d| {
        d.headers(|r| r.header("#Novel=x\t"))
    }),
    knob("a header with a backslash", |d| {
        d.headers(|r| r.header(r"#Novel=a\nb\"))
    }),
    knob("a caller with letters that are no ASCII", |d| {
        d.headers(|r| r.without("#Caller").caller("arn:aws:iam::1:user/J\u{f6}rg"));
    }),
    knob("a caller with a percent sign", |d| {
        d.headers(|r| r.without("#Caller").caller("100%s%n"))
    }),
    knob("two callers", |d| {
        d.headers(|r| r.caller("arn:aws:iam::1:user/mallory"))
    }),
    knob("two requests", |d| d.headers(|r| r.request("x"))),
    knob("timestamp with a plus sign", |d| timestamp(d, "+9999999999")),
    knob("timestamp with leading zeros", |d| timestamp(d, "0009999999999")),
    knob("timestamp in hexadecimal", |d| timestamp(d, "0xffffffff")),
    knob("timestamp in words", |d| timestamp(d, "tomorrow")),
    knob("timestamp with a fraction", |d| timestamp(d, "9999999999.5")),
    knob("timestamp with a space before it", |d| {
        timestamp(d, " 9999999999")
    }),
    knob("timestamp with a space behind it", |d| {
        timestamp(d, "9999999999 ")
    }),
    knob("timestamp below zero", |d| timestamp(d, "-1")),
    knob("timestamp of zero", |d| timestamp(d, "0")),
    knob("timestamp empty", |d| timestamp(d, "")),
    knob("timestamp beyond 64 bits", |d| {
        timestamp(d, "99999999999999999999")
    }),
    knob("timestamp with its name in small letters", |d| {
        d.headers(|r| r.without("#Timestamp").header("#timestamp=9999999999"));
    }),
    knob("instance in capitals", |d| {
        d.headers(|r| {
            r.without("#Instance")
                .header(&format!("#Instance={}", INSTANCE.to_uppercase()))
        });
    }),
    knob("instance with a space behind it", |d| {
        d.headers(|r| r.without("#Instance").header(&format!("#Instance={INSTANCE} ")));
    }),
    knob("instance with a space before the line", |d| {
        d.headers(|r| r.without("#Instance").header(&format!(" #Instance={INSTANCE}")));
    }),
    knob("the right instance, then another", |d| {
        d.headers(|r| r.header("#Instance=i-0fedcba9876543210"))
    }),
    knob("another instance, then the right one", |d| {
        d.headers(|r| {
            r.without("#Instance")
                .header("#Instance=i-0fedcba9876543210")
                .header(&format!("#Instance={INSTANCE}"))
        });
    }),
    // --- the key line ---
    knob("key with a comment", |d| {
        d.record().key_line = format!("{KEY_LINE} alice@laptop")
    }),
    knob("key with a space behind it", |d| {
        d.record().key_line = format!("{KEY_LINE} ")
    }),
    knob("key with two spaces", |d| {
        d.record().key_line = KEY_LINE.replace(' ', "  ")
    }),
    knob("key of another type than it says", |d| {
        d.record().key_line = KEY_LINE.replace("ssh-ed25519", "ssh-rsa")
    }),
    knob("key cut short", |d| {
        d.record().key_line = KEY_LINE[..KEY_LINE.len() - 4].to_owned()
    }),
    knob("key with bytes behind it", |d| {
        d.record().key_line = format!("{KEY_LINE}AAAA")
    }),
    knob("key that is none", |d| {
        d.record().key_line = "ssh-ed25519 none".to_owned()
    }),
    knob("key of an unknown type", |d| {
        d.record().key_line = KEY_LINE.replace("ed25519", "ed448")
    }),
    knob("key on P-256", |d| d.record().key_line = ECDSA_KEY.to_owned()),
    knob("key with a command before it", |d| {
        d.record().key_line = format!("command=\"id\" {KEY_LINE}")
    }),
    knob("key with an environment behind the type", |d| {
        d.record().key_line = KEY_LINE.replace("ssh-ed25519 ", "ssh-ed25519,environment=\"A=b\" ");
    }),
    // --- the question ---
    knob("sshd asks about this key", |d| {
        d.fingerprint = Some(crate::common::case::SHA256)
    }),
    knob("sshd asks about this key by MD5", |d| {
        d.fingerprint = Some(crate::common::case::MD5)
    }),
    knob("sshd asks about another key", |d| {
        d.fingerprint = Some("SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    }),
    // --- the document ---
    knob("two records", |d| d.scene.records.push(other())),
    knob("the same record twice", |d| {
        let record = d.record().clone();
        d.scene.records.push(record);
    }),
    knob("an expired record first", |d| {
        d.scene.records.insert(0, other().expires(-10))
    }),
    knob("another instance's record first", |d| {
        d.scene
            .records
            .insert(0, Record::new("i-0fedcba9876543210", OTHER_KEY));
    }),
    knob("a record with a bad signature first", |d| {
        let mut bad = other();
        bad.flip = Some(77);
        d.scene.records.insert(0, bad);
    }),
    knob("a record without a signature first", |d| {
        let mut bad = other();
        bad.unsigned = true;
        d.scene.records.insert(0, bad);
    }),
    knob("a record with a malformed key first", |d| {
        d.scene
            .records
            .insert(0, Record::new(INSTANCE, "ssh-ed25519 none"));
    }),
    knob("a record with a timestamp in words first", |d| {
        d.scene
            .records
            .insert(0, other().without("#Timestamp").header("#Timestamp=soon"));
    }),
    knob("a record whose signature is no base64 behind", |d| {
        d.scene.records.push(other());
        d.document.push(|text| {
            let mut text = text;
            let at = text.len() - 20;
            text[at] = b'*';
            text
        });
    }),
    knob("a line of rubbish first", |d| {
        d.document.push(|text| [b"rubbish\n\n".to_vec(), text].concat());
    }),
    knob("no line feed at the end", |d| {
        d.document.push(|text| text.trim_ascii_end().to_vec())
    }),
    knob("one line feed at the end", |d| {
        d.document.push(|text| [text.trim_ascii_end(), b"\n"].concat());
    }),
    knob("blank lines first", |d| {
        d.document.push(|text| [b"\n\n\n".to_vec(), text].concat())
    }),
    knob("many blank lines between records", |d| {
        d.scene.records.push(other());
        d.document.push(|text| replace(text, "\n\n", "\n\n\n\n\n"));
    }),
    knob("no blank line between records", |d| {
        d.scene.records.push(other());
        d.document.push(|text| replace(text, "\n\n", "\n"));
    }),
    knob("a blank line before the signature", |d| {
        d.document
            .push(|text| replace(text, &format!("{KEY_LINE}\n"), &format!("{KEY_LINE}\n\n")));
    }),
    knob("carriage returns", |d| d.record().line_end = "\r\n"),
    knob("a zero byte in a header", |d| {
        d.headers(|r| r.header("#Novel=a\0b"))
    }),
    knob("a byte that is no UTF-8 behind the last record", |d| {
        d.document.push(|text| [text, b"\xff\n".to_vec()].concat());
    }),
];

fn timestamp(draft: &mut Draft, value: &str) {
    draft.headers(|record| {
        record
            .without("#Timestamp")
            .header(&format!("#Timestamp={value}"))
    });
}

fn replace(text: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    String::from_utf8(text).unwrap().replace(from, to).into_bytes()
}
