//! The transaction: plan, judge, write, reload, prove; or everything back.
//!
//! ```text
//! lock -> repair what an earlier call left -> facts -> plan -> judge -> journal -> steps
//!      -> daemon-reload -> judge in place -> reload -> proof -> commit -> sweep
//! ```
//!
//! Up to the journal nothing is written. From there until the commit any failure, and any death of this process, ends
//! with the old files: here, or in the next call's repair.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::facts::{self, Machine};
use super::files;
use super::journal::{Found, Journal, STATE_DIR, state_dir};
use super::judge::{self, Opinion, Request, Verdict};
use super::root::Root;
use super::service::{self, Service, Witness};
use super::trial;
use crate::config::Config;
use crate::link::TIMEOUT;
use crate::sshd::args::Arguments;
use crate::sshd::dump::{self, Passed, Rejected};
use crate::sshd::plan::adopt::Adoption;
use crate::sshd::plan::{self, By, Goal, Placement, Plan, State, Step, Survey, effective_arguments};
use crate::sshd::reason::{Noted, Notice, Refusal, Refused};
use crate::sshd::{DROPIN, DROPIN_DIR, RUN_AS};

/// How long another setup is waited for. A whole transaction takes a second or two.
const LOCK_TIME: Duration = Duration::from_secs(20);

/// Between two tries for the lock.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// A command that was tried at rest gets so many times as long at a login.
const SLOWER: u128 = 4;

/// What a call is to look at, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The machine or image.
    pub root: Root,
    /// A person or a package.
    pub by: By,
    /// Whether sshd may be reloaded.
    pub reload: bool,
    /// For whom `sshd -T -C` is asked; `None` picks somebody.
    pub user: Option<String>,
    /// For whom a command in the way is tried, to be adopted; `None` leaves it alone.
    pub adopt: Option<String>,
}

/// How a call ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The machine is as it was and as it should be.
    Unchanged,
    /// A package met an administrator's hold.
    Held,
    /// These changes would be made.
    Planned,
    /// These changes were made.
    Changed,
}

/// What a user gets, according to sshd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Who was asked about.
    pub user: String,
    /// sshd's `AuthorizedKeysCommand` for that user.
    pub command: String,
    /// sshd's `AuthorizedKeysCommandUser` for that user.
    pub run_as: String,
}

/// What a call found and did.
#[derive(Debug, Clone)]
pub struct Report {
    /// How it ended.
    pub ending: Ending,
    /// How the machine stands now.
    pub state: State,
    /// Where the line is that is in force, and what it says.
    pub in_force: Option<crate::sshd::tree::Setting>,
    /// What sshd says; `None` when it was not asked or is broken.
    pub effective: Option<Effective>,
    /// The changes, made or planned.
    pub steps: Vec<Step>,
    /// Remarks.
    pub notices: Vec<Notice>,
    /// What stands in the way of an apply, for a status.
    pub obstacle: Option<Refusal>,
}

/// How the machine stands. Changes nothing.
///
/// # Errors
/// When it can't be told.
pub fn status(options: &Options) -> Result<Report, Refusal> {
    let mut notices = interrupted(&options.root)?;
    let machine = facts::collect(&options.root)?;
    let survey = plan::survey(&machine.facts)?;
    notices.extend(survey.notices.clone());
    notices.extend(standing_notices(options, &machine, &survey.start));
    if machine.facts.hold.is_some() {
        notices.push(Notice::new(
            Noted::Held,
            format!("{} keeps packages from applying", crate::sshd::HOLD),
        ));
    }
    let (arguments, _) = effective_arguments(&machine.facts, &survey.start);
    let effective = match ask(&request(options, &machine, &arguments, &survey))? {
        Verdict::Heard(opinion) => effective(options, &opinion),
        Verdict::NoNamespace(_) | Verdict::NotRunnable(_) => None,
    };
    // What an apply would meet: somebody's decision, or a command or user that is missing since.
    let obstacle = plan::plan(&machine.facts, &survey, Goal::Apply, By::Hand, Placement::DropIn).err();
    Ok(Report {
        ending: Ending::Unchanged,
        state: survey.state,
        in_force: survey.in_force,
        effective,
        steps: Vec::new(),
        notices,
        obstacle,
    })
}

/// What `apply` or `remove` would do. Changes nothing, and asks sshd all the same.
///
/// # Errors
/// What would be refused.
pub fn preview(options: &Options, goal: Goal) -> Result<Report, Refusal> {
    let notices = interrupted(&options.root)?;
    let machine = facts::collect(&options.root)?;
    let survey = plan::survey(&machine.facts)?;
    let adoption = adoption(options, &machine, &survey, goal)?;
    let decided = decide(options, &machine, &survey, goal, adoption.as_ref())?;
    let ending = match (decided.plan.steps.is_empty(), is_held(&decided.plan)) {
        (_, true) => Ending::Held,
        (true, false) => Ending::Unchanged,
        (false, false) => Ending::Planned,
    };
    let mut report = report(options, &machine, survey, decided, ending);
    report.notices.splice(0..0, notices);
    Ok(report)
}

/// Applies or removes.
///
/// # Errors
/// What was refused or failed; the machine is as before then, unless the code is `rollback-failed`.
pub fn execute(options: &Options, goal: Goal) -> Result<Report, Refusal> {
    let root = &options.root;
    if !geteuid().is_root() {
        return Err(Refusal::new(
            Refused::NotRoot,
            "only root may change sshd's configuration",
            "call it with sudo",
        ));
    }
    let _lock = lock(root)?;
    let repaired = repair(options)?;
    let machine = facts::collect(root)?;
    let survey = plan::survey(&machine.facts)?;
    let adoption = adoption(options, &machine, &survey, goal)?;
    let decided = decide(options, &machine, &survey, goal, adoption.as_ref())?;
    let ending = match (decided.plan.steps.is_empty(), is_held(&decided.plan)) {
        (_, true) => Ending::Held,
        (true, false) => Ending::Unchanged,
        (false, false) => Ending::Changed,
    };
    if ending != Ending::Changed {
        let mut report = report(options, &machine, survey, decided, ending);
        report.notices.splice(0..0, repaired);
        return Ok(report);
    }
    let done = carry_out(options, &machine, &decided)?;

    let machine = facts::collect(root)?;
    let survey = plan::survey(&machine.facts)?;
    let mut report = report(options, &machine, survey, decided, ending);
    report.notices.splice(0..0, repaired);
    report.notices.extend(done);
    Ok(report)
}

/// A plan that sshd has nothing against.
struct Decided {
    plan: Plan,
    opinion: Option<Opinion>,
    baseline: Option<Opinion>,
    request: Request,
    already_broken: bool,
    in_place: bool,
    notices: Vec<Notice>,
}

fn is_held(plan: &Plan) -> bool {
    plan.steps.is_empty()
        && plan.wanted.is_none()
        && plan.notices.iter().any(|notice| notice.code == Noted::Held)
}

fn report(options: &Options, machine: &Machine, survey: Survey, decided: Decided, ending: Ending) -> Report {
    let mut notices = decided.plan.notices;
    notices.extend(decided.notices);
    notices.extend(standing_notices(options, machine, &survey.start));
    Report {
        ending,
        state: survey.state,
        in_force: survey.in_force,
        effective: decided
            .opinion
            .as_ref()
            .and_then(|opinion| effective(options, opinion)),
        steps: decided.plan.steps,
        notices,
        obstacle: None,
    }
}

/// What is to be adopted, once it was tried; `None` where nothing is asked for or in the way.
fn adoption(
    options: &Options,
    machine: &Machine,
    survey: &Survey,
    goal: Goal,
) -> Result<Option<Adoption>, Refusal> {
    let Some(user) = options.adopt.as_deref().filter(|_| goal == Goal::Apply) else {
        return Ok(None);
    };
    let facts = &machine.facts;
    let Some(candidate) = plan::adopt::candidate(facts, survey)? else {
        return Ok(None);
    };
    if !options.root.is_live() {
        let remedy = "write the [[chain]] into the image yourself; CHAINING.md says how";
        return Err(Refusal::new(
            Refused::AdoptUnfit,
            "a command can't be tried in an image",
            remedy,
        ));
    }
    if !geteuid().is_root() {
        return Err(Refusal::new(
            Refused::NotRoot,
            "only root may try a command as other users",
            "call it with sudo",
        ));
    }
    let elapsed = trial::run(&candidate, user)?;
    let wanted = elapsed.as_millis().saturating_mul(SLOWER);
    let usual = TIMEOUT.default.into();
    let most = Config::default().imds.total_timeout.as_millis();
    let timeout = (wanted > usual).then_some(wanted.min(most));
    plan::adopt::adoption(facts, &candidate, timeout).map(Some)
}

/// Plans, and has sshd judge: the drop-in first; where that will not do, the block.
fn decide(
    options: &Options,
    machine: &Machine,
    survey: &Survey,
    goal: Goal,
    adoption: Option<&Adoption>,
) -> Result<Decided, Refusal> {
    let first = judged(options, machine, survey, goal, adoption, Placement::DropIn);
    match first {
        Err(refusal)
            if goal == Goal::Apply
                && matches!(
                    refusal.code,
                    Refused::CandidateNotEffective | Refused::CandidateSideEffect
                ) =>
        {
            // The drop-in's objection is the one to tell when the block is no better.
            judged(options, machine, survey, goal, adoption, Placement::Block).map_err(|_| refusal)
        }
        other => other,
    }
}

fn judged(
    options: &Options,
    machine: &Machine,
    survey: &Survey,
    goal: Goal,
    adoption: Option<&Adoption>,
    placement: Placement,
) -> Result<Decided, Refusal> {
    let plan = match adoption {
        Some(adoption) => adoption.plan(options.by, placement)?,
        None => plan::plan(&machine.facts, survey, goal, options.by, placement)?,
    };
    // Both sides are asked with the arguments of the next start, so that only our files can make a difference.
    let start = if plan.unit_changes {
        &survey.start_without_override
    } else {
        &survey.start
    };
    let (mut arguments, _) = effective_arguments(&machine.facts, start);
    if plan.unit_changes {
        arguments = Arguments::parse(start.argv.get(1..).unwrap_or_default());
    }
    let mut before = request(options, machine, &arguments, survey);
    let after = before.with(&steps_for_sshd(machine, &plan.steps));
    before.private = true;
    let mut decided = Decided {
        plan,
        opinion: None,
        baseline: None,
        request: after,
        already_broken: false,
        in_place: false,
        notices: Vec::new(),
    };
    match (ask(&before)?, ask(&decided.request)?) {
        (Verdict::Heard(before), Verdict::Heard(after)) => {
            if decided.plan.concerns_sshd {
                let passed = weigh(&before, &after, &decided.plan)?;
                take_passed(&mut decided, passed, goal)?;
            }
            decided.opinion = Some(after);
            decided.baseline = Some(before);
        }
        (Verdict::NotRunnable(why), _) | (_, Verdict::NotRunnable(why)) if !options.root.is_live() => {
            if decided.plan.concerns_sshd {
                let message =
                    format!("the image's sshd could not be asked ({why}); nobody judged the change");
                decided.notices.push(Notice::new(Noted::NotJudged, message));
            }
        }
        (Verdict::NotRunnable(why), _) | (_, Verdict::NotRunnable(why)) => {
            let remedy = "mend the openssh-server installation and run the command again";
            return Err(Refusal::new(
                Refused::SshdMissing,
                format!("sshd can't be run: {why}"),
                remedy,
            ));
        }
        (Verdict::NoNamespace(why), _) | (_, Verdict::NoNamespace(why)) => {
            decided.in_place = true;
            let mut here = before.clone();
            here.private = false;
            if let Verdict::Heard(opinion) = ask(&here)? {
                decided.baseline = Some(opinion.clone());
                decided.opinion = Some(opinion);
            }
            if decided.plan.concerns_sshd {
                let message =
                    format!("no private mount namespace ({why}): judged in place, before any reload");
                decided.notices.push(Notice::new(Noted::JudgedInPlace, message));
            }
        }
    }
    Ok(decided)
}

fn take_passed(decided: &mut Decided, passed: Passed, goal: Goal) -> Result<(), Refusal> {
    if passed.already_broken {
        decided.already_broken = true;
        let message =
            "sshd refuses its configuration, with this change as without it; mend it before sshd restarts";
        decided.notices.push(Notice::new(Noted::AlreadyBroken, message));
    }
    for effect in passed.side_effects {
        let message = format!(
            "the effective value of {} changes from {:?} to {:?}",
            effect.keyword, effect.before, effect.after
        );
        if goal == Goal::Apply {
            let remedy =
                "move that setting above the Include, or put the two lines where they do no harm by hand";
            return Err(Refusal::new(Refused::CandidateSideEffect, message, remedy));
        }
        decided.notices.push(Notice::new(Noted::SideEffect, message));
    }
    Ok(())
}

/// sshd's opinion before and after, for everyone and for the user.
fn weigh(before: &Opinion, after: &Opinion, plan: &Plan) -> Result<Passed, Refusal> {
    let wanted = plan.wanted.as_deref().map(|command| (command, RUN_AS));
    let global = dump::judge(&before.global, &after.global, wanted);
    // A Match may give this user another command; that is its author's right. Everything else must hold for him too.
    let user = dump::judge(&before.user, &after.user, None);
    let rejected = |rejected: Rejected| match rejected {
        Rejected::Fails { stderr } => Refusal::new(
            Refused::CandidateRejected,
            format!("sshd does not take the new configuration: {stderr}"),
            "mend what sshd complains of and run the command again",
        ),
        Rejected::NotEffective { keyword, value } => Refusal::new(
            Refused::CandidateNotEffective,
            format!("with the change in place sshd's {keyword} would be {value:?}"),
            "look for a line or option that comes before ours; `ec2-instance-connect setup status` names it",
        ),
    };
    let mut passed = global.map_err(rejected)?;
    for effect in user.map_err(rejected)?.side_effects {
        if !passed.side_effects.contains(&effect) {
            passed.side_effects.push(effect);
        }
    }
    Ok(passed)
}

/// What sshd itself reads among the steps.
fn steps_for_sshd(machine: &Machine, steps: &[Step]) -> Vec<Step> {
    let main = machine
        .facts
        .main
        .as_ref()
        .map(|main| main.real.clone())
        .unwrap_or_default();
    let is_read = |path: &Path| machine.facts.files.values().any(|file| file.real == path);
    let read = |path: &Path| {
        path == main || path == Path::new(DROPIN) || path == Path::new(DROPIN_DIR) || is_read(path)
    };
    steps.iter().filter(|step| read(step.path())).cloned().collect()
}

fn request(options: &Options, machine: &Machine, arguments: &Arguments, survey: &Survey) -> Request {
    Request {
        root: options.root.dir().to_path_buf(),
        private: true,
        files: Default::default(),
        directories: Default::default(),
        sshd: machine.sshd.clone(),
        arguments: arguments.repeat.clone(),
        environment: survey.start.environment.clone(),
        user: options
            .user
            .clone()
            .unwrap_or_else(|| facts::somebody(&options.root)),
    }
}

fn ask(request: &Request) -> Result<Verdict, Refusal> {
    judge::ask(request).map_err(|error| {
        Refusal::new(
            Refused::CandidateRejected,
            format!("sshd could not be asked: {error}"),
            "run `sshd -T` by hand to see what it says",
        )
    })
}

fn effective(options: &Options, opinion: &Opinion) -> Option<Effective> {
    let dump = &opinion.user;
    dump.ok.then(|| Effective {
        user: options
            .user
            .clone()
            .unwrap_or_else(|| facts::somebody(&options.root)),
        command: dump::value(&dump.stdout, "authorizedkeyscommand").unwrap_or_else(|| "none".to_owned()),
        run_as: dump::value(&dump.stdout, "authorizedkeyscommanduser").unwrap_or_else(|| "none".to_owned()),
    })
}

/// From the journal to the sweep.
fn carry_out(options: &Options, machine: &Machine, decided: &Decided) -> Result<Vec<Notice>, Refusal> {
    let root = &options.root;
    let plan = &decided.plan;
    let mut notices = Vec::new();
    let service = machine.service.as_ref().filter(|service| service.active);
    let barred = if plan.concerns_sshd {
        barred(options, machine, decided)
    } else {
        None
    };
    let witness = service
        .filter(|_| plan.concerns_sshd && barred.is_none())
        .map(|service| {
            let dump = decided
                .baseline
                .as_ref()
                .map(|opinion| opinion.global.stdout.as_str())
                .unwrap_or_default();
            Witness::before(
                service,
                &dump::settings(dump).remove("listenaddress").unwrap_or_default(),
            )
        });

    let journal = Journal::of(&plan.steps, plan.unit_changes);
    journal
        .write(root)
        .map_err(|error| Refusal::io("the journal can't be written", STATE_DIR, &error))?;
    let result = change(options, machine, decided, barred.is_none(), witness.as_ref());
    if let Err(refusal) = result {
        put_back(options, machine.service.as_ref(), &journal, witness.is_some())?;
        return Err(refusal);
    }
    if let Some(why) = barred.filter(|_| machine.facts.running.is_some() || !options.reload) {
        notices.push(Notice::new(
            Noted::NotReloaded,
            format!("sshd was not reloaded: {why}"),
        ));
    }
    let commit = Journal::commit(root);
    if let Err(error) = commit {
        put_back(options, machine.service.as_ref(), &journal, witness.is_some())?;
        return Err(Refusal::io("the journal can't be committed", STATE_DIR, &error));
    }
    // What is left to do is tidying; the next call does it if this one can't.
    if files::sweep(root, &journal)
        .and_then(|()| Journal::clear(root))
        .is_err()
    {
        notices.push(Notice::new(
            Noted::Interrupted,
            "leftovers could not be deleted; the next call tries again",
        ));
    }
    Ok(notices)
}

/// Why sshd must not be reloaded, if so.
fn barred(options: &Options, machine: &Machine, decided: &Decided) -> Option<String> {
    if let Some(why) = service::forbidden(&options.root, machine.service.as_ref()) {
        return Some(why);
    }
    if !options.reload {
        return Some("--no-reload was given".to_owned());
    }
    decided
        .already_broken
        .then(|| "its configuration was broken before, and a reload would end it".to_owned())
}

fn change(
    options: &Options,
    machine: &Machine,
    decided: &Decided,
    may_reload: bool,
    witness: Option<&Witness>,
) -> Result<(), Refusal> {
    let root = &options.root;
    for step in &decided.plan.steps {
        files::perform(root, step).map_err(|error| Refusal::io("can't be changed", step.path(), &error))?;
    }
    if !decided.plan.concerns_sshd {
        return Ok(());
    }
    let alive = machine.service.is_some() && root.is_live();
    if decided.plan.unit_changes && alive {
        service::daemon_reload().map_err(|error| reload_failed(&error))?;
    }
    prove_in_place(decided)?;
    if let (Some(service), Some(witness), true) = (machine.service.as_ref(), witness, may_reload) {
        service::reload(service).map_err(|error| reload_failed(&error))?;
        witness.after().map_err(|what| {
            let remedy = "see `journalctl -u ssh -u sshd`; nothing of the change is left";
            Refusal::new(Refused::ProofFailed, format!("after the reload: {what}"), remedy)
        })?;
    }
    Ok(())
}

/// sshd on the real files: it must say what it said about the candidate or, where that could not be asked, pass now.
fn prove_in_place(decided: &Decided) -> Result<(), Refusal> {
    let mut request = decided.request.clone();
    request.files.clear();
    request.directories.clear();
    request.private = !decided.in_place;
    match ask(&request)? {
        Verdict::Heard(now) => {
            let baseline = decided.baseline.as_ref().unwrap_or(&now);
            let passed = weigh(baseline, &now, &decided.plan)?;
            if decided.in_place && decided.plan.wanted.is_some() {
                if let Some(effect) = passed.side_effects.first() {
                    let message = format!("the effective value of {} would change", effect.keyword);
                    let remedy = "put the two lines where they do no harm by hand";
                    return Err(Refusal::new(Refused::CandidateSideEffect, message, remedy));
                }
            }
            Ok(())
        }
        Verdict::NoNamespace(_) | Verdict::NotRunnable(_) => Ok(()),
    }
}

fn reload_failed(error: &io::Error) -> Refusal {
    Refusal::new(
        Refused::ReloadFailed,
        format!("sshd could not be reloaded: {error}"),
        "see `journalctl -u ssh -u sshd`; nothing of the change is left",
    )
}

/// Everything as it was, the daemon included.
fn put_back(
    options: &Options,
    service: Option<&Service>,
    journal: &Journal,
    was_active: bool,
) -> Result<Vec<PathBuf>, Refusal> {
    let failed = |error: io::Error| {
        Refusal::new(
            Refused::RollbackFailed,
            format!("not everything could be put back: {error}"),
            "remove the cause (a full or read-only disk) and run the command again: it begins where this one ended",
        )
        .in_file(STATE_DIR)
    };
    let left = files::undo(&options.root, journal).map_err(failed)?;
    if let Some(service) = service.filter(|_| options.root.is_live()) {
        if journal.unit_changes {
            service::daemon_reload().map_err(failed)?;
        }
        if was_active {
            let lives = service::find().is_some_and(|now| now.active && now.main_pid > 0);
            if !lives {
                service::start(service).map_err(failed)?;
            } else if is_sound(options) {
                service::reload(service).map_err(failed)?;
            }
        }
    }
    Journal::clear(&options.root).map_err(failed)?;
    Ok(left)
}

/// Whether sshd takes the configuration as it lies there. A daemon with a broken one is better not woken.
fn is_sound(options: &Options) -> bool {
    let opinion = || -> Result<Verdict, Refusal> {
        let machine = facts::collect(&options.root)?;
        let survey = plan::survey(&machine.facts)?;
        let (arguments, _) = effective_arguments(&machine.facts, &survey.start);
        let mut request = request(options, &machine, &arguments, &survey);
        match ask(&request)? {
            Verdict::NoNamespace(_) => {
                request.private = false;
                ask(&request)
            }
            verdict => Ok(verdict),
        }
    };
    matches!(opinion(), Ok(Verdict::Heard(opinion)) if opinion.global.ok)
}

/// Puts right what an earlier call was cut off in.
fn repair(options: &Options) -> Result<Vec<Notice>, Refusal> {
    let root = &options.root;
    let failed =
        |error: &io::Error| Refusal::io("an earlier call's leftovers can't be put right", STATE_DIR, error);
    match Journal::find(root).map_err(|error| failed(&error))? {
        None => Ok(Vec::new()),
        Some(Found::Done(journal)) => {
            files::sweep(root, &journal)
                .and_then(|()| Journal::clear(root))
                .map_err(|error| failed(&error))?;
            Ok(vec![Notice::new(
                Noted::Repaired,
                "leftovers of an earlier call were deleted",
            )])
        }
        Some(Found::Intent(journal)) => {
            let service = if root.is_live() && !service::in_chroot() && service::systemd_runs() {
                service::find()
            } else {
                None
            };
            let touch = options.reload && service::forbidden(root, service.as_ref()).is_none();
            let active = touch && service.as_ref().is_some_and(|service| service.active);
            let left = put_back(options, service.as_ref(), &journal, active)?;
            let mut notices = vec![Notice::new(
                Noted::Repaired,
                "an earlier call was cut off; its changes were put back first",
            )];
            for path in left {
                let message = format!(
                    "{} was changed since by somebody else and stays as it is",
                    path.display()
                );
                notices.push(Notice::new(Noted::RepairSkipped, message));
            }
            Ok(notices)
        }
    }
}

fn interrupted(root: &Root) -> Result<Vec<Notice>, Refusal> {
    let found =
        Journal::find(root).map_err(|error| Refusal::io("the journal can't be read", STATE_DIR, &error))?;
    let message = "an earlier call was cut off; the next apply or remove puts its leftovers right";
    Ok(found
        .map(|_| Notice::new(Noted::Interrupted, message))
        .into_iter()
        .collect())
}

/// What is worth saying about the machine whatever was asked.
fn standing_notices(options: &Options, machine: &Machine, start: &crate::sshd::unit::Start) -> Vec<Notice> {
    let mut notices = Vec::new();
    if let Some(running) = machine.facts.running.as_ref().filter(|running| running.by_unit) {
        let configured = Arguments::parse(start.argv.get(1..).unwrap_or_default());
        let old = running.arguments.value_of("authorizedkeyscommand");
        if let Some(old) = old.filter(|_| configured.value_of("authorizedkeyscommand").is_none()) {
            let message = format!(
                "the running sshd still carries -o AuthorizedKeysCommand {} and keeps it until it is restarted",
                old.value()
            );
            notices.push(Notice::new(Noted::RestartNeeded, message));
        }
    }
    if facts::selinux_lacks_module(&options.root) {
        let message = "SELinux enforces, and the policy module is not loaded: sshd may be kept from running the \
                       command; install ec2-instance-connect-selinux";
        notices.push(Notice::new(Noted::SelinuxModule, message));
    }
    notices
}

/// One setup at a time. The lock ends with the process.
fn lock(root: &Root) -> Result<Flock<File>, Refusal> {
    let io_refusal = |error: &io::Error| Refusal::io("the lock can't be taken", STATE_DIR, error);
    let dir = state_dir(root).map_err(|error| io_refusal(&error))?;
    let path = dir.join("setup.lock");
    let open = || {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
    };
    let mut file = open().map_err(|error| io_refusal(&error))?;
    let started = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) if started.elapsed() < LOCK_TIME => {
                file = back;
                thread::sleep(LOCK_POLL);
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let remedy = "wait for it to end, and run the command again";
                return Err(Refusal::new(Refused::Locked, "another setup is at work", remedy).in_file(path));
            }
            Err((_, error)) => return Err(io_refusal(&error.into())),
        }
    }
}
