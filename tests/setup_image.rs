//! Images, chroots and machines that allow little.

#[path = "setup/machine.rs"]
mod machine;

use machine::{DEB, DEFAULT, Machine};

/// A small image below /srv/image: the machine's own programs, a configuration of its own.
fn image(machine: &Machine) {
    machine.ok("mkdir -p /srv/image/etc/ssh/sshd_config.d /srv/image/var/lib /srv/image/run /srv/image/dev /srv/image/tmp; \
                for d in usr bin sbin lib lib64; do [ -e /$d ] && { [ -L /$d ] && cp -a /$d /srv/image/ || \
                { mkdir -p /srv/image/$d; mount --bind /$d /srv/image/$d; }; }; done; \
                cp -a /etc/passwd /etc/group /etc/nsswitch.conf /srv/image/etc/; true");
    machine.write("/srv/image/etc/ssh/sshd_config", DEFAULT);
}

#[test]
fn image_is_patched_judged_by_its_own_sshd_and_comes_back() {
    let machine = machine!();
    image(&machine);
    machine.start_sshd();
    let list = || {
        machine.ok("cd /srv/image && find etc var run dev tmp | sort | xargs ls -ld --time-style=+; cat etc/ssh/sshd_config")
    };
    let before = list();
    let plan = machine.setup("plan --root /srv/image");
    assert_eq!(plan.result(), "planned", "{} {}", plan.json, plan.stderr);
    assert_eq!(list(), before);
    let answer = machine.changed("apply --package --root /srv/image");
    assert_eq!(
        answer.json["effective"]["authorized_keys_command"],
        format!("{DEB} %u %f"),
        "{}",
        answer.json
    );
    assert!(machine.exists("/srv/image/etc/ssh/sshd_config.d/60-ec2-instance-connect.conf"));
    assert_eq!(machine.command(), "none", "the machine itself is not concerned");
    assert_eq!(machine.count("reload ssh.service"), 0);
    machine.changed("remove --package --root /srv/image");
    machine.ok("rm -r /srv/image/var/lib/ec2-instance-connect");
    assert_eq!(list(), before);
}

#[test]
fn image_whose_sshd_does_not_run_here_is_patched_unjudged_and_says_so() {
    let machine = machine!();
    image(&machine);
    machine.ok("umount /srv/image/usr; mkdir -p /srv/image/usr/sbin /srv/image/usr/share /srv/image/usr/libexec; \
                cp -a /usr/share/ec2-instance-connect /srv/image/usr/share/; cp -a /usr/libexec/ec2-instance-connect /srv/image/usr/libexec/; \
                echo 'another architecture' >/srv/image/usr/sbin/sshd; chmod 755 /srv/image/usr/sbin/sshd");
    let answer = machine.changed("apply --package --root /srv/image");
    assert_eq!(answer.notes(), ["not-judged"]);
}

#[test]
fn symlinks_of_an_image_are_followed_inside_it() {
    let machine = machine!();
    image(&machine);
    machine.ok(
        "mkdir -p /srv/image/srv; mv /srv/image/etc/ssh/sshd_config /srv/image/srv/real; \
                ln -s /srv/real /srv/image/etc/ssh/sshd_config",
    );
    machine.write("/srv/image/srv/real", "UsePAM yes\n");
    machine.changed("apply --package --root /srv/image");
    assert!(
        machine
            .read("/srv/image/srv/real")
            .contains("# BEGIN ec2-instance-connect")
    );
    assert!(!machine.exists("/srv/real"));
}

#[test]
fn chroot_is_patched_and_nothing_is_reloaded() {
    let machine = machine!();
    image(&machine);
    machine.start_sshd();
    machine.ok("mount -t proc proc /srv/image/proc 2>/dev/null || { mkdir /srv/image/proc; mount -t proc proc /srv/image/proc; }; \
                mount --rbind /dev /srv/image/dev; mkdir -p /srv/image/run/systemd/system; \
                ssh-keygen -q -t ed25519 -N '' -f /srv/image/etc/ssh/ssh_host_ed25519_key");
    let answer = machine.call("chroot /srv/image ec2-instance-connect setup apply --package --json");
    assert_eq!(
        (answer.code, answer.result()),
        (0, "changed"),
        "{} {}",
        answer.json,
        answer.stderr
    );
    assert!(answer.notes().contains(&"judged-in-place"), "{}", answer.json);
    assert!(machine.exists("/srv/image/etc/ssh/sshd_config.d/60-ec2-instance-connect.conf"));
    assert_eq!(machine.count("reload ssh.service"), 0);
    assert_eq!(
        machine.ok("ls -A /srv/image/run /srv/image/tmp"),
        "/srv/image/run:\nsystemd\n\n/srv/image/tmp:\n"
    );
}

#[test]
fn container_without_the_right_to_mount_judges_in_place_and_takes_back() {
    let machine = machine!();
    let bare = "setpriv --bounding-set -sys_admin --inh-caps -sys_admin";
    if !machine.sh(&format!("{bare} true")).status.success() {
        eprintln!("SKIPPED: {}:{}: no setpriv", file!(), line!());
        return;
    }
    let before = machine.picture();
    let answer = machine.call(&format!(
        "{bare} ec2-instance-connect setup apply --package --json"
    ));
    assert_eq!(
        (answer.code, answer.notes()),
        (0, vec!["judged-in-place"]),
        "{} {}",
        answer.json,
        answer.stderr
    );
    machine.changed("remove --package");
    assert_eq!(machine.picture(), before);

    // What the drop-in would silence is found only with the files in place, and then everything is taken back.
    machine.write(
        "/etc/ssh/sshd_config",
        format!("{DEFAULT}AuthorizedPrincipalsCommand /usr/bin/p\nAuthorizedPrincipalsCommandUser nobody\n"),
    );
    let before = machine.picture();
    let answer = machine.call(&format!(
        "{bare} ec2-instance-connect setup apply --package --json"
    ));
    assert_eq!(
        (answer.code, answer.refusal()),
        (1, "candidate-side-effect"),
        "{} {}",
        answer.json,
        answer.stderr
    );
    assert_eq!(machine.picture(), before);
    machine.assert_no_leftovers();
}

#[test]
fn ordinary_user_may_look_and_not_touch() {
    let machine = machine!();
    let answer =
        machine.call("setpriv --reuid nobody --clear-groups ec2-instance-connect setup apply --json");
    assert_eq!(
        (answer.code, answer.refusal()),
        (1, "not-root"),
        "{} {}",
        answer.json,
        answer.stderr
    );
}
