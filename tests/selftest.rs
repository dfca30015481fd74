//! `selftest`: what it proves, its metrics, and the units that run it.
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

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use common::case::{INSTANCE, KEY_LINE};
use common::run::login;
use eic_simulator::clock::DAY;
use eic_simulator::faults::{Effect, Fault};
use eic_simulator::signer::Part;
use eic_simulator::{Simulator, World};
use serde_json::Value;

const TOOL: &str = env!("CARGO_BIN_EXE_ec2-instance-connect");
const CERT: &str = "/latest/meta-data/managed-ssh-keys/signer-cert/";

fn selftest(simulator: &Simulator, more: &[&str]) -> Output {
    let config = simulator.config_file();
    let mut command = Command::new(TOOL);
    command.env_remove("JOURNAL_STREAM");
    command
        .args(["selftest", "--config", config.to_str().unwrap()])
        .args(more)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn simulator() -> Simulator {
    Simulator::start(World::nitro(INSTANCE)).unwrap()
}

/// The samples of an exposition in the text format; every line must be of it.
fn samples(path: &Path) -> BTreeMap<String, f64> {
    let sample = regex::Regex::new(
        r#"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_][a-zA-Z0-9_]*="[^"\\]*"\})? (-?[0-9]+(?:\.[0-9]+)?)$"#,
    )
    .unwrap();
    let comment = regex::Regex::new(r"^# (HELP [a-z0-9_]+ .+|TYPE [a-z0-9_]+ gauge)$").unwrap();
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !comment.is_match(line)) {
        let parts = sample.captures(line).unwrap_or_else(|| panic!("{line}"));
        let name = parts[1].strip_prefix("ec2_instance_connect_selftest_").unwrap();
        let label = parts.get(2).map_or("", |label| label.as_str());
        let twice = samples.insert(format!("{name}{label}"), parts[3].parse().unwrap());
        assert_eq!(twice, None, "{line}");
    }
    samples
}

#[test]
fn sound_metadata_without_any_key_passes_and_costs_eight_requests() {
    let simulator = simulator();
    let output = selftest(&simulator, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = json(&output);
    assert_eq!(report["schema"], "ec2-instance-connect/selftest/1");
    assert_eq!(
        (&report["ok"], &report["requests"]),
        (&true.into(), &8.into()),
        "{report}"
    );
    assert!(report["ahead_refusal"].is_null() && report["warnings"].as_array().unwrap().is_empty());
    assert!(
        !simulator
            .requests()
            .iter()
            .any(|request| request.path.contains("active-keys")),
        "it asked for somebody's keys"
    );
}

#[test]
fn what_refuses_a_login_fails_the_selftest_for_the_same_reason() {
    let simulator = simulator();
    simulator.push("ec2-user", KEY_LINE);
    let directory = tempfile::tempdir().unwrap();
    let textfile = directory.path().join("selftest.prom");
    for fault in [
        Fault::on(CERT, Effect::Status(403)),
        Fault::on(CERT, Effect::Body("x".to_owned())),
        Fault::under(
            "/latest/meta-data/managed-ssh-keys/signer-ocsp/",
            Effect::Status(404),
        ),
    ] {
        simulator.fault(fault);
        let helper = login(&simulator, "ec2-user");
        let output = selftest(&simulator, &["--json", "--textfile", textfile.to_str().unwrap()]);
        simulator.clear_faults();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let reason = json(&output)["refusal"]["reason"].as_str().unwrap().to_owned();
        assert_eq!(helper.reasons(), [reason.as_str()]);
        let samples = samples(&textfile);
        assert_eq!(samples["success"], 0.0);
        assert_eq!(samples["success_ahead"], 0.0);
        assert_eq!(samples[&format!("result{{reason=\"{reason}\"}}")], 1.0);
        assert_eq!(samples["result{reason=\"ok\"}"], 0.0);
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(&reason),
            "{output:?}"
        );
    }
    assert_eq!(selftest(&simulator, &[]).status.code(), Some(0));
}

#[test]
fn what_ends_before_tomorrow_is_a_warning_today() {
    let simulator = simulator();
    simulator.change_signer(|signer| signer.leaf.not_after = DAY / 2);
    let output = selftest(&simulator, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(json(&output)["ahead_refusal"]["reason"], "signer-expired");
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(
        warning.starts_with("warning: in 24 hours every login would be refused"),
        "{warning}"
    );
    let output = selftest(&simulator, &["--json", "--ahead", "6"]);
    assert!(json(&output)["ahead_refusal"].is_null(), "{output:?}");

    simulator.change_signer(|signer| {
        signer.leaf.not_after = 30 * DAY;
        *signer = signer.clone().staple(Part::Leaf, |staple| {
            staple.response.singles[0].next_update = Some(3600);
        });
    });
    let output = selftest(&simulator, &["--json"]);
    assert_eq!(
        json(&output)["ahead_refusal"]["reason"],
        "staple-stale",
        "{output:?}"
    );
}

#[test]
fn warning_carries_its_priority_into_the_journal() {
    let simulator = simulator();
    simulator.change_signer(|signer| signer.leaf.not_after = DAY / 2);
    let config = simulator.config_file();
    let output = Command::new(TOOL)
        .env("JOURNAL_STREAM", "8:1")
        .args(["selftest", "--config", config.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.stderr.starts_with(b"<4>warning: "), "{output:?}");
}

#[test]
fn clock_that_differs_from_the_metadatas_is_a_warning() {
    let simulator = simulator();
    let date = "Sun, 06 Nov 1994 08:49:37 GMT".to_owned();
    simulator.fault(Fault::under("/", Effect::Header("Date".to_owned(), date)));
    let output = selftest(&simulator, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let warnings = json(&output)["warnings"].to_string();
    assert!(warnings.contains("ahead of the metadata's"), "{warnings}");
}

#[test]
fn metrics_are_whole_and_readable_by_others() {
    let simulator = simulator();
    let directory = tempfile::tempdir().unwrap();
    let textfile = directory.path().join("selftest.prom");
    let output = selftest(&simulator, &["--textfile", textfile.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let samples = samples(&textfile);
    assert_eq!((samples["success"], samples["success_ahead"]), (1.0, 1.0));
    assert_eq!(samples["result{reason=\"ok\"}"], 1.0);
    assert_eq!(samples["requests"], 8.0);
    assert!(samples["signer_validity_seconds"] > 86_400.0, "{samples:?}");
    assert!(samples["staple_validity_seconds"] > 0.0, "{samples:?}");
    assert!(samples["duration_seconds"] > 0.0, "{samples:?}");
    assert!(samples["timestamp_seconds"] > 1.7e9, "{samples:?}");
    let mode = fs::metadata(&textfile).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode & 0o444, 0o444, "{mode:o}");
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "something was left behind"
    );
}

#[test]
fn reader_never_sees_half_of_the_metrics() {
    let simulator = simulator();
    let directory = tempfile::tempdir().unwrap();
    let textfile = directory.path().join("selftest.prom");
    let words = ["--textfile", textfile.to_str().unwrap()];
    assert_eq!(selftest(&simulator, &words).status.code(), Some(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0;
            while !done.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&textfile).expect("the file is always there");
                assert!(text.ends_with("{reason=\"internal\"} 0\n"), "{text}");
                read += 1;
            }
            read
        });
        for _ in 0..20 {
            assert_eq!(selftest(&simulator, &words).status.code(), Some(0));
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn metrics_that_cannot_be_written_fail_and_leave_the_old_ones() {
    let simulator = simulator();
    let output = selftest(&simulator, &["--textfile", "/nonexistent/selftest.prom"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/selftest.prom"));
}

#[test]
fn units_are_understood_by_systemd_and_sandboxed() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        return common::skip("units_are_understood_by_systemd", "no systemd-analyze");
    };
    assert!(version.status.success());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let directory = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for name in [
        "ec2-instance-connect-selftest.service",
        "ec2-instance-connect-selftest.timer",
    ] {
        // systemd-analyze wants the program to be there.
        let text = fs::read_to_string(root.join(name)).unwrap();
        let unit = directory.path().join(name);
        fs::write(&unit, text.replace("/usr/bin/ec2-instance-connect", "/bin/true")).unwrap();
        units.push(unit);
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&units)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = complaint
        .lines()
        .filter(|line| line.contains("selftest"))
        .collect();
    assert!(output.status.success() && ours.is_empty(), "{complaint}");

    // 0 is a closed box, 100 an open one; what is needed is one address and one directory.
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=15"])
        .arg(&units[0])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
