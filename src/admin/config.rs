//! `ec2-instance-connect config check`: would the helper take this configuration?
//!
//! The file is read by the helper's own [`Config::read`]. What it takes and what is still worth a word comes from
//! [`remarks`].

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::EXIT_REFUSED;
use super::output::Page;
use super::paint::{self, Shade};
use super::selinux;
use super::verify::view::shown;
use crate::config::{self, Anchors, Config, DEFAULT_PATH, OcspPolicy, ReadError};
use crate::file::{self, FileError, Owner};
use crate::trust::anchors::{AnchorSet, Source};

/// Name and version of the JSON form. A field may be added under the same number; anything else takes a new one.
const SCHEMA: &str = "ec2-instance-connect/config-check/1";

/// Look at the helper's configuration file
#[derive(Debug, Args)]
pub struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say whether the helper would take the file, and where it is wrong
    ///
    /// Each problem is one line, FILE:LINE:COLUMN: SEVERITY: what is wrong. Exits with 0 if the helper would take the
    /// file, with 1 if it would refuse every key, with 2 for wrong usage. A warning changes no exit status.
    Check(Check),
}

#[derive(Debug, Args)]
struct Check {
    /// The file; without it /etc/ec2-instance-connect/config.toml, which need not exist
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The JSON form.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    file: String,
    /// Whether the file is there. Without the default one the defaults hold.
    present: bool,
    /// Whether the helper would take it.
    sound: bool,
    problems: Vec<Problem>,
}

/// One thing that is wrong, or worth a word.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// From 1, where the place is known.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// What is wrong; safe to show.
    pub message: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The helper would refuse every key.
    Error,
    /// The helper takes it; a person should know.
    Warning,
}

impl Problem {
    fn error(position: Option<(usize, usize)>, message: &str) -> Self {
        Self {
            severity: Severity::Error,
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            message: shown(message),
        }
    }

    fn warning(message: &str) -> Self {
        Self {
            severity: Severity::Warning,
            line: None,
            column: None,
            message: shown(message),
        }
    }
}

impl ConfigCommand {
    /// Looks, and writes the page.
    #[must_use]
    pub fn run(&self) -> Page {
        let Action::Check(check) = &self.action;
        check.run()
    }
}

impl Check {
    fn run(&self) -> Page {
        let report = self.report();
        let exit = if report.sound { 0 } else { EXIT_REFUSED };
        if self.json {
            return super::json_page(&report, exit);
        }
        Page {
            out: text(&report, paint::wanted()).into_bytes(),
            exit,
            ..Page::default()
        }
    }

    fn report(&self) -> Report {
        // Whose file it may be: as `Config::load` has it.
        let (path, owner) = match &self.file {
            Some(path) => (path.as_path(), Owner::RootOrSelf),
            None => (Path::new(DEFAULT_PATH), Owner::Root),
        };
        let (present, problems) = match Config::read(path, owner) {
            Ok(config) => (true, remarks(&config)),
            Err(ReadError::File(FileError::NotFound)) if self.file.is_none() => (false, Vec::new()),
            Err(ReadError::File(error)) => {
                let present = !matches!(error, FileError::NotFound);
                (present, vec![Problem::error(None, &error.to_string())])
            }
            Err(ReadError::Text(config::ConfigError { position, message })) => {
                (true, vec![Problem::error(position, &message)])
            }
        };
        Report {
            schema: SCHEMA,
            file: shown(&path.display().to_string()),
            present,
            sound: problems.iter().all(|problem| problem.severity != Severity::Error),
            problems,
        }
    }
}

/// What is to be said of a configuration whose text is right.
#[must_use]
pub fn remarks(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let source = match &config.trust.anchors {
        Anchors::Auto | Anchors::Amazon => None,
        Anchors::System => Some(Source::System),
        Anchors::File(path) => Some(Source::File(path)),
    };
    if let Some(Err(refusal)) = source.map(|source| AnchorSet::check(source, config.owner)) {
        let message = format!("[trust] anchors: {}", refusal.detail);
        problems.push(Problem::error(None, &message));
    }
    if config.trust.ocsp == OcspPolicy::IfPresent {
        problems.push(Problem::warning(
            "[trust] ocsp = \"if-present\": a revoked signer is taken where the metadata gives no staples",
        ));
    }
    if config.imds.request_timeout > config.imds.total_timeout {
        problems.push(Problem::warning(
            "[imds] request_timeout_ms is longer than total_timeout_ms, which ends each request before it",
        ));
    }
    let policy = crate::access::remarks::remarks(config);
    problems.extend(policy.iter().map(|message| Problem::warning(message)));
    if config.keys.one_time {
        let problem = |remark: &String| Problem::warning(&format!("[keys] one_time: {remark}"));
        problems.extend(super::one_time::remarks().iter().map(problem));
    }
    for lacking in selinux::lacking(config) {
        problems.push(Problem::warning(&format!(
            "{}: SELinux enforces and {} is off, so {}: {}",
            lacking.setting,
            lacking.boolean,
            lacking.effect,
            selinux::remedy(&[lacking])
        )));
    }
    for link in &config.chain {
        if let Err(what) = file::safe_program(link.command().program()) {
            let message = format!(
                "[[chain]] {}: it will not be run, since sshd would not: {what}",
                link.name
            );
            problems.push(Problem::warning(&message));
        }
        if link.timeout > config.imds.total_timeout {
            let message = format!(
                "[[chain]] {}: timeout_ms is longer than [imds] total_timeout_ms, which ends it before",
                link.name
            );
            problems.push(Problem::warning(&message));
        }
    }
    problems
}

/// One line for each problem, as compilers have it.
fn text(report: &Report, colour: bool) -> String {
    let file = &report.file;
    let mut out = String::new();
    for problem in &report.problems {
        let mut place = file.clone();
        for part in [problem.line, problem.column].into_iter().flatten() {
            place.push_str(&format!(":{part}"));
        }
        let severity = match problem.severity {
            Severity::Error => paint::word("error", Shade::Bad, colour),
            Severity::Warning => paint::word("warning", Shade::Notable, colour),
        };
        out.push_str(&format!("{place}: {severity}: {}\n", problem.message));
    }
    match report {
        Report {
            present: false,
            sound: true,
            ..
        } => {
            out.push_str(&format!("{file}: not there, so the defaults hold\n"));
        }
        Report { sound: true, .. } => {
            let sound = paint::word("sound", Shade::Good, colour);
            out.push_str(&format!("{file}: {sound}\n"));
        }
        _ => {}
    }
    out
}
