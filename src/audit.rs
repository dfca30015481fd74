//! What is said about a decision, to the system's log: facility authpriv, identifier `ec2-instance-connect`.
//!
//! One channel for each event, never two: journald's own socket where it is, with fields to search by, and
//! `/dev/log` elsewhere, with the same text. The log must never decide: a full queue, a dead logger or none at
//! all costs at most [`PATIENCE`] and changes nothing. All foreign text passes through [`crate::escape`].
//!
//! A person who runs the helper on a terminal reads the same lines there. sshd gives its command no terminal, and
//! would log what it wrote to standard error as sshd's own words.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::{Pid, getppid};
use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

use crate::authorize::{Decision, Facts};
use crate::config::Level;
use crate::escape;
use crate::keys::AuthorizedKey;
use crate::link::run::Outcome;
use crate::reason::{Reason, Refusal};

/// The identifier that operators filter by, as the shell scripts had it.
const IDENTIFIER: &str = "ec2-instance-connect";

/// Where journald listens for events with fields (systemd's "Native Journal Protocol").
const JOURNAL: &str = "/run/systemd/journal/socket";

/// Where every logger listens (syslog(3)).
const DEV_LOG: &str = "/dev/log";

/// The loggers' sockets, in the order in which they are tried.
pub const SOCKETS: [&str; 2] = [JOURNAL, DEV_LOG];

/// The longest that logging may hold up a login, all lines together.
const PATIENCE: Duration = Duration::from_millis(100);

/// Says what was decided for `user`, as sshd named it, and why; and which links gave lines.
///
/// What nobody is going to read is not written: most logins are of somebody who has no key here.
pub fn report(log: &mut Log, user: &str, fingerprint: Option<&str>, decision: &Decision, level: Level) {
    let who = Who {
        user,
        sshd_pid: Pid::as_raw(getppid()),
    };
    if let Some(fingerprint) = fingerprint.filter(|_| decision.facts.key_document) {
        log.say(&queried(fingerprint, &who));
    }
    let mut last = String::new();
    for event in decision
        .keys
        .iter()
        .map(|key| provided(key, &who, &decision.facts))
    {
        // Records that differ in nothing that is logged are one event.
        if event.text != last {
            log.say(&event);
            last = event.text;
        }
    }
    for (refusal, count) in &decision.refusals {
        let loud = level == Level::Debug || is_news(refusal.reason, decision);
        log.tell(loud, || refused(refusal, *count, &who, &decision.facts));
    }
    for link in &decision.links {
        // A link that has no key for somebody is every ordinary login of others.
        let is_news = link.lines.as_ref().map_or(true, |lines| lines.count() > 0);
        log.tell(level == Level::Debug || is_news, || {
            linked(link, &who, fingerprint)
        });
    }
    if level == Level::Debug {
        log.say(&rested_on(&decision.facts, &who));
    }
}

/// Says that another implementation gave other keys for `user` than this one, in `compare`: how many only we gave, how
/// many only it, and why as far as we know. No login is concerned, so sshd's pid is not in it; the person at the
/// terminal has read more than this already.
pub fn compared(user: &str, fingerprint: Option<&str>, only: (usize, usize), why: &str) {
    let (user, (ours, theirs)) = (escape::token(user), only);
    let mut event = Event {
        text: format!("Compared EC2 Instance Connect keys for {user}: different"),
        fields: Vec::new(),
    }
    .with("EIC_EVENT", "compared")
    .with("EIC_USER", user)
    .with("EIC_ONLY_OURS", ours)
    .with("EIC_ONLY_THEIRS", theirs)
    .with_some("EIC_FINGERPRINT", fingerprint.map(escape::token))
    .with("EIC_DETAIL", escape::text(why));
    event.word("only-ours", ours);
    event.word("only-theirs", theirs);
    if let Some(fingerprint) = fingerprint {
        event.word("fingerprint", escape::token(fingerprint));
    }
    event.word("detail", format_args!("\"{}\"", escape::text(why)));
    let mut log = Log {
        terminal: Some(false),
        ..Log::default()
    };
    log.say(&event);
}

/// Whether a person would want this refusal explained.
///
/// A user without a pushed key is every ordinary login. Beside a key that was given, another user's or an
/// earlier push is no news either; a record that somebody may have tampered with always is.
fn is_news(reason: Reason, decision: &Decision) -> bool {
    match reason {
        Reason::User | Reason::NoKey => false,
        Reason::Fingerprint | Reason::RecordExpired | Reason::Used => decision.keys.is_empty(),
        _ => true,
    }
}

struct Who<'a> {
    user: &'a str,
    sshd_pid: i32,
}

/// One event: its text, which every logger gets, and the fields that journald keeps beside it.
struct Event {
    text: String,
    fields: Vec<(&'static str, String)>,
}

impl Event {
    fn new(kind: &'static str, who: &Who<'_>, text: String) -> Self {
        Self {
            text,
            fields: Vec::new(),
        }
        .with("EIC_EVENT", kind)
        .with("EIC_USER", escape::token(who.user))
        .with("EIC_SSHD_PID", who.sshd_pid)
    }

    fn with(mut self, name: &'static str, value: impl Display) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }

    fn with_some(self, name: &'static str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Appends ` name=value` to the text, for those who have only the text.
    fn word(&mut self, name: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = std::fmt::Write::write_fmt(&mut self.text, format_args!(" {name}={value}"));
    }

    fn who(&mut self, who: &Who<'_>) {
        self.word("user", escape::token(who.user));
        self.word("sshd-pid", who.sshd_pid);
    }
}

fn queried(fingerprint: &str, who: &Who<'_>) -> Event {
    let fingerprint = escape::token(fingerprint);
    let text = format!("Querying EC2 Instance Connect keys for matching fingerprint: {fingerprint}");
    Event::new("queried", who, text).with("EIC_FINGERPRINT", fingerprint)
}

/// The line that CloudTrail is joined with, word for word as the shell scripts wrote it, and then our fields.
fn provided(key: &AuthorizedKey, who: &Who<'_>, facts: &Facts) -> Event {
    let fingerprint = key.fingerprint();
    let request_id = key.request_id().map(escape::token);
    let caller = key.caller().map(escape::token);
    let mut text = format!("Providing ssh key from EC2 Instance Connect with fingerprint: {fingerprint}");
    if let Some(request_id) = request_id {
        text.push_str(&format!(", request-id: {request_id}"));
    }
    if let Some(caller) = caller {
        text.push_str(&format!(", for IAM principal: {caller}"));
    }
    let mut event = Event::new("provided", who, text)
        .with("EIC_FINGERPRINT", fingerprint)
        .with_some("EIC_REQUEST_ID", request_id)
        .with_some("EIC_CALLER", caller)
        .with("EIC_EXPIRES", key.expires())
        .with_some("EIC_INSTANCE", facts.instance.as_ref())
        .with("EIC_MILLISECONDS", facts.elapsed.as_millis());
    event.who(who);
    event.word("expires", key.expires());
    if let Some(instance) = &facts.instance {
        event.word("instance", instance);
    }
    event
}

fn refused(refusal: &Refusal, count: usize, who: &Who<'_>, facts: &Facts) -> Event {
    let text = format!(
        "Refused EC2 Instance Connect keys for {}: reason={}",
        escape::token(who.user),
        refusal.reason
    );
    let detail = escape::text(&*refusal.detail);
    let mut event = Event::new("refused", who, text)
        .with("EIC_REASON", refusal.reason)
        .with("EIC_RECORDS", count)
        .with("EIC_DETAIL", detail)
        .with_some("EIC_INSTANCE", facts.instance.as_ref())
        .with("EIC_MILLISECONDS", facts.elapsed.as_millis());
    event.who(who);
    if count > 1 {
        event.word("records", count);
    }
    event.word("detail", format_args!("\"{detail}\""));
    event
}

/// What came of a link: the lines that were passed on, or why none were; and which key sshd asked about, so that
/// `history` knows whose login it was.
fn linked(link: &Outcome, who: &Who<'_>, fingerprint: Option<&str>) -> Event {
    let user = escape::token(who.user);
    let mut event = match &link.lines {
        Ok(lines) => {
            let count = lines.count();
            let text = format!("Passing on {count} lines of link {} for {user}:", link.name);
            let mut event = Event::new("link", who, text).with("EIC_LINES", count);
            event.word("lines", count);
            event
        }
        Err(refusal) => {
            let text = format!(
                "Passing on nothing of link {} for {user}: reason={}",
                link.name, refusal.reason
            );
            let detail = escape::text(&*refusal.detail);
            let mut event = Event::new("link", who, text)
                .with("EIC_REASON", refusal.reason)
                .with("EIC_DETAIL", detail);
            event.word("detail", format_args!("\"{detail}\""));
            event
        }
    };
    let fingerprint = fingerprint.map(escape::token);
    event = event
        .with("EIC_LINK", &link.name)
        .with_some("EIC_FINGERPRINT", fingerprint)
        .with("EIC_MILLISECONDS", link.elapsed.as_millis());
    event.who(who);
    event.word("link", &link.name);
    if let Some(fingerprint) = fingerprint {
        event.word("fingerprint", fingerprint);
    }
    event
}

/// What the decision rested on, for a debug log.
fn rested_on(facts: &Facts, who: &Who<'_>) -> Event {
    let Facts {
        instance,
        place,
        anchors,
        requests,
        elapsed,
        cage,
        ..
    } = facts;
    let mut event = Event::new("decided", who, "Decided".to_owned())
        .with("EIC_REQUESTS", requests)
        .with("EIC_MILLISECONDS", elapsed.as_millis());
    event.who(who);
    event.word("requests", requests);
    event.word("milliseconds", elapsed.as_millis());
    if let Some(instance) = instance {
        event.word("instance", instance);
    }
    if let Some(place) = place {
        event.word("partition", place.partition());
        event.word("signer", place.signer_name());
    }
    if let Some(anchors) = anchors {
        event.word("anchors", escape::token(anchors));
    }
    if let Some(cage) = cage {
        event.word("cage", cage);
        for (name, layer) in cage.layers() {
            if let Err(lack) = layer {
                event.word(name, format_args!("\"{}\"", escape::text(lack)));
            }
        }
    }
    event
}

/// The connection to the system's logger, and to the person at the terminal, if there is one.
///
/// It is made at the first event that goes to the log, or before: where [`crate::cage`] is entered no connection can be
/// made afterwards.
pub struct Log {
    channel: Channel,
    patience: Duration,
    /// Whether there is a terminal, once that was asked.
    terminal: Option<bool>,
}

enum Channel {
    /// Nothing was said yet.
    Unopened,
    Journal(UnixDatagram),
    Syslog(Logger<LoggerBackend, Plain>),
    /// There is none, or it has used up our patience.
    None,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            channel: Channel::Unopened,
            patience: PATIENCE,
            terminal: None,
        }
    }
}

impl Log {
    /// Connects to the logger, and looks for a terminal, unless that was done.
    pub fn open(&mut self) {
        if matches!(self.channel, Channel::Unopened) {
            self.channel = connect(JOURNAL).map_or_else(Channel::syslog, Channel::Journal);
        }
        self.is_watched();
    }

    /// Whether a person reads what is said here.
    fn is_watched(&mut self) -> bool {
        *self.terminal.get_or_insert_with(|| io::stderr().is_terminal())
    }

    /// Says an event that is news; one that is none is for the person at the terminal alone.
    fn tell(&mut self, is_news: bool, event: impl FnOnce() -> Event) {
        if is_news {
            self.say(&event());
        } else if self.is_watched() {
            show(&event());
        }
    }

    /// Says one event, or gives up logging for this run.
    fn say(&mut self, event: &Event) {
        self.open();
        if self.is_watched() {
            show(event);
        }
        let begun = Instant::now();
        // A zero time-out would mean to wait for ever.
        if self.patience.is_zero() || !self.channel.send(event, self.patience) {
            self.channel = Channel::None;
        }
        self.patience = self.patience.saturating_sub(begun.elapsed());
    }
}

/// Shows one event to the person at the terminal.
fn show(event: &Event) {
    let _ = writeln!(io::stderr(), "{}", event.text);
}

impl Channel {
    fn syslog() -> Self {
        match connect(DEV_LOG) {
            Some(socket) => Self::Syslog(Logger::new(LoggerBackend::Unix(socket), Plain)),
            None => Self::None,
        }
    }

    /// Whether the event went out within `patience`.
    fn send(&mut self, event: &Event, patience: Duration) -> bool {
        match self {
            Self::Journal(socket) => {
                socket.set_write_timeout(Some(patience)).is_ok() && socket.send(&journal_entry(event)).is_ok()
            }
            Self::Syslog(logger) => {
                let LoggerBackend::Unix(socket) = &logger.backend else {
                    return false;
                };
                socket.set_write_timeout(Some(patience)).is_ok() && logger.info(event.text.as_str()).is_ok()
            }
            Self::Unopened | Self::None => false,
        }
    }
}

fn connect(path: &str) -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect(path).ok()?;
    Some(socket)
}

/// The event as journald's protocol has it: a `NAME=value` line for each field. No value has a newline, since
/// all foreign text was escaped.
fn journal_entry(event: &Event) -> Vec<u8> {
    #[expect(
        clippy::as_conversions,
        reason = "a C enumeration; the journal wants facility and priority apart"
    )]
    let facility = Facility::LOG_AUTHPRIV as u8 >> 3;
    let mut entry = format!(
        "MESSAGE={}\nPRIORITY=6\nSYSLOG_FACILITY={facility}\nSYSLOG_IDENTIFIER={IDENTIFIER}\nSYSLOG_PID={}\n",
        event.text,
        std::process::id()
    );
    for (name, value) in &event.fields {
        entry.push_str(&format!("{name}={value}\n"));
    }
    entry.into_bytes()
}

/// The line as local loggers take it: priority, identifier, pid, text. The time is left to the logger, which
/// has its own clock and ignores ours.
struct Plain;

impl LogFormat<&str> for Plain {
    fn format<W: Write>(&self, out: &mut W, severity: Severity, line: &str) -> syslog::Result<()> {
        #[expect(
            clippy::as_conversions,
            reason = "both are C enumerations, and syslog(3) adds them so"
        )]
        let priority = Facility::LOG_AUTHPRIV as u8 | severity as u8;
        write!(out, "<{priority}>{IDENTIFIER}[{}]: {line}", std::process::id()).map_err(syslog::Error::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_entry_has_one_line_for_each_field_whatever_the_text() {
        let refusal = Refusal::new(Reason::RecordInstance, "two\nlines EIC_CALLER=forged");
        let who = Who {
            user: "a\nEIC_CALLER=x",
            sshd_pid: 42,
        };
        let event = refused(&refusal, 2, &who, &Facts::default());
        let entry = String::from_utf8(journal_entry(&event)).unwrap();
        let names: Vec<&str> = entry
            .lines()
            .map(|line| line.split('=').next().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "MESSAGE",
                "PRIORITY",
                "SYSLOG_FACILITY",
                "SYSLOG_IDENTIFIER",
                "SYSLOG_PID",
                "EIC_EVENT",
                "EIC_USER",
                "EIC_SSHD_PID",
                "EIC_REASON",
                "EIC_RECORDS",
                "EIC_DETAIL",
                "EIC_MILLISECONDS"
            ]
        );
        assert!(entry.contains("\nSYSLOG_FACILITY=10\n") && entry.contains("\nEIC_REASON=record-instance\n"));
    }
}
