//! `eic-simulator` as a program: starts, says what a helper needs to know, obeys, ends.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_eic-simulator");
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

struct Served {
    child: Child,
    output: String,
    api: String,
    state: TempDir,
}

impl Served {
    fn start(arguments: &[&str]) -> Self {
        let state = TempDir::new().expect("a directory");
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--state"])
            .arg(state.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut output = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut api = String::new();
        while api.is_empty() && lines.read_line(&mut output).expect("text") > 0 {
            let ready = output
                .lines()
                .last()
                .and_then(|line| line.split_once("READY api="));
            api = ready
                .and_then(|(_, rest)| rest.split(' ').next())
                .unwrap_or_default()
                .to_owned();
        }
        assert!(!api.is_empty(), "{output}");
        Self {
            child,
            output,
            api,
            state,
        }
    }

    fn client(&self, arguments: &[&str]) -> (bool, String) {
        let output = Command::new(PROGRAM)
            .args(arguments)
            .args(["--api", &self.api])
            .output()
            .expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    fn ends(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn standard_output_is_a_configuration_that_names_what_is_there() {
    let served = Served::start(&["--region", "eu-west-1"]);
    let config: toml::Table = toml::from_str(&served.output).expect("TOML");
    let endpoint = config["imds"]["endpoint"]
        .as_str()
        .expect("text")
        .replace("http://", "");
    assert!(TcpStream::connect(endpoint).is_ok());
    assert!(Path::new(config["trust"]["anchors"].as_str().expect("text")).is_file());
    let tag = Path::new(config["instance"]["sysfs"].as_str().expect("text"))
        .join("devices/virtual/dmi/id/board_asset_tag");
    assert_eq!(
        std::fs::read_to_string(tag).expect("a file"),
        "i-0123456789abcdef0\n"
    );
    assert!(served.client(&["instances"]).1.contains("\"eu-west-1\""));
}

#[test]
fn terminate_signal_ends_it_well() {
    let mut served = Served::start(&[]);
    let killed = Command::new("kill")
        .arg(served.child.id().to_string())
        .status()
        .expect("kill runs");
    assert!(killed.success() && served.ends());
}

#[test]
fn end_of_standard_input_ends_it_only_where_asked() {
    let mut asked = Served::start(&["--until-stdin-closes"]);
    let mut not_asked = Served::start(&[]);
    drop(asked.child.stdin.take());
    drop(not_asked.child.stdin.take());
    assert!(asked.ends());
    assert!(not_asked.client(&["instances"]).0);
}

#[test]
fn commands_push_tamper_rotate_and_break_things() {
    let served = Served::start(&["--key-lifetime", "600"]);
    let key = served.state.path().join("key.pub");
    std::fs::write(&key, format!("{KEY} me@here\n")).expect("a writable directory");
    let key = key.to_string_lossy().into_owned();
    let (pushed, said) = served.client(&["push", "--user", "ec2-user", "--key", &key]);
    assert!(pushed && said.contains("requestId"), "{said}");
    for command in [
        &["tamper", "--user", "ec2-user", "--from", "alice", "--to", "root"][..],
        &[
            "put",
            "--path",
            "/latest/meta-data/placement/region",
            "--text",
            "us-west-1",
        ],
        &[
            "fault",
            "--prefix",
            "/latest/meta-data/",
            "--times",
            "1",
            "status=503",
        ],
        &[
            "fault",
            "--path",
            "/latest/api/token",
            "--method",
            "PUT",
            "drip=1,50",
        ],
        &[
            "api-fault",
            "--path",
            "SendSSHPublicKey",
            "exception=ThrottlingException",
        ],
        &["clear-faults"],
        &["restore"],
        &["rotate"],
        &["expire"],
    ] {
        let (done, said) = served.client(command);
        assert!(done && said.is_empty(), "{command:?}: {said}");
    }
    let (found, said) = served.client(&["expire", "--instance", "i-00000000"]);
    assert!(!found && said.contains("there is no instance"), "{said}");
}

#[test]
fn wrong_usage_is_said_with_status_2() {
    for arguments in [
        &["dance"][..],
        &["serve", "--moon"],
        &["push"],
        &["fault", "--api", "x", "rain"],
    ] {
        let output = Command::new(PROGRAM).args(arguments).output().expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}

#[test]
fn several_instances_are_served_at_once() {
    let second = "i-0fedcba9876543210";
    let served = Served::start(&[
        "--instance",
        "i-0123456789abcdef1",
        "--instance",
        second,
        "--region",
        "cn-north-1",
        "--xen",
    ]);
    let all = served.client(&["instances"]).1;
    assert!(
        all.contains("i-0123456789abcdef1") && all.contains(second) && all.contains("cn-north-1"),
        "{all}"
    );
    assert!(!all.contains("i-0123456789abcdef0"), "{all}");
    let xen = served.state.path().join(second).join("sysfs/hypervisor/uuid");
    assert!(std::fs::read_to_string(xen).expect("a file").starts_with("ec2"));
}
