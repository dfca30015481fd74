//! The host's own rules: real logins that they let in and keep out, and what the tool says of them beforehand.
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
use std::path::PathBuf;
use std::process::{Command, Output};

use common::case::{INSTANCE, KEY_LINE};
use common::machine::{in_namespaces, sh};
use common::run::{HELPER, Outcome, with_config};
use common::sshd::{Sshd, myself, tools};
use eic_simulator::record::Record;
use eic_simulator::{Simulator, World};
use serde_json::Value;

const TOOL: &str = env!("CARGO_BIN_EXE_ec2-instance-connect");

const OPS: &str = "arn:aws:sts::123456789012:assumed-role/Ops/alice@example.com";
const DEV: &str = "arn:aws:sts::123456789012:assumed-role/Dev/Ops";

/// A make-believe instance whose configuration can be changed between two logins.
struct Host {
    simulator: Simulator,
    directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self {
            simulator: Simulator::start(World::nitro(INSTANCE)).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        };
        host.configure("");
        host
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    /// The simulator's configuration, and these tables behind it.
    fn configure(&self, tables: &str) {
        fs::write(
            self.config(),
            format!("{}\n{tables}\n", self.simulator.config_toml()),
        )
        .unwrap();
    }

    fn sshd(&self, lines: &str) -> Sshd {
        let command = format!(
            "/usr/bin/env {HELPER} --config {} %u %f{lines}",
            self.config().display()
        );
        Sshd::start("127.0.0.1", &command, &myself())
    }

    fn helper(&self, words: &[&str]) -> Outcome {
        with_config(&self.config(), words)
    }

    fn tool(&self, words: &[&str]) -> (Output, Value) {
        let config = self.config();
        let (subcommand, rest) = if words[0] == "explain" {
            (1, &words[1..])
        } else {
            (2, &words[2..])
        };
        let output = Command::new(TOOL)
            .args(&words[..subcommand])
            .args(["--json", "--config", config.to_str().unwrap()])
            .args(rest)
            .output()
            .unwrap();
        let report =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output, report)
    }

    /// `explain`'s stage of this name: outcome and detail.
    fn stage(&self, user: &str, name: &str) -> (String, String) {
        let (_, report) = self.tool(&["explain", "--here", user]);
        let stages = report["stages"].as_array().unwrap();
        let stage = stages.iter().find(|stage| stage["stage"] == name).unwrap();
        let word = |key: &str| stage[key].as_str().unwrap().to_owned();
        (word("outcome"), word("detail"))
    }

    /// The login is refused for `reason`: by sshd, in the log and in `explain`, by the tool beforehand.
    #[track_caller]
    fn refused(&self, sshd: &Sshd, user: &str, reason: &str, words: &str) {
        sshd.keeps_out(user, "key");
        let outcome = self.helper(&[user]);
        let mut reasons = outcome.reasons();
        reasons.dedup();
        assert_eq!(
            (outcome.stdout.as_str(), reasons),
            ("", vec![reason]),
            "{outcome:?}"
        );
        assert!(
            outcome.stderr.contains(words),
            "{words} is not in {}",
            outcome.stderr
        );
        let (output, report) = self.tool(&["explain", "--here", user]);
        assert_eq!(output.status.code(), Some(1), "{report}");
        let refused = report["stages"]
            .as_array()
            .unwrap()
            .iter()
            .find(|stage| stage["outcome"] == "refused");
        let detail = refused.unwrap_or_else(|| panic!("{report}"))["detail"]
            .as_str()
            .unwrap();
        assert!(detail.starts_with(&format!("{reason}: ")), "{detail}");
    }
}

#[test]
fn rules_on_the_signed_caller_let_in_and_keep_out() {
    if !tools("rules_on_the_signed_caller_let_in_and_keep_out") {
        return;
    }
    let (host, me) = (Host::new(), myself());
    let sshd = host.sshd("");
    let key = sshd.public_key("key");
    host.simulator.push_as(&me, &key, DEV);
    sshd.lets_in(&me, "key");

    let allow = "[[access]]\neffect = 'allow'\nroles = ['Ops']\n";
    host.configure(allow);
    host.refused(
        &sshd,
        &me,
        "policy",
        &format!("no access rule allows, the key pushed by {DEV}"),
    );
    // The record of one that may stands beside it; what it lets in is that record's key.
    host.simulator.push_as(&me, &sshd.public_key("other"), OPS);
    sshd.lets_in(&me, "other");
    sshd.keeps_out(&me, "key");
    let given = host.helper(&[&me]);
    assert_eq!(given.reasons(), ["policy"]);
    assert_eq!(given.stdout.lines().count(), 1, "{given:?}");
    assert_eq!(
        host.stage(&me, "access"),
        (
            "ok".to_owned(),
            "no access rule allows; access rule 1 allows".to_owned()
        )
    );

    host.configure(&format!(
        "{allow}[[access]]\neffect = 'allow'\nusers = ['{me}']\n"
    ));
    sshd.lets_in(&me, "key");
    host.configure("[[access]]\neffect = 'allow'\n[[access]]\neffect = 'deny'\nroles = ['Dev', 'Ops']\n");
    host.refused(
        &sshd,
        &me,
        "policy",
        &format!("access rule 2 denies, the key pushed by {DEV}"),
    );
    assert_eq!(host.stage(&me, "access").0, "refused");
    // Each caller is named in the log.
    let outcome = host.helper(&[&me]);
    for caller in [OPS, DEV] {
        let seen = outcome
            .stderr
            .lines()
            .filter(|line| line.contains(caller))
            .count();
        assert_eq!(seen, 1, "{outcome:?}");
    }
}

#[test]
fn record_without_a_caller_or_with_a_strange_one_is_nobodys() {
    let host = Host::new();
    for (caller, shown) in [
        (None, "nobody named"),
        (Some("arn:aws:sts::1:x/Ops"), "arn:aws:sts::1:x/Ops"),
    ] {
        host.simulator.expire_keys();
        let record = Record::new(INSTANCE, KEY_LINE);
        let record = caller.map_or_else(|| Record::new(INSTANCE, KEY_LINE), |caller| record.caller(caller));
        host.simulator.push_record("ec2-user", &record);
        for (rules, given) in [
            ("", true),
            ("[[access]]\neffect = 'allow'\nusers = ['ec2-user']", true),
            ("[[access]]\neffect = 'allow'\nroles = ['*']", false),
            (
                "[[access]]\neffect = 'allow'\n[[access]]\neffect = 'deny'\naccounts = ['210987654321']",
                false,
            ),
            (
                "[[access]]\neffect = 'allow'\n[[access]]\neffect = 'deny'\nusers = ['root']\nroles = ['*']",
                true,
            ),
        ] {
            host.configure(rules);
            let outcome = host.helper(&["ec2-user"]);
            if given {
                assert!(
                    outcome.stdout.ends_with(&format!("{KEY_LINE}\n")),
                    "{rules}: {outcome:?}"
                );
            } else {
                outcome.refused("policy");
                assert!(outcome.stderr.contains(shown), "{outcome:?}");
            }
        }
    }
}

#[test]
fn guards_keep_out_before_the_metadata_is_asked() {
    if !tools("guards_keep_out_before_the_metadata_is_asked") {
        return;
    }
    let (host, me) = (Host::new(), myself());
    let sshd = host.sshd("");
    host.simulator.push(&me, &sshd.public_key("key"));
    let uid: u32 = sh("id -u").trim().parse().unwrap();
    let file = host.directory.path().join("maintenance");
    let maintenance = format!("[guards]\nmaintenance_file = '{}'\n", file.display());
    fs::write(&file, "").unwrap();
    for (refuses, lets_in, reason, words) in [
        (
            format!("[guards]\ndeny_users = ['{me}']"),
            format!("[guards]\ndeny_users = ['{me}-x', 'x-*']"),
            "deny-user",
            "deny_users names the login",
        ),
        (
            format!("[guards]\nmin_uid = {}", uid + 1),
            format!("[guards]\nmin_uid = {uid}"),
            "min-uid",
            "the least that is let in",
        ),
        (
            maintenance.clone(),
            format!("{maintenance}maintenance_users = ['{me}']"),
            "maintenance",
            "is there",
        ),
    ] {
        host.configure(&refuses);
        host.simulator.clear_requests();
        host.refused(&sshd, &me, reason, words);
        assert_eq!(host.simulator.requests().len(), 0, "{reason}");
        host.configure(&lets_in);
        sshd.lets_in(&me, "key");
    }
    host.configure(&maintenance);
    fs::remove_file(&file).unwrap();
    sshd.lets_in(&me, "key");
    host.configure("[guards]\nmin_uid = 1");
    host.helper(&["no-such-user-here"]).refused("no-such-user");
}

#[test]
fn login_whose_shell_is_not_of_people_is_kept_out() {
    let name = "login_whose_shell_is_not_of_people_is_kept_out";
    if !tools(name) {
        return;
    }
    in_namespaces(name, || {
        let (host, me) = (Host::new(), myself());
        let sshd = host.sshd("");
        host.simulator.push(&me, &sshd.public_key("key"));
        host.configure("[guards]\nrequire_shell = true");
        sshd.lets_in(&me, "key");
        let shells = host.directory.path().join("shells");
        fs::write(&shells, "# none\n").unwrap();
        sh(&format!("mount --bind {} /etc/shells", shells.display()));
        host.refused(&sshd, &me, "shell", "is not in /etc/shells");
        // Listed or not, a shell that starts no session is none.
        sh("umount /etc/shells");
        host.helper(&["daemon"]).refused("shell");
    });
}

/// The source is the word that is not one of this host's addresses, whichever comes first.
#[test]
fn rule_on_networks_asks_where_the_login_comes_from() {
    let host = Host::new();
    host.simulator.push("ec2-user", KEY_LINE);
    let (here, there) = ("127.0.0.1 22 192.0.2.9 40000", "127.0.0.1 22 198.51.100.9 40000");
    let turned = "192.0.2.9 40000 127.0.0.1 22";
    let (strange, ours) = ("203.0.113.1 22 192.0.2.9 40000", "127.0.0.1 22 127.0.0.1 40000");
    let allow = "[[access]]\neffect = 'allow'\nfrom = ['192.0.2.0/24']";
    let deny = "[[access]]\neffect = 'allow'\n[[access]]\neffect = 'deny'\nfrom = ['192.0.2.0/24']";
    for (rules, given, refused) in [
        (
            allow,
            [here, turned].as_slice(),
            [there, strange, ours, "%C", ""].as_slice(),
        ),
        (
            deny,
            &[there, ours],
            &[here, turned, strange, "UNKNOWN 65535 UNKNOWN 65535"],
        ),
        (
            "[[access]]\neffect = 'allow'\nfrom = ['127.0.0.0/8']",
            &[ours],
            &[here, there],
        ),
    ] {
        host.configure(rules);
        for words in given {
            host.helper(&["--connection", words, "ec2-user"])
                .gave(&[KEY_LINE]);
        }
        for words in refused {
            host.helper(&["--connection", words, "ec2-user"])
                .refused("policy");
        }
        host.helper(&["ec2-user"]).refused("policy");
    }
    host.configure(allow);
    let outcome = host.helper(&["--connection", there, "ec2-user"]);
    assert!(outcome.stderr.contains("from 198.51.100.9"), "{outcome:?}");
    for (from, exit) in [("192.0.2.9", 0), ("::ffff:192.0.2.9", 0), ("198.51.100.9", 1)] {
        let (output, report) = host.tool(&["explain", "--here", "--from", from, "ec2-user"]);
        assert_eq!(output.status.code(), Some(exit), "{report}");
    }
}

#[test]
fn session_has_what_the_options_give_it_and_nothing_else() {
    if !tools("session_has_what_the_options_give_it_and_nothing_else") {
        return;
    }
    let (host, me) = (Host::new(), myself());
    let sshd = host.sshd("\nPermitUserEnvironment EIC_PRINCIPAL");
    host.simulator.push_as(&me, &sshd.public_key("key"), OPS);
    let probe = |arguments: &[&str]| {
        let script = "tty | grep -o -e /dev/pts -e 'not a tty'; echo principal=$EIC_PRINCIPAL";
        let output = sshd.session(&me, "key", arguments, script);
        String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n")
    };
    assert_eq!(probe(&["-tt"]), "/dev/pts\nprincipal=\n");
    host.configure("[options]\nrestrict = true");
    let output = sshd.session(&me, "key", &["-tt"], "true");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("PTY allocation request failed"), "{output:?}");
    assert_eq!(probe(&[]), "not a tty\nprincipal=\n");
    host.configure("[options]\nrestrict = true\npermit = ['pty']\nprincipal_environment = true");
    assert_eq!(probe(&["-tt"]), format!("/dev/pts\nprincipal={OPS}\n"));

    // Two keys with two callers in one output: each session has its own.
    host.simulator.push_as(&me, &sshd.public_key("other"), DEV);
    assert_eq!(probe(&[]), format!("not a tty\nprincipal={OPS}\n"));
    let other = sshd.session(&me, "other", &[], "echo $EIC_PRINCIPAL");
    assert_eq!(String::from_utf8_lossy(&other.stdout), format!("{DEV}\n"));

    // The same key pushed by two is one line, the first one's.
    host.simulator.expire_keys();
    host.simulator.push_as(&me, &sshd.public_key("key"), DEV);
    host.simulator.push_as(&me, &sshd.public_key("key"), OPS);
    assert_eq!(host.helper(&[&me]).stdout.lines().count(), 1);
    assert_eq!(probe(&[]), format!("not a tty\nprincipal={DEV}\n"));
}

#[test]
fn session_that_could_not_be_told_who_pushed_its_key_is_refused() {
    if !tools("session_that_could_not_be_told_who_pushed_its_key_is_refused") {
        return;
    }
    let (host, me) = (Host::new(), myself());
    let sshd = host.sshd("\nPermitUserEnvironment yes");
    let record = |caller: &str| Record::new(INSTANCE, sshd.public_key("key").trim()).caller(caller);
    for (caller, words) in [
        (None, "names no caller"),
        (Some("x\",command=\"id"), "may not stand in an option"),
        (Some("x\\\",command=\\\"id"), "may not stand in an option"),
        (Some("x y"), "may not stand in an option"),
    ] {
        host.simulator.expire_keys();
        match caller {
            Some(caller) => host.simulator.push_record(&me, &record(caller)),
            None => host
                .simulator
                .push_record(&me, &Record::new(INSTANCE, sshd.public_key("key").trim())),
        }
        host.configure("[options]\nprincipal_environment = true");
        sshd.keeps_out(&me, "key");
        let outcome = host.helper(&[&me]);
        outcome.refused("policy");
        assert!(outcome.stderr.contains(words), "{outcome:?}");
        host.configure("[options]\nrestrict = true");
        sshd.lets_in(&me, "key");
    }
}

/// Every set of permissions, with callers of every character that may stand in one: what we print is, by OpenSSH's own
/// parser, exactly the options and the key that were meant.
#[test]
fn whatever_the_options_openssh_reads_what_was_meant() {
    if !tools("whatever_the_options_openssh_reads_what_was_meant") {
        return;
    }
    let (host, me) = (Host::new(), myself());
    let sshd = host.sshd("\nPermitUserEnvironment yes\nLogLevel DEBUG1");
    let fingerprint = sh(&format!("ssh-keygen -lf {}", sshd.file("key.pub").display()));
    let fingerprint = fingerprint.split(' ').nth(1).unwrap();
    // Our word, and sshd's when it says what a line permits (auth.c, `auth_log_authopts`).
    let words = [
        ("agent-forwarding", "agent-forwarding"),
        ("port-forwarding", "port-forwarding"),
        ("pty", "pty"),
        ("user-rc", "user-rc"),
        ("X11-forwarding", "x11-forwarding"),
    ];
    let callers = [
        "arn:aws:sts::123456789012:assumed-role/a_b+c=d,e.f@g-h/0+1=2.3@4-5_6",
        "arn:aws-us-gov:iam::123456789012:user/path/to/Z",
        OPS,
    ];
    for set in 0..32_usize {
        let chosen: Vec<_> = words
            .iter()
            .enumerate()
            .filter(|(bit, _)| set >> bit & 1 == 1)
            .map(|(_, word)| word)
            .collect();
        let caller = callers[set % callers.len()];
        let permit: Vec<String> = chosen.iter().map(|(ours, _)| format!("'{ours}'")).collect();
        host.simulator.expire_keys();
        host.simulator.push_as(&me, &sshd.public_key("key"), caller);
        host.configure(&format!(
            "[options]\nrestrict = true\nprincipal_environment = true\npermit = [{}]",
            permit.join(", ")
        ));
        let line = host.helper(&[&me]).stdout;
        let file = host.directory.path().join("line");
        fs::write(&file, &line).unwrap();
        assert_eq!(line.lines().count(), 1);
        assert!(
            sh(&format!("ssh-keygen -lf {}", file.display())).contains(fingerprint),
            "{line}"
        );

        let before = sshd.log().len();
        sshd.lets_in(&me, "key");
        let log = sshd.log();
        let said: Vec<&str> = log[before..]
            .lines()
            .filter(|line| line.contains(": key options:"))
            .collect();
        assert!(!said.is_empty(), "{}", &log[before..]);
        let expected: Vec<&str> = chosen.iter().map(|(_, theirs)| *theirs).collect();
        for line in said {
            let mut permits: Vec<&str> = line
                .split(": key options:")
                .nth(1)
                .unwrap()
                .split_whitespace()
                .collect();
            permits.sort_unstable();
            let mut expected = expected.clone();
            expected.push("environment");
            expected.sort_unstable();
            assert_eq!(permits, expected, "{line}");
        }
        let environment = format!("environment: EIC_PRINCIPAL={caller}");
        assert!(
            log[before..].lines().any(|line| line.ends_with(&environment)),
            "{}",
            &log[before..]
        );
    }
}

#[test]
fn access_check_says_what_the_helper_does() {
    let host = Host::new();
    for rules in [
        "",
        "[[access]]\neffect = 'allow'\nroles = ['Ops']",
        "[[access]]\neffect = 'allow'\nprincipals = ['arn:aws:sts::123456789012:assumed-role/*/alice*']",
        "[[access]]\neffect = 'allow'\n[[access]]\neffect = 'deny'\nroles = ['Ops']",
        "[[access]]\neffect = 'allow'\ngroups = ['root', 'no-such-group-here']",
        "[[access]]\neffect = 'allow'\nfrom = ['192.0.2.0/24']",
        "[guards]\ndeny_users = ['root']",
        "[guards]\nmin_uid = 1",
        "[options]\nprincipal_environment = true",
    ] {
        host.configure(rules);
        for user in ["root", "ec2-user"] {
            for caller in [Some(OPS), Some(DEV), Some("somebody"), None] {
                host.simulator.expire_keys();
                let record = Record::new(INSTANCE, KEY_LINE);
                let record = match caller {
                    Some(caller) => record.caller(caller),
                    None => record,
                };
                host.simulator.push_record(user, &record);
                for from in [None, Some("192.0.2.9"), Some("198.51.100.9")] {
                    let connection = from.map(|from| format!("127.0.0.1 22 {from} 40000"));
                    let mut words = vec!["access", "check", "--user", user];
                    let mut helper = Vec::new();
                    if let (Some(from), Some(connection)) = (from, &connection) {
                        words.extend(["--from", from]);
                        helper.extend(["--connection", connection]);
                    }
                    if let Some(caller) = caller {
                        words.extend(["--principal", caller]);
                    }
                    helper.push(user);
                    let outcome = host.helper(&helper);
                    let (output, report) = host.tool(&words);
                    let context = format!("{rules}\n{words:?}\n{report}\n{outcome:?}");
                    assert_eq!(report["given"], !outcome.stdout.is_empty(), "{context}");
                    assert_eq!(
                        output.status.code(),
                        Some(i32::from(outcome.stdout.is_empty())),
                        "{context}"
                    );
                    if let Some(reason) = report["refusal"]["reason"].as_str() {
                        assert_eq!(outcome.reasons(), [reason], "{context}");
                        let detail = report["refusal"]["detail"].as_str().unwrap();
                        assert!(
                            outcome.stderr.contains(detail) || outcome.stderr.contains("detail"),
                            "{context}"
                        );
                    } else {
                        let options = report["options"].as_str().unwrap();
                        assert!(outcome.stdout.starts_with(options), "{context}");
                    }
                }
            }
        }
    }
}

#[test]
fn access_check_names_the_rule_and_config_check_the_odd_one() {
    let host = Host::new();
    host.configure("[[access]]\neffect = 'allow'\n[[access]]\neffect = 'deny'\nroles = ['Ops']");
    let (output, report) = host.tool(&["access", "check", "--user", "ec2-user", "--principal", OPS]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        (report["rule"].as_u64(), report["refusal"]["reason"].as_str()),
        (Some(2), Some("policy"))
    );
    let (output, report) = host.tool(&["access", "check", "--user", "ec2-user", "--principal", DEV]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(report["ruling"], "access rule 1 allows");
    let (_, report) = host.tool(&["access", "check", "--user", "ec2-user", "--principal", "alice"]);
    assert!(
        report["note"].as_str().unwrap().contains("counts as nobody"),
        "{report}"
    );

    let config = host.config();
    let output = Command::new(TOOL)
        .args(["config", "check"])
        .arg(config)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("warning: [[access]] rule 1 lets everybody"),
        "{text}"
    );
}
