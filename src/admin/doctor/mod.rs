//! `ec2-instance-connect doctor`: why a login does not work, or would not.
//!
//! ```text
//! setup's discovery, sshd -T ─▶ sshd ────┐   (and what it says: command, helper, authentication, daemon)
//! passwd, shadow, groups ─────▶ account ─┼─▶ Finding ─▶ check::Sheet ─▶ render
//! the helper's own steps ─────▶ probe ───┤
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
pub mod policy;
pub mod probe;
pub mod render;
pub mod sshd;

use std::io;
use std::path::Path;

use nix::unistd::{Uid, User};

use crate::cage::InForce;
use crate::config::Config;
use crate::file;
use crate::link::Link;
use crate::reason::Reason;
use crate::sshd::dump;
use crate::sshd::plan::CommandState;
use crate::sshd::system::facts;
use crate::sshd::system::judge::Opinion;
use crate::sshd::system::root::Root;
use crate::sshd::{HOLD, RUN_AS};

use super::EXIT_REFUSED;
use super::output::Page;
use super::paint;
use check::{Finding, Id, Sheet};
use probe::{Reach, Refused, Report, Step};
use sshd::Sshd;

/// Seconds by which our clock may differ from the metadata's before it eats into the minute that a key lives.
const CLOCK_WARN: u64 = 5;
/// And from where on a fresh key is taken for an expired one, or an expired one for fresh.
const CLOCK_FAIL: u64 = 30;

/// Days that a signer's chain should still hold: AWS renews it long before.
const SIGNER_DAYS: i64 = 2;
/// Hours that a staple should still hold.
const STAPLE_HOURS: i64 = 6;

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
    instance(run_as.as_ref(), opinion.as_ref(), &mut sheet);
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

/// What the probe saw.
fn instance(run_as: Option<&User>, opinion: Option<&Opinion>, sheet: &mut Sheet) {
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
    if metadata(&report, &name, sheet) {
        evidence(&report, sheet);
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

/// The metadata service, by the configuration's address and by each family.
fn metadata(report: &Report, name: &str, sheet: &mut Sheet) -> bool {
    let usable = match &report.imds {
        Some(Reach {
            token: Step::Held(address),
            ..
        }) => sheet.note(
            Id::Imds,
            Finding::pass(format!("{address} gives {name} a token (IMDSv2)")),
        ),
        Some(Reach {
            token: Step::Refused(refused),
            connects,
        }) => sheet.note(Id::Imds, unreachable(refused, *connects, name)),
        None => sheet.note(Id::Imds, Finding::skip("the metadata was not asked")),
    };
    for (id, reach) in [(Id::ImdsIpv4, &report.ipv4), (Id::ImdsIpv6, &report.ipv6)] {
        let finding = match reach {
            None => Finding::skip("the configuration names another address"),
            Some(Reach {
                token: Step::Held(address),
                ..
            }) => Finding::pass(format!("{address} answers")),
            // The service answers on IPv6 only where it was asked for; one family is enough.
            Some(Reach {
                token: Step::Refused(refused),
                ..
            }) if usable => Finding::skip(format!("{}; not needed", refused.detail)),
            Some(Reach {
                token: Step::Refused(refused),
                ..
            }) => Finding::skip(format!("see imds; {}", refused.detail)),
        };
        let _ = sheet.note(id, finding);
    }
    usable
}

/// Why the metadata gave nothing, and what to do.
fn unreachable(refused: &Refused, connects: bool, name: &str) -> Finding {
    const OPTIONS: &str = "aws ec2 modify-instance-metadata-options --instance-id ID";
    let seen = format!("as {name}: {} ({})", refused.detail, refused.reason);
    if refused.is(Reason::ImdsForbidden) {
        let seen = format!("{seen}: the metadata service is switched off for this instance");
        Finding::fail(seen, format!("from elsewhere: {OPTIONS} --http-endpoint enabled"))
    } else if refused.is(Reason::ImdsTimeout) && connects {
        Finding::fail(
            format!("{seen}, yet it takes connections: the answer dies on its way, as by a hop limit of 1"),
            format!("from elsewhere: {OPTIONS} --http-put-response-hop-limit 2"),
        )
    } else if refused.is(Reason::ImdsTimeout) || refused.is(Reason::ImdsUnreachable) {
        Finding::fail(
            seen,
            "let this uid reach 169.254.169.254 port 80: see `ip route get 169.254.169.254`, `iptables-save` and `nft \
             list ruleset`",
        )
    } else {
        Finding::fail(seen, format!("see {} in docs/REASONS.md", refused.reason))
    }
}

/// Clock, place, signer and staples.
fn evidence(report: &Report, sheet: &mut Sheet) {
    let _ = sheet.note(Id::Clock, clock(report.date.as_ref()));
    match &report.place {
        Some(Step::Held(seen)) => {
            let _ = sheet.note(Id::Place, Finding::pass(seen));
        }
        other => {
            let _ = sheet.note(Id::Place, refused(other.as_ref()));
            return sheet.skip(&[Id::Signer, Id::Anchors, Id::Staples], Id::Place);
        }
    }
    let now = crate::authorize::now().map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    match &report.signer {
        Some(Step::Held(ends)) => {
            let days = ends.saturating_sub(now).div_euclid(86_400);
            let seen = format!("the chain holds for {days} more days");
            let finding = if days < SIGNER_DAYS {
                Finding::warn(
                    seen,
                    "AWS renews it; if this stays so, open a case with AWS support",
                )
            } else {
                Finding::pass(seen)
            };
            let _ = sheet.note(Id::Signer, finding);
        }
        other => {
            let _ = sheet.note(Id::Signer, refused(other.as_ref()));
            return sheet.skip(&[Id::Anchors, Id::Staples], Id::Signer);
        }
    }
    let anchors = report.anchors.clone().unwrap_or_default();
    let finding = if anchors == "amazon" {
        Finding::pass("Amazon's roots, built in")
    } else {
        Finding::warn(
            format!("not Amazon's built-in roots but {anchors}"),
            "whoever can write there decides who may sign: see that it is meant so ([trust] anchors)",
        )
    };
    let _ = sheet.note(Id::Anchors, finding);
    let finding = match &report.staples {
        Some(Step::Held(Some(ends))) => {
            let hours = ends.saturating_sub(now).div_euclid(3_600);
            let seen = format!("nobody has revoked it, known for {hours} more hours");
            if hours < STAPLE_HOURS {
                Finding::warn(
                    seen,
                    "AWS renews them; if this stays so, open a case with AWS support",
                )
            } else {
                Finding::pass(seen)
            }
        }
        Some(Step::Held(None)) => Finding::warn(
            "there are no staples, and the configuration lets them be absent",
            "[trust] ocsp = 'require' asks for them",
        ),
        other => refused(other.as_ref()),
    };
    let _ = sheet.note(Id::Staples, finding);
}

/// The clock against the metadata's.
fn clock(date: Option<&(Option<String>, u64)>) -> Finding {
    let Some((Some(text), ours)) = date else {
        return Finding::skip("the metadata said no date");
    };
    // IMF-fixdate is a date of RFC 5322 with GMT for a zone (RFC 9110 §5.6.7).
    let theirs = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
    let Some(theirs) = theirs.ok().and_then(|time| u64::try_from(time.as_second()).ok()) else {
        return Finding::skip(format!("the metadata's date cannot be read: {text}"));
    };
    let apart = ours.abs_diff(theirs);
    let seen = format!(
        "{apart} s {} the metadata's",
        if *ours < theirs { "behind" } else { "ahead of" }
    );
    let remedy = "set the clock: `chronyc makestep` or `timedatectl set-ntp true`; the time service is at 169.254.169.123";
    if apart <= CLOCK_WARN {
        Finding::pass(seen)
    } else if apart < CLOCK_FAIL {
        Finding::warn(seen, remedy)
    } else {
        Finding::fail(seen, remedy)
    }
}

fn refused<T>(step: Option<&Step<T>>) -> Finding {
    match step {
        Some(Step::Refused(refused)) => Finding::fail(
            format!("{} ({})", refused.detail, refused.reason),
            format!("see {} in docs/REASONS.md", refused.reason),
        ),
        _ => Finding::skip("it was not asked"),
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
