//! Events in, rows out: which lines are of one login.
//!
//! ```text
//! helper   Providing … F … sshd-pid=812          (probe)  ┐
//! helper   Providing … F … sshd-pid=812          (real)   ├ one connection: boot, pid, user
//! sshd[812]  Accepted publickey for U … F                 ┘ … and key
//! sshd[812]  session closed for user U                      its end; or, without PAM,
//! sshd[840]  Disconnected from user U ADDR port P           from the session's own process: address and port
//! ```
//!
//! A link's key is joined in the same way: the helper says which link's lines it passed on when sshd asked about which key.
//!
//! The helper's parent is the connection's privileged monitor, whose pid sshd logs with: the join is exact. Pids
//! come again, so boot (where the source knows it), user, key and [`MAX_LOGIN`] bind it too. The shell scripts
//! before us named no connection: their lines are joined by key and time, and the row says so.
//!
//! Pure: memory holds the connections that the helper spoke of, and no others.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::instance::InstanceId;
use crate::request::Fingerprint;

use super::cloudtrail::Push;
use super::event::{Boot, Connection, Event, Grant, Helper, Key, Lines, Peer, Safe, Said, Sender, Sshd};
use super::moment::Moment;

/// The longest time from the helper's word to the login: five times sshd's default LoginGraceTime, within
/// which all of a connection's authentication must end.
pub const MAX_LOGIN: i64 = 600;

/// The most rows, of about 1 KiB each, so that memory stays bounded whatever the logs hold.
pub const MAX_ROWS: usize = 250_000;

/// Keys, pushes of a key, links and reasons within one row: what comes after begins another row. sshd's MaxAuthTries is
/// 6 by default and there are fewer than 40 reasons, so only a forged log has more.
const MAX_PER_CONNECTION: usize = 64;

/// There are more rows than [`MAX_ROWS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "more than {MAX_ROWS} logins and pushes: ask for less with --since and --until"
        )
    }
}

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Somebody logged in by a pushed key.
    Login,
    /// Somebody logged in by a key that a link gave.
    Linked,
    /// The key, pushed or a link's, was right, and another step that sshd demands was not taken.
    Partial,
    /// sshd was given a pushed key, and no login by it followed.
    Offered,
    /// No key was given.
    Refused,
    /// CloudTrail knows a push that this host never asked about.
    UnusedPush,
}

/// How the lines of a row were found to belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinedBy {
    /// By sshd's pid: exact.
    Pid,
    /// By key and time, the only candidate (the shell scripts' lines).
    Fingerprint,
    /// By key and time, one of several candidates.
    Ambiguous,
    /// There was nothing to join.
    Nothing,
}

/// What vouches for a row's log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// The journal: the kernel named each line's sender.
    Journal,
    /// A text file: whoever may log could have written it.
    Text,
    /// CloudTrail alone.
    Cloudtrail,
}

/// Who told the end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndBy {
    /// PAM, in the connection's monitor.
    Pam,
    /// The connection's end, in the monitor or in the session's own process.
    Disconnect,
}

/// How a grant stands to CloudTrail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// No CloudTrail files were given.
    NotAsked,
    /// This push, and the fields in which it contradicts the log.
    Found(Box<Push>, Vec<&'static str>),
    /// CloudTrail covers the time and has no such push.
    Absent,
    /// The files do not cover the time.
    NotCovered,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// When sshd accepted it.
    pub accepted: Moment,
    /// From where.
    pub peer: Peer,
    /// The key's type, as sshd names it.
    pub key_kind: String,
    /// When it ended, and who said so.
    pub ended: Option<(Moment, EndBy)>,
}

/// What was refused, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The stable code.
    pub reason: Safe,
    /// In words, the first time.
    pub detail: Safe,
    /// How often.
    pub count: u32,
    /// The link that it is about; absent where it is about pushed keys.
    pub link: Option<Safe>,
}

/// One row of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is about.
    pub kind: Kind,
    /// When: the login, else the first word about it.
    pub time: Moment,
    /// Who, on this host.
    pub user: Option<Safe>,
    /// By which key.
    pub fingerprint: Option<Fingerprint>,
    /// Which pushes gave that key: more than one where the same key was pushed again within its life. None for
    /// a refusal.
    pub grants: Vec<(Grant, Match)>,
    /// The links whose lines were given to sshd when it asked about that key. Without grants, one of them gave it.
    pub links: Vec<Safe>,
    /// The login.
    pub session: Option<Session>,
    /// Whether the connection was let in otherwise: by another key, a password.
    pub otherwise: bool,
    /// Why keys were refused on this connection.
    pub refusals: Vec<Refused>,
    /// sshd's pid.
    pub pid: Option<u32>,
    /// In which boot.
    pub boot: Option<Boot>,
    /// For which instance.
    pub instance: Option<Safe>,
    /// How it was joined.
    pub joined_by: JoinedBy,
    /// What vouches for it.
    pub proof: Proof,
}

/// A key that the helper gave to sshd.
#[derive(Debug, Clone)]
struct Offer {
    fingerprint: Fingerprint,
    /// The same key as sshd's `FingerprintHash` names it, where that is not SHA-256.
    alias: Option<Fingerprint>,
    first: Moment,
    grants: Vec<Grant>,
    instance: Option<InstanceId>,
}

impl Offer {
    fn is(&self, fingerprint: Fingerprint) -> bool {
        self.fingerprint == fingerprint || self.alias == Some(fingerprint)
    }

    /// One push makes several lines: at the probe, at the attempt.
    fn add(&mut self, grant: Grant) {
        if !self.grants.contains(&grant) {
            self.grants.push(grant);
        }
    }
}

/// A link's lines, given to sshd.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Passed {
    link: Safe,
    /// The key that sshd asked about.
    asked: Fingerprint,
}

/// Where the key of a login came from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// The offer of this place.
    Offer(usize),
    /// A link that was asked about it.
    Link(Fingerprint),
}

/// One connection to sshd, that the helper spoke of.
#[derive(Debug)]
struct Conn {
    boot: Option<Boot>,
    pid: Option<u32>,
    user: Option<Safe>,
    first: Moment,
    last: Moment,
    offers: Vec<Offer>,
    passed: Vec<Passed>,
    refusals: Vec<Refused>,
    /// The login, and where its key came from.
    login: Option<(Source, Session)>,
    partial: bool,
    otherwise: bool,
    joined_by: JoinedBy,
    proof: Proof,
}

impl Conn {
    fn new(event: &Event, connection: Option<&Connection>) -> Self {
        Self {
            boot: event.boot,
            pid: connection.map(|connection| connection.pid),
            user: connection.map(|connection| connection.user.clone()),
            first: event.time,
            last: event.time,
            offers: Vec::new(),
            passed: Vec::new(),
            refusals: Vec::new(),
            login: None,
            partial: false,
            otherwise: false,
            joined_by: JoinedBy::Nothing,
            proof: proof(event),
        }
    }

    /// Whether `event` can be of this connection, as far as boot and time tell.
    fn may_hold(&self, event: &Event) -> bool {
        let boot = match (self.boot, event.boot) {
            (Some(ours), Some(theirs)) => ours == theirs,
            // A text file does not know.
            _ => true,
        };
        boot && event.time.secs_since(self.last) <= MAX_LOGIN
    }

    fn is_settled(&self) -> bool {
        self.otherwise || (self.login.is_some() && !self.partial)
    }

    fn is_full(&self) -> bool {
        self.offers.len() >= MAX_PER_CONNECTION
            || self.passed.len() >= MAX_PER_CONNECTION
            || self.refusals.len() >= MAX_PER_CONNECTION
            || self
                .offers
                .iter()
                .any(|offer| offer.grants.len() >= MAX_PER_CONNECTION)
    }

    /// Where this key can have come from. Ours stand before a link's, and sshd takes the first that fits.
    fn source(&self, key: Fingerprint) -> Option<Source> {
        let offer = self.offers.iter().position(|offer| offer.is(key));
        let passed = || self.passed.iter().any(|passed| passed.asked == key);
        offer
            .map(Source::Offer)
            .or_else(|| passed().then_some(Source::Link(key)))
    }

    fn refuse(&mut self, link: Option<&Safe>, reason: &Safe, detail: &Safe) {
        let same = |known: &&mut Refused| known.reason == *reason && known.link.as_ref() == link;
        if let Some(known) = self.refusals.iter_mut().find(same) {
            known.count = known.count.saturating_add(1);
        } else {
            self.refusals.push(Refused {
                reason: reason.clone(),
                detail: detail.clone(),
                count: 1,
                link: link.cloned(),
            });
        }
    }

    fn take(&mut self, event: &Event) {
        self.last = event.time;
        if proof(event) == Proof::Text {
            self.proof = Proof::Text;
        }
    }
}

fn proof(event: &Event) -> Proof {
    match event.sender {
        Sender::Uid(_) => Proof::Journal,
        Sender::Unproven => Proof::Text,
    }
}

/// The join, fed with events in the order of their logs.
pub struct Join<'a> {
    uid_of: &'a dyn Fn(&str) -> Option<u32>,
    conns: Vec<Conn>,
    rows: usize,
    /// The latest connection with a pid.
    by_pid: BTreeMap<u32, usize>,
    /// The latest connection that a key was given to.
    by_key: BTreeMap<String, usize>,
    /// Sessions without an end, by where they come from.
    open: BTreeMap<(String, u16), usize>,
    /// The key that the helper of this pid was asked about last, in sshd's own form.
    queried: BTreeMap<u32, (Moment, Fingerprint)>,
}

/// Queries remembered; each is needed for the milliseconds until the same helper's next line.
const MAX_QUERIED: usize = 1024;

impl<'a> Join<'a> {
    /// A join. `uid_of` tells a user's uid: a session's own process may tell its own end, and no other.
    #[must_use]
    pub fn new(uid_of: &'a dyn Fn(&str) -> Option<u32>) -> Self {
        Self {
            uid_of,
            conns: Vec::new(),
            rows: 0,
            by_pid: BTreeMap::new(),
            by_key: BTreeMap::new(),
            open: BTreeMap::new(),
            queried: BTreeMap::new(),
        }
    }

    /// Takes the next event of the log.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn take(&mut self, event: &Event) -> Result<(), TooMany> {
        match &event.said {
            Said::Helper(Helper::Queried(fingerprint)) => {
                if self.queried.len() >= MAX_QUERIED {
                    self.queried.clear();
                }
                self.queried.insert(event.pid, (event.time, *fingerprint));
                Ok(())
            }
            Said::Helper(Helper::Provided {
                fingerprint,
                grant,
                connection,
                instance,
            }) => self.provided(event, *fingerprint, grant, connection.as_ref(), instance.as_ref()),
            Said::Helper(Helper::Refused {
                reason,
                detail,
                connection,
            }) => self.refused(event, reason, detail, connection),
            Said::Helper(Helper::Linked {
                link,
                lines,
                fingerprint,
                connection,
            }) => self.linked(event, link, lines, *fingerprint, connection),
            Said::Sshd(Sshd::Accepted {
                partial,
                user,
                peer,
                key,
            }) => self.accepted(event, *partial, user.as_str(), peer, key.as_ref()),
            Said::Sshd(Sshd::Closed(user)) => {
                self.closed(event, user.as_str());
                Ok(())
            }
            Said::Sshd(Sshd::Gone(user, peer)) => {
                self.gone(event, user.as_ref().map(|user| user.as_str()), peer);
                Ok(())
            }
        }
    }

    fn count_row(&mut self) -> Result<(), TooMany> {
        self.rows = self.rows.saturating_add(1);
        if self.rows > MAX_ROWS {
            Err(TooMany)
        } else {
            Ok(())
        }
    }

    fn add(&mut self, conn: Conn) -> Result<usize, TooMany> {
        self.count_row()?;
        self.conns.push(conn);
        Ok(self.conns.len().saturating_sub(1))
    }

    /// The connection that a helper's line is of: the one with its pid if that is still authenticating this
    /// user, else a new one.
    fn connection(&mut self, event: &Event, connection: &Connection) -> Result<usize, TooMany> {
        let known = self.by_pid.get(&connection.pid).copied().filter(|&at| {
            self.conns.get(at).is_some_and(|conn| {
                conn.may_hold(event)
                    && !conn.is_settled()
                    && !conn.is_full()
                    && conn.user.as_ref() == Some(&connection.user)
            })
        });
        match known {
            Some(at) => Ok(at),
            None => {
                let at = self.add(Conn::new(event, Some(connection)))?;
                self.by_pid.insert(connection.pid, at);
                Ok(at)
            }
        }
    }

    /// The same, with the line taken note of.
    fn heard(&mut self, event: &Event, connection: &Connection) -> Result<Option<&mut Conn>, TooMany> {
        let at = self.connection(event, connection)?;
        let Some(conn) = self.conns.get_mut(at) else {
            return Ok(None);
        };
        conn.take(event);
        Ok(Some(conn))
    }

    fn provided(
        &mut self,
        event: &Event,
        fingerprint: Fingerprint,
        grant: &Grant,
        connection: Option<&Connection>,
        instance: Option<&InstanceId>,
    ) -> Result<(), TooMany> {
        let alias = self
            .queried
            .get(&event.pid)
            .filter(|(asked, wanted)| event.time.secs_since(*asked) <= MAX_LOGIN && *wanted != fingerprint)
            .map(|(_, wanted)| *wanted)
            .filter(|wanted| matches!(wanted, Fingerprint::Md5(_)));
        let at = match connection {
            Some(connection) => self.connection(event, connection)?,
            None => self.script(event, fingerprint)?,
        };
        let Some(conn) = self.conns.get_mut(at) else {
            return Ok(());
        };
        conn.take(event);
        if let Some(offer) = conn.offers.iter_mut().find(|offer| offer.is(fingerprint)) {
            offer.add(grant.clone());
        } else {
            conn.offers.push(Offer {
                fingerprint,
                alias,
                first: event.time,
                grants: vec![grant.clone()],
                instance: instance.cloned(),
            });
        }
        self.by_key.insert(fingerprint.to_string(), at);
        self.count_row()
    }

    /// The connection that a shell script's line makes: with the probe's line and the attempt's in one.
    fn script(&mut self, event: &Event, fingerprint: Fingerprint) -> Result<usize, TooMany> {
        let known = self.by_key.get(&fingerprint.to_string()).copied().filter(|&at| {
            self.conns
                .get(at)
                .is_some_and(|conn| conn.pid.is_none() && conn.may_hold(event) && !conn.is_full())
        });
        match known {
            Some(at) => Ok(at),
            None => self.add(Conn::new(event, None)),
        }
    }

    fn refused(
        &mut self,
        event: &Event,
        reason: &Safe,
        detail: &Safe,
        connection: &Connection,
    ) -> Result<(), TooMany> {
        if let Some(conn) = self.heard(event, connection)? {
            conn.refuse(None, reason, detail);
        }
        Ok(())
    }

    /// A link's lines say nothing of their keys here: a login is by one of them only where sshd asked about its key.
    fn linked(
        &mut self,
        event: &Event,
        link: &Safe,
        lines: &Lines,
        asked: Option<Fingerprint>,
        connection: &Connection,
    ) -> Result<(), TooMany> {
        let Some(conn) = self.heard(event, connection)? else {
            return Ok(());
        };
        match (lines, asked) {
            (Lines::Withheld { reason, detail }, _) => conn.refuse(Some(link), reason, detail),
            (Lines::Passed(1..), Some(asked)) => {
                let passed = Passed {
                    link: link.clone(),
                    asked,
                };
                if !conn.passed.contains(&passed) {
                    conn.passed.push(passed);
                }
            }
            (Lines::Passed(_), _) => {}
        }
        Ok(())
    }

    fn accepted(
        &mut self,
        event: &Event,
        partial: bool,
        user: &str,
        peer: &Peer,
        key: Option<&Key>,
    ) -> Result<(), TooMany> {
        let known = self.by_pid.get(&event.pid).copied().filter(|&at| {
            self.conns.get(at).is_some_and(|conn| {
                conn.may_hold(event)
                    && !conn.is_settled()
                    && conn.user.as_ref().is_some_and(|known| known.as_str() == user)
                    // A first step was taken from where the last one is.
                    && conn.login.as_ref().is_none_or(|(_, session)| session.peer == *peer)
            })
        });
        let Some(at) = known else {
            // The pid and the port have come again: what ends now is not what began then.
            self.by_pid.remove(&event.pid);
            self.open.remove(&(peer.address.clone(), peer.port));
            return match key {
                Some(key) if !partial => self.accepted_by_key(event, user, peer, key),
                _ => Ok(()),
            };
        };
        let Some(conn) = self.conns.get_mut(at) else {
            return Ok(());
        };
        conn.take(event);
        let source = key.and_then(|key| conn.source(key.fingerprint));
        match (source, key, &mut conn.login) {
            (Some(source), Some(key), _) => {
                conn.login = Some((source, session(event, peer, key)));
                conn.partial = partial;
                conn.joined_by = JoinedBy::Pid;
            }
            // Such a key was the first step, and this is the last.
            (_, _, Some((_, session))) if !partial => {
                session.accepted = event.time;
                conn.partial = false;
            }
            (_, _, Some(_)) => {}
            (_, _, None) => {
                conn.otherwise = !partial;
                return Ok(());
            }
        }
        if !conn.partial {
            self.open.insert((peer.address.clone(), peer.port), at);
        }
        Ok(())
    }

    /// A login that no line of ours names by pid: the shell scripts' doing, or a wrapper's around us.
    fn accepted_by_key(&mut self, event: &Event, user: &str, peer: &Peer, key: &Key) -> Result<(), TooMany> {
        let Some(&latest) = self.by_key.get(&key.fingerprint.to_string()) else {
            return Ok(());
        };
        let Some(conn) = self.conns.get_mut(latest).filter(|conn| conn.may_hold(event)) else {
            return Ok(());
        };
        let Some(offer) = conn.offers.iter().position(|offer| offer.is(key.fingerprint)) else {
            return Ok(());
        };
        let may_be_theirs = conn.user.as_ref().is_none_or(|known| known.as_str() == user);
        // A first step is a connection's that is known by its pid.
        let is_free = conn.login.is_none() && !conn.otherwise;
        let at = if is_free && may_be_theirs {
            conn.joined_by = JoinedBy::Fingerprint;
            latest
        } else if conn.joined_by == JoinedBy::Pid || conn.login.is_none() {
            return Ok(());
        } else {
            // Two logins and one set of lines: each may be the one that they were for.
            conn.joined_by = JoinedBy::Ambiguous;
            let twin = Conn {
                offers: conn.offers.clone(),
                joined_by: JoinedBy::Ambiguous,
                proof: conn.proof,
                ..Conn::new(event, None)
            };
            self.add(twin)?
        };
        if let Some(conn) = self.conns.get_mut(at) {
            conn.take(event);
            conn.pid = Some(event.pid);
            conn.user = Some(Safe::new(user));
            conn.login = Some((Source::Offer(offer), session(event, peer, key)));
        }
        self.open.insert((peer.address.clone(), peer.port), at);
        // For its end: no line of ours names this pid.
        self.by_pid.insert(event.pid, at);
        Ok(())
    }

    /// PAM closed the session, in the monitor: by pid.
    fn closed(&mut self, event: &Event, user: &str) {
        let Some(&at) = self.by_pid.get(&event.pid) else {
            return;
        };
        let Some(conn) = self.conns.get_mut(at).filter(|conn| ends(conn, event, user)) else {
            return;
        };
        if let Some((_, session)) = &mut conn.login {
            if !matches!(session.ended, Some((_, EndBy::Pam))) {
                session.ended = Some((event.time, EndBy::Pam));
            }
        }
    }

    /// The connection is over: by address and port, since the session's own process has another pid.
    fn gone(&mut self, event: &Event, user: Option<&str>, peer: &Peer) {
        let place = (peer.address.clone(), peer.port);
        let Some(&at) = self.open.get(&place) else { return };
        let Some(conn) = self.conns.get_mut(at) else {
            return;
        };
        let Some(owner) = conn.user.as_ref().map(|user| user.as_str().to_owned()) else {
            return;
        };
        let may_tell = match event.sender {
            Sender::Unproven | Sender::Uid(0) => true,
            Sender::Uid(uid) => (self.uid_of)(&owner) == Some(uid),
        };
        if !may_tell || !ends(conn, event, user.unwrap_or(&owner)) {
            return;
        }
        if let Some((_, session)) = &mut conn.login {
            session.ended.get_or_insert((event.time, EndBy::Disconnect));
            self.open.remove(&place);
        }
    }

    /// The rows, without CloudTrail: in order of time.
    #[must_use]
    pub fn finish(self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.conns.into_iter().flat_map(rows).collect();
        rows.sort_by_key(|row| row.time);
        rows
    }
}

/// Whether `event` may be the end of this connection's session of `user`.
fn ends(conn: &Conn, event: &Event, user: &str) -> bool {
    let boot = match (conn.boot, event.boot) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => true,
    };
    boot && !conn.partial && conn.user.as_ref().is_some_and(|known| known.as_str() == user)
}

fn session(event: &Event, peer: &Peer, key: &Key) -> Session {
    Session {
        accepted: event.time,
        peer: peer.clone(),
        key_kind: key.kind.clone(),
        ended: None,
    }
}

/// A connection is one row: its login, or each key that was given in vain, or its refusals. A link's lines that nobody
/// logged in by are none: which keys they held is not known.
fn rows(conn: Conn) -> Vec<Row> {
    let Conn {
        boot,
        pid,
        user,
        first,
        offers,
        passed,
        refusals,
        login,
        partial,
        otherwise,
        joined_by,
        proof,
        ..
    } = conn;
    let blank = Row {
        kind: Kind::Refused,
        time: first,
        user,
        fingerprint: None,
        grants: Vec::new(),
        links: Vec::new(),
        session: None,
        otherwise,
        refusals,
        pid,
        boot,
        instance: None,
        joined_by,
        proof,
    };
    let links = |key: Fingerprint| -> Vec<Safe> {
        let asked = passed.iter().filter(|passed| passed.asked == key);
        asked.map(|passed| passed.link.clone()).collect()
    };
    let (used, mut session) = match login {
        Some((Source::Link(key), session)) => {
            return vec![Row {
                kind: if partial { Kind::Partial } else { Kind::Linked },
                time: session.accepted,
                fingerprint: Some(key),
                links: links(key),
                session: Some(session),
                ..blank
            }];
        }
        Some((Source::Offer(used), session)) => (Some(used), Some(session)),
        None if offers.is_empty() && blank.refusals.is_empty() => return Vec::new(),
        None if offers.is_empty() => return vec![blank],
        None => (None, None),
    };
    let wanted = |(at, _): &(usize, Offer)| used.is_none_or(|used| used == *at);
    offers
        .into_iter()
        .enumerate()
        .filter(wanted)
        .map(|(_, offer)| {
            let session = session.take();
            Row {
                kind: match &session {
                    Some(_) if partial => Kind::Partial,
                    Some(_) => Kind::Login,
                    None => Kind::Offered,
                },
                time: session.as_ref().map_or(offer.first, |session| session.accepted),
                fingerprint: Some(offer.fingerprint),
                links: links(offer.alias.unwrap_or(offer.fingerprint)),
                grants: offer
                    .grants
                    .into_iter()
                    .map(|grant| (grant, Match::NotAsked))
                    .collect(),
                instance: offer.instance.map(|id| Safe::new(id.as_str())),
                session,
                ..blank.clone()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::history::{message, syslog};

    const A: &str = "SHA256:ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs";
    const B: &str = "SHA256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0";
    const MD5: &str = "MD5:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff";

    /// `SECOND PID MESSAGE` of a text log; the helper's messages are known by their first word.
    fn event(line: &str) -> Event {
        let mut words = line.splitn(3, ' ');
        let time = Moment::from_secs(words.next().unwrap().parse().unwrap());
        let pid = words.next().unwrap().parse().unwrap();
        let text = words.next().unwrap().as_bytes();
        let said = message::helper(text)
            .map(Said::Helper)
            .or_else(|| message::sshd(text).map(Said::Sshd))
            .unwrap_or_else(|| panic!("{line}"));
        Event {
            time,
            boot: None,
            sender: Sender::Unproven,
            pid,
            said,
        }
    }

    fn joined(events: &[Event]) -> Vec<Row> {
        let mut join = Join::new(&|_| None);
        events.iter().for_each(|event| join.take(event).unwrap());
        join.finish()
    }

    /// Kind, request ids, joined by, seconds.
    fn brief(lines: &[String]) -> Vec<(Kind, String, JoinedBy, Option<i64>)> {
        let events: Vec<Event> = lines.iter().map(|line| event(line)).collect();
        let brief = |row: &Row| {
            let requests: Vec<&str> = row
                .grants
                .iter()
                .map(|(grant, _)| grant.request_id.as_ref().unwrap().as_str())
                .collect();
            let seconds = row
                .session
                .as_ref()
                .and_then(|session| Some(session.ended?.0.secs_since(session.accepted)));
            (row.kind, requests.join("+"), row.joined_by, seconds)
        };
        joined(&events).iter().map(brief).collect()
    }

    fn ours(second: i64, pid: u32, key: &str, request: &str) -> String {
        format!(
            "{second} 1 Providing ssh key from EC2 Instance Connect with fingerprint: {key}, request-id: {request} user=u sshd-pid={pid} expires=60"
        )
    }

    fn script(second: i64, key: &str, request: &str) -> String {
        format!(
            "{second} 1 Providing ssh key from EC2 Instance Connect with fingerprint: {key}, request-id: {request}"
        )
    }

    fn linked(second: i64, pid: u32, link: &str, asked: &str) -> String {
        format!(
            "{second} 1 Passing on 1 lines of link {link} for u: lines=1 user=u sshd-pid={pid} link={link} fingerprint={asked}"
        )
    }

    fn withheld(second: i64, pid: u32, link: &str) -> String {
        format!(
            "{second} 1 Passing on nothing of link {link} for u: reason=link-timeout detail=\"x\" user=u sshd-pid={pid} link={link}"
        )
    }

    fn login(second: i64, pid: u32, key: &str) -> String {
        format!("{second} {pid} Accepted publickey for u from 192.0.2.7 port {pid} ssh2: RSA {key}")
    }

    fn closed(second: i64, pid: u32) -> String {
        format!("{second} {pid} pam_unix(sshd:session): session closed for user u")
    }

    fn gone(second: i64, pid: u32) -> String {
        format!("{second} 999 Disconnected from user u 192.0.2.7 port {pid}")
    }

    use JoinedBy::{Ambiguous, Nothing, Pid};
    use Kind::{Linked, Login, Offered, Partial};

    #[test]
    fn a_key_pushed_twice_names_both_pushes() {
        let lines = [
            ours(0, 7, A, "r1"),
            ours(0, 7, A, "r2"),
            ours(1, 7, A, "r1"),
            ours(1, 7, A, "r2"),
            login(1, 7, A),
        ];
        assert_eq!(brief(&lines), [(Login, "r1+r2".into(), Pid, None)]);
    }

    #[test]
    fn of_several_keys_the_one_that_logged_in_is_the_row() {
        let lines = [ours(0, 7, A, "r1"), ours(0, 7, B, "r2"), login(1, 7, B)];
        assert_eq!(brief(&lines), [(Login, "r2".into(), Pid, None)]);
    }

    #[test]
    fn a_login_by_another_key_is_not_ours() {
        let lines = [ours(0, 7, A, "r1"), login(1, 7, B), closed(5, 7)];
        assert_eq!(brief(&lines), [(Offered, "r1".into(), Nothing, None)]);
    }

    #[test]
    fn a_login_too_late_or_as_another_user_is_not_ours() {
        let late = [ours(0, 7, A, "r1"), login(MAX_LOGIN + 1, 7, A)];
        assert_eq!(brief(&late)[0].0, Offered);
        let other = [ours(0, 7, A, "r1"), login(1, 7, A).replace("for u", "for v")];
        assert_eq!(brief(&other)[0].0, Offered);
    }

    #[test]
    fn a_pid_that_comes_again_is_another_connection() {
        let lines = [
            ours(0, 7, A, "r1"),
            login(1, 7, A),
            ours(90, 7, A, "r2"),
            login(91, 7, A),
            closed(99, 7),
        ];
        assert_eq!(
            brief(&lines),
            [
                (Login, "r1".into(), Pid, None),
                (Login, "r2".into(), Pid, Some(8))
            ]
        );
        let lines = [
            ours(0, 7, A, "r1"),
            login(1, 7, A),
            login(9000, 7, B),
            closed(9001, 7),
            gone(9001, 7),
        ];
        assert_eq!(brief(&lines), [(Login, "r1".into(), Pid, None)]);
    }

    #[test]
    fn pam_knows_the_end_better_than_the_network() {
        for (ends, seconds) in [
            (vec![gone(10, 7)], 9),
            (vec![gone(10, 7), closed(12, 7)], 11),
            (vec![closed(12, 7), gone(13, 7)], 11),
        ] {
            let mut lines = vec![ours(0, 7, A, "r1"), login(1, 7, A)];
            lines.extend(ends);
            assert_eq!(brief(&lines), [(Login, "r1".into(), Pid, Some(seconds))]);
        }
    }

    #[test]
    fn a_first_step_alone_is_no_login() {
        let partial = login(1, 7, A).replace("Accepted", "Partial");
        let lines = [ours(0, 7, A, "r1"), partial.clone()];
        assert_eq!(brief(&lines), [(Partial, "r1".into(), Pid, None)]);
        let second = "9 7 Accepted keyboard-interactive/pam for u from 192.0.2.7 port 7 ssh2".to_owned();
        let elsewhere = second.replace("port 7", "port 8");
        let lines = [ours(0, 7, A, "r1"), partial.clone(), second, closed(19, 7)];
        assert_eq!(brief(&lines), [(Login, "r1".into(), Pid, Some(10))]);
        // The pid came again: that connection took no step by our key.
        let lines = [ours(0, 7, A, "r1"), partial.clone(), elsewhere, closed(19, 7)];
        assert_eq!(brief(&lines), [(Partial, "r1".into(), Pid, None)]);
        // Another connection, that the helper named in no line, is let in by the same key.
        let lines = [ours(0, 7, A, "r1"), partial.clone(), login(2, 8, A), partial];
        assert_eq!(brief(&lines), [(Partial, "r1".into(), Pid, None)]);
    }

    #[test]
    fn sshd_may_name_the_key_by_md5() {
        let asked = format!("0 1 Querying EC2 Instance Connect keys for matching fingerprint: {MD5}");
        let lines = [asked, ours(0, 7, A, "r1"), login(1, 7, MD5)];
        assert_eq!(brief(&lines), [(Login, "r1".into(), Pid, None)]);
        let lines = [ours(0, 7, A, "r1"), login(1, 7, MD5)];
        assert_eq!(brief(&lines)[0].0, Offered);
    }

    #[test]
    fn the_scripts_lines_are_joined_by_key_and_say_so() {
        let lines = [
            script(0, A, "r"),
            script(1, A, "r"),
            login(1, 7, A),
            closed(11, 7),
        ];
        assert_eq!(
            brief(&lines),
            [(Login, "r".into(), JoinedBy::Fingerprint, Some(10))]
        );
        let lines = [
            script(0, A, "r"),
            login(1, 7, A),
            script(30, A, "s"),
            login(31, 8, A),
        ];
        assert_eq!(
            brief(&lines),
            [
                (Login, "r".into(), JoinedBy::Fingerprint, None),
                (Login, "s".into(), JoinedBy::Fingerprint, None)
            ]
        );
    }

    #[test]
    fn two_logins_and_one_scripts_line_are_both_in_doubt() {
        let lines = [
            script(0, A, "r"),
            script(0, A, "r"),
            login(1, 7, A),
            login(1, 8, A),
            closed(11, 8),
        ];
        assert_eq!(
            brief(&lines),
            [
                (Login, "r".into(), Ambiguous, None),
                (Login, "r".into(), Ambiguous, Some(10))
            ]
        );
    }

    #[test]
    fn a_wrapper_that_hides_sshds_pid_costs_exactness_and_no_row() {
        let lines = [ours(0, 70, A, "r"), login(1, 7, A), closed(11, 7)];
        assert_eq!(
            brief(&lines),
            [(Login, "r".into(), JoinedBy::Fingerprint, Some(10))]
        );
    }

    #[test]
    fn an_exact_row_is_never_put_in_doubt_by_another_login() {
        let lines = [ours(0, 7, A, "r"), login(1, 7, A), login(2, 8, A)];
        assert_eq!(brief(&lines), [(Login, "r".into(), Pid, None)]);
    }

    /// Kind, links, seconds, and what is said of links that gave nothing.
    fn of_links(lines: &[String]) -> Vec<(Kind, String, Option<i64>, Vec<String>)> {
        let events: Vec<Event> = lines.iter().map(|line| event(line)).collect();
        let names = |links: &[Safe]| links.iter().map(Safe::to_string).collect::<Vec<_>>().join("+");
        let of = |row: &Row| {
            let refusals = row.refusals.iter();
            let refused = refusals.filter_map(|it| Some(format!("{} {}", it.link.as_ref()?, it.count)));
            let session = row.session.as_ref();
            let seconds = session.and_then(|it| Some(it.ended?.0.secs_since(it.accepted)));
            (row.kind, names(&row.links), seconds, refused.collect())
        };
        joined(&events).iter().map(of).collect()
    }

    #[test]
    fn a_login_by_a_links_key_names_the_link() {
        let lines = [
            linked(0, 7, "a", A),
            linked(0, 7, "b", B),
            linked(1, 7, "b", B),
            login(1, 7, B),
            closed(11, 7),
        ];
        assert_eq!(of_links(&lines), [(Linked, "b".into(), Some(10), vec![])]);
        let both = [linked(0, 7, "a", A), linked(0, 7, "b", A), login(1, 7, A)];
        assert_eq!(of_links(&both), [(Linked, "a+b".into(), None, vec![])]);
        let by_md5 = [linked(0, 7, "a", MD5), login(1, 7, MD5)];
        assert_eq!(of_links(&by_md5), [(Linked, "a".into(), None, vec![])]);
    }

    #[test]
    fn a_login_by_a_key_that_no_link_was_asked_about_is_not_a_links() {
        for lines in [
            vec![linked(0, 7, "a", A)],
            vec![linked(0, 7, "a", A), login(1, 7, B), closed(2, 7)],
            vec![linked(0, 7, "a", A), login(1, 8, A)],
            vec![linked(0, 7, "a", A), login(MAX_LOGIN + 1, 7, A)],
            vec![linked(0, 7, "a", A), login(1, 7, A).replace("for u", "for v")],
            // Without %f nobody knows what the link was asked about.
            vec![
                linked(0, 7, "a", A).replace(&format!(" fingerprint={A}"), ""),
                login(1, 7, A),
            ],
            vec![
                linked(0, 7, "a", A)
                    .replace("1 lines", "0 lines")
                    .replace("lines=1", "lines=0"),
                login(1, 7, A),
            ],
        ] {
            assert_eq!(of_links(&lines), [], "{lines:?}");
        }
    }

    #[test]
    fn a_pushed_key_that_a_link_gives_as_well_is_the_pushed_one() {
        let lines = [ours(0, 7, A, "r"), linked(0, 7, "a", A), login(1, 7, A)];
        assert_eq!(brief(&lines), [(Login, "r".into(), Pid, None)]);
        assert_eq!(of_links(&lines), [(Login, "a".into(), None, vec![])]);
    }

    #[test]
    fn a_link_that_gave_nothing_is_told_where_somebody_stayed_out_or_came_in() {
        let lines = [withheld(0, 7, "a"), withheld(1, 7, "a"), withheld(1, 7, "b")];
        let refused = vec!["a 2".to_owned(), "b 1".to_owned()];
        assert_eq!(of_links(&lines), [(Kind::Refused, String::new(), None, refused)]);
        let lines = [withheld(0, 7, "a"), linked(0, 7, "b", A), login(1, 7, A)];
        assert_eq!(
            of_links(&lines),
            [(Linked, "b".into(), None, vec!["a 1".to_owned()])]
        );
    }

    #[test]
    fn a_links_key_as_a_first_step_is_no_login_until_the_last() {
        let partial = login(1, 7, A).replace("Accepted", "Partial");
        let lines = [linked(0, 7, "a", A), partial.clone()];
        assert_eq!(of_links(&lines), [(Partial, "a".into(), None, vec![])]);
        let second = "9 7 Accepted keyboard-interactive/pam for u from 192.0.2.7 port 7 ssh2".to_owned();
        let lines = [linked(0, 7, "a", A), partial, second, closed(19, 7)];
        assert_eq!(of_links(&lines), [(Linked, "a".into(), Some(10), vec![])]);
    }

    #[test]
    fn more_rows_than_memory_holds_are_refused() {
        let mut join = Join::new(&|_| None);
        let mut event = event(&ours(0, 7, A, "r"));
        let mut outcome = Ok(());
        for second in 0..300_000 {
            event.time = Moment::from_secs(second * (MAX_LOGIN + 1));
            outcome = outcome.and_then(|()| join.take(&event));
        }
        assert_eq!(outcome, Err(TooMany));
    }

    /// What the helper and sshd may say, by few users, pids and keys, so that all of it gets in each other's way.
    fn lines() -> impl proptest::strategy::Strategy<Value = Vec<String>> {
        use proptest::prelude::*;
        let line = (0..8u8, 0..400i64, 1..4u32, any::<bool>()).prop_map(|(kind, step, pid, first)| {
            let key = if first { A } else { B };
            let text = match kind {
                0 => ours(0, pid, key, "r"),
                1 => script(0, key, "r"),
                2 | 3 => login(0, pid, key),
                4 => closed(0, pid),
                5 => linked(0, pid, "a", key),
                6 => withheld(0, pid, "a"),
                _ => gone(0, pid),
            };
            (step, text)
        });
        proptest::collection::vec(line, 0..40).prop_map(|lines| {
            let mut now = 0;
            let at = |(step, text): (i64, String)| {
                now = step.saturating_add(now);
                format!("{now} {}", text.strip_prefix("0 ").unwrap())
            };
            lines.into_iter().map(at).collect()
        })
    }

    proptest::proptest! {
        #[test]
        fn no_login_without_the_helpers_word_and_sshds(lines in lines()) {
            let events: Vec<Event> = lines.iter().map(|line| event(line)).collect();
            for row in joined(&events) {
                let Some(session) = &row.session else { continue };
                let accepted = events.iter().position(|event| {
                    event.time == session.accepted && matches!(&event.said, Said::Sshd(Sshd::Accepted { key: Some(key), .. })
                        if Some(key.fingerprint) == row.fingerprint && Some(event.pid) == row.pid)
                });
                let accepted = accepted.expect("sshd accepted it");
                let word = events[..accepted].iter().any(|event| match &event.said {
                    Said::Helper(Helper::Provided { fingerprint, connection, .. }) => {
                        row.kind != Linked
                            && Some(*fingerprint) == row.fingerprint
                            && (row.joined_by != Pid || connection.as_ref().is_some_and(|known| Some(known.pid) == row.pid))
                    }
                    Said::Helper(Helper::Linked { link, fingerprint, connection, .. }) => {
                        row.kind == Linked
                            && *fingerprint == row.fingerprint
                            && Some(connection.pid) == row.pid
                            && row.links.contains(link)
                    }
                    _ => false,
                });
                assert!(word, "{row:?}");
                assert!(session.ended.is_none_or(|(ended, _)| ended >= session.accepted));
            }
        }

        #[test]
        fn one_login_is_at_most_one_row(lines in lines()) {
            let events: Vec<Event> = lines.iter().map(|line| event(line)).collect();
            let logins = events.iter().filter(|event| matches!(event.said, Said::Sshd(Sshd::Accepted { .. }))).count();
            assert!(joined(&events).iter().filter(|row| row.session.is_some()).count() <= logins);
        }

        #[test]
        fn no_line_whatever_it_is_breaks_a_parser(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), at in 0usize..300) {
            let mixed = [ours(0, 7, A, "r"), linked(0, 7, "a", A), withheld(0, 7, "a")].map(|line| {
                let mut mixed = line.strip_prefix("0 1 ").unwrap().as_bytes().to_vec();
                mixed.splice(at.min(mixed.len())..at.min(mixed.len()), bytes.iter().copied().take(3));
                mixed
            });
            for bytes in mixed.iter().chain([&bytes]) {
                let _ = message::sshd(bytes);
                let _ = syslog::line(bytes).and_then(|line| line.event(Moment::MIN));
                if let Some(Helper::Linked { link, connection, .. }) = message::helper(bytes) {
                    assert!([link, connection.user].iter().all(|word| word.as_str().bytes().all(|b| b.is_ascii_graphic())));
                } else if let Some(Helper::Provided { grant, connection, .. }) = message::helper(bytes) {
                    let words = [grant.request_id, grant.principal, connection.map(|known| known.user)];
                    assert!(words.iter().flatten().all(|word| word.as_str().bytes().all(|b| b.is_ascii_graphic())));
                }
            }
        }
    }
}
