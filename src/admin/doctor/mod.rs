//! `ec2-instance-connect doctor`: why a login does not work, or would not.
//!
//! ```text
//! setup's discovery, sshd -T ─▶ sshd ────┐   (command, helper, authentication and daemon tell it)
//! passwd, shadow, groups ─────▶ account ─┼─▶ Finding ─▶ check::Sheet ─▶ render
//! the helper's own steps ─────▶ probe ───┤   (instance and metadata tell it)
//! SELinux, AppArmor, logs ────▶ host ────┘
//! ```
//!
//! Everything but [`check`] and [`render`] looks at the machine; nothing changes it. [`probe`] is a child that has
//! become the user as whom sshd runs the helper. What each check means is in `docs/DOCTOR.md`.

pub mod account;
pub mod authentication;
pub mod check;
pub mod command;
pub mod daemon;
pub mod helper;
pub mod host;
pub mod instance;
pub mod metadata;
pub mod policy;
pub mod probe;
pub mod render;
pub mod sshd;

use std::io;
use std::path::Path;

use nix::unistd::{Uid, User};

use crate::config::Config;
use crate::file;
use crate::link::Link;
use crate::sshd::plan::CommandState;
use crate::sshd::system::facts;
use crate::sshd::system::judge::Opinion;
use crate::sshd::system::root::Root;
use crate::sshd::{HOLD, RUN_AS};

use super::EXIT_REFUSED;
use super::output::Page;
use super::paint;
use check::{Finding, Id, Sheet};
use sshd::Sshd;

/// Find out why a login does not work
///
/// One line for each check: pass, warn, fail or skip, what was seen, and how to mend it. The first line that fails is
/// the likely cause. Nothing is changed. Exit status: 0 when nothing fails, 1 when something does, 2 for wrong usage.
#[derive(Debug, Clone, clap::Args)]
pub struct Doctor {
    /// The login to look at; somebody with a shell by default
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Say what this user sees of the metadata, as JSON: the child that has become the run-as user
    #[arg(long, hide = true)]
    probe: bool,
}

impl Doctor {
    /// Makes the checks and writes the page.
    #[must_use]
    pub fn run(&self) -> Page {
        let (out, exit) = match self.report() {
            Ok(done) => done,
            Err(error) => {
                return Page {
                    err: format!("ec2-instance-connect: {error}\n"),
                    exit: EXIT_REFUSED,
                    ..Page::default()
                };
            }
        };
        Page {
            out,
            exit,
            ..Page::default()
        }
    }

    fn report(&self) -> io::Result<(Vec<u8>, u8)> {
        if self.probe {
            return Ok((serde_json::to_vec(&probe::serve())?, 0));
        }
        let root = Root::new(Path::new("/"))?;
        let user = self.user.clone().unwrap_or_else(|| facts::somebody(&root));
        let sheet = examine(&root, &user);
        let out = if self.json {
            render::json(&user, &sheet.checks)?
        } else {
            render::text(&sheet.checks, paint::wanted()).into_bytes()
        };
        Ok((out, if sheet.fails() { EXIT_REFUSED } else { 0 }))
    }
}

/// All checks, in order.
fn examine(root: &Root, user: &str) -> Sheet {
    let mut sheet = Sheet::default();
    let _ = sheet.note(Id::Privileges, privileges());
    let (sshd, opinion) = configuration(root, user, &mut sheet);
    let run_as = run_as(sshd.as_ref(), opinion.as_ref(), &mut sheet);
    instance::checks(run_as.as_ref(), opinion.as_ref(), &mut sheet);
    login(user, sshd.as_ref(), opinion.as_ref(), &mut sheet);
    own_rules(user, sshd.as_ref(), opinion.as_ref(), &mut sheet);
    let _ = sheet.note(Id::Links, links());
    let _ = sheet.note(Id::Selinux, host::selinux(root));
    let _ = sheet.note(Id::Apparmor, host::apparmor());
    sheet.sort();
    sheet
}

/// Whether sshd would run the commands that the configuration chains to; what they say, `explain` shows.
fn links() -> Finding {
    let Ok(config) = Config::load(None) else {
        return Finding::skip(format!("see {}", Id::Config.code()));
    };
    let wrong = |link: &Link| {
        let what = file::safe_program(link.command().program()).err()?;
        Some(format!("{}: {what}", link.name))
    };
    let wrongs: Vec<String> = config.chain.iter().filter_map(wrong).collect();
    if !wrongs.is_empty() {
        return Finding::warn(
            format!("sshd would not run every link: {}", wrongs.join("; ")),
            "it and every directory above it must be root's and writable by root alone: `chown root:` and `chmod go-w` \
             what is shown",
        );
    }
    match config.chain.as_slice() {
        [] => Finding::pass("no [[chain]]: no other command is asked"),
        links => {
            let names: Vec<&str> = links.iter().map(|link| link.name.as_str()).collect();
            Finding::pass(format!("sshd would run {}", names.join(", ")))
        }
    }
}

fn privileges() -> Finding {
    if Uid::effective().is_root() {
        Finding::pass("root")
    } else {
        Finding::warn(
            "not root: sshd's configuration, shadow and the run-as user's view cannot be looked at in full",
            "run it with sudo",
        )
    }
}

/// The helper's files and sshd's configuration.
fn configuration(root: &Root, user: &str, sheet: &mut Sheet) -> (Option<Sshd>, Option<Opinion>) {
    const OF_SSHD: [Id; 5] = [
        Id::Daemon,
        Id::SetupOff,
        Id::CommandUnverified,
        Id::Command,
        Id::CommandShadows,
    ];
    let sshd = match sshd::survey(root) {
        Ok(sshd) => sshd,
        Err(refusal) => {
            let _ = sheet.note(Id::Sshd, sshd::refused(&refusal));
            sheet.skip(&OF_SSHD, Id::Sshd);
            sheet.skip(
                &[Id::Package, Id::Version, Id::HelperPath, Id::CommandUser],
                Id::Sshd,
            );
            return (None, None);
        }
    };
    // The name goes into sshd's own command line; one with a comma or a blank would say something else there.
    let plain = !user.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control());
    let (opinion, finding) = sshd.ask(root, if plain { user } else { "root" });
    let _ = sheet.note(Id::Sshd, finding);
    let _ = sheet.note(Id::Daemon, daemon::finding(root, &sshd));

    let (path, state) = sshd.helper(opinion.as_ref());
    let there = sheet.note(Id::Package, helper::package(root, path, state));
    if *state == CommandState::Absent {
        sheet.skip(&[Id::HelperPath, Id::Version], Id::Package);
    } else {
        let safe = sheet.note(Id::HelperPath, helper::safe(path, state));
        if !there {
            sheet.skip(&[Id::Version], Id::Package);
        } else if !safe {
            sheet.skip(&[Id::Version], Id::HelperPath);
        } else {
            let _ = sheet.note(Id::Version, helper::version(state));
        }
    }
    let hold = match &sshd.machine.facts.hold {
        None => Finding::pass(format!("no {HOLD}")),
        Some(_) => Finding::warn(
            format!("{HOLD} exists: installing or upgrading the package leaves sshd as it is"),
            "if that is not wished for, `ec2-instance-connect setup apply` takes it away",
        ),
    };
    let _ = sheet.note(Id::SetupOff, hold);
    let _ = sheet.note(Id::CommandUnverified, sshd.unverified(root));
    match &opinion {
        None => sheet.skip(&[Id::Command, Id::CommandShadows, Id::CommandUser], Id::Sshd),
        Some(opinion) => {
            let _ = sheet.note(Id::Command, sshd.command(opinion, user));
            let _ = sheet.note(Id::CommandShadows, sshd.shadows(opinion));
        }
    }
    (Some(sshd), opinion)
}

/// The user as whom the helper runs, for the probe.
fn run_as(sshd: Option<&Sshd>, opinion: Option<&Opinion>, sheet: &mut Sheet) -> Option<User> {
    let mut name = RUN_AS.to_owned();
    let ours = User::from_name(RUN_AS).ok().flatten();
    let finding = match &ours {
        Some(user) => Finding::pass(format!("{RUN_AS} has uid {}", user.uid)),
        None => Finding::fail(
            format!("there is no user {RUN_AS}: sshd cannot run the command as it"),
            format!("`useradd --system --no-create-home --shell /usr/sbin/nologin {RUN_AS}`"),
        ),
    };
    let there = sheet.note(Id::RunAsUser, finding);
    if let (Some(sshd), Some(opinion)) = (sshd, opinion) {
        let (configured, finding) = sshd.command_user(opinion);
        if configured == "none" || (configured == RUN_AS && !there) {
            let cause = if there { Id::Command } else { Id::RunAsUser };
            sheet.skip(&[Id::CommandUser], cause);
        } else {
            let _ = sheet.note(Id::CommandUser, finding);
            name = configured;
        }
    }
    if name == RUN_AS {
        ours
    } else {
        User::from_name(&name).ok().flatten().or(ours)
    }
}

/// The administrator's own rules on who may.
fn own_rules(user: &str, sshd: Option<&Sshd>, opinion: Option<&Opinion>, sheet: &mut Sheet) {
    let Ok(config) = Config::load(None) else {
        return sheet.skip(&[Id::Access, Id::Guards, Id::UserEnvironment], Id::Config);
    };
    let _ = sheet.note(Id::Access, policy::access(&config));
    let _ = sheet.note(Id::Guards, policy::guards(&config, user));
    match opinion.zip(sshd) {
        Some((opinion, sshd)) => {
            let finding = policy::environment(&config, opinion, sshd);
            let _ = sheet.note(Id::UserEnvironment, finding);
        }
        None => sheet.skip(&[Id::UserEnvironment], Id::Sshd),
    }
}

/// The user's side.
fn login(user: &str, sshd: Option<&Sshd>, opinion: Option<&Opinion>, sheet: &mut Sheet) {
    let _ = sheet.note(Id::UserName, account::name(user));
    let (account, finding) = account::exists(user);
    let there = sheet.note(Id::Account, finding);
    let _ = sheet.note(Id::Nologin, account::nologin(account.as_ref()));
    match &account {
        Some(account) => {
            let _ = sheet.note(Id::AccountLocked, account::locked(user, opinion));
            let _ = sheet.note(Id::Shell, account::shell(account));
        }
        None => sheet.skip(&[Id::AccountLocked, Id::Shell], Id::Account),
    }
    let (Some(sshd), Some(opinion)) = (sshd, opinion) else {
        return sheet.skip(
            &[
                Id::PubkeyAuthentication,
                Id::AllowedUsers,
                Id::RootLogin,
                Id::MaxAuthTries,
                Id::LoginGraceTime,
            ],
            Id::Sshd,
        );
    };
    let _ = sheet.note(Id::PubkeyAuthentication, sshd.pubkey(opinion));
    let _ = sheet.note(Id::MaxAuthTries, sshd.tries(opinion));
    let _ = sheet.note(Id::LoginGraceTime, sshd.grace(opinion));
    match &account {
        Some(account) if there => {
            let _ = sheet.note(Id::AllowedUsers, account::allowed(account, sshd, opinion));
            let finding = if account.uid.is_root() {
                sshd.root_login(opinion)
            } else {
                Finding::skip(format!("{user} is not root"))
            };
            let _ = sheet.note(Id::RootLogin, finding);
        }
        _ => sheet.skip(&[Id::AllowedUsers, Id::RootLogin], Id::Account),
    }
}
