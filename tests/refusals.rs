//! For each defence of the proof, evidence in which only that defence's reason is present, and its twin without
//! it. In-process, so that the exact reason is seen; tests/helper.rs runs the shipped binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that fails shall say so at once"
)]

mod common;

use common::case::{Case, HOST, KEY_LINE, MD5, SHA256};
use ec2_instance_connect::config::{Anchors, Config, OcspPolicy};
use ec2_instance_connect::place::Partition;
use ec2_instance_connect::reason::Reason;
use eic_simulator::certificate::{
    AltName, Attribute, BasicConstraints, CertSpec, Extension, KeyUsage, Purpose,
};
use eic_simulator::clock::DAY;
use eic_simulator::key::{Hash, Key, Scheme};
use eic_simulator::ocsp::{Responder, ResponderId, Response, Single, Status};
use eic_simulator::record::Record;
use eic_simulator::signer::{Part, Staple, StapleName, keys};

/// The usual evidence gives its key; with `flaw` alone it is refused for `reason`.
fn refused(reason: Reason, flaw: impl FnOnce(&mut Case)) {
    let mut case = Case::usual();
    assert_eq!(case.verdict(), Ok(()), "the twin without the flaw");
    flaw(&mut case);
    assert_eq!(case.verdict(), Err(reason));
}

/// The usual evidence, changed in a way that does no harm, still gives its key.
fn accepted(change: impl FnOnce(&mut Case)) {
    let mut case = Case::usual();
    change(&mut case);
    assert_eq!(case.verdict(), Ok(()));
}

fn leaf_staple(case: &mut Case, change: impl FnOnce(&mut Response)) {
    staple(case, Part::Leaf, change);
}

fn staple(case: &mut Case, part: Part, change: impl FnOnce(&mut Response)) {
    case.signer = case
        .signer
        .clone()
        .staple(part, |staple| change(&mut staple.response));
}

fn single(case: &mut Case, change: impl FnOnce(&mut Single)) {
    leaf_staple(case, |response| change(&mut response.singles[0]));
}

// ---- the signer's name ----

#[test]
fn signer_of_another_domain_is_refused() {
    refused(Reason::SignerName, |case| {
        case.signer.leaf = CertSpec::signer("attacker.example", keys::LEAVES[0]);
    });
}

#[test]
fn signer_of_another_region_is_refused() {
    refused(Reason::SignerName, |case| {
        case.signer.leaf = CertSpec::signer("managed-ssh-signer.us-west-2.amazonaws.com", keys::LEAVES[0]);
    });
}

#[test]
fn common_name_posing_in_another_attribute_is_refused() {
    refused(Reason::SignerName, |case| {
        case.signer.leaf.alt_names = None;
        case.signer.leaf.subject = vec![
            (Attribute::Organization, format!("x CN = {HOST}")),
            (Attribute::CommonName, "attacker.example".to_owned()),
        ];
    });
    accepted(|case| {
        case.signer.leaf.alt_names = None;
        case.signer.leaf.subject = vec![
            (Attribute::Organization, "x".to_owned()),
            (Attribute::CommonName, HOST.to_owned()),
        ];
    });
}

#[test]
fn common_name_beside_a_foreign_san_is_refused() {
    for names in [
        vec![AltName::Dns("attacker.example".to_owned())],
        vec![AltName::Email(HOST.to_owned())],
        vec![],
    ] {
        refused(Reason::SignerName, |case| {
            case.signer.leaf.alt_names = Some(names)
        });
    }
}

#[test]
fn two_common_names_are_refused() {
    refused(Reason::SignerName, |case| {
        case.signer.leaf.alt_names = None;
        case.signer
            .leaf
            .subject
            .push((Attribute::AnotherCommonName, HOST.to_owned()));
    });
}

#[test]
fn wildcard_is_refused() {
    refused(Reason::SignerName, |case| {
        case.signer.leaf.alt_names = Some(vec![AltName::Dns("*.us-east-1.amazonaws.com".to_owned())]);
    });
}

#[test]
fn san_in_other_case_among_other_entries_without_a_common_name_is_accepted() {
    accepted(|case| {
        case.signer.leaf.subject = vec![(Attribute::Organization, "Amazon".to_owned())];
        case.signer.leaf.alt_names = Some(vec![
            AltName::Email("x@example.com".to_owned()),
            AltName::Uri("https://example.com".to_owned()),
            AltName::Ip(vec![127, 0, 0, 1]),
            AltName::Dns("other.example".to_owned()),
            AltName::Dns(HOST.to_ascii_uppercase()),
        ]);
    });
}

// ---- the signer's chain ----

#[test]
fn chain_to_a_strange_root_is_refused() {
    refused(Reason::SignerChain, |case| {
        case.signer.issuers[0].signed_with = Some(keys::STRANGE_ROOT)
    });
}

#[test]
fn signer_signed_by_a_stranger_is_refused() {
    refused(Reason::SignerChain, |case| {
        case.signer.leaf.signed_with = Some(keys::STRANGER)
    });
}

#[test]
fn broken_signature_on_a_certificate_is_refused() {
    refused(Reason::SignerChain, |case| {
        case.signer.leaf.break_signature = true
    });
    refused(Reason::SignerChain, |case| {
        case.signer.issuers[0].break_signature = true
    });
}

#[test]
fn missing_intermediate_is_refused() {
    refused(Reason::SignerChain, |case| case.signer.served = vec![Part::Leaf]);
}

#[test]
fn sha1_signature_on_a_certificate_is_refused() {
    refused(Reason::SignerChain, |case| {
        case.signer.leaf.scheme = Some(Scheme::RsaPkcs1(Hash::Sha1))
    });
}

#[test]
fn short_rsa_key_of_an_issuer_is_refused() {
    refused(Reason::SignerChain, |case| {
        case.signer.issuers[0].key = Key::Rsa1024
    });
}

#[test]
fn issuer_that_is_no_authority_is_refused() {
    for constraints in [
        None,
        Some(BasicConstraints {
            authority: false,
            path_length: None,
            critical: true,
        }),
    ] {
        refused(Reason::SignerChain, |case| {
            case.signer.issuers[0].constraints = constraints
        });
    }
}

#[test]
fn path_longer_than_its_constraint_is_refused() {
    let deepen = |case: &mut Case, path_length| {
        let mut middle = CertSpec::intermediate("Make-Believe Middle", keys::MIDDLE);
        middle.constraints = Some(BasicConstraints {
            authority: true,
            path_length,
            critical: true,
        });
        case.signer.issuers.push(middle);
        case.signer.served = vec![Part::Leaf, Part::Issuer(0), Part::Issuer(1)];
        case.signer.staples.push(Staple::good(Part::Issuer(1)));
    };
    refused(Reason::SignerChain, |case| deepen(case, Some(0)));
    accepted(|case| deepen(case, Some(1)));
}

#[test]
fn unknown_critical_extension_is_refused() {
    refused(Reason::SignerChain, |case| {
        case.signer.leaf.extensions.push(Extension::unknown(true))
    });
    refused(Reason::SignerChain, |case| {
        case.signer.issuers[0].extensions.push(Extension::unknown(true))
    });
    accepted(|case| case.signer.leaf.extensions.push(Extension::unknown(false)));
}

#[test]
fn issuer_without_key_cert_sign_is_refused() {
    refused(Reason::SignerUsage, |case| {
        case.signer.issuers[0].key_usage = Some(vec![KeyUsage::DigitalSignature, KeyUsage::CrlSign]);
    });
    accepted(|case| case.signer.issuers[0].key_usage = None);
}

#[test]
fn signer_without_digital_signature_is_refused() {
    refused(Reason::SignerUsage, |case| {
        case.signer.leaf.key_usage = Some(vec![KeyUsage::KeyEncipherment]);
    });
    accepted(|case| case.signer.leaf.key_usage = None);
}

#[test]
fn signer_for_another_purpose_is_refused() {
    for purposes in [
        vec![Purpose::ClientAuth],
        vec![Purpose::CodeSigning, Purpose::OcspSigning],
        vec![Purpose::Any],
    ] {
        refused(Reason::SignerUsage, |case| {
            case.signer.leaf.purposes = Some(purposes)
        });
    }
    accepted(|case| case.signer.leaf.purposes = Some(vec![Purpose::ServerAuth]));
    accepted(|case| case.signer.leaf.purposes = None);
}

#[test]
fn expired_and_future_certificates_are_refused() {
    refused(Reason::SignerExpired, |case| case.signer.leaf.not_after = -1);
    refused(Reason::SignerExpired, |case| case.signer.leaf.not_before = 60);
    refused(Reason::SignerExpired, |case| {
        case.signer.issuers[0].not_after = -1
    });
    refused(Reason::SignerExpired, |case| {
        case.signer.issuers[0].not_before = 60
    });
}

#[test]
fn signer_with_a_short_or_foreign_key_is_refused() {
    for key in [
        Key::Rsa1024,
        Key::Rsa1536,
        Key::Rsa2047,
        Key::P256(0),
        Key::P384(0),
    ] {
        refused(Reason::SignerKey, |case| {
            case.signer.leaf.key = key;
            // The record stays RSA-signed; the key's own rule is what must refuse.
            case.records[0].signed_with = Some(keys::LEAVES[0]);
        });
    }
    accepted(|case| case.signer.leaf.key = Key::Rsa3072);
    accepted(|case| case.signer.leaf.key = Key::Rsa4096);
}

#[test]
fn extra_shuffled_and_cross_signed_certificates_do_no_harm() {
    let all = [
        Part::Issuer(0),
        Part::CrossRoot,
        Part::CrossOldRoot,
        Part::Unrelated,
        Part::Root,
    ];
    for rotation in 0..all.len() {
        accepted(|case| {
            case.signer.served = vec![Part::Leaf];
            case.signer
                .served
                .extend(all.iter().cycle().skip(rotation).take(all.len()));
        });
    }
    accepted(|case| case.signer.served = vec![Part::Leaf, Part::Issuer(0), Part::Issuer(0)]);
}

#[test]
fn ecdsa_authorities_are_accepted() {
    accepted(|case| {
        case.signer.issuers[0].key = Key::P256(0);
        case.signer.root.key = Key::P384(0);
    });
}

#[test]
fn what_is_no_chain_is_malformed() {
    for pem in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n",
    ] {
        refused(Reason::SignerMalformed, |case| {
            case.signer_cert = Some(pem.into())
        });
    }
    refused(Reason::SignerMalformed, |case| {
        case.signer.served = vec![Part::Leaf; 11]
    });
}

#[test]
fn amazons_roots_do_not_hold_for_a_strangers_chain() {
    refused(Reason::SignerChain, |case| case.anchors = Some(Anchors::Amazon));
    refused(Reason::SignerChain, |case| case.anchors = Some(Anchors::Auto));
    refused(Reason::Anchors, |case| {
        case.anchors = Some(Anchors::File("/nonexistent/anchors.pem".into()))
    });
    refused(Reason::Anchors, |case| {
        case.anchors = Some(Anchors::File("/dev/null".into()))
    });
}

// ---- region and partition ----

#[test]
fn suffix_with_another_partitions_region_is_refused() {
    refused(Reason::Partition, |case| {
        case.domain = "amazonaws.com.cn".to_owned()
    });
    refused(Reason::Partition, |case| case.partition = Some(Partition::UsGov));
    refused(Reason::ImdsMalformed, |case| {
        case.region = "us-east-1a".to_owned()
    });
}

// ---- staples ----

#[test]
fn staple_signed_by_a_stranger_is_refused() {
    refused(Reason::StapleSignature, |case| {
        leaf_staple(case, |response| {
            response.responder = Responder::Impostor(keys::STRANGER)
        });
    });
    refused(Reason::StapleSignature, |case| {
        leaf_staple(case, |response| response.break_signature = true)
    });
    refused(Reason::StapleSignature, |case| {
        staple(case, Part::Issuer(0), |response| {
            response.responder = Responder::Impostor(keys::STRANGER)
        });
    });
}

#[test]
fn delegate_of_the_issuer_is_accepted_and_every_other_delegate_refused() {
    let delegate = || CertSpec::responder("Make-Believe OCSP Responder", keys::RESPONDER);
    let set = |case: &mut Case, responder| leaf_staple(case, |response| response.responder = responder);
    let refuse = |change: &dyn Fn(&mut CertSpec)| {
        refused(Reason::StapleSignature, |case| {
            let mut spec = delegate();
            change(&mut spec);
            set(case, Responder::Delegate(Box::new(spec)));
        });
    };
    accepted(|case| set(case, Responder::Delegate(Box::new(delegate()))));
    accepted(|case| {
        set(
            case,
            Responder::Delegate(Box::new(CertSpec {
                key_usage: None,
                ..delegate()
            })),
        );
    });
    accepted(|case| {
        set(
            case,
            Responder::Delegate(Box::new(CertSpec {
                key: Key::P256(1),
                ..delegate()
            })),
        )
    });
    refuse(&|spec| spec.purposes = None);
    refuse(&|spec| spec.purposes = Some(vec![Purpose::ServerAuth]));
    refuse(&|spec| spec.purposes = Some(vec![Purpose::Any]));
    refuse(&|spec| spec.key_usage = Some(vec![KeyUsage::KeyEncipherment]));
    refuse(&|spec| spec.not_after = -1);
    refuse(&|spec| spec.not_before = 60);
    refuse(&|spec| spec.signed_with = Some(keys::STRANGER));
    refuse(&|spec| spec.break_signature = true);
    refuse(&|spec| spec.extensions.push(Extension::unknown(true)));
    refuse(&|spec| spec.key = Key::Rsa1024);
    refused(Reason::StapleSignature, |case| {
        set(case, Responder::SelfSigned(Box::new(delegate())))
    });
    refused(Reason::StapleSignature, |case| {
        set(case, Responder::SignedBySubject(Box::new(delegate())))
    });
}

#[test]
fn weak_signatures_on_a_staple_are_refused_and_better_ones_accepted() {
    refused(Reason::StapleSignature, |case| {
        leaf_staple(case, |response| {
            response.scheme = Some(Scheme::RsaPkcs1(Hash::Sha1))
        });
    });
    for scheme in [
        Scheme::RsaPkcs1(Hash::Sha384),
        Scheme::RsaPkcs1(Hash::Sha512),
        Scheme::RsaPss {
            hash: Hash::Sha256,
            salt: 32,
        },
    ] {
        accepted(|case| leaf_staple(case, |response| response.scheme = Some(scheme)));
    }
}

#[test]
fn missing_staple_is_refused_unless_policy_says_otherwise() {
    for part in [Part::Leaf, Part::Issuer(0)] {
        refused(Reason::StapleMissing, |case| {
            case.signer.staples.retain(|staple| staple.about != part)
        });
    }
    accepted(|case| {
        case.signer.staples.clear();
        case.ocsp = OcspPolicy::IfPresent;
    });
}

#[test]
fn bad_staple_is_refused_even_if_none_is_required() {
    refused(Reason::StapleRevoked, |case| {
        case.ocsp = OcspPolicy::IfPresent;
        single(case, |single| single.status = Status::Revoked(-60));
    });
    refused(Reason::StapleSignature, |case| {
        case.ocsp = OcspPolicy::IfPresent;
        leaf_staple(case, |response| response.break_signature = true);
    });
}

#[test]
fn staple_for_another_certificate_is_none() {
    refused(Reason::StapleMissing, |case| {
        single(case, |single| single.wrong_name_hash = true)
    });
    refused(Reason::StapleMissing, |case| {
        single(case, |single| single.wrong_key_hash = true)
    });
    refused(Reason::StapleMissing, |case| {
        single(case, |single| single.serial = Some(vec![7]))
    });
    refused(Reason::StapleMissing, |case| {
        leaf_staple(case, |response| response.singles.clear())
    });
}

#[test]
fn cert_id_by_sha256_is_accepted_and_by_any_other_hash_unknown() {
    accepted(|case| single(case, |single| single.hash = Hash::Sha256));
    refused(Reason::StapleMissing, |case| {
        single(case, |single| single.hash = Hash::Sha384)
    });
}

#[test]
fn revoked_and_unknown_certificates_are_refused() {
    refused(Reason::StapleRevoked, |case| {
        single(case, |single| single.status = Status::Revoked(-3600))
    });
    refused(Reason::StapleUnknown, |case| {
        single(case, |single| single.status = Status::Unknown)
    });
    refused(Reason::StapleRevoked, |case| {
        staple(case, Part::Issuer(0), |response| {
            response.singles[0].status = Status::Revoked(-3600)
        });
    });
}

#[test]
fn revocation_outweighs_another_good_staple() {
    refused(Reason::StapleRevoked, |case| {
        let mut revoked = Staple::good(Part::Leaf);
        revoked.response.singles[0].status = Status::Revoked(-60);
        revoked.name = StapleName::Text("ZZ".to_owned());
        case.signer.staples.push(revoked);
    });
    // Not even time does: what was revoked once does not become good by waiting.
    refused(Reason::StapleRevoked, |case| {
        let mut revoked = Staple::good(Part::Leaf);
        revoked.response.singles[0] = Single {
            status: Status::Revoked(-30 * DAY),
            this_update: -20 * DAY,
            next_update: Some(-10 * DAY),
            ..Single::good()
        };
        revoked.name = StapleName::Text("ZZ".to_owned());
        case.signer.staples.push(revoked);
    });
    // Within one response too, in either order and by whichever hash the certificate is named.
    for hash in [Hash::Sha1, Hash::Sha256] {
        for place in [0, 1] {
            refused(Reason::StapleRevoked, |case| {
                let revoked = Single {
                    hash,
                    status: Status::Revoked(-60),
                    ..Single::good()
                };
                leaf_staple(case, |response| response.singles.insert(place, revoked));
            });
        }
    }
}

#[test]
fn staple_outside_its_window_is_stale_beyond_five_minutes() {
    refused(Reason::StapleStale, |case| {
        single(case, |single| single.this_update = 310)
    });
    accepted(|case| single(case, |single| single.this_update = 290));
    refused(Reason::StapleStale, |case| {
        single(case, |single| single.next_update = Some(-310))
    });
    accepted(|case| single(case, |single| single.next_update = Some(-290)));
    refused(Reason::StapleStale, |case| {
        single(case, |single| single.next_update = None)
    });
    refused(Reason::StapleStale, |case| {
        single(case, |single| {
            (single.this_update, single.next_update) = (120, Some(-120));
        });
    });
}

#[test]
fn response_that_is_not_a_staple_is_malformed() {
    refused(Reason::StapleMalformed, |case| {
        leaf_staple(case, |response| response.status = 3)
    });
    refused(Reason::StapleMalformed, |case| {
        leaf_staple(case, |response| response.trailing = vec![0])
    });
    refused(Reason::StapleMalformed, |case| {
        leaf_staple(case, |response| {
            response.extensions.push(Extension::unknown(true))
        });
    });
    refused(Reason::StapleMalformed, |case| {
        single(case, |single| single.extensions.push(Extension::unknown(true)))
    });
    accepted(|case| {
        leaf_staple(case, |response| {
            response.extensions.push(Extension::unknown(false))
        })
    });
}

#[test]
fn responder_id_is_not_compared() {
    for id in [ResponderId::Name, ResponderId::Key, ResponderId::WrongName] {
        accepted(|case| leaf_staple(case, |response| response.responder_id = id));
    }
}

#[test]
fn staples_of_any_name_and_of_certificates_off_the_path_do_no_harm() {
    accepted(|case| {
        for (number, staple) in case.signer.staples.iter_mut().enumerate() {
            staple.name = StapleName::Text(format!("any-name-{number}"));
        }
    });
    accepted(|case| {
        let mut off_path = Staple::good(Part::CrossRoot);
        off_path.response.singles[0].status = Status::Revoked(-60);
        off_path.response.break_signature = true;
        case.signer.staples.insert(0, off_path);
    });
    accepted(|case| {
        case.extra_staples
            .push(("junk".to_owned(), b"not base64!".to_vec()))
    });
}

// ---- records ----

fn record(case: &mut Case, change: impl FnOnce(Record) -> Record) {
    case.records = vec![change(case.records[0].clone())];
}

#[test]
fn record_for_another_instance_is_refused() {
    refused(Reason::RecordInstance, |case| {
        record(case, |_| Record::new("i-0fedcba9876543210", KEY_LINE));
    });
}

#[test]
fn record_counts_until_the_second_before_its_timestamp() {
    refused(Reason::RecordExpired, |case| {
        record(case, |record| record.expires(0))
    });
    refused(Reason::RecordExpired, |case| {
        record(case, |record| record.expires(-DAY))
    });
    accepted(|case| record(case, |record| record.expires(1)));
}

#[test]
fn record_without_timestamp_or_instance_is_malformed() {
    refused(Reason::RecordMalformed, |case| {
        record(case, |record| record.without("#Timestamp"))
    });
    refused(Reason::RecordMalformed, |case| {
        record(case, |record| record.without("#Instance"))
    });
    refused(Reason::RecordMalformed, |case| {
        record(case, |record| record.header("#Timestamp=99999999999"))
    });
    refused(Reason::RecordMalformed, |case| {
        record(case, |record| Record {
            unsigned: true,
            ..record
        });
    });
    refused(Reason::RecordMalformed, |case| {
        record(case, |record| Record {
            line_end: "\r\n",
            ..record
        })
    });
}

#[test]
fn forged_records_are_refused() {
    let forge = |from: &str, to: &str| {
        refused(Reason::RecordSignature, |case| {
            record(case, |record| Record {
                forged: Some((from.to_owned(), to.to_owned())),
                ..record
            });
        });
    };
    forge(
        "#Caller=arn:aws:sts::123456789012:assumed-role/Ops/alice",
        "#Caller=arn:aws:iam::1:root",
    );
    forge("#Request=", "#Requests=");
    refused(Reason::RecordSignature, |case| {
        record(case, |record| Record {
            signed_with: Some(keys::STRANGER),
            ..record
        });
    });
    refused(Reason::RecordSignature, |case| {
        record(case, |record| Record {
            flip: Some(0),
            ..record
        })
    });
}

#[test]
fn only_pss_with_sha256_and_a_salt_of_32_bytes_is_a_signature() {
    for scheme in [
        Scheme::RsaPss {
            hash: Hash::Sha256,
            salt: 0,
        },
        Scheme::RsaPss {
            hash: Hash::Sha256,
            salt: 20,
        },
        Scheme::RsaPss {
            hash: Hash::Sha256,
            salt: 33,
        },
        Scheme::RsaPss {
            hash: Hash::Sha1,
            salt: 32,
        },
        Scheme::RsaPss {
            hash: Hash::Sha512,
            salt: 32,
        },
        Scheme::RsaPkcs1(Hash::Sha256),
    ] {
        refused(Reason::RecordSignature, |case| {
            record(case, |record| Record { scheme, ..record })
        });
    }
}

#[test]
fn signed_key_line_that_is_no_bare_key_is_refused() {
    for line in [
        format!("restrict {KEY_LINE}"),
        format!("command=\"/bin/sh\" {KEY_LINE}"),
        format!("{KEY_LINE}AAAA"),
        KEY_LINE.replace("ssh-ed25519 ", "ssh-rsa "),
        "ssh-ed25519 AAAA".to_owned(),
    ] {
        refused(Reason::RecordKey, |case| {
            record(case, |record| Record {
                key_line: line,
                ..record
            })
        });
    }
    accepted(|case| {
        record(case, |record| Record {
            key_line: format!("{KEY_LINE} alice@laptop"),
            ..record
        })
    });
}

#[test]
fn other_key_than_sshd_asks_about_is_refused() {
    let other = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    refused(Reason::Fingerprint, |case| case.fingerprint = Some(other));
    refused(Reason::Fingerprint, |case| {
        case.fingerprint = Some("MD5:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00")
    });
    accepted(|case| case.fingerprint = Some(SHA256));
    accepted(|case| case.fingerprint = Some(MD5));
}

#[test]
fn unknown_header_lines_are_signed_and_ignored() {
    accepted(|case| {
        record(case, |record| {
            record.header("#Future=anything at all").header("#")
        })
    });
    accepted(|case| {
        record(case, |record| Record {
            wrap: Some(64),
            ..record
        })
    });
    accepted(|case| record(case, |record| record.without("#Caller").without("#Request")));
}

#[test]
fn bad_record_costs_its_neighbours_nothing() {
    let mut case = Case::usual();
    let good = case.records[0].clone();
    case.records = vec![
        good.clone().expires(-1),
        good.clone().without("#Instance"),
        good.clone(),
        Record {
            flip: Some(9),
            ..good.clone()
        },
        Record {
            key_line: "nonsense".to_owned(),
            ..good.clone()
        },
        Record::new("i-0fedcba9876543210", KEY_LINE),
        good,
    ];
    let verdicts: Vec<_> = case
        .judge()
        .unwrap()
        .into_iter()
        .map(|verdict| verdict.map(|_| ()))
        .collect();
    let reasons: Vec<_> = verdicts
        .iter()
        .map(|verdict| verdict.as_ref().map_err(|refusal| refusal.reason))
        .collect();
    assert_eq!(
        reasons,
        [
            Err(Reason::RecordExpired),
            Err(Reason::RecordMalformed),
            Ok(&()),
            Err(Reason::RecordSignature),
            Err(Reason::RecordKey),
            Err(Reason::RecordInstance),
            Ok(&()),
        ]
    );
}

#[test]
fn final_newline_and_blank_lines_around_a_record_may_be_absent_or_many() {
    let mut case = Case::usual();
    let document = case.document();
    let bare = document.trim_ascii_end().to_vec();
    for text in [
        bare.clone(),
        [b"\n\n\n".to_vec(), bare.clone(), b"\n\n\n\n".to_vec()].concat(),
        [bare, b"\n".to_vec()].concat(),
    ] {
        case.active_keys = Some(text);
        assert_eq!(case.verdict(), Ok(()));
    }
}

#[test]
fn record_says_who_pushed_it() {
    let key = Case::usual().judge().unwrap().remove(0).unwrap();
    assert_eq!(key.line(), KEY_LINE);
    assert_eq!(
        key.caller(),
        Some("arn:aws:sts::123456789012:assumed-role/Ops/alice")
    );
    assert_eq!(key.request_id(), Some("c0ffee00-0000-4000-8000-000000000000"));
    assert_eq!(key.fingerprint().to_string(), SHA256);
}

// ---- bits ----

/// Flips each bit in turn (a stride apart, so that the test stays short) and wants no key.
fn no_flipped_bit_gives_a_key(
    what: &str,
    stride: usize,
    mut case: Case,
    set: impl Fn(&mut Case, Vec<u8>),
    bytes: Vec<u8>,
) {
    case.prebuilt = Some(case.built_signer());
    case.active_keys = Some(case.document());
    set(&mut case, bytes.clone());
    assert_eq!(case.verdict(), Ok(()), "{what} unchanged");
    for bit in (0..bytes.len() * 8).step_by(stride) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        set(&mut case, flipped);
        assert!(
            case.verdict().is_err(),
            "{what}: bit {bit} flipped, and a key came out"
        );
    }
}

#[test]
fn one_bit_flipped_anywhere_in_the_certificates_is_refused() {
    let mut case = Case::usual();
    // Leaf and intermediate alone: every bit counts.
    case.signer.served = vec![Part::Leaf, Part::Issuer(0)];
    let signer = case.built_signer();
    let certificates = [&signer.leaf, &signer.issuers[0]];
    for (position, name) in ["leaf", "intermediate"].into_iter().enumerate() {
        let others: Vec<_> = certificates.iter().map(|cert| cert.der.clone()).collect();
        let set = |case: &mut Case, der: Vec<u8>| {
            let mut chain = others.clone();
            chain[position] = der;
            let pem: String = chain
                .iter()
                .map(|der| eic_simulator::certificate::pem("CERTIFICATE", der))
                .collect();
            case.signer_cert = Some(pem);
        };
        no_flipped_bit_gives_a_key(name, 3, case.clone(), set, certificates[position].der.clone());
    }
}

#[test]
fn one_bit_flipped_anywhere_in_a_staple_is_refused() {
    for (delegated, stride) in [(false, 1), (true, 3)] {
        let mut case = Case::usual();
        if delegated {
            leaf_staple(&mut case, |response| {
                *response = Response::delegated(keys::RESPONDER)
            });
        }
        let staples = case.built_signer().staples;
        let leaf = staples[0].1.clone();
        let set = |case: &mut Case, der: Vec<u8>| {
            let mut staples = staples.clone();
            staples[0].1 = der;
            case.staples = Some(staples);
        };
        no_flipped_bit_gives_a_key(
            if delegated { "delegated staple" } else { "staple" },
            stride,
            case,
            set,
            leaf,
        );
    }
}

#[test]
fn one_bit_flipped_anywhere_in_the_record_is_refused() {
    let case = Case::usual();
    let document = case.document();
    let end = document.trim_ascii_end().len();
    let set = |case: &mut Case, text: Vec<u8>| case.active_keys = Some(text);
    no_flipped_bit_gives_a_key("record", 1, case, set, document[..end].to_vec());
}

#[test]
fn configuration_of_the_tests_differs_from_the_default_only_in_its_anchors() {
    let config = Case::usual().config();
    let anchors = config.trust.anchors.clone();
    assert_eq!(
        Config {
            trust: ec2_instance_connect::config::Trust {
                anchors: Anchors::Auto,
                ..config.trust.clone()
            },
            owner: Config::default().owner,
            ..config
        },
        Config::default()
    );
    assert!(matches!(anchors, Anchors::File(_)));
}
