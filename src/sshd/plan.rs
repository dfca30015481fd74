//! The decision: a snapshot of facts goes in, a plan or a refusal comes out.
//!
//! Nothing here touches the machine. What the plan rests on, [`super::system`] checks against the real sshd before a
//! step is taken, and again afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::args::Arguments;
use super::layout::{self, Block, DropIn};
use super::reason::{Noted, Notice, Refusal, Refused};
use super::tree::{self, Keyword, Place, Reading, Scope, Setting, Snapshot, TreeError};
use super::unit::{self, Override, Start, UnitFile};
use super::{COMMANDS, DROPIN, DROPIN_DIR, HOLD, LIBEXEC, RUN_AS, VENDOR_CONFIG, command_value};

/// Everything that the decision rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The configuration's files. `main` is what the daemon reads.
    pub snapshot: Snapshot,
    /// The main file behind its symlinks; `None` when there is no configuration at all.
    pub main: Option<MainFile>,
    /// The file at [`DROPIN`].
    pub dropin: Option<DropInFile>,
    /// Whether [`DROPIN_DIR`] exists.
    pub dropin_dir: bool,
    /// The two traditional paths, in the order of [`COMMANDS`].
    pub commands: [CommandState; 2],
    /// Whether the user [`RUN_AS`] exists.
    pub run_as: bool,
    /// sshd's unit: its fragment, then its drop-ins in systemd's order.
    pub unit: Vec<UnitFile>,
    /// The environment files that the unit names and that exist.
    pub environment: BTreeMap<PathBuf, Vec<u8>>,
    /// The daemon that is running.
    pub running: Option<Running>,
    /// The content of [`HOLD`], if it exists.
    pub hold: Option<Vec<u8>>,
    /// Whether the directory of [`HOLD`] exists.
    pub hold_dir: bool,
}

/// The main file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MainFile {
    /// Its real path, symlinks resolved.
    pub real: PathBuf,
    /// How many names it has.
    pub links: u64,
    /// Its permission bits.
    pub mode: u32,
}

/// The file at our drop-in's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropInFile {
    /// A symlink there is an administrator's (to /dev/null, to a managed place).
    pub symlink: bool,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// One of the two command paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CommandState {
    /// Nothing there.
    #[default]
    Absent,
    /// sshd would run it.
    Safe {
        /// Its real path.
        real: PathBuf,
    },
    /// sshd would not run it (misc.c, `safe_path`).
    Unsafe {
        /// Its real path, as far as it resolves.
        real: PathBuf,
        /// The file or directory that sshd objects to, and why.
        what: String,
    },
}

impl CommandState {
    /// Whether the path leads to this package's binary, or nowhere: then nobody else needs the lines that name it.
    fn is_ours_or_gone(&self) -> bool {
        match self {
            Self::Absent => true,
            Self::Safe { real } | Self::Unsafe { real, .. } => real.starts_with(LIBEXEC),
        }
    }
}

/// A running daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// What it was started with.
    pub arguments: Arguments,
    /// Whether systemd started it, so that the unit says what the next start will have.
    pub by_unit: bool,
}

/// What is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// sshd asks us.
    Apply,
    /// sshd no longer asks us.
    Remove,
}

/// By whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A person: overrides a hold, or sets one.
    Hand,
    /// A package's maintainer script: obeys a hold, and sets none.
    Package,
}

/// Where the two lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// [`DROPIN`].
    DropIn,
    /// A marked block in the main file.
    Block,
    /// Amazon's two lines stay where they are.
    AsFound,
}

/// How the machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No command is configured.
    Absent,
    /// Our drop-in or block is in force.
    Ours,
    /// One of Amazon's layouts is in force.
    Tradition,
    /// Somebody's own decision stands.
    Foreign,
    /// Something of ours has been edited.
    Damaged,
}

impl State {
    /// The stable word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Ours => "ours",
            Self::Tradition => "tradition",
            Self::Foreign => "foreign",
            Self::Damaged => "damaged",
        }
    }
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Survey {
    /// In one word.
    pub state: State,
    /// The setting that is in force, when there is one.
    pub in_force: Option<Setting>,
    /// Why an apply would be refused, for [`State::Foreign`] and [`State::Damaged`].
    pub refusal: Option<Refusal>,
    /// What else is worth saying.
    pub notices: Vec<Notice>,
    /// The whole configuration, in reading order.
    pub reading: Reading,
    /// What the unit starts as it is.
    pub start: Start,
    /// What it would start without the reference's override.
    pub start_without_override: Start,
    dropin: Option<DropIn>,
    block: Block,
    overrides: Vec<(UnitFile, &'static str)>,
    lines: Vec<Lines>,
}

/// Amazon's two lines, outside anything of ours.
#[derive(Debug, Clone)]
struct Lines {
    command: &'static str,
    file: PathBuf,
    numbers: Vec<usize>,
}

/// One change to the machine, reversible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes a directory, mode 0755.
    MakeDirectory {
        /// Which.
        path: PathBuf,
    },
    /// Puts a file in place of the old one, or of nothing.
    Write {
        /// Its real path.
        path: PathBuf,
        /// What must be there now.
        before: Option<Vec<u8>>,
        /// What will be there.
        after: Vec<u8>,
        /// Permission bits of a new file; an old one keeps its own.
        mode: u32,
    },
    /// Takes a file away.
    Delete {
        /// Its real path.
        path: PathBuf,
        /// What must be there now.
        before: Vec<u8>,
    },
    /// Takes a directory away, if nothing else is in it.
    RemoveDirectory {
        /// Which.
        path: PathBuf,
    },
}

impl Step {
    /// What it touches.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::MakeDirectory { path }
            | Self::Write { path, .. }
            | Self::Delete { path, .. }
            | Self::RemoveDirectory { path } => path,
        }
    }

    /// The change as a unified diff; empty for directories.
    #[must_use]
    pub fn diff(&self) -> String {
        let path = self.path().to_string_lossy();
        match self {
            Self::Write { before, after, .. } => super::diff::unified(&path, before.as_deref(), Some(after)),
            Self::Delete { before, .. } => super::diff::unified(&path, Some(before), None),
            Self::MakeDirectory { .. } | Self::RemoveDirectory { .. } => String::new(),
        }
    }
}

/// What will be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// In this order: what adds comes before what takes away, so that every prefix is a whole configuration.
    pub steps: Vec<Step>,
    /// The command that must be in force afterwards; `None` for a removal.
    pub wanted: Option<String>,
    /// Whether sshd reads anything that changes (the hold alone is none of its business).
    pub concerns_sshd: bool,
    /// Whether a unit changes, so that systemd has to read it again.
    pub unit_changes: bool,
    /// Remarks.
    pub notices: Vec<Notice>,
}

/// Looks at the facts.
///
/// # Errors
/// A [`Refusal`] when the configuration can't be read at all.
pub fn survey(facts: &Facts) -> Result<Survey, Refusal> {
    let Some(main) = &facts.main else {
        return Err(Refusal::new(
            Refused::ConfigMissing,
            "there is no sshd_config",
            "install openssh-server, then run `ec2-instance-connect setup apply`",
        )
        .in_file(&facts.snapshot.main));
    };
    let reading = tree::read(&facts.snapshot).map_err(tree_refusal)?;
    let dropin = facts.dropin.as_ref().map(classify_dropin).transpose()?;
    let main_bytes = facts
        .snapshot
        .files
        .get(&facts.snapshot.main)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let block = layout::find_block(main_bytes)
        .map_err(|error| tree_refusal(TreeError::Config(main.real.clone(), error)))?;

    let environment = |path: &str| facts.environment.get(Path::new(path)).cloned();
    let start = unit::start(&facts.unit, &environment);
    let mut overrides = Vec::new();
    let mut damaged = damage(&dropin, &block, &facts.snapshot.main);
    for file in &facts.unit {
        match unit::reference_override(&file.bytes) {
            Some(Override::Whole { command }) => overrides.push((file.clone(), command)),
            Some(Override::Modified { line }) => {
                damaged = damaged.or_else(|| Some(override_modified(file, line)))
            }
            None => {}
        }
    }
    let kept: Vec<UnitFile> = facts
        .unit
        .iter()
        .filter(|file| !overrides.iter().any(|(ours, _)| ours == *file))
        .cloned()
        .collect();
    let start_without_override = unit::start(&kept, &environment);

    let arguments = argument_settings(facts, &start);
    let in_force = |keyword: Keyword| {
        let from_arguments = arguments.iter().find(|setting| setting.keyword == keyword);
        from_arguments.or_else(|| reading.winner(keyword)).cloned()
    };
    let command = in_force(Keyword::Command);
    let user = in_force(Keyword::CommandUser);
    let is_own_place = |place: &Place| own_place(place, &dropin, &block, facts, main_bytes);

    let foreign = foreign(facts, &overrides, &start_without_override, &reading);
    let ours_in_force = command.as_ref().is_some_and(|found| is_own_place(&found.place))
        && user.as_ref().is_some_and(|found| found.value == RUN_AS);
    let tradition = command
        .as_ref()
        .is_some_and(|found| layout::traditional(&found.value).is_some())
        && user.as_ref().is_some_and(|found| found.value == RUN_AS);
    let mut notices = match_notices(&reading);
    let (state, refusal) = if let Some(refusal) = damaged {
        (State::Damaged, Some(refusal))
    } else if ours_in_force {
        notices.extend(shadowed(&reading));
        (State::Ours, None)
    } else if let Some(refusal) = foreign {
        (State::Foreign, Some(refusal))
    } else if tradition {
        (State::Tradition, None)
    } else {
        (State::Absent, None)
    };
    let lines = amazon_lines(&reading, &is_own_place);
    Ok(Survey {
        state,
        in_force: command.or_else(|| reading.always().next().cloned()),
        refusal,
        notices,
        start,
        start_without_override,
        dropin,
        block,
        overrides,
        lines,
        reading,
    })
}

/// Decides. `placement` is [`Placement::DropIn`] first; the shell asks again with [`Placement::Block`] when the real
/// sshd finds a fault with the drop-in that the other place may not have.
///
/// # Errors
/// The [`Refusal`] that stands in the way. Nothing is to be changed then.
pub fn plan(
    facts: &Facts,
    survey: &Survey,
    goal: Goal,
    by: By,
    placement: Placement,
) -> Result<Plan, Refusal> {
    match goal {
        Goal::Apply => apply(facts, survey, by, placement),
        Goal::Remove => remove(facts, survey, by),
    }
}

fn apply(facts: &Facts, survey: &Survey, by: By, placement: Placement) -> Result<Plan, Refusal> {
    let mut plan = Plan {
        steps: Vec::new(),
        wanted: None,
        concerns_sshd: false,
        unit_changes: false,
        notices: survey.notices.clone(),
    };
    if facts.hold.is_some() && by == By::Package {
        plan.notices.push(Notice::new(
            Noted::Held,
            format!(
                "{HOLD} exists, so nothing is applied; `ec2-instance-connect setup apply` by hand lifts it"
            ),
        ));
        return Ok(plan);
    }
    if let Some(refusal) = &survey.refusal {
        return Err(refusal.clone());
    }
    let command = the_command(facts)?;
    if !facts.run_as {
        return Err(Refusal::new(
            Refused::UserMissing,
            format!("the user {RUN_AS}, as whom sshd is to run the command, does not exist"),
            format!("create it: useradd --system --no-create-home --shell /usr/sbin/nologin {RUN_AS}"),
        ));
    }
    plan.wanted = Some(command_value(command));
    place(facts, survey, command, placement, &mut plan)?;
    for (file, _) in &survey.overrides {
        plan.notices.push(
            Notice::new(
                Noted::TraditionTaken,
                format!(
                    "the reference's ExecStart override {} goes; sshd_config says the same",
                    file.path.display()
                ),
            )
            .at(&Place {
                file: file.path.clone(),
                line: 1,
            }),
        );
        delete_override(file, &mut plan);
    }
    if !plan.steps.is_empty() {
        // A Match with half a pair matters only to those who are about to add the other half.
        if let Some(refusal) = half_pair(&survey.reading).filter(|_| survey.state == State::Absent) {
            return Err(refusal);
        }
        plan.concerns_sshd = true;
    }
    if let Some(before) = facts.hold.clone() {
        plan.steps.push(Step::Delete {
            path: HOLD.into(),
            before,
        });
        plan.notices.push(Notice::new(
            Noted::HoldLifted,
            format!("{HOLD} goes: packages may apply again"),
        ));
    }
    Ok(plan)
}

/// Adds the steps that put the two lines where they belong, and take away what would double them.
fn place(
    facts: &Facts,
    survey: &Survey,
    command: &'static str,
    placement: Placement,
    plan: &mut Plan,
) -> Result<(), Refusal> {
    let main = facts
        .main
        .as_ref()
        .map(|main| main.real.clone())
        .unwrap_or_default();
    let main_bytes = facts
        .snapshot
        .files
        .get(&facts.snapshot.main)
        .cloned()
        .unwrap_or_default();
    let reached = survey.reading.include_of(Path::new(DROPIN)).is_some();
    let has_block = matches!(&survey.block, Block::Whole { .. });
    let stale: Vec<usize> = survey
        .lines
        .iter()
        .filter(|lines| lines.command != command && lines.file == facts.snapshot.main)
        .flat_map(|lines| lines.numbers.clone())
        .collect();
    let as_found = survey
        .lines
        .iter()
        .any(|lines| lines.command == command && lines.file != Path::new(DROPIN))
        && !has_block
        && !matches!(&survey.dropin, Some(DropIn::Ours { .. }));
    let placement = match placement {
        _ if as_found => Placement::AsFound,
        Placement::DropIn if has_block || !reached => Placement::Block,
        other => other,
    };

    if placement == Placement::DropIn {
        put_dropin(facts, survey, command, plan)?;
    }
    // What must not stay beside the block: a drop-in of ours or Amazon's that has no effect or an unwanted one.
    let idle_dropin = placement == Placement::Block
        && matches!(&survey.dropin, Some(DropIn::Ours { .. } | DropIn::Amazon { .. }));

    let mut text = main_bytes.clone();
    let edit = |result: Result<Vec<u8>, super::config::ConfigError>| {
        result.map_err(|error| tree_refusal(TreeError::Config(main.clone(), error)))
    };
    if !stale.is_empty() {
        text = edit(layout::delete_lines(&text, &stale))?;
        plan.notices.push(Notice::new(
            Noted::TraditionTaken,
            format!(
                "Amazon's two lines in {} name a command that is not there, and go",
                main.display()
            ),
        ));
    }
    if placement == Placement::Block {
        let bare = edit(layout::remove_block(&text).map(|done| done.unwrap_or(text)))?;
        text = edit(layout::insert_block(&bare, command).map(|done| done.unwrap_or(bare)))?;
        if let Block::Whole { command: present, .. } = &survey.block {
            if *present == command && stale.is_empty() {
                text.clone_from(&main_bytes);
            }
        }
    }
    if text != main_bytes {
        let links = facts.main.as_ref().map_or(1, |main| main.links);
        let mode = facts.main.as_ref().map_or(0o600, |main| main.mode);
        writable_main(facts, links)?;
        if placement == Placement::Block && !has_block {
            let why = if reached {
                "a drop-in would not do"
            } else {
                "no Include outside a Match reads drop-ins"
            };
            plan.notices.push(Notice::new(
                Noted::BlockChosen,
                format!("the two lines go into {}: {why}", main.display()),
            ));
        }
        plan.steps.push(Step::Write {
            path: main,
            before: Some(main_bytes),
            after: text,
            mode,
        });
    }
    if idle_dropin {
        delete_dropin(facts, survey, plan);
    }
    Ok(())
}

fn put_dropin(facts: &Facts, survey: &Survey, command: &'static str, plan: &mut Plan) -> Result<(), Refusal> {
    let before = facts.dropin.as_ref().map(|file| file.bytes.clone());
    let made_directory = match &survey.dropin {
        Some(DropIn::Ours { command: present, .. }) if *present == command => return Ok(()),
        Some(DropIn::Ours { made_directory, .. }) => *made_directory,
        Some(DropIn::Other | DropIn::Modified { .. }) => {
            return Err(Refusal::new(
                Refused::DropInNotOurs,
                "somebody else's file has the drop-in's name",
                "give that file another name, or delete it if it is to switch nothing off, and run setup apply again",
            )
            .in_file(DROPIN));
        }
        Some(DropIn::Amazon { .. }) => {
            plan.notices.push(Notice::new(
                Noted::TraditionTaken,
                format!("Amazon's {DROPIN} becomes ours; its two lines stay in force"),
            ));
            false
        }
        None => !facts.dropin_dir,
    };
    if !facts.dropin_dir {
        plan.steps.push(Step::MakeDirectory {
            path: DROPIN_DIR.into(),
        });
    }
    // As secret as the main file, and never writable by others.
    let mode = facts.main.as_ref().map_or(0o600, |main| main.mode) & 0o644 | 0o400;
    let after = layout::dropin_text(command, made_directory).into_bytes();
    plan.steps.push(Step::Write {
        path: DROPIN.into(),
        before,
        after,
        mode,
    });
    Ok(())
}

fn delete_dropin(facts: &Facts, survey: &Survey, plan: &mut Plan) {
    if let Some(file) = &facts.dropin {
        plan.steps.push(Step::Delete {
            path: DROPIN.into(),
            before: file.bytes.clone(),
        });
        if matches!(
            &survey.dropin,
            Some(DropIn::Ours {
                made_directory: true,
                ..
            })
        ) {
            plan.steps.push(Step::RemoveDirectory {
                path: DROPIN_DIR.into(),
            });
        }
    }
}

fn delete_override(file: &UnitFile, plan: &mut Plan) {
    plan.steps.push(Step::Delete {
        path: file.path.clone(),
        before: file.bytes.clone(),
    });
    if let Some(directory) = file.path.parent() {
        plan.steps.push(Step::RemoveDirectory {
            path: directory.to_path_buf(),
        });
    }
    plan.unit_changes = true;
}

fn writable_main(facts: &Facts, links: u64) -> Result<(), Refusal> {
    if facts.snapshot.main == Path::new(VENDOR_CONFIG) {
        return Err(Refusal::new(
            Refused::VendorConfig,
            "the only configuration is the vendor's, and it includes no drop-in directory",
            "copy it to /etc/ssh/sshd_config, which sshd prefers, and run setup apply again",
        )
        .in_file(VENDOR_CONFIG));
    }
    if links > 1 {
        return Err(Refusal::new(
            Refused::HardLinked,
            format!("the file has {links} names, and a changed one would part from the others"),
            "make it a file of its own (cp, mv) and run the command again",
        )
        .in_file(&facts.snapshot.main));
    }
    Ok(())
}

fn remove(facts: &Facts, survey: &Survey, by: By) -> Result<Plan, Refusal> {
    if survey.state == State::Damaged {
        if let Some(refusal) = &survey.refusal {
            return Err(refusal.clone());
        }
    }
    let mut plan = Plan {
        steps: Vec::new(),
        wanted: None,
        concerns_sshd: false,
        unit_changes: false,
        notices: survey
            .notices
            .iter()
            .filter(|notice| notice.code != Noted::ForeignShadowed)
            .cloned()
            .collect(),
    };
    let gone = |command: &str| state_of(facts, command).is_ours_or_gone();
    match &survey.dropin {
        Some(DropIn::Ours { .. }) => delete_dropin(facts, survey, &mut plan),
        Some(DropIn::Amazon { command }) if gone(command) => delete_dropin(facts, survey, &mut plan),
        Some(DropIn::Amazon { .. }) => plan.notices.push(left(Path::new(DROPIN))),
        Some(DropIn::Other | DropIn::Modified { .. }) | None => {}
    }
    let main_bytes = facts
        .snapshot
        .files
        .get(&facts.snapshot.main)
        .cloned()
        .unwrap_or_default();
    let main = facts
        .main
        .as_ref()
        .map(|main| main.real.clone())
        .unwrap_or_default();
    let mut numbers = Vec::new();
    for lines in survey
        .lines
        .iter()
        .filter(|lines| lines.file != Path::new(DROPIN))
    {
        if lines.file == facts.snapshot.main && gone(lines.command) {
            numbers.extend(lines.numbers.iter().copied());
        } else {
            plan.notices.push(left(&lines.file));
        }
    }
    let edit = |result: Result<Vec<u8>, super::config::ConfigError>| {
        result.map_err(|error| tree_refusal(TreeError::Config(main.clone(), error)))
    };
    // Lines first: their numbers count the block.
    let text = edit(layout::delete_lines(&main_bytes, &numbers))?;
    let text = edit(layout::remove_block(&text).map(|done| done.unwrap_or(text)))?;
    if text != main_bytes {
        writable_main(facts, facts.main.as_ref().map_or(1, |main| main.links))?;
        let mode = facts.main.as_ref().map_or(0o600, |main| main.mode);
        plan.steps.push(Step::Write {
            path: main,
            before: Some(main_bytes),
            after: text,
            mode,
        });
    }
    for (file, command) in &survey.overrides {
        if gone(command) {
            delete_override(file, &mut plan);
        } else {
            plan.notices.push(left(&file.path));
        }
    }
    plan.concerns_sshd = !plan.steps.is_empty();
    if by == By::Hand && facts.hold.is_none() {
        let after = "# `ec2-instance-connect setup remove` was called by hand. While this file exists, no installation\n\
                     # and no upgrade touches sshd's configuration. `ec2-instance-connect setup apply` deletes it.\n";
        if !facts.hold_dir {
            let directory = Path::new(HOLD).parent().unwrap_or(Path::new("/"));
            plan.steps.push(Step::MakeDirectory {
                path: directory.to_path_buf(),
            });
        }
        plan.steps.push(Step::Write {
            path: HOLD.into(),
            before: None,
            after: after.as_bytes().to_vec(),
            mode: 0o644,
        });
        plan.notices.push(Notice::new(
            Noted::HoldSet,
            format!("{HOLD} keeps packages from applying again"),
        ));
    }
    Ok(plan)
}

fn left(file: &Path) -> Notice {
    let message =
        "the lines that name the command stay: they are not setup's, or their owner still ships the command";
    Notice::new(Noted::TraditionLeft, message).at(&Place {
        file: file.to_path_buf(),
        line: 1,
    })
}

/// The one command path to write.
fn the_command(facts: &Facts) -> Result<&'static str, Refusal> {
    let present: Vec<(&'static str, &CommandState)> = COMMANDS
        .into_iter()
        .zip(&facts.commands)
        .filter(|(_, state)| **state != CommandState::Absent)
        .collect();
    match present.as_slice() {
        [(path, CommandState::Unsafe { what, .. })] => Err(Refusal::new(
            Refused::CommandUnsafe,
            format!("sshd would not run the command: {what}"),
            "it and every directory above it must belong to root and be writable by root alone",
        )
        .in_file(*path)),
        [(path, _)] => Ok(path),
        [] => Err(Refusal::new(
            Refused::CommandMissing,
            format!("neither {} nor {} exists", COMMANDS[0], COMMANDS[1]),
            "install the package ec2-instance-connect again; it ships one of them",
        )),
        _ => Err(Refusal::new(
            Refused::CommandAmbiguous,
            format!("both {} and {} exist", COMMANDS[0], COMMANDS[1]),
            "delete the one that no installed package owns (dpkg -S, rpm -qf) and run setup apply again",
        )),
    }
}

fn state_of<'a>(facts: &'a Facts, command: &str) -> &'a CommandState {
    let found = COMMANDS
        .iter()
        .zip(&facts.commands)
        .find(|(path, _)| **path == command);
    found.map_or(&CommandState::Absent, |(_, state)| state)
}

fn classify_dropin(file: &DropInFile) -> Result<DropIn, Refusal> {
    if file.symlink {
        return Ok(DropIn::Other);
    }
    layout::classify_dropin(&file.bytes)
        .map_err(|error| tree_refusal(TreeError::Config(DROPIN.into(), error)))
}

fn damage(dropin: &Option<DropIn>, block: &Block, main: &Path) -> Option<Refusal> {
    if let Some(DropIn::Modified { line }) = dropin {
        return Some(
            Refusal::new(
                Refused::DropInModified,
                "the drop-in was edited after setup wrote it",
                "move your own lines to a file of another name and delete this one; then run setup apply again",
            )
            .at(&Place { file: DROPIN.into(), line: *line }),
        );
    }
    if let Block::Damaged { line } = block {
        return Some(
            Refusal::new(
                Refused::BlockDamaged,
                "the marked block was edited: a marker is missing or doubled, or other lines stand inside",
                "delete every line of the block, both markers included, and run the command again",
            )
            .at(&Place {
                file: main.to_path_buf(),
                line: *line,
            }),
        );
    }
    None
}

fn override_modified(file: &UnitFile, line: usize) -> Refusal {
    Refusal::new(
        Refused::OverrideModified,
        "the unit override of Amazon's package was edited",
        "take the two -o options out of it, run systemctl daemon-reload, and run the command again",
    )
    .at(&Place {
        file: file.path.clone(),
        line,
    })
}

/// What the daemon's arguments set: of the unit when it starts the daemon (or none runs), else of the process.
fn argument_settings(facts: &Facts, start: &Start) -> Vec<Setting> {
    let (arguments, place) = effective_arguments(facts, start);
    settings_of(&arguments, &place)
}

/// The arguments with which sshd is started next, as far as anyone can know, and where they are written.
#[must_use]
pub fn effective_arguments(facts: &Facts, start: &Start) -> (Arguments, Place) {
    match &facts.running {
        Some(running) if !running.by_unit => (
            running.arguments.clone(),
            Place {
                file: format!("/proc/{}/cmdline", running.pid).into(),
                line: 1,
            },
        ),
        _ => {
            let words = start.argv.get(1..).unwrap_or_default();
            let place = start.place.clone().unwrap_or(Place {
                file: PathBuf::new(),
                line: 1,
            });
            (Arguments::parse(words), place)
        }
    }
}

fn settings_of(arguments: &Arguments, place: &Place) -> Vec<Setting> {
    let keyword = |name: &str| match name {
        "authorizedkeyscommand" => Some(Keyword::Command),
        "authorizedkeyscommanduser" => Some(Keyword::CommandUser),
        "authorizedkeyscommandrunas" => Some(Keyword::RunAs),
        _ => None,
    };
    arguments
        .directives()
        .filter_map(|directive| {
            let keyword = keyword(&directive.keyword)?;
            let value = if keyword == Keyword::Command {
                directive.value()
            } else {
                directive.first_word()
            };
            Some(Setting {
                keyword,
                value,
                place: place.clone(),
                scope: Scope::Always,
            })
        })
        .collect()
}

/// The first decision of somebody else's that stands outside a condition, anywhere: in the arguments that are left
/// without the reference's override, or in the files.
fn foreign(
    facts: &Facts,
    overrides: &[(UnitFile, &str)],
    start: &Start,
    reading: &Reading,
) -> Option<Refusal> {
    let (arguments, place) = if overrides.is_empty() {
        effective_arguments(facts, start)
    } else {
        (
            Arguments::parse(start.argv.get(1..).unwrap_or_default()),
            start.place.clone().unwrap_or(Place {
                file: PathBuf::new(),
                line: 1,
            }),
        )
    };
    let place = argument_place(facts, &arguments, place);
    let from_arguments = settings_of(&arguments, &place);
    let is_ours = |setting: &Setting| match setting.keyword {
        Keyword::Command => layout::traditional(&setting.value).is_some(),
        Keyword::CommandUser => setting.value == RUN_AS,
        Keyword::RunAs => false,
    };
    if let Some(setting) = from_arguments.iter().find(|setting| !is_ours(setting)) {
        return Some(
            Refusal::new(
                Refused::ForeignArgument,
                format!("sshd is started with -o {} {}", setting.keyword.name(), setting.value),
                "take the option away and restart sshd, or let your command call ours for the users it does not know",
            )
            .at(&setting.place),
        );
    }
    // A lone traditional user without any command is an administrator's half: he wrote it for something.
    let has_command = reading.winner(Keyword::Command).is_some()
        || from_arguments
            .iter()
            .any(|setting| setting.keyword == Keyword::Command)
        || !overrides.is_empty();
    let setting = reading
        .always()
        .find(|setting| !is_ours(setting) || (setting.keyword != Keyword::Command && !has_command))?;
    Some(foreign_setting(setting))
}

fn foreign_setting(setting: &Setting) -> Refusal {
    let is_none = setting.keyword == Keyword::Command && setting.value.eq_ignore_ascii_case("none");
    let (code, message, remedy) = match setting.keyword {
        Keyword::Command if is_none => (
            Refused::ForeignNone,
            "AuthorizedKeysCommand none: somebody decided that no command gives keys".to_owned(),
            "delete the line if that is no longer wanted, and run setup apply again",
        ),
        Keyword::Command => (
            Refused::ForeignCommand,
            format!("another AuthorizedKeysCommand is configured: {}", setting.value),
            "sshd runs one command only: keep it, or delete the line and run setup apply again, or let your command \
             call ours for the users it does not know",
        ),
        Keyword::CommandUser | Keyword::RunAs => (
            Refused::ForeignUser,
            format!("{} {} is configured", setting.keyword.name(), setting.value),
            "delete the line if nothing needs it, and run setup apply again",
        ),
    };
    Refusal::new(code, message, remedy).at(&setting.place)
}

/// An option may come from the unit or from its environment file: the line that has the word is named.
fn argument_place(facts: &Facts, arguments: &Arguments, place: Place) -> Place {
    let Some(option) = arguments
        .directives()
        .find(|it| it.keyword.starts_with("authorizedkeyscommand"))
    else {
        return place;
    };
    for (path, bytes) in &facts.environment {
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        let found = text
            .lines()
            .zip(1_usize..)
            .find(|(line, _)| !line.starts_with('#') && line.contains(&option.keyword));
        if let Some((_, line)) = found {
            return Place {
                file: path.clone(),
                line,
            };
        }
    }
    place
}

/// Whether a line is inside something that setup wrote.
fn own_place(place: &Place, dropin: &Option<DropIn>, block: &Block, facts: &Facts, main: &[u8]) -> bool {
    if place.file == Path::new(DROPIN) {
        return matches!(dropin, Some(DropIn::Ours { .. }));
    }
    let Block::Whole { span, .. } = block else {
        return false;
    };
    if place.file != facts.snapshot.main {
        return false;
    }
    let lines = super::config::parse(main)
        .map(|config| config.lines)
        .unwrap_or_default();
    lines
        .iter()
        .any(|line| line.number == place.line && span.contains(&line.span.start))
}

/// Amazon's two lines, wherever they stand outside a condition: whole pairs only, each in one file.
fn amazon_lines(reading: &Reading, is_own: &dyn Fn(&Place) -> bool) -> Vec<Lines> {
    let mut found: Vec<Lines> = Vec::new();
    for setting in reading.always().filter(|setting| !is_own(&setting.place)) {
        let Some(command) = (setting.keyword == Keyword::Command)
            .then(|| layout::traditional(&setting.value))
            .flatten()
        else {
            continue;
        };
        let user = reading.always().find(|other| {
            other.keyword == Keyword::CommandUser
                && other.value == RUN_AS
                && other.place.file == setting.place.file
                && !is_own(&other.place)
                && !found
                    .iter()
                    .any(|lines| lines.file == other.place.file && lines.numbers.contains(&other.place.line))
        });
        let known = found
            .iter()
            .any(|l| l.file == setting.place.file && l.numbers.contains(&setting.place.line));
        if let (Some(user), false) = (user, known) {
            let numbers = vec![setting.place.line, user.place.line];
            found.push(Lines {
                command,
                file: setting.place.file.clone(),
                numbers,
            });
        }
    }
    found
}

fn match_notices(reading: &Reading) -> Vec<Notice> {
    let within = reading.settings.iter().filter(|setting| {
        setting.keyword == Keyword::Command
            && setting.scope != Scope::Always
            && layout::traditional(&setting.value).is_none()
    });
    within
        .map(|setting| {
            let message = format!(
                "a Match block has its own AuthorizedKeysCommand: {}",
                setting.value
            );
            Notice::new(Noted::MatchOverrides, message).at(&setting.place)
        })
        .collect()
}

fn shadowed(reading: &Reading) -> Vec<Notice> {
    let others = reading.always().filter(|setting| {
        setting.keyword == Keyword::Command && layout::traditional(&setting.value).is_none()
    });
    others
        .map(|setting| {
            let message = format!(
                "this line came after ours and has no effect: AuthorizedKeysCommand {}; `ec2-instance-connect setup \
                 remove` gives way to it",
                setting.value
            );
            Notice::new(Noted::ForeignShadowed, message).at(&setting.place)
        })
        .collect()
}

/// A Match block that has a command without a user, or a user without a command: harmless until a global pair fills
/// in the other half, and then somebody's command runs as our user, or ours as somebody's.
fn half_pair(reading: &Reading) -> Option<Refusal> {
    let within = |setting: &&Setting| setting.scope != Scope::Always;
    reading.settings.iter().filter(within).find_map(|setting| {
        let harmless = match setting.keyword {
            Keyword::Command => {
                setting.value.eq_ignore_ascii_case("none") || layout::traditional(&setting.value).is_some()
            }
            Keyword::CommandUser => setting.value == RUN_AS,
            Keyword::RunAs => true,
        };
        let partner = match setting.keyword {
            Keyword::Command => Keyword::CommandUser,
            Keyword::CommandUser | Keyword::RunAs => Keyword::Command,
        };
        let has_partner = reading
            .settings
            .iter()
            .any(|it| it.keyword == partner && it.scope == setting.scope);
        if harmless || has_partner {
            return None;
        }
        Some(
            Refusal::new(
                Refused::MatchHalfPair,
                format!(
                    "a Match block sets {} without {}; a global pair would complete it in a way nobody wrote",
                    setting.keyword.name(),
                    partner.name()
                ),
                format!(
                    "add {} to that Match block, and run setup apply again",
                    partner.name()
                ),
            )
            .at(&setting.place),
        )
    })
}

fn tree_refusal(error: TreeError) -> Refusal {
    let unreadable = |message: &str, remedy: &str| Refusal::new(Refused::ConfigUnreadable, message, remedy);
    match error {
        TreeError::Missing(file) => unreadable(
            "a file that sshd reads could not be read",
            "look at the file; sshd would not start either",
        )
        .in_file(file),
        TreeError::Config(file, super::config::ConfigError::Nul { line }) => unreadable(
            "there is a NUL byte, which sshd reads as the end of the line's text",
            "delete the byte",
        )
        .at(&Place { file, line }),
        TreeError::Config(file, super::config::ConfigError::TooLarge) => unreadable(
            "the file is too large for a configuration",
            "look what the Include matches",
        )
        .in_file(file),
        TreeError::Depth(place) => unreadable(
            "files include one another more than 16 deep; sshd gives up there",
            "mend the Include",
        )
        .at(&place),
        TreeError::TooMany(place) => unreadable("too many files are included", "mend the Include").at(&place),
    }
}
