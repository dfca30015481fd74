//! Real logins: ssh into a real sshd that runs the shipped helper.
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
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::case::INSTANCE;
use common::instance::{Instance, lines};
use common::machine::{in_namespaces, sh};
use common::run::HELPER;
use common::sshd::{Sshd, command, myself, tools};
use eic_simulator::record::Record;
use eic_simulator::{Simulator, World};

#[test]
fn pushed_key_logs_in_and_every_other_is_kept_out() {
    if !tools("pushed_key_logs_in_and_every_other_is_kept_out") {
        return;
    }
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let me = myself();
    let sshd = Sshd::start("127.0.0.1", &command(&simulator), &me);
    sshd.keeps_out(&me, "key");
    simulator.push(&me, &sshd.public_key("key"));
    sshd.lets_in(&me, "key");
    sshd.keeps_out(&me, "other");

    simulator.tamper(&me, "user/alice", "user/bob");
    sshd.keeps_out(&me, "key");
    simulator.restore();
    sshd.lets_in(&me, "key");

    simulator.expire_keys();
    sshd.keeps_out(&me, "key");
    simulator.push_record(
        &me,
        &Record::new("i-0fedcba9876543210", sshd.public_key("key").trim()),
    );
    sshd.keeps_out(&me, "key");
    simulator.push(&me, &sshd.public_key("key"));
    sshd.lets_in(&me, "key");
}

#[test]
fn sshd_without_fingerprint_and_with_md5_is_served() {
    if !tools("sshd_without_fingerprint_and_with_md5_is_served") {
        return;
    }
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let me = myself();
    for tail in [" %u", " %u %f\nFingerprintHash md5"] {
        let sshd = Sshd::start("127.0.0.1", &command(&simulator).replace(" %u %f", tail), &me);
        simulator.push(&me, &sshd.public_key("other"));
        sshd.keeps_out(&me, "key");
        simulator.push(&me, &sshd.public_key("key"));
        sshd.lets_in(&me, "key");
    }
}

/// The helper with a configuration of the test's own, and sshd's tokens before USER as setup writes them.
fn chained(simulator: &Simulator, directory: &Path) -> (PathBuf, String) {
    let config = directory.join("config.toml");
    fs::write(&config, simulator.config_toml()).unwrap();
    let options = "--home %h --key %k --type %t";
    let command = format!(
        "/usr/bin/env {HELPER} --config {} {options} %u %f",
        config.display()
    );
    (config, command)
}

#[test]
fn a_links_keys_log_in_beside_the_pushed_one_and_whatever_it_does_keeps_nobody_out() {
    if !tools("a_links_keys_log_in_beside_the_pushed_one_and_whatever_it_does_keeps_nobody_out") {
        return;
    }
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (config, command) = chained(&simulator, directory.path());
    let me = myself();
    let sshd = Sshd::start("127.0.0.1", &command, &me);
    let link = |command: &str| {
        let chain = format!("[[chain]]\nname = \"link\"\ntimeout_ms = 200\ncommand = {command}\n");
        fs::write(&config, simulator.config_toml() + &chain).unwrap();
    };
    simulator.push(&me, &sshd.public_key("key"));
    sshd.lets_in(&me, "key");
    sshd.keeps_out(&me, "other");

    let other = sshd.file("other.pub");
    link(&format!("[\"/bin/cat\", \"{}\"]", other.display()));
    fs::write(
        &config,
        fs::read_to_string(&config).unwrap().replace("= 200", "= 2500"),
    )
    .unwrap();
    sshd.lets_in(&me, "other");
    sshd.lets_in(&me, "key");

    let then = format!("cat {}; ", other.display());
    for what in [
        "sleep 600",
        "exit 1",
        "kill -9 0",
        "setsid sleep 600 & sleep 600",
        "printf '\\\\000'",
        "yes",
    ] {
        link(&format!("[\"/bin/sh\", \"-c\", \"{then}{what}\"]"));
        sshd.lets_in(&me, "key");
        sshd.keeps_out(&me, "other");
    }
    fs::write(
        &config,
        simulator.config_toml() + "[[chain]]\ncommand = [\"cat\"]\n",
    )
    .unwrap();
    sshd.keeps_out(&me, "key");
}

/// A command that gives back whatever key it is asked about lets everybody in: so sshd's words do arrive.
#[test]
fn sshds_own_tokens_reach_a_link() {
    if !tools("sshds_own_tokens_reach_a_link") {
        return;
    }
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (config, command) = chained(&simulator, directory.path());
    let me = myself();
    let sshd = Sshd::start("127.0.0.1", &command, &me);
    sshd.keeps_out(&me, "other");
    let home = sh("echo ~");
    let text = format!("[ \\\"$3 $4\\\" = '{} {me}' ] && echo \\\"$1 $2\\\"", home.trim());
    let chain = format!(
        "[[chain]]\ntimeout_ms = 2500\ncommand = [\"/bin/sh\", \"-c\", \"{text}\", \"sh\", \"%t\", \"%k\", \"%h\", \"%u\"]\n"
    );
    fs::write(&config, simulator.config_toml() + &chain).unwrap();
    sshd.lets_in(&me, "other");
}

#[test]
fn every_key_type_of_sshs_logs_in() {
    if !tools("every_key_type_of_sshs_logs_in") {
        return;
    }
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let me = myself();
    let sshd = Sshd::start("127.0.0.1", &command(&simulator), &me);
    for (name, kind) in [
        ("rsa", "rsa -b 2048"),
        ("e256", "ecdsa -b 256"),
        ("e384", "ecdsa -b 384"),
        ("e521", "ecdsa -b 521"),
    ] {
        sh(&format!(
            "ssh-keygen -q -t {kind} -N '' -C 'a comment' -f {}",
            sshd.file(name).display()
        ));
        sshd.keeps_out(&me, name);
        simulator.push(&me, &sshd.public_key(name));
        sshd.lets_in(&me, name);
    }
}

const COMMAND: &str = "/opt/aws/bin/eic_run_authorized_keys %u %f";

#[test]
fn login_on_an_instance_with_the_default_configuration_succeeds() {
    let name = "login_on_an_instance_with_the_default_configuration_succeeds";
    if !tools(name) {
        return;
    }
    in_namespaces(name, || {
        let Instance {
            simulator,
            log,
            directory: _directory,
        } = Instance::new(World::nitro(INSTANCE));
        let sshd = Sshd::start("127.0.0.1", COMMAND, "ec2-instance-connect");
        sshd.keeps_out("ec2-user", "key");
        assert_eq!(lines(&log), Vec::<String>::new(), "an ordinary login is logged");

        simulator.clear_requests();
        let request_id = simulator.push("ec2-user", &sshd.public_key("key"));
        sshd.lets_in("ec2-user", "key");
        assert_eq!(
            simulator.requests().len(),
            18,
            "probe and signature: {:#?}",
            simulator.requests()
        );

        // The two lines of the shell scripts, and sshd's pid beside them.
        let text = lines(&log);
        let fingerprint = sh(&format!("ssh-keygen -lf {}", sshd.file("key.pub").display()));
        let fingerprint = fingerprint.split(' ').nth(1).unwrap();
        let querying = format!("Querying EC2 Instance Connect keys for matching fingerprint: {fingerprint}");
        let providing = format!(
            "Providing ssh key from EC2 Instance Connect with fingerprint: {fingerprint}, request-id: {request_id}, \
             for IAM principal: {} user=ec2-user sshd-pid=",
            eic_simulator::CALLER
        );
        assert_eq!(
            text.iter().filter(|line| line.ends_with(&querying)).count(),
            2,
            "{text:#?}"
        );
        assert_eq!(
            text.iter().filter(|line| line.contains(&providing)).count(),
            2,
            "{text:#?}"
        );
        assert!(
            text.iter()
                .all(|line| line.starts_with("<86>ec2-instance-connect[")),
            "{text:#?}"
        );
        let accepted = sshd.log();
        assert!(accepted.contains("Accepted publickey for ec2-user"), "{accepted}");

        // A refusal has its reason in the log.
        simulator.tamper("ec2-user", "user/alice", "user/bob");
        sshd.keeps_out("ec2-user", "key");
        let text = lines(&log);
        let refused =
            "Refused EC2 Instance Connect keys for ec2-user: reason=record-signature user=ec2-user sshd-pid=";
        assert!(text.iter().any(|line| line.contains(refused)), "{text:#?}");
    });
}

#[test]
fn instance_without_a_route_for_ipv4_logs_in_by_ipv6() {
    let name = "instance_without_a_route_for_ipv4_logs_in_by_ipv6";
    if !tools(name) {
        return;
    }
    in_namespaces(name, || {
        let Instance {
            simulator,
            log: _log,
            directory: _directory,
        } = Instance::new(World::nitro(INSTANCE));
        sh("ip addr del 169.254.169.254/32 dev lo");
        let sshd = Sshd::start("127.0.0.1", COMMAND, "ec2-instance-connect");
        sshd.keeps_out("ec2-user", "key");
        simulator.push("ec2-user", &sshd.public_key("key"));
        sshd.lets_in("ec2-user", "key");
        sh("ip -6 addr del fd00:ec2::254/128 dev lo");
        sshd.keeps_out("ec2-user", "key");
    });
}

#[test]
fn full_absent_and_hostile_logs_change_nothing() {
    let name = "full_absent_and_hostile_logs_change_nothing";
    if !tools(name) {
        return;
    }
    in_namespaces(name, || {
        let Instance {
            simulator,
            log,
            directory: _directory,
        } = Instance::new(World::nitro(INSTANCE));
        let sshd = Sshd::start("127.0.0.1", COMMAND, "ec2-instance-connect");
        simulator.push("ec2-user", &sshd.public_key("key"));
        sshd.lets_in("ec2-user", "key");
        lines(&log);
        // A queue that nobody reads.
        let flood = UnixDatagram::unbound().unwrap();
        flood.connect("/dev/log").unwrap();
        flood.set_nonblocking(true).unwrap();
        while flood.send(b"<13>flood").is_ok() {}
        let begun = Instant::now();
        let output = Command::new("/opt/aws/bin/eic_run_authorized_keys")
            .arg("ec2-user")
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).lines().count(),
            1,
            "{output:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        sshd.lets_in("ec2-user", "key");
        drop(log);
        sshd.lets_in("ec2-user", "key");
        fs::remove_file("/dev/log").unwrap();
        sshd.lets_in("ec2-user", "key");
    });
}

#[test]
fn caller_with_a_newline_cannot_forge_a_log_line() {
    let name = "caller_with_a_newline_cannot_forge_a_log_line";
    in_namespaces(name, || {
        let Instance {
            simulator,
            log,
            directory: _directory,
        } = Instance::new(World::nitro(INSTANCE));
        let key = common::case::KEY_LINE;
        let caller = "arn:aws:sts::1:assumed-role/x/\u{1b}[2J\r\u{7f} sshd-pid=1 \"é";
        simulator.push_record(
            "ec2-user",
            &Record::new(INSTANCE, key).caller(caller).request("a b\tc"),
        );
        let output = Command::new("/opt/aws/bin/eic_run_authorized_keys")
            .arg("ec2-user")
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{key}\n"));
        let text = lines(&log);
        let shown = r"request-id: a\x20b\x09c, for IAM principal: arn:aws:sts::1:assumed-role/x/\x1b[2J\x0d\x7f\x20sshd-pid=1\x20\x22\xc3\xa9 user=ec2-user sshd-pid=";
        assert!(text.iter().any(|line| line.contains(shown)), "{text:#?}");
        assert!(
            text.iter()
                .all(|line| line.bytes().all(|b| b == b' ' || b.is_ascii_graphic())),
            "{text:#?}"
        );
    });
}

#[test]
fn journald_gets_the_event_with_its_fields_and_dev_log_then_nothing() {
    let name = "journald_gets_the_event_with_its_fields_and_dev_log_then_nothing";
    in_namespaces(name, || {
        let Instance {
            simulator,
            log,
            directory: _directory,
        } = Instance::new(World::nitro(INSTANCE));
        fs::create_dir_all("/run/systemd/journal").unwrap();
        let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let request_id = simulator.push("ec2-user", common::case::KEY_LINE);
        let output = Command::new("/opt/aws/bin/eic_run_authorized_keys")
            .arg("ec2-user")
            .output()
            .unwrap();
        assert!(!output.stdout.is_empty());
        let mut buffer = [0; 8192];
        let length = journal.recv(&mut buffer).unwrap();
        let entry = String::from_utf8_lossy(&buffer[..length]).into_owned();
        for field in [
            "MESSAGE=Providing ssh key from EC2 Instance Connect with fingerprint: SHA256:".to_owned(),
            "SYSLOG_IDENTIFIER=ec2-instance-connect".to_owned(),
            "SYSLOG_FACILITY=10".to_owned(),
            format!("EIC_REQUEST_ID={request_id}"),
            format!("EIC_CALLER={}", eic_simulator::CALLER),
            "EIC_USER=ec2-user".to_owned(),
            format!("EIC_INSTANCE={INSTANCE}"),
            format!("EIC_SSHD_PID={}", std::process::id()),
        ] {
            assert!(
                entry.lines().any(|line| line.starts_with(&field)),
                "{field} is not in {entry}"
            );
        }
        assert_eq!(lines(&log), Vec::<String>::new(), "the event went out twice");
    });
}
