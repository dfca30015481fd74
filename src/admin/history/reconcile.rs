//! Rows and CloudTrail's pushes, put together: by request id, which the signed record carries from the one to
//! the other; by key and time where the log has no request id.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use super::cloudtrail::Push;
use super::event::{Grant, Safe};
use super::join::{JoinedBy, Kind, Match, Proof, Row};
use super::moment::Moment;

/// How long a pushed key lives, in seconds: the service's.
pub const KEY_LIFE: i64 = 60;

/// How far CloudTrail's clock and the host's may be apart, in seconds, where time is all there is to join by.
const SKEW: i64 = 5;

/// Which pushes matter, so that the others are dropped as they are read.
#[derive(Debug)]
pub struct Wanted {
    requests: BTreeSet<Safe>,
    keys: BTreeSet<String>,
    instances: BTreeSet<Safe>,
    since: Moment,
    until: Moment,
}

impl Wanted {
    /// The pushes that `rows` come from, and between `since` and `until` those for `instances`.
    #[must_use]
    pub fn new(rows: &[Row], instances: BTreeSet<Safe>, since: Moment, until: Moment) -> Self {
        let grants = || {
            rows.iter()
                .flat_map(|row| row.grants.iter().map(move |(grant, _)| (row, grant)))
        };
        Self {
            requests: grants()
                .filter_map(|(_, grant)| grant.request_id.clone())
                .collect(),
            keys: grants()
                .filter(|(_, grant)| grant.request_id.is_none())
                .filter_map(|(row, _)| row.fingerprint.map(|key| key.to_string()))
                .collect(),
            instances,
            since,
            until,
        }
    }

    /// Whether `push` matters.
    #[must_use]
    pub fn wants(&self, push: &Push) -> bool {
        let known = |set: &BTreeSet<Safe>, value: &Option<Safe>| {
            value.as_ref().is_some_and(|value| set.contains(value))
        };
        let key = || {
            push.fingerprint
                .is_some_and(|key| self.keys.contains(&key.to_string()))
        };
        let in_time = (self.since..=self.until).contains(&push.time);
        known(&self.requests, &push.request_id)
            || (in_time && known(&self.instances, &push.instance))
            || (!self.keys.is_empty() && key())
    }

    /// Whether a push that nothing used is this host's, and of the time that is asked about.
    fn is_ours(&self, push: &Push) -> bool {
        (self.since..=self.until).contains(&push.time)
            && push
                .instance
                .as_ref()
                .is_some_and(|id| self.instances.contains(id))
    }
}

/// The pushes that matter, each once: trails overlap, and CloudTrail may deliver an event twice.
#[derive(Debug, Default)]
pub struct Pushes {
    pushes: BTreeMap<(Option<Safe>, Option<Safe>, Moment), Push>,
}

impl Pushes {
    /// Keeps `push`.
    pub fn add(&mut self, push: Push) {
        // A request has one id; only a push that has none is told apart by its event.
        let key = match &push.request_id {
            Some(id) => (Some(id.clone()), None, Moment::MIN),
            None => (None, push.event_id.clone(), push.time),
        };
        self.pushes.entry(key).or_insert(push);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pushes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pushes.is_empty()
    }
}

/// The rows with their pushes, and the pushes that nothing used as rows of their own; in order of time.
///
/// `covered` is the time from the first to the last event of any kind in CloudTrail's files: of a push outside
/// it, they can say nothing.
#[must_use]
pub fn reconcile(
    mut rows: Vec<Row>,
    pushes: Pushes,
    wanted: &Wanted,
    covered: Option<(Moment, Moment)>,
) -> Vec<Row> {
    let by_request: BTreeMap<Safe, usize> = pushes
        .pushes
        .keys()
        .enumerate()
        .filter_map(|(at, (request, ..))| Some((request.clone()?, at)))
        .collect();
    let pushes: Vec<Push> = pushes.pushes.into_values().collect();
    let mut used = BTreeSet::new();
    for row in &mut rows {
        let mut grants = std::mem::take(&mut row.grants);
        for (grant, matched) in &mut grants {
            let candidates: Vec<usize> = match &grant.request_id {
                Some(id) => by_request.get(id).copied().into_iter().collect(),
                None => by_key(&pushes, row, grant),
            };
            used.extend(candidates.iter().copied());
            *matched = match candidates.last().and_then(|at| pushes.get(*at)) {
                Some(push) => {
                    let mut doubts = contradictions(push, row, grant);
                    if candidates.len() > 1 {
                        doubts.push("several");
                    }
                    Match::Found(Box::new(push.clone()), doubts)
                }
                None if is_covered(row, grant, covered) => Match::Absent,
                None => Match::NotCovered,
            };
        }
        row.grants = grants;
    }
    let unused = pushes
        .into_iter()
        .enumerate()
        .filter(|(at, push)| !used.contains(at) && wanted.is_ours(push))
        .map(|(_, push)| unused(push));
    rows.extend(unused);
    rows.sort_by_key(|row| row.time);
    rows
}

/// The pushes of this row's key, within whose life it was used, oldest first.
fn by_key(pushes: &[Push], row: &Row, grant: &Grant) -> Vec<usize> {
    let alive = |push: &Push| match grant.expires {
        Some(expires) => (expires.saturating_sub(push.time.secs()).saturating_sub(KEY_LIFE)).abs() <= SKEW,
        None => {
            let age = row.time.secs_since(push.time);
            (-SKEW..=KEY_LIFE.saturating_add(SKEW)).contains(&age)
        }
    };
    let mut found: Vec<usize> = pushes
        .iter()
        .enumerate()
        .filter(|(_, push)| push.fingerprint == row.fingerprint && alive(push))
        .filter(|(_, push)| row.user.is_none() || push.user == row.user)
        .map(|(at, _)| at)
        .collect();
    found.sort_by_key(|at| pushes.get(*at).map(|push| push.time));
    found
}

/// In which fields the push and the log disagree. The OS user is in no signature, so a key that was pushed for
/// another user than the one who logged in is the mark of a forged metadata service.
fn contradictions(push: &Push, row: &Row, grant: &Grant) -> Vec<&'static str> {
    let mut fields = Vec::new();
    let differ =
        |ours: Option<&Safe>, theirs: Option<&Safe>| matches!((ours, theirs), (Some(a), Some(b)) if a != b);
    if differ(row.user.as_ref(), push.user.as_ref()) {
        fields.push("user");
    }
    if differ(row.instance.as_ref(), push.instance.as_ref()) {
        fields.push("instance");
    }
    if differ(grant.principal.as_ref(), push.principal.as_ref()) {
        fields.push("principal");
    }
    if row.fingerprint.is_some() && push.fingerprint.is_some() && row.fingerprint != push.fingerprint {
        fields.push("fingerprint");
    }
    fields
}

fn is_covered(row: &Row, grant: &Grant, covered: Option<(Moment, Moment)>) -> bool {
    let pushed = match grant.expires {
        Some(expires) => Moment::from_secs(expires.saturating_sub(KEY_LIFE)),
        None => row.time,
    };
    covered.is_some_and(|(earliest, latest)| (earliest..=latest).contains(&pushed))
}

fn unused(push: Push) -> Row {
    Row {
        kind: Kind::UnusedPush,
        time: push.time,
        user: push.user.clone(),
        fingerprint: push.fingerprint,
        instance: push.instance.clone(),
        grants: vec![(
            Grant {
                request_id: push.request_id.clone(),
                principal: push.principal.clone(),
                expires: None,
            },
            Match::Found(Box::new(push), Vec::new()),
        )],
        links: Vec::new(),
        session: None,
        otherwise: false,
        refusals: Vec::new(),
        pid: None,
        boot: None,
        joined_by: JoinedBy::Nothing,
        proof: Proof::Cloudtrail,
    }
}
