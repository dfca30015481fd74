//! `ec2-instance-connect compare`: this implementation and another one, on the same live documents.
//!
//! For a migration: outside of the login path, both judge what the metadata holds for a user, and where their keys
//! differ our reasons stand beside. Ours is [`authorize::examine`] as a look, the other one a command run as sshd would
//! run it ([`other`]), both as the user that sshd runs the helper as. docs/MIGRATION.md says how to use it.

mod other;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::EXIT_REFUSED;
use super::history::moment::Moment;
use super::output::{self, Page};
use super::paint;
use super::run_as;
use super::verify::view::{self, RecordView, RefusalView, shown};
use crate::audit;
use crate::authorize::{self, Examination, Facts, Purpose};
use crate::config::Config;
use crate::imds::Session;
use crate::keys;
use crate::link::run::Links;
use crate::reason::{Reason, Refusal};
use crate::request::Request;
use other::Keys;

/// Name and version of the JSON form. A field may be added under the same number; anything else takes a new one.
const SCHEMA: &str = "ec2-instance-connect/compare/1";

/// Exit status where the other command cannot be run at all: wrong usage, as clap's.
const EXIT_USAGE: u8 = 2;

/// How often both are asked again when what we say has changed meanwhile: a record expired, another was pushed.
const ATTEMPTS: usize = 3;

/// How often a watch asks whether there is a key document: two requests for each user, and a key lives a minute.
const INTERVAL: Duration = Duration::from_secs(2);

/// Fingerprints of one document that are asked about, as sshd would: a person has few keys active at once.
const MAX_FINGERPRINTS: usize = 8;

/// Compare with another implementation, on the live metadata
///
/// Asks both for USER's keys, without a fingerprint and then for each key of the document, as sshd would. Prints no
/// usable key. Exits with 0 if both give the same keys, with 1 if not, with 2 for wrong usage or a command that cannot be
/// run. Differences are also logged.
#[derive(Debug, Args)]
pub struct Compare {
    /// The other command with its arguments: %u is the user, %f the fingerprint. Without arguments, %u %f
    #[arg(long, value_name = "COMMAND", num_args = 1.., required = true)]
    with: Vec<String>,
    /// The login name; with --watch several
    #[arg(long = "user", value_name = "NAME", required = true)]
    users: Vec<String>,
    /// Only this key: SHA256:... or MD5:...
    #[arg(long, value_name = "FINGERPRINT", conflicts_with = "watch")]
    fingerprint: Option<String>,
    /// Go on, and compare for each new key document, until interrupted
    #[arg(long)]
    watch: bool,
    /// Read FILE, not /etc/ec2-instance-connect/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask as whoever runs this; without it, root asks as the user ec2-instance-connect where there is one
    #[arg(long)]
    here: bool,
    /// Print JSON, one document on a line for each comparison
    #[arg(long)]
    json: bool,
}

/// The JSON form of one comparison.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    at: Moment,
    /// As whom both were asked.
    run_as: String,
    user: String,
    fingerprint: Option<String>,
    equal: bool,
    /// Whether the documents changed while they were compared, each time that it was tried.
    unsettled: bool,
    ours: Side,
    theirs: Side,
    only_ours: Vec<String>,
    only_theirs: Vec<String>,
    /// What refuses all of our keys alike.
    refusal: Option<RefusalView>,
    /// Our verdict on each record.
    records: Vec<RecordView>,
}

/// What one implementation gave.
#[derive(Debug, Serialize)]
struct Side {
    keys: usize,
    /// How the command ended, where that was not exit 0.
    note: Option<String>,
}

/// What we say of one question.
struct Ours {
    keys: Keys,
    examination: Examination,
}

impl Compare {
    /// Compares, and writes the page; a watch prints one for each comparison.
    #[must_use]
    pub fn run(&self) -> Page {
        let remark = match run_as::ask_as_helper_user(self.here, &self.arguments()) {
            run_as::Asked::There(page) => return page,
            run_as::Asked::Here(why) => why,
        };
        let config = Config::load(self.config.as_deref());
        if self.watch {
            return self.follow(&config);
        }
        let mut page = Page {
            err: remark,
            ..Page::default()
        };
        for user in &self.users {
            self.compare(user, &config, &mut page);
        }
        page
    }

    /// The same call, for whoever asks in our place.
    fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments: Vec<std::ffi::OsString> = vec!["compare".into(), "--here".into()];
        for (wanted, option) in [(self.json, "--json"), (self.watch, "--watch")] {
            if wanted {
                arguments.push(option.into());
            }
        }
        if let Some(config) = &self.config {
            arguments.extend(["--config".into(), config.into()]);
        }
        let users = self.users.iter().map(|user| format!("--user={user}").into());
        arguments.extend(users);
        let fingerprint = self.fingerprint.as_ref();
        arguments.extend(fingerprint.map(|fingerprint| format!("--fingerprint={fingerprint}").into()));
        arguments.push("--with".into());
        arguments.extend(self.with.iter().map(Into::into));
        arguments
    }

    /// Compares for one user: any key, then each key of the document.
    fn compare(&self, user: &str, config: &Result<Config, Refusal>, page: &mut Page) {
        let mut questions = vec![self.fingerprint.clone()];
        let mut asked = 0;
        while let Some(fingerprint) = questions.get(asked).cloned() {
            let report = match self.ask(user, fingerprint.as_deref(), config) {
                Ok(report) => report,
                Err(error) => {
                    let command = self.with.first().map(String::as_str).unwrap_or_default();
                    page.err
                        .push_str(&format!("{}: {}\n", shown(command), shown(&error.to_string())));
                    page.exit = EXIT_USAGE;
                    return;
                }
            };
            if asked == 0 && fingerprint.is_none() {
                let named = report
                    .records
                    .iter()
                    .filter_map(|record| record.fingerprint.clone());
                for fingerprint in named.take(MAX_FINGERPRINTS) {
                    if !questions.contains(&Some(fingerprint.clone())) {
                        questions.push(Some(fingerprint));
                    }
                }
            }
            asked = asked.saturating_add(1);
            if !report.equal {
                page.exit = EXIT_REFUSED;
                audit::compared(
                    user,
                    fingerprint.as_deref(),
                    (report.only_ours.len(), report.only_theirs.len()),
                    &report.words(),
                );
            }
            self.show(&report, page);
        }
    }

    /// One question to both. While we ourselves change our mind, the documents do, and both are asked again.
    fn ask(
        &self,
        user: &str,
        fingerprint: Option<&str>,
        config: &Result<Config, Refusal>,
    ) -> std::io::Result<Report> {
        let mut ours = Ours::ask(user, fingerprint, config);
        let mut theirs = other::ask(&self.with, user, fingerprint)?;
        let mut unsettled = false;
        for attempt in 1..=ATTEMPTS {
            if ours.keys == theirs.keys {
                break;
            }
            let again = Ours::ask(user, fingerprint, config);
            unsettled = again.keys != ours.keys;
            ours = again;
            if !unsettled || attempt == ATTEMPTS {
                break;
            }
            theirs = other::ask(&self.with, user, fingerprint)?;
            unsettled = false;
        }
        let Examination { verdicts, facts } = &ours.examination;
        let at = Moment::from(jiff::Timestamp::now());
        let records = facts
            .evidence
            .as_ref()
            .map(|evidence| view::records(&evidence.active_keys, verdicts.as_ref(), at, None));
        Ok(Report {
            schema: SCHEMA,
            at,
            run_as: run_as::me(),
            user: shown(user),
            fingerprint: fingerprint.map(shown),
            equal: ours.keys == theirs.keys && !theirs.broken,
            unsettled,
            only_ours: ours.keys.without(&theirs.keys).shown(),
            only_theirs: theirs.keys.without(&ours.keys).shown(),
            ours: Side {
                keys: ours.keys.len(),
                note: None,
            },
            theirs: Side {
                keys: theirs.keys.len(),
                note: theirs.note,
            },
            refusal: verdicts.as_ref().err().map(RefusalView::of),
            records: records.unwrap_or_default(),
        })
    }

    /// Compares for each key document that was not there before, for ever.
    fn follow(&self, config: &Result<Config, Refusal>) -> Page {
        let config = match config {
            Ok(config) => config,
            Err(refusal) => {
                return Page {
                    err: format!("{refusal}\n"),
                    exit: EXIT_REFUSED,
                    ..Page::default()
                };
            }
        };
        let mut seen: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        let mut trouble = None;
        loop {
            for user in &self.users {
                let said = match document(user, config) {
                    Ok(Some(document)) if seen.get(user.as_str()) != Some(&document) => {
                        let mut page = Page::default();
                        self.compare(user, &Ok(config.clone()), &mut page);
                        let _ = output::show(&page);
                        if page.exit == EXIT_USAGE {
                            return Page {
                                exit: EXIT_USAGE,
                                ..Page::default()
                            };
                        }
                        seen.insert(user, document);
                        None
                    }
                    Ok(Some(_)) => None,
                    Ok(None) => {
                        seen.remove(user.as_str());
                        None
                    }
                    Err(refusal) => Some(refusal),
                };
                // Said once, not every two seconds.
                if said != trouble {
                    if let Some(refusal) = &said {
                        let _ = output::show(&Page {
                            err: format!("{refusal}\n"),
                            ..Page::default()
                        });
                    }
                    trouble = said;
                }
            }
            thread::sleep(INTERVAL);
        }
    }

    fn show(&self, report: &Report, page: &mut Page) {
        if self.json {
            page.out.extend(super::json_page(report, 0).out);
        } else {
            page.out.extend(text(report, paint::wanted()).into_bytes());
        }
    }
}

impl Ours {
    fn ask(user: &str, fingerprint: Option<&str>, config: &Result<Config, Refusal>) -> Self {
        let request = Request::new(user, fingerprint);
        let examination = match (&request, config) {
            (Ok(request), Ok(config)) => {
                authorize::examine(Some(request), Purpose::Look, config, &mut Links::none())
            }
            (Err(refusal), _) | (_, Err(refusal)) => Examination {
                verdicts: Err(refusal.clone()),
                facts: Facts::default(),
            },
        };
        let lines = examination
            .verdicts
            .iter()
            .flatten()
            .flatten()
            .map(keys::AuthorizedKey::line);
        Self {
            keys: Keys::of(lines),
            examination,
        }
    }
}

impl Report {
    /// Why we gave what we gave, in words for the log.
    fn words(&self) -> String {
        let mut reasons: Vec<&str> = self
            .records
            .iter()
            .filter_map(|record| record.refusal.as_ref())
            .chain(&self.refusal)
            .map(|refusal| refusal.reason)
            .collect();
        reasons.sort_unstable();
        reasons.dedup();
        let mut words = Vec::new();
        if !reasons.is_empty() {
            words.push(format!("our reasons: {}", reasons.join(" ")));
        }
        if let Some(note) = &self.theirs.note {
            words.push(format!("the other command: {note}"));
        }
        if self.unsettled {
            words.push("the documents kept changing".to_owned());
        }
        words.join("; ")
    }
}

/// The user's key document, if there is one.
fn document(user: &str, config: &Config) -> Result<Option<Vec<u8>>, Refusal> {
    let request = Request::new(user, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Refusal::new(Reason::Internal, format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let now = Instant::now();
        let deadline = now.checked_add(config.imds.total_timeout).unwrap_or(now);
        let session = Session::open(&config.imds, deadline).await?;
        session.active_keys(&request.user).await
    })
}

/// The form for people.
fn text(report: &Report, colour: bool) -> String {
    let mut out = String::new();
    let about = report.fingerprint.as_deref().unwrap_or("any key");
    view::line(&mut out, "user", &format!("{}, {about}", report.user));
    view::line(&mut out, "ours", &count(&report.ours));
    view::line(&mut out, "theirs", &count(&report.theirs));
    for (label, keys) in [
        ("only ours", &report.only_ours),
        ("only theirs", &report.only_theirs),
    ] {
        for key in keys {
            view::line(&mut out, label, key);
        }
    }
    if !report.equal {
        if let Some(refusal) = &report.refusal {
            view::line(
                &mut out,
                "refused",
                &format!("{}: {}", refusal.reason, refusal.detail),
            );
        }
        view::record_lines(&mut out, &report.records, colour);
    }
    let verdict = match report {
        Report { equal: true, .. } => "equal",
        Report { unsettled: true, .. } => "different, but the documents kept changing: compare again",
        _ => "different",
    };
    view::verdict_line(&mut out, verdict, report.equal, colour);
    out
}

fn count(side: &Side) -> String {
    let keys = match side.keys {
        1 => "1 key".to_owned(),
        more => format!("{more} keys"),
    };
    match &side.note {
        Some(note) => format!("{keys} ({note})"),
        None => keys,
    }
}
