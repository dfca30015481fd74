//! `config check` says of a file what the helper does with it.
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

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use common::run::with_config;
use serde_json::{Value, json};

const TOOL: &str = env!("CARGO_BIN_EXE_ec2-instance-connect");

fn check(words: &[&str]) -> Output {
    Command::new(TOOL)
        .args(["config", "check"])
        .args(words)
        .output()
        .unwrap()
}

fn lines(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The verdict on a file with this text: the lines without the file's name, and the JSON form.
#[track_caller]
fn verdict(text: &[u8], mode: u32) -> (String, Value, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    verdict_on(&path)
}

#[track_caller]
fn verdict_on(path: &Path) -> (String, Value, Vec<String>) {
    let name = path.to_str().unwrap();
    let plain = check(&[name]);
    let shown = lines(&plain).replace(name, "FILE");
    let machine = check(&["--json", name]);
    let json: Value = serde_json::from_slice(&machine.stdout).unwrap();
    assert_eq!(json["schema"], "ec2-instance-connect/config-check/1");
    assert_eq!(json["file"], name);
    let exit = i32::from(json["sound"] == json!(false));
    assert_eq!(
        (plain.status.code(), machine.status.code()),
        (Some(exit), Some(exit))
    );
    // What the helper does with the very same file; on this machine it gets no further than that.
    let helper = with_config(path, &["ec2-user"]);
    let reasons: Vec<String> = helper.reasons().into_iter().map(str::to_owned).collect();
    if reasons == ["config"] && json["problems"][0]["line"].is_number() {
        let (line, column) = (&json["problems"][0]["line"], &json["problems"][0]["column"]);
        let place = format!("{name}:{line}:{column}: ");
        assert!(
            helper.stderr.contains(&place),
            "{place} is not in {}",
            helper.stderr
        );
    }
    (shown, json, reasons)
}

#[test]
fn configuration_that_is_shipped_is_sound_also_with_every_default_written_out() {
    let shipped = include_str!("../packaging/config.toml");
    let (shown, json, _) = verdict(shipped.as_bytes(), 0o644);
    assert_eq!(shown, "FILE: sound\n");
    assert_eq!((&json["present"], &json["problems"]), (&json!(true), &json!([])));

    let is_setting = |line: &&str| {
        line.starts_with("#[[") || (line.starts_with('#') && line.contains(" = ") && !line.starts_with("# "))
    };
    assert!(shipped.lines().filter(is_setting).count() > 5);
    let written: Vec<&str> = shipped
        .lines()
        .map(|line| {
            if is_setting(&line) {
                line.trim_start_matches('#')
            } else {
                line
            }
        })
        .collect();
    let (shown, _, reasons) = verdict(written.join("\n").as_bytes(), 0o644);
    // Examples name programs that this machine need not have, which is a warning's affair.
    assert!(
        shown.ends_with("FILE: sound\n") && !shown.contains(": error: "),
        "{shown}"
    );
    assert!(!reasons.contains(&"config".to_owned()));
}

#[test]
fn mistake_is_named_with_line_and_column_and_the_helper_refuses_that_place() {
    for (text, place, word) in [
        (&b"[trust]\nocps = \"require\"\n"[..], "2:1", "ocps"),
        (b"\n[trusts]\n", "2:2", "trusts"),
        (b"[trust]\nocsp = \"maybe\"\n", "2:8", "maybe"),
        (
            "# \u{e9}\u{e9}\n[log]\nlevel = \"\u{e9}\" x\n".as_bytes(),
            "3:13",
            "",
        ),
        (
            b"[imds]\nendpoint = \"http://metadata.example\"\n",
            "2:12",
            "literal address",
        ),
        (
            b"[imds]\nrequest_timeout_ms = 99\n",
            "2:22",
            "between 100 and 5000",
        ),
        (b"[log]\nlevel = \"in\xfffo\"\n", "2:12", "UTF-8"),
    ] {
        let (shown, json, reasons) = verdict(text, 0o644);
        let head = format!("FILE:{place}: error: ");
        assert!(shown.starts_with(&head) && shown.contains(word), "{shown}");
        assert_eq!(shown.lines().count(), 1, "{shown}");
        assert_eq!(json["problems"][0]["severity"], "error");
        assert_eq!(reasons, ["config"], "the helper takes {shown}");
    }
}

#[test]
fn file_that_others_may_write_and_one_that_is_missing_are_refused() {
    let (shown, json, reasons) = verdict(b"", 0o666);
    assert!(
        shown.starts_with("FILE: error: may be written by others"),
        "{shown}"
    );
    assert_eq!(
        (&json["present"], reasons.as_slice()),
        (&json!(true), &["config".to_owned()][..])
    );

    let (shown, json, reasons) = verdict_on(Path::new("/nonexistent/config.toml"));
    assert_eq!(shown, "FILE: error: no such file\n");
    assert_eq!(
        (&json["present"], reasons.as_slice()),
        (&json!(false), &["config".to_owned()][..])
    );
}

#[test]
fn anchors_that_cannot_be_had_are_an_error_and_a_weaker_policy_is_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("anchors.pem");
    let text = format!("[trust]\nanchors = \"{}\"\n", bundle.display());
    let (shown, json, _) = verdict(text.as_bytes(), 0o644);
    assert!(shown.starts_with("FILE: error: [trust] anchors: "), "{shown}");
    assert_eq!(json["sound"], false);
    fs::write(&bundle, "no certificate").unwrap();
    let (shown, ..) = verdict(text.as_bytes(), 0o644);
    assert!(shown.contains("holds no certificate"), "{shown}");

    let weak =
        b"[trust]\nocsp = \"if-present\"\n[imds]\nrequest_timeout_ms = 2000\ntotal_timeout_ms = 1000\n";
    let (shown, json, _) = verdict(weak, 0o644);
    let severities: Vec<&Value> = json["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| &problem["severity"])
        .collect();
    assert_eq!(severities, ["warning", "warning"]);
    assert!(shown.ends_with("FILE: sound\n"), "{shown}");
}

#[test]
fn foreign_bytes_in_name_and_text_reach_no_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("\u{1b}[31m.toml");
    fs::write(&path, "\"\\u001b]0;x\\u0007\" = 1\n\"\u{9b}\" = 2\n").unwrap();
    let output = check(&[path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = lines(&output);
    assert!(
        shown
            .trim_end()
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic()),
        "{shown:?}"
    );
}

#[test]
fn wrong_usage_is_status_two() {
    for words in [&["a", "b"][..], &["--nonsense"]] {
        assert_eq!(check(words).status.code(), Some(2), "{words:?}");
    }
    let bare = Command::new(TOOL).arg("config").output().unwrap();
    assert_eq!(bare.status.code(), Some(2));
}
