//! Every configuration that an administrator may have, before, with and after us: each asked of the real sshd at the
//! real paths of a throwaway machine.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails loudly"
)]

#[path = "setup/machine.rs"]
mod machine;

use machine::{DEB, DEFAULT, DROPIN, HOLD, MAIN, Machine, RPM};

const INCLUDE: &str = "Include /etc/ssh/sshd_config.d/*.conf\n";

/// apply, apply, remove, remove: ours, the same, the old machine byte for byte, the same.
fn goes_round(machine: &Machine, in_dropin: bool) {
    let before = machine.picture();
    let old = machine.command();
    assert_eq!(machine.setup("status").state(), "absent");

    let plan = machine.setup("plan");
    assert_eq!(
        (plan.code, plan.result()),
        (0, "planned"),
        "{} {}",
        plan.json,
        plan.stderr
    );
    assert_eq!(machine.picture(), before, "plan changed something");

    machine.changed("apply --package");
    assert_eq!(machine.command(), format!("{DEB} %u %f"));
    assert_eq!(
        machine.effective("authorizedkeyscommanduser"),
        "ec2-instance-connect"
    );
    assert_eq!(machine.exists(DROPIN), in_dropin);
    machine.assert_no_leftovers();
    let applied = machine.picture();

    let again = machine.setup("apply --package");
    assert_eq!(
        (again.code, again.result(), again.state()),
        (0, "unchanged", "ours"),
        "{}",
        again.json
    );
    assert_eq!(machine.picture(), applied);

    machine.changed("remove --package");
    assert_eq!(machine.picture(), before);
    assert_eq!(machine.command(), old);
    machine.assert_no_leftovers();
    let again = machine.setup("remove --package");
    assert_eq!((again.code, again.result()), (0, "unchanged"), "{}", again.json);
}

#[test]
fn default_configuration_takes_a_dropin_and_comes_back() {
    let machine = machine!();
    goes_round(&machine, true);
}

#[test]
fn neighbours_with_any_name_are_left_alone() {
    let machine = machine!();
    for name in [
        "00-first",
        "10-x",
        "20-systemd-userdb",
        "50-cloud-init",
        "60-zz",
        "99-last",
    ] {
        machine.write(
            &format!("/etc/ssh/sshd_config.d/{name}.conf"),
            "PermitEmptyPasswords no\nMatch User nobody\n  X11Forwarding no\n",
        );
    }
    goes_round(&machine, true);
}

#[test]
fn trailing_match_is_not_entered() {
    let machine = machine!();
    machine.write(
        MAIN,
        format!("{DEFAULT}Match User nobody\n    X11Forwarding no\n"),
    );
    goes_round(&machine, true);
    machine.write(
        MAIN,
        "UsePAM yes\n# only for nobody\nMatch User nobody\n    X11Forwarding no",
    );
    goes_round(&machine, false);
}

#[test]
fn unusual_line_endings_come_back() {
    let machine = machine!();
    for text in [
        "UsePAM yes\nPort 22",
        "UsePAM yes\r\nPort 22\r\n",
        "UsePAM yes\r\nPort 22",
        "",
        "\n\n",
        "# nothing",
    ] {
        machine.write(MAIN, text);
        goes_round(&machine, false);
        machine.write(MAIN, format!("{INCLUDE}{text}"));
        goes_round(&machine, true);
    }
}

#[test]
fn include_is_used_wherever_it_counts_for_everyone() {
    let machine = machine!();
    for (text, in_dropin) in [
        (format!("UsePAM yes\n{INCLUDE}Port 22\n"), true),
        (format!("UsePAM yes\n{INCLUDE}Port 22\n{INCLUDE}"), true),
        ("include sshd_config.d/*\n".to_owned(), true),
        (
            "Include /etc/ssh/sshd_config.d/1*.conf /etc/ssh/sshd_config.d/6*.conf\n".to_owned(),
            true,
        ),
        ("Include=\"/etc/ssh/sshd_config.d/*.conf\"\n".to_owned(), true),
        ("UsePAM yes\n".to_owned(), false),
        (format!("#{INCLUDE}UsePAM yes\n"), false),
        (format!("UsePAM yes\nMatch User nobody\n{INCLUDE}"), false),
        ("Include /etc/ssh/sshd_config.d/5*.conf\n".to_owned(), false),
    ] {
        machine.write(MAIN, text);
        goes_round(&machine, in_dropin);
    }
    machine.write(MAIN, "Include /etc/ssh/outer.conf\nUsePAM yes\n");
    machine.write("/etc/ssh/outer.conf", INCLUDE);
    goes_round(&machine, true);
}

#[test]
fn missing_directory_is_made_and_taken_away() {
    let machine = machine!();
    machine.ok("rmdir /etc/ssh/sshd_config.d");
    goes_round(&machine, true);
}

#[test]
fn symlinked_configuration_stays_a_symlink() {
    let machine = machine!();
    machine.write("/srv/conf/sshd_config", "UsePAM yes\n");
    machine.ok("ln -sf /srv/conf/sshd_config /etc/ssh/sshd_config");
    goes_round(&machine, false);
    machine.ok("rmdir /etc/ssh/sshd_config.d; mkdir /srv/d; ln -s ../../srv/d /etc/ssh/sshd_config.d");
    machine.write("/srv/conf/sshd_config", INCLUDE);
    goes_round(&machine, true);
}

#[test]
fn mode_owner_and_attributes_are_kept() {
    let machine = machine!();
    machine.write(MAIN, "UsePAM yes\n");
    machine.ok("chmod 640 /etc/ssh/sshd_config; chgrp daemon /etc/ssh/sshd_config");
    xattr::set(machine.path(MAIN), "trusted.label", b"secret").unwrap();
    let before = machine.picture();
    machine.changed("apply --package");
    assert_eq!(
        machine.ok("stat -c '%a %U %G' /etc/ssh/sshd_config"),
        "640 root daemon\n"
    );
    assert_eq!(
        xattr::get(machine.path(MAIN), "trusted.label").unwrap(),
        Some(b"secret".to_vec())
    );
    machine.changed("remove --package");
    assert_eq!(machine.picture(), before);
}

#[test]
fn dropin_is_as_secret_as_the_main_file() {
    let machine = machine!();
    machine.ok("chmod 600 /etc/ssh/sshd_config");
    machine.changed("apply --package");
    assert_eq!(machine.ok(&format!("stat -c %a {DROPIN}")), "600\n");
}

#[test]
fn foreign_command_anywhere_is_refused_with_its_place() {
    let machine = machine!();
    let foreign = "AuthorizedKeysCommand /usr/bin/other %u\nAuthorizedKeysCommandUser nobody\n";
    for file in ["00-a", "10-b", "50-c", "60-zz", "99-d"] {
        let path = format!("/etc/ssh/sshd_config.d/{file}.conf");
        machine.write(&path, format!("# mine\n{foreign}"));
        let answer = machine.refused("apply --package", "foreign-command");
        assert_eq!(answer.place(), format!("{path}:2"));
        assert_eq!(machine.setup("status").state(), "foreign");
        machine.refused("plan", "foreign-command");
        machine.ok(&format!("rm {path}"));
    }
    for (text, line) in [
        (format!("{foreign}{INCLUDE}"), 1),
        (format!("{INCLUDE}{foreign}"), 2),
        (format!("{INCLUDE}Match all\n{foreign}"), 3),
        (
            format!("{INCLUDE}authorizedKEYScommand=/usr/bin/other\nAuthorizedKeysCommandUser nobody\n"),
            2,
        ),
    ] {
        machine.write(MAIN, text);
        assert_eq!(
            machine.refused("apply", "foreign-command").place(),
            format!("{MAIN}:{line}")
        );
    }
}

#[test]
fn explicit_none_and_lone_user_are_decisions_too() {
    let machine = machine!();
    machine.write(MAIN, format!("{DEFAULT}AuthorizedKeysCommand none\n"));
    machine.refused("apply", "foreign-none");
    for user in ["nobody", "ec2-instance-connect"] {
        machine.write(MAIN, format!("{DEFAULT}AuthorizedKeysCommandUser {user}\n"));
        machine.refused("apply", "foreign-user");
    }
    machine.write(MAIN, format!("{DEFAULT}AuthorizedKeysCommand {DEB} %u %f\n"));
    machine.refused("apply", "foreign-command");
    machine.write(
        MAIN,
        format!("{DEFAULT}AuthorizedKeysCommand {DEB} %u %f\nAuthorizedKeysCommandUser root\n"),
    );
    machine.refused("apply", "foreign-user");
}

#[test]
fn foreign_command_is_not_touched_by_remove() {
    let machine = machine!();
    machine.write(
        MAIN,
        format!("{DEFAULT}AuthorizedKeysCommand /usr/bin/other\nAuthorizedKeysCommandUser nobody\n"),
    );
    let before = machine.picture();
    assert_eq!(machine.setup("remove --package").result(), "unchanged");
    assert_eq!(machine.picture(), before);
}

#[test]
fn foreign_command_written_later_is_reported_and_gets_its_right_on_remove() {
    let machine = machine!();
    machine.changed("apply --package");
    machine.write(
        MAIN,
        format!("{DEFAULT}AuthorizedKeysCommand /usr/bin/other\nAuthorizedKeysCommandUser nobody\n"),
    );
    let status = machine.setup("status");
    assert_eq!(
        (status.state(), status.notes()),
        ("ours", vec!["foreign-shadowed"])
    );
    assert_eq!(machine.setup("apply --package").result(), "unchanged");
    machine.changed("remove --package");
    assert_eq!(machine.command(), "/usr/bin/other");
}

#[test]
fn match_all_written_later_beats_ours_and_is_told() {
    let machine = machine!();
    machine.changed("apply --package");
    machine.write(
        MAIN,
        format!(
            "{DEFAULT}Match all\nAuthorizedKeysCommand /usr/bin/other\nAuthorizedKeysCommandUser nobody\n"
        ),
    );
    assert_eq!(machine.command(), "/usr/bin/other");
    let status = machine.setup("status");
    assert_eq!((status.state(), status.refusal()), ("foreign", "foreign-command"));
    machine.changed("remove --package");
}

#[test]
fn foreign_command_before_ours_wins_and_ours_can_still_be_removed() {
    let machine = machine!();
    machine.changed("apply --package");
    machine.write(
        "/etc/ssh/sshd_config.d/00-x.conf",
        "AuthorizedKeysCommand /usr/bin/other\nAuthorizedKeysCommandUser nobody\n",
    );
    assert_eq!(machine.setup("status").state(), "foreign");
    machine.refused("apply", "foreign-command");
    machine.changed("remove --package");
    assert!(!machine.exists(DROPIN));
    assert_eq!(machine.command(), "/usr/bin/other");
}

#[test]
fn match_with_a_whole_pair_is_respected_and_told() {
    let machine = machine!();
    machine.write(MAIN, format!("{DEFAULT}Match User nobody\nAuthorizedKeysCommand /usr/bin/other\nAuthorizedKeysCommandUser root\n"));
    let answer = machine.changed("apply --user nobody");
    assert_eq!(answer.notes(), ["match-overrides"]);
    assert_eq!(
        answer.json["effective"]["authorized_keys_command"],
        "/usr/bin/other"
    );
    let status = machine.setup("status --user daemon");
    assert_eq!(
        status.json["effective"]["authorized_keys_command"],
        format!("{DEB} %u %f")
    );
}

#[test]
fn match_with_half_a_pair_is_refused() {
    let machine = machine!();
    for line in [
        "AuthorizedKeysCommand /usr/bin/other",
        "AuthorizedKeysCommandUser root",
    ] {
        machine.write(MAIN, format!("{DEFAULT}Match User nobody\n{line}\n"));
        assert_eq!(
            machine.refused("apply", "match-half-pair").place(),
            format!("{MAIN}:11")
        );
    }
    machine.write(
        MAIN,
        format!("{DEFAULT}Match User nobody\nAuthorizedKeysCommand none\n"),
    );
    machine.changed("apply");
}

#[test]
fn principals_command_of_an_administrator_is_not_silenced() {
    // OpenSSH sets AuthorizedPrincipalsCommand only while no AuthorizedKeysCommand is set (servconf.c,
    // `parse_command`), so a drop-in read before it would switch it off.
    let machine = machine!();
    let text = "AuthorizedPrincipalsCommand /usr/bin/principals\nAuthorizedPrincipalsCommandUser nobody\n";
    machine.write(MAIN, format!("{INCLUDE}{text}"));
    assert_eq!(
        machine.effective("authorizedprincipalscommand"),
        "/usr/bin/principals"
    );
    let before = machine.picture();
    let answer = machine.changed("apply --package");
    assert_eq!(
        machine.effective("authorizedprincipalscommand"),
        "/usr/bin/principals"
    );
    assert_eq!(machine.command(), format!("{DEB} %u %f"));
    assert!(answer.notes().contains(&"block-chosen"), "{}", answer.json);
    assert_eq!(machine.setup("apply --package").result(), "unchanged");
    machine.changed("remove --package");
    assert_eq!(machine.picture(), before);
}

#[test]
fn block_that_has_come_under_a_match_is_taken_out_of_it() {
    let machine = machine!();
    machine.write(MAIN, "UsePAM yes\n");
    machine.changed("apply --package");
    let block = machine.read(MAIN).replace("UsePAM yes\n", "");
    machine.write(
        MAIN,
        format!("UsePAM yes\nMatch User nobody\n  X11Forwarding no\n{block}"),
    );
    assert_eq!(machine.command(), "none");
    assert_eq!(machine.setup("status").state(), "absent");
    machine.changed("apply --package");
    assert_eq!(machine.command(), format!("{DEB} %u %f"));
    assert_eq!(machine.setup("apply --package").result(), "unchanged");
    machine.changed("remove --package");
    assert_eq!(
        machine.read(MAIN),
        "UsePAM yes\nMatch User nobody\n  X11Forwarding no\n"
    );
}

#[test]
fn damaged_block_is_refused_by_apply_and_remove() {
    let machine = machine!();
    machine.write(MAIN, "UsePAM yes\n");
    machine.changed("apply --package");
    let whole = machine.read(MAIN);
    for text in [
        whole.replace("# END ec2-instance-connect\n", ""),
        whole
            .lines()
            .filter(|line| !line.starts_with("# BEGIN"))
            .map(|line| format!("{line}\n"))
            .collect(),
        format!("{whole}{whole}"),
        whole.replace("# END", "Port 22\n# END"),
    ] {
        machine.write(MAIN, text);
        machine.refused("apply", "block-damaged");
        machine.refused("remove", "block-damaged");
        let status = machine.setup("status");
        assert_eq!((status.code, status.state()), (1, "damaged"));
    }
}

#[test]
fn edited_dropin_is_refused_and_a_foreign_one_too() {
    let machine = machine!();
    machine.changed("apply --package");
    let ours = machine.read(DROPIN);
    machine.write(DROPIN, format!("{ours}Port 22\n"));
    assert_eq!(
        machine.refused("remove", "dropin-modified").place(),
        format!("{DROPIN}:5")
    );
    machine.write(DROPIN, "");
    machine.refused("apply", "dropin-not-ours");
    machine.ok(&format!("ln -sf /dev/null {DROPIN}"));
    machine.refused("apply", "dropin-not-ours");
}

#[test]
fn broken_configuration_blocks_only_what_would_break_otherwise() {
    let machine = machine!();
    machine.write(MAIN, "UsePAM yes\nNoSuchKeyword yes\nMatch User nobody\n");
    let before = machine.picture();
    let answer = machine.changed("apply --package");
    assert!(answer.notes().contains(&"already-broken"), "{}", answer.json);
    machine.changed("remove --package");
    assert_eq!(machine.picture(), before);
}

#[test]
fn file_that_is_no_configuration_is_refused() {
    let machine = machine!();
    machine.write(MAIN, b"UsePAM yes\nPort\x00 22\n");
    assert_eq!(
        machine.refused("apply", "config-unreadable").place(),
        format!("{MAIN}:2")
    );
    machine.ok("rm /etc/ssh/sshd_config; mkdir /etc/ssh/sshd_config");
    machine.refused("apply", "config-unreadable");
    machine.ok("rmdir /etc/ssh/sshd_config");
    machine.refused("apply", "config-missing");
}

#[test]
fn hard_linked_configuration_is_refused() {
    let machine = machine!();
    machine.write(MAIN, "UsePAM yes\n");
    machine.ok("ln /etc/ssh/sshd_config /etc/ssh/other-name");
    machine.refused("apply", "hard-linked");
}

#[test]
fn read_only_etc_is_refused() {
    let machine = machine!();
    machine.ok("mount --bind /etc/ssh /etc/ssh && mount -o remount,bind,ro /etc/ssh");
    let answer = machine.refused("apply --package", "io");
    assert!(
        answer.json["refusal"]["message"]
            .as_str()
            .unwrap()
            .contains("Read-only")
    );
    machine.assert_no_leftovers();
}

#[test]
fn vendors_configuration_below_usr_is_read_and_not_written() {
    let machine = machine!();
    machine.ok("mkdir -p /usr/etc/ssh; mv /etc/ssh/sshd_config /usr/etc/ssh/sshd_config");
    // This sshd is not SUSE's: told by -f it reads the same.
    machine.write("/etc/default/ssh", "SSHD_OPTS='-f /usr/etc/ssh/sshd_config'\n");
    machine.changed("apply --package");
    assert!(machine.exists(DROPIN));
    machine.changed("remove --package");
    machine.write("/usr/etc/ssh/sshd_config", "UsePAM yes\n");
    machine.refused("apply", "vendor-config");
}

#[test]
fn command_path_must_be_one_and_safe() {
    let machine = machine!();
    machine.install_command(RPM);
    machine.refused("apply", "command-ambiguous");
    machine.ok(&format!("rm {DEB}"));
    machine.changed("apply --package");
    assert_eq!(machine.command(), format!("{RPM} %u %f"));
    machine.ok("chmod g+w /usr/libexec/ec2-instance-connect");
    machine.changed("remove --package");
    machine.refused("apply", "command-unsafe");
    machine
        .ok("chmod g-w /usr/libexec/ec2-instance-connect; chown nobody /usr/libexec/ec2-instance-connect/*");
    machine.refused("apply", "command-unsafe");
    machine.ok(&format!("rm {RPM}"));
    machine.refused("apply", "command-missing");
}

#[test]
fn command_that_moved_is_followed() {
    let machine = machine!();
    machine.changed("apply --package");
    machine.ok(&format!("rm {DEB}"));
    machine.install_command(RPM);
    machine.changed("apply --package");
    assert_eq!(machine.command(), format!("{RPM} %u %f"));
}

#[test]
fn missing_user_is_refused() {
    let machine = machine!();
    machine.changed("apply --package");
    machine.ok("userdel ec2-instance-connect");
    machine.refused("apply", "user-missing");
    let status = machine.setup("status");
    assert_eq!((status.state(), status.refusal()), ("ours", "user-missing"));
}

#[test]
fn missing_host_keys_and_run_directory_do_not_matter() {
    let machine = machine!();
    machine.ok("rm /etc/ssh/ssh_host_*; rm -rf /run/sshd");
    let answer = machine.changed("apply --package");
    assert!(answer.notes().is_empty(), "{}", answer.json);
    assert_eq!(
        answer.json["effective"]["authorized_keys_command"],
        format!("{DEB} %u %f")
    );
    assert!(!machine.exists("/run/sshd") && !machine.exists("/etc/ssh/ssh_host_rsa_key"));
}

#[test]
fn removal_by_hand_is_remembered_until_an_apply_by_hand() {
    let machine = machine!();
    machine.changed("apply --package");
    let answer = machine.changed("remove");
    assert_eq!(answer.notes(), ["hold-set"]);
    assert!(machine.exists(HOLD));
    let held = machine.setup("apply --package");
    assert_eq!(
        (held.code, held.result(), held.state()),
        (0, "held", "absent"),
        "{}",
        held.json
    );
    assert!(!machine.exists(DROPIN));
    let answer = machine.changed("apply");
    assert_eq!(answer.notes(), ["hold-lifted"]);
    assert!(!machine.exists(HOLD) && machine.exists(DROPIN));
    assert_eq!(machine.setup("apply --package").result(), "unchanged");
}

#[test]
fn hold_made_beforehand_keeps_an_installation_off() {
    let machine = machine!();
    machine.write(HOLD, "");
    assert_eq!(machine.setup("apply --package").result(), "held");
    assert_eq!(machine.setup("remove --package").result(), "unchanged");
    assert!(
        machine.exists(HOLD),
        "a package must not take an administrator's file away"
    );
}

#[test]
fn amazons_two_lines_stay_while_they_work_and_go_with_the_package() {
    let machine = machine!();
    machine.ok(&format!("rm {DEB}"));
    machine.install_command(RPM);
    let lines =
        format!("AuthorizedKeysCommand {RPM} %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n");
    machine.write(MAIN, format!("{DEFAULT}{lines}"));
    assert_eq!(machine.setup("status").state(), "tradition");
    assert_eq!(machine.setup("apply --package").result(), "unchanged");
    machine.changed("remove --package");
    assert_eq!(machine.read(MAIN), DEFAULT);
}

#[test]
fn amazons_two_lines_stay_while_amazons_script_is_there() {
    let machine = machine!();
    machine.ok(&format!("rm {DEB}"));
    machine.program(RPM, "#!/bin/sh\n");
    let lines =
        format!("AuthorizedKeysCommand {RPM} %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n");
    machine.write(MAIN, format!("{DEFAULT}{lines}"));
    let answer = machine.setup("remove --package");
    assert_eq!(
        (answer.result(), answer.notes()),
        ("unchanged", vec!["tradition-left"])
    );
    assert_eq!(machine.command(), format!("{RPM} %u %f"));
}

#[test]
fn amazons_two_lines_for_a_command_that_is_gone_are_replaced() {
    let machine = machine!();
    let lines =
        format!("AuthorizedKeysCommand {RPM} %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n");
    machine.write(MAIN, format!("{lines}{DEFAULT}"));
    machine.changed("apply --package");
    assert_eq!(machine.command(), format!("{DEB} %u %f"));
    assert_eq!(machine.read(MAIN), DEFAULT);
    machine.changed("remove --package");
    assert_eq!(machine.read(MAIN), DEFAULT);
}

/// Where setup takes nothing away: each is refused by its place before anything is touched, and is no hindrance once the
/// administrator has followed the remedy.
#[test]
fn amazons_line_for_a_command_that_is_gone_elsewhere_is_refused_with_its_place() {
    let early = "/etc/ssh/sshd_config.d/10-amazon.conf";
    let user = "AuthorizedKeysCommandUser ec2-instance-connect\n";
    let command = format!("AuthorizedKeysCommand {RPM} %u %f\n");
    let option = format!(
        "SSHD_OPTS='-o \"AuthorizedKeysCommand {RPM} %u %f\" -oAuthorizedKeysCommandUser=ec2-instance-connect'\n"
    );
    for (file, text, place, mended) in [
        // Twice, with one user: which of them is the pair?
        (
            MAIN,
            format!("{command}{command}{user}{DEFAULT}"),
            format!("{MAIN}:2"),
            format!("{command}{user}{DEFAULT}"),
        ),
        (
            early,
            format!("# his\n{command}{user}"),
            format!("{early}:2"),
            "# his\n".to_owned(),
        ),
        (
            early,
            format!("Match all\n{command}{user}"),
            format!("{early}:2"),
            "Match all\n".to_owned(),
        ),
        (
            "/etc/default/ssh",
            option,
            "/etc/default/ssh:1".to_owned(),
            "SSHD_OPTS=\n".to_owned(),
        ),
    ] {
        let machine = machine!();
        machine.write(file, text);
        let before = machine.picture();
        for call in ["plan", "apply --package"] {
            let answer = machine.refused(call, "tradition-ahead");
            assert_eq!(answer.place(), place, "{}", answer.json);
        }
        let status = machine.setup("status");
        assert_eq!(
            (status.state(), status.refusal()),
            ("tradition", "tradition-ahead")
        );
        assert_eq!(machine.picture(), before);

        machine.write(file, mended);
        machine.changed("apply --package");
        assert_eq!(machine.command(), format!("{DEB} %u %f"));
    }
}

#[test]
fn amazons_pair_elsewhere_stays_until_it_needs_options() {
    let machine = machine!();
    let early = "/etc/ssh/sshd_config.d/10-amazon.conf";
    machine.write(
        early,
        format!("AuthorizedKeysCommand {DEB} %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n"),
    );
    assert_eq!(machine.setup("apply --package").result(), "unchanged");
    machine.write(
        "/etc/ec2-instance-connect/config.toml",
        "[[chain]]\ncommand = [\"/bin/echo\", \"%h\"]\n",
    );
    let answer = machine.refused("apply", "tradition-ahead");
    assert_eq!(answer.place(), format!("{early}:1"));
    machine.ok(&format!("rm {early}"));
    machine.changed("apply");
    assert_eq!(machine.command(), format!("{DEB} --home %h %u %f"));
}

#[test]
fn amazons_pair_twice_for_a_command_that_is_gone_is_replaced() {
    let machine = machine!();
    let lines =
        format!("AuthorizedKeysCommand {RPM} %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n");
    machine.write(MAIN, format!("{lines}{lines}{DEFAULT}"));
    machine.changed("apply --package");
    assert_eq!(machine.command(), format!("{DEB} %u %f"));
    assert_eq!(machine.read(MAIN), DEFAULT);
}

#[test]
fn amazons_line_behind_ours_is_no_hindrance() {
    let machine = machine!();
    machine.write(
        "/etc/ssh/sshd_config.d/90-amazon.conf",
        format!("AuthorizedKeysCommand {RPM} %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n"),
    );
    machine.changed("apply --package");
    assert_eq!(machine.command(), format!("{DEB} %u %f"));
}

#[test]
fn amazons_dropin_becomes_ours_and_goes_with_us() {
    let machine = machine!();
    machine.ok(&format!("rm {DEB}"));
    machine.install_command(RPM);
    machine.write(
        DROPIN,
        format!("AuthorizedKeysCommand {RPM} %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n"),
    );
    assert_eq!(machine.setup("status").state(), "tradition");
    let answer = machine.changed("apply --package");
    assert_eq!(
        (answer.state(), answer.notes()),
        ("ours", vec!["tradition-taken"])
    );
    machine.changed("remove --package");
    assert!(!machine.exists(DROPIN));
}

#[test]
fn owner_of_a_foreign_line_is_named() {
    let machine = machine!();
    if !machine.sh("dpkg -S /etc/default/ssh").status.success() {
        // Any file that dpkg knows will do; on a machine without dpkg there is nothing to ask.
        machine::skipped("dpkg does not know /etc/default/ssh");
        return;
    }
    machine.write(
        "/etc/default/ssh",
        "SSHD_OPTS='-o \"AuthorizedKeysCommand /usr/bin/other\" -oAuthorizedKeysCommandUser=nobody'\n",
    );
    let answer = machine.refused("apply", "foreign-argument");
    assert_eq!(answer.place(), "/etc/default/ssh:1");
    assert_eq!(answer.json["refusal"]["owner"], "openssh-server");
}
