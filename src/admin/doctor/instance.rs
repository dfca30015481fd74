//! What the probe saw, as checks: the configuration, the host and what the helper needs of it.

use std::path::Path;

use nix::unistd::{Uid, User};

use super::check::{Finding, Id, Sheet};
use super::metadata;
use super::probe::{self, Step};
use crate::cage::InForce;
use crate::sshd::RUN_AS;
use crate::sshd::dump;
use crate::sshd::system::judge::Opinion;

/// What the probe saw.
pub(super) fn checks(run_as: Option<&User>, opinion: Option<&Opinion>, sheet: &mut Sheet) {
    const OF_IMDS: [Id; 5] = [Id::Clock, Id::Place, Id::Signer, Id::Anchors, Id::Staples];
    const REACH: [Id; 3] = [Id::Imds, Id::ImdsIpv4, Id::ImdsIpv6];
    let root = Uid::effective().is_root();
    let who = match run_as {
        Some(user) if root => Some(user),
        Some(_) | None if !root => None,
        _ => {
            sheet.skip(
                &[Id::Config, Id::Ec2, Id::Cage, Id::Log, Id::OneTime],
                Id::RunAsUser,
            );
            sheet.skip(&REACH, Id::RunAsUser);
            sheet.skip(&OF_IMDS, Id::RunAsUser);
            return;
        }
    };
    let name = match run_as {
        Some(user) if root => user.name.clone(),
        _ => "the user that you are".to_owned(),
    };
    let report = match probe::ask(who) {
        Ok(report) => report,
        Err(error) => {
            let seen = format!("{name} could not be asked: {error}");
            let _ = sheet.note(
                Id::Config,
                Finding::fail(seen, "see that this user can run a program"),
            );
            sheet.skip(&[Id::Ec2, Id::Cage, Id::Log, Id::OneTime], Id::Config);
            sheet.skip(&REACH, Id::Config);
            sheet.skip(&OF_IMDS, Id::Config);
            return;
        }
    };
    let log = match &report.log {
        Ok(path) => Finding::pass(format!("{path} takes {name}'s lines")),
        Err(error) => Finding::warn(
            format!("no logger listens, so nobody will know why a key was refused ({error})"),
            "start systemd-journald or rsyslog; in a container, give it a /dev/log",
        ),
    };
    let _ = sheet.note(Id::Log, log);
    let _ = sheet.note(Id::Cage, cage(report.cage.as_ref()));
    if let Step::Refused(refused) = &report.config {
        let _ = sheet.note(Id::Config, Finding::fail(&refused.detail, config_remedy()));
        sheet.skip(&[Id::Ec2, Id::OneTime], Id::Config);
        sheet.skip(&REACH, Id::Config);
        sheet.skip(&OF_IMDS, Id::Config);
        return;
    }
    let path = Path::new(crate::config::DEFAULT_PATH);
    let seen = if path.exists() {
        format!("{} holds", path.display())
    } else {
        format!("there is no {}: the defaults hold", path.display())
    };
    let _ = sheet.note(Id::Config, Finding::pass(seen));
    let _ = sheet.note(Id::OneTime, one_time(report.one_time.as_ref(), opinion));
    match &report.host {
        Some(Step::Held(seen)) => {
            let _ = sheet.note(Id::Ec2, Finding::pass(seen));
        }
        other => {
            let seen = match other {
                Some(Step::Refused(refused)) => refused.detail.clone(),
                _ => "the host was not asked".to_owned(),
            };
            let remedy = "on EC2, make the host's sysfs visible here or set [instance] sysfs, and see that [instance] \
                          id is this instance's; elsewhere this package has no use";
            let _ = sheet.note(Id::Ec2, Finding::fail(seen, remedy));
            sheet.skip(&REACH, Id::Ec2);
            sheet.skip(&OF_IMDS, Id::Ec2);
            return;
        }
    }
    if metadata::reach(&report, &name, sheet) {
        metadata::evidence(&report, sheet);
    } else {
        sheet.skip(&OF_IMDS, Id::Imds);
    }
}

/// Whether keys could be good for one connection.
fn one_time(step: Option<&Step<()>>, opinion: Option<&Opinion>) -> Finding {
    let command = opinion.and_then(|opinion| dump::value(&opinion.user.stdout, "authorizedkeyscommand"));
    match step {
        None => Finding::pass("a key is good for as long as its record: [keys] one_time is off"),
        Some(Step::Refused(refused)) => Finding::fail(&refused.detail, one_time_remedy(&refused.detail)),
        Some(Step::Held(())) => match command {
            None => Finding::skip("see sshd"),
            Some(command) if command.split_ascii_whitespace().any(|word| word == "%f") => {
                Finding::pass("the helper can see sshd and note which connection uses a key")
            }
            Some(command) => Finding::fail(
                format!(
                    "AuthorizedKeysCommand {command} does not hand on %f, and without it every key is refused"
                ),
                "see command: the line should end in %u %f",
            ),
        },
    }
}

/// What mends it, by what was in the way.
fn one_time_remedy(detail: &str) -> String {
    if detail.starts_with("/proc") {
        return "let the helper's user see sshd in /proc: `mount -o remount,hidepid=0 /proc`, and take hidepid= out of \
                /etc/fstab; or set [keys] one_time = false"
            .to_owned();
    }
    format!(
        "`install -d -m 0700 -o {RUN_AS} -g root {}`; with systemd the package's tmpfiles.d does it at each boot. It must \
         be on a file system that can be written and has room",
        crate::claim::DIRECTORY
    )
}

/// What the child could give up.
fn cage(held: Option<&InForce>) -> Finding {
    let Some(held) = held else {
        return Finding::skip("the probe entered none");
    };
    let lacks: Vec<String> = held
        .layers()
        .iter()
        .filter_map(|(name, layer)| layer.as_ref().err().map(|lack| format!("{name} ({lack})")))
        .collect();
    if lacks.is_empty() {
        Finding::pass(format!("keys are proven behind {held}"))
    } else {
        Finding::warn(
            format!("keys are proven behind {held}, without {}", lacks.join(", ")),
            "logins work all the same; Landlock needs Linux 5.13 and its name in the kernel's lsm= list, seccomp a \
             container that lets its programs use it",
        )
    }
}

/// How the configuration file can be used again. Who may write and read it is asked here: the probe's words are prose.
fn config_remedy() -> String {
    use std::os::unix::fs::MetadataExt as _;
    let path = crate::config::DEFAULT_PATH;
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.uid() != 0 => format!("`chown root: {path}`"),
        Ok(meta) if meta.is_file() && meta.mode() & 0o022 != 0 => format!("`chmod go-w {path}`"),
        Ok(meta) if meta.is_file() && meta.mode() & 0o004 == 0 => format!("`chmod a+r {path}`"),
        _ => "mend that place, until `ec2-instance-connect config check` is content: before that no key is given. \
              Without the file the defaults hold"
            .to_owned(),
    }
}
