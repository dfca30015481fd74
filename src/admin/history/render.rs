//! The history as people read it, and as JSON.
#![deny(clippy::disallowed_methods)]

use std::io::{self, Write};

use serde::Serialize;

use crate::request::Fingerprint;

use super::cloudtrail::Push;
use super::event::{Boot, Safe};
use super::join::{EndBy, JoinedBy, Kind, Match, Proof, Refused, Row, Session};
use super::moment::{Moment, length};

/// Name and version of the JSON form. A field may be added under the same number; anything else takes a new one.
pub const SCHEMA: &str = "ec2-instance-connect/history/1";

/// Everything there is to tell.
#[derive(Debug)]
pub struct History {
    /// From when, if not from the beginning.
    pub since: Option<Moment>,
    /// Until when, if not until now.
    pub until: Option<Moment>,
    /// The instances whose pushes are looked for.
    pub instances: Vec<Safe>,
    /// What was read.
    pub sources: Vec<Source>,
    /// What CloudTrail's files held.
    pub cloudtrail: Option<Trail>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// What was read of one log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Source {
    /// `journal`, or the file's path.
    pub name: String,
    /// Lines that meant something.
    pub events: u64,
    /// Lines that said what their sender may not say. Only the journal tells.
    pub forged: u64,
    /// Lines that are no lines of such a log, or too long for one of ours.
    pub unreadable: u64,
}

/// What CloudTrail's files held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trail {
    /// Files read.
    pub files: u64,
    /// Events of any kind.
    pub events: u64,
    /// Pushes that were kept: for this host, or for its log.
    pub pushes: usize,
    /// The first event of any kind.
    pub earliest: Option<Moment>,
    /// The last.
    pub latest: Option<Moment>,
}

/// Writes `history` as one JSON object on one line.
///
/// # Errors
/// The writer's.
pub fn json(history: &History, mut out: impl Write) -> io::Result<()> {
    let document = Document {
        schema: SCHEMA,
        since: history.since,
        until: history.until,
        instances: &history.instances,
        sources: &history.sources,
        cloudtrail: history.cloudtrail.as_ref(),
        rows: history.rows.iter().map(JsonRow::from).collect(),
    };
    out.write_all(&crate::admin::output::json_line(&document)?)
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    since: Option<Moment>,
    until: Option<Moment>,
    instances: &'a [Safe],
    sources: &'a [Source],
    cloudtrail: Option<&'a Trail>,
    rows: Vec<JsonRow<'a>>,
}

#[derive(Serialize)]
struct JsonRow<'a> {
    kind: Kind,
    time: Moment,
    user: Option<&'a Safe>,
    fingerprint: Option<String>,
    instance: Option<&'a Safe>,
    sshd_pid: Option<u32>,
    boot: Option<Boot>,
    joined_by: JoinedBy,
    proof: Proof,
    let_in_otherwise: bool,
    session: Option<JsonSession<'a>>,
    grants: Vec<JsonGrant<'a>>,
    links: &'a [Safe],
    refusals: &'a [Refused],
}

#[derive(Serialize)]
struct JsonSession<'a> {
    accepted: Moment,
    address: &'a str,
    port: u16,
    key_type: &'a str,
    ended: Option<Moment>,
    end_by: Option<EndBy>,
    seconds: Option<i64>,
}

#[derive(Serialize)]
struct JsonGrant<'a> {
    request_id: Option<&'a Safe>,
    principal: Option<&'a Safe>,
    expires: Option<i64>,
    /// `not-asked`, `found`, `absent` or `not-covered`.
    cloudtrail: &'static str,
    contradicts: &'a [&'static str],
    push: Option<JsonPush<'a>>,
}

#[derive(Serialize)]
struct JsonPush<'a> {
    time: Moment,
    event_id: Option<&'a Safe>,
    principal: Option<&'a Safe>,
    user: Option<&'a Safe>,
    instance: Option<&'a Safe>,
    fingerprint: Option<String>,
    source_address: Option<&'a Safe>,
    user_agent: Option<&'a Safe>,
}

fn shown(fingerprint: Option<Fingerprint>) -> Option<String> {
    fingerprint.map(|fingerprint| fingerprint.to_string())
}

impl<'a> From<&'a Row> for JsonRow<'a> {
    fn from(row: &'a Row) -> Self {
        Self {
            kind: row.kind,
            time: row.time,
            user: row.user.as_ref(),
            fingerprint: shown(row.fingerprint),
            instance: row.instance.as_ref(),
            sshd_pid: row.pid,
            boot: row.boot,
            joined_by: row.joined_by,
            proof: row.proof,
            let_in_otherwise: row.otherwise,
            session: row.session.as_ref().map(JsonSession::from),
            grants: row
                .grants
                .iter()
                .map(|(grant, matched)| JsonGrant {
                    request_id: grant.request_id.as_ref(),
                    principal: grant.principal.as_ref(),
                    expires: grant.expires,
                    cloudtrail: match matched {
                        Match::NotAsked => "not-asked",
                        Match::Found(..) => "found",
                        Match::Absent => "absent",
                        Match::NotCovered => "not-covered",
                    },
                    contradicts: match matched {
                        Match::Found(_, fields) => fields,
                        _ => &[],
                    },
                    push: match matched {
                        Match::Found(push, _) => Some(push.as_ref().into()),
                        _ => None,
                    },
                })
                .collect(),
            links: &row.links,
            refusals: &row.refusals,
        }
    }
}

impl<'a> From<&'a Session> for JsonSession<'a> {
    fn from(session: &'a Session) -> Self {
        let (ended, end_by) = session.ended.unzip();
        Self {
            accepted: session.accepted,
            address: &session.peer.address,
            port: session.peer.port,
            key_type: &session.key_kind,
            ended,
            end_by,
            seconds: ended.map(|ended| ended.secs_since(session.accepted)),
        }
    }
}

impl<'a> From<&'a Push> for JsonPush<'a> {
    fn from(push: &'a Push) -> Self {
        Self {
            time: push.time,
            event_id: push.event_id.as_ref(),
            principal: push.principal.as_ref(),
            user: push.user.as_ref(),
            instance: push.instance.as_ref(),
            fingerprint: shown(push.fingerprint),
            source_address: push.source.as_ref(),
            user_agent: push.agent.as_ref(),
        }
    }
}

/// How a cell or a line stands out on a terminal (ECMA-48 SGR).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Head,
    Good,
    Warn,
    Bad,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Head => "\x1b[1m",
            Self::Good => "\x1b[32m",
            Self::Warn => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

const HEAD: [&str; 8] = [
    "TIME",
    "USER",
    "WHAT",
    "FROM",
    "LENGTH",
    "PRINCIPAL",
    "REQUEST ID",
    "KEY",
];

/// What stands where nothing is known.
const NOTHING: &str = "-";

/// Writes the rows in aligned columns, and beneath a row what is remarkable about it.
///
/// # Errors
/// The writer's.
pub fn text(rows: &[Row], colour: bool, mut out: impl Write) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let lines: Vec<[String; 8]> = rows.iter().map(cells).collect();
    let mut widths = HEAD.map(str::len);
    for line in &lines {
        // All cells are ASCII, so a byte is a column.
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.len());
        }
    }
    let mut put = |style: Style, line: &str| {
        let line = line.trim_end();
        if colour && style != Style::Plain {
            writeln!(out, "{}{line}\x1b[0m", style.code())
        } else {
            writeln!(out, "{line}")
        }
    };
    put(Style::Head, &aligned(&widths, &HEAD))?;
    for (row, line) in rows.iter().zip(&lines) {
        put(
            style(row),
            &aligned(&widths, &line.each_ref().map(String::as_str)),
        )?;
        for (style, remark) in remarks(row) {
            put(style, &format!("    {remark}"))?;
        }
    }
    Ok(())
}

fn aligned(widths: &[usize; 8], cells: &[&str; 8]) -> String {
    let mut line = String::new();
    for (width, cell) in widths.iter().zip(cells) {
        line.push_str(&format!("{cell:width$}  "));
    }
    line
}

fn cells(row: &Row) -> [String; 8] {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    let grant = row.grants.last().map(|(grant, _)| grant);
    let what = match row.kind {
        Kind::Login => "login",
        Kind::Linked => "linked",
        Kind::Partial => "partial",
        Kind::Offered => "offered",
        Kind::Refused => "refused",
        Kind::UnusedPush => "unused",
    };
    [
        row.time.to_string(),
        or_nothing(row.user.as_ref().map(Safe::to_string)),
        what.to_owned(),
        or_nothing(row.session.as_ref().map(|session| session.peer.to_string())),
        or_nothing(row.session.as_ref().and_then(|session| {
            let (ended, _) = session.ended?;
            Some(length(ended.secs_since(session.accepted)))
        })),
        or_nothing(grant.and_then(|grant| grant.principal.as_ref().map(Safe::to_string))),
        or_nothing(grant.and_then(|grant| grant.request_id.as_ref().map(Safe::to_string))),
        or_nothing(shown(row.fingerprint)),
    ]
}

fn style(row: &Row) -> Style {
    match row.kind {
        Kind::Login | Kind::Linked => Style::Good,
        Kind::UnusedPush | Kind::Partial => Style::Warn,
        Kind::Offered | Kind::Refused => Style::Plain,
    }
}

/// What is remarkable about a row.
fn remarks(row: &Row) -> Vec<(Style, String)> {
    let mut remarks = Vec::new();
    let mut say = |style, remark| remarks.push((style, remark));
    match row.kind {
        Kind::Partial => say(
            Style::Warn,
            "the key was right; a further step of sshd's was not taken".to_owned(),
        ),
        Kind::Offered if row.otherwise => say(Style::Plain, "let in by another key or method".to_owned()),
        Kind::Offered => say(
            Style::Plain,
            "the key was given to sshd, and no login by it followed".to_owned(),
        ),
        Kind::UnusedPush => say(Style::Warn, "pushed, and nobody came with it".to_owned()),
        Kind::Linked | Kind::Login | Kind::Refused => {}
    }
    if row.grants.is_empty() && !row.links.is_empty() {
        let names: Vec<&str> = row.links.iter().map(Safe::as_str).collect();
        say(
            Style::Plain,
            match names.as_slice() {
                [name] => format!("by a key of link {name}"),
                names => format!("by a key of one of the links {}", names.join(", ")),
            },
        );
    }
    match row.joined_by {
        JoinedBy::Fingerprint => say(
            Style::Plain,
            "joined by key and time, not by sshd's pid".to_owned(),
        ),
        JoinedBy::Ambiguous => say(
            Style::Warn,
            "joined by key and time, and other logins fit as well".to_owned(),
        ),
        JoinedBy::Pid | JoinedBy::Nothing => {}
    }
    let latest = row.grants.len().saturating_sub(1);
    for (at, (grant, matched)) in row.grants.iter().enumerate() {
        if at != latest {
            let known = |text: Option<&Safe>| text.map_or(NOTHING, Safe::as_str).to_owned();
            say(
                Style::Warn,
                format!(
                    "the same key was also pushed by {}, request {}",
                    known(grant.principal.as_ref()),
                    known(grant.request_id.as_ref())
                ),
            );
        }
        match matched {
            Match::Absent => say(
                Style::Bad,
                "CloudTrail has no push with this request id".to_owned(),
            ),
            Match::NotCovered => say(
                Style::Plain,
                "the CloudTrail files do not cover the time of the push".to_owned(),
            ),
            Match::Found(push, fields) => {
                let source = push.source.as_ref().map_or(NOTHING, Safe::as_str);
                let agent = push.agent.as_ref().map_or(NOTHING, Safe::as_str);
                say(
                    Style::Plain,
                    format!("pushed {} from {source} by {agent}", push.time),
                );
                for field in fields {
                    say(Style::Bad, contradiction(field, push));
                }
            }
            Match::NotAsked => {}
        }
    }
    for refused in &row.refusals {
        let times = match refused.count {
            1 => String::new(),
            count => format!(" ({count} times)"),
        };
        let what = match &refused.link {
            None => "refused".to_owned(),
            Some(link) => format!("nothing of link {link}:"),
        };
        say(
            Style::Plain,
            format!("{what} {}{times}: {}", refused.reason, refused.detail),
        );
    }
    remarks
}

fn contradiction(field: &str, push: &Push) -> String {
    let theirs = match field {
        "user" => push.user.as_ref(),
        "instance" => push.instance.as_ref(),
        "principal" => push.principal.as_ref(),
        "fingerprint" => return "CloudTrail's key of this request is another one".to_owned(),
        _ => return "several pushes of this key fit".to_owned(),
    };
    format!(
        "CloudTrail's {field} of this request is {}",
        theirs.map_or(NOTHING, Safe::as_str)
    )
}
