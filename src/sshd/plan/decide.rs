//! Deciding: which steps lead from what was found to what is wished for.

use std::path::Path;

use super::adopt;
use super::outcome;
use super::survey::Survey;
use super::{By, CommandState, Facts, Goal, Placement, Plan, State, Step, tree_refusal};
use crate::config::DEFAULT_PATH;
use crate::sshd::call::{Call, Options};
use crate::sshd::config::ConfigError;
use crate::sshd::layout::{self, Block, DropIn};
use crate::sshd::reason::{Noted, Notice, Refusal, Refused};
use crate::sshd::tree::{Keyword, Place, Reading, Scope, Setting, TreeError};
use crate::sshd::unit::UnitFile;
use crate::sshd::{COMMANDS, DROPIN, DROPIN_DIR, HOLD, RUN_AS, VENDOR_CONFIG};

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
    let call = Call {
        path: the_command(facts)?,
        options: the_options(facts, survey, &mut plan),
    };
    if !facts.run_as {
        return Err(Refusal::new(
            Refused::UserMissing,
            format!("the user {RUN_AS}, as whom sshd is to run the command, does not exist"),
            format!("create it: useradd --system --no-create-home --shell /usr/sbin/nologin {RUN_AS}"),
        ));
    }
    plan.wanted = Some(call.value());
    place(facts, survey, call, placement, &mut plan)?;
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
    outcome::is_in_force(facts, survey, &plan, call)?;
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
    call: Call,
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
        .filter(|lines| lines.call != call && lines.file == facts.snapshot.main)
        .flat_map(|lines| lines.numbers.clone())
        .collect();
    let as_found = survey
        .lines
        .iter()
        .any(|lines| lines.call == call && lines.file != Path::new(DROPIN))
        && !has_block
        && !matches!(&survey.dropin, Some(DropIn::Ours { .. }));
    let placement = match placement {
        _ if as_found => Placement::AsFound,
        Placement::DropIn if has_block || !reached => Placement::Block,
        other => other,
    };

    if placement == Placement::DropIn {
        put_dropin(facts, survey, call, plan)?;
    }
    // What must not stay beside the block: a drop-in of ours or Amazon's that has no effect or an unwanted one.
    let idle_dropin = placement == Placement::Block
        && matches!(&survey.dropin, Some(DropIn::Ours { .. } | DropIn::Amazon { .. }));

    let mut text = main_bytes.clone();
    let edit = |result: Result<Vec<u8>, ConfigError>| {
        result.map_err(|error| tree_refusal(TreeError::Config(main.clone(), error)))
    };
    if !stale.is_empty() {
        text = edit(layout::delete_lines(&text, &stale))?;
        plan.notices.push(Notice::new(
            Noted::TraditionTaken,
            format!(
                "Amazon's two lines in {} name a command that is not there, or not with the options it needs, and go",
                main.display()
            ),
        ));
    }
    if placement == Placement::Block {
        let bare = edit(layout::remove_block(&text).map(|done| done.unwrap_or(text)))?;
        text = edit(layout::insert_block(&bare, call).map(|done| done.unwrap_or(bare)))?;
        if let Block::Whole { call: present, .. } = &survey.block {
            if *present == call && stale.is_empty() && survey.block_counts {
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

fn put_dropin(facts: &Facts, survey: &Survey, call: Call, plan: &mut Plan) -> Result<(), Refusal> {
    let before = facts.dropin.as_ref().map(|file| file.bytes.clone());
    let made_directory = match &survey.dropin {
        Some(DropIn::Ours { call: present, .. }) if *present == call => return Ok(()),
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
    let after = layout::dropin_text(call, made_directory).into_bytes();
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
    let (given_back, config) = adopt::giving_back(facts, &mut plan.notices)?;
    plan.steps.extend(given_back);
    let gone = |command: &str| state_of(facts, command).is_ours_or_gone();
    match &survey.dropin {
        Some(DropIn::Ours { .. }) => delete_dropin(facts, survey, &mut plan),
        Some(DropIn::Amazon { call }) if gone(call.path) => delete_dropin(facts, survey, &mut plan),
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
        if lines.file == facts.snapshot.main && gone(lines.call.path) {
            numbers.extend(lines.numbers.iter().copied());
        } else {
            plan.notices.push(left(&lines.file));
        }
    }
    let edit = |result: Result<Vec<u8>, ConfigError>| {
        result.map_err(|error| tree_refusal(TreeError::Config(main.clone(), error)))
    };
    // Lines first: their numbers count the block.
    let text = edit(layout::delete_lines(&main_bytes, &numbers))?;
    let text = edit(layout::remove_block(&text).map(|done| done.unwrap_or(text)))?;
    let text = crate::sshd::adopt::give_back(&text).unwrap_or(text);
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
    plan.steps.extend(config);
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

/// The options to write: what the helper's configuration needs and this sshd knows. Where the configuration can't be
/// read the helper refuses every key, and the options stay as they are until it can.
fn the_options(facts: &Facts, survey: &Survey, plan: &mut Plan) -> Options {
    let Some(needed) = facts.options else {
        plan.notices.push(Notice::new(
            Noted::ConfigUnusable,
            format!("{DEFAULT_PATH} can't be used, so every pushed key is refused; see `ec2-instance-connect config check`"),
        ));
        let present = survey.in_force.as_ref();
        return present
            .and_then(|setting| Call::parse(&setting.value))
            .map(|call| call.options)
            .unwrap_or_default();
    };
    let known = needed.known_to(facts.release);
    for token in needed.iter().filter(|token| !known.has(*token)) {
        let (option, word) = token.words();
        let (major, minor) = token.since();
        plan.notices.push(Notice::new(
            Noted::TokenUnknown,
            format!("{option} {word} is left out: sshd knows the token from OpenSSH {major}.{minor} on"),
        ));
    }
    known
}

fn state_of<'a>(facts: &'a Facts, command: &str) -> &'a CommandState {
    let found = COMMANDS
        .iter()
        .zip(&facts.commands)
        .find(|(path, _)| **path == command);
    found.map_or(&CommandState::Absent, |(_, state)| state)
}

/// A Match block that has a command without a user, or a user without a command: harmless until a global pair fills
/// in the other half, and then somebody's command runs as our user, or ours as somebody's.
fn half_pair(reading: &Reading) -> Option<Refusal> {
    let within = |setting: &&Setting| matches!(setting.scope, Scope::Within(_));
    reading.settings.iter().filter(within).find_map(|setting| {
        let harmless = match setting.keyword {
            Keyword::Command => {
                setting.value.eq_ignore_ascii_case("none") || Call::parse(&setting.value).is_some()
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
