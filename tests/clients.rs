//! Keys pushed by unmodified AWS clients, and real logins with them.
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
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::case::INSTANCE;
use common::sshd::{Sshd, command, myself, tools};
use eic_simulator::principals::{ALICE, BUILDER, MALLORY};
use eic_simulator::{Simulator, World};

/// The virtual environment that `tests/requirements` makes.
fn clients(test: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache =
        std::env::var_os("EIC_CACHE").map_or_else(|| home.join(".cache/ec2-instance-connect"), PathBuf::from);
    let bin = cache.join("aws-clients-1/bin");
    if bin.join("aws").exists() && bin.join("mssh").exists() && tools(test) {
        return Some(bin);
    }
    common::skip(test, "needs the AWS clients: tests/requirements installs them");
    None
}

/// A client's environment: our simulator for AWS, nothing of the user's own.
fn client(bin: &Path, program: &str, simulator: &Simulator, access_key: &str, home: &Path) -> Command {
    let mut command = Command::new(bin.join(program));
    let path = std::env::var("PATH").unwrap();
    command
        .env_clear()
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("HOME", home)
        .envs([
            ("AWS_ACCESS_KEY_ID", access_key),
            ("AWS_SECRET_ACCESS_KEY", "none"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_PAGER", ""),
        ]);
    command.env("AWS_ENDPOINT_URL", simulator.api_endpoint());
    command
}

fn send(command: &mut Command, user: &str, key: &Path) -> Output {
    command
        .args([
            "ec2-instance-connect",
            "send-ssh-public-key",
            "--instance-id",
            INSTANCE,
            "--instance-os-user",
            user,
        ])
        .args([
            "--availability-zone",
            "us-east-1a",
            "--ssh-public-key",
            &format!("file://{}", key.display()),
        ])
        .output()
        .unwrap()
}

#[test]
fn key_pushed_by_the_aws_command_line_logs_in() {
    let Some(bin) = clients("key_pushed_by_the_aws_command_line_logs_in") else {
        return;
    };
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let me = myself();
    let sshd = Sshd::start("127.0.0.1", &command(&simulator), &me);
    let home = tempfile::tempdir().unwrap();
    sshd.keeps_out(&me, "key");

    let output = send(
        &mut client(&bin, "aws", &simulator, BUILDER, home.path()),
        &me,
        &sshd.file("key.pub"),
    );
    assert!(output.status.success(), "{output:?}");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["Success"], true);
    sshd.lets_in(&me, "key");
    sshd.keeps_out(&me, "other");

    // The record holds what the log, CloudTrail and the client say alike.
    let record = String::from_utf8(simulator.document(&me).unwrap()).unwrap();
    assert!(
        record.contains(&format!("#Request={}", answer["RequestId"].as_str().unwrap())),
        "{record}"
    );
    assert!(
        record.contains("#Caller=arn:aws:sts::123456789012:assumed-role/Builder/nightly\n"),
        "{record}"
    );
    assert_eq!(
        simulator.trail().last().unwrap()["requestID"],
        answer["RequestId"]
    );
}

#[test]
fn push_that_iam_denies_gives_no_login() {
    let Some(bin) = clients("push_that_iam_denies_gives_no_login") else {
        return;
    };
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let me = myself();
    let sshd = Sshd::start("127.0.0.1", &command(&simulator), &me);
    let home = tempfile::tempdir().unwrap();
    let output = send(
        &mut client(&bin, "aws", &simulator, MALLORY, home.path()),
        &me,
        &sshd.file("key.pub"),
    );
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("AccessDeniedException"),
        "{output:?}"
    );
    sshd.keeps_out(&me, "key");
    let output = send(
        &mut client(&bin, "aws", &simulator, ALICE, home.path()),
        &me,
        &sshd.file("key.pub"),
    );
    assert!(output.status.success(), "{output:?}");
    sshd.lets_in(&me, "key");
}

#[test]
fn mssh_logs_in() {
    let Some(bin) = clients("mssh_logs_in") else {
        return;
    };
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let me = myself();
    let sshd = Sshd::start("127.0.0.1", &command(&simulator), &me);
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".ssh")).unwrap();
    let output = client(&bin, "mssh", &simulator, ALICE, home.path())
        .args([
            "-r",
            "us-east-1",
            "-F",
            "/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
        ])
        .args([
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-p",
            &sshd.port().to_string(),
        ])
        .arg(format!("{me}@{INSTANCE}"))
        // mssh gives its words to a shell of its own first.
        .arg("id -un")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.trim(), me, "{output:?}\n{}", sshd.log());
}
