//! `explain`, and `verify` on a `capture`, against the helper: on every case all three come to one verdict.
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

use common::case::{INSTANCE, KEY_LINE, MD5, SHA256};
use common::run::{HELPER, Outcome, run, with_config};
use eic_simulator::evidence::{self, Scene, VARIATIONS};
use eic_simulator::faults::{Effect, Fault};
use eic_simulator::{Simulator, World};
use serde_json::Value;

const TOOL: &str = env!("CARGO_BIN_EXE_ec2-instance-connect");
const USER: &str = "ec2-user";
const TOKEN: &str = "/latest/api/token";
const KEYS: &str = "/latest/meta-data/managed-ssh-keys/active-keys/ec2-user/";
const CERT: &str = "/latest/meta-data/managed-ssh-keys/signer-cert/";
const REGION: &str = "/latest/meta-data/placement/region";
const DOMAIN: &str = "/latest/meta-data/services/domain/";

/// What the helper, `explain` or `verify` came to: how many keys, and the reasons, each once.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    keys: bool,
    reasons: Vec<String>,
}

impl Verdict {
    fn of_helper(outcome: &Outcome) -> Self {
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        Self {
            keys: !outcome.stdout.is_empty(),
            reasons: outcome.reasons().into_iter().map(str::to_owned).collect(),
        }
    }

    /// From the JSON of `explain` or `verify`.
    fn of_tool(output: &Output) -> Self {
        let report = json(output);
        let mut reasons: Vec<String> = Vec::new();
        let records = report["records"].as_array().unwrap();
        for refusal in std::iter::once(&report["refusal"]).chain(records) {
            if let Some(reason) = refusal["reason"].as_str() {
                if !reasons.iter().any(|known| known == reason) {
                    reasons.push(reason.to_owned());
                }
            }
        }
        let keys = records.iter().any(|record| record["verdict"] == "holds");
        assert_eq!(output.status.code(), Some(i32::from(!keys)), "{report}");
        Self { keys, reasons }
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn tool(words: &[&str]) -> Output {
    Command::new(TOOL).args(words).output().unwrap()
}

fn explain(config: &Path, words: &[&str]) -> Output {
    let config = config.to_str().unwrap();
    let fixed = ["explain", "--here", "--json", "--config", config, "--"];
    tool(&[&fixed, words].concat())
}

/// The simulator's configuration, with the signer's root of now as its anchor.
struct Desk {
    directory: tempfile::TempDir,
    config: PathBuf,
    anchors: PathBuf,
}

impl Desk {
    fn new(simulator: &Simulator) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (config, anchors) = (
            directory.path().join("config.toml"),
            directory.path().join("root.pem"),
        );
        fs::write(&anchors, simulator.signer().root.pem()).unwrap();
        let line = |line: &str| {
            if line.starts_with("anchors =") {
                format!("anchors = \"{}\"\n", anchors.display())
            } else {
                format!("{line}\n")
            }
        };
        fs::write(
            &config,
            simulator.config_toml().lines().map(line).collect::<String>(),
        )
        .unwrap();
        Self {
            directory,
            config,
            anchors,
        }
    }

    /// Captures, and verifies as of the time of the capture.
    fn verify(&self, name: &str) -> Output {
        let capture = self.directory.path().join(name);
        let capture = capture.to_str().unwrap();
        let captured = tool(&[
            "capture",
            capture,
            "--user",
            USER,
            "--config",
            self.config.to_str().unwrap(),
        ]);
        assert!(
            captured.status.code().is_some_and(|code| code <= 1),
            "{captured:?}"
        );
        tool(&[
            "verify",
            capture,
            "--json",
            "--anchors",
            self.anchors.to_str().unwrap(),
        ])
    }
}

#[test]
fn explain_and_verify_agree_with_the_helper_on_every_variation_of_the_evidence() {
    let simulator = Simulator::start(World::nitro(evidence::INSTANCE)).unwrap();
    let mut refused = 0;
    for (number, variation) in VARIATIONS.iter().enumerate() {
        let mut scene = Scene::usual();
        (variation.apply)(&mut scene);
        simulator.expire_keys();
        simulator.set_signer(scene.signer.clone());
        for record in &scene.records {
            simulator.push_record(USER, record);
        }
        let desk = Desk::new(&simulator);
        let helper = Verdict::of_helper(&with_config(&desk.config, &[USER]));
        assert_eq!(helper.keys, variation.sound, "{}: {helper:?}", variation.name);
        refused += usize::from(!helper.keys);
        let explained = Verdict::of_tool(&explain(&desk.config, &[USER]));
        assert_eq!(explained, helper, "explain: {}", variation.name);
        let verified = Verdict::of_tool(&desk.verify(&number.to_string()));
        assert_eq!(verified, helper, "verify: {}", variation.name);
    }
    assert!(refused > 20, "{refused}");
}

/// The helper and `explain` on one configuration and these words; returns what `explain` said.
#[track_caller]
fn agree(config: &Path, words: &[&str], reasons: &[&str]) -> Value {
    let helper = Verdict::of_helper(&with_config(config, words));
    assert_eq!(helper.reasons, reasons, "{words:?}");
    let output = explain(config, words);
    assert_eq!(Verdict::of_tool(&output), helper, "{words:?}");
    json(&output)
}

#[test]
fn explain_agrees_with_the_helper_on_what_is_wrong_before_any_evidence() {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    simulator.push(USER, KEY_LINE);
    let config = simulator.config_file();
    agree(&config, &[USER], &[]);
    agree(&config, &[USER, SHA256], &[]);
    agree(&config, &[USER, MD5], &[]);
    agree(&config, &["root"], &["no-key"]);
    agree(&config, &["a/b"], &["user"]);
    agree(&config, &[USER, "SHA512:x"], &["fingerprint-form"]);
    let other = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    agree(&config, &[USER, other], &["fingerprint"]);
    agree(Path::new("/nonexistent/config.toml"), &[USER], &["config"]);
    // Both wrong: what sshd asked comes first.
    agree(Path::new("/nonexistent/config.toml"), &["a/b"], &["user"]);
    for (fault, reason, stage) in [
        (Fault::on(TOKEN, Effect::Close), "imds-unreachable", "metadata"),
        (Fault::on(KEYS, Effect::Status(403)), "imds-forbidden", "metadata"),
        (Fault::on(KEYS, Effect::Status(503)), "imds-throttled", "metadata"),
        (Fault::on(KEYS, Effect::Status(418)), "imds-status", "metadata"),
        (Fault::on(KEYS, Effect::Endless), "imds-too-large", "metadata"),
        (Fault::on(CERT, Effect::Status(404)), "imds-absent", "metadata"),
        (
            Fault::on(CERT, Effect::Body("x".to_owned())),
            "signer-malformed",
            "signer",
        ),
        (
            Fault::on(REGION, Effect::Body("x".to_owned())),
            "imds-malformed",
            "signer",
        ),
        (
            Fault::on(DOMAIN, Effect::Body("amazonaws.com.cn".to_owned())),
            "partition",
            "signer",
        ),
        (Fault::on(CERT, Effect::Stall), "imds-timeout", "metadata"),
    ] {
        simulator.fault(fault);
        let report = agree(&config, &[USER], &[reason]);
        simulator.clear_faults();
        let stages = report["stages"].as_array().unwrap();
        let refused: Vec<&Value> = stages.iter().filter(|s| s["outcome"] == "refused").collect();
        assert_eq!(refused.len(), 1, "{report}");
        assert_eq!(refused[0]["stage"], stage, "{report}");
    }
    fs::remove_dir_all(simulator.sysfs().join("devices")).unwrap();
    agree(&config, &[USER], &["not-ec2"]);
}

#[test]
fn explain_agrees_with_the_helper_where_the_metadata_names_the_instance() {
    let simulator = Simulator::start(World::xen(INSTANCE)).unwrap();
    simulator.push(USER, KEY_LINE);
    // Without the id that the simulator's configuration pins.
    let text: String = simulator
        .config_toml()
        .lines()
        .filter(|line| !line.starts_with("id ="))
        .map(|line| format!("{line}\n"))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, text).unwrap();
    agree(&config, &[USER], &[]);
    simulator.put("/latest/meta-data/instance-id", "i-XYZ");
    let report = agree(&config, &[USER], &["instance-id"]);
    let stages = report["stages"].as_array().unwrap();
    let refused = stages.iter().find(|stage| stage["outcome"] == "refused");
    assert_eq!(refused.unwrap()["stage"], "metadata", "{report}");
}

#[test]
fn key_that_would_be_given_is_shown_by_its_fingerprint_alone() {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    simulator.push(USER, KEY_LINE);
    let config = simulator.config_file();
    let words = ["explain", "--here", "--config", config.to_str().unwrap(), USER];
    let output = tool(&words);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(SHA256), "{text}");
    assert!(text.contains("arn:aws:iam::123456789012:user/alice"), "{text}");
    assert!(text.contains("9 requests"), "{text}");
    assert!(text.contains("1 key would be given"), "{text}");
    let blob = KEY_LINE.split(' ').nth(1).unwrap();
    let report = String::from_utf8(explain(&config, &[USER]).stdout).unwrap();
    assert!(!text.contains(blob) && !report.contains(blob), "{text}");
}

#[test]
fn record_that_only_a_wrong_clock_let_expire_says_so() {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let caller = "arn:aws:iam::123456789012:user/alice";
    simulator.push_expiring(USER, KEY_LINE, caller, Some(-41));
    let plain = explain(&simulator.config_file(), &[USER]);
    let note = json(&plain)["records"][0]["note"].as_str().unwrap().to_owned();
    assert!(note.starts_with("expired 4") && !note.contains("clock"), "{note}");

    // The metadata's clock, two minutes behind ours.
    let behind = http_date(-120);
    simulator.fault(Fault::under("/", Effect::Header("Date".to_owned(), behind)));
    let report = json(&explain(&simulator.config_file(), &[USER]));
    let note = report["records"][0]["note"].as_str().unwrap();
    assert!(note.contains("by the metadata's clock it still had"), "{note}");
    assert!(note.contains("fix the clock"), "{note}");
    assert!(
        (118..140).contains(&report["clock_ahead"].as_i64().unwrap()),
        "{report}"
    );
}

/// An HTTP date so many seconds from now, by date(1).
fn http_date(seconds: i64) -> String {
    let output = Command::new("date")
        .env("LC_ALL", "C")
        .args([
            "-u",
            "-d",
            &format!("{seconds} seconds"),
            "+%a, %d %b %Y %H:%M:%S GMT",
        ])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn hostile_text_of_the_metadata_does_not_reach_the_terminal_raw() {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let caller = "arn:aws:iam::1:user/\u{1b}[2Jx\u{202e}";
    simulator.push_as(USER, KEY_LINE, caller);
    simulator.put(REGION, "us\u{1b}[31m-east-1");
    let config = simulator.config_file();
    let config = config.to_str().unwrap();
    for region_is_wrong in [true, false] {
        for words in [
            &["explain", "--here", "--config", config, USER][..],
            &["explain", "--here", "--json", "--config", config, USER],
        ] {
            let output = tool(words);
            assert_eq!(output.status.success(), !region_is_wrong, "{output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(
                text.chars()
                    .all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()),
                "{text:?}"
            );
        }
        simulator.restore();
    }
}

/// Runs `explain` with a text in the place of /etc/passwd, in a mount namespace of its own.
fn with_accounts(accounts: &str, config: &Path) -> Output {
    with_databases(accounts, "root:x:0:\n", config)
}

/// The same, where these are the groups.
fn with_databases(accounts: &str, groups: &str, config: &Path) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let databases = [("passwd", accounts), ("group", groups)].map(|(name, text)| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    });
    let script = "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/group
                  exec \"$3\" explain --config \"$4\" ec2-user";
    Command::new("unshare")
        .args(["-m", "sh", "-ec", script, "sh"])
        .args(databases)
        .arg(TOOL)
        .arg(config)
        .output()
        .unwrap()
}

#[test]
fn root_asks_with_all_groups_of_the_helpers_user_and_no_other() {
    if !common::is_root() {
        return common::skip("root_asks_with_all_groups", "needs root");
    }
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let config = simulator.config_file();
    let link = "[[chain]]\ncommand = [\"/bin/sh\", \"-c\", \"id -G | tr ' ' '\\n'\"]\ntimeout_ms = 5000\n";
    let text = simulator
        .config_toml()
        .replace("[imds]\n", "[imds]\ntotal_timeout_ms = 10000\n");
    fs::write(&config, format!("{text}{link}")).unwrap();
    let accounts = "root:x:0:0::/root:/bin/sh\nec2-instance-connect:x:64123:64123::/:/bin/false\n";
    let others = "root:x:0:root\ndisk:x:6:root\n";
    for (groups, lines) in [
        ("", 1),
        ("keys:x:64200:ec2-instance-connect\n", 2),
        (
            "keys:x:64200:ec2-instance-connect\ncert:x:64201:a,ec2-instance-connect,b\n",
            3,
        ),
    ] {
        let output = with_databases(accounts, &format!("{others}{groups}"), &config);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("asked as    ec2-instance-connect"), "{output:?}");
        let said = format!("and {lines} lines of links");
        assert!(text.contains(&said), "{said}: {output:?}");
    }
}

#[test]
fn root_asks_as_the_helpers_user_where_there_is_one_and_says_as_whom() {
    if !common::is_root() {
        return common::skip("root_asks_as_the_helpers_user", "needs root");
    }
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    simulator.push(USER, KEY_LINE);
    let root = "root:x:0:0::/root:/bin/sh\n";
    let output = with_accounts(root, &simulator.config_file());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("asked as    root (uid 0)"), "{output:?}");
    assert!(text.contains("1 key would be given"), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("asked as root"),
        "{output:?}"
    );

    let accounts = format!("{root}ec2-instance-connect:x:64123:64123::/:/bin/false\n");
    let output = with_accounts(&accounts, &simulator.config_file());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.starts_with("asked as    ec2-instance-connect (uid 64123)"),
        "{output:?}"
    );
    assert!(text.contains("1 key would be given"), "{output:?}");

    // What root can read and that user cannot refuses, as it would under sshd.
    let config = simulator.config_file();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let output = with_accounts(&accounts, &config);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("REFUSED config: ") && text.contains("Permission denied"),
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn wrong_usage_is_exit_2() {
    assert_eq!(tool(&["explain"]).status.code(), Some(2));
    assert_eq!(tool(&["explain", "a", "b", "c"]).status.code(), Some(2));
    // The same words are wrong for the helper.
    assert_eq!(run(Command::new(HELPER).args(["a", "b", "c"])).code, Some(2));
}
