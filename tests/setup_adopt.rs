//! `setup apply --adopt`: somebody's command becomes a link in one transaction, after it was tried, and `setup remove`
//! gives it back to the byte, also after a death or a full disk between any two steps.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails loudly"
)]

#[path = "setup/machine.rs"]
mod machine;

use std::path::PathBuf;

use machine::{DEB, DEFAULT, DROPIN, MAIN, Machine, Picture};

const COMMAND: &str = "/usr/lib/keys-of/keys-of";
const HIS: &str = "/etc/ssh/sshd_config.d/50-his.conf";
const CONFIG: &str = "/etc/ec2-instance-connect/config.toml";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHis of-$1";
/// More calls than any transaction makes.
const MANY: usize = 60;

/// A machine with somebody's command in force.
fn furnished(machine: &Machine, arguments: &str) {
    machine.program(COMMAND, &format!("#!/bin/sh\necho \"{KEY}\"\n"));
    let pair = format!("AuthorizedKeysCommand {COMMAND}{arguments}\nAuthorizedKeysCommandUser nobody\n");
    machine.write(HIS, format!("# his\n{pair}X11Forwarding no\n"));
}

/// Every file is as it was; names those that are not.
#[track_caller]
fn assert_same(machine: &Machine, before: &Picture, what: &str) {
    let now = machine.picture();
    let differs = |path: &&PathBuf| now.get(*path) != before.get(*path);
    let paths: Vec<&PathBuf> = now.keys().chain(before.keys()).filter(differs).collect();
    assert!(paths.is_empty(), "{what}: {paths:?} differ");
}

#[test]
fn command_becomes_a_link_and_comes_back_to_the_byte() {
    let machine = machine!();
    let lines = format!("AuthorizedKeysCommand   {COMMAND} %u\n# between\nAuthorizedKeysCommandUser nobody");
    for (config, line) in [
        (None, ""),
        (Some("# ours\n[log]\nlevel = \"debug\"\n"), ""),
        (Some("# no end"), " --home %h"),
        (Some(""), " --home %h --key %k --type %t"),
    ] {
        machine.ok("rm -rf /etc/ec2-instance-connect");
        if let Some(text) = config {
            machine.write(CONFIG, text);
        }
        let arguments = match line {
            "" => " %u",
            " --home %h" => " %u %h/.ssh",
            _ => " %u %h %t:%k %f",
        };
        for place in ["drop-in", "main", "two files"] {
            machine.write(MAIN, DEFAULT);
            furnished(&machine, arguments);
            match place {
                "main" => {
                    machine.ok(&format!("rm {HIS}"));
                    let lines = lines.replace(" %u\n", &format!("{arguments}\n"));
                    machine.write(MAIN, format!("{DEFAULT}\n{lines}"));
                }
                "two files" => {
                    machine.ok(&format!("sed -i /CommandUser/d {HIS}"));
                    machine.write(MAIN, format!("{DEFAULT}AuthorizedKeysCommandUser nobody\r\n"));
                }
                _ => {}
            }
            let before = machine.picture();
            machine.refused("apply --package", "foreign-command");
            let planned = machine.setup("plan --adopt nobody");
            assert_eq!(
                planned.result(),
                "planned",
                "{place}: {} {}",
                planned.json,
                planned.stderr
            );
            assert_eq!(machine.picture(), before, "a plan changed something");

            let done = machine.changed("apply --adopt nobody");
            assert!(done.notes().contains(&"adopted"), "{}", done.json);
            assert_eq!(done.state(), "ours");
            assert_eq!(machine.command(), format!("{DEB}{line} %u %f"));
            assert_eq!(
                machine.effective("authorizedkeyscommanduser"),
                "ec2-instance-connect"
            );
            let check = machine.sh(&format!("ec2-instance-connect config check {CONFIG}"));
            assert!(check.status.success(), "{check:?}");
            assert!(machine.read(CONFIG).contains("[[chain]]\nname = \"keys-of\"\n"));
            for again in ["apply --package", "apply --adopt nobody"] {
                assert_eq!(machine.setup(again).result(), "unchanged", "{again}");
            }
            assert!(!machine.setup("status").notes().contains(&"adopted-link-missing"));

            let back = machine.changed("remove --package");
            assert!(back.notes().contains(&"given-back"), "{}", back.json);
            assert_same(&machine, &before, &format!("{place}, {config:?}"));
            machine.assert_no_leftovers();
        }
    }
}

#[test]
fn command_that_gives_something_else_as_our_user_is_refused_with_the_difference() {
    let machine = machine!();
    furnished(&machine, " %u");
    for (script, code, word) in [
        (
            format!("echo \"{KEY}\"; echo \"as $(id -un)\""),
            "adopt-differs",
            "line 2 is",
        ),
        (
            format!("[ $(id -un) = nobody ] || exit 7; echo \"{KEY}\""),
            "adopt-differs",
            "exit status 7",
        ),
        (
            format!("[ $(id -un) = nobody ] || exec sleep 30; echo \"{KEY}\""),
            "adopt-differs",
            "10000 ms",
        ),
        ("true".to_owned(), "adopt-unfit", "proves nothing"),
        ("exit 1".to_owned(), "adopt-unfit", "does not work"),
        (
            format!("echo \"{KEY}\"; printf '\\033[2J'"),
            "adopt-unfit",
            "control character",
        ),
    ] {
        machine.program(COMMAND, &format!("#!/bin/sh\n{script}\n"));
        let answer = machine.refused("apply --adopt nobody", code);
        let message = answer.json["refusal"]["message"].as_str().unwrap();
        assert!(message.contains(word) && !message.contains('\u{1b}'), "{message}");
    }
    machine.program(COMMAND, &format!("#!/bin/sh\necho \"{KEY}\"\n"));
    machine.refused("apply --adopt no-such-user", "adopt-unfit");
    machine.ok(&format!("chmod g+w {COMMAND}"));
    machine.refused("apply --adopt nobody", "adopt-unfit");
    machine.ok(&format!("chmod g-w {COMMAND}"));
    machine.changed("apply --adopt nobody");
}

#[test]
fn command_that_no_link_can_be_is_refused() {
    let machine = machine!();
    furnished(&machine, " %u");
    let his = machine.read(HIS);
    for (text, code) in [
        (his.replace("User nobody", "User root"), "adopt-root"),
        (
            his.replace(COMMAND, &format!("/usr/bin/sudo {COMMAND}")),
            "adopt-root",
        ),
        (his.replace("User nobody", "User %u"), "adopt-unfit"),
        (his.replace(" %u\n", " %U\n"), "adopt-unfit"),
        (his.replace(" %u\n", " %u # x\n"), "adopt-unfit"),
        (
            format!("{his}AuthorizedKeysCommand /usr/bin/other\n"),
            "adopt-unfit",
        ),
        (format!("Match all\n{his}"), "adopt-unfit"),
        ("AuthorizedKeysCommand none\n".to_owned(), "foreign-none"),
    ] {
        machine.write(HIS, &text);
        machine.refused("apply --adopt nobody", code);
    }
    // A file that its package writes anew.
    machine.write("/usr/lib/his.conf", &his);
    machine.ok(&format!("ln -sf /usr/lib/his.conf {HIS}"));
    machine.refused("apply --adopt nobody", "adopt-unfit");
    machine.ok(&format!("rm {HIS}"));
    machine.write(HIS, &his);
    machine.write(CONFIG, "[nonsense]\n");
    machine.refused("apply --adopt nobody", "adopt-unfit");
    machine.write(CONFIG, "");
    machine.changed("apply --adopt nobody");
}

#[test]
fn edited_link_stays_and_a_lost_one_is_told() {
    let machine = machine!();
    furnished(&machine, " %u");
    let his = machine.read(HIS);
    machine.changed("apply --adopt nobody");
    let adopted = machine.read(CONFIG);
    machine.write(CONFIG, "");
    assert!(machine.setup("status").notes().contains(&"adopted-link-missing"));
    let edited = adopted.replace("# END", "when = \"no-key\"\n# END");
    machine.write(CONFIG, &edited);
    assert_eq!(machine.setup("apply").result(), "unchanged");
    let back = machine.changed("remove --package");
    assert!(back.notes().contains(&"adopted-edited"), "{}", back.json);
    assert_eq!((machine.read(CONFIG), machine.read(HIS)), (edited, his));
    assert!(!machine.exists(DROPIN));
}

/// Death or a full disk at each of setup's own system calls that change the disk: the next call gives everything back.
fn everything_comes_back_after(fault: &str, action: &str) {
    let machine = machine!();
    furnished(&machine, " %u %h");
    machine.write(CONFIG, "# no end");
    let before = machine.picture();
    let mut faults = 0_usize;
    // Both names of a call, where there are two: which of them libc uses is its own affair.
    for calls in [
        "write",
        "fsync",
        "rename,renameat,renameat2",
        "unlink,unlinkat",
        "link,linkat",
        "mkdir,mkdirat",
    ] {
        for nth in 1..MANY {
            if action == "remove" {
                machine.changed("apply --adopt nobody");
            }
            let arguments = if action == "apply" {
                "apply --adopt nobody"
            } else {
                "remove --package"
            };
            let output = machine.sh(&format!(
                "strace -qq -o /tmp/trace -e trace={calls} -e inject={calls}:{fault}:when={nth} \
                 ec2-instance-connect setup {arguments} --json"
            ));
            let what = format!("{action}, {fault} at {calls} {nth}");
            let next = machine.setup("remove --package");
            assert_eq!(next.code, 0, "{what}: {} {}", next.json, next.stderr);
            assert_same(&machine, &before, &what);
            // Of a call that died while it wrote its journal; the next that writes one writes it anew.
            machine.ok("rm -f /var/lib/ec2-instance-connect/setup.intent.new");
            machine.assert_no_leftovers();
            if !machine.read("/tmp/trace").contains("INJECTED") && output.status.success() {
                break;
            }
            faults = faults.saturating_add(1);
        }
    }
    assert!(faults > 10, "only {faults} faults: is strace at work?");
}

#[test]
fn everything_comes_back_after_a_death_in_an_adoption() {
    everything_comes_back_after("signal=KILL", "apply");
}

#[test]
fn everything_comes_back_after_a_death_in_giving_back() {
    everything_comes_back_after("signal=KILL", "remove");
}

#[test]
fn everything_comes_back_after_a_full_disk_in_an_adoption() {
    everything_comes_back_after("error=ENOSPC", "apply");
}
