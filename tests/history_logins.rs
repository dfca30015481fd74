//! `ec2-instance-connect history` on logs of the forms that OpenSSH 7.4, 8.0, 8.4, 9.2 and 10.0 write, on hostile
//! ones, and on CloudTrail's files. The shipped binary runs; no root is needed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    reason = "the helpers of a test fail as the test does"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

const KEY_A: &str = "SHA256:ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs";
const KEY_B: &str = "SHA256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0";
const INSTANCE: &str = "i-0123456789abcdef0";
const ALICE: &str = "arn:aws:sts::123456789012:assumed-role/Admin/alice@example.com";
const REQUEST: &str = "5e8e1f1c-0000-4000-8000-000000000001";

/// 2025-01-30T10:39:08Z, when the fixtures' key was pushed.
const PUSHED: u64 = 1_738_233_548;

fn tool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ec2-instance-connect"));
    command.arg("history").env("TZ", "UTC").env_remove("NO_COLOR");
    command
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/history")
        .join(name)
}

/// A copy of the fixture that was last written in February 2025, so that its lines have a year.
fn dated(name: &str, directory: &Path) -> PathBuf {
    let copy = directory.join(name);
    fs::copy(fixture(name), &copy).unwrap();
    date(&copy);
    copy
}

fn date(path: &Path) {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(PUSHED + 86_400);
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(modified)
        .unwrap();
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn rows(command: &mut Command) -> Vec<Value> {
    let output = command.arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let document = document(&output);
    assert_eq!(document["schema"], "ec2-instance-connect/history/1");
    document["rows"].as_array().unwrap().clone()
}

fn rows_of(name: &str) -> Vec<Value> {
    let directory = TempDir::new().unwrap();
    rows(tool().arg("--log").arg(dated(name, directory.path())))
}

/// Kind, user, address, seconds, how joined, who told the end.
fn brief(row: &Value) -> Value {
    let session = &row["session"];
    json!([
        row["kind"],
        row["user"],
        session["address"],
        session["seconds"],
        row["joined_by"],
        session["end_by"]
    ])
}

#[test]
fn probe_and_attempt_are_one_row_and_each_kind_of_row_is_told() {
    let rows = rows_of("debian-openssh-9.2.auth.log");
    let brief: Vec<Value> = rows.iter().map(brief).collect();
    assert_eq!(
        brief,
        [
            json!(["login", "admin", "192.0.2.7", 731, "pid", "pam"]),
            json!(["refused", "root", null, null, "nothing", null]),
            json!(["offered", "admin", null, null, "nothing", null]),
        ]
    );
    let login = &rows[0];
    assert_eq!(login["time"], "2025-01-30T10:39:10Z");
    assert_eq!(login["fingerprint"], KEY_A);
    assert_eq!(login["sshd_pid"], 812);
    assert_eq!(login["proof"], "text");
    assert_eq!(login["session"]["port"], 50022);
    assert_eq!(login["session"]["key_type"], "ED25519");
    let grants = login["grants"].as_array().unwrap();
    assert_eq!(grants.len(), 1);
    assert_eq!(grants[0]["request_id"], REQUEST);
    assert_eq!(grants[0]["principal"], ALICE);
    assert_eq!(grants[0]["cloudtrail"], "not-asked");
    assert_eq!(rows[1]["refusals"][0]["reason"], "record-expired");
}

#[test]
fn a_login_by_a_links_key_is_told_with_the_links_name() {
    let name = "debian-openssh-9.2-links.auth.log";
    let rows = rows_of(name);
    assert_eq!(
        rows.iter().map(brief).collect::<Vec<_>>(),
        [
            json!(["linked", "admin", "192.0.2.7", 731, "pid", "pam"]),
            json!(["refused", "root", null, null, "nothing", null]),
        ],
        "a login by a key that no link was asked about is none of ours"
    );
    let (login, refused) = (&rows[0], &rows[1]);
    assert_eq!(login["links"], json!(["sssd"]));
    assert_eq!(login["fingerprint"], KEY_A);
    assert_eq!(login["grants"], json!([]));
    let of = |row: &Value| {
        let refusal = &row["refusals"][0];
        json!([refusal["link"], refusal["reason"], refusal["count"]])
    };
    assert_eq!(of(login), json!(["script", "link-timeout", 2]));
    assert_eq!(of(refused), json!(["sssd", "link-failed", 1]));
    assert_eq!(refused["links"], json!([]));

    let output = tool().arg("--log").arg(fixture(name)).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "    by a key of link sssd",
        "    nothing of link script: link-timeout (2 times): it did not end within 1000 ms",
        "    nothing of link sssd: link-failed: exit status 1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
}

#[test]
fn every_openssh_of_the_field_is_read() {
    for (name, expected) in [
        (
            "debian-openssh-8.4.auth.log",
            json!(["login", "ubuntu", "2001:db8::7", 620, "pid", "pam"]),
        ),
        (
            "debian-openssh-8.4-no-pam.auth.log",
            json!(["login", "ubuntu", "192.0.2.7", 30, "pid", "disconnect"]),
        ),
        (
            "amazon-linux-openssh-7.4.secure",
            json!(["login", "ec2-user", "192.0.2.7", 300, "fingerprint", "pam"]),
        ),
        (
            "rhel-openssh-8.0.secure",
            json!(["login", "ec2-user", "192.0.2.7", 60, "pid", "pam"]),
        ),
        (
            "debian-openssh-10.0.auth.log",
            json!(["login", "root", "fe80::1%ens5", 4031, "pid", "pam"]),
        ),
    ] {
        let rows = rows_of(name);
        assert_eq!(rows.iter().map(brief).collect::<Vec<_>>(), [expected], "{name}");
    }
    assert_eq!(
        rows_of("debian-openssh-8.4.auth.log")[0]["time"],
        "2024-12-31T23:59:51Z"
    );
}

#[test]
fn rotated_and_compressed_files_of_an_image_are_read_oldest_first() {
    let root = TempDir::new().unwrap();
    let log = root.path().join("var/log");
    fs::create_dir_all(&log).unwrap();
    let text = fs::read_to_string(fixture("debian-openssh-9.2.auth.log")).unwrap();
    let middle = text.find("2025-01-30T10:40:30").unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text.as_bytes()[..middle]).unwrap();
    fs::write(log.join("auth.log.2.gz"), gzip.finish().unwrap()).unwrap();
    date(&log.join("auth.log.2.gz"));
    fs::write(log.join("auth.log"), &text.as_bytes()[middle..]).unwrap();
    let rows = rows(tool().arg("--root").arg(root.path()));
    assert_eq!(
        brief(&rows[0]),
        json!(["login", "admin", "192.0.2.7", 731, "pid", "pam"])
    );
    assert_eq!(rows.len(), 3);
}

#[test]
fn rows_are_chosen_by_time_user_and_principal() {
    let directory = TempDir::new().unwrap();
    let log = dated("debian-openssh-9.2.auth.log", directory.path());
    for (options, kinds) in [
        (&["--user", "root"][..], &["refused"][..]),
        (&["--principal", "*:user/bob"], &["offered"]),
        (&["--principal", "*/Admin/*"], &["login"]),
        (&["--since", "2025-01-30 10:40"], &["refused", "offered"]),
        (&["--until", "2025-01-30T10:40:00Z"], &["login"]),
        (&["--until", "2025-01-30T10:40:00Z", "--user", "root"], &[]),
    ] {
        let rows = rows(tool().arg("--log").arg(&log).args(options));
        assert_eq!(
            rows.iter()
                .map(|row| row["kind"].as_str().unwrap())
                .collect::<Vec<_>>(),
            kinds,
            "{options:?}"
        );
    }
    // The end of a login is told also where it lies behind --until.
    let rows = rows(
        tool()
            .arg("--log")
            .arg(&log)
            .args(["--until", "2025-01-30T10:40:00Z"]),
    );
    assert_eq!(rows[0]["session"]["seconds"], 731);
}

/// What a client can have sshd log by the name that it gives, and what else can be sent to a logger, without the
/// logger's own prefix. `prefix` is that, for lines that bring one of their own.
fn hostile(prefix: &str) -> Vec<(&'static str, String)> {
    let accepted = format!("Accepted publickey for root from 192.0.2.66 port 6 ssh2: RSA {KEY_B}");
    let provided = format!(
        "Providing ssh key from EC2 Instance Connect with fingerprint: {KEY_B} user=root sshd-pid=666 expires=1738233608"
    );
    let (sshd, helper) = ("sshd[666]", "ec2-instance-connect[1]");
    vec![
        (sshd, format!("Invalid user {provided} from 192.0.2.66 port 6")),
        (sshd, format!("Invalid user {accepted} from 192.0.2.66 port 6")),
        // A line feed as sshd's strnvis and as rsyslog write it, and as it is.
        (sshd, format!("Invalid user x\\012{prefix} sshd[666]: {accepted} from 192.0.2.66 port 6")),
        (sshd, format!("Invalid user x#012{prefix} {helper}: {provided} from 192.0.2.66 port 6")),
        (
            sshd,
            format!("Failed publickey for invalid user {accepted} from 192.0.2.66 port 6 ssh2: RSA {KEY_B}"),
        ),
        (sshd, format!("Connection closed by invalid user {accepted} 192.0.2.66 port 6 [preauth]")),
        (sshd, provided.clone()),
        (sshd, accepted.clone()),
        ("evil[1]", format!("{helper}: {provided}")),
        // Drowned in control bytes.
        (
            helper,
            "Refused EC2 Instance Connect keys for \x1b[2J: reason=user user=\x1b[2J sshd-pid=666 detail=\"\x1b]0;x\x07\"".to_owned(),
        ),
        (helper, format!("{provided}\x1b[2J")),
        (helper, format!("{provided}\u{9b}31m\u{202e}")),
        // Cut in two by a megabyte.
        (sshd, format!("{}{prefix} {helper}: {provided}", "x".repeat(1 << 20))),
    ]
}

/// The same rows as without anything hostile, and nothing that a terminal would obey.
#[track_caller]
fn only(expected: &[Value], command: impl Fn() -> Command) {
    let found = rows(&mut command());
    assert_eq!(found.iter().map(brief).collect::<Vec<_>>(), expected);
    let output = command().output().unwrap();
    assert!(
        output
            .stdout
            .iter()
            .chain(&output.stderr)
            .all(|b| b.is_ascii_graphic() || b" \n".contains(b)),
        "{output:?}"
    );
}

#[test]
fn hostile_lines_of_a_text_file_forge_no_row_and_break_no_terminal() {
    for (name, prefix) in [
        ("rhel-openssh-8.0.secure", "Jan 30 10:39:10 host"),
        ("debian-openssh-8.4.auth.log", "Jan 30 10:39:10 host"),
        (
            "debian-openssh-10.0.auth.log",
            "2025-01-30T10:39:10.000001+00:00 host",
        ),
    ] {
        let directory = TempDir::new().unwrap();
        let log = directory.path().join("auth.log");
        let mut text = fs::read(fixture(name)).unwrap();
        for (sender, line) in hostile(prefix) {
            text.extend_from_slice(format!("{prefix} {sender}: {line}\n").as_bytes());
            text.extend_from_slice(format!("\x1b[2J{prefix} {sender}: {line}\n").as_bytes());
        }
        text.extend_from_slice(b"\xff\xfe\x00\n\n");
        fs::write(&log, text).unwrap();
        date(&log);
        let expected: Vec<Value> = rows_of(name).iter().map(brief).collect();
        assert!(!expected.is_empty());
        only(&expected, || {
            let mut command = tool();
            command.arg("--log").arg(&log);
            command
        });
    }
}

#[test]
fn a_pipe_gets_plain_aligned_text() {
    let output = tool()
        .arg("--log")
        .arg(fixture("debian-openssh-9.2.auth.log"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let head = lines.next().unwrap();
    let login = lines.next().unwrap();
    for (title, value) in [
        ("TIME", "2025-01-30T10:39:10Z"),
        ("USER", "admin"),
        ("WHAT", "login"),
        ("FROM", "192.0.2.7"),
        ("LENGTH", "12m11s"),
        ("PRINCIPAL", ALICE),
        ("REQUEST ID", REQUEST),
        ("KEY", KEY_A),
    ] {
        assert_eq!(head.find(title), login.find(value), "{title}\n{text}");
    }
    assert!(!text.contains('\x1b'));
}

#[test]
fn exit_status_tells_usage_and_unreadable_sources() {
    let code = |command: &mut Command| command.output().unwrap().status.code();
    assert_eq!(code(tool().args(["--since", "yesterday"])), Some(2));
    assert_eq!(code(tool().args(["--instance", "x"])), Some(2));
    assert_eq!(code(tool().args(["--nonsense"])), Some(2));
    assert_eq!(code(tool().args(["--log", "/nowhere/auth.log"])), Some(1));
    let empty = TempDir::new().unwrap();
    assert_eq!(code(tool().arg("--root").arg(empty.path())), Some(1));
    let log = fixture("debian-openssh-9.2.auth.log");
    assert_eq!(code(tool().arg("--log").arg(&log)), Some(0));
    assert_eq!(
        code(tool().arg("--log").arg(&log).args(["--cloudtrail", "/nowhere"])),
        Some(1)
    );
}

// ---- the journal ----------------------------------------------------------------------------------------

/// A journalctl that prints `entries`, first on the PATH; real ones need a booted system.
fn stub_journalctl(directory: &Path, entries: &[Value]) -> String {
    let lines: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
    fs::write(directory.join("entries"), lines).unwrap();
    let stub = directory.join("journalctl");
    fs::write(
        &stub,
        format!(
            "#!/bin/sh\necho \"$@\" >>{0}/calls\nexec cat {0}/entries\n",
            directory.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap())
}

fn entry(second: u64, boot: u32, uid: u32, pid: u32, identifier: &str, message: &str) -> Value {
    json!({
        "__REALTIME_TIMESTAMP": ((PUSHED + second) * 1_000_000).to_string(), "_BOOT_ID": format!("{boot:032x}"),
        "_UID": uid.to_string(), "_PID": pid.to_string(), "SYSLOG_IDENTIFIER": identifier, "MESSAGE": message,
    })
}

#[test]
fn in_the_journal_the_senders_uid_decides() {
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("var/log/journal/x")).unwrap();
    fs::create_dir_all(root.path().join("etc")).unwrap();
    fs::write(
        root.path().join("etc/passwd"),
        "root:x:0:0\nalice:x:1000:1\nec2-instance-connect:x:998:1\n",
    )
    .unwrap();
    let provided = |key: &str, pid: u32| {
        format!(
            "Providing ssh key from EC2 Instance Connect with fingerprint: {key}, request-id: {REQUEST} user=alice sshd-pid={pid} expires={}",
            PUSHED + 60
        )
    };
    let accepted =
        |key: &str| format!("Accepted publickey for alice from 192.0.2.7 port 50022 ssh2: ED25519 {key}");
    let gone = "Disconnected from user alice 192.0.2.7 port 50022";
    let (helper, sshd) = ("ec2-instance-connect", "sshd");
    let entries = [
        // Another user's word for both.
        entry(0, 1, 1001, 50, helper, &provided(KEY_B, 50)),
        entry(0, 1, 1001, 50, sshd, &accepted(KEY_B)),
        // The helper's word, and a forged login by it.
        entry(1, 1, 998, 61, helper, &provided(KEY_B, 60)),
        entry(1, 1, 1001, 60, sshd, &accepted(KEY_B)),
        // The truth; its end told by a third, by the boot after, by the session itself.
        entry(2, 1, 998, 71, helper, &provided(KEY_A, 70)),
        entry(3, 1, 0, 70, sshd, &accepted(KEY_A)),
        entry(5, 1, 1001, 80, sshd, gone),
        entry(
            6,
            2,
            0,
            70,
            sshd,
            "pam_unix(sshd:session): session closed for user alice",
        ),
        entry(13, 1, 1000, 81, sshd, gone),
        // The same pid in the next boot.
        entry(20, 2, 0, 60, sshd, &accepted(KEY_B)),
    ];
    let bin = TempDir::new().unwrap();
    let path = stub_journalctl(bin.path(), &entries);
    let rows = rows(
        tool()
            .env("PATH", &path)
            .arg("--root")
            .arg(root.path())
            .args(["--since", "@1738233500"]),
    );
    assert_eq!(
        rows.iter().map(brief).collect::<Vec<_>>(),
        [
            json!(["offered", "alice", null, null, "nothing", null]),
            json!(["login", "alice", "192.0.2.7", 10, "pid", "disconnect"]),
        ]
    );
    assert_eq!(rows[1]["proof"], "journal");
    assert_eq!(rows[1]["boot"], "00000000000000000000000000000001");
    let calls = fs::read_to_string(bin.path().join("calls")).unwrap();
    assert!(
        calls.contains("--since=@1738232900 SYSLOG_IDENTIFIER=ec2-instance-connect"),
        "{calls}"
    );
    let output = tool()
        .env("PATH", &path)
        .arg("--root")
        .arg(root.path())
        .output()
        .unwrap();
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .starts_with("3 lines say what only sshd")
    );
}

#[test]
fn hostile_lines_of_the_journal_forge_no_row_and_break_no_terminal() {
    let root = TempDir::new().unwrap();
    fs::create_dir_all(root.path().join("var/log/journal/x")).unwrap();
    fs::create_dir_all(root.path().join("etc")).unwrap();
    fs::write(
        root.path().join("etc/passwd"),
        "root:x:0:0\nec2-instance-connect:x:998:1\n",
    )
    .unwrap();
    let mut entries = vec![
        entry(
            2,
            1,
            998,
            71,
            "ec2-instance-connect",
            &format!(
                "Providing ssh key from EC2 Instance Connect with fingerprint: {KEY_A} user=alice sshd-pid=70 expires={}",
                PUSHED + 60
            ),
        ),
        entry(
            3,
            1,
            0,
            70,
            "sshd",
            &format!("Accepted publickey for alice from 192.0.2.7 port 50022 ssh2: ED25519 {KEY_A}"),
        ),
    ];
    for (sender, line) in hostile("Jan 30 10:39:10 host") {
        let (name, _) = sender.split_once('[').unwrap();
        // sshd's own lines about the client, root's; and what any user logs under the helper's name.
        let uid = if name == "sshd" { 0 } else { 1001 };
        entries.push(entry(4, 1, uid, 666, name, &line));
        // What is no text comes as a list of numbers (journalctl's --output=json).
        let mut bytes = entry(4, 1, uid, 666, name, "");
        bytes["MESSAGE"] = json!([line.as_bytes(), b"\xff\n"].concat());
        entries.push(bytes);
        // What journalctl holds back for its length.
        let mut long = entry(4, 1, uid, 666, name, "");
        long["MESSAGE"] = Value::Null;
        entries.push(long);
    }
    let bin = TempDir::new().unwrap();
    let path = stub_journalctl(bin.path(), &entries);
    only(
        &[json!(["login", "alice", "192.0.2.7", null, "pid", null])],
        || {
            let mut command = tool();
            command.env("PATH", &path).arg("--root").arg(root.path());
            command
        },
    );
}

// ---- CloudTrail -----------------------------------------------------------------------------------------

/// A push of the fixtures' key, whose blob is the one byte `a`.
fn push(request: &str, second: u64, user: &str, instance: &str) -> Value {
    let time = jiff::Timestamp::from_second(i64::try_from(PUSHED + second).unwrap()).unwrap();
    json!({
        "eventVersion": "1.08",
        "userIdentity": {"type": "AssumedRole", "arn": ALICE, "accountId": "123456789012"},
        "eventTime": time.to_string(), "eventSource": "ec2-instance-connect.amazonaws.com",
        "eventName": "SendSSHPublicKey", "awsRegion": "us-east-1", "sourceIPAddress": "198.51.100.7",
        "userAgent": "aws-cli/2.23.6", "requestID": request, "eventID": format!("event-{request}"),
        "requestParameters": {"instanceId": instance, "osUser": user, "SSHKey": {"publicKey": "ssh-ed25519 YQ=="}},
        "responseElements": null, "eventType": "AwsApiCall", "recipientAccountId": "123456789012",
    })
}

fn deliver(directory: &Path, name: &str, records: &[Value]) {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let json = json!({ "Records": records }).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(json.as_bytes()).unwrap();
    fs::write(path, gzip.finish().unwrap()).unwrap();
}

fn trail(records: &[Value]) -> TempDir {
    let directory = TempDir::new().unwrap();
    deliver(
        directory.path(),
        "AWSLogs/1/CloudTrail/us-east-1/2025/01/30/x.json.gz",
        records,
    );
    directory
}

fn with_trail(records: &[Value]) -> Vec<Value> {
    let trail = trail(records);
    rows(
        tool()
            .arg("--log")
            .arg(fixture("debian-openssh-9.2.auth.log"))
            .arg("--cloudtrail")
            .arg(trail.path()),
    )
}

#[test]
fn a_login_finds_its_push_and_a_push_without_a_login_is_shown() {
    let rows = with_trail(&[
        push(REQUEST, 0, "admin", INSTANCE),
        push(REQUEST, 0, "admin", INSTANCE),
        push("never-used", 20, "admin", INSTANCE),
        push("elsewhere", 20, "admin", "i-0fffffffffffffff0"),
        push("much-later", 9000, "admin", "i-0fffffffffffffff0"),
    ]);
    let brief: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!([
                row["kind"],
                row["grants"][0]["request_id"],
                row["grants"][0]["cloudtrail"]
            ])
        })
        .collect();
    assert_eq!(
        brief,
        [
            json!(["login", REQUEST, "found"]),
            json!(["unused-push", "never-used", "found"]),
            json!(["refused", null, null]),
            json!(["offered", "5e8e1f1c-0000-4000-8000-000000000002", "absent"]),
        ]
    );
    let push = &rows[0]["grants"][0]["push"];
    assert_eq!(push["source_address"], "198.51.100.7");
    assert_eq!(push["user_agent"], "aws-cli/2.23.6");
    assert_eq!(rows[0]["grants"][0]["contradicts"], json!([]));
}

#[test]
fn a_login_without_a_push_is_absent_only_where_the_files_cover_its_time() {
    let before = with_trail(&[push("x", 0, "admin", "i-0fffffffffffffff0")]);
    assert_eq!(before[0]["grants"][0]["cloudtrail"], "absent");
    let after = with_trail(&[push("x", 1, "admin", "i-0fffffffffffffff0")]);
    assert_eq!(after[0]["grants"][0]["cloudtrail"], "not-covered");
}

#[test]
fn a_key_pushed_for_another_user_is_told() {
    let rows = with_trail(&[push(REQUEST, 0, "nobody", "i-0fffffffffffffff0")]);
    assert_eq!(rows[0]["grants"][0]["contradicts"], json!(["user", "instance"]));
}

#[test]
fn a_damaged_file_is_told_and_its_neighbours_are_read() {
    let trail = trail(&[push(REQUEST, 0, "admin", INSTANCE)]);
    fs::write(trail.path().join("a.json.gz"), b"\x1f\x8bno").unwrap();
    fs::write(trail.path().join("b.json"), b"{\"Records\":[{]}").unwrap();
    let output = tool()
        .arg("--log")
        .arg(fixture("debian-openssh-9.2.auth.log"))
        .arg("--cloudtrail")
        .arg(trail.path())
        .arg("--json")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(document(&output)["rows"][0]["grants"][0]["cloudtrail"], "found");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("a.json.gz: ") && told.contains("b.json: "),
        "{told}"
    );
}

/// What the process may map, in KiB: its binary, libraries and stacks take some 20 MiB of it. The files unpack to
/// more than twice as much.
const ADDRESS_SPACE: u32 = 48 * 1024;

#[test]
fn a_hundred_thousand_events_need_no_more_memory_than_one() {
    let trail = TempDir::new().unwrap();
    let filler = "x".repeat(400);
    let event = |n: u32| {
        let mut event = push(
            &format!("request-{n}"),
            u64::from(n % 3600),
            "admin",
            &format!("i-{n:017x}"),
        );
        event["additionalEventData"] = json!(filler);
        event
    };
    // Half of them in one file, half in a thousand.
    deliver(
        trail.path(),
        "large.json.gz",
        &(0..50_000).map(event).collect::<Vec<_>>(),
    );
    for file in 0..1000 {
        let from = 50_000 + file * 50;
        deliver(
            trail.path(),
            &format!("{}/{file}.json.gz", file % 31),
            &(from..from + 50).map(event).collect::<Vec<_>>(),
        );
    }
    deliver(
        trail.path(),
        "ours.json.gz",
        &[push(REQUEST, 0, "admin", INSTANCE)],
    );
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {ADDRESS_SPACE} && exec \"$@\""), "sh"]);
    let output = command
        .arg(env!("CARGO_BIN_EXE_ec2-instance-connect"))
        .args(["history", "--json", "--log"])
        .arg(fixture("debian-openssh-9.2.auth.log"))
        .arg("--cloudtrail")
        .arg(trail.path())
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let document = document(&output);
    assert_eq!(document["cloudtrail"]["events"], 100_001);
    assert_eq!(document["cloudtrail"]["files"], 1002);
    assert_eq!(document["cloudtrail"]["pushes"], 1);
    assert_eq!(document["rows"][0]["grants"][0]["cloudtrail"], "found");
}
