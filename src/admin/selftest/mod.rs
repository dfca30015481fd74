//! `ec2-instance-connect selftest`: would a login work now, and tomorrow?
//!
//! The helper's own proof of metadata, signer and staples, [`authorize::examine`] without a request: no key is
//! needed, and none is read. Then the same evidence is judged again for a later time.

mod metrics;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pki_types::UnixTime;
use serde::Serialize;

use super::EXIT_REFUSED;
use super::explain::http_date;
use super::history::moment::{self, Moment};
use super::output::Page;
use super::paint;
use super::verify::view::{self, RefusalView, SignerView, shown};
use crate::authorize::{self, Examination, Facts, Purpose};
use crate::config::Config;
use crate::keys::Question;
use crate::link::run::Links;
use crate::reason::Refusal;
use metrics::Metrics;

/// Name and version of the JSON form. A field may be added under the same number; anything else takes a new one.
const SCHEMA: &str = "ec2-instance-connect/selftest/1";

/// A clock that differs by more is warned of: of a key's sixty seconds it takes a good part.
const SKEW_WARNING: i64 = 10;

/// A week in hours: no staple is valid for much longer.
const MAX_AHEAD_HOURS: u64 = 168;

/// Prove, without any key, that a login would work now and tomorrow
///
/// Asks the metadata as the helper does, and proves signer and staples. Exits with 0 if a login would work now, with
/// 1 if not; what will end soon is a warning.
#[derive(Debug, Args)]
pub struct Selftest {
    /// Also write metrics there, for the Prometheus node exporter's textfile collector
    #[arg(long, value_name = "PATH")]
    textfile: Option<PathBuf>,
    /// Warn if the same signer and staples would not do after so many hours
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=MAX_AHEAD_HOURS))]
    ahead: u64,
    /// Read FILE, not /etc/ec2-instance-connect/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The JSON form.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    /// Whether a login would work now.
    ok: bool,
    at: Moment,
    refusal: Option<RefusalView>,
    /// How far ahead the second judgement looked, in hours.
    ahead_hours: u64,
    /// What would refuse every login then, with the same documents.
    ahead_refusal: Option<RefusalView>,
    instance: Option<String>,
    signer: Option<SignerView>,
    anchors: Option<String>,
    clock_ahead: Option<i64>,
    requests: u32,
    milliseconds: u64,
    warnings: Vec<String>,
}

impl Selftest {
    /// Proves, writes the metrics, and writes the page.
    #[must_use]
    pub fn run(&self) -> Page {
        let config = Config::load(self.config.as_deref());
        let Examination { verdicts, facts } = match &config {
            Ok(config) => authorize::examine(None, Purpose::Look, config, &mut Links::none()),
            Err(refusal) => Examination {
                verdicts: Err(refusal.clone()),
                facts: Facts::default(),
            },
        };
        let refusal = verdicts.err();
        let ahead = match (&refusal, &config) {
            (None, Ok(config)) => self.look_ahead(config, &facts),
            _ => None,
        };
        let at = Moment::from(jiff::Timestamp::now());
        let metrics = metrics(refusal.as_ref(), ahead.as_ref(), &facts, at);
        let written = self.textfile.as_ref().map(|path| (path, metrics.write(path)));
        let unwritten = written.and_then(|(path, result)| {
            let error = result.err()?;
            Some(format!(
                "{}: {}",
                shown(&path.display().to_string()),
                shown(&error.to_string())
            ))
        });
        let report = Report {
            schema: SCHEMA,
            ok: refusal.is_none(),
            at,
            refusal: refusal.as_ref().map(RefusalView::of),
            ahead_hours: self.ahead,
            ahead_refusal: ahead.as_ref().map(RefusalView::of),
            instance: facts.instance.as_ref().map(ToString::to_string),
            signer: view::signer(&facts),
            anchors: facts.anchors.as_deref().map(shown),
            clock_ahead: metrics.clock_ahead,
            requests: facts.requests,
            milliseconds: u64::try_from(facts.elapsed.as_millis()).unwrap_or(u64::MAX),
            warnings: self.warnings(ahead.as_ref(), &metrics),
        };
        self.page(&report, unwritten)
    }

    /// What would refuse a login some hours from now, with the same documents.
    fn look_ahead(&self, config: &Config, facts: &Facts) -> Option<Refusal> {
        let (evidence, now) = (facts.evidence.as_ref()?, facts.now?);
        let hours = Duration::from_secs(self.ahead.saturating_mul(3600));
        let later = Duration::from_secs(now.as_secs()).saturating_add(hours);
        let question = Question {
            instance: facts.instance.as_ref()?,
            fingerprint: None,
            now: UnixTime::since_unix_epoch(later),
        };
        authorize::judge(evidence, question, config, &mut Facts::default()).err()
    }

    fn warnings(&self, ahead: Option<&Refusal>, metrics: &Metrics) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(refusal) = ahead {
            let mut warning = format!(
                "in {} hours every login would be refused unless the metadata gets new documents: {refusal}",
                self.ahead
            );
            for (what, left) in [
                ("signer", metrics.signer_seconds),
                ("staple", metrics.staple_seconds),
            ] {
                if let Some(left) = left {
                    warning.push_str(&format!("; {what} ends in {}", moment::length(left)));
                }
            }
            warnings.push(warning);
        }
        if let Some(skew) = metrics
            .clock_ahead
            .filter(|skew| skew.unsigned_abs() > SKEW_WARNING.unsigned_abs())
        {
            warnings.push(format!(
                "this machine's clock is {} s {} the metadata's: a pushed key lives for 60 s",
                skew.unsigned_abs(),
                if skew > 0 { "ahead of" } else { "behind" }
            ));
        }
        warnings
    }

    fn page(&self, report: &Report, unwritten: Option<String>) -> Page {
        let exit = if report.ok && unwritten.is_none() {
            0
        } else {
            EXIT_REFUSED
        };
        let mut err = String::new();
        if let Some(RefusalView { reason, detail }) = &report.refusal {
            let sentence = format!("every EC2 Instance Connect login is refused now: {reason}: {detail}");
            complain(&mut err, Severity::Error, &sentence);
        }
        for warning in &report.warnings {
            complain(&mut err, Severity::Warning, warning);
        }
        if let Some(unwritten) = unwritten {
            complain(&mut err, Severity::Error, &unwritten);
        }
        let page = if self.json {
            super::json_page(report, exit)
        } else {
            Page {
                out: text(report, paint::wanted()).into_bytes(),
                exit,
                ..Page::default()
            }
        };
        Page { err, ..page }
    }
}

fn metrics(refusal: Option<&Refusal>, ahead: Option<&Refusal>, facts: &Facts, at: Moment) -> Metrics {
    let now = facts.now.and_then(|now| i64::try_from(now.as_secs()).ok());
    let left = |until: Option<i64>| Some(until?.saturating_sub(now?));
    let theirs = facts.date.as_deref().and_then(http_date);
    Metrics {
        success: refusal.is_none(),
        success_ahead: refusal.is_none() && ahead.is_none(),
        reason: refusal.map(|refusal| refusal.reason),
        signer_seconds: left(facts.signer.map(|until| until.not_after)),
        staple_seconds: left(facts.signer.and_then(|until| until.next_update)),
        clock_ahead: now.zip(theirs).map(|(ours, theirs)| ours.saturating_sub(theirs)),
        requests: facts.requests,
        seconds: facts.elapsed.as_secs_f64(),
        at: at.secs(),
    }
}

/// How loud a line is, as syslog counts (RFC 5424 §6.2.1).
#[derive(Debug, Clone, Copy)]
enum Severity {
    Error,
    Warning,
}

/// Appends a line for standard error; in a service with the prefix that gives it its priority in the journal
/// (sd-daemon(3)).
fn complain(err: &mut String, severity: Severity, sentence: &str) {
    let (level, word) = match severity {
        Severity::Error => ("<3>", "error"),
        Severity::Warning => ("<4>", "warning"),
    };
    // systemd.exec(5): set where standard output or standard error is the journal.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        err.push_str(level);
    }
    err.push_str(&format!("{word}: {sentence}\n"));
}

/// The form for people.
fn text(report: &Report, colour: bool) -> String {
    let mut out = String::new();
    let instance = report.instance.as_deref().unwrap_or("unknown");
    view::line(&mut out, "instance", instance);
    let requests = format!("{} requests, {} ms in all", report.requests, report.milliseconds);
    view::line(&mut out, "metadata", &requests);
    if let Some(signer) = &report.signer {
        view::signer_lines(&mut out, signer, report.anchors.as_deref());
    }
    let verdict = match (&report.refusal, &report.ahead_refusal) {
        (Some(_), _) => "no login would work now".to_owned(),
        (None, Some(_)) => format!(
            "a login would work now, but not in {} hours without new documents",
            report.ahead_hours
        ),
        (None, None) => format!("a login would work now and in {} hours", report.ahead_hours),
    };
    let good = report.ok && report.ahead_refusal.is_none();
    view::verdict_line(&mut out, &verdict, good, colour);
    out
}
