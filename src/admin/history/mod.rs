//! `ec2-instance-connect history`: who was here.
//!
//! ```text
//! journalctl ─▶ journal ─┐
//!                        ├─▶ message ─▶ Event ─▶ join ─▶ Row ─▶ reconcile ─▶ select ─▶ render
//! auth.log ───▶ syslog ──┘                                          ▲
//! CloudTrail's files ─────────────▶ cloudtrail ─▶ Push ─────────────┘
//! ```
//!
//! Pure from [`message`] to [`render`]: bytes, events and times go in. Only [`sources`] and this module touch
//! files, processes and the clock. What every field means is in `docs/AUDIT.md`.

pub mod cloudtrail;
pub mod event;
pub mod join;
pub mod journal;
pub mod lines;
pub mod message;
pub mod moment;
pub mod reconcile;
pub mod render;
pub mod select;
pub mod sources;
pub mod syslog;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

use crate::escape;
use crate::instance::InstanceId;

use super::output::Page;
use super::paint;

use event::{Event, Helper, Safe, Said};
use join::{Join, MAX_LOGIN, TooMany};
use journal::Trust;
use moment::Moment;
use reconcile::Wanted;
use select::{Pattern, Selection};
use sources::{Accounts, Journal, ReadError};

/// Exit status where a source could not be read. What was read is shown nevertheless.
pub const EXIT_UNREADABLE: u8 = 1;

/// Exit status of wrong usage.
pub const EXIT_USAGE: u8 = 2;

/// The user that sshd runs the helper as, in every package of it that there ever was.
const HELPER_USER: &str = "ec2-instance-connect";

/// Show who came in through EC2 Instance Connect, by whom the key was pushed, and for how long they stayed
#[derive(Debug, Clone, clap::Args)]
pub struct History {
    /// Nothing before TIME: 2h, 3d, 2025-01-30, "2025-01-30 10:40" (local time), 2025-01-30T10:40:08Z, @1738233608
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Nothing that began after TIME
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only logins as this OS user
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Only keys pushed by an ARN that fits: * is any text, ? is any one character
    #[arg(long, value_name = "PATTERN")]
    pub principal: Option<String>,
    /// CloudTrail's files as S3 delivers them: one file, or a directory with all below it
    #[arg(long, value_name = "FILE-OR-DIR")]
    pub cloudtrail: Option<PathBuf>,
    /// Read this log file (may be repeated), and neither the journal nor /var/log
    #[arg(long, value_name = "FILE")]
    pub log: Vec<PathBuf>,
    /// Read the system whose root directory is DIR: an image, a mounted snapshot
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The instance whose unused pushes are shown (may be repeated), where the host and its log do not tell
    #[arg(long, value_name = "ID")]
    pub instance: Vec<String>,
    /// The uid that the helper's lines come from, where its user no longer exists
    #[arg(long, value_name = "UID")]
    pub helper_uid: Option<u32>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// What is asked, understood.
struct Question {
    selection: Selection,
    instances: BTreeSet<Safe>,
}

impl History {
    /// Reads the sources, joins them and writes the page.
    #[must_use]
    pub fn run(&self) -> Page {
        let zone = TimeZone::system();
        let question = match self.question(Moment::from(jiff::Timestamp::now()), &zone) {
            Ok(question) => question,
            Err(complaint) => {
                return Page {
                    err: format!("{complaint}\n"),
                    exit: EXIT_USAGE,
                    ..Page::default()
                };
            }
        };
        let mut problems = Problems::default();
        let history = self.collect(&question, &zone, &mut problems);
        let mut out = Vec::new();
        let written = if self.json {
            render::json(&history, &mut out)
        } else {
            render::text(&history.rows, paint::wanted(), &mut out)
        };
        if let Err(error) = written {
            problems.say(&format!("cannot write: {error}"));
        }
        let exit = if problems.unreadable { EXIT_UNREADABLE } else { 0 };
        let mut err = problems.text;
        if !self.json {
            err.push_str(&notes(&history));
        }
        Page { out, err, exit }
    }

    fn question(&self, now: Moment, zone: &TimeZone) -> Result<Question, String> {
        let moment = |text: &Option<String>, otherwise| match text {
            Some(text) => Moment::from_words(text, now, zone),
            None => Ok(otherwise),
        };
        let instance = |text: &String| match InstanceId::new(text) {
            Some(id) => Ok(Safe::new(id.as_str())),
            None => Err(format!("`{}` is no instance id", escape::text(text))),
        };
        Ok(Question {
            selection: Selection {
                since: moment(&self.since, Moment::MIN)?,
                until: moment(&self.until, Moment::MAX)?,
                user: self.user.clone(),
                principal: self.principal.as_deref().map(Pattern::new),
            },
            instances: self.instance.iter().map(instance).collect::<Result<_, _>>()?,
        })
    }

    fn collect(&self, question: &Question, zone: &TimeZone, problems: &mut Problems) -> render::History {
        let selection = &question.selection;
        let accounts = Accounts::new(&self.root);
        let uid_of = |user: &str| accounts.uid(user);
        let mut join = Join::new(&uid_of);
        let mut sink = |event: &Event| match event.said {
            // A login that begins later is not asked for; the end of one that was is.
            Said::Helper(Helper::Provided { .. } | Helper::Refused { .. } | Helper::Linked { .. })
                if event.time > selection.until =>
            {
                Ok(())
            }
            _ => join.take(event),
        };
        let trust = Trust {
            helper: self.helper_uid.or_else(|| accounts.uid(HELPER_USER)),
        };
        let sources = self.read_logs(
            selection.since.plus_secs(-MAX_LOGIN),
            trust,
            zone,
            &mut sink,
            problems,
        );
        let mut rows = join.finish();

        let mut instances = question.instances.clone();
        instances.extend(rows.iter().filter_map(|row| row.instance.clone()));
        if self.root == Path::new("/") && self.log.is_empty() {
            instances.extend(sources::this_instance());
        }
        let mut trail = None;
        if let Some(path) = &self.cloudtrail {
            let wanted = Wanted::new(&rows, instances.clone(), selection.since, selection.until);
            match sources::cloudtrail(path, &wanted, &mut |path, error| problems.unreadable(path, error)) {
                Ok((pushes, tally, read)) => {
                    rows = reconcile::reconcile(rows, pushes, &wanted, tally.span);
                    trail = Some(read);
                }
                Err(TooMany) => problems.unreadable(path, &TooMany),
            }
            if instances.is_empty() {
                problems.say(
                    "which instance this is, is not known: unused pushes are not shown (use --instance)",
                );
            }
        }
        rows.retain(|row| selection.keeps(row));
        render::History {
            since: self.since.as_ref().map(|_| selection.since),
            until: self.until.as_ref().map(|_| selection.until),
            instances: instances.into_iter().collect(),
            sources,
            cloudtrail: trail,
            rows,
        }
    }

    /// Reads the named files; else the journal, and the files for the time before it begins (RHEL's and Amazon
    /// Linux's journal begins with the boot, their files go on).
    fn read_logs(
        &self,
        since: Moment,
        trust: Trust,
        zone: &TimeZone,
        sink: sources::Sink<'_>,
        problems: &mut Problems,
    ) -> Vec<render::Source> {
        let mut sources = Vec::new();
        if !self.log.is_empty() {
            for path in &self.log {
                let read = sources::log_file(path, since, Moment::MAX, zone, sink);
                problems.keep(path, read, &mut sources);
            }
            return sources;
        }
        let journal_name = Path::new("the journal");
        let journal = Journal::find(&self.root);
        let begins = match journal.as_ref().map(Journal::begins) {
            Some(Ok(begins)) => begins,
            Some(Err(error)) => {
                problems.unreadable(journal_name, &error);
                None
            }
            None => None,
        };
        // The journal's own first moment is the journal's.
        let files_until = begins.unwrap_or(Moment::MAX);
        if since < files_until {
            match sources::log_files(&self.root) {
                Ok(files) => {
                    if files.is_empty() && journal.is_none() {
                        problems.unreadable(
                            &self.root.join("var/log"),
                            &"neither a journal nor auth.log nor secure",
                        );
                    }
                    for path in files {
                        let read = sources::log_file(&path, since, files_until, zone, sink);
                        problems.keep(&path, read, &mut sources);
                    }
                }
                Err(error) => problems.unreadable(&self.root.join("var/log"), &error),
            }
        }
        if let Some(journal) = journal {
            let read = journal.read(since, &trust, sink);
            problems.keep(journal_name, read, &mut sources);
        }
        sources
    }
}

/// What went wrong on the way.
#[derive(Debug, Default)]
struct Problems {
    text: String,
    unreadable: bool,
}

impl Problems {
    fn say(&mut self, sentence: &str) {
        self.text.push_str(sentence);
        self.text.push('\n');
    }

    fn unreadable(&mut self, path: &Path, error: &dyn std::fmt::Display) {
        self.unreadable = true;
        let path = path.display().to_string();
        self.say(&format!(
            "{}: {}",
            escape::text(&path),
            escape::text(&error.to_string())
        ));
    }

    fn keep(
        &mut self,
        path: &Path,
        read: Result<render::Source, ReadError>,
        sources: &mut Vec<render::Source>,
    ) {
        match read {
            Ok(source) => sources.push(source),
            Err(error) => self.unreadable(path, &error),
        }
    }
}

/// What a person should know beside the rows.
fn notes(history: &render::History) -> String {
    let mut notes = String::new();
    if history.rows.is_empty() {
        notes.push_str("Nothing was found.\n");
    }
    let forged: u64 = history.sources.iter().map(|source| source.forged).sum();
    if forged > 0 {
        notes.push_str(&format!(
            "{forged} lines say what only sshd or the helper may say and came from somebody else: not counted.\n"
        ));
    }
    notes
}
