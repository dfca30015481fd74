//! The command line: statuses, streams, generated files, and a documentation that knows every code.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails loudly"
)]

use std::fs;
use std::process::{Command, Output};

use ec2_instance_connect::sshd::reason::{Noted, Refused};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ec2-instance-connect"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn wrong_usage_is_status_two_and_silent_on_stdout() {
    for arguments in [
        &["setup"][..],
        &["setup", "nonsense"],
        &["setup", "apply", "--nonsense"],
        &["nonsense"],
        &[],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn help_and_version_are_status_zero() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["setup", "--help"],
        &["setup", "remove", "--help"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn refusal_is_one_json_document_on_stdout() {
    let output = run(&["setup", "status", "--root", "/nonexistent", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["schema"], "ec2-instance-connect/setup/1");
    assert_eq!(
        (json["result"].as_str(), json["refusal"]["code"].as_str()),
        (Some("refused"), Some("io"))
    );
    assert!(output.stderr.is_empty());
}

#[test]
fn empty_image_is_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["setup", "status", "--root", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("refused [") && text.contains("what to do: "),
        "{text}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn man_pages_and_completions_come_from_the_same_definition() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    for what in ["man", "completions"] {
        assert!(run(&["generate", what, path]).status.success());
    }
    let page = fs::read_to_string(dir.path().join("ec2-instance-connect-setup-remove.8")).unwrap();
    for word in [
        "setup\\-remove",
        "\\-\\-package",
        "\\-\\-no\\-reload",
        "\\-\\-root",
        "setup.off",
    ] {
        assert!(page.contains(word), "{word}: {page}");
    }
    assert!(
        fs::read_to_string(dir.path().join("ec2-instance-connect.8"))
            .unwrap()
            .contains("setup")
    );
    // Each subcommand that --help names has a page, and each option of its own --help is in that.
    let text = |words: &[&str]| String::from_utf8(run(words).stdout).unwrap();
    let (_, rest) = text(&["--help"])
        .split_once("Commands:\n")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let listed = rest.lines().take_while(|line| line.starts_with("  "));
    let subcommands: Vec<&str> = listed
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(subcommands.len() >= 8, "{subcommands:?}");
    let option = regex::Regex::new("--[a-z][a-z-]+").unwrap();
    for name in subcommands {
        let page = fs::read_to_string(dir.path().join(format!("ec2-instance-connect-{name}.8")))
            .unwrap()
            .replace("\\-", "-");
        let help = text(&[name, "--help"]);
        let options = help.split_once("Options:").map_or("", |(_, options)| options);
        for word in option.find_iter(options) {
            assert!(
                page.contains(word.as_str()),
                "{name}: {} is not in its page",
                word.as_str()
            );
        }
    }
    for file in [
        "ec2-instance-connect",
        "_ec2-instance-connect",
        "ec2-instance-connect.fish",
    ] {
        let text = fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(text.contains("no-reload"), "{file}");
    }
}

#[test]
fn every_code_is_documented() {
    let manual = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SETUP.md")).unwrap();
    let refused = Refused::ALL.iter().map(|code| code.code());
    for code in refused.chain(Noted::ALL.iter().map(|code| code.code())) {
        assert!(
            manual.contains(&format!("| `{code}` |")),
            "{code} is not in docs/SETUP.md"
        );
    }
}
