//! An independent judge of what we judge: OpenSSL's command line for chains, staples and signatures, and, where
//! `REFERENCE` names the directory that holds them, Amazon's own scripts for key documents.
//!
//! Every change alone, then pairs of changes that a seed chooses, go before both judges, stage by stage. Every
//! disagreement must be explained in `docs/DISAGREEMENTS.md`, and everything explained there must occur.
//! `EIC_JUDGE_PAIRS` asks for more pairs than usual, `EIC_JUDGE_SEED` for others.
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

#[path = "../common/mod.rs"]
mod common;
mod draft;
mod knobs;
mod openssl;
mod reference;
mod reviewed;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ec2_instance_connect::config::OcspPolicy;
use ec2_instance_connect::file::Owner;
use ec2_instance_connect::instance::InstanceId;
use ec2_instance_connect::keys::{self, AuthorizedKey, Question};
use ec2_instance_connect::reason::Refusal;
use ec2_instance_connect::request::Fingerprint;
use ec2_instance_connect::trust::anchors::{AnchorSet, Source};
use ec2_instance_connect::trust::{Chain, TrustedSigner, VerifiedChain};
use eic_simulator::evidence::{HOST, INSTANCE, Touches};
use eic_simulator::signer::{Part, Signer};
use eic_simulator::{clock, record};
use pki_types::UnixTime;

use common::case::NOW;
use draft::{Anchor, Draft, Knob, Random};
use openssl::Desk;
use reviewed::{Disagreement, Reviewed, Stage, Stricter};

/// Pairs of changes for each stage, where nobody asks for more.
const PAIRS: usize = 80;

/// The reviewed list.
const LIST: &str = include_str!("../../docs/DISAGREEMENTS.md");

/// A draft, and what was changed to get it.
type Case = (Draft, Vec<&'static str>);

#[test]
fn openssl_agrees_on_chains_but_for_the_reviewed_differences() {
    with_openssl("chains", &[Stage::Chain, Stage::Strict], || {
        let mut changes = Knob::named(&[Touches::Leaf, Touches::LeafKey, Touches::Issuer, Touches::Chain]);
        changes.extend_from_slice(knobs::CHAIN);
        in_parallel(cases(&changes, pairs(), &[Part::Leaf]), judge_chain)
    });
}

#[test]
fn openssl_agrees_on_staples_but_for_the_reviewed_differences() {
    with_openssl("staples", &[Stage::Staple], || {
        let mut changes = Knob::named(&[Touches::LeafStaple]);
        changes.extend_from_slice(knobs::STAPLE);
        let mut all = cases(&changes, pairs(), &[Part::Leaf]);
        all.extend(cases(knobs::STAPLE, pairs() / 2, &[Part::Issuer(0)]));
        in_parallel(all, judge_staple)
    });
}

#[test]
fn openssl_agrees_on_signatures_of_records_but_for_the_reviewed_differences() {
    with_openssl("signatures of records", &[Stage::Record], || {
        in_parallel(record_cases(pairs() / 2), judge_record)
    });
}

#[test]
fn the_reference_agrees_on_key_documents_but_for_the_reviewed_differences() {
    let Some(scripts) = std::env::var_os("REFERENCE") else {
        // Not ours to distribute, so nobody is required to have them.
        println!("SKIPPED: the reference: REFERENCE does not name the directory of its scripts");
        eprintln!("SKIPPED: the reference: REFERENCE does not name the directory of its scripts");
        return;
    };
    let scripts = Path::new(&scripts);
    assert!(
        scripts.join("eic_parse_authorized_keys").exists(),
        "{scripts:?} has no eic_parse_authorized_keys"
    );
    let found = in_parallel(record_cases(0), |draft, knobs| {
        judge_by_reference(scripts, draft, knobs)
    });
    settle(&[Stage::Reference], &found, true);
}

// ---- the cases ----

fn pairs() -> usize {
    let asked = std::env::var("EIC_JUDGE_PAIRS").ok();
    asked.map_or(PAIRS, |number| {
        number.parse().expect("EIC_JUDGE_PAIRS is a number")
    })
}

/// The usual case, each change alone, and pairs.
fn cases(changes: &[Knob], pairs: usize, links: &[Part]) -> Vec<Case> {
    let seed = std::env::var("EIC_JUDGE_SEED").ok();
    let mut random = Random(seed.map_or(1, |seed| seed.parse().expect("EIC_JUDGE_SEED is a number")));
    let mut cases = Vec::new();
    for link in links {
        let usual = Draft {
            link: *link,
            ..Draft::usual()
        };
        cases.push((usual.clone(), Vec::new()));
        for change in changes {
            let mut draft = usual.clone();
            change.turn(&mut draft);
            cases.push((draft, vec![change.name]));
        }
        for _ in 0..pairs {
            let (first, second) = (random.below(changes.len()), random.below(changes.len()));
            if first != second {
                // In the order of the list: some changes find nothing to change where a later one has emptied it.
                let (first, second) = (&changes[first.min(second)], &changes[first.max(second)]);
                let mut draft = usual.clone();
                first.turn(&mut draft);
                second.turn(&mut draft);
                if draft.can_be_made() {
                    cases.push((draft, vec![first.name, second.name]));
                }
            }
        }
    }
    cases
}

fn record_cases(pairs: usize) -> Vec<Case> {
    let mut changes = Knob::named(&[Touches::Record]);
    changes.extend_from_slice(knobs::RECORD);
    cases(&changes, pairs, &[Part::Leaf])
}

// ---- the judgements ----

/// Verdicts that differ, if they do. `ours` and `theirs` are what each has against the case.
fn differ(stage: Stage, ours: Vec<String>, theirs: Vec<String>, knobs: &[&'static str]) -> Vec<Disagreement> {
    let (stricter, says) = match (ours.is_empty(), theirs.is_empty()) {
        (false, true) => (Stricter::We, ours),
        (true, false) => (Stricter::They, theirs),
        _ => return Vec::new(),
    };
    vec![Disagreement {
        stage,
        stricter,
        says,
        knobs: knobs.to_vec(),
    }]
}

fn objections<T>(verdict: &Result<T, Refusal>) -> Vec<String> {
    verdict
        .as_ref()
        .err()
        .map(|refusal| refusal.reason.code().to_owned())
        .into_iter()
        .collect()
}

fn at(now: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.unsigned_abs()))
}

/// The chain as `signer-cert/` would serve it.
fn served(draft: &Draft, signer: &Signer) -> String {
    draft
        .served
        .iter()
        .fold(signer.chain.clone(), |pem, change| change(pem))
}

fn anchor(draft: &Draft, signer: &Signer) -> String {
    let anchor = match draft.anchor {
        Anchor::Root => &signer.root,
        Anchor::CrossRoot => &signer.cross_root,
        Anchor::OldestRoot => &signer.oldest_root,
        Anchor::Issuer => &signer.issuers[0],
        Anchor::Strange => &signer.strange_root,
    };
    anchor.pem()
}

/// Our verdict on a chain.
fn verify(pem: &str, anchors: &Path, now: i64) -> Result<VerifiedChain, Refusal> {
    let chain = Chain::from_pem(pem.as_bytes())?;
    let anchors = AnchorSet::load(Source::File(anchors), Owner::RootOrSelf, &chain)?;
    chain.verify(&anchors, HOST, at(now))
}

fn judge_chain(draft: &Draft, knobs: &[&'static str]) -> Vec<Disagreement> {
    let desk = Desk::new();
    // Both judges are told the time, so it is always the same.
    let signer = draft.scene.signer.build(NOW);
    let pem = served(draft, &signer);
    desk.file("chain.pem", &pem);
    let anchors = desk.file("anchors.pem", anchor(draft, &signer));
    let ours = objections(&verify(&pem, &anchors, NOW));
    let theirs = desk.chain(HOST, NOW, false).err().unwrap_or_default();
    let sound = ours.is_empty() && theirs.is_empty();
    let mut found = differ(Stage::Chain, ours, theirs, knobs);
    if sound {
        let strict = desk.chain(HOST, NOW, true).err().unwrap_or_default();
        found.extend(differ(Stage::Strict, Vec::new(), strict, knobs));
    }
    found
}

fn judge_staple(draft: &Draft, knobs: &[&'static str]) -> Vec<Disagreement> {
    let desk = Desk::new();
    // `openssl ocsp` compares with the clock and cannot be told another time.
    let now = clock::now();
    let signer = draft.scene.signer.build(now);
    let staple = |about: Part, signer: &Signer| {
        let place = draft
            .scene
            .signer
            .staples
            .iter()
            .position(|staple| staple.about == about);
        signer.staples[place.unwrap()].1.clone()
    };
    let judged = staple(draft.link, &signer);
    desk.file("staple.der", &judged);
    desk.file("subject.pem", signer.part(draft.link).unwrap().pem());
    desk.file("issuer.pem", signer.issuer_of(draft.link).pem());
    let anchors = desk.file("anchors.pem", signer.root.pem());
    let chain = verify(&signer.chain, &anchors, now).expect("the chain is sound");
    let other = if draft.link == Part::Leaf {
        Part::Issuer(0)
    } else {
        Part::Leaf
    };
    let staples = [judged, staple(other, &signer)].map(|der| STANDARD.encode(der).into_bytes());
    let ours = TrustedSigner::prove(
        &chain,
        staples.iter().map(Vec::as_slice),
        OcspPolicy::Require,
        at(now),
    );
    differ(
        Stage::Staple,
        objections(&ours),
        desk.staple().err().unwrap_or_default(),
        knobs,
    )
}

/// The key document, and what we make of it.
fn judge_document(
    draft: &Draft,
    signer: &Signer,
    now: i64,
) -> (Vec<u8>, Vec<Result<AuthorizedKey, Refusal>>) {
    let desk = Desk::new();
    let anchors = desk.file("anchors.pem", signer.root.pem());
    let chain = verify(&signer.chain, &anchors, now).expect("the chain is sound");
    let staples: Vec<Vec<u8>> = signer
        .staples
        .iter()
        .map(|(_, der)| STANDARD.encode(der).into_bytes())
        .collect();
    let staples = staples.iter().map(Vec::as_slice);
    let trusted =
        TrustedSigner::prove(&chain, staples, OcspPolicy::Require, at(now)).expect("the staples are sound");
    let document = record::document(&draft.scene.records, signer.key(), now);
    let document = draft.document.iter().fold(document, |text, change| change(text));
    let question = Question {
        instance: &InstanceId::new(INSTANCE).unwrap(),
        fingerprint: draft.fingerprint.map(|text| Fingerprint::new(text).unwrap()),
        now: at(now),
    };
    let verdicts = keys::judge(&document, question, &trusted);
    (document, verdicts)
}

/// OpenSSL sees one signature; which bytes it is over is worked out here anew.
fn judge_record(draft: &Draft, knobs: &[&'static str]) -> Vec<Disagreement> {
    let signer = draft.scene.signer.build(NOW);
    let (document, verdicts) = judge_document(draft, &signer, NOW);
    let desk = Desk::new();
    desk.file("leaf.pem", signer.leaf.pem());
    desk.extract_key();
    let text = String::from_utf8_lossy(&document).into_owned();
    let texts: Vec<&str> = text
        .split("\n\n")
        .map(|record| record.trim_matches('\n'))
        .filter(|r| !r.is_empty())
        .collect();
    assert_eq!(
        texts.len(),
        verdicts.len(),
        "{knobs:?}: not the same records in {text:?}"
    );
    let mut found = Vec::new();
    for (text, ours) in texts.iter().zip(&verdicts) {
        let lines: Vec<&str> = text.split('\n').collect();
        let headers = lines.iter().take_while(|line| line.starts_with('#')).count();
        let (signed, signature) = lines.split_at((headers + 1).min(lines.len()));
        let signed: String = signed.iter().map(|line| format!("{line}\n")).collect();
        // As base64(1) --decode does, which the reference uses: line ends are skipped and nothing else is.
        let holds = STANDARD
            .decode(signature.concat())
            .is_ok_and(|signature| desk.signature(signed.as_bytes(), &signature));
        let theirs = if holds {
            Vec::new()
        } else {
            vec!["signature".to_owned()]
        };
        found.extend(differ(Stage::Record, objections(ours), theirs, knobs));
    }
    found
}

/// Which keys come out, and in which words. The script reads the clock.
fn judge_by_reference(scripts: &Path, draft: &Draft, knobs: &[&'static str]) -> Vec<Disagreement> {
    let now = clock::now();
    let signer = draft.scene.signer.build(now);
    let (document, verdicts) = judge_document(draft, &signer, now);
    let theirs = reference::keys(scripts, &signer, &document, draft.fingerprint);
    let refused = verdicts.iter().flat_map(objections).collect();
    let ours: Vec<String> = verdicts
        .iter()
        .flatten()
        .map(|key| key.line().to_owned())
        .collect();
    let contains = |all: &[String], some: &[String]| some.iter().all(|line| all.contains(line));
    let (stricter, says) = match (contains(&theirs, &ours), contains(&ours, &theirs)) {
        (true, true) => return Vec::new(),
        (true, false) => (Stricter::We, refused),
        (false, true) => (Stricter::They, vec!["fewer keys".to_owned()]),
        (false, false) => (Stricter::Neither, vec!["other lines".to_owned()]),
    };
    vec![Disagreement {
        stage: Stage::Reference,
        stricter,
        says,
        knobs: knobs.to_vec(),
    }]
}

// ---- the machinery ----

/// Runs `judge` over all cases on as many threads as there are processors.
fn in_parallel(
    cases: Vec<Case>,
    judge: impl Fn(&Draft, &[&'static str]) -> Vec<Disagreement> + Sync,
) -> Vec<Disagreement> {
    println!("{} cases", cases.len());
    let found = Mutex::new(Vec::new());
    let queue = Mutex::new(cases.into_iter());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((draft, knobs)) = next else { return };
                    let disagreements = judge(&draft, &knobs);
                    found.lock().unwrap().extend(disagreements);
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort();
    found
}

fn with_openssl(what: &str, stages: &[Stage], judge: impl FnOnce() -> Vec<Disagreement>) {
    let Some(version) = openssl::version() else {
        return common::skip(what, "there is no openssl");
    };
    let same = version.starts_with(openssl::REVIEWED);
    if !same {
        println!(
            "the list was reviewed for {}, this is {version}",
            openssl::REVIEWED
        );
    }
    settle(stages, &judge(), same);
}

/// Compares what was found with the reviewed list.
fn settle(stages: &[Stage], found: &[Disagreement], same_judge: bool) {
    // The usual case has no change and must be sound for everybody.
    assert!(
        found.iter().all(|d| !d.knobs.is_empty()),
        "the usual case: {found:?}"
    );
    let mut classes: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for d in found.iter().filter(|d| d.knobs.len() == 1) {
        classes
            .entry((d.stage, d.stricter, &d.says))
            .or_default()
            .insert(d.knobs[0]);
    }
    for (class, knobs) in &classes {
        println!("{class:?}: {knobs:?}");
    }
    let wrong = Reviewed::read(LIST).compare(stages, found, same_judge);
    assert!(
        wrong.is_empty(),
        "docs/DISAGREEMENTS.md does not say what was found:\n{wrong}"
    );
}
