//! OpenSSL's command line judges every named variation. Where its verdict is not ours, the reason stands here.

use base64::{Engine, engine::general_purpose::STANDARD};
use eic_simulator::certificate::{Cert, pem};
use eic_simulator::clock;
use eic_simulator::evidence::{Evidence, HOST, Scene, VARIATIONS};
use eic_simulator::signer::Signer;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

const NOT_ITS_BUSINESS: &str = "OpenSSL sees the signature, not what the record says";

/// Variations on which OpenSSL differs, and why.
const DIFFERENCES: &[(&str, &str)] = &[
    (
        "leaf of 2047 bits",
        "OpenSSL rounds its strength up to the 112 bits it asks for; we count bits",
    ),
    (
        "issuer whose basicConstraints are not critical",
        "with -x509_strict, a CA must mark them critical; RFC 5280 says the same of the CA, not of the verifier",
    ),
    (
        "issuer without keyUsage",
        "with -x509_strict, a CA must have one; RFC 5280 section 6.1.4 (n) asks for keyCertSign where there is one",
    ),
    (
        "leaf with a wildcard",
        "a TLS client takes wildcards; the signer's name is one exact name",
    ),
    (
        "leaf with two common names",
        "OpenSSL takes any of them; one that fits does not make the other true",
    ),
    (
        "staple without an end",
        "RFC 6960 leaves nextUpdate out for 'newer always available'; no staple is that",
    ),
    (
        "staple with a critical unknown extension",
        "OpenSSL does not look at extensions of a response",
    ),
    (
        "staple with bytes behind it",
        "OpenSSL stops reading where the response ends",
    ),
    (
        "staple signed with SHA-1",
        "the command line still takes SHA-1 there",
    ),
    ("record expired", NOT_ITS_BUSINESS),
    ("record that expires now", NOT_ITS_BUSINESS),
    ("record for another instance", NOT_ITS_BUSINESS),
    ("record without a timestamp", NOT_ITS_BUSINESS),
    ("record without an instance", NOT_ITS_BUSINESS),
    ("record with two instances", NOT_ITS_BUSINESS),
    ("record with two timestamps", NOT_ITS_BUSINESS),
    ("record whose key has options", NOT_ITS_BUSINESS),
];

#[test]
fn openssl_agrees_on_every_variation_but_the_listed_ones() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: openssl is not installed");
        return;
    }
    let now = clock::now();
    assert!(accepts(&Scene::usual(), now), "the usual scene");
    let mut wrong = Vec::new();
    for variation in VARIATIONS {
        let mut scene = Scene::usual();
        (variation.apply)(&mut scene);
        let agrees = accepts(&scene, now) == variation.sound;
        let listed = DIFFERENCES.iter().any(|(name, _)| *name == variation.name);
        if agrees == listed {
            wrong.push(format!("{}: agrees {agrees}, listed {listed}", variation.name));
        }
    }
    for (name, _) in DIFFERENCES {
        assert!(
            VARIATIONS.iter().any(|v| v.name == *name),
            "{name} is no variation"
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether OpenSSL finds chain, one staple for each of leaf and issuer, and one record's signature good.
fn accepts(scene: &Scene, now: i64) -> bool {
    let evidence = scene.build(now);
    // signatures are repeatable but for the record's, so this is the same signer
    let signer = scene.signer.build(now);
    let desk = Desk(TempDir::new().expect("a directory"));
    chain(&desk, &evidence, &signer)
        && staple(&desk, &evidence, &signer.leaf, &signer.issuers[0])
        && staple(
            &desk,
            &evidence,
            &signer.issuers[0],
            signer.issuers.get(1).unwrap_or(&signer.root),
        )
        && record(&desk, &evidence, &signer)
}

fn chain(desk: &Desk, evidence: &Evidence, signer: &Signer) -> bool {
    let roots: String = evidence.roots.iter().map(|der| pem("CERTIFICATE", der)).collect();
    let roots = desk.file("roots.pem", roots);
    let served = desk.file("chain.pem", &evidence.signer_cert);
    let leaf = desk.file("leaf.pem", signer.leaf.pem());
    desk.openssl(&[
        "verify",
        "-x509_strict",
        "-no-CApath",
        "-no-CAstore",
        "-CAfile",
        &roots,
        "-untrusted",
        &served,
        "-purpose",
        "sslserver",
        "-verify_hostname",
        HOST,
        "-auth_level",
        "2",
        &leaf,
    ])
    .0
}

fn staple(desk: &Desk, evidence: &Evidence, subject: &Cert, issuer: &Cert) -> bool {
    let subject = desk.file("subject.pem", subject.pem());
    let issuer = desk.file("issuer.pem", issuer.pem());
    evidence.staples.iter().any(|(_, der)| {
        let response = desk.file("response.der", der);
        ["-sha1", "-sha256"].iter().any(|digest| {
            let (ran, said) = desk.openssl(&[
                "ocsp",
                digest,
                "-no_nonce",
                "-issuer",
                &issuer,
                "-cert",
                &subject,
                "-CAfile",
                &issuer,
                "-partial_chain",
                "-respin",
                &response,
            ]);
            // It prints "good" and a warning for an answer of the wrong time.
            ran && said.contains("Response verify OK") && said.contains(": good") && !said.contains("WARNING")
        })
    })
}

fn record(desk: &Desk, evidence: &Evidence, signer: &Signer) -> bool {
    let leaf = desk.file("leaf.pem", signer.leaf.pem());
    let public = desk.file(
        "public.pem",
        desk.openssl(&["x509", "-in", &leaf, "-noout", "-pubkey"]).1,
    );
    let text = String::from_utf8_lossy(&evidence.active_keys).into_owned();
    text.split("\n\n").any(|record| {
        let lines: Vec<&str> = record.lines().collect();
        let headers = lines.iter().take_while(|line| line.starts_with('#')).count();
        let Some((signed, signature)) = lines.split_at_checked(headers + 1) else {
            return false;
        };
        let Ok(signature) = STANDARD.decode(signature.concat()) else {
            return false;
        };
        let signed: String = signed.iter().map(|line| format!("{line}\n")).collect();
        let data = desk.file("data", signed);
        let signature = desk.file("signature", signature);
        desk.openssl(&[
            "dgst",
            "-sha256",
            "-sigopt",
            "rsa_padding_mode:pss",
            "-sigopt",
            "rsa_pss_saltlen:32",
            "-verify",
            &public,
            "-signature",
            &signature,
            &data,
        ])
        .0
    })
}

/// Where the files for one judgement lie.
struct Desk(TempDir);

impl Desk {
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::write(&path, content).expect("a writable directory");
        path.to_string_lossy().into_owned()
    }

    fn openssl(&self, arguments: &[&str]) -> (bool, String) {
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
}
