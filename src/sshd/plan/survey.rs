//! Looking at the facts: whose line is in force, and what of it is ours, Amazon's, somebody's, or damaged.

use std::path::{Path, PathBuf};

use super::{DropInFile, Facts, State, tree_refusal};
use crate::config::DEFAULT_PATH;
use crate::sshd::adopt::{self, LinkBlock};
use crate::sshd::args::Arguments;
use crate::sshd::call::Call;
use crate::sshd::config;
use crate::sshd::layout::{self, Block, DropIn};
use crate::sshd::reason::{Noted, Notice, Refusal, Refused};
use crate::sshd::tree::{self, Keyword, Place, Reading, Scope, Setting, TreeError};
use crate::sshd::unit::{self, Override, Start, UnitFile};
use crate::sshd::{DROPIN, RUN_AS};

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
    pub(super) dropin: Option<DropIn>,
    pub(super) block: Block,
    /// Whether the block stands outside a condition: somebody may have written a Match above it.
    pub(super) block_counts: bool,
    pub(super) overrides: Vec<(UnitFile, &'static str)>,
    pub(super) lines: Vec<Lines>,
}

/// Amazon's two lines, outside anything of ours.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    pub(super) call: Call,
    pub(super) file: PathBuf,
    pub(super) numbers: Vec<usize>,
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
    let command = in_force(&reading, &arguments, Keyword::Command).cloned();
    let user = in_force(&reading, &arguments, Keyword::CommandUser).cloned();
    let is_own_place = |place: &Place| own_place(place, &dropin, &block, facts, main_bytes);

    let foreign = foreign(facts, &overrides, &start_without_override, &reading);
    let ours_in_force = command.as_ref().is_some_and(|found| is_own_place(&found.place))
        && user.as_ref().is_some_and(|found| found.value == RUN_AS);
    let tradition = command
        .as_ref()
        .is_some_and(|found| Call::parse(&found.value).is_some())
        && user.as_ref().is_some_and(|found| found.value == RUN_AS);
    let mut notices = match_notices(&reading);
    notices.extend(adopted_link_missing(facts));
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
    let in_block = |place: &Place| own_place(place, &None, &block, facts, main_bytes);
    let block_counts = reading.always().any(|setting| in_block(&setting.place));
    Ok(Survey {
        state,
        in_force: command.or_else(|| reading.always().next().cloned()),
        refusal,
        notices,
        start,
        start_without_override,
        dropin,
        block,
        block_counts,
        overrides,
        lines,
        reading,
    })
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

/// The setting that counts for everyone, by the files and the daemon's arguments. An option beats every line outside a
/// Match, and a `Match all` beats the option.
pub(super) fn in_force<'a>(
    reading: &'a Reading,
    arguments: &'a [Setting],
    keyword: Keyword,
) -> Option<&'a Setting> {
    let from_files = reading.winner(keyword);
    let from_arguments = arguments.iter().find(|setting| setting.keyword == keyword);
    let over_all = from_files.filter(|setting| setting.scope == Scope::Everyone);
    over_all.or(from_arguments).or(from_files)
}

/// What the daemon's arguments set once a plan is done; `unit_changes` where it takes the reference's override away.
pub(super) fn arguments_after(facts: &Facts, survey: &Survey, unit_changes: bool) -> Vec<Setting> {
    if unit_changes {
        unit_settings(facts, &survey.start_without_override)
    } else {
        argument_settings(facts, &survey.start)
    }
}

/// What the daemon's arguments set: of the unit when it starts the daemon (or none runs), else of the process.
fn argument_settings(facts: &Facts, start: &Start) -> Vec<Setting> {
    let (arguments, place) = effective_arguments(facts, start);
    let place = argument_place(facts, &arguments, place);
    settings_of(&arguments, &place)
}

/// What the unit's arguments set, whatever runs now.
fn unit_settings(facts: &Facts, start: &Start) -> Vec<Setting> {
    let (arguments, place) = unit_arguments(start);
    let place = argument_place(facts, &arguments, place);
    settings_of(&arguments, &place)
}

fn unit_arguments(start: &Start) -> (Arguments, Place) {
    let place = start.place.clone().unwrap_or(Place {
        file: PathBuf::new(),
        line: 1,
    });
    (Arguments::parse(start.argv.get(1..).unwrap_or_default()), place)
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
        _ => unit_arguments(start),
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
    let from_arguments = if overrides.is_empty() {
        argument_settings(facts, start)
    } else {
        unit_settings(facts, start)
    };
    let is_ours = |setting: &Setting| match setting.keyword {
        Keyword::Command => Call::parse(&setting.value).is_some(),
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
    // One half of our pair alone is an administrator's: he wrote it for something, and undoing ours must not leave
    // him with less than he had.
    let has = |keyword: Keyword| {
        !overrides.is_empty()
            || reading.winner(keyword).is_some()
            || from_arguments.iter().any(|setting| setting.keyword == keyword)
    };
    let is_half = |setting: &Setting| match setting.keyword {
        Keyword::Command => !has(Keyword::CommandUser),
        Keyword::CommandUser | Keyword::RunAs => !has(Keyword::Command),
    };
    let setting = reading
        .always()
        .find(|setting| !is_ours(setting) || is_half(setting))?;
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
            "sshd runs one command only: make it a link of ours with `ec2-instance-connect setup apply --adopt USER`, \
             or keep it, or delete the line and run setup apply again",
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
    let lines = config::parse(main).map(|config| config.lines).unwrap_or_default();
    lines
        .iter()
        .any(|line| line.number == place.line && span.contains(&line.span.start))
}

/// Amazon's two lines, wherever they stand outside a condition: whole pairs only, each in one file.
fn amazon_lines(reading: &Reading, is_own: &dyn Fn(&Place) -> bool) -> Vec<Lines> {
    let mut found: Vec<Lines> = Vec::new();
    for setting in reading.always().filter(|setting| !is_own(&setting.place)) {
        let Some(call) = (setting.keyword == Keyword::Command)
            .then(|| Call::parse(&setting.value))
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
                call,
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
            && matches!(setting.scope, Scope::Within(_))
            && Call::parse(&setting.value).is_none()
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

/// Somebody let the configuration be replaced, and the command that it had is now asked by nobody.
fn adopted_link_missing(facts: &Facts) -> Option<Notice> {
    let mut files = facts.snapshot.files.iter();
    let (path, _) = files.find(|(_, bytes)| adopt::give_back(bytes).is_some())?;
    let config = facts.config.as_ref().map(|(_, bytes)| bytes.as_slice());
    if adopt::find_link(config.unwrap_or_default()) != LinkBlock::Absent {
        return None;
    }
    let message = format!(
        "the lines of an adopted command are comments, but {DEFAULT_PATH} has no adopted link: nobody asks it; write \
         the [[chain]] again, or run setup remove and setup apply --adopt"
    );
    let place = Place {
        file: path.clone(),
        line: 1,
    };
    Some(Notice::new(Noted::AdoptedLost, message).at(&place))
}

fn shadowed(reading: &Reading) -> Vec<Notice> {
    let others = reading
        .always()
        .filter(|setting| setting.keyword == Keyword::Command && Call::parse(&setting.value).is_none());
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
