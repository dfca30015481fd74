//! What `setup_product`, with one injected fault at a time in every configuration, does not have: a daemon at work while
//! setup dies, file systems that really are full, two calls at once, an edit after a death.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails loudly"
)]

#[path = "setup/machine.rs"]
mod machine;

use machine::{DROPIN, MAIN};

/// What a transaction changes the disk by. (strace counts each call by itself.)
const CHANGING: [&str; 4] = ["write", "fsync", "rename", "unlink"];

/// More calls than any transaction makes.
const MANY: usize = 30;

/// A daemon at work, and setup killed at each of its own steps, the ones around the reload too: sshd lives on as the
/// same process, and the next call finishes.
fn daemon_survives(action: &str) {
    let machine = machine!();
    let pid = machine.start_sshd();
    let back = if action == "apply" { "remove" } else { "apply" };
    machine.setup(&format!("{back} --package"));
    let mut kills = 0_usize;
    for call in CHANGING {
        for nth in 1..MANY {
            let output = machine.sh(&format!(
                "strace -qq -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={nth} \
                 ec2-instance-connect setup {action} --package --json"
            ));
            let what = format!("{action}, killed at {call} {nth}");
            assert_eq!(machine.main_pid(), pid, "{what}: another process, or none");
            assert!(machine.answers(), "{what}: nobody can log in any more");
            let next = machine.setup(&format!("{action} --package"));
            assert_eq!(next.code, 0, "{what}: {} {}", next.json, next.stderr);
            assert_eq!(machine.main_pid(), pid, "{what}: the next call restarted sshd");
            assert!(machine.answers(), "{what}: the next call left nobody to log in");
            machine.assert_no_leftovers();
            machine.changed(&format!("{back} --package"));
            if output.status.success() {
                break;
            }
            kills = kills.saturating_add(1);
        }
    }
    assert!(kills > 8, "only {kills} kills: is strace at work?");
}

#[test]
fn daemon_survives_the_death_of_an_apply_anywhere() {
    daemon_survives("apply");
}

#[test]
fn daemon_survives_the_death_of_a_remove_anywhere() {
    daemon_survives("remove");
}

#[test]
fn really_full_disk_below_etc_changes_nothing() {
    let machine = machine!();
    machine.write(MAIN, "UsePAM yes\n");
    for option in ["size=64k", "size=64k,nr_inodes=7"] {
        machine.ok(&format!(
            "cp -a /etc/ssh /tmp/ssh && mount -t tmpfs -o mode=755,{option} full /etc/ssh && \
             cp -a /tmp/ssh/sshd_config /tmp/ssh/ssh_host_* /tmp/ssh/sshd_config.d /etc/ssh/ && rm -r /tmp/ssh"
        ));
        // Whatever still fits is taken: bytes, or names.
        machine.sh("dd if=/dev/zero of=/etc/ssh/fill bs=1k count=1000 2>/dev/null; i=0; while : >/etc/ssh/fill.$i; do i=$((i+1)); [ $i -gt 99 ] && break; done; true");
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
                touch /var/lib/ec2-instance-connect/setup.lock; dd if=/dev/zero of=/var/lib/ec2-instance-connect/fill bs=1k count=1000 2>/dev/null; true");
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
fn one_that_finds_no_directory_for_its_lock_and_is_overtaken_ends_well() {
    let machine = machine!();
    // The first one's mkdir is held up until the second one has made the directory.
    let output = machine.ok(
        "strace -o /tmp/calls -e trace=?mkdir,mkdirat -e inject=?mkdir,mkdirat:delay_enter=3s:when=1 \
         ec2-instance-connect setup apply --package --json >/tmp/1 & \
         until grep -q mkdir /tmp/calls; do sleep 0.1; done; \
         ec2-instance-connect setup apply --package --json >/tmp/2; wait; cat /tmp/1 /tmp/2 /tmp/calls",
    );
    assert_eq!(output.matches("\"result\":\"changed\"").count(), 1, "{output}");
    assert_eq!(output.matches("\"result\":\"unchanged\"").count(), 1, "{output}");
    assert!(output.contains("EEXIST"), "it was not overtaken: {output}");
}

#[test]
fn file_edited_after_a_kill_is_not_put_back() {
    let machine = machine!();
    machine.write(MAIN, "UsePAM yes\n");
    // Four syncs: the journal, its directory, the new file, and, once that has its name, /etc/ssh.
    machine.sh("strace -o /dev/null -e trace=fsync -e inject=fsync:signal=KILL:when=4 ec2-instance-connect setup apply --package");
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
