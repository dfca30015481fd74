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
use super::event::{Boot, Connection, Event, Grant, Helper, Key, Peer, Safe, Said, Sender, Sshd};
use super::moment::Moment;

/// The longest time from the helper's word to the login: five times sshd's default LoginGraceTime, within
/// which all of a connection's authentication must end.
pub const MAX_LOGIN: i64 = 600;

/// The most rows, so that memory stays bounded (some 250 MB) whatever the logs hold.
pub const MAX_ROWS: usize = 250_000;

/// Keys, pushes of a key and reasons within one row: what comes after begins another row. sshd's MaxAuthTries is
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
    /// The pushed key was right, and another step that sshd demands was not taken.
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

/// One connection to sshd, that the helper spoke of.
#[derive(Debug)]
struct Conn {
    boot: Option<Boot>,
    pid: Option<u32>,
    user: Option<Safe>,
    first: Moment,
    last: Moment,
    offers: Vec<Offer>,
    refusals: Vec<Refused>,
    /// The login, by the offer of this place.
    login: Option<(usize, Session)>,
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
            || self.refusals.len() >= MAX_PER_CONNECTION
            || self
                .offers
                .iter()
                .any(|offer| offer.grants.len() >= MAX_PER_CONNECTION)
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
        let at = self.connection(event, connection)?;
        let Some(conn) = self.conns.get_mut(at) else {
            return Ok(());
        };
        conn.take(event);
        if let Some(known) = conn.refusals.iter_mut().find(|known| known.reason == *reason) {
            known.count = known.count.saturating_add(1);
        } else {
            conn.refusals.push(Refused {
                reason: reason.clone(),
                detail: detail.clone(),
                count: 1,
            });
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
        let offer = key.and_then(|key| conn.offers.iter().position(|offer| offer.is(key.fingerprint)));
        match (offer, key, &mut conn.login) {
            (Some(offer), Some(key), _) => {
                conn.login = Some((offer, session(event, peer, key)));
                conn.partial = partial;
                conn.joined_by = JoinedBy::Pid;
            }
            // A pushed key was the first step, and this is the last.
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
        let at = if !conn.is_settled() && may_be_theirs {
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
            conn.login = Some((offer, session(event, peer, key)));
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

/// A connection is one row: its login, or each key that was given in vain, or its refusals.
fn rows(conn: Conn) -> Vec<Row> {
    let Conn {
        boot,
        pid,
        user,
        first,
        offers,
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
        session: None,
        otherwise,
        refusals,
        pid,
        boot,
        instance: None,
        joined_by,
        proof,
    };
    if offers.is_empty() {
        return vec![blank];
    }
    let (used, mut session) = login.unzip();
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
