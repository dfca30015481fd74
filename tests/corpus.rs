//! Every input of the committed corpus through the fuzz targets, on the stable compiler: what fuzzing once found
//! stays found. `tests/fuzz/run` fuzzes; docs/FUZZING.md says how.
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

#[path = "fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use targets::{capture, decision, evidence, history, http, sshd};

/// The committed inputs of a target; and where EIC_FUZZ_LEARNT names the directory of what fuzzing has learnt, as
/// `tests/fuzz/coverage` does, those too.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target);
    let learnt = std::env::var_os("EIC_FUZZ_LEARNT").map(|directory| PathBuf::from(directory).join(target));
    let mut inputs = Vec::new();
    for directory in std::iter::once(committed).chain(learnt.filter(|directory| directory.is_dir())) {
        let entries =
            fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let paths = entries.map(|entry| entry.unwrap().path());
        inputs.extend(paths.map(|path| (path.clone(), fs::read(path).unwrap())));
    }
    inputs.sort();
    assert!(!inputs.is_empty(), "{target} has no corpus");
    inputs
}

/// Runs `target` on each input; a failure says on which.
fn replay<T>(name: &str, target: impl Fn(&[u8]) -> T) -> Vec<(PathBuf, T)> {
    let run = |(path, input): (PathBuf, Vec<u8>)| {
        println!("{}", path.display());
        let outcome = target(&input);
        (path, outcome)
    };
    corpus(name).into_iter().map(run).collect()
}

/// The outcome of the input called `name`.
fn outcome(outcomes: &[(PathBuf, usize)], name: &str) -> usize {
    let found = outcomes
        .iter()
        .find(|(path, _)| path.file_name().is_some_and(|file| file == name));
    found.unwrap_or_else(|| panic!("the corpus has no {name}")).1
}

#[test]
fn corpus_of_requests_passes() {
    replay("request", targets::request);
}

#[test]
fn corpus_of_configurations_passes() {
    replay("config", targets::config);
}

#[test]
fn corpus_of_claims_passes_and_sound_ones_are_taken() {
    let outcomes = replay("claim", targets::claim);
    for (path, taken) in outcomes {
        let name = path.file_name().unwrap().to_str().unwrap();
        // The names of learnt inputs say nothing.
        if path.starts_with(env!("CARGO_MANIFEST_DIR")) {
            assert_eq!(taken, usize::from(name.starts_with("sound-")), "{name}");
        }
    }
}

#[test]
fn corpus_of_places_passes() {
    replay("place", targets::place);
}

#[test]
fn corpus_of_links_words_passes_and_sound_ones_become_arguments() {
    let outcomes = replay("link_words", targets::link::words);
    assert_eq!(outcome(&outcomes, "sound"), 4);
    assert_eq!(outcome(&outcomes, "hyphen"), 0);
    assert_eq!(outcome(&outcomes, "unknown-token"), 0);
    assert_eq!(outcome(&outcomes, "shell-text"), 0);
    assert_eq!(outcome(&outcomes, "missing"), 0);
    assert_eq!(outcome(&outcomes, "not-utf8"), 1);
}

#[test]
fn corpus_of_links_lines_passes_and_sound_ones_are_passed_on() {
    let outcomes = replay("link_lines", targets::link::lines);
    assert_eq!(outcome(&outcomes, "sound"), 2);
    assert_eq!(outcome(&outcomes, "unfinished"), 1);
    assert_eq!(outcome(&outcomes, "crlf"), 1);
    assert_eq!(outcome(&outcomes, "escape"), 0);
    assert_eq!(outcome(&outcomes, "nul"), 0);
    assert_eq!(outcome(&outcomes, "long-line"), 0);
    assert_eq!(outcome(&outcomes, "verdict"), 2);
}

#[test]
fn corpus_of_chains_passes() {
    replay("chain", targets::chain);
}

#[test]
fn corpus_of_staples_passes() {
    replay("staple", targets::staple);
}

#[test]
fn corpus_of_records_passes_and_gives_the_keys_that_were_signed() {
    let outcomes = replay("records", targets::records);
    assert_eq!(outcome(&outcomes, "sound"), 2);
    assert_eq!(outcome(&outcomes, "others"), 0);
    assert_eq!(outcome(&outcomes, "evil"), 0);
}

#[test]
fn corpus_of_decisions_passes_and_the_evidence_unchanged_gives_its_keys() {
    let outcomes = replay("decision", decision::decision);
    assert_eq!(outcome(&outcomes, "sound"), 2);
    assert_eq!(outcome(&outcomes, "evil-signer"), 0);
    assert_eq!(outcome(&outcomes, "revoked"), 0);
    assert_eq!(outcome(&outcomes, "delegated-staple"), 2);
    assert_eq!(outcome(&outcomes, "a-minute-later"), 1);
}

#[test]
fn corpus_of_answers_passes_and_sound_ones_come_through() {
    let outcomes = replay("http", http::http);
    assert!(outcome(&outcomes, "sound") >= 2);
}

#[test]
fn corpus_of_certificates_passes() {
    let outcomes = replay("pem", targets::pem);
    assert_eq!(outcome(&outcomes, "sound"), 3);
}

#[test]
fn corpus_of_described_certificates_and_staples_passes() {
    let outcomes = replay("describe", capture::describe);
    assert_eq!(outcome(&outcomes, "sound"), 3);
    assert_eq!(outcome(&outcomes, "leaf-ocsp"), 1);
}

#[test]
fn corpus_of_sshd_configurations_passes() {
    replay("sshd_config", sshd::config);
}

#[test]
fn corpus_of_machines_passes_and_what_is_nobodys_takes_a_step() {
    let outcomes = replay("sshd_plan", sshd::plan);
    for (machine, steps) in [
        ("debian", 1),
        ("no-directory", 2),
        ("no-include", 1),
        ("reference-override", 3),
        ("amazon-linux-2", 0),
        ("ours", 0),
        ("foreign", 0),
        ("amazons-line-twice", 0),
        ("amazons-lines-ahead-of-ours", 0),
        ("block-under-a-match", 1),
    ] {
        assert_eq!(outcome(&outcomes, machine), steps, "{machine}");
    }
}

#[test]
fn corpus_of_dumps_passes() {
    replay("sshd_dump", sshd::dump);
}

#[test]
fn corpus_of_units_passes() {
    replay("unit", sshd::unit);
}

#[test]
fn corpus_of_journals_passes_and_only_genuine_logins_are_seen() {
    let outcomes = replay("journal", history::journal);
    assert_eq!(outcome(&outcomes, "login"), 1);
    assert_eq!(outcome(&outcomes, "md5"), 1);
    assert_eq!(outcome(&outcomes, "linked"), 1);
    assert_eq!(outcome(&outcomes, "linked-forged"), 0);
    assert_eq!(outcome(&outcomes, "linked-other-key"), 0);
    assert_eq!(outcome(&outcomes, "forged"), 0);
    assert_eq!(outcome(&outcomes, "another-daemon"), 0);
}

#[test]
fn corpus_of_text_logs_passes_and_logins_are_seen() {
    let outcomes = replay("auth_log", history::auth_log);
    assert_eq!(outcome(&outcomes, "debian-openssh-9.2"), 1);
    assert_eq!(outcome(&outcomes, "debian-openssh-9.2-links"), 1);
    assert_eq!(outcome(&outcomes, "invalid-user"), 0);
}

#[test]
fn corpus_of_cloudtrail_files_passes_and_pushes_are_seen() {
    let outcomes = replay("cloudtrail", history::cloudtrail);
    assert_eq!(outcome(&outcomes, "push"), 1);
    assert_eq!(outcome(&outcomes, "gzip"), 1);
    assert_eq!(outcome(&outcomes, "looked-up"), 1);
    assert_eq!(outcome(&outcomes, "refused"), 0);
}

#[test]
fn corpus_of_times_passes() {
    replay("moment", history::moment);
}

#[test]
fn corpus_of_key_documents_is_redacted() {
    replay("redaction", capture::redaction);
}

#[test]
fn corpus_of_manifests_passes() {
    replay("manifest", capture::manifest);
}

#[test]
fn corpus_of_access_rules_passes_and_lets_in_whom_it_is_said_to() {
    let outcomes = replay("access", targets::access::access);
    for name in ["allowed", "user-of-the-account", "no-rules", "unnamed-caller"] {
        assert_eq!(outcome(&outcomes, name), 1, "{name}");
    }
    for name in [
        "other-network",
        "unknown-source",
        "session-named-like-a-role",
        "user-with-path",
        "denied",
        "quoted",
    ] {
        assert_eq!(outcome(&outcomes, name), 0, "{name}");
    }
}

/// A target that cargo test does not replay keeps nothing found.
#[test]
fn every_target_of_the_manifest_is_replayed_here() {
    let manifest: toml::Table = toml::from_str(include_str!("fuzz/Cargo.toml")).unwrap();
    for target in manifest["bin"].as_array().unwrap() {
        let name = target["name"].as_str().unwrap();
        let replayed = format!("replay(\"{name}\", ");
        assert!(
            include_str!("corpus.rs").contains(&replayed),
            "{name} is not replayed"
        );
    }
}

/// Fuzzing other versions of the dependencies would say little about the programs.
#[test]
fn the_targets_are_built_from_the_versions_that_ship() {
    let versions = |lock: &str| -> Vec<(String, String)> {
        let lock: toml::Table = toml::from_str(lock).unwrap();
        let word = |package: &toml::Value, name: &str| package[name].as_str().unwrap().to_owned();
        let packages = lock["package"].as_array().unwrap().iter();
        packages
            .map(|it| (word(it, "name"), word(it, "version")))
            .collect()
    };
    let shipped = versions(include_str!("../Cargo.lock"));
    for (name, version) in versions(include_str!("fuzz/Cargo.lock")) {
        let same = |it: &&(String, String)| it.0 == name;
        let mut known = shipped.iter().filter(same).peekable();
        assert!(
            known.peek().is_none() || known.any(|it| it.1 == version),
            "{name} {version} is not what ships: cp Cargo.lock tests/fuzz/Cargo.lock"
        );
    }
}

#[test]
fn the_evidence_that_is_committed_is_what_it_is_said_to_be() {
    assert_eq!(
        evidence::keys_of(evidence::RECORDS, evidence::INSTANCE, evidence::NOW),
        2
    );
    // Not for want of a sound signature does the other document give nothing here.
    assert_eq!(
        evidence::keys_of(evidence::OTHER_RECORDS, evidence::OTHER_INSTANCE, evidence::NOW),
        1
    );
    assert_eq!(
        evidence::keys_of(evidence::OTHER_RECORDS, evidence::INSTANCE, evidence::NOW - 2),
        1
    );
    assert_eq!(
        evidence::keys_of(evidence::OTHER_RECORDS, evidence::INSTANCE, evidence::NOW),
        0
    );
    assert_eq!(
        evidence::keys_of(evidence::EVIL_RECORDS, evidence::INSTANCE, evidence::NOW),
        0
    );
}

/// Makes the evidence and the seeds that consist of it. Signatures of records differ each time, so the corpus of
/// found inputs fits only the evidence beside it.
#[test]
#[ignore = "writes tests/fuzz/evidence and seeds of the corpus"]
fn make_the_evidence() {
    use eic_simulator::certificate::CertSpec;
    use eic_simulator::ocsp::{Responder, Response, Status};
    use eic_simulator::record::{self, Record};
    use eic_simulator::signer::{SignerSpec, keys};
    use evidence::{CALLERS, DAY, EVIL_KEY, HOST, INSTANCE, KEYS, LIFETIMES, NOW, OTHER_INSTANCE};

    let now = i64::try_from(NOW).unwrap();
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let write = |name: &str, content: &[u8]| {
        let path = fuzz.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let signer = SignerSpec::production(HOST).build(now);
    let (root, issuer, leaf) = (&signer.root, &signer.issuers[0], &signer.leaf);
    let evil_leaf = CertSpec::signer("attacker.example", keys::STRANGER).signed_by(issuer, now);
    let strange_leaf = CertSpec::signer(HOST, keys::STRANGER).signed_by(&signer.strange_root, now);
    for (name, der) in [
        ("root", &root.der),
        ("leaf", &leaf.der),
        ("issuer", &issuer.der),
        ("cross-root", &signer.cross_root.der),
        ("evil-leaf", &evil_leaf.der),
        ("strange-leaf", &strange_leaf.der),
        ("strange-root", &signer.strange_root.der),
    ] {
        write(&format!("evidence/{name}.der"), der);
    }

    let mut revoked = Response::good();
    revoked.singles[0].status = Status::Revoked(-60);
    let mut ended = Response::good();
    let day = i64::try_from(DAY).unwrap();
    (ended.singles[0].this_update, ended.singles[0].next_update) = (-9 * day, Some(-2 * day));
    let mut forged = Response::good();
    forged.responder = Responder::Impostor(keys::STRANGER);
    for (name, response, subject, by) in [
        ("leaf", Response::good(), leaf, issuer),
        (
            "leaf-delegated",
            Response::delegated(keys::RESPONDER),
            leaf,
            issuer,
        ),
        ("issuer", Response::good(), issuer, root),
        ("evil-leaf", Response::good(), &evil_leaf, issuer),
        ("leaf-revoked", revoked, leaf, issuer),
        ("leaf-ended", ended, leaf, issuer),
        ("leaf-forged", forged, leaf, issuer),
    ] {
        let der = response.build(subject, by, now);
        write(&format!("evidence/{name}.ocsp"), &der);
        write(&format!("corpus/staple/{name}"), &der);
    }

    let lives = LIFETIMES.map(|seconds| i64::try_from(seconds).unwrap());
    let record = |instance, key, expires, caller| Record::new(instance, key).expires(expires).caller(caller);
    let good = [
        record(INSTANCE, KEYS[0], lives[0], CALLERS[0]).request("c0ffee00-0000-4000-8000-000000000000"),
        record(INSTANCE, KEYS[1], lives[1], CALLERS[1]),
    ];
    let others = [
        record(OTHER_INSTANCE, EVIL_KEY, lives[1], CALLERS[1]),
        record(INSTANCE, EVIL_KEY, -1, CALLERS[1]),
    ];
    let evil = [record(INSTANCE, EVIL_KEY, lives[1], CALLERS[0])];
    let documents = [
        ("sound", "records", record::document(&good, leaf.spec.key, now)),
        (
            "others",
            "other-records",
            record::document(&others, leaf.spec.key, now),
        ),
        (
            "evil",
            "evil-records",
            record::document(&evil, keys::STRANGER, now),
        ),
    ];
    for (seed, name, document) in documents {
        write(&format!("evidence/{name}"), &document);
        write(&format!("corpus/records/{seed}"), &document);
    }
    let pem = |parts: &[&[u8]]| {
        parts
            .iter()
            .flat_map(|der| evidence::pem(der))
            .collect::<Vec<u8>>()
    };
    write(
        "corpus/chain/sound",
        &pem(&[&leaf.der, &issuer.der, &signer.cross_root.der]),
    );
    write("corpus/chain/evil", &pem(&[&evil_leaf.der, &issuer.der]));
    write(
        "corpus/chain/strange",
        &pem(&[&strange_leaf.der, &signer.strange_root.der]),
    );
}
