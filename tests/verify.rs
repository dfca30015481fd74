//! `verify` and `capture`: evidence judged again at another time, on a machine that is no instance.
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

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::case::{Case, INSTANCE, KEY_LINE, NOW, SHA256};
use eic_simulator::record::Record;
use eic_simulator::signer::Part;
use eic_simulator::{Simulator, World};
use serde_json::Value;

const TOOL: &str = env!("CARGO_BIN_EXE_ec2-instance-connect");
const USER: &str = "ec2-user";
const OTHER: &str = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";

fn tool(words: &[&str]) -> Output {
    Command::new(TOOL).args(words).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A captured directory, and the simulator's root to trust.
struct Captured {
    directory: tempfile::TempDir,
    output: Output,
}

impl Captured {
    fn new(simulator: &Simulator, more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::copy(simulator.root_pem(), directory.path().join("root.pem")).unwrap();
        let config = simulator.config_file();
        let path = directory.path().join("capture");
        let words = [
            "capture",
            path.to_str().unwrap(),
            "--user",
            USER,
            "--config",
            config.to_str().unwrap(),
        ];
        let output = tool(&[&words, more].concat());
        Self { directory, output }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("capture")
    }

    fn manifest(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path().join("manifest.json")).unwrap()).unwrap()
    }

    fn verify(&self, more: &[&str]) -> Output {
        let anchors = self.directory.path().join("root.pem");
        let path = self.path();
        let words = [
            "verify",
            path.to_str().unwrap(),
            "--json",
            "--anchors",
            anchors.to_str().unwrap(),
        ];
        tool(&[&words, more].concat())
    }

    /// The exit status, and the reason for everything or for the first record.
    fn verdict(&self, more: &[&str]) -> (i32, Option<String>) {
        let output = self.verify(more);
        let report = json(&output);
        let reason = report["refusal"]["reason"]
            .as_str()
            .or_else(|| report["records"][0]["reason"].as_str());
        (output.status.code().unwrap(), reason.map(str::to_owned))
    }
}

fn simulator() -> Simulator {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    simulator.push(USER, KEY_LINE);
    simulator
}

fn refused(reason: &str) -> (i32, Option<String>) {
    (1, Some(reason.to_owned()))
}

#[test]
fn captured_evidence_holds_as_of_its_capture_and_not_at_any_other_time() {
    let captured = Captured::new(&simulator(), &[]);
    assert_eq!(captured.output.status.code(), Some(0), "{:?}", captured.output);
    // The instance is gone: only the files are left.
    assert_eq!(captured.verdict(&[]), (0, None));
    let at = captured.manifest()["captured_at"].as_i64().unwrap();
    assert_eq!(captured.verdict(&["--at", &format!("@{}", at + 5)]), (0, None));
    assert_eq!(
        captured.verdict(&["--at", &format!("@{}", at + 61)]),
        refused("record-expired")
    );
    let days = |days: i64| format!("@{}", at + days * 86_400);
    assert_eq!(captured.verdict(&["--at", &days(40)]), refused("staple-stale"));
    assert_eq!(
        captured.verdict(&["--at", &days(10_000)]),
        refused("signer-expired")
    );
    assert_eq!(
        captured.verdict(&["--at", &days(-10_000)]),
        refused("signer-expired")
    );
    assert_eq!(captured.verdict(&["--fingerprint", SHA256]), (0, None));
    assert_eq!(
        captured.verdict(&["--fingerprint", OTHER]),
        refused("fingerprint")
    );
    assert_eq!(
        captured.verdict(&["--instance-id", "i-0fedcba9876543210"]),
        refused("record-instance")
    );
    assert_eq!(
        captured.verdict(&["--region", "us-west-2"]),
        refused("signer-name")
    );
    assert_eq!(
        captured.verdict(&["--domain", "amazonaws.eu"]),
        refused("partition")
    );
}

#[test]
fn captures_own_word_on_anchors_and_policy_is_not_taken() {
    let captured = Captured::new(&simulator(), &[]);
    let path = captured.path();
    let trusting = captured.manifest()["settings"]["anchors"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(Path::new(&trusting).is_absolute(), "{trusting}");
    let output = tool(&["verify", path.to_str().unwrap(), "--json"]);
    assert_eq!(json(&output)["refusal"]["reason"], "signer-chain");
    assert_eq!(output.status.code(), Some(1));

    for staple in fs::read_dir(path.join("signer-ocsp")).unwrap() {
        fs::remove_file(staple.unwrap().path()).unwrap();
    }
    assert_eq!(captured.verdict(&[]), refused("staple-missing"));
    assert_eq!(captured.verdict(&["--ocsp-policy", "if-present"]), (0, None));
}

#[test]
fn changed_capture_is_refused() {
    let captured = Captured::new(&simulator(), &[]);
    let keys = captured.path().join("active-keys");
    let text = fs::read_to_string(&keys).unwrap();
    fs::write(&keys, text.replace("user/alice", "user/mallory")).unwrap();
    assert_eq!(captured.verdict(&[]), refused("record-signature"));
}

#[test]
fn capture_is_for_its_owner_alone_and_never_overwrites() {
    let simulator = simulator();
    let captured = Captured::new(&simulator, &[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&captured.path()), 0o700);
    assert_eq!(mode(&captured.path().join("signer-ocsp")), 0o700);
    let manifest = captured.manifest();
    assert_eq!(manifest["schema"], "ec2-instance-connect/capture/1");
    let documents = manifest["documents"].as_array().unwrap();
    assert!(documents.len() >= 7, "{manifest}");
    for document in documents {
        let path = captured.path().join(document["file"].as_str().unwrap());
        assert_eq!(mode(&path), 0o600, "{document}");
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            document["bytes"].as_u64().unwrap()
        );
    }
    let before = fs::read(captured.path().join("manifest.json")).unwrap();
    simulator.clear_requests();
    let path = captured.path();
    let again = tool(&[
        "capture",
        path.to_str().unwrap(),
        "--config",
        simulator.config_file().to_str().unwrap(),
    ]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert_eq!(fs::read(path.join("manifest.json")).unwrap(), before);
    assert!(
        simulator.requests().is_empty(),
        "it asked before it knew where to write"
    );
    // Nor through a link that somebody laid there.
    let link = captured.directory.path().join("link");
    std::os::unix::fs::symlink(captured.directory.path().join("elsewhere"), &link).unwrap();
    assert_eq!(tool(&["capture", link.to_str().unwrap()]).status.code(), Some(1));
    assert!(!captured.directory.path().join("elsewhere").exists());
}

#[test]
fn what_could_not_be_captured_is_in_the_manifest_and_the_rest_is_kept() {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let captured = Captured::new(&simulator, &[]);
    assert_eq!(captured.output.status.code(), Some(1));
    let manifest = captured.manifest();
    assert_eq!(manifest["problems"][0]["what"], "active-keys", "{manifest}");
    assert_eq!(manifest["problems"][0]["reason"], "no-key", "{manifest}");
    assert!(captured.path().join("signer-cert.pem").exists());
    assert_eq!(captured.verdict(&[]), refused("no-key"));
}

#[test]
fn host_that_is_no_instance_asks_nobody() {
    let simulator = simulator();
    fs::remove_dir_all(simulator.sysfs().join("devices")).unwrap();
    let captured = Captured::new(&simulator, &[]);
    assert_eq!(captured.output.status.code(), Some(1), "{:?}", captured.output);
    assert_eq!(captured.manifest()["problems"][0]["reason"], "not-ec2");
    assert!(simulator.requests().is_empty());
}

/// Every byte of every file, and every name.
fn everything(path: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        all += &format!("{}\n", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            all += &everything(&entry.path());
        } else {
            all += &String::from_utf8_lossy(&fs::read(entry.path()).unwrap());
        }
    }
    all
}

#[test]
fn redacted_capture_holds_no_key_no_signature_and_no_name_and_says_that_it_proves_nothing() {
    let simulator = simulator();
    let signature = String::from_utf8(simulator.document(USER).unwrap()).unwrap();
    let signature = signature
        .lines()
        .find(|line| line.len() > 100)
        .unwrap()
        .to_owned();
    let secrets = [
        KEY_LINE.split(' ').nth(1).unwrap(),
        &signature[..40],
        SHA256,
        "123456789012",
        "alice",
        USER,
        INSTANCE,
    ];
    let plain = everything(&Captured::new(&simulator, &[]).path());
    for secret in secrets.iter().filter(|secret| **secret != SHA256) {
        assert!(
            plain.contains(secret),
            "{secret} is not even in the plain capture"
        );
    }
    let captured = Captured::new(&simulator, &["--redact"]);
    assert_eq!(captured.output.status.code(), Some(0), "{:?}", captured.output);
    assert!(String::from_utf8_lossy(&captured.output.stdout).contains("Redacted"));
    let all = everything(&captured.path());
    for secret in secrets {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
    // Signer and staples are public and still proven; the record gets as far as its key.
    let report = json(&captured.verify(&[]));
    assert_eq!(report["redacted"], true, "{report}");
    assert_eq!(report["signer"]["partition"], "aws", "{report}");
    assert_eq!(captured.verdict(&[]), refused("record-key"));
    let path = captured.path();
    let text = tool(&["verify", path.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("no record of this capture can hold"));
}

/// One case as files, judged by `verify` for the time of all cases.
fn by_files(case: &Case, der: bool) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let signer = case.built_signer();
    fs::create_dir(path("ocsp")).unwrap();
    for (name, staple) in case.staples.as_ref().unwrap_or(&signer.staples) {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD
            .encode(staple)
            .into_bytes();
        fs::write(path("ocsp").join(name), if der { staple.clone() } else { base64 }).unwrap();
    }
    fs::write(
        path("keys"),
        case.active_keys.clone().unwrap_or_else(|| case.document()),
    )
    .unwrap();
    fs::write(path("cert"), case.signer_cert.clone().unwrap_or(signer.chain)).unwrap();
    fs::write(path("root.pem"), signer.root.pem()).unwrap();
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let mut words = vec!["verify".to_owned(), "--json".to_owned()];
    for (flag, value) in [
        ("--keys", text("keys")),
        ("--signer-cert", text("cert")),
        ("--ocsp", text("ocsp")),
        ("--instance-id", INSTANCE.to_owned()),
        ("--region", case.region.clone()),
        ("--domain", case.domain.clone()),
        ("--anchors", text("root.pem")),
        ("--at", format!("@{NOW}")),
    ] {
        words.extend([flag.to_owned(), value]);
    }
    if let Some(fingerprint) = case.fingerprint {
        words.extend(["--fingerprint".to_owned(), fingerprint.to_owned()]);
    }
    Command::new(TOOL).args(words).output().unwrap()
}

#[test]
fn single_files_are_judged_as_a_login_judges_them() {
    let changes: [fn(&mut Case); 9] = [
        |_| {},
        |case| case.fingerprint = Some(OTHER),
        |case| case.region = "us-west-2".to_owned(),
        |case| case.domain = "amazonaws.eu".to_owned(),
        |case| case.signer_cert = Some("no certificate".to_owned()),
        |case| case.signer.served = vec![Part::Leaf],
        |case| case.staples = Some(Vec::new()),
        |case| case.staples = Some(vec![("X".to_owned(), b"0 no staple".to_vec())]),
        |case| {
            case.records
                .insert(0, Record::new("i-0fedcba9876543210", KEY_LINE))
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut case = Case::usual();
        change(&mut case);
        let judged = case.judge();
        for der in [false, true] {
            let output = by_files(&case, der);
            let report = json(&output);
            let reason = report["refusal"]["reason"].as_str();
            match &judged {
                Err(refusal) => assert_eq!(reason, Some(refusal.reason.code()), "{number}: {report}"),
                Ok(verdicts) => {
                    let records = report["records"].as_array().unwrap();
                    assert_eq!(records.len(), verdicts.len(), "{number}: {report}");
                    for (record, verdict) in records.iter().zip(verdicts) {
                        let reason = verdict.as_ref().err().map(|refusal| refusal.reason.code());
                        assert_eq!(record["reason"].as_str(), reason, "{number}: {report}");
                    }
                }
            }
            let holds = judged
                .as_ref()
                .is_ok_and(|verdicts| verdicts.iter().any(Result::is_ok));
            assert_eq!(output.status.code(), Some(i32::from(!holds)), "{number}");
            let key = KEY_LINE.split(' ').nth(1).unwrap();
            assert!(!String::from_utf8_lossy(&output.stdout).contains(key));
        }
    }
}

#[test]
fn wrong_usage_and_unreadable_evidence_are_exit_2() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().to_str().unwrap();
    let manifest = directory.path().join("manifest.json");
    for words in [
        &["verify"][..],
        &["verify", "/nonexistent"],
        &["verify", empty],
        &["verify", empty, "--at", "yesterday"],
        &["verify", empty, "--fingerprint", "x"],
        &["verify", "--keys", "/dev/null"],
    ] {
        let output = tool(words);
        assert_eq!(output.status.code(), Some(2), "{words:?} {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{words:?}");
    }
    fs::write(&manifest, r#"{"schema":"ec2-instance-connect/capture/2"}"#).unwrap();
    assert_eq!(tool(&["verify", empty]).status.code(), Some(2));
}
