//! `compare` beside stubs of another implementation that agree, disagree, hang, flood and fail.
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
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::case::{INSTANCE, KEY_LINE};
use common::instance::{Instance, lines};
use common::machine::{in_namespaces, sh};
use eic_simulator::{Simulator, World};
use serde_json::{Value, json};

const TOOL: &str = env!("CARGO_BIN_EXE_ec2-instance-connect");
const USER: &str = "ec2-user";

/// A make-believe EC2 and a directory for stubs.
struct Bench {
    simulator: Simulator,
    directory: tempfile::TempDir,
}

/// One run of compare.
struct Compared {
    code: Option<i32>,
    documents: Vec<Value>,
    text: String,
}

impl Bench {
    fn new() -> Self {
        Self {
            simulator: Simulator::start(World::nitro(INSTANCE)).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Another implementation, as a script; returns its path.
    fn stub(&self, script: &str) -> String {
        let path = self.directory.path().join("stub");
        write_script(&path, script);
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(TOOL);
        command
            .args(["compare", "--here", "--config"])
            .arg(self.simulator.config_file())
            .args(words)
            .stdin(Stdio::null());
        command
    }

    fn compare(&self, script: &str) -> Compared {
        let stub = self.stub(script);
        let output = self
            .command(&["--json", "--user", USER, "--with", &stub])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        let documents: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        for document in &documents {
            assert_eq!(document["schema"], "ec2-instance-connect/compare/1");
        }
        assert!(
            !text.contains(KEY_LINE.split(' ').nth(1).unwrap()),
            "a usable key is shown: {text}"
        );
        Compared {
            code: output.status.code(),
            documents,
            text,
        }
    }
}

fn write_script(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn fingerprint() -> String {
    let (_, fingerprint) = ec2_instance_connect::keys::bare(KEY_LINE).unwrap();
    fingerprint.to_string()
}

#[test]
fn the_same_keys_are_equal_whatever_comment_stands_behind_them() {
    let bench = Bench::new();
    let nobody = bench.compare("exit 0");
    assert_eq!(
        (nobody.code, nobody.documents.len()),
        (Some(0), 1),
        "{}",
        nobody.text
    );
    assert_eq!(nobody.documents[0]["refusal"]["reason"], "no-key");

    bench.simulator.push(USER, KEY_LINE);
    let words = bench.directory.path().join("words");
    let agreeing = format!("echo \"$@\" >>{}; echo '{KEY_LINE} a comment'", words.display());
    let agreed = bench.compare(&agreeing);
    assert_eq!(agreed.code, Some(0), "{}", agreed.text);
    // Any key, and then the one of the document, as sshd asks.
    let asked: Vec<&Value> = agreed
        .documents
        .iter()
        .map(|document| &document["fingerprint"])
        .collect();
    assert_eq!(asked, [&json!(null), &json!(fingerprint())]);
    assert_eq!(
        fs::read_to_string(words).unwrap(),
        format!("{USER}\n{USER} {}\n", fingerprint())
    );
    assert!(agreed.documents.iter().all(|document| document["equal"] == true));
}

#[test]
fn a_key_that_only_the_other_gives_is_a_difference_with_our_reason() {
    let bench = Bench::new();
    bench.simulator.push(USER, KEY_LINE);
    bench.simulator.tamper(USER, "user/alice", "user/bob");
    let different = bench.compare(&format!("echo '{KEY_LINE}'"));
    assert_eq!(different.code, Some(1), "{}", different.text);
    let document = &different.documents[0];
    assert_eq!(
        (
            &document["equal"],
            &document["only_ours"],
            &document["only_theirs"]
        ),
        (&json!(false), &json!([]), &json!([fingerprint()]))
    );
    assert_eq!(document["records"][0]["reason"], "record-signature");
    bench.simulator.restore();
    assert_eq!(bench.compare(&format!("echo '{KEY_LINE}'")).code, Some(0));
}

#[test]
fn a_line_with_options_and_a_key_that_the_other_lacks_are_differences() {
    let bench = Bench::new();
    bench.simulator.push(USER, KEY_LINE);
    let document = &bench
        .compare(&format!("echo 'cert-authority {KEY_LINE}'"))
        .documents[0];
    assert_eq!(document["only_ours"], json!([fingerprint()]));
    assert!(
        document["only_theirs"][0]
            .as_str()
            .unwrap()
            .starts_with("line \"cert-authority"),
        "{document}"
    );
    let silent = bench.compare("exit 0");
    assert_eq!(
        (silent.code, &silent.documents[0]["only_ours"]),
        (Some(1), &json!([fingerprint()]))
    );
}

#[test]
fn a_command_that_fails_gives_nothing_as_for_sshd() {
    let bench = Bench::new();
    bench.simulator.push(USER, KEY_LINE);
    for (end, word) in [("exit 3", "exit 3"), ("kill -9 $$", "signal 9")] {
        let failed = bench.compare(&format!("echo '{KEY_LINE}'; {end}"));
        let theirs = &failed.documents[0]["theirs"];
        assert_eq!(
            (failed.code, &theirs["keys"]),
            (Some(1), &json!(0)),
            "{}",
            failed.text
        );
        assert!(theirs["note"].as_str().unwrap().contains(word), "{theirs}");
    }
    // Nothing on both sides is no difference, however it came about.
    bench.simulator.expire_keys();
    bench.simulator.push("somebody-else", KEY_LINE);
    let nobody = bench.compare("exit 3");
    assert!(
        nobody
            .documents
            .iter()
            .all(|document| document["ours"]["keys"] == 0)
    );
    assert_eq!(nobody.code, Some(0), "{}", nobody.text);
}

#[test]
fn a_command_that_floods_or_hangs_is_different_and_leaves_nobody_behind() {
    let bench = Bench::new();
    let flood = bench.compare("exec yes");
    let note = flood.documents[0]["theirs"]["note"].as_str().unwrap().to_owned();
    assert!(
        flood.code == Some(1) && note.contains("printed more than"),
        "{}",
        flood.text
    );

    let pids = bench.directory.path().join("pids");
    let hang = bench.compare(&format!(
        "sleep 1000 & echo $! >{0}; echo $$ >>{0}; wait",
        pids.display()
    ));
    let note = hang.documents[0]["theirs"]["note"].as_str().unwrap().to_owned();
    assert!(
        hang.code == Some(1) && note.contains("did not end"),
        "{}",
        hang.text
    );
    // A child whose parent died first is reaped by init, in its own time.
    let is_alive = |pid: &str| {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|state| !state.contains(") Z "))
    };
    let pids = fs::read_to_string(pids).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while pids.lines().any(is_alive) {
        assert!(Instant::now() < deadline, "still alive: {pids}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_command_that_cannot_be_run_and_missing_words_are_status_two() {
    let bench = Bench::new();
    let status = |words: &[&str]| bench.command(words).output().unwrap().status.code();
    assert_eq!(
        status(&["--user", USER, "--with", "/nonexistent/command"]),
        Some(2)
    );
    assert_eq!(status(&["--user", USER]), Some(2));
    assert_eq!(status(&["--with", "/bin/true"]), Some(2));
    assert_eq!(status(&["--user", USER, "--with", "/bin/true"]), Some(0));
}

#[test]
fn a_watch_compares_once_for_each_new_document() {
    let bench = Bench::new();
    let stub = bench.stub(&format!("echo '{KEY_LINE}'"));
    bench.simulator.push(USER, KEY_LINE);
    let words = [
        "--json",
        "--watch",
        "--user",
        "nobody-here",
        "--user",
        USER,
        "--with",
        &stub,
    ];
    let mut watch = bench.command(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&output.next().unwrap().unwrap()).unwrap() };
    for _ in 0..2 {
        let document = next();
        assert_eq!(
            (&document["user"], &document["equal"]),
            (&json!(USER), &json!(true)),
            "{document}"
        );
    }
    // Nothing more is said of this document; the next line is of the next one.
    bench.simulator.tamper(USER, "user/alice", "user/bob");
    let document = next();
    assert_eq!(
        (&document["equal"], &document["records"][0]["reason"]),
        (&json!(false), &json!("record-signature")),
        "{document}"
    );
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn root_compares_as_the_helpers_user_and_a_difference_is_logged() {
    let name = "root_compares_as_the_helpers_user_and_a_difference_is_logged";
    in_namespaces(name, || {
        let Instance {
            simulator,
            log,
            directory: _directory,
        } = Instance::new(World::nitro(INSTANCE));
        let stub = Path::new("/opt/aws/bin/stub");
        write_script(
            stub,
            &format!(
                "[ \"$(id -u) $USER $HOME\" = '64123 ec2-instance-connect /nonexistent' ] && echo '{KEY_LINE}'"
            ),
        );
        sh(&format!(
            "install -m 0755 {TOOL} /opt/aws/bin/ec2-instance-connect"
        ));
        simulator.push(USER, KEY_LINE);
        let compare = || {
            Command::new("/opt/aws/bin/ec2-instance-connect")
                .args(["compare", "--user", USER, "--with", "/opt/aws/bin/stub"])
                .output()
                .unwrap()
        };
        let equal = compare();
        assert_eq!(equal.status.code(), Some(0), "{equal:?}");
        assert_eq!(lines(&log), Vec::<String>::new());
        simulator.tamper(USER, "user/alice", "user/bob");
        let different = compare();
        assert_eq!(different.status.code(), Some(1), "{different:?}");
        let said = lines(&log);
        let line = format!(
            "Compared EC2 Instance Connect keys for {USER}: different only-ours=0 only-theirs=1 detail=\"our reasons: \
             record-signature\""
        );
        assert!(said.iter().any(|said| said.ends_with(&line)), "{said:#?}");
    });
}
