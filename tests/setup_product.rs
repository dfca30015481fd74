//! Every configuration that an administrator may have, times every call by which setup changes the disk, times death
//! and want of space at that call. What is left is the old configuration or the new one, and the next call ends where
//! an undisturbed one does.
//!
//! The faults are the kernel's, injected by strace(1) at each call that an undisturbed run was seen to make. `setup_matrix` tests the same configurations undisturbed and
//! more closely; `setup_interrupted` the faults that need more than one call.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails loudly"
)]

#[path = "setup/machine.rs"]
mod machine;

use machine::{DEB, DEFAULT, DROPIN, MAIN, Machine, Picture, RPM};

const INCLUDE: &str = "Include /etc/ssh/sshd_config.d/*.conf\n";
const FOREIGN: &str = "AuthorizedKeysCommand /usr/bin/other %u\nAuthorizedKeysCommandUser nobody\n";
/// What systemd 256 and later put into `20-systemd-userdb.conf`.
const USERDB: &str =
    "AuthorizedKeysCommand /usr/bin/userdbctl ssh-authorized-keys %u\nAuthorizedKeysCommandUser root\n";
const UNIT_DROPIN: &str = "/etc/systemd/system/ssh.service.d/local.conf";
const OVERRIDE: &str = "/usr/lib/systemd/system/ssh.service.d/ec2-instance-connect.conf";

/// Everything by which a transaction changes the disk.
const CHANGING: &str =
    "write,fsync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat";

/// What may fail for want of space. Deleting may not.
const GROWING: [&str; 9] = [
    "write",
    "fsync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
];

/// What a shell calls a program that SIGKILL ended.
const KILLED: i32 = 137;

/// Fewer places than this are no transaction: then strace is not at work.
const FEWEST: usize = 10;

/// All that setup may write to, and all that the configurations here are made of.
const STATE: &str = "etc/ssh etc/ec2-instance-connect etc/default/ssh etc/systemd/system/ssh.service.d \
                     usr/lib/systemd/system/ssh.service.d var/lib/ec2-instance-connect srv";

/// Sets the machine aside as it stands, under a name.
fn save(machine: &Machine, name: &str) {
    machine.ok(&format!(
        "cd /; tar --xattrs --xattrs-include='*' -cf /tmp/{name}.tar $(ls -d {STATE} 2>/dev/null)"
    ));
}

fn restore(machine: &Machine, name: &str) {
    machine.ok(&format!(
        "cd /; rm -rf {STATE}; tar --xattrs --xattrs-include='*' -xpf /tmp/{name}.tar"
    ));
}

/// One call of an undisturbed run: its name, and the how-manieth of that name it is. strace(1) counts alike.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    nth: usize,
}

/// Every call by which this action changes the disk, in order.
fn calls(machine: &Machine, action: &str) -> Vec<Call> {
    machine.sh(&format!(
        "strace -qq -o /tmp/trace -e trace={CHANGING} ec2-instance-connect setup {action} --package --json"
    ));
    let trace = machine.read("/tmp/trace");
    let names = trace.lines().filter_map(|line| line.split_once('('));
    let names: Vec<&str> = names
        .map(|(name, _)| name)
        .filter(|name| !name.contains(' '))
        .collect();
    let nth = |at: usize| names.iter().take(at).filter(|name| **name == names[at]).count();
    let call = |at: usize| Call {
        name: names[at].to_owned(),
        nth: nth(at).saturating_add(1),
    };
    (0..names.len()).map(call).collect()
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The process dies of it.
    Kill,
    /// There is no space for it.
    NoSpace,
}

/// The faults that this call can meet.
fn faults(call: &Call) -> Vec<Fault> {
    if GROWING.contains(&call.name.as_str()) {
        vec![Fault::Kill, Fault::NoSpace]
    } else {
        vec![Fault::Kill]
    }
}

/// Runs setup with one fault. The refusal's code, if it still had the breath to name one.
fn cut(machine: &Machine, action: &str, call: &Call, fault: Fault) -> Option<String> {
    let Call { name, nth } = call;
    let how = match fault {
        Fault::Kill => "signal=KILL",
        Fault::NoSpace => "error=ENOSPC",
    };
    let output = machine.sh(&format!(
        "strace -qq -o /tmp/trace -e trace={name} -e inject={name}:{how}:when={nth} \
         ec2-instance-connect setup {action} --package --json"
    ));
    let hit = match fault {
        Fault::Kill => output.status.code() == Some(KILLED),
        Fault::NoSpace => machine.read("/tmp/trace").contains("(INJECTED)"),
    };
    assert!(hit, "{action}: {call:?} was never made");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    answer["refusal"]["code"].as_str().map(str::to_owned)
}

/// The files that sshd and systemd read. A call that was cut off may leave its own second names and an empty
/// directory, which neither of them reads.
fn read_by_sshd(picture: &Picture) -> Vec<(String, String)> {
    let is_read =
        |path: &str| path.ends_with(".conf") || path.ends_with("sshd_config") || path.ends_with("/real");
    let entries = picture
        .iter()
        .map(|(path, entry)| (path.display().to_string(), format!("{entry:?}")));
    entries.filter(|(path, _)| is_read(path)).collect()
}

/// One action from one state, cut off everywhere.
fn cut_everywhere(machine: &Machine, action: &str, from: (&str, &Picture), to: &Picture) {
    let (name, from) = from;
    let (old, new) = (read_by_sshd(from), read_by_sshd(to));
    restore(machine, name);
    let calls = calls(machine, action);
    assert!(calls.len() >= FEWEST, "{calls:?}: is strace at work?");
    for (call, fault) in calls
        .iter()
        .flat_map(|call| faults(call).into_iter().map(move |it| (call, it)))
    {
        restore(machine, name);
        let refusal = cut(machine, action, call, fault);
        let what = format!("{action}, {fault:?} at {call:?}, {refusal:?}");
        let now = machine.picture();
        // Several files change one after another: each is the old one or the new one.
        for entry in read_by_sshd(&now) {
            let known = old.contains(&entry) || new.contains(&entry);
            assert!(known, "{what}: {} is neither old nor new", entry.0);
        }
        if refusal.as_deref() == Some("io") {
            assert_eq!(&now, from, "{what}: a failure left something");
        }
        // What a status sees changes with a rename; the calls between two renames need not all be asked about.
        if fault == Fault::Kill && call.name.starts_with("rename") {
            let status = machine.setup("status");
            assert_eq!(status.code, 0, "{what}: {} {}", status.json, status.stderr);
        }
        let next = machine.setup(&format!("{action} --package"));
        assert_eq!(next.code, 0, "{what}: {} {}", next.json, next.stderr);
        assert_eq!(&machine.picture(), to, "{what}: the next call did not finish");
        machine.assert_no_leftovers();
    }
}

/// A configuration that setup may change.
fn applied_and_removed_whatever_happens(prepare: fn(&Machine)) {
    let machine = machine!();
    prepare(&machine);
    let pristine = machine.picture();
    save(&machine, "pristine");
    machine.changed("apply --package");
    let applied = machine.picture();
    save(&machine, "applied");
    machine.changed("remove --package");
    let removed = machine.picture();
    cut_everywhere(&machine, "apply", ("pristine", &pristine), &applied);
    cut_everywhere(&machine, "remove", ("applied", &applied), &removed);
}

/// A configuration that setup must not change, whatever happens while it finds out.
fn refused_whatever_happens(prepare: fn(&Machine), code: &str) {
    let machine = machine!();
    prepare(&machine);
    let before = machine.picture();
    machine.refused("apply --package", code);
    for action in ["apply", "remove"] {
        let undisturbed = machine.setup(&format!("{action} --package"));
        // What an earlier call has made it need not make again.
        let fresh = || machine.ok("rm -rf /var/lib/ec2-instance-connect");
        fresh();
        let calls = calls(&machine, action);
        for (call, fault) in calls
            .iter()
            .flat_map(|call| faults(call).into_iter().map(move |it| (call, it)))
        {
            fresh();
            cut(&machine, action, call, fault);
            let what = format!("{action}, {fault:?} at {call:?}");
            assert_eq!(machine.picture(), before, "{what} changed something");
            let next = machine.setup(&format!("{action} --package"));
            assert_eq!(
                (next.code, next.refusal(), next.place()),
                (undisturbed.code, undisturbed.refusal(), undisturbed.place()),
                "{what}: {}",
                next.stderr
            );
            assert_eq!(
                machine.picture(),
                before,
                "the call after {what} changed something"
            );
            machine.assert_no_leftovers();
        }
    }
}

/// One test for each configuration: `name: prepare`, or `name: prepare => refusal`.
macro_rules! configurations {
    ($($name:ident: $prepare:expr;)*) => {
        $(#[test] fn $name() { applied_and_removed_whatever_happens($prepare); })*
    };
    (refused; $($name:ident: $prepare:expr => $code:literal;)*) => {
        $(#[test] fn $name() { refused_whatever_happens($prepare, $code); })*
    };
}

fn main_is(machine: &Machine, text: &str) {
    machine.write(MAIN, text);
}

fn dropin_is(machine: &Machine, name: &str, text: &str) {
    machine.write(&format!("/etc/ssh/sshd_config.d/{name}.conf"), text);
}

/// What many drop-ins end in: a Match that the file's end closes again.
const HARMLESS: &str = "PermitEmptyPasswords no\nMatch User nobody\n    X11Forwarding no\n";

fn unit_starts_with(machine: &Machine, options: &str) {
    machine.write(
        UNIT_DROPIN,
        format!("[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D {options} $SSHD_OPTS\n"),
    );
}

fn amazons_lines(command: &str) -> String {
    format!("AuthorizedKeysCommand {command} %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n")
}

fn references_override() -> String {
    format!(
        "[Service]\nExecStart=\nExecStart=/usr/sbin/sshd -D -o \"AuthorizedKeysCommand {DEB} %%u %%f\" -o \
         \"AuthorizedKeysCommandUser ec2-instance-connect\" $SSHD_OPTS\n"
    )
}

/// A block of ours in a main file without Include, edited by `change`.
fn edited_block(machine: &Machine, change: fn(&str) -> String) {
    main_is(machine, "UsePAM yes\n");
    machine.changed("apply --package");
    let whole = machine.read(MAIN);
    main_is(machine, &change(&whole));
}

configurations! {
    default_survives_every_cut: |_| {};
    dropin_00_survives_every_cut: |it| dropin_is(it, "00-first", HARMLESS);
    dropin_10_survives_every_cut: |it| dropin_is(it, "10-hardening", HARMLESS);
    dropin_20_systemd_userdb_switched_off_survives_every_cut: |it| dropin_is(it, "20-systemd-userdb", "# nothing\n");
    dropin_50_survives_every_cut: |it| dropin_is(it, "50-cloud-init", HARMLESS);
    dropin_60_of_another_name_survives_every_cut: |it| dropin_is(it, "60-cloudimg-settings", HARMLESS);
    dropin_99_survives_every_cut: |it| dropin_is(it, "99-last", HARMLESS);
    missing_dropin_directory_survives_every_cut: |it| {
        it.ok("rmdir /etc/ssh/sshd_config.d");
    };
    trailing_match_behind_an_include_survives_every_cut: |it| {
        main_is(it, &format!("{DEFAULT}Match User nobody\n    X11Forwarding no\n"));
    };
    trailing_match_without_an_include_survives_every_cut: |it| {
        main_is(it, "UsePAM yes\n# for nobody\nMatch User nobody\n    X11Forwarding no\n");
    };
    trailing_match_without_final_newline_survives_every_cut: |it| {
        main_is(it, "UsePAM yes\nMatch User nobody\n    X11Forwarding no");
    };
    no_final_newline_with_include_survives_every_cut: |it| main_is(it, &format!("{INCLUDE}UsePAM yes"));
    no_final_newline_without_include_survives_every_cut: |it| main_is(it, "UsePAM yes\nPort 22");
    crlf_with_include_survives_every_cut: |it| {
        main_is(it, "Include /etc/ssh/sshd_config.d/*.conf\r\nUsePAM yes\r\n");
    };
    crlf_without_include_survives_every_cut: |it| main_is(it, "UsePAM yes\r\nPort 22\r\n");
    missing_include_survives_every_cut: |it| main_is(it, "UsePAM yes\n");
    include_in_the_middle_survives_every_cut: |it| main_is(it, &format!("UsePAM yes\n{INCLUDE}Port 22\n"));
    include_twice_survives_every_cut: |it| main_is(it, &format!("{INCLUDE}UsePAM yes\n{INCLUDE}"));
    nested_include_survives_every_cut: |it| {
        main_is(it, "Include /etc/ssh/outer.conf\nUsePAM yes\n");
        it.write("/etc/ssh/outer.conf", INCLUDE);
    };
    include_inside_a_match_survives_every_cut: |it| {
        main_is(it, &format!("UsePAM yes\nMatch User nobody\n{INCLUDE}"));
    };
    symlinked_configuration_survives_every_cut: |it| {
        it.write("/srv/conf/real", "UsePAM yes\n");
        it.ok("ln -sf /srv/conf/real /etc/ssh/sshd_config");
    };
    symlinked_dropin_directory_survives_every_cut: |it| {
        it.ok("rmdir /etc/ssh/sshd_config.d; mkdir -p /srv/d; ln -s /srv/d /etc/ssh/sshd_config.d");
    };
    secret_configuration_with_attributes_survives_every_cut: |it| {
        main_is(it, "UsePAM yes\n");
        it.ok("chmod 600 /etc/ssh/sshd_config; chgrp daemon /etc/ssh/sshd_config");
        xattr::set(it.path(MAIN), "trusted.label", b"secret").unwrap();
    };
    command_for_some_users_survives_every_cut: |it| {
        main_is(it, &format!("{DEFAULT}Match User nobody\n{FOREIGN}"));
    };
    principals_command_survives_every_cut: |it| {
        let principals = "AuthorizedPrincipalsCommand /usr/bin/p\nAuthorizedPrincipalsCommandUser nobody\n";
        main_is(it, &format!("{INCLUDE}{principals}"));
    };
    broken_configuration_survives_every_cut: |it| main_is(it, &format!("{DEFAULT}NoSuchKeyword yes\n"));
    other_options_in_the_unit_survive_every_cut: |it| unit_starts_with(it, "-o X11Forwarding=yes -4");
    other_file_in_the_unit_survives_every_cut: |it| {
        it.write("/etc/ssh/real", "UsePAM yes\nPort 22\n");
        it.write("/etc/default/ssh", "SSHD_OPTS='-f /etc/ssh/real'\n");
    };
    override_of_the_reference_survives_every_cut: |it| it.write(OVERRIDE, references_override());
    override_and_stale_lines_together_survive_every_cut: |it| {
        it.write(OVERRIDE, references_override());
        main_is(it, &format!("{}{DEFAULT}", amazons_lines(RPM)));
    };
    amazons_dropin_survives_every_cut: |it| it.write(DROPIN, amazons_lines(DEB));
    amazons_lines_for_a_command_that_is_gone_survive_every_cut: |it| {
        main_is(it, &format!("{}{DEFAULT}", amazons_lines(RPM)));
    };
}

configurations! {
    refused;
    foreign_command_in_dropin_00_is_never_touched: |it| dropin_is(it, "00-a", FOREIGN) => "foreign-command";
    foreign_command_in_dropin_10_is_never_touched: |it| dropin_is(it, "10-a", FOREIGN) => "foreign-command";
    userdb_of_systemd_is_never_touched: |it| dropin_is(it, "20-systemd-userdb", USERDB) => "foreign-command";
    foreign_command_in_dropin_50_is_never_touched: |it| dropin_is(it, "50-a", FOREIGN) => "foreign-command";
    foreign_command_in_dropin_60_is_never_touched: |it| dropin_is(it, "60-a", FOREIGN) => "foreign-command";
    foreign_command_in_dropin_99_is_never_touched: |it| dropin_is(it, "99-a", FOREIGN) => "foreign-command";
    foreign_command_before_the_include_is_never_touched: |it| main_is(it, &format!("{FOREIGN}{INCLUDE}"))
        => "foreign-command";
    foreign_command_behind_the_include_is_never_touched: |it| main_is(it, &format!("{INCLUDE}{FOREIGN}"))
        => "foreign-command";
    foreign_command_without_include_is_never_touched: |it| main_is(it, &format!("UsePAM yes\r\n{FOREIGN}Port 22"))
        => "foreign-command";
    foreign_command_in_match_all_is_never_touched: |it| main_is(it, &format!("{INCLUDE}Match all\n{FOREIGN}"))
        => "foreign-command";
    foreign_command_in_a_nested_include_is_never_touched: |it| {
        main_is(it, "Include /etc/ssh/outer.conf\nUsePAM yes\n");
        it.write("/etc/ssh/outer.conf", format!("{INCLUDE}{FOREIGN}"));
    } => "foreign-command";
    foreign_command_behind_a_symlink_is_never_touched: |it| {
        it.write("/srv/conf/real", FOREIGN);
        it.ok("ln -sf /srv/conf/real /etc/ssh/sshd_config");
    } => "foreign-command";
    foreign_option_in_the_unit_is_never_touched: |it| {
        unit_starts_with(it, "-o AuthorizedKeysCommand=/usr/bin/other -o AuthorizedKeysCommandUser=nobody");
    } => "foreign-argument";
    foreign_option_in_the_environment_is_never_touched: |it| {
        it.write("/etc/default/ssh", "SSHD_OPTS=\"-o AuthorizedKeysCommand=none\"\n");
    } => "foreign-argument";
    explicit_none_is_never_touched: |it| main_is(it, &format!("{DEFAULT}AuthorizedKeysCommand none\n"))
        => "foreign-none";
    lone_user_is_never_touched: |it| main_is(it, &format!("{DEFAULT}AuthorizedKeysCommandUser nobody\n"))
        => "foreign-user";
    half_a_pair_in_a_match_is_never_touched: |it| {
        main_is(it, &format!("{DEFAULT}Match User nobody\nAuthorizedKeysCommand /usr/bin/other\n"));
    } => "match-half-pair";
    read_only_etc_is_never_touched: |it| {
        it.ok("mount --bind /etc/ssh /etc/ssh && mount -o remount,bind,ro /etc/ssh");
    } => "io";
    hard_linked_configuration_is_never_touched: |it| {
        main_is(it, "UsePAM yes\n");
        it.ok("ln /etc/ssh/sshd_config /etc/ssh/other-name");
    } => "hard-linked";
    empty_file_under_our_name_is_never_touched: |it| it.write(DROPIN, "") => "dropin-not-ours";
    edited_dropin_is_never_touched: |it| {
        it.changed("apply --package");
        let ours = it.read(DROPIN);
        it.write(DROPIN, format!("{ours}Port 22\n"));
    } => "dropin-modified";
    block_without_its_end_is_never_touched: |it| {
        edited_block(it, |whole| whole.replace("# END ec2-instance-connect\n", ""));
    } => "block-damaged";
    block_without_its_beginning_is_never_touched: |it| {
        edited_block(it, |whole| {
            let kept = whole.lines().filter(|line| !line.starts_with("# BEGIN"));
            kept.map(|line| format!("{line}\n")).collect()
        });
    } => "block-damaged";
    doubled_block_is_never_touched: |it| edited_block(it, |whole| format!("{whole}{whole}")) => "block-damaged";
    block_with_a_line_of_somebody_else_is_never_touched: |it| {
        edited_block(it, |whole| whole.replace("# END", "Port 22\n# END"));
    } => "block-damaged";
    edited_override_of_the_reference_is_never_touched: |it| {
        it.write(OVERRIDE, format!("{}LimitNOFILE=9\n", references_override()));
    } => "override-modified";
}
