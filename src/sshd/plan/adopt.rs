//! Adopting: somebody's own command, which would be a refusal, becomes a link of ours.
//!
//! The plan is made for the machine as it would be with his lines gone; then the steps that take them away are added.
//! Before any of it the shell has [tried](crate::sshd::system::trial) the command as its user and as ours.

use std::path::{Path, PathBuf};

use super::survey::{Survey, survey};
use super::{By, Facts, Goal, MainFile, Placement, Plan, Step, plan};
use crate::config::{Config, DEFAULT_PATH};
use crate::link::{Template, is_name};
use crate::sshd::adopt::{self, Before, LinkBlock, Rest};
use crate::sshd::call::Options;
use crate::sshd::reason::{Noted, Notice, Refusal, Refused};
use crate::sshd::tree::{Keyword, Place, Scope, Setting, TreeError};
use crate::sshd::{DROPIN, RUN_AS};

/// What tells where to read on.
const PAGE: &str = "see CHAINING.md, \"Two commands side by side\", for Match blocks";

/// Programs that make somebody else of whom they run as; our user may not.
const BECOMERS: [&str; 4] = ["sudo", "doas", "su", "runuser"];

/// Somebody's command, as it could be a link.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its words.
    pub command: Template,
    /// As whom sshd runs it.
    pub user: String,
    /// Its value in sshd's configuration.
    pub value: String,
    command_line: Setting,
    user_line: Setting,
}

/// A candidate that was tried, and the machine as it would be.
#[derive(Debug, Clone)]
pub struct Adoption {
    facts: Facts,
    survey: Survey,
    notices: Vec<Notice>,
    /// His files: real path, before, after.
    files: Vec<(MainFile, Vec<u8>, Vec<u8>)>,
    config: Step,
    make_directory: Option<PathBuf>,
}

/// The command that can be adopted; `None` where none stands in the way.
///
/// # Errors
/// Why it can't.
pub fn candidate(facts: &Facts, survey: &Survey) -> Result<Option<Candidate>, Refusal> {
    let Some(standing) = &survey.refusal else {
        return Ok(None);
    };
    if standing.code != Refused::ForeignCommand {
        return Err(standing.clone());
    }
    let foreign = |keyword: Keyword| {
        let settings = survey.reading.always();
        settings.filter(move |setting| setting.keyword == keyword && setting.place.file != Path::new(DROPIN))
    };
    let commands: Vec<&Setting> = foreign(Keyword::Command).collect();
    let users: Vec<&Setting> = foreign(Keyword::CommandUser).collect();
    let run_as = foreign(Keyword::RunAs).next();
    let ([command], [user], None) = (commands.as_slice(), users.as_slice(), run_as) else {
        let message = "there is more than one command, or none with its user, outside a Match";
        return Err(Refusal {
            file: standing.file.clone(),
            line: standing.line,
            ..unfit(message)
        });
    };
    if user.value == "root" {
        let message = format!("{} runs as root; a link runs as {RUN_AS}", command.value);
        return Err(Refusal::new(Refused::AdoptRoot, message, PAGE).at(&user.place));
    }
    for setting in [command, user] {
        let real = facts
            .files
            .get(&setting.place.file)
            .map(|file| file.real.as_path());
        let Some(real) = real.filter(|_| setting.scope == Scope::Always) else {
            return Err(unfit("the line stands below a Match all").at(&setting.place));
        };
        if real.starts_with("/usr") {
            let message = format!(
                "the line stands in {}, which its package writes anew",
                real.display()
            );
            return Err(unfit(&message).at(&setting.place));
        }
    }
    if user.value.contains('%') {
        return Err(unfit("it runs as whoever logs in; a link always runs as one user").at(&user.place));
    }
    let words =
        adopt::words(&command.value).ok_or_else(|| unfit("its words can't be told").at(&command.place))?;
    let becomes = |word: &String| {
        let name = Path::new(word).file_name().unwrap_or_default();
        BECOMERS.iter().any(|becomer| name == *becomer)
    };
    if let Some(becomer) = words.iter().find(|word| becomes(word)) {
        let message = format!(
            "{} calls {becomer}; a link runs as {RUN_AS} and stays that",
            command.value
        );
        return Err(Refusal::new(Refused::AdoptRoot, message, PAGE).at(&command.place));
    }
    let template = Template::new(&words).map_err(|why| unfit(&why).at(&command.place))?;
    Ok(Some(Candidate {
        command: template,
        user: user.value.clone(),
        value: command.value.clone(),
        command_line: (*command).clone(),
        user_line: (*user).clone(),
    }))
}

/// The machine as it will be with the candidate as a link; `timeout_ms` where the usual one would be short.
///
/// # Errors
/// Why not.
pub fn adoption(facts: &Facts, candidate: &Candidate, timeout_ms: Option<u128>) -> Result<Adoption, Refusal> {
    let (config, step) = link(facts, candidate, timeout_ms)?;
    let mut after = facts.clone();
    after.options = Some(Options::of(&config));
    let mut files = Vec::new();
    for path in [
        &candidate.command_line.place.file,
        &candidate.user_line.place.file,
    ] {
        let lines = [&candidate.command_line.place, &candidate.user_line.place];
        let numbers: Vec<usize> = lines
            .into_iter()
            .filter(|place| place.file == *path)
            .map(|place| place.line)
            .collect();
        let (Some(file), Some(before)) = (facts.files.get(path), facts.snapshot.files.get(path)) else {
            continue;
        };
        if files
            .iter()
            .any(|(known, _, _): &(MainFile, _, _)| known.real == file.real)
        {
            continue;
        }
        one_name(file, path)?;
        let text = adopt::comment_out(before, &numbers)
            .map_err(|error| super::tree_refusal(TreeError::Config(path.clone(), error)))?;
        after.snapshot.files.insert(path.clone(), text.clone());
        files.push((file.clone(), before.clone(), text));
    }
    let notice = Notice::new(
        Noted::Adopted,
        format!(
            "{} becomes a link in {DEFAULT_PATH}; `ec2-instance-connect setup remove` gives it back",
            candidate.value
        ),
    )
    .at(&candidate.command_line.place);
    Ok(Adoption {
        survey: survey(&after)?,
        facts: after,
        notices: vec![notice],
        files,
        make_directory: (!facts.hold_dir)
            .then(|| Path::new(DEFAULT_PATH).parent().map(Path::to_path_buf))
            .flatten(),
        config: step,
    })
}

impl Adoption {
    /// The steps: the link first, which nobody calls yet; then ours; and last his lines away.
    ///
    /// # Errors
    /// As for an apply on that machine.
    pub fn plan(&self, by: By, placement: Placement) -> Result<Plan, Refusal> {
        let mut plan = plan(&self.facts, &self.survey, Goal::Apply, by, placement)?;
        if plan.wanted.is_none() {
            return Ok(plan);
        }
        let mut his = Vec::new();
        for (file, original, text) in &self.files {
            let same = plan.steps.iter_mut().find(|step| step.path() == file.real);
            if let Some(Step::Write { before, .. }) = same {
                // One write for what of ours goes into his file too.
                *before = Some(original.clone());
            } else {
                his.push(Step::Write {
                    path: file.real.clone(),
                    before: Some(original.clone()),
                    after: text.clone(),
                    mode: file.mode,
                });
            }
        }
        let directory = self.make_directory.clone();
        let first = directory.map(|path| Step::MakeDirectory { path }).into_iter();
        let steps = std::mem::take(&mut plan.steps);
        plan.steps = first
            .chain([self.config.clone()])
            .chain(steps)
            .chain(his)
            .collect();
        plan.concerns_sshd = true;
        plan.notices.extend(self.notices.clone());
        Ok(plan)
    }
}

/// The configuration with the link, and the step that writes it.
fn link(facts: &Facts, candidate: &Candidate, timeout_ms: Option<u128>) -> Result<(Config, Step), Refusal> {
    let wrong = |message: String| {
        let remedy = "see `ec2-instance-connect config check`";
        Refusal::new(Refused::AdoptUnfit, message, remedy).in_file(DEFAULT_PATH)
    };
    let parse = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        Config::parse(text).map_err(|error| wrong(format!("it can't be used: {error}")))
    };
    let before = facts.config.as_ref();
    let known = match before {
        Some((file, bytes)) => {
            one_name(file, Path::new(DEFAULT_PATH))?;
            if adopt::find_link(bytes) != LinkBlock::Absent {
                return Err(wrong("it has an adopted link already".to_owned()));
            }
            parse(bytes)?
        }
        None => Config::default(),
    };
    let name = candidate
        .command
        .program()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let is_free = |name: &str| !known.chain.iter().any(|link| link.name == name);
    let name = if is_name(&name) && is_free(&name) {
        &name
    } else {
        "adopted"
    };
    let bytes = before.map(|(_, bytes)| bytes.as_slice());
    let into = bytes.map_or(
        Before::NoFile {
            no_directory: !facts.hold_dir,
        },
        Before::File,
    );
    let after = adopt::insert_link(into, name, &candidate.command, timeout_ms);
    let config = parse(&after)?;
    let step = Step::Write {
        path: before.map_or_else(|| DEFAULT_PATH.into(), |(file, _)| file.real.clone()),
        before: bytes.map(<[u8]>::to_vec),
        after,
        mode: 0o644,
    };
    Ok((config, step))
}

/// The steps that give an adopted command back: in front what restores his lines, behind what takes the link away.
/// The main file is left to the caller, who has more to do there.
pub(super) fn giving_back(
    facts: &Facts,
    notices: &mut Vec<Notice>,
) -> Result<(Vec<Step>, Vec<Step>), Refusal> {
    let mut lines = Vec::new();
    for (path, bytes) in &facts.snapshot.files {
        let Some(after) = adopt::give_back(bytes) else {
            continue;
        };
        let place = Place {
            file: path.clone(),
            line: 1,
        };
        notices.push(Notice::new(Noted::GivenBack, "the adopted command is sshd's again").at(&place));
        let Some(file) = facts.files.get(path).filter(|_| *path != facts.snapshot.main) else {
            continue;
        };
        one_name(file, path)?;
        lines.push(Step::Write {
            path: file.real.clone(),
            before: Some(bytes.clone()),
            after,
            mode: file.mode,
        });
    }
    let mut config = Vec::new();
    if let Some((file, bytes)) = &facts.config {
        let path = file.real.clone();
        let before = bytes.clone();
        match adopt::find_link(bytes) {
            LinkBlock::Absent => {}
            LinkBlock::Whole {
                rest: Rest::NoFile { made_directory },
            } => {
                let directory = path.parent().filter(|_| made_directory).map(Path::to_path_buf);
                config.push(Step::Delete { path, before });
                config.extend(directory.map(|path| Step::RemoveDirectory { path }));
            }
            LinkBlock::Whole {
                rest: Rest::File(after),
            } => config.push(Step::Write {
                path,
                before: Some(before),
                after,
                mode: file.mode,
            }),
            LinkBlock::Edited => {
                let message =
                    format!("the adopted link in {DEFAULT_PATH} was edited and stays; take it away by hand");
                notices.push(Notice::new(Noted::AdoptedEdited, message));
            }
        }
    }
    Ok((lines, config))
}

/// A replaced file would part from its other names.
fn one_name(file: &MainFile, path: &Path) -> Result<(), Refusal> {
    if file.links <= 1 {
        return Ok(());
    }
    let message = format!(
        "the file has {} names, and a changed one would part from the others",
        file.links
    );
    let remedy = "make it a file of its own (cp, mv) and run the command again";
    Err(Refusal::new(Refused::HardLinked, message, remedy).in_file(path))
}

fn unfit(message: &str) -> Refusal {
    let remedy =
        "write the [[chain]] and take the lines away yourself, or use a Match block: CHAINING.md says how";
    Refusal::new(
        Refused::AdoptUnfit,
        format!("the command can't be adopted: {message}"),
        remedy,
    )
}
