//! What is said about a decision, to the system's log: facility authpriv, identifier `ec2-instance-connect`.
//!
//! The log must never decide: a full queue, a dead logger or none at all costs at most [`PATIENCE`] and changes
//! nothing. All foreign text passes through [`crate::escape`].

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::unistd::getppid;
use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

use crate::authorize::{Decision, Facts};
use crate::config::Level;
use crate::escape;
use crate::keys::AuthorizedKey;
use crate::reason::{Reason, Refusal};

/// The identifier that operators filter by, as the shell scripts had it.
const IDENTIFIER: &str = "ec2-instance-connect";

/// Where the system's logger listens (syslog(3)).
const DEV_LOG: &str = "/dev/log";

/// The longest that logging may hold up a login, all lines together.
const PATIENCE: Duration = Duration::from_millis(100);

/// Says what was decided for `user`, as sshd named it, and why.
pub fn report(user: &str, fingerprint: Option<&str>, decision: &Decision, level: Level) {
    let mut log = Log::open();
    let who = Who {
        user,
        sshd_pid: getppid().as_raw(),
    };
    if let Some(fingerprint) = fingerprint.filter(|_| decision.facts.key_document) {
        log.say(&format!(
            "Querying EC2 Instance Connect keys for matching fingerprint: {}",
            escape::token(fingerprint)
        ));
    }
    for key in &decision.keys {
        log.say(&provided(key, &who, &decision.facts));
    }
    for (refusal, count) in &decision.refusals {
        if level == Level::Debug || is_news(refusal.reason, decision) {
            log.say(&refused(refusal, *count, &who));
        }
    }
    if level == Level::Debug {
        log.say(&rested_on(&decision.facts, &who));
    }
}

/// Whether a person would want this refusal explained.
///
/// A user without a pushed key is every ordinary login. Beside a key that was given, another user's or an
/// earlier push is no news either; a record that somebody may have tampered with always is.
fn is_news(reason: Reason, decision: &Decision) -> bool {
    match reason {
        Reason::User | Reason::NoKey => false,
        Reason::Fingerprint | Reason::RecordExpired => decision.keys.is_empty(),
        _ => true,
    }
}

struct Who<'a> {
    user: &'a str,
    sshd_pid: i32,
}

impl std::fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "user={} sshd-pid={}", escape::token(self.user), self.sshd_pid)
    }
}

/// The line that CloudTrail is joined with, word for word as the shell scripts wrote it, and then our fields.
fn provided(key: &AuthorizedKey, who: &Who<'_>, facts: &Facts) -> String {
    let mut line = format!(
        "Providing ssh key from EC2 Instance Connect with fingerprint: {}",
        key.fingerprint()
    );
    if let Some(request_id) = key.request_id() {
        line.push_str(&format!(", request-id: {}", escape::token(request_id)));
    }
    if let Some(caller) = key.caller() {
        line.push_str(&format!(", for IAM principal: {}", escape::token(caller)));
    }
    line.push_str(&format!(" {who} expires={}", key.expires()));
    if let Some(instance) = &facts.instance {
        line.push_str(&format!(" instance={instance}"));
    }
    line
}

fn refused(refusal: &Refusal, count: usize, who: &Who<'_>) -> String {
    let mut line = format!(
        "Refused EC2 Instance Connect keys for {}: reason={} {who}",
        escape::token(who.user),
        refusal.reason
    );
    if count > 1 {
        line.push_str(&format!(" records={count}"));
    }
    line.push_str(&format!(" detail=\"{}\"", escape::text(&*refusal.detail)));
    line
}

/// What the decision rested on, for a debug log.
fn rested_on(facts: &Facts, who: &Who<'_>) -> String {
    let Facts {
        instance,
        place,
        anchors,
        requests,
        elapsed,
        ..
    } = facts;
    let mut line = format!(
        "Decided {who} requests={requests} milliseconds={}",
        elapsed.as_millis()
    );
    if let Some(instance) = instance {
        line.push_str(&format!(" instance={instance}"));
    }
    if let Some(place) = place {
        line.push_str(&format!(
            " partition={} signer={}",
            place.partition(),
            place.signer_name()
        ));
    }
    if let Some(anchors) = anchors {
        line.push_str(&format!(" anchors={}", escape::token(anchors)));
    }
    line
}

/// The connection to the system's logger, or none.
struct Log {
    logger: Option<Logger<LoggerBackend, Plain>>,
    patience: Duration,
}

impl Log {
    fn open() -> Self {
        let connect = || {
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect(DEV_LOG).ok()?;
            Some(Logger::new(
                LoggerBackend::Unix(socket),
                Plain {
                    pid: std::process::id(),
                },
            ))
        };
        Self {
            logger: connect(),
            patience: PATIENCE,
        }
    }

    /// Sends one line, or gives up logging for this run.
    fn say(&mut self, line: &str) {
        let Some(logger) = &mut self.logger else { return };
        let LoggerBackend::Unix(socket) = &logger.backend else {
            return;
        };
        let begun = Instant::now();
        // A zero time-out would mean to wait for ever.
        let sent = !self.patience.is_zero()
            && socket.set_write_timeout(Some(self.patience)).is_ok()
            && logger.info(line).is_ok();
        self.patience = self.patience.saturating_sub(begun.elapsed());
        if !sent {
            self.logger = None;
        }
    }
}

/// The line as local loggers take it: priority, identifier, pid, text. The time is left to the logger, which
/// has its own clock and ignores ours.
struct Plain {
    pid: u32,
}

impl LogFormat<&str> for Plain {
    fn format<W: Write>(&self, out: &mut W, severity: Severity, line: &str) -> syslog::Result<()> {
        #[expect(
            clippy::as_conversions,
            reason = "both are C enumerations, and syslog(3) adds them so"
        )]
        let priority = Facility::LOG_AUTHPRIV as u8 | severity as u8;
        write!(out, "<{priority}>{IDENTIFIER}[{}]: {line}", self.pid).map_err(syslog::Error::Write)
    }
}
