//! The helper's file: whose it is, whether sshd would run it, and of which version it is.

use std::path::Path;

use super::check::Finding;
use super::sshd::{Sshd, one_line};
use crate::sshd::call::Call;
use crate::sshd::dump;
use crate::sshd::plan::CommandState;
use crate::sshd::system::facts;
use crate::sshd::system::judge::Opinion;
use crate::sshd::system::root::Root;
use crate::sshd::system::run::{TOOL_TIME, run, tool};
use crate::sshd::{COMMANDS, LIBEXEC};

impl Sshd {
    /// The traditional path to judge: the one in force, else the one that is there.
    #[must_use]
    pub fn helper(&self, opinion: Option<&Opinion>) -> (&'static str, &CommandState) {
        let in_force = opinion
            .and_then(|opinion| dump::value(&opinion.user.stdout, "authorizedkeyscommand"))
            .and_then(|value| Call::parse(&value))
            .map(|call| call.path);
        let states = COMMANDS.iter().zip(&self.machine.facts.commands);
        let of = |wanted: &dyn Fn(&str, &CommandState) -> bool| {
            states
                .clone()
                .find(|(path, state)| wanted(path, state))
                .map(|(path, state)| (*path, state))
        };
        let [debian, _] = COMMANDS;
        let [first, _] = &self.machine.facts.commands;
        of(&|path, _| Some(path) == in_force)
            .or_else(|| of(&|_, state| *state != CommandState::Absent))
            .unwrap_or((debian, first))
    }
}

/// Whose the helper is.
pub fn package(root: &Root, path: &str, state: &CommandState) -> Finding {
    let reinstall = "install the package again: `apt-get install --reinstall ec2-instance-connect` or `dnf reinstall \
                     ec2-instance-connect`";
    match state {
        CommandState::Absent => Finding::fail(
            format!("there is no {path}"),
            "install the package ec2-instance-connect",
        ),
        CommandState::Safe { real } | CommandState::Unsafe { real, .. } => {
            let owner = facts::owner(root, real).or_else(|| facts::owner(root, Path::new(path)));
            let whose = owner.map_or_else(
                || "no package's".to_owned(),
                |owner| format!("of the package {owner}"),
            );
            if real.starts_with(LIBEXEC) {
                Finding::pass(format!("{path} is {}, {whose}", real.display()))
            } else if *real == Path::new(path)
                && root.exists(&Path::new(LIBEXEC).join("eic_run_authorized_keys"))
            {
                Finding::fail(
                    format!(
                        "{path} is not our symlink but a file, {whose}: a later package may have replaced it"
                    ),
                    format!("`ln -sfn {LIBEXEC}/eic_run_authorized_keys {path}`, or {reinstall}"),
                )
            } else {
                Finding::fail(
                    format!("{path} is {}, {whose}, and not this helper", real.display()),
                    reinstall,
                )
            }
        }
    }
}

/// Whether sshd would run it.
pub fn safe(path: &str, state: &CommandState) -> Finding {
    match state {
        CommandState::Absent => Finding::fail(
            format!("there is no {path}"),
            "install the package ec2-instance-connect",
        ),
        CommandState::Safe { real } => Finding::pass(format!(
            "{} and every directory above it belong to root and are writable by nobody else",
            real.display()
        )),
        CommandState::Unsafe { what, .. } => {
            let at = what.split(' ').next().unwrap_or_default();
            let remedy = if what.ends_with("is not executable") {
                format!("`chmod 0755 {at}`")
            } else if what.ends_with("belong to root") {
                format!("`chown root: {at}`")
            } else if what.contains("writable") {
                format!("`chmod go-w {at}`")
            } else {
                "install the package again".to_owned()
            };
            // Debian's patch to `secure_permissions` takes a group that has nobody but the owner in it.
            let tolerated = if what.contains("writable by its group") {
                " (Debian's lets a private group pass)"
            } else {
                ""
            };
            Finding::fail(format!("sshd will not run {path}: {what}{tolerated}"), remedy)
        }
    }
}

/// Whether the helper is of this tool's version.
pub fn version(state: &CommandState) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let CommandState::Safe { real } = state else {
        return Finding::skip("see helper-path");
    };
    if !real.starts_with(LIBEXEC) {
        return Finding::skip("see package");
    }
    let answer = run(tool(&real.to_string_lossy()).arg("--version"), b"", TOOL_TIME);
    let said = answer.map_or_else(|error| error.to_string(), |output| one_line(&output.text()));
    match said.rsplit(' ').next() {
        Some(theirs) if theirs == ours => Finding::pass(format!("helper and tool are {ours}")),
        _ => Finding::warn(
            format!("this tool is {ours}, the helper says: {said}"),
            "install the package again",
        ),
    }
}
