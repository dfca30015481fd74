//! Death and a full disk between any two steps: what is left is the old configuration or the new one, and the next
//! call puts the rest right. The faults are the kernel's, injected by strace(1) or by file systems that are full.

#[path = "setup/machine.rs"]
mod machine;

use machine::{DEB, DEFAULT, DROPIN, MAIN, Machine, Picture, RPM};

/// Everything by which a transaction changes the disk. Each is hit at its first, second, third… call.
const CHANGING: [&str; 6] = [
    "write",
    "fsync",
    "rename,renameat,renameat2",
    "link,linkat",
    "unlink,unlinkat,rmdir",
    "mkdir,mkdirat",
];

/// More calls than any transaction makes.
const MANY: usize = 60;

const OVERRIDE: &str = "/usr/lib/systemd/system/ssh.service.d/ec2-instance-connect.conf";

fn dropin(_: &Machine) {}

fn block(machine: &Machine) {
    machine.write(MAIN, "UsePAM yes\nMatch User nobody\n    X11Forwarding no");
}

fn new_directory(machine: &Machine) {
    machine.ok("rmdir /etc/ssh/sshd_config.d");
}

/// Amazon's two lines for a path that is gone, and the reference's unit override: three files in one transaction.
fn traditions(machine: &Machine) {
    machine.write(
        MAIN,
        format!(
            "AuthorizedKeysCommand {RPM} %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n{DEFAULT}"
        ),
    );
    machine.write(
        OVERRIDE,
        format!(
            "[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D -o \"AuthorizedKeysCommand {DEB} %%u %%f\" -o \
             \"AuthorizedKeysCommandUser ec2-instance-connect\" $SSHD_OPTS\n"
        ),
    );
}

/// The files without what only a repair needs.
fn settled(mut picture: Picture) -> Picture {
    picture.retain(|path, _| !path.to_string_lossy().contains(".ec2-instance-connect."));
    picture
}

/// The files that sshd and systemd read, by content: a cut-off call may have left directories behind.
fn contents(picture: &Picture) -> Vec<(String, String)> {
    let files = picture
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|it| it == "conf") || path.ends_with("sshd_config"));
    files
        .map(|(path, entry)| (path.display().to_string(), format!("{entry:?}")))
        .collect()
}

fn restore(machine: &Machine, prepare: fn(&Machine)) {
    machine.ok(
        "rm -rf /etc/ssh/sshd_config.d /usr/lib/systemd/system/ssh.service.d /var/lib/ec2-instance-connect \
                /etc/ec2-instance-connect; mkdir /etc/ssh/sshd_config.d",
    );
    machine.write(MAIN, DEFAULT);
    prepare(machine);
}

/// Cuts `action` off everywhere, and lets the next call have the last word.
fn survives(action: &str, prepare: fn(&Machine), fault: &str) {
    let machine = machine!();
    restore(&machine, prepare);
    let pristine = machine.picture();
    machine.changed("apply --package");
    let applied = machine.picture();
    machine.changed("remove --package");
    let removed = machine.picture();
    let (from, to) = if action == "apply" {
        (&pristine, &applied)
    } else {
        (&applied, &removed)
    };

    let mut hits = 0_usize;
    for calls in CHANGING {
        for nth in 1..MANY {
            restore(&machine, prepare);
            if action == "remove" {
                machine.changed("apply --package");
            }
            let output = machine.sh(&format!(
                "strace -o /dev/null -e trace={calls} -e inject={calls}:{fault}:when={nth} \
                 ec2-instance-connect setup {action} --package --json >/dev/null 2>&1"
            ));
            let code = output.status.code();
            let what = format!("{action}, {calls} number {nth}, {fault}, status {code:?}");
            let now = settled(machine.picture());
            // Several files change one after another: each is old or new, and sshd takes the whole.
            for (path, entry) in contents(&now) {
                let known = contents(from).contains(&(path.clone(), entry.clone()))
                    || contents(to).contains(&(path.clone(), entry));
                assert!(known, "{what}: {path} is neither old nor new");
            }
            let in_force = machine.command();
            let possible = ["none".to_owned(), format!("{DEB} %u %f"), format!("{RPM} %u %f")];
            assert!(possible.contains(&in_force), "{what}: {in_force}");
            if fault.starts_with("error") && code == Some(1) {
                assert_eq!(contents(&now), contents(from), "{what}: a failure left something");
            }

            let status = machine.setup("status");
            assert_eq!(status.code, 0, "{what}: {} {}", status.json, status.stderr);
            let next = machine.setup(&format!("{action} --package"));
            assert_eq!(next.code, 0, "{what}: {} {}", next.json, next.stderr);
            assert_eq!(machine.picture(), *to, "{what}: the next call did not finish");
            machine.assert_no_leftovers();

            let done = if fault.starts_with("signal") {
                code == Some(0)
            } else {
                output.status.success() && nth > 20
            };
            if done {
                break;
            }
            hits += 1;
        }
    }
    assert!(hits > 8, "only {hits} faults hit: is strace at work?");
}

#[test]
fn apply_of_a_dropin_survives_being_killed_anywhere() {
    survives("apply", dropin, "signal=KILL");
}

#[test]
fn apply_of_a_block_survives_being_killed_anywhere() {
    survives("apply", block, "signal=KILL");
}

#[test]
fn apply_in_a_new_directory_survives_being_killed_anywhere() {
    survives("apply", new_directory, "signal=KILL");
}

#[test]
fn taking_over_traditions_survives_being_killed_anywhere() {
    survives("apply", traditions, "signal=KILL");
}

#[test]
fn remove_of_a_dropin_survives_being_killed_anywhere() {
    survives("remove", dropin, "signal=KILL");
}

#[test]
fn remove_of_a_block_survives_being_killed_anywhere() {
    survives("remove", block, "signal=KILL");
}

/// One failing call, whichever: a failure is reported and everything is as before.
fn fails_cleanly(action: &str, prepare: fn(&Machine)) {
    let machine = machine!();
    restore(&machine, prepare);
    let mut failures = 0_usize;
    for calls in [
        "write",
        "fsync",
        "rename,renameat,renameat2",
        "link,linkat",
        "mkdir,mkdirat",
    ] {
        for nth in 1..MANY {
            restore(&machine, prepare);
            if action == "remove" {
                machine.changed("apply --package");
            }
            let before = machine.picture();
            let trace = "/tmp/trace";
            let answer = machine.call(&format!(
                "strace -o {trace} -e trace={calls} -e inject={calls}:error=ENOSPC:when={nth} \
                 ec2-instance-connect setup {action} --package --json"
            ));
            if !machine.read(trace).contains("(INJECTED)") {
                break;
            }
            // Writing the answer itself is the last call: then the work is done, and only the status tells.
            let what = format!(
                "{action}, {calls} number {nth}: {} {}",
                answer.json, answer.stderr
            );
            if answer.json.is_null() || answer.code == 0 {
                let next = machine.setup(&format!("{action} --package"));
                assert_eq!(next.code, 0, "{what}");
            } else {
                failures += 1;
                assert!(["io", "rollback-failed"].contains(&answer.refusal()), "{what}");
                if answer.refusal() == "io" {
                    assert_eq!(machine.picture(), before, "{what}");
                }
                let next = machine.changed(&format!("{action} --package"));
                assert_eq!(
                    next.state(),
                    if action == "apply" { "ours" } else { "absent" },
                    "{what}"
                );
            }
            machine.assert_no_leftovers();
        }
    }
    assert!(failures > 5, "only {failures} failures: is strace at work?");
}

#[test]
fn apply_with_a_failing_write_changes_nothing() {
    fails_cleanly("apply", dropin);
}

#[test]
fn taking_over_traditions_with_a_failing_write_changes_nothing() {
    fails_cleanly("apply", block);
}

#[test]
fn remove_with_a_failing_write_changes_nothing() {
    fails_cleanly("remove", block);
}

#[test]
fn really_full_disk_below_etc_changes_nothing() {
    let machine = machine!();
    machine.write(MAIN, "UsePAM yes\n");
    for option in ["size=64k", "nr_inodes=7"] {
        machine.ok(&format!(
            "cp -a /etc/ssh /tmp/ssh && mount -t tmpfs -o mode=755,{option} full /etc/ssh && \
             cp -a /tmp/ssh/sshd_config /tmp/ssh/ssh_host_* /tmp/ssh/sshd_config.d /etc/ssh/ && rm -r /tmp/ssh"
        ));
        // Whatever still fits is taken: bytes, or names.
        machine.sh("dd if=/dev/zero of=/etc/ssh/fill bs=1k 2>/dev/null; i=0; while : >/etc/ssh/fill.$i; do i=$((i+1)); [ $i -gt 99 ] && break; done; true");
        let answer = machine.refused("apply --package", "io");
        assert!(
            answer.json["refusal"]["message"]
                .as_str()
                .unwrap()
                .contains("No space"),
            "{}",
            answer.json
        );
        machine.assert_no_leftovers();
        machine.ok("rm /etc/ssh/fill*");
        machine.changed("apply --package");
        machine.changed("remove --package");
        machine.ok("umount /etc/ssh");
    }
}

#[test]
fn really_full_disk_below_var_changes_nothing() {
    let machine = machine!();
    machine.ok("mkdir -p /var/lib/ec2-instance-connect && mount -t tmpfs -o size=16k full /var/lib/ec2-instance-connect && \
                touch /var/lib/ec2-instance-connect/setup.lock; dd if=/dev/zero of=/var/lib/ec2-instance-connect/fill bs=1k 2>/dev/null; true");
    machine.refused("apply --package", "io");
    machine.ok("rm /var/lib/ec2-instance-connect/fill");
    machine.changed("apply --package");
}

#[test]
fn two_at_once_end_as_one() {
    let machine = machine!();
    let output = machine.ok(
        "for i in 1 2 3 4; do ec2-instance-connect setup apply --package --json >/tmp/$i & done; wait; cat /tmp/[1-4]",
    );
    assert_eq!(output.matches("\"result\":\"changed\"").count(), 1, "{output}");
    assert_eq!(output.matches("\"result\":\"unchanged\"").count(), 3, "{output}");
    assert!(machine.exists(DROPIN));
}

#[test]
fn file_edited_after_a_kill_is_not_put_back() {
    let machine = machine!();
    machine.write(MAIN, "UsePAM yes\n");
    // The second rename: the journal is the first, the main file the next.
    machine.sh("strace -o /dev/null -e trace=fsync -e inject=fsync:signal=KILL:when=5 ec2-instance-connect setup apply --package");
    assert!(
        machine.setup("status").notes().contains(&"interrupted"),
        "the kill came too early or too late"
    );
    machine.write(MAIN, "UsePAM no\n");
    let answer = machine.changed("apply --package");
    assert!(answer.notes().contains(&"repair-skipped"), "{}", answer.json);
    assert!(machine.read(MAIN).starts_with("UsePAM no\n"));
    machine.assert_no_leftovers();
}
