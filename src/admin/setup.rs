//! `ec2-instance-connect setup`: the command line over [`crate::sshd`], and the two forms of its report.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::EXIT_REFUSED;
use super::one_time;
use super::output::Page;
use super::paint::{self, Shade};
use crate::sshd::plan::{By, Goal, State, Step};
use crate::sshd::reason::{Notice, Refusal, Refused};
use crate::sshd::system::facts::owner;
use crate::sshd::system::root::Root;
use crate::sshd::system::transaction::{self, Ending, Options, Report};

/// Name and version of the JSON form. A field may be added under the same number; anything else takes a new one.
const SCHEMA: &str = "ec2-instance-connect/setup/1";

/// Have sshd ask EC2 Instance Connect for keys, or no longer
///
/// The change is one reversible transaction: the machine's own sshd judges it before anything is written, sshd is
/// reloaded and never restarted, and if it does not answer afterwards everything is put back. What an administrator
/// has configured is never replaced.
#[derive(Debug, Args)]
pub struct Setup {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what apply would change, and change nothing
    Plan(Look),
    /// Put the two lines into sshd's configuration
    Apply(Apply),
    /// Say how the machine stands
    Status(Common),
    /// Take away what apply has put there
    ///
    /// Called by hand, it also leaves /etc/ec2-instance-connect/setup.off, so that no installation or upgrade applies
    /// again.
    Remove(Change),
}

#[derive(Debug, Args)]
struct Common {
    /// Work on the image in this directory instead of the running machine
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Ask sshd about this user's configuration (sshd -T -C); somebody with a shell by default
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

#[derive(Debug, Args)]
struct Look {
    #[command(flatten)]
    common: Common,
    /// Try another command that is in the way for this user, and show it adopted as a link
    #[arg(long, value_name = "USER")]
    adopt: Option<String>,
}

#[derive(Debug, Args)]
struct Apply {
    #[command(flatten)]
    change: Change,
    /// Make another command that is in the way a link of ours, if it gives this user the same keys as our user
    #[arg(long, value_name = "USER", conflicts_with = "package")]
    adopt: Option<String>,
}

#[derive(Debug, Args)]
struct Change {
    #[command(flatten)]
    common: Common,
    /// Change the files only; sshd takes them up at its next reload or start
    #[arg(long)]
    no_reload: bool,
    /// Act for a package's maintainer script: obey setup.off, and leave none
    #[arg(long)]
    package: bool,
}

impl Setup {
    /// Does it, and writes the page.
    #[must_use]
    pub fn run(&self) -> Page {
        let (name, common, by, reload) = match &self.action {
            Action::Plan(look) => ("plan", &look.common, By::Hand, true),
            Action::Status(common) => ("status", common, By::Hand, true),
            Action::Apply(Apply { change, .. }) => ("apply", &change.common, change.by(), !change.no_reload),
            Action::Remove(change) => ("remove", &change.common, change.by(), !change.no_reload),
        };
        let root = match Root::new(&common.root) {
            Ok(root) => root,
            Err(error) => {
                return page(
                    name,
                    common.json,
                    Err(Refusal::io("no such image", &common.root, &error)),
                );
            }
        };
        if let Some(user) = common.user.as_deref().filter(|user| !is_user(user)) {
            let refusal = Refusal::new(
                Refused::UserMissing,
                format!("{user:?} is no user name"),
                "name a login",
            );
            return page(name, common.json, Err(refusal));
        }
        let adopt = match &self.action {
            Action::Plan(Look { adopt, .. }) | Action::Apply(Apply { adopt, .. }) => adopt.clone(),
            Action::Status(_) | Action::Remove(_) => None,
        };
        let options = Options {
            adopt,
            root: root.clone(),
            by,
            reload,
            user: common.user.clone(),
        };
        let result = match &self.action {
            Action::Plan(_) => transaction::preview(&options, Goal::Apply),
            Action::Status(_) => transaction::status(&options),
            Action::Apply(_) => transaction::execute(&options, Goal::Apply),
            Action::Remove(_) => transaction::execute(&options, Goal::Remove),
        };
        let applied = result.is_ok() && matches!(self.action, Action::Apply(_)) && root.is_live();
        let mut page = page(
            name,
            common.json,
            result
                .map(|report| named(report, &root))
                .map_err(|refusal| with_owner(refusal, &root)),
        );
        if applied {
            page.err.push_str(&one_time::make_directory());
        }
        page
    }
}

impl Change {
    fn by(&self) -> By {
        if self.package { By::Package } else { By::Hand }
    }
}

/// What can't be mistaken for another criterion in `sshd -T -C user=NAME,host=…`.
fn is_user(name: &str) -> bool {
    !name.is_empty() && !name.contains([',', '=']) && name.chars().all(|letter| letter.is_ascii_graphic())
}

fn with_owner(mut refusal: Refusal, root: &Root) -> Refusal {
    refusal.owner = refusal.file.as_deref().and_then(|file| owner(root, file));
    refusal
}

fn named(mut report: Report, root: &Root) -> Report {
    report.obstacle = report.obstacle.map(|refusal| with_owner(refusal, root));
    report
}

/// The JSON form.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    command: &'a str,
    /// `unchanged`, `held`, `planned`, `changed` or `refused`.
    result: &'static str,
    state: Option<&'static str>,
    in_force: Option<InForce>,
    effective: Option<EffectiveText<'a>>,
    changes: Vec<ChangeText>,
    notices: Vec<NoticeText<'a>>,
    /// Why the call was refused or, for `status`, why an apply would be.
    refusal: Option<RefusalText<'a>>,
}

#[derive(Serialize)]
struct InForce {
    keyword: &'static str,
    value: String,
    file: String,
    line: usize,
}

#[derive(Serialize)]
struct EffectiveText<'a> {
    user: &'a str,
    authorized_keys_command: &'a str,
    authorized_keys_command_user: &'a str,
}

#[derive(Serialize)]
struct ChangeText {
    /// `make-directory`, `create`, `replace`, `delete` or `remove-directory`.
    action: &'static str,
    path: String,
    diff: String,
}

#[derive(Serialize)]
struct NoticeText<'a> {
    code: &'static str,
    message: &'a str,
    file: Option<String>,
    line: Option<usize>,
}

#[derive(Serialize)]
struct RefusalText<'a> {
    code: &'static str,
    message: &'a str,
    file: Option<String>,
    line: Option<usize>,
    owner: Option<&'a str>,
    remedy: &'a str,
}

fn page(command: &str, json: bool, result: Result<Report, Refusal>) -> Page {
    // A status that shows damage is a failure: whoever polls it should wake up.
    let refused = match &result {
        Ok(report) => report.state == State::Damaged,
        Err(_) => true,
    };
    let exit = if refused { EXIT_REFUSED } else { 0 };
    if json {
        return super::json_page(&document(command, &result), exit);
    }
    match result {
        Ok(report) => {
            let mut out = String::new();
            let mut err = String::new();
            // Writing to a String can't fail.
            let _ = text(command, &report, paint::wanted(), &mut out, &mut err);
            Page {
                out: for_terminal(&out).into_bytes(),
                err: for_terminal(&err),
                exit,
            }
        }
        Err(refusal) => Page {
            err: for_terminal(&refusal_text(&refusal)),
            exit,
            ..Page::default()
        },
    }
}

fn document<'a>(command: &'a str, result: &'a Result<Report, Refusal>) -> Document<'a> {
    let mut document = Document {
        schema: SCHEMA,
        command,
        result: "refused",
        state: None,
        in_force: None,
        effective: None,
        changes: Vec::new(),
        notices: Vec::new(),
        refusal: None,
    };
    let report = match result {
        Ok(report) => report,
        Err(refusal) => {
            document.refusal = Some(refusal_json(refusal));
            return document;
        }
    };
    document.result = ending(report.ending);
    document.state = Some(report.state.code());
    document.in_force = report.in_force.as_ref().map(|setting| InForce {
        keyword: setting.keyword.name(),
        value: setting.value.clone(),
        file: setting.place.file.display().to_string(),
        line: setting.place.line,
    });
    document.effective = report.effective.as_ref().map(|effective| EffectiveText {
        user: &effective.user,
        authorized_keys_command: &effective.command,
        authorized_keys_command_user: &effective.run_as,
    });
    document.changes = report
        .steps
        .iter()
        .map(|step| ChangeText {
            action: action(step),
            path: step.path().display().to_string(),
            diff: step.diff(),
        })
        .collect();
    document.notices = report.notices.iter().map(notice_json).collect();
    document.refusal = report.obstacle.as_ref().map(refusal_json);
    document
}

fn notice_json(notice: &Notice) -> NoticeText<'_> {
    NoticeText {
        code: notice.code.code(),
        message: &notice.message,
        file: notice
            .place
            .as_ref()
            .map(|place| place.file.display().to_string()),
        line: notice.place.as_ref().map(|place| place.line),
    }
}

fn refusal_json(refusal: &Refusal) -> RefusalText<'_> {
    RefusalText {
        code: refusal.code.code(),
        message: &refusal.message,
        file: refusal.file.as_ref().map(|file| file.display().to_string()),
        line: refusal.line,
        owner: refusal.owner.as_deref(),
        remedy: &refusal.remedy,
    }
}

const fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::Unchanged => "unchanged",
        Ending::Held => "held",
        Ending::Planned => "planned",
        Ending::Changed => "changed",
    }
}

const fn action(step: &Step) -> &'static str {
    match step {
        Step::MakeDirectory { .. } => "make-directory",
        Step::Write { before: None, .. } => "create",
        Step::Write { .. } => "replace",
        Step::Delete { .. } => "delete",
        Step::RemoveDirectory { .. } => "remove-directory",
    }
}

/// What a configuration says may hold sequences that a terminal obeys, or that turn the reading direction. Lines stay
/// lines, letters of any script stay letters; the rest is shown as what it is. (JSON has its own escapes.)
fn for_terminal(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        let plain =
            matches!(letter, '\n' | '\t' | ' ') || letter.is_ascii_graphic() || letter.is_alphanumeric();
        if plain {
            shown.push(letter);
        } else {
            shown.extend(letter.escape_default());
        }
    }
    shown
}

/// The form for people: results on standard output, remarks on standard error.
fn text(
    command: &str,
    report: &Report,
    colour: bool,
    out: &mut String,
    err: &mut String,
) -> std::fmt::Result {
    if command == "status" {
        let shade = match report.state {
            State::Damaged => Shade::Bad,
            State::Ours | State::Tradition => Shade::Good,
            State::Absent | State::Foreign => Shade::Notable,
        };
        let state = paint::word(report.state.code(), shade, colour);
        writeln!(out, "state: {state}")?;
        if let Some(setting) = &report.in_force {
            writeln!(
                out,
                "in force: {} {} ({})",
                setting.keyword.name(),
                setting.value,
                setting.place
            )?;
        }
        if let Some(effective) = &report.effective {
            let (user, command, run_as) = (&effective.user, &effective.command, &effective.run_as);
            writeln!(
                out,
                "sshd says for {user}: AuthorizedKeysCommand {command}, run as {run_as}"
            )?;
        }
    }
    for step in &report.steps {
        if command == "plan" {
            match step {
                Step::MakeDirectory { path } => writeln!(out, "# make directory {}", path.display())?,
                Step::RemoveDirectory { path } => {
                    writeln!(out, "# remove directory {} if empty", path.display())?
                }
                Step::Write { .. } | Step::Delete { .. } => push_diff(out, &step.diff(), colour),
            }
        } else {
            writeln!(out, "{} {}", action(step), step.path().display())?;
        }
    }
    if report.steps.is_empty() && command != "status" {
        let what = if report.ending == Ending::Held {
            "held off: nothing was done"
        } else {
            "nothing to do"
        };
        writeln!(out, "{what}")?;
    }
    for notice in &report.notices {
        write!(err, "note [{}] ", notice.code.code())?;
        if let Some(place) = &notice.place {
            write!(err, "{place}: ")?;
        }
        writeln!(err, "{}", notice.message)?;
    }
    if let Some(refusal) = &report.obstacle {
        err.push_str(&refusal_text(refusal));
    }
    Ok(())
}

/// A diff; on a terminal with its lines in the colours that people know from other tools.
fn push_diff(out: &mut String, diff: &str, colour: bool) {
    for line in diff.split_inclusive('\n') {
        let text = line.trim_end_matches('\n');
        let shade = match text.as_bytes().first() {
            Some(b'+') => Some(Shade::Good),
            Some(b'-') => Some(Shade::Bad),
            _ => None,
        };
        match shade {
            Some(shade) => out.push_str(&paint::word(text, shade, colour).to_string()),
            None => out.push_str(text),
        }
        if line.len() > text.len() {
            out.push('\n');
        }
    }
}

fn refusal_text(refusal: &Refusal) -> String {
    let mut text = format!("refused [{}] ", refusal.code.code());
    if let Some(file) = &refusal.file {
        text.push_str(&file.display().to_string());
        if let Some(line) = refusal.line {
            text.push_str(&format!(":{line}"));
        }
        if let Some(owner) = &refusal.owner {
            text.push_str(&format!(" (package {owner})"));
        }
        text.push_str(": ");
    }
    text.push_str(&format!(
        "{}\n  what to do: {}\n",
        refusal.message, refusal.remedy
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sshd::tree::Place;

    #[test]
    fn refusal_names_file_line_owner_and_remedy() {
        let place = Place {
            file: "/etc/ssh/sshd_config".into(),
            line: 7,
        };
        let mut refusal = Refusal::new(Refused::ForeignNone, "somebody said none", "delete it").at(&place);
        refusal.owner = Some("openssh-server".into());
        let page = page("apply", false, Err(refusal.clone()));
        assert_eq!(page.exit, 1);
        assert_eq!(
            page.err,
            "refused [foreign-none] /etc/ssh/sshd_config:7 (package openssh-server): somebody said none\n  what to do: delete it\n"
        );
        let json: serde_json::Value =
            serde_json::from_slice(&super::page("apply", true, Err(refusal)).out).unwrap();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["refusal"]["code"], "foreign-none");
        assert_eq!(json["refusal"]["owner"], "openssh-server");
    }

    #[test]
    fn sequence_for_a_terminal_is_shown_and_not_sent() {
        let refusal = Refusal::new(
            Refused::ForeignCommand,
            "/bin/\u{1b}[31mred\u{202e} für",
            "keep it",
        );
        assert_eq!(
            page("apply", false, Err(refusal)).err,
            "refused [foreign-command] /bin/\\u{1b}[31mred\\u{202e} für\n  what to do: keep it\n"
        );
    }

    #[test]
    fn user_that_could_be_another_criterion_is_refused() {
        assert!(is_user("first.last@corp$"));
        for name in ["", "a,addr=1.2.3.4", "a b", "a\n"] {
            assert!(!is_user(name), "{name:?}");
        }
    }
}
