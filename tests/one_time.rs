//! One-time keys with a real sshd: what is used is used for everybody else, and what cannot be told is refused.
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
use std::process::{Command, Output};
use std::time::Duration;

use common::case::INSTANCE;
use common::instance::{Instance, lines};
use common::machine::{in_namespaces, sh};
use common::sshd::{Sshd, tools};
use eic_simulator::World;

const TOOL: &str = env!("CARGO_BIN_EXE_ec2-instance-connect");
const DIRECTORY: &str = "/run/ec2-instance-connect";
const COMMAND: &str = "/opt/aws/bin/eic_run_authorized_keys %u %f";
const RUN_AS: &str = "ec2-instance-connect";
const USER: &str = "ec2-user";

/// An instance whose administrator wants keys to be good for one connection, and its sshd.
fn one_time(name: &str, test: impl FnOnce(&Instance, &Sshd)) {
    if !tools(name) {
        return;
    }
    in_namespaces(name, || {
        let instance = Instance::new(World::nitro(INSTANCE));
        sh(&format!(
            "printf '[keys]\\none_time = true\\n' >>/etc/ec2-instance-connect/config.toml
             install -d -m 0700 -o {RUN_AS} {DIRECTORY}"
        ));
        // Its own limit would drop some of many clients at once.
        let sshd = Sshd::start("127.0.0.1", &format!("{COMMAND}\nMaxStartups 100"), RUN_AS);
        test(&instance, &sshd);
    });
}

fn push(instance: &Instance, sshd: &Sshd) {
    instance.simulator.push(USER, &sshd.public_key("key"));
}

/// The reasons of the refusals that were logged since the last call, each once.
fn reasons(log: &UnixDatagram) -> Vec<String> {
    reasons_in(&lines(log))
}

fn reasons_in(lines: &[String]) -> Vec<String> {
    let mut reasons: Vec<String> = lines
        .iter()
        .filter_map(|line| Some(line.split(" reason=").nth(1)?.split(' ').next()?.to_owned()))
        .collect();
    reasons.sort();
    reasons.dedup();
    reasons
}

/// The names in the directory of claims.
fn claims() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(DIRECTORY)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn tool(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(TOOL).args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (
        output.status.code(),
        text + &String::from_utf8_lossy(&output.stderr),
    )
}

/// The key is refused to a login for `reason` and nothing else, and the remedy lets the same key in.
#[track_caller]
fn refused_until(instance: &Instance, sshd: &Sshd, reason: &str, detail: &str, remedy: &str) {
    push(instance, sshd);
    lines(&instance.log);
    sshd.keeps_out(USER, "key");
    let said = lines(&instance.log).join("\n");
    assert!(
        said.contains(&format!("reason={reason} ")) && said.contains(detail) && !said.contains("Providing"),
        "{detail}: {said}"
    );
    sh(remedy);
    sshd.lets_in(USER, "key");
}

#[test]
fn a_second_connection_with_the_same_key_is_refused_as_used_and_a_second_push_lets_it_in() {
    let name = "a_second_connection_with_the_same_key_is_refused_as_used_and_a_second_push_lets_it_in";
    one_time(name, |instance, sshd| {
        push(instance, sshd);
        let fingerprint = sshd.fingerprint("key");
        let (code, before) = tool(&["explain", USER, &fingerprint]);
        assert_eq!(code, Some(0), "{before}");
        assert!(before.contains("one-time") && claims().is_empty(), "{before}");

        sshd.lets_in(USER, "key");
        assert_eq!(claims().len(), 1);
        assert_eq!(reasons(&instance.log), Vec::<String>::new());
        sshd.keeps_out(USER, "key");
        let said = lines(&instance.log);
        // The sshd that the refusal names is the one that let the first in.
        let pid = sshd.log().lines().find_map(accepted_by).unwrap();
        let detail = format!("reason=used user={USER} ");
        assert!(
            said.iter()
                .any(|line| line.contains(&detail) && line.contains(&format!("sshd[{pid}] has used it"))),
            "{said:#?}"
        );
        let (code, after) = tool(&["explain", USER, &fingerprint]);
        assert_eq!(code, Some(1), "{after}");
        assert!(
            after.contains("used") && after.contains(&format!("sshd[{pid}]")),
            "{after}"
        );

        push(instance, sshd);
        sshd.lets_in(USER, "key");
        sshd.keeps_out(USER, "key");
        assert_eq!(claims().len(), 2);
    });
}

/// sshd run with -e says no pid; the session's line has the port, and the claim has the pid. So the claim is asked.
fn accepted_by(line: &str) -> Option<String> {
    line.contains("Accepted publickey").then(|| {
        let claim = fs::read_link(format!("{DIRECTORY}/{}", claims()[0])).unwrap();
        claim.to_str().unwrap().split('-').next().unwrap().to_owned()
    })
}

#[test]
fn of_a_storm_of_logins_exactly_as_many_get_in_as_records_were_pushed() {
    const CLIENTS: usize = 12;
    let name = "of_a_storm_of_logins_exactly_as_many_get_in_as_records_were_pushed";
    one_time(name, |instance, sshd| {
        for pushed in [1, 3, 1] {
            for _ in 0..pushed {
                push(instance, sshd);
            }
            lines(&instance.log);
            let mut said = Vec::new();
            let outcomes: Vec<Output> = std::thread::scope(|scope| {
                let running: Vec<_> = (0..CLIENTS)
                    .map(|_| scope.spawn(|| sshd.ssh(USER, "key")))
                    .collect();
                // The logger's socket holds ten lines (net.unix.max_dgram_qlen), and no helper waits for long.
                while !running.iter().all(|thread| thread.is_finished()) {
                    said.extend(lines(&instance.log));
                    std::thread::sleep(Duration::from_millis(5));
                }
                running.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            said.extend(lines(&instance.log));
            let in_count = outcomes.iter().filter(|output| output.status.success()).count();
            let out_count = outcomes
                .iter()
                .filter(|output| String::from_utf8_lossy(&output.stderr).contains("Permission denied"))
                .count();
            assert_eq!(
                (in_count, out_count),
                (pushed, CLIENTS - pushed),
                "{outcomes:#?}\n{}",
                sshd.log()
            );
            assert_eq!(reasons_in(&said), ["used"]);
        }
        assert_eq!(claims().len(), 5);
    });
}

#[test]
fn a_probe_without_the_private_key_spends_the_record() {
    let name = "a_probe_without_the_private_key_spends_the_record";
    one_time(name, |instance, sshd| {
        push(instance, sshd);
        sh(&format!(
            "cp {} {}",
            sshd.file("key.pub").display(),
            sshd.file("stranger.pub").display()
        ));
        let probe = sshd.ssh_with(USER, "stranger.pub", &["-v"]);
        let said = String::from_utf8_lossy(&probe.stderr).into_owned();
        assert!(
            said.contains("Server accepts key") && !probe.status.success(),
            "{said}"
        );
        lines(&instance.log);
        sshd.keeps_out(USER, "key");
        assert_eq!(reasons(&instance.log), ["used"]);
        push(instance, sshd);
        sshd.lets_in(USER, "key");
    });
}

/// A key in PEM without its public half beside it: ssh can't offer it and signs at once.
#[test]
fn a_client_that_signs_without_a_probe_is_let_in_once() {
    let name = "a_client_that_signs_without_a_probe_is_let_in_once";
    one_time(name, |instance, sshd| {
        let key = sshd.file("pem");
        sh(&format!(
            "ssh-keygen -q -t rsa -b 2048 -m PEM -N '' -f {0}; mv {0}.pub {0}.public",
            key.display()
        ));
        instance
            .simulator
            .push(USER, &fs::read_to_string(sshd.file("pem.public")).unwrap());
        let first = sshd.ssh_with(USER, "pem", &["-v"]);
        let said = String::from_utf8_lossy(&first.stderr).into_owned();
        assert!(
            said.contains("Trying private key") && !said.contains("Server accepts key"),
            "{said}"
        );
        assert!(first.status.success(), "{said}");
        sshd.keeps_out(USER, "pem");
        assert_eq!(reasons(&instance.log), ["used"]);
    });
}

#[test]
fn without_a_sight_of_sshd_in_proc_the_key_is_refused() {
    let name = "without_a_sight_of_sshd_in_proc_the_key_is_refused";
    one_time(name, |instance, sshd| {
        for hidepid in [1, 2] {
            sh(&format!("mount -t proc -o hidepid={hidepid} proc /proc"));
            push(instance, sshd);
            let (code, text) = tool(&["explain", USER, &sshd.fingerprint("key")]);
            assert!(code == Some(1) && text.contains("one-time-unavailable"), "{text}");
            refused_until(instance, sshd, "one-time-unavailable", "hidepid", "umount /proc");
            // The two pushes are two records.
            sshd.lets_in(USER, "key");
        }
    });
}

#[test]
fn a_wrapper_that_does_not_exec_is_refused_and_one_that_does_is_not() {
    let name = "a_wrapper_that_does_not_exec_is_refused_and_one_that_does_is_not";
    one_time(name, |instance, first| {
        let wrapper = "/opt/aws/bin/wrapper";
        // A shell execs the last command of its own accord, but not one that is followed by another.
        sh(&format!(
            "printf '#!/bin/sh\\n/opt/aws/bin/eic_run_authorized_keys \"$@\"\\nexit 0\\n' >{wrapper}; chmod 0755 {wrapper}"
        ));
        let sshd = Sshd::start("127.0.0.1", &format!("{wrapper} %u %f"), RUN_AS);
        refused_until(
            instance,
            &sshd,
            "one-time-unavailable",
            "must exec the helper",
            &format!("sed -i 's/^.opt/exec &/' {wrapper}"),
        );
        push(instance, first);
        first.lets_in(USER, "key");
    });
}

#[test]
fn sshd_that_gives_no_fingerprint_is_refused() {
    let name = "sshd_that_gives_no_fingerprint_is_refused";
    one_time(name, |instance, with| {
        let sshd = Sshd::start("127.0.0.1", COMMAND.trim_end_matches(" %f"), RUN_AS);
        push(instance, &sshd);
        sshd.keeps_out(USER, "key");
        let said = lines(&instance.log).join("\n");
        assert!(
            said.contains("reason=one-time-unavailable ") && said.contains("%f"),
            "{said}"
        );
        push(instance, with);
        with.lets_in(USER, "key");
    });
}

#[test]
fn a_directory_that_cannot_take_the_claim_refuses() {
    let name = "a_directory_that_cannot_take_the_claim_refuses";
    one_time(name, |instance, sshd| {
        let mount =
            |options: &str| format!("mount -t tmpfs -o uid=64123,mode=0700,{options} claims {DIRECTORY}");
        let unmount = format!("umount {DIRECTORY}");
        for (breakage, detail, remedy) in [
            (
                format!("rmdir {DIRECTORY}"),
                "No such file",
                format!("install -d -m 0700 -o {RUN_AS} {DIRECTORY}"),
            ),
            (
                format!("chown root {DIRECTORY}; chmod 0755 {DIRECTORY}"),
                "belongs to uid 0",
                format!("chown {RUN_AS} {DIRECTORY}; chmod 0700 {DIRECTORY}"),
            ),
            (
                format!("chmod 0750 {DIRECTORY}"),
                "open to others",
                format!("chmod 0700 {DIRECTORY}"),
            ),
            (
                format!("mv {DIRECTORY} /run/elsewhere; ln -s /run/elsewhere {DIRECTORY}"),
                "cannot be opened",
                format!("rm {DIRECTORY}; mv /run/elsewhere {DIRECTORY}"),
            ),
            (mount("ro"), "Read-only file system", unmount.clone()),
            // The directory itself is the one inode that there is.
            (mount("nr_inodes=1"), "No space left on device", unmount.clone()),
        ] {
            sh(&breakage);
            refused_until(instance, sshd, "one-time-unavailable", detail, &remedy);
            sh(&format!("rm -f {DIRECTORY}/*"));
        }
    });
}

#[test]
fn a_disk_full_to_the_last_byte_still_takes_the_claim_and_forgets_nothing() {
    let name = "a_disk_full_to_the_last_byte_still_takes_the_claim_and_forgets_nothing";
    one_time(name, |instance, sshd| {
        sh(&format!(
            "mount -t tmpfs -o uid=64123,mode=0700,size=64k claims {DIRECTORY}; ! dd if=/dev/zero of={DIRECTORY}/full bs=4k 2>/dev/null"
        ));
        push(instance, sshd);
        sshd.lets_in(USER, "key");
        sshd.keeps_out(USER, "key");
        assert_eq!(reasons(&instance.log), ["used"]);
    });
}

#[test]
fn a_login_sweeps_the_claims_of_expired_records_and_leaves_what_is_not_a_claim() {
    let name = "a_login_sweeps_the_claims_of_expired_records_and_leaves_what_is_not_a_claim";
    one_time(name, |instance, sshd| {
        let digest = "ab".repeat(32);
        let (old, recent) = (format!("1000-{digest}"), format!("{}-{digest}", u32::MAX));
        for name in [&old, &recent] {
            sh(&format!("ln -s 1-1 {DIRECTORY}/{name}"));
        }
        sh(&format!("echo somebody >{DIRECTORY}/README"));
        push(instance, sshd);
        sshd.lets_in(USER, "key");
        let names = claims();
        assert!(!names.contains(&old), "{names:?}");
        assert!(
            names.contains(&recent) && names.contains(&"README".to_owned()),
            "{names:?}"
        );
        assert_eq!(names.len(), 3, "{names:?}");
    });
}

#[test]
fn the_helper_run_by_hand_is_no_connection() {
    let name = "the_helper_run_by_hand_is_no_connection";
    one_time(name, |instance, sshd| {
        push(instance, sshd);
        let output = Command::new("setpriv")
            .args([
                "--reuid",
                "64123",
                "--clear-groups",
                "/opt/aws/bin/eic_run_authorized_keys",
                USER,
            ])
            .arg(sshd.fingerprint("key"))
            .output()
            .unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert_eq!(reasons(&instance.log), ["one-time-unavailable"]);
        assert!(claims().is_empty());
        sshd.lets_in(USER, "key");
    });
}
