//! A running daemon: reloaded and not restarted, proven alive, brought back when it dies.

#[path = "setup/machine.rs"]
mod machine;

use machine::{DEB, DEFAULT, DROPIN, MAIN, Machine, RPM};

const OVERRIDE: &str = "/usr/lib/systemd/system/ssh.service.d/ec2-instance-connect.conf";

fn reference_override(machine: &Machine) {
    machine.write(
        OVERRIDE,
        format!(
            "[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D -o \"AuthorizedKeysCommand {DEB} %%u %%f\" -o \
             \"AuthorizedKeysCommandUser ec2-instance-connect\" $SSHD_OPTS\n"
        ),
    );
    machine.write(
        "/run/sshd.argv",
        format!("-D -o \"AuthorizedKeysCommand {DEB} %u %f\" -o \"AuthorizedKeysCommandUser ec2-instance-connect\"\n"),
    );
}

#[test]
fn running_daemon_is_reloaded_and_keeps_its_process() {
    let machine = machine!();
    let pid = machine.start_sshd();
    let answer = machine.changed("apply --package");
    assert!(answer.notes().is_empty(), "{}", answer.json);
    assert_eq!(
        (machine.main_pid(), machine.count("reload ssh.service")),
        (pid.clone(), 1)
    );
    assert!(machine.answers());
    machine.setup("apply --package");
    assert_eq!(
        machine.count("reload ssh.service"),
        1,
        "nothing changed, so nothing was to be reloaded"
    );
    machine.changed("remove --package");
    assert_eq!(
        (machine.main_pid(), machine.count("reload ssh.service")),
        (pid, 2)
    );
    assert_eq!(machine.count("daemon-reload"), 0);
}

#[test]
fn stopped_daemon_is_not_started() {
    let machine = machine!();
    let answer = machine.changed("apply --package");
    assert!(answer.notes().is_empty(), "{}", answer.json);
    assert_eq!(
        machine.count("reload ssh.service") + machine.count("start ssh.service"),
        0
    );
}

#[test]
fn daemon_that_dies_of_the_reload_is_brought_back_without_us() {
    let machine = machine!();
    machine.start_sshd();
    machine.write("/run/reload.kills", "");
    machine.refused("apply --package", "proof-failed");
    assert_eq!(machine.command(), "none");
    assert!(machine.answers(), "nobody can log in any more");
    machine.assert_no_leftovers();
    machine.ok("rm /run/reload.kills");
    machine.changed("apply --package");
}

#[test]
fn reload_is_left_out_when_it_must_be() {
    let machine = machine!();
    machine.start_sshd();
    let answer = machine.changed("apply --package --no-reload");
    assert_eq!(answer.notes(), ["not-reloaded"]);
    machine.changed("remove --package --no-reload");
    machine.program(
        "/usr/sbin/policy-rc.d",
        "#!/bin/sh\n[ \"$1 $2\" = 'ssh reload' ] && exit 101\nexit 0\n",
    );
    assert_eq!(machine.changed("apply --package").notes(), ["not-reloaded"]);
    machine.ok("rm /usr/sbin/policy-rc.d");
    machine.ok("rm -r /run/systemd");
    let answer = machine.changed("remove --package");
    assert!(
        answer.notes().is_empty() || answer.notes() == ["not-reloaded"],
        "{}",
        answer.json
    );
    assert_eq!(machine.count("reload ssh.service"), 0);
}

#[test]
fn broken_configuration_is_not_reloaded_into_a_running_daemon() {
    let machine = machine!();
    machine.start_sshd();
    machine.write(MAIN, format!("{DEFAULT}NoSuchKeyword yes\n"));
    let answer = machine.changed("apply --package");
    assert_eq!(answer.notes(), ["already-broken", "not-reloaded"]);
    assert_eq!(machine.count("reload ssh.service"), 0);
    assert!(machine.answers());
}

#[test]
fn references_override_is_taken_over_and_its_restart_reported() {
    let machine = machine!();
    reference_override(&machine);
    let pid = machine.start_sshd();
    assert_eq!(machine.setup("status").state(), "tradition");
    let answer = machine.changed("apply --package");
    assert!(
        answer.notes().contains(&"tradition-taken") && answer.notes().contains(&"restart-needed"),
        "{}",
        answer.json
    );
    assert!(machine.exists(DROPIN));
    assert!(!machine.exists("/usr/lib/systemd/system/ssh.service.d"));
    assert_eq!(machine.count("daemon-reload"), 1);
    assert_eq!(machine.main_pid(), pid, "restarted");
    assert!(machine.setup("status").notes().contains(&"restart-needed"));
    machine.changed("remove --package");
    assert_eq!(machine.command(), "none");
}

#[test]
fn override_that_somebody_edited_is_left_alone() {
    let machine = machine!();
    reference_override(&machine);
    let text = machine.read(OVERRIDE);
    machine.write(OVERRIDE, format!("{text}LimitNOFILE=1024\n"));
    assert_eq!(
        machine.refused("apply", "override-modified").place(),
        format!("{OVERRIDE}:3")
    );
    machine.refused("remove", "override-modified");
}

#[test]
fn foreign_option_in_unit_environment_or_process_is_refused_with_its_place() {
    let machine = machine!();
    let unit = "/etc/systemd/system/ssh.service.d/local.conf";
    machine.write(
        unit,
        "[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D -o AuthorizedKeysCommand=/usr/bin/other -o AuthorizedKeysCommandUser=nobody\n",
    );
    assert_eq!(
        machine.refused("apply", "foreign-argument").place(),
        format!("{unit}:3")
    );
    machine.ok(&format!("rm {unit}"));

    machine.write(
        "/etc/default/ssh",
        "# x\nSSHD_OPTS=\"-o AuthorizedKeysCommand=none\"\n",
    );
    assert_eq!(
        machine.refused("apply", "foreign-argument").place(),
        "/etc/default/ssh:2"
    );
    machine.write("/etc/default/ssh", "SSHD_OPTS=\n");

    // Without systemd only the process itself can tell.
    machine.ok("rm -r /run/systemd; mkdir -p /run/sshd");
    machine.ok("/usr/sbin/sshd -o 'AuthorizedKeysCommand /usr/bin/other %u' -o AuthorizedKeysCommandUser=nobody; sleep 0.5");
    let answer = machine.refused("apply", "foreign-argument");
    assert!(answer.place().starts_with("/proc/"), "{}", answer.json);
    machine.ok("kill $(cat /run/sshd.pid)");
}

#[test]
fn daemons_own_configuration_file_and_options_are_what_is_checked() {
    let machine = machine!();
    machine.write("/etc/ssh/special", "Port 22\nUsePAM yes\n");
    machine.write(
        "/etc/default/ssh",
        "SSHD_OPTS='-f /etc/ssh/special -o \"X11Forwarding yes\"'\n",
    );
    machine.changed("apply --package");
    assert!(!machine.exists(DROPIN));
    assert!(
        machine
            .read("/etc/ssh/special")
            .contains(&format!("AuthorizedKeysCommand {DEB} %u %f"))
    );
    assert_eq!(machine.read(MAIN), DEFAULT);
    machine.changed("remove --package");
    assert_eq!(machine.read("/etc/ssh/special"), "Port 22\nUsePAM yes\n");
}

#[test]
fn rpm_layout_works_with_the_rpms_names() {
    let machine = machine!();
    machine.ok(&format!("rm {DEB} /usr/lib/systemd/system/ssh.service"));
    machine.install_command(RPM);
    machine.write(
        "/usr/lib/systemd/system/sshd.service",
        "[Service]\nEnvironmentFile=-/etc/sysconfig/sshd\nExecStart=/usr/sbin/sshd -D $OPTIONS $CRYPTO_POLICY\n",
    );
    machine.write(
        "/etc/sysconfig/sshd",
        "CRYPTO_POLICY='-oCiphers=aes128-ctr,aes256-ctr'\nOPTIONS=-4\n",
    );
    machine.write(
        "/usr/lib/systemd/system/sshd.service.d/ec2-instance-connect.conf",
        format!(
            "[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D -o \"AuthorizedKeysCommand {RPM} %%u %%f\" -o \
             \"AuthorizedKeysCommandUser ec2-instance-connect\" $SSHD_OPTS\n"
        ),
    );
    let answer = machine.changed("apply --package");
    assert_eq!(answer.notes(), ["tradition-taken"]);
    assert!(!machine.exists("/usr/lib/systemd/system/sshd.service.d"));
    assert_eq!(machine.command(), format!("{RPM} %u %f"));
}
