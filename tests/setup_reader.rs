//! Random configurations: what our reader says is in force is what the real sshd says, and what setup does to them
//! is ours in force, or a refusal, and undone to the byte.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails loudly"
)]

#[path = "setup/machine.rs"]
mod machine;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use ec2_instance_connect::sshd::tree::{self, Keyword, Snapshot};
use machine::{DEB, MAIN, Machine};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const GLOB: &str = "/etc/ssh/sshd_config.d/*.conf";
const DROPINS: [&str; 3] = ["10-a.conf", "50-b.conf", "70-c.conf"];

/// Cases for the reader: one run of sshd each, some 20 ms.
const READ_CASES: u32 = 200;
/// Cases for the patcher: two transactions each, some 500 ms.
const PATCH_CASES: u32 = 40;

fn line() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("/usr/bin/other %u".to_owned()),
        Just("none".to_owned()),
        Just("\"/usr/bin/with space\" %u".to_owned()),
        Just("/usr/bin/other # no comment".to_owned()),
        Just(format!("{DEB} %u %f")),
    ];
    let command = (
        "[aA]uthorized[kK]eysCommand",
        prop_oneof![Just(" "), Just("="), Just("\t = ")],
        value,
    )
        .prop_map(|(keyword, gap, value)| format!("{keyword}{gap}{value}"));
    prop_oneof![
        6 => prop_oneof![Just("UsePAM yes"), Just("# comment"), Just(""), Just("   "), Just("X11Forwarding no")].prop_map(str::to_owned),
        1 => command,
        1 => prop_oneof![Just("AuthorizedKeysCommandUser nobody"), Just("AuthorizedKeysCommandUser \"ec2-instance-connect\"")].prop_map(str::to_owned),
        1 => Just("Match User nobody".to_owned()),
        1 => Just("Match all".to_owned()),
        2 => Just(format!("Include {GLOB}")),
        1 => Just("include sshd_config.d/*.conf # all".to_owned()),
    ]
}

fn text(most: usize) -> impl Strategy<Value = String> {
    let eol = prop_oneof![4 => Just("\n"), 1 => Just("\r\n")];
    (proptest::collection::vec((line(), eol), 0..most), any::<bool>()).prop_map(|(lines, cut)| {
        let mut text: String = lines
            .into_iter()
            .map(|(line, eol)| format!("{line}{eol}"))
            .collect();
        if cut {
            text.pop();
        }
        text
    })
}

/// The main file, and drop-ins that include nothing.
fn files() -> impl Strategy<Value = (String, Vec<String>)> {
    let dropin = text(4).prop_map(|text| {
        text.replace("nclude", "nclude_")
            .replace("Include_", "#")
            .replace("include_", "#")
    });
    (text(8), proptest::collection::vec(dropin, DROPINS.len()))
}

fn furnish(machine: &Machine, main: &str, dropins: &[String]) {
    machine.write(MAIN, main);
    for (name, text) in DROPINS.iter().zip(dropins) {
        machine.write(&format!("/etc/ssh/sshd_config.d/{name}"), text);
    }
}

fn snapshot(main: &str, dropins: &[String]) -> Snapshot {
    let paths: Vec<PathBuf> = DROPINS
        .iter()
        .map(|name| format!("/etc/ssh/sshd_config.d/{name}").into())
        .collect();
    let mut files: BTreeMap<PathBuf, Vec<u8>> = paths
        .iter()
        .cloned()
        .zip(dropins.iter().map(|text| text.as_bytes().to_vec()))
        .collect();
    files.insert(MAIN.into(), main.as_bytes().to_vec());
    Snapshot {
        main: MAIN.into(),
        files,
        globs: BTreeMap::from([(GLOB.to_owned(), paths)]),
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn reader_and_sshd_agree_on_who_wins() {
    let machine = machine!();
    machine.ok("mkdir -p /run/sshd");
    let agreed = Cell::new(0_u32);
    runner(READ_CASES)
        .run(&files(), |(main, dropins)| {
            furnish(&machine, &main, &dropins);
            // A command without a user stops sshd: one at the very end is enough to let it speak.
            let output = machine.sh("/usr/sbin/sshd -T -o AuthorizedKeysCommandUser=root");
            prop_assume!(output.status.success());
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let said = said
                .lines()
                .find_map(|line| line.strip_prefix("authorizedkeyscommand "))
                .unwrap_or("none")
                .to_owned();
            let reading = tree::read(&snapshot(&main, &dropins)).unwrap();
            let ours = reading
                .winner(Keyword::Command)
                .map_or_else(|| "none".to_owned(), |setting| setting.value.clone());
            prop_assert_eq!(ours, said);
            agreed.set(agreed.get() + 1);
            Ok(())
        })
        .unwrap();
    assert!(agreed.get() >= READ_CASES);
}

#[test]
fn any_configuration_is_ours_or_refused_and_comes_back() {
    let machine = machine!();
    machine.ok("mkdir -p /run/sshd");
    let (applied, refused) = (Cell::new(0), Cell::new(0));
    runner(PATCH_CASES)
        .run(&files(), |(main, dropins)| {
            furnish(&machine, &main, &dropins);
            let before = machine.picture();
            let answer = machine.setup("apply --package");
            if answer.code == 0 {
                applied.set(applied.get() + 1);
                // A configuration that sshd refuses with and without us has no effective value.
                if !answer.notes().contains(&"already-broken") {
                    prop_assert_eq!(machine.command(), format!("{DEB} %u %f"));
                }
                if answer.result() == "changed" {
                    let removed = machine.setup("remove --package");
                    prop_assert_eq!(removed.code, 0, "{}", removed.json);
                    // Lines that tradition left go with us; nothing else may differ.
                    if !main.contains(DEB) {
                        prop_assert_eq!(&machine.picture(), &before);
                    }
                }
            } else {
                refused.set(refused.get() + 1);
                prop_assert!(
                    answer.refusal().starts_with("foreign-")
                        || answer.refusal().starts_with("candidate-")
                        || answer.refusal() == "match-half-pair",
                    "{}",
                    answer.json
                );
                prop_assert_eq!(&machine.picture(), &before);
            }
            machine.assert_no_leftovers();
            Ok(())
        })
        .unwrap();
    let (applied, refused) = (applied.get(), refused.get());
    assert!(
        applied > 3 && refused > 3,
        "{applied} applied, {refused} refused: the cases say little"
    );
}
