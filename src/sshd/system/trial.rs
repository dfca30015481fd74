//! Trying a command that is to be adopted: run as its own user and as ours it must give the same.

use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use nix::unistd::User;
use rustix::process::getpid;

use crate::escape;
use crate::file;
use crate::link::keeper::{self, Order};
use crate::link::lines::Lines;
use crate::link::run::{GRACE, heard};
use crate::request::Words;
use crate::sshd::RUN_AS;
use crate::sshd::plan::adopt::Candidate;
use crate::sshd::reason::{Refusal, Refused};
use crate::sshd::system::user;

/// Nobody waits at a login: long enough for a cold cache.
const TRIAL_TIME: Duration = Duration::from_secs(10);

/// A key for commands that want one. The same in both runs, and nobody's.
const SAMPLE: (&str, &str, &str) = (
    "ssh-ed25519",
    "AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti",
    "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ",
);

/// Runs it for `user`, twice. How long it took as ours.
///
/// # Errors
/// What differed, or what made the trial worthless.
pub fn run(candidate: &Candidate, user: &str) -> Result<Duration, Refusal> {
    let unfit = |message: String| {
        Refusal::new(
            Refused::AdoptUnfit,
            message,
            "CHAINING.md says what fits, and how two commands work side by side",
        )
    };
    let account = |name: &str| {
        let found = User::from_name(name).ok().flatten();
        found.ok_or_else(|| unfit(format!("there is no user {}", escape::token(name))))
    };
    let (kind, key, fingerprint) = SAMPLE;
    let words = Words {
        user: user.into(),
        fingerprint: Some(fingerprint.into()),
        home: Some(account(user)?.dir.into()),
        key: Some(key.into()),
        key_type: Some(kind.into()),
        ..Words::default()
    };
    let program = candidate.command.program();
    let real = file::safe_program(program).map_err(unfit)?;
    let arguments: Vec<OsString> = candidate
        .command
        .expand(&words)
        .map_err(|refusal| unfit(refusal.to_string()))?;
    let order = Order {
        program: &real,
        name: program,
        arguments: &arguments,
        timeout: TRIAL_TIME,
    };
    let run_as = |name: &str| -> Result<_, Refusal> {
        let account = account(name)?;
        let begun = Instant::now();
        let words = [user::WORD, name, keeper::WORD].map(OsStr::new);
        let started = order.start_in(&words, getpid(), user::environment(&account));
        let mut keeper = started.map_err(|error| unfit(format!("it can't be tried: {error}")))?;
        let deadline = begun
            .checked_add(TRIAL_TIME)
            .and_then(|end| end.checked_add(GRACE));
        let lines = heard(&mut keeper, deadline, TRIAL_TIME).and_then(Lines::new);
        Ok((lines, begun.elapsed()))
    };
    let (his, _) = run_as(&candidate.user)?;
    let (ours, elapsed) = run_as(RUN_AS)?;
    let told = |result: &Result<Lines, crate::reason::Refusal>| match result {
        Ok(lines) => format!("{} lines of keys", lines.count()),
        Err(refusal) => format!("nothing ({refusal})"),
    };
    let runs = format!(
        "for {}: as {} {}, as {RUN_AS} {}",
        escape::token(user),
        escape::token(&candidate.user),
        told(&his),
        told(&ours)
    );
    match (&his, &ours) {
        (Ok(his), Ok(ours)) if his == ours && his.count() > 0 => Ok(elapsed),
        (Ok(his), Ok(ours)) if his == ours => Err(Refusal::new(
            Refused::AdoptUnfit,
            format!("the trial proves nothing: {runs}"),
            "name a user for whom the command gives a key",
        )),
        (Err(_), Err(_)) => Err(Refusal::new(
            Refused::AdoptUnfit,
            format!("the command does not work: {runs}"),
            "mend it, or name a user for whom it gives a key",
        )),
        (his, ours) => {
            let difference = match (his, ours) {
                (Ok(his), Ok(ours)) => first_difference(his, ours),
                _ => String::new(),
            };
            Err(Refusal::new(
                Refused::AdoptDiffers,
                format!("the command gives something else as {RUN_AS}: {runs}{difference}"),
                "give that user what the command reads (a group, a socket), or see CHAINING.md, \"Two commands side \
                 by side\", for Match blocks",
            ))
        }
    }
}

/// The first line that is not the same, escaped and bounded.
fn first_difference(his: &Lines, ours: &Lines) -> String {
    let lines = |lines: &Lines| -> Vec<Vec<u8>> {
        lines
            .text()
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    };
    let (his, ours) = (lines(his), lines(ours));
    let number = his
        .iter()
        .zip(&ours)
        .take_while(|(one, other)| one == other)
        .count();
    let show = |lines: &[Vec<u8>]| match lines.get(number) {
        Some(line) => format!("\"{}\"", escape::text(line)),
        None => "nothing".to_owned(),
    };
    format!(
        "; line {} is {} and {}",
        number.saturating_add(1),
        show(&his),
        show(&ours)
    )
}
