//! OpenSSL's command line, as an independent judge, accepts the evidence that the simulator makes.

use eic_simulator::certificate::Cert;
use eic_simulator::key::{Hash, Key, RECORD_SCHEME, Scheme};
use eic_simulator::ocsp::{Responder, Response, Status};
use eic_simulator::record::Record;
use eic_simulator::signer::{Part, Signer, SignerSpec, Staple, keys};
use eic_simulator::{clock, record};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const HOST: &str = "managed-ssh-signer.us-east-1.amazonaws.com";

/// Whether there is an openssl to ask; says loudly when there is not.
fn openssl_is_missing() -> bool {
    let missing = Command::new("openssl").arg("version").output().is_err();
    if missing {
        eprintln!("SKIPPED: openssl is not installed");
    }
    missing
}

fn openssl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl")
        .args(arguments)
        .output()
        .expect("openssl runs");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn file(directory: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, content).expect("a writable directory");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn verify_chain(signer: &Signer) -> (bool, String) {
    let directory = TempDir::new().expect("a directory");
    let root = file(&directory, "root.pem", signer.root.pem());
    let leaf = file(&directory, "leaf.pem", signer.leaf.pem());
    let chain = file(&directory, "chain.pem", &signer.chain);
    openssl(&[
        "verify",
        "-x509_strict",
        "-no-CApath",
        "-no-CAstore",
        "-CAfile",
        text(&root),
        "-untrusted",
        text(&chain),
        "-purpose",
        "sslserver",
        "-verify_hostname",
        HOST,
        text(&leaf),
    ])
}

fn verify_staple(subject: &Cert, issuer: &Cert, response: &Response) -> (bool, String) {
    let directory = TempDir::new().expect("a directory");
    let der = response.build(subject, issuer, clock::now());
    let response_digest = response.singles.first().map(|single| single.hash);
    let response = file(&directory, "response.der", der);
    let issuer = file(&directory, "issuer.pem", issuer.pem());
    let subject = file(&directory, "subject.pem", subject.pem());
    // openssl looks for a certID of the digest it is told to expect
    let digest = match response_digest {
        Some(Hash::Sha256) => "-sha256",
        _ => "-sha1",
    };
    let (ran, said) = openssl(&[
        "ocsp",
        digest,
        "-no_nonce",
        "-issuer",
        text(&issuer),
        "-cert",
        text(&subject),
        "-CAfile",
        text(&issuer),
        "-partial_chain",
        "-respin",
        text(&response),
    ]);
    (
        ran && said.contains("Response verify OK") && said.contains(": good"),
        said,
    )
}

#[test]
fn production_shaped_chain_is_accepted() {
    if openssl_is_missing() {
        return;
    }
    let (accepted, said) = verify_chain(&SignerSpec::production(HOST).build(clock::now()));
    assert!(accepted, "{said}");
}

#[test]
fn chain_verifies_by_the_cross_signed_root_too() {
    if openssl_is_missing() {
        return;
    }
    let mut signer = SignerSpec::production(HOST).build(clock::now());
    signer.root = signer.oldest_root.clone();
    let (accepted, said) = verify_chain(&signer);
    assert!(accepted, "{said}");
}

#[test]
fn elliptic_chain_is_accepted() {
    if openssl_is_missing() {
        return;
    }
    let mut spec = SignerSpec::plain(HOST);
    spec.root.key = Key::P384(0);
    spec.issuers[0].key = Key::P256(0);
    let (accepted, said) = verify_chain(&spec.build(clock::now()));
    assert!(accepted, "{said}");
}

#[test]
fn chain_with_a_broken_signature_is_refused() {
    if openssl_is_missing() {
        return;
    }
    let mut spec = SignerSpec::production(HOST);
    spec.leaf.break_signature = true;
    let (accepted, said) = verify_chain(&spec.build(clock::now()));
    assert!(!accepted, "{said}");
}

#[test]
fn chain_for_another_region_is_refused() {
    if openssl_is_missing() {
        return;
    }
    let (accepted, said) = verify_chain(&SignerSpec::production(&HOST.replace('1', "2")).build(clock::now()));
    assert!(!accepted, "{said}");
}

#[test]
fn staples_by_issuer_and_by_delegate_are_accepted_under_every_scheme() {
    if openssl_is_missing() {
        return;
    }
    let signer = SignerSpec::production(HOST).build(clock::now());
    let schemes = [Hash::Sha256, Hash::Sha384, Hash::Sha512].map(Scheme::RsaPkcs1);
    let by_issuer = schemes.map(|scheme| Response {
        scheme: Some(scheme),
        ..Response::good()
    });
    let mut sha256_id = Response::good();
    sha256_id.singles[0].hash = Hash::Sha256;
    let delegated = [keys::RESPONDER, Key::P256(0), Key::P384(0)].map(Response::delegated);
    for response in by_issuer.iter().chain([&sha256_id]).chain(&delegated) {
        for part in [Part::Leaf, Part::Issuer(0), Part::CrossRoot] {
            let subject = signer.part(part).expect("it is there");
            let (accepted, said) = verify_staple(subject, signer.issuer_of(part), response);
            assert!(accepted, "{part:?} {response:?}: {said}");
        }
    }
}

#[test]
fn staples_that_lie_are_refused() {
    if openssl_is_missing() {
        return;
    }
    let signer = SignerSpec::production(HOST).build(clock::now());
    let change = |edit: &dyn Fn(&mut Response)| {
        let mut response = Response::good();
        edit(&mut response);
        response
    };
    let mut no_purpose = Response::delegated(keys::RESPONDER);
    if let Responder::Delegate(spec) = &mut no_purpose.responder {
        spec.purposes = None;
    }
    let lies = [
        change(&|r| r.singles[0].status = Status::Revoked(-60)),
        change(&|r| r.singles[0].status = Status::Unknown),
        change(&|r| r.singles[0].wrong_key_hash = true),
        change(&|r| r.singles[0].serial = Some(vec![1])),
        change(&|r| r.singles[0].next_update = Some(-3600)),
        change(&|r| r.break_signature = true),
        change(&|r| r.status = 6),
        change(&|r| r.responder = Responder::Impostor(keys::STRANGER)),
        no_purpose,
    ];
    for lie in &lies {
        let (accepted, said) = verify_staple(&signer.leaf, &signer.issuers[0], lie);
        assert!(!accepted, "{lie:?}: {said}");
    }
}

#[test]
fn record_signature_is_accepted_with_a_salt_of_32_bytes_and_no_other() {
    if openssl_is_missing() {
        return;
    }
    use base64::{Engine, engine::general_purpose::STANDARD};
    let signer = SignerSpec::plain(HOST).build(clock::now());
    let verdict = |scheme: Scheme| {
        let mut record = Record::new("i-0123456789abcdef0", "ssh-ed25519 AAAA").caller("arn:aws:iam::1:root");
        record.scheme = scheme;
        let text_of = String::from_utf8(record.render(signer.key(), clock::now())).expect("ASCII");
        let (signed, signature) = text_of.trim_end().rsplit_once('\n').expect("several lines");
        let directory = TempDir::new().expect("a directory");
        let data = file(&directory, "data", format!("{signed}\n"));
        let signature = file(
            &directory,
            "signature",
            STANDARD.decode(signature).expect("base64"),
        );
        let leaf = file(&directory, "leaf.pem", signer.leaf.pem());
        let (_, public) = openssl(&["x509", "-in", text(&leaf), "-noout", "-pubkey"]);
        let public = file(&directory, "public.pem", public);
        openssl(&[
            "dgst",
            "-sha256",
            "-sigopt",
            "rsa_padding_mode:pss",
            "-sigopt",
            "rsa_pss_saltlen:32",
            "-verify",
            text(&public),
            "-signature",
            text(&signature),
            text(&data),
        ])
        .0
    };
    assert!(verdict(RECORD_SCHEME));
    assert!(!verdict(Scheme::RsaPss {
        hash: Hash::Sha256,
        salt: 31
    }));
    assert!(!verdict(Scheme::RsaPss {
        hash: Hash::Sha1,
        salt: 20
    }));
    assert!(!verdict(Scheme::RsaPkcs1(Hash::Sha256)));
}

#[test]
fn served_staples_are_named_after_their_certificates() {
    let mut spec = SignerSpec::production(HOST);
    spec.staples.push(Staple::good(Part::Unrelated));
    let signer = spec.build(clock::now());
    let names: Vec<&str> = signer.staples.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        &signer.leaf,
        &signer.issuers[0],
        &signer.cross_root,
        &signer.unrelated,
    ];
    assert_eq!(names, expected.map(|cert| cert.fingerprint(Hash::Sha1)));
    assert_eq!(record::KEY_LIFETIME, 60);
}
