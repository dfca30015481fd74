//! docs/JSON.md against what the commands really print: every field is documented with its type, and every documented
//! field is there.
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
#[path = "setup/machine.rs"]
mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::case::{INSTANCE, KEY_LINE, SHA256};
use eic_simulator::faults::{Effect, Fault};
use eic_simulator::signer::Part;
use eic_simulator::{Simulator, World};
use machine::{DROPIN, MAIN};
use serde_json::{Value, json};

const TOOL: &str = env!("CARGO_BIN_EXE_ec2-instance-connect");
const DOCUMENTED: &str = include_str!("../docs/JSON.md");
const USER: &str = "ec2-user";
const CERT: &str = "/latest/meta-data/managed-ssh-keys/signer-cert/";

/// The types of each path: `records[].verdict` is a field of each element of a list.
type Shape = BTreeMap<String, BTreeSet<&'static str>>;

fn walk(value: &Value, path: &str, shape: &mut Shape) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    if !path.is_empty() {
        shape.entry(path.to_owned()).or_default().insert(kind);
    }
    match value {
        Value::Array(elements) => elements
            .iter()
            .for_each(|element| walk(element, &format!("{path}[]"), shape)),
        Value::Object(fields) => fields.iter().for_each(|(name, field)| {
            let dot = if path.is_empty() { "" } else { "." };
            walk(field, &format!("{path}{dot}{name}"), shape);
        }),
        _ => {}
    }
}

/// The documented fields of each schema: the rows of the table below a heading that ends with its name.
fn documented() -> BTreeMap<&'static str, Shape> {
    let mut schemas: BTreeMap<&str, Shape> = BTreeMap::new();
    let mut schema = None;
    for line in DOCUMENTED.lines() {
        if line.starts_with("## ") {
            schema = line.split('`').rev().nth(1).filter(|name| name.contains('/'));
        }
        let Some((name, row)) = schema.zip(line.strip_prefix("| `")) else {
            continue;
        };
        let (path, rest) = row.split_once("` | ").unwrap_or_else(|| panic!("{line}"));
        let types = rest.split(" |").next().unwrap().split(" or ").collect();
        let twice = schemas.entry(name).or_default().insert(path.to_owned(), types);
        assert_eq!(twice, None, "{name}: {path} is documented twice");
    }
    schemas
}

/// Holds samples of one schema, which together show all of it, against the documentation.
#[track_caller]
fn hold(schema: &str, samples: &[Value]) {
    let mut seen = Shape::new();
    for sample in samples {
        assert_eq!(sample["schema"], schema);
        walk(sample, "", &mut seen);
    }
    // Elements that are no objects say nothing that their list does not.
    seen.retain(|path, types| !path.ends_with("[]") || !types.contains("object"));
    let known = documented().remove(schema).unwrap_or_default();
    let mut wrong = String::new();
    for (path, types) in &seen {
        let allowed = known.get(path);
        if !allowed.is_some_and(|allowed| types.is_subset(allowed)) {
            let types: Vec<&str> = types.iter().copied().collect();
            wrong.push_str(&format!(
                "printed, and not documented so: | `{path}` | {} |\n",
                types.join(" or ")
            ));
        }
    }
    for path in known.keys().filter(|path| !seen.contains_key(*path)) {
        wrong.push_str(&format!("documented, and not printed: {path}\n"));
    }
    assert!(wrong.is_empty(), "{schema}:\n{wrong}");
}

fn parse(output: &Output) -> Value {
    assert_eq!(
        output.stdout.iter().filter(|byte| **byte == b'\n').count(),
        1,
        "one line: {output:?}"
    );
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn tool(words: &[&str]) -> Value {
    parse(&Command::new(TOOL).args(words).output().unwrap())
}

#[test]
fn every_schema_of_the_program_is_documented_and_no_other() {
    fn names_below(directory: &Path, schema: &regex::Regex, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if entry.is_dir() {
                names_below(&entry, schema, names);
                continue;
            }
            let text = fs::read_to_string(&entry).unwrap();
            names.extend(schema.captures_iter(&text).map(|found| found[1].to_owned()));
        }
    }
    let schema = regex::Regex::new("SCHEMA: &str = \"([^\"]+)\"").unwrap();
    let mut names = BTreeSet::new();
    names_below(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin"),
        &schema,
        &mut names,
    );
    let known: BTreeSet<String> = documented().into_keys().map(str::to_owned).collect();
    assert_eq!(names, known);
}

#[test]
fn explain_selftest_capture_and_verify_print_what_is_documented() {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let config = simulator.config_file();
    let config = config.to_str().unwrap();
    let explain = |words: &[&str]| {
        tool(
            &[
                &["explain", "--here", "--json", "--config", config][..],
                words,
                &["--", USER],
            ]
            .concat(),
        )
    };
    let selftest = || tool(&["selftest", "--json", "--config", config]);
    let directory = tempfile::tempdir().unwrap();
    let anchors = directory.path().join("root.pem");
    fs::copy(simulator.root_pem(), &anchors).unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let capture = |name: &str, more: &[&str]| {
        let words = [
            "capture",
            &path(name),
            "--json",
            "--config",
            config,
            "--user",
            USER,
        ];
        tool(&[&words[..], more].concat())
    };
    let anchors = anchors.to_str().unwrap();
    let verify = |name: &str| tool(&["verify", &path(name), "--json", "--anchors", anchors]);

    let nobody = (explain(&[]), capture("nobody", &[]));
    simulator.push(USER, KEY_LINE);
    simulator.push_expiring(USER, KEY_LINE, "arn:aws:iam::123456789012:user/late", Some(-5));
    let good = (
        explain(&[]),
        selftest(),
        capture("good", &[]),
        capture("shared", &["--redact"]),
    );
    simulator.put(CERT, "no certificate");
    let bad = (explain(&[]), selftest(), capture("bad", &[]));
    simulator.restore();
    let mut spec = simulator.signer_spec();
    spec = spec.staple(Part::Leaf, |staple| {
        staple.response.singles[0].next_update = Some(3600)
    });
    simulator.set_signer(spec);
    simulator.fault(Fault::under(
        "/latest/",
        Effect::Header("Date".to_owned(), "Thu, 01 Jan 2026 00:00:00 GMT".to_owned()),
    ));
    let soon = selftest();

    hold("ec2-instance-connect/explain/1", &[nobody.0, good.0, bad.0]);
    hold("ec2-instance-connect/selftest/1", &[good.1, bad.1, soon]);
    let manifests: Vec<Value> = ["nobody", "good", "shared", "bad"]
        .iter()
        .map(|name| {
            serde_json::from_slice(&fs::read(directory.path().join(name).join("manifest.json")).unwrap())
                .unwrap()
        })
        .collect();
    // What is printed holds the manifest itself.
    assert_eq!(good.2["manifest"], manifests[1]);
    hold("ec2-instance-connect/capture/1", &manifests);
    let printed: Vec<Value> = [nobody.1, good.2, good.3, bad.2]
        .into_iter()
        .map(|mut printed| {
            printed["manifest"] = json!({});
            printed
        })
        .collect();
    hold("ec2-instance-connect/capture-result/1", &printed);
    hold(
        "ec2-instance-connect/verify/1",
        &["nobody", "good", "shared", "bad"].map(verify),
    );
}

#[test]
fn history_prints_what_is_documented() {
    let directory = tempfile::tempdir().unwrap();
    let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/history/debian-openssh-9.2.auth.log");
    let push = |request: &str, user: &str| {
        json!({
            "eventTime": "2025-01-30T10:39:08Z", "eventSource": "ec2-instance-connect.amazonaws.com",
            "eventName": "SendSSHPublicKey", "sourceIPAddress": "198.51.100.7", "userAgent": "aws-cli/2.23.6",
            "userIdentity": {"arn": "arn:aws:iam::123456789012:user/alice"},
            "requestID": request, "eventID": "event",
            "requestParameters": {"instanceId": INSTANCE, "osUser": user, "SSHKey": {"publicKey": "ssh-ed25519 YQ=="}},
        })
    };
    let trail = directory.path().join("trail.json");
    let records = [
        push("5e8e1f1c-0000-4000-8000-000000000001", "root"),
        push("unused", "admin"),
    ];
    fs::write(&trail, json!({ "Records": records }).to_string()).unwrap();
    let log = log.to_str().unwrap();
    let all = tool(&[
        "history",
        "--json",
        "--log",
        log,
        "--cloudtrail",
        trail.to_str().unwrap(),
    ]);
    let some = tool(&[
        "history",
        "--json",
        "--log",
        log,
        "--since",
        "2025-01-01",
        "--until",
        "2026-01-01",
    ]);
    let links = log.replace("9.2.auth", "9.2-links.auth");
    let linked = tool(&["history", "--json", "--log", &links]);
    hold("ec2-instance-connect/history/1", &[all, some, linked]);
}

#[test]
fn doctor_prints_what_is_documented() {
    hold(
        "ec2-instance-connect/doctor/1",
        &[tool(&["doctor", "--json", "--user", "nosuchuser"])],
    );
}

#[test]
fn config_check_prints_what_is_documented() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let check = |text: &str| {
        fs::write(&path, text).unwrap();
        tool(&["config", "check", "--json", path.to_str().unwrap()])
    };
    let samples = [
        check(""),
        check("[trust]\nocps = 1\n"),
        check("[trust]\nocsp = \"if-present\"\n"),
        tool(&["config", "check", "--json", "/nonexistent/config.toml"]),
    ];
    hold("ec2-instance-connect/config-check/1", &samples);
}

#[test]
fn access_check_prints_what_is_documented() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let rule =
        "[[access]]\neffect = \"allow\"\nusers = [\"alice\"]\nprincipals = [\"arn:aws:iam::*:user/alice\"]\n";
    fs::write(&path, rule).unwrap();
    let ask = |more: &[&str]| {
        let words = [
            "access",
            "check",
            "--json",
            "--config",
            path.to_str().unwrap(),
            "--user",
            "alice",
        ];
        tool(&[&words, more].concat())
    };
    let samples = [
        ask(&[
            "--principal",
            "arn:aws:iam::123456789012:user/alice",
            "--from",
            "192.0.2.7",
        ]),
        ask(&["--principal", "nobody"]),
        ask(&[]),
        tool(&[
            "access",
            "check",
            "--json",
            "--config",
            "/nonexistent",
            "--user",
            "alice",
        ]),
    ];
    assert!(
        samples[0]["given"] == true && samples[0]["rule"] == 1,
        "{}",
        samples[0]
    );
    hold("ec2-instance-connect/access-check/1", &samples);
}

#[test]
fn compare_prints_what_is_documented() {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    simulator.push(USER, KEY_LINE);
    simulator.push_expiring(USER, KEY_LINE, "arn:aws:iam::123456789012:user/late", Some(-5));
    let config = simulator.config_file();
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGGA2b8TiZ0kEhSRpJlKh3UHHUTxEwrEnCQlAOsVAfSQ";
    let mut samples = Vec::new();
    for with in [
        vec!["/bin/sh", "-c", "echo \"$0\"; exit 1", other],
        vec!["/bin/echo", other],
        vec!["/bin/true"],
    ] {
        let output = Command::new(TOOL)
            .args(["compare", "--here", "--json", "--user", USER, "--config"])
            .arg(&config)
            .arg("--with")
            .args(with)
            .output()
            .unwrap();
        let lines = output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        samples.extend(lines.map(|line| serde_json::from_slice::<Value>(line).unwrap()));
    }
    simulator.put(CERT, "no certificate");
    samples.push(tool(&[
        "compare",
        "--here",
        "--json",
        "--user",
        USER,
        "--config",
        config.to_str().unwrap(),
        "--fingerprint",
        SHA256,
        "--with",
        "/bin/true",
    ]));
    hold("ec2-instance-connect/compare/1", &samples);
}

#[test]
fn setup_prints_what_is_documented() {
    if machine::missing().is_some() {
        return common::skip("setup_prints_what_is_documented", "needs root and sshd");
    }
    let machine = machine::Machine::new();
    machine.start_sshd();
    let mut samples = vec![
        machine.setup("plan").json,
        machine.setup("apply").json,
        machine.setup("status").json,
    ];
    machine.write(
        "/etc/ssh/sshd_config.d/99-late.conf",
        "AuthorizedKeysCommand none\n",
    );
    samples.push(machine.setup("status").json);
    machine.write(DROPIN, format!("{}# mine\n", machine.read(DROPIN)));
    samples.push(machine.setup("status").json);
    machine.ok(&format!("rm {DROPIN} /etc/ssh/sshd_config.d/99-late.conf"));
    machine.write(MAIN, "AuthorizedKeysCommand none\n");
    samples.push(machine.setup("apply").json);
    hold("ec2-instance-connect/setup/1", &samples);
}
