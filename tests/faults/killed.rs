//! Killed at every system call, and a reader of its output that goes away.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Command;

use eic_simulator::clock;
use eic_simulator::record::{self, Record};

use crate::common::case::{INSTANCE, KEY_LINE};
use crate::common::machine::in_namespaces;
use crate::common::sshd::{Sshd, myself};
use crate::ground::{Ground, USER, configuration, each, long, nitro, tools};

#[test]
fn killed_at_any_system_call_it_has_printed_all_or_nothing() {
    let name = "killed::killed_at_any_system_call_it_has_printed_all_or_nothing";
    if !tools(name, &["strace"]) {
        return;
    }
    in_namespaces(name, || {
        let ground = Ground::new();
        let simulator = nitro();
        let config = configuration(&simulator);
        let trace = ground.directory.path().join("trace");
        fs::write(&trace, "").unwrap();
        fs::set_permissions(&trace, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        // strace counts each call's occurrences apart: when=N is the Nth of that name.
        let run = ground.run(ground.below(&["strace", "-o", trace.to_str().unwrap()], &config));
        run.printed_the_key().unwrap();
        let mut calls: BTreeMap<String, usize> = BTreeMap::new();
        for line in fs::read_to_string(&trace).unwrap().lines() {
            if let Some((call, _)) = line.split_once('(').filter(|(call, _)| !call.contains(' ')) {
                *calls.entry(call.to_owned()).or_default() += 1;
            }
        }
        assert!(
            calls.contains_key("write") && calls.contains_key("exit_group"),
            "{calls:?}"
        );
        let mut points = Vec::new();
        for (call, &times) in &calls {
            // The first execve is strace's own.
            points.extend(
                (1..=times)
                    .filter(|_| call != "execve")
                    .map(|when| (call.clone(), when)),
            );
        }
        if !long() {
            // Every call of another kind, and of the many alike every third.
            points.retain(|(_, when)| *when <= 3 || when % 3 == 0);
        }
        let printed = std::sync::atomic::AtomicUsize::new(0);
        let died = std::sync::atomic::AtomicUsize::new(0);
        each(&points, |(call, when)| {
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let run = ground.run(ground.below(&["strace", "-o", "/dev/null", "-e", &inject], &config));
            let whole = run.stdout == format!("{KEY_LINE}\n");
            died.fetch_add(
                usize::from(run.code.is_none()),
                std::sync::atomic::Ordering::Relaxed,
            );
            printed.fetch_add(usize::from(whole), std::sync::atomic::Ordering::Relaxed);
            if whole || run.stdout.is_empty() {
                Ok(())
            } else {
                Err(format!("{call} {when}: {run:?}"))
            }
        });
        let (printed, died) = (printed.into_inner(), died.into_inner());
        println!(
            "killed at {died} of {} system calls; {printed} had printed the key",
            points.len()
        );
        // How often a call is made differs a little from run to run, so that not every point is met.
        assert!(died * 10 > points.len() * 8, "{died} of {}", points.len());
        assert!(
            printed > 0,
            "none died after its output: the last call was not reached"
        );
    });
}

/// A helper that prints its key and then dies opens no door: sshd throws its output away.
#[test]
fn key_of_a_helper_that_died_lets_nobody_in() {
    let name = "killed::key_of_a_helper_that_died_lets_nobody_in";
    if !tools(name, &["strace", "ssh", "/usr/sbin/sshd"]) {
        return;
    }
    let simulator = nitro();
    let me = myself();
    let config = configuration(&simulator);
    let helper = crate::common::run::HELPER;
    for (inject, dies) in [
        ("exit_group:signal=CONT", false),
        ("exit_group:signal=KILL", true),
    ] {
        let command = format!(
            "/usr/bin/env strace -o /dev/null -e inject={inject} {helper} --config {} %u %f",
            config.display()
        );
        let sshd = Sshd::start("127.0.0.1", &command, &me);
        simulator.push(&me, &sshd.public_key("key"));
        if dies {
            assert!(!sshd.admits(&me, "key"), "{}", sshd.log());
            assert!(sshd.log().contains("AuthorizedKeysCommand"), "{}", sshd.log());
        } else {
            sshd.lets_in(&me, "key");
        }
    }
}

/// sshd up to 7.5 closes the pipe at the first line that matches, with more of them still to be written.
#[test]
fn reader_that_leaves_after_one_line_of_many_is_success() {
    let name = "killed::reader_that_leaves_after_one_line_of_many_is_success";
    in_namespaces(name, || {
        let ground = Ground::new();
        let simulator = nitro();
        // More than a pipe holds, so that the helper is still writing when its reader leaves.
        let key = |number: u16| {
            let mut blob = vec![0, 0, 0, 11];
            blob.extend(b"ssh-ed25519");
            blob.extend([0, 0, 0, 32]);
            blob.extend(number.to_be_bytes());
            blob.extend([7; 30]);
            let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, blob);
            Record::new(INSTANCE, &format!("ssh-ed25519 {base64}"))
        };
        let many: Vec<Record> = (0..1000).map(key).collect();
        simulator.put_document(
            USER,
            record::document(&many, simulator.signer().key(), clock::now()),
        );
        let mut whole: Command = ground.command(&configuration(&simulator));
        let mut child = whole.spawn().unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        drop(reader);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(line.trim_end(), many[0].key_line);

        // Its twin reads to the end.
        let output = ground.command(&configuration(&simulator)).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.len() > 65_536, "a pipe would hold all of it");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap().lines().count(),
            many.len()
        );
    });
}
