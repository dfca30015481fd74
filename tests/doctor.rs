//! doctor on a throwaway machine: each thing is broken alone, is named first, and is well again when the printed
//! remedy has been followed. sshd, the users' database, the metadata service (a simulator at the real address) and
//! the helper are real or in their real places.
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

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use common::case::INSTANCE;
use common::machine::{in_namespaces, own_dev, sh, without_calls};
use common::run::HELPER;
use ec2_instance_connect::admin::doctor::check::Id;
use eic_simulator::clock::{DAY, now};
use eic_simulator::faults::{Effect, Fault};
use eic_simulator::signer::{Part, Signer, SignerSpec};
use eic_simulator::{Simulator, World};
use serde_json::Value;

const TOOL: &str = env!("CARGO_BIN_EXE_ec2-instance-connect");
const DROPINS: &str = "/etc/ssh/sshd_config.d";
const LIBEXEC: &str = "/usr/libexec/ec2-instance-connect/eic_run_authorized_keys";
const COMMAND: &str = "/usr/share/ec2-instance-connect/eic_run_authorized_keys";

/// A machine on which all is well, until a test makes it otherwise.
struct Patient {
    simulator: Simulator,
    well: BTreeMap<String, String>,
    _directory: tempfile::TempDir,
}

/// One run of doctor.
struct Seen {
    code: Option<i32>,
    checks: Vec<Value>,
}

impl Seen {
    fn of(user: &str) -> Self {
        let output = Command::new(TOOL)
            .args(["doctor", "--json", "--user", user])
            .output()
            .unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        assert_eq!(json["schema"], "ec2-instance-connect/doctor/1");
        assert_eq!(json["user"], user);
        let checks = json["checks"].as_array().unwrap().clone();
        let ids: Vec<&str> = checks.iter().map(|check| check["id"].as_str().unwrap()).collect();
        let all: Vec<&str> = Id::ALL.iter().map(|id| id.code()).collect();
        assert_eq!(ids, all, "each check once, in order");
        for check in &checks {
            let must_help = ["warn", "fail"].contains(&check["outcome"].as_str().unwrap());
            assert_eq!(check["remedy"].is_string(), must_help, "{check}");
        }
        let seen = Self {
            code: output.status.code(),
            checks,
        };
        assert_eq!(seen.code, Some(i32::from(seen.first_fail().is_some())));
        seen
    }

    fn get(&self, id: &str) -> &Value {
        self.checks.iter().find(|check| check["id"] == id).unwrap()
    }

    fn outcomes(&self) -> BTreeMap<String, String> {
        let word = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
        self.checks
            .iter()
            .map(|check| (word(check, "id"), word(check, "outcome")))
            .collect()
    }

    fn first_fail(&self) -> Option<&str> {
        let fail = self.checks.iter().find(|check| check["outcome"] == "fail")?;
        fail["id"].as_str()
    }

    /// What stands between backticks in a check's remedy.
    fn remedy(&self, id: &str) -> String {
        let remedy = self.get(id)["remedy"].as_str().unwrap();
        remedy
            .split('`')
            .nth(1)
            .unwrap_or_else(|| panic!("no command in {remedy}"))
            .to_owned()
    }
}

/// How a test mends what it broke.
enum Mend<'a> {
    /// By the first command of the printed remedy.
    Remedy,
    /// By this line: the remedy is prose, or the world's affair.
    Line(&'a str),
}

impl Patient {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        sh("ip addr add 169.254.169.254/32 dev lo; ip -6 addr add fd00:ec2::254/128 dev lo nodad");
        let world = World::nitro(INSTANCE).change(|facts| {
            facts.listen = vec![
                "169.254.169.254:80".parse().unwrap(),
                "[fd00:ec2::254]:80".parse().unwrap(),
            ];
        });
        let simulator = Simulator::start(world).unwrap();
        let root = simulator.root_pem();
        let firmware = simulator.sysfs().join("devices/virtual");
        sh(&format!(
            "mount -t tmpfs -o mode=0755 tmpfs /mnt
             for top in etc usr var; do
                 mkdir -p /mnt/$top /mnt/$top.work
                 mount -t overlay overlay -o lowerdir=/$top,upperdir=/mnt/$top,workdir=/mnt/$top.work /$top
             done
             mount -t tmpfs -o mode=0755 tmpfs /run; mkdir -p /run/sshd
             mount -t overlay overlay -o lowerdir={}:/sys/devices/virtual /sys/devices/virtual
             mount -t tmpfs tmpfs /sys/module; mount -t tmpfs -o mode=0755 tmpfs /home
             rm -rf {DROPINS} /etc/ec2-instance-connect /var/lib/ec2-instance-connect /usr/share/ec2-instance-connect \
                    /opt/aws/bin/eic_run_authorized_keys /etc/nologin /etc/systemd/system/ssh*
             mkdir -p {DROPINS} /etc/ec2-instance-connect /usr/libexec/ec2-instance-connect \
                      /usr/share/ec2-instance-connect /etc/systemd/system
             printf '[Service]\\nEnvironmentFile=-/etc/default/ssh\\nExecStart=/usr/sbin/sshd -D $SSHD_OPTS\\n' \
                 >/etc/systemd/system/ssh.service
             echo 'SSHD_OPTS=' >/etc/default/ssh
             printf 'Include {DROPINS}/*.conf\\nUsePAM yes\\n' >/etc/ssh/sshd_config
             rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
             install -m 0755 {HELPER} {LIBEXEC}; ln -s {LIBEXEC} {COMMAND}
             install -m 0755 {TOOL} /usr/bin/ec2-instance-connect
             cp {} /etc/ec2-instance-connect/anchors.pem
             printf '[trust]\\nanchors = \"/etc/ec2-instance-connect/anchors.pem\"\\n' \
                 >/etc/ec2-instance-connect/config.toml
             userdel ec2-instance-connect 2>/dev/null || true
             useradd --system --no-create-home --shell /usr/sbin/nologin ec2-instance-connect
             useradd -M -s /bin/sh alice; usermod -p '*' alice
             ec2-instance-connect setup apply --no-reload",
            firmware.display(),
            root.display(),
        ));
        own_dev(directory.path());
        let mut patient = Self {
            simulator,
            well: BTreeMap::new(),
            _directory: directory,
        };
        Self::start_log();
        let seen = Seen::of("alice");
        assert_eq!(seen.code, Some(0), "not well at first: {:#?}", seen.checks);
        patient.well = seen.outcomes();
        let odd: Vec<&String> = patient
            .well
            .iter()
            .filter(|(_, word)| *word != "pass")
            .map(|(id, _)| id)
            .collect();
        // The anchors are a file's, as on no real instance; no systemd runs; alice is not root, and is given no environment.
        assert_eq!(
            odd,
            ["anchors", "daemon", "root-login", "user-environment"],
            "{:#?}",
            seen.checks
        );
        patient
    }

    /// A logger that reads all it is sent: useradd would wait for ever on a full queue.
    fn start_log() {
        let log = UnixDatagram::bind("/dev/log").unwrap();
        sh("chmod 0666 /dev/log");
        std::thread::spawn(move || while log.recv(&mut [0; 8192]).is_ok() {});
    }

    /// Breaks with a line of shell, sees `id` come out as `outcome` with `word` in what was seen, mends, and sees all
    /// be well again. A check that fails must be the first that does.
    fn broken(&self, line: &str, id: &str, outcome: &str, word: &str, mend: Mend<'_>) {
        sh(line);
        let seen = self.sick(id, outcome, word);
        match mend {
            Mend::Remedy => sh(&seen.remedy(id)),
            Mend::Line(line) => sh(line),
        };
        self.is_well();
    }

    #[track_caller]
    fn sick(&self, id: &str, outcome: &str, word: &str) -> Seen {
        let seen = Seen::of("alice");
        let check = seen.get(id);
        assert_eq!(check["outcome"], outcome, "{check}");
        assert!(
            check["seen"].as_str().unwrap().contains(word),
            "`{word}` is not in {check}"
        );
        let first = (outcome == "fail").then_some(id);
        assert_eq!(seen.first_fail(), first, "{:#?}", seen.checks);
        seen
    }

    #[track_caller]
    fn is_well(&self) {
        let seen = Seen::of("alice");
        assert_eq!(seen.outcomes(), self.well, "not well again: {:#?}", seen.checks);
    }
}

#[test]
fn broken_installation_is_named_and_mended() {
    in_namespaces("broken_installation_is_named_and_mended", || {
        let patient = Patient::new();
        let dir = "/usr/libexec/ec2-instance-connect";
        patient.broken(
            &format!("chmod g+w {dir}"),
            "helper-path",
            "fail",
            dir,
            Mend::Remedy,
        );
        patient.broken(
            &format!("chown daemon {LIBEXEC}"),
            "helper-path",
            "fail",
            LIBEXEC,
            Mend::Remedy,
        );
        patient.broken(
            &format!("chmod 0644 {LIBEXEC}"),
            "helper-path",
            "fail",
            "executable",
            Mend::Remedy,
        );
        let amazons = format!("rm {COMMAND}; printf '#!/bin/sh\\n' >{COMMAND}; chmod 755 {COMMAND}");
        patient.broken(&amazons, "package", "fail", "later package", Mend::Remedy);
        let again = format!("ln -s {LIBEXEC} {COMMAND}");
        patient.broken(
            &format!("rm {COMMAND}"),
            "package",
            "fail",
            "there is no",
            Mend::Line(&again),
        );
        patient.broken(
            &format!("rm {LIBEXEC}; printf '#!/bin/sh\\necho helper 0.1\\n' >{LIBEXEC}; chmod 755 {LIBEXEC}"),
            "version",
            "warn",
            "0.1",
            Mend::Line(&format!("install -m 0755 {HELPER} {LIBEXEC}")),
        );
        patient.broken(
            "userdel ec2-instance-connect",
            "run-as-user",
            "fail",
            "no user",
            Mend::Remedy,
        );
        patient.broken(
            "touch /etc/ec2-instance-connect/setup.off",
            "setup-off",
            "warn",
            "setup.off",
            Mend::Line("rm /etc/ec2-instance-connect/setup.off"),
        );
        let config = "/etc/ec2-instance-connect/config.toml";
        patient.broken(
            &format!("cp {config} /mnt/config; printf '\\n[imds]\\nendpiont = 1\\n' >>{config}"),
            "config",
            "fail",
            "config.toml:5:1",
            Mend::Line(&format!("cp /mnt/config {config}")),
        );
        // Root could read it; the user as whom the helper runs can't.
        patient.broken(
            &format!("chmod 0600 {config}"),
            "config",
            "fail",
            "Permission denied",
            Mend::Remedy,
        );
        // What he may read by one of his groups he may read under sshd.
        sh(&format!(
            "groupadd -f keys; usermod -aG keys ec2-instance-connect; chgrp keys {config}; chmod 0640 {config}"
        ));
        patient.is_well();
        sh(&format!("chgrp root {config}; chmod 0644 {config}"));
        patient.broken(
            &format!("chmod 0666 {config}"),
            "config",
            "fail",
            "written by others",
            Mend::Remedy,
        );
        patient.broken(
            &format!("chown daemon: {config}"),
            "config",
            "fail",
            "owned by uid",
            Mend::Remedy,
        );
    });
}

#[test]
fn what_one_time_keys_need_is_named_and_mended() {
    in_namespaces("what_one_time_keys_need_is_named_and_mended", || {
        let patient = Patient::new();
        let (config, run) = (
            "/etc/ec2-instance-connect/config.toml",
            "/run/ec2-instance-connect",
        );
        sh(&format!("printf '[keys]\\none_time = true\\n' >>{config}"));
        let remarks = || sh(&format!("ec2-instance-connect config check {config}"));
        assert!(remarks().contains(run), "{}", remarks());
        let seen = patient.sick("one-time", "fail", "No such file");
        sh(&seen.remedy("one-time"));
        patient.is_well();
        assert!(!remarks().contains("one_time"), "{}", remarks());

        sh(&format!(
            "rmdir {run}; ec2-instance-connect setup apply --no-reload"
        ));
        patient.is_well();

        patient.broken(
            &format!("chmod 0750 {run}"),
            "one-time",
            "fail",
            "open to others",
            Mend::Remedy,
        );
        patient.broken(
            &format!("chown daemon {run}; chmod 0755 {run}"),
            "one-time",
            "fail",
            "belongs to",
            Mend::Remedy,
        );
        patient.broken(
            &format!("mount -t tmpfs -o ro,mode=0700,uid=$(id -u ec2-instance-connect) claims {run}"),
            "one-time",
            "fail",
            "Read-only",
            Mend::Line(&format!("umount {run}")),
        );
        // A mount of its own: the host's has one set of options for all namespaces.
        sh("mount -t proc -o hidepid=2 proc /proc");
        assert!(remarks().contains("hidepid=invisible"), "{}", remarks());
        let seen = patient.sick("one-time", "fail", "/proc/1/stat");
        sh(&seen.remedy("one-time"));
        patient.is_well();

        let dropin = format!("{DROPINS}/60-ec2-instance-connect.conf");
        sh(&format!("cp {dropin} /mnt/dropin; sed -i 's/ %f$//' {dropin}"));
        assert!(remarks().contains("%f"), "{}", remarks());
        patient.sick("one-time", "fail", "does not hand on %f");
        sh(&format!("cp /mnt/dropin {dropin}"));
        patient.is_well();
    });
}

#[test]
fn odd_rules_and_guards_that_keep_the_user_out_are_named() {
    in_namespaces("odd_rules_and_guards_that_keep_the_user_out_are_named", || {
        let patient = Patient::new();
        let config = "/etc/ec2-instance-connect/config.toml";
        sh(&format!("cp -p {config} /mnt/config"));
        let back = format!("cp -p /mnt/config {config}");
        for (tables, id, outcome, word) in [
            (
                "[[access]]\\neffect = \"allow\"",
                "access",
                "warn",
                "lets everybody",
            ),
            (
                "[[access]]\\neffect = \"deny\"",
                "access",
                "warn",
                "no rule allows",
            ),
            (
                "[[access]]\\neffect = \"allow\"\\ngroups = [\"no-such-group\"]",
                "access",
                "warn",
                "there is no group no-such-group",
            ),
            ("[guards]\\nmin_uid = 60000", "guards", "fail", "min-uid"),
            ("[guards]\\ndeny_users = [\"a*\"]", "guards", "fail", "deny-user"),
            (
                "[options]\\nprincipal_environment = true",
                "user-environment",
                "warn",
                "no session gets EIC_PRINCIPAL",
            ),
        ] {
            let line = format!("printf '{tables}\\n' >>{config}");
            patient.broken(&line, id, outcome, word, Mend::Line(&back));
        }
        sh(&format!(
            "printf '[options]\\nprincipal_environment = true\\n' >>{config}"
        ));
        let dropin = format!("{DROPINS}/10-environment.conf");
        for (value, outcome, word) in [
            ("EIC_PRINCIPAL", "pass", "EIC_PRINCIPAL"),
            ("LANG,EIC_*", "pass", "EIC_*"),
            ("LANG", "warn", "no session gets"),
            ("yes", "warn", "LD_PRELOAD"),
        ] {
            sh(&format!("echo PermitUserEnvironment {value} >{dropin}"));
            patient.sick("user-environment", outcome, word);
        }
        // What needs more of sshd than its line says.
        sh(&format!("rm {dropin}; {back}"));
        let from = "[[access]]\\neffect = \"allow\"\\nfrom = [\"192.0.2.0/24\"]";
        let line = format!("printf '{from}\\n' >>{config}");
        patient.broken(&line, "command", "warn", "--connection %C", Mend::Line(&back));
    });
}

#[test]
fn broken_sshd_configuration_is_named_with_its_line() {
    in_namespaces("broken_sshd_configuration_is_named_with_its_line", || {
        let patient = Patient::new();
        let early = format!("{DROPINS}/10-early.conf");
        let gone = format!("rm {early}");
        let broken = |text: &str, id: &str, outcome: &str, word: &str| {
            let write = format!("cat >{early} <<'END'\n{text}\nEND\n");
            patient.broken(&write, id, outcome, word, Mend::Line(&gone));
        };
        broken("Nonsense yes", "sshd", "fail", "line 1: Bad");
        let at = format!("{early}:2");
        broken("# x\nAuthorizedKeysCommand none", "command", "fail", &at);
        broken(
            "# x\nAuthorizedKeysCommand /bin/echo\nAuthorizedKeysCommandUser nobody",
            "command",
            "fail",
            &at,
        );
        broken(
            "Match User alice\nAuthorizedKeysCommand none",
            "command",
            "fail",
            "Match at",
        );
        // Another's Match is no affair of alice's, but worth a line.
        broken(
            "Match User bob\nAuthorizedKeysCommand none",
            "command-shadows",
            "warn",
            &at,
        );
        broken(
            "AuthorizedKeysCommandUser nobody",
            "command-user",
            "warn",
            "nobody",
        );
        broken(
            "PubkeyAuthentication no",
            "pubkey-authentication",
            "fail",
            "10-early.conf:1",
        );
        broken(
            "AuthenticationMethods password",
            "pubkey-authentication",
            "fail",
            "no list",
        );
        broken(
            "AuthenticationMethods publickey,password",
            "pubkey-authentication",
            "warn",
            "alone",
        );
        broken("DenyUsers bob al*", "allowed-users", "fail", "DenyUsers");
        broken(
            "AllowUsers bob\nAllowUsers carol",
            "allowed-users",
            "fail",
            "bob carol",
        );
        broken(
            "AllowUsers alice@10.0.0.0/8",
            "allowed-users",
            "warn",
            "10.0.0.0/8",
        );
        broken("AllowGroups wheel", "allowed-users", "fail", "AllowGroups");
        broken("DenyGroups alice", "allowed-users", "fail", "DenyGroups");
        broken("MaxAuthTries 1", "max-auth-tries", "warn", "MaxAuthTries 1");
        broken("LoginGraceTime 3", "login-grace-time", "fail", "LoginGraceTime 3");

        // -o wins over every file.
        patient.broken(
            "echo 'SSHD_OPTS=-oAuthorizedKeysCommand=none' >/etc/default/ssh",
            "command",
            "fail",
            "none",
            Mend::Line("echo 'SSHD_OPTS=' >/etc/default/ssh"),
        );
        // Followed to the letter.
        patient.broken(
            &format!("rm {DROPINS}/60-ec2-instance-connect.conf"),
            "command",
            "fail",
            "no AuthorizedKeysCommand",
            Mend::Remedy,
        );

        // root, who is not alice.
        sh(&format!("echo 'PermitRootLogin no' >{early}"));
        let seen = Seen::of("root");
        assert_eq!(seen.first_fail(), Some("root-login"), "{:#?}", seen.checks);
        sh(&gone);
        assert_eq!(Seen::of("root").code, Some(0));
    });
}

#[test]
fn command_that_prints_unverified_keys_is_called_dangerous() {
    in_namespaces("command_that_prints_unverified_keys_is_called_dangerous", || {
        let patient = Patient::new();
        let early = format!("{DROPINS}/10-early.conf");
        let gone = format!("rm {early}");
        sh(
            "printf '#!/bin/sh\\ncurl -s http://169.254.169.254/latest/meta-data/managed-ssh-keys/active-keys/$1\\n' >/usr/local/bin/keys; chmod 755 /usr/local/bin/keys",
        );
        for (command, word) in [
            ("/usr/local/bin/keys %u", "/usr/local/bin/keys"),
            ("/bin/sh /usr/local/bin/keys %u", "/usr/local/bin/keys"),
            (
                "/usr/bin/curl http://169.254.169.254/latest/meta-data/public-keys/0/openssh-key",
                "public-keys",
            ),
        ] {
            let text = format!(
                "printf 'AuthorizedKeysCommand %s\\nAuthorizedKeysCommandUser nobody\\n' '{command}' >{early}"
            );
            patient.broken(&text, "command-unverified", "fail", word, Mend::Line(&gone));
        }
        // A foreign command that asks somebody else is not called dangerous.
        sh(&format!(
            "printf 'AuthorizedKeysCommand /usr/bin/true\\nAuthorizedKeysCommandUser nobody\\n' >{early}"
        ));
        let seen = patient.sick("command", "fail", "/usr/bin/true");
        assert_eq!(seen.get("command-unverified")["outcome"], "pass");
    });
}

#[test]
fn broken_account_is_named_and_mended() {
    in_namespaces("broken_account_is_named_and_mended", || {
        let patient = Patient::new();
        patient.broken(
            "usermod -e 2001-01-01 alice",
            "account-locked",
            "fail",
            "expired",
            Mend::Remedy,
        );
        // With PAM a locked password keeps no key out.
        sh("usermod -p '!' alice");
        patient.is_well();
        patient.broken(
            &format!("echo 'UsePAM no' >{DROPINS}/10-early.conf"),
            "account-locked",
            "fail",
            "UsePAM",
            Mend::Remedy,
        );
        sh(&format!("rm {DROPINS}/10-early.conf"));
        patient.broken(
            "usermod -s /usr/sbin/nologin alice",
            "shell",
            "fail",
            "at once",
            Mend::Remedy,
        );
        patient.broken(
            "usermod -s /nonexistent alice",
            "shell",
            "fail",
            "not a program",
            Mend::Remedy,
        );
        patient.broken(
            "echo later >/etc/nologin",
            "nologin",
            "fail",
            "/etc/nologin",
            Mend::Remedy,
        );
        patient.broken("userdel alice", "account", "fail", "no user alice", Mend::Remedy);

        let long = "a".repeat(33);
        let seen = Seen::of(&long);
        assert_eq!(seen.first_fail(), Some("user-name"), "{:#?}", seen.checks);
        // A name can't say something else to sshd.
        assert_eq!(Seen::of("x,user=root").first_fail(), Some("user-name"));

        let cage = |seen: &Seen| {
            let check = seen.get("cage");
            (
                check["outcome"].clone(),
                check["seen"].as_str().unwrap().to_owned(),
            )
        };
        let (outcome, words) = cage(&Seen::of("alice"));
        assert_eq!(outcome, "pass");
        assert!(
            words.ends_with("behind no-new-privs,limits,landlock,seccomp"),
            "{words}"
        );
        let (outcome, words) = cage(&without_calls(&[nix::libc::SYS_seccomp], || Seen::of("alice")));
        assert_eq!(outcome, "warn");
        assert!(words.contains("landlock, without seccomp ("), "{words}");

        sh("rm /dev/log");
        patient.sick("log", "warn", "/dev/log");
        Patient::start_log();
        patient.is_well();
    });
}

#[test]
fn broken_metadata_is_told_apart_by_its_cause() {
    in_namespaces("broken_metadata_is_told_apart_by_its_cause", || {
        let patient = Patient::new();
        let simulator = &patient.simulator;

        simulator.change(|facts| facts.imds_enabled = false);
        patient.sick("imds", "fail", "switched off");
        simulator.change(|facts| facts.imds_enabled = true);
        patient.is_well();

        let token = "/latest/api/token";
        simulator.fault(Fault::on(token, Effect::Stall).method("PUT"));
        let seen = patient.sick("imds", "fail", "hop limit");
        assert!(
            seen.get("imds")["remedy"]
                .as_str()
                .unwrap()
                .contains("hop-limit 2")
        );
        assert!(seen.get("signer")["seen"].as_str().unwrap().contains("see imds"));
        simulator.clear_faults();
        patient.is_well();

        // A firewall by uid: root gets a token and would notice nothing.
        let uid = sh("id -u ec2-instance-connect");
        let uid = uid.trim();
        sh("ip rule add pref 10 lookup local; ip rule del pref 0");
        patient.broken(
            &format!("ip rule add pref 5 uidrange {uid}-{uid} to 169.254.169.254 prohibit"),
            "imds",
            "fail",
            "as ec2-instance-connect",
            Mend::Line("ip rule del pref 5"),
        );

        // One family is enough.
        sh("ip addr del 169.254.169.254/32 dev lo");
        let seen = Seen::of("alice");
        assert_eq!(seen.code, Some(0), "{:#?}", seen.checks);
        let outcome = |id: &str| seen.get(id)["outcome"].as_str().unwrap().to_owned();
        assert_eq!(
            [outcome("imds"), outcome("imds-ipv4"), outcome("imds-ipv6")],
            ["pass", "skip", "pass"]
        );
        sh("ip -6 addr del fd00:ec2::254/128 dev lo");
        patient.sick("imds", "fail", "imds-unreachable");
        sh("ip addr add 169.254.169.254/32 dev lo; ip -6 addr add fd00:ec2::254/128 dev lo nodad");
        patient.is_well();

        sh("mount -t tmpfs tmpfs /sys/devices/virtual");
        patient.sick("ec2", "fail", "asset tag");
        sh("umount /sys/devices/virtual");
        patient.is_well();
    });
}

#[test]
fn clock_place_signer_and_staples_are_judged() {
    in_namespaces("clock_place_signer_and_staples_are_judged", || {
        let patient = Patient::new();
        let simulator = &patient.simulator;
        for (offset, outcome, word) in [
            (-10, "warn", "ahead of"),
            (10, "warn", "behind"),
            (3600, "fail", "behind"),
            (-3600, "fail", "ahead of"),
        ] {
            let date = sh(&format!(
                "LC_ALL=C date -u -d @{} '+%a, %d %b %Y %H:%M:%S GMT'",
                now() + offset
            ));
            simulator.fault(Fault::under(
                "/latest/",
                Effect::Header("Date".to_owned(), date.trim().to_owned()),
            ));
            patient.sick("clock", outcome, word);
            simulator.clear_faults();
            patient.is_well();
        }

        simulator.put("/latest/meta-data/services/domain/", "example.com");
        patient.sick("place", "fail", "example.com");
        simulator.restore();
        patient.is_well();

        let good = simulator.signer_spec();
        let change = |change: &dyn Fn(&mut SignerSpec)| {
            let mut spec = good.clone();
            change(&mut spec);
            simulator.set_signer(spec);
        };
        change(&|spec| spec.leaf.not_after = DAY);
        patient.sick("signer", "warn", "more days");
        change(&|spec| spec.leaf.not_after = -60);
        patient.sick("signer", "fail", "signer-expired");
        change(&|spec| {
            *spec = spec.clone().staple(Part::Leaf, |staple| {
                staple.response.singles[0].next_update = Some(2 * 3600);
            })
        });
        patient.sick("staples", "warn", "more hours");
        change(&|spec| spec.staples.clear());
        patient.sick("staples", "fail", "staple-missing");
        simulator.set_signer(good.clone());
        let _: Signer = simulator.signer();
        patient.is_well();
    });
}

#[test]
fn refusals_of_selinux_and_apparmor_are_shown() {
    in_namespaces("refusals_of_selinux_and_apparmor_are_shown", || {
        let patient = Patient::new();
        sh(
            "mount -t tmpfs tmpfs /sys/fs; mkdir /sys/fs/selinux; printf 1 >/sys/fs/selinux/enforce
            rm -rf /var/lib/selinux /etc/selinux/*/active /var/log/audit; mkdir -p /var/log/audit",
        );
        patient.sick("selinux", "fail", "not loaded");
        sh("mkdir -p /var/lib/selinux/targeted/active/modules/200/ec2-instance-connect");
        patient.is_well();
        let avc =
            "type=AVC msg=audit(1): avc:  denied  { name_connect } for comm=\"eic_run_authori\" dest=80";
        let other = "type=AVC msg=audit(1): avc:  denied  { read } for comm=\"httpd\"";
        sh(&format!("echo '{other}' >/var/log/audit/audit.log"));
        patient.is_well();
        patient.broken(
            &format!("echo '{avc}' >>/var/log/audit/audit.log"),
            "selinux",
            "warn",
            "name_connect",
            Mend::Line("rm /var/log/audit/audit.log"),
        );
        sh("mkdir -p /sys/module/apparmor/parameters; echo Y >/sys/module/apparmor/parameters/enabled");
        patient.is_well();
        patient.broken(
            &format!(
                "echo 'apparmor=\"DENIED\" operation=\"exec\" name=\"{LIBEXEC}\"' >/var/log/audit/audit.log"
            ),
            "apparmor",
            "warn",
            "exec",
            Mend::Line("rm /var/log/audit/audit.log"),
        );
    });
}

#[test]
fn what_selinux_must_be_told_for_links_and_one_time_keys_is_named() {
    in_namespaces(
        "what_selinux_must_be_told_for_links_and_one_time_keys_is_named",
        || {
            let patient = Patient::new();
            let config = "/etc/ec2-instance-connect/config.toml";
            let (links, one_time) = ("ec2_instance_connect_links", "ec2_instance_connect_one_time");
            let (chain, keys) = (
                "[[chain]]\ncommand = [\"/bin/true\"]\n",
                "[keys]\none_time = true\n",
            );
            // There is no policy here: the files in which the kernel would show it, and what stands in for setsebool.
            sh(&format!(
            "mount -t tmpfs tmpfs /sys/fs; mkdir -p /sys/fs/selinux/booleans; printf 1 >/sys/fs/selinux/enforce
             mkdir -p /var/lib/selinux/targeted/active/modules/200/ec2-instance-connect
             install -d -m 0700 -o ec2-instance-connect -g root /run/ec2-instance-connect
             printf '#!/bin/sh\n[ \"$1\" = -P ] || exit 1; shift
             for it; do case $it in *=on) printf \"1 1\" >/sys/fs/selinux/booleans/${{it%%=on}};; *) exit 1;; esac; done\n' \
                 >/usr/sbin/setsebool; chmod 0755 /usr/sbin/setsebool; cp -p {config} /mnt/config"
        ));
            let off = || {
                sh(&format!(
                    "cd /sys/fs/selinux/booleans; printf '0 0' | tee {links} >{one_time}"
                ))
            };
            let remarks = || sh(&format!("ec2-instance-connect config check {config}"));
            off();
            patient.is_well();
            for (tables, outcome, word, unconcerned) in [
                (chain.to_owned(), "warn", "no link is run", Some(one_time)),
                (
                    keys.to_owned(),
                    "fail",
                    "every pushed key is refused",
                    Some(links),
                ),
                (format!("{chain}{keys}"), "fail", "no link is run; ec2_", None),
            ] {
                sh(&format!(
                    "cp -p /mnt/config {config}; printf '{tables}' >>{config}"
                ));
                off();
                let seen = patient.sick("selinux", outcome, word);
                let said = remarks();
                assert!(said.contains("setsebool -P ec2_instance_connect_"), "{said}");
                let remedy = seen.remedy("selinux");
                for text in [&said, &remedy] {
                    assert!(!unconcerned.is_some_and(|name| text.contains(name)), "{text}");
                }
                // Where nothing is enforced, or where the value waits for its commit, it is another matter.
                sh("printf 0 >/sys/fs/selinux/enforce");
                patient.is_well();
                assert!(!remarks().contains("setsebool"), "{}", remarks());
                sh("printf 1 >/sys/fs/selinux/enforce");
                sh(&remedy);
                patient.is_well();
                assert!(!remarks().contains("setsebool"), "{}", remarks());
            }
        },
    );
}

#[test]
fn wrong_usage_is_status_two_and_a_pipe_gets_no_colour() {
    let run = |words: &[&str]| Command::new(TOOL).arg("doctor").args(words).output().unwrap();
    for words in [&["--nonsense"][..], &["--user"], &["extra"]] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty());
    }
    // In a pipe there is no escape sequence, also with a name that brings one.
    let output = run(&["--user", "a\u{1b}[31mb"]);
    assert!(!output.stdout.contains(&0x1b));
    assert_eq!(
        String::from_utf8(output.stdout)
            .unwrap()
            .matches("user-name")
            .count(),
        1
    );
}
