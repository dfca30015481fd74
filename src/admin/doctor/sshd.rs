//! sshd, asked by its own word what it would do for this user; and what remedies are made of.

use crate::sshd::config::{self, Statement};
use crate::sshd::dump;
use crate::sshd::plan::{self, Survey};
use crate::sshd::reason::Refusal;
use crate::sshd::system::facts::{self, Machine};
use crate::sshd::system::judge::{self, Opinion, Request, Verdict};
use crate::sshd::system::root::Root;

use super::check::Finding;

/// sshd, its configuration, and what it says of it.
#[derive(Debug)]
pub struct Sshd {
    /// Everything read.
    pub machine: Machine,
    /// What it comes to.
    pub survey: Survey,
}

/// Reads the machine.
///
/// # Errors
/// As setup's discovery.
pub fn survey(root: &Root) -> Result<Sshd, Refusal> {
    let machine = facts::collect(root)?;
    let survey = plan::survey(&machine.facts)?;
    Ok(Sshd { machine, survey })
}

/// A refusal of setup's as a finding.
pub fn refused(refusal: &Refusal) -> Finding {
    let at = refusal.file.as_ref().map_or_else(String::new, |file| {
        let line = refusal.line.map_or_else(String::new, |line| format!(":{line}"));
        format!("{}{line}: ", file.display())
    });
    Finding::fail(format!("{at}{}", refusal.message), &refusal.remedy)
}

impl Sshd {
    /// Asks sshd what it would do for `user`; with the finding for [`super::check::Id::Sshd`].
    pub fn ask(&self, root: &Root, user: &str) -> (Option<Opinion>, Finding) {
        let (arguments, _) = plan::effective_arguments(&self.machine.facts, &self.survey.start);
        let mut request = Request {
            root: root.dir().to_path_buf(),
            private: true,
            files: Default::default(),
            directories: Default::default(),
            sshd: self.machine.sshd.clone(),
            arguments: arguments.repeat,
            environment: self.survey.start.environment.clone(),
            user: user.to_owned(),
        };
        let mut verdict = judge::ask(&request);
        if matches!(verdict, Ok(Verdict::NoNamespace(_))) {
            // In a container without the right to mount: nothing is laid over, so the machine as it is will do.
            request.private = false;
            verdict = judge::ask(&request);
        }
        let by_hand = "run `sshd -t`: it names file and line";
        match verdict {
            Ok(Verdict::Heard(opinion)) if opinion.global.ok && opinion.user.ok => {
                let finding = Finding::pass(format!(
                    "{}, configuration {}",
                    self.version(),
                    self.machine.facts.snapshot.main.display()
                ));
                (Some(opinion), finding)
            }
            Ok(Verdict::Heard(opinion)) => {
                let check = if opinion.global.ok {
                    opinion.user
                } else {
                    opinion.global
                };
                let seen = format!(
                    "sshd does not take its configuration: {}",
                    one_line(&check.stderr)
                );
                let remedy = match complained_of(&check.stderr) {
                    Some(place) => format!(
                        "mend or take away {place}, until `sshd -t` is content, then {}",
                        self.reload()
                    ),
                    None => by_hand.to_owned(),
                };
                (None, Finding::fail(seen, remedy))
            }
            Ok(Verdict::NoNamespace(why) | Verdict::NotRunnable(why)) => (
                None,
                Finding::fail(format!("sshd could not be asked: {why}"), by_hand),
            ),
            Err(error) => (
                None,
                Finding::fail(format!("sshd could not be asked: {error}"), by_hand),
            ),
        }
    }

    fn version(&self) -> String {
        let text = facts::words_of(&self.machine.sshd);
        let line = text.lines().find(|line| line.starts_with("OpenSSH"));
        line.unwrap_or("sshd of an unknown version").trim().to_owned()
    }

    /// Where a keyword stands: the lines with the value in force, else all lines of it.
    pub(super) fn places(&self, keyword: &str, value: &str) -> String {
        let mut found = Vec::new();
        let mut fitting = Vec::new();
        for (path, bytes) in &self.machine.facts.snapshot.files {
            for line in config::parse(bytes)
                .map(|config| config.lines)
                .unwrap_or_default()
            {
                if let Statement::Directive(directive) = &line.statement {
                    if directive.keyword.eq_ignore_ascii_case(keyword) {
                        let place = format!("{}:{}", path.display(), line.number);
                        if directive.value().eq_ignore_ascii_case(value) {
                            fitting.push(place.clone());
                        }
                        found.push(place);
                    }
                }
            }
        }
        if !fitting.is_empty() {
            found = fitting;
        }
        if found.is_empty() {
            "sshd's command line".to_owned()
        } else {
            found.join(", ")
        }
    }

    /// How to have the running daemon read its configuration, for a remedy.
    #[must_use]
    pub fn reload(&self) -> String {
        match &self.machine.service {
            Some(service) if service.by_socket => format!("`systemctl restart {}`", service.unit),
            Some(service) => format!("`systemctl reload {}`", service.unit),
            None => "reload sshd".to_owned(),
        }
    }

    /// How to have the daemon take other arguments, for a remedy: a reload keeps those that it was started with.
    pub(super) fn restart(&self) -> String {
        match &self.machine.service {
            Some(service) => format!("`systemctl daemon-reload`, `systemctl restart {}`", service.unit),
            None => "restart sshd".to_owned(),
        }
    }

    /// The remedy for a keyword's value.
    pub(super) fn set(&self, keyword: &str, value: &str, at: &str) -> String {
        format!("set {keyword} to {value} at {at}, then {}", self.reload())
    }

    /// All values of a list keyword, as `sshd -T` prints them.
    #[must_use]
    pub fn list(opinion: &Opinion, keyword: &str) -> Vec<String> {
        let all = dump::settings(&opinion.user.stdout)
            .remove(keyword)
            .unwrap_or_default();
        all.iter()
            .flat_map(|value| value.split_ascii_whitespace())
            .map(str::to_owned)
            .collect()
    }

    /// Where a list keyword stands, for a remedy: all of its lines make the list.
    #[must_use]
    pub fn list_at(&self, keyword: &str) -> String {
        self.places(keyword, "")
    }
}

/// The place that sshd complains of, in its own form: `FILE: line N: ...`, and `FILE line N: ...` for a bad value.
fn complained_of(stderr: &str) -> Option<String> {
    stderr.lines().find_map(|text| {
        let (file, rest) = text.split_once(" line ")?;
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let file = file.trim_end_matches(':');
        (file.starts_with('/') && !number.is_empty()).then(|| format!("{file}:{number}"))
    })
}

pub(super) fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" / ")
}
