//! Colour is for people at a terminal: not for a pipe, not with NO_COLOR, not in JSON.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that fails shall say so at once"
)]

mod common;

use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};

use common::case::{INSTANCE, KEY_LINE};
use eic_simulator::{Simulator, World};

const TOOL: &str = env!("CARGO_BIN_EXE_ec2-instance-connect");
const USER: &str = "ec2-user";

/// What the command writes to standard output, a terminal.
fn on_terminal(words: &[&str], variables: &[(&str, &str)]) -> String {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut command = Command::new(TOOL);
    command
        .args(words)
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::from(terminal.slave))
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // The command holds our copy of the slave; without it gone the terminal would never end.
    drop(command);
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let mut master = File::from(terminal.master);
    while let Ok(read @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..read]);
    }
    child.wait().unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn every_page_is_coloured_on_a_terminal_and_plain_elsewhere() {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    simulator.push(USER, KEY_LINE);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let config = simulator.config_file();
    let config = config.to_str().unwrap();
    let capture = path("capture");
    let captured = Command::new(TOOL)
        .args(["capture", &capture, "--user", USER, "--config", config])
        .status()
        .unwrap();
    assert!(captured.success());
    std::fs::write(path("bad.toml"), "x = 1\n").unwrap();
    let log = format!(
        "{}/tests/history/debian-openssh-9.2.auth.log",
        env!("CARGO_MANIFEST_DIR")
    );
    let bad = path("bad.toml");
    for words in [
        &["doctor", "--user", USER][..],
        &["explain", "--here", "--config", config, USER],
        // As the helper's user where there is one: its child has the terminal.
        &["explain", "--config", config, USER],
        &["verify", &capture],
        &["selftest", "--config", config],
        &["history", "--log", &log],
        &["config", "check", &bad],
    ] {
        let coloured = on_terminal(words, &[]);
        assert!(
            coloured.contains("\x1b[3") && coloured.contains("\x1b[0m"),
            "{words:?}: {coloured}"
        );
        for variables in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let plain = on_terminal(words, &[variables]);
            assert!(
                !plain.contains('\x1b') && !plain.is_empty(),
                "{words:?}, {variables:?}: {plain}"
            );
        }
        // no-color.org: set and empty is not set.
        assert!(
            on_terminal(words, &[("NO_COLOR", "")]).contains("\x1b["),
            "{words:?}"
        );
        let piped = Command::new(TOOL).args(words).output().unwrap();
        assert!(
            !piped.stdout.contains(&0x1b) && !piped.stdout.is_empty(),
            "{words:?}: {piped:?}"
        );
        let (command, rest) = words.split_at(if words[0] == "config" { 2 } else { 1 });
        let json = on_terminal(&[command, &["--json"], rest].concat(), &[]);
        assert!(
            !json.contains('\x1b') && json.starts_with('{'),
            "{words:?}: {json}"
        );
    }
}
