//! What will be in force when a plan is done: its steps, taken on the snapshot, read again as sshd reads.
//!
//! Lines of Amazon's form count as nobody's decision, and setup takes away those that it knows how to: a whole pair in the
//! main file, the drop-in, the unit's override. One that stands elsewhere, or alone, stays. If it comes before ours and
//! names another command than the one that is there, sshd would go on asking that.

use std::path::Path;

use super::survey::{Survey, arguments_after, in_force};
use super::{Facts, Plan, Step, tree_refusal};
use crate::sshd::call::Call;
use crate::sshd::glob;
use crate::sshd::reason::{Refusal, Refused};
use crate::sshd::tree::{self, Keyword, Place, Setting, Snapshot};
use crate::sshd::{DROPIN, RUN_AS};

/// Whether `call` will be in force, as our user.
///
/// # Errors
/// The line or option that will be instead.
pub(super) fn is_in_force(facts: &Facts, survey: &Survey, plan: &Plan, call: Call) -> Result<(), Refusal> {
    let reading = tree::read(&after(facts, &plan.steps)).map_err(tree_refusal)?;
    let arguments = arguments_after(facts, survey, plan.unit_changes);
    let ours = |setting: &Setting| match setting.keyword {
        Keyword::Command => Call::parse(&setting.value) == Some(call),
        Keyword::CommandUser | Keyword::RunAs => setting.value == RUN_AS,
    };
    for keyword in [Keyword::Command, Keyword::CommandUser] {
        let Some(setting) = in_force(&reading, &arguments, keyword) else {
            return Err(Refusal::new(
                Refused::CandidateNotEffective,
                format!("no {} would be in force", keyword.name()),
                "look for a Match or an Include in a place where nobody expects it",
            ));
        };
        if !ours(setting) {
            let place = as_it_stands(facts, survey, setting).unwrap_or(&setting.place);
            return Err(ahead(setting, call, arguments.contains(setting)).at(place));
        }
    }
    Ok(())
}

/// The line's place in the main file as it is now: there it has another number if a pair above it was to go.
fn as_it_stands<'a>(facts: &Facts, survey: &'a Survey, setting: &Setting) -> Option<&'a Place> {
    let main = &facts.snapshot.main;
    let goes = |place: &Place| {
        let pairs = survey.lines.iter().filter(|lines| lines.file == *main);
        pairs
            .flat_map(|lines| &lines.numbers)
            .any(|line| *line == place.line)
    };
    let is_same = |known: &&Setting| {
        (known.keyword, &known.value, &known.scope) == (setting.keyword, &setting.value, &setting.scope)
    };
    let same = survey.reading.settings.iter().filter(is_same);
    same.map(|known| &known.place)
        .find(|place| place.file == *main && setting.place.file == *main && !goes(place))
}

fn ahead(setting: &Setting, call: Call, is_argument: bool) -> Refusal {
    let found = Call::parse(&setting.value).map(|found| found.path);
    let why = if found == Some(call.path) {
        "not with the options that config.toml needs"
    } else {
        "a command that is not there"
    };
    let name = setting.keyword.name();
    let remedy = if is_argument {
        "take that option away, restart sshd, and run setup apply again"
    } else {
        "delete that line, and its AuthorizedKeysCommandUser unless another command needs it, and run setup apply again"
    };
    let message = format!(
        "{name} {} comes before ours and would stay in force: {why}",
        setting.value
    );
    Refusal::new(Refused::TraditionAhead, message, remedy)
}

/// The snapshot with the steps done. They name files behind their symlinks, sshd opens them by its own names.
fn after(facts: &Facts, steps: &[Step]) -> Snapshot {
    let mut snapshot = facts.snapshot.clone();
    for step in steps {
        let is_main = facts.main.as_ref().is_some_and(|main| main.real == step.path());
        let is_same = |name: &Path| {
            let real = facts.files.get(name).map(|file| file.real.as_path());
            name == step.path() || real == Some(step.path()) || (is_main && name == facts.snapshot.main)
        };
        match step {
            Step::Write { path, after, .. } => {
                for (_, bytes) in snapshot.files.iter_mut().filter(|(name, _)| is_same(name)) {
                    bytes.clone_from(after);
                }
                if path == Path::new(DROPIN) {
                    snapshot.files.insert(path.clone(), after.clone());
                    show(&mut snapshot, path);
                }
            }
            Step::Delete { .. } => {
                snapshot.files.retain(|name, _| !is_same(name));
                let found = snapshot.globs.values_mut();
                found.for_each(|found| found.retain(|name| !is_same(name)));
            }
            Step::MakeDirectory { .. } | Step::RemoveDirectory { .. } => {}
        }
    }
    snapshot
}

/// Has every pattern that matches a new file find it, in glob(3)'s order: bytewise, since sshd sets no locale for it.
fn show(snapshot: &mut Snapshot, path: &Path) {
    for (pattern, found) in &mut snapshot.globs {
        let is_new = !found.iter().any(|name| name == path);
        if is_new && glob::path_matches(pattern, &path.to_string_lossy()) {
            let at = found.partition_point(|name| name.as_path() < path);
            found.insert(at, path.to_path_buf());
        }
    }
}
