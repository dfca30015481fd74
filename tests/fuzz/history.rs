//! The logs that `history` reads. Whoever may log may have written any line of them.

use std::net::IpAddr;

use ec2_instance_connect::admin::history::cloudtrail::{self, Push};
use ec2_instance_connect::admin::history::event::{Event, Helper, Lines, Said, Sender, Sshd};
use ec2_instance_connect::admin::history::join::{Join, JoinedBy, Kind, Proof, Row};
use ec2_instance_connect::admin::history::journal::{self, Entry, Trust};
use ec2_instance_connect::admin::history::lines;
use ec2_instance_connect::admin::history::moment::Moment;
use ec2_instance_connect::admin::history::reconcile::{Pushes, Wanted, reconcile};
use ec2_instance_connect::admin::history::render::{self, History, Source};
use ec2_instance_connect::admin::history::syslog::{self, Turns};
use jiff::tz::TimeZone;

/// The helper's user, as the corpus has it.
const HELPER: u32 = 998;

/// When the text logs were last written: 2025-02-01.
const END: i64 = 1_738_368_000;

/// journalctl's lines: what counts is said by root's sshd or by the helper's user, as the kernel and nobody else
/// vouches. Gives the number of logins.
pub fn journal(data: &[u8]) -> usize {
    let trust = Trust { helper: Some(HELPER) };
    let mut events = Vec::new();
    let done = lines::for_each(data, journal::MAX_ENTRY, |line| {
        if let Entry::Event(event) = journal::entry(line, &trust) {
            vouched(line, &event);
            events.push(event);
        }
        Ok::<(), std::io::Error>(())
    });
    assert!(done.is_ok());
    logins(&events, Proof::Journal)
}

/// The fields that the kernel fills in, asked for without the reader under test.
fn vouched(line: &[u8], event: &Event) {
    // Fields that the reader skips may hold what is no text, or no number that has a value.
    let Ok(entry) = serde_json::from_str::<serde_json::Value>(&String::from_utf8_lossy(line)) else {
        return;
    };
    let field = |name: &str| {
        entry
            .get(name)
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default()
    };
    let uid: u32 = field("_UID").parse().expect("a uid");
    assert_eq!(event.sender, Sender::Uid(uid));
    assert_eq!(Ok(event.pid), field("_PID").parse());
    match &event.said {
        Said::Helper(_) => assert!(uid == 0 || uid == HELPER, "uid {uid} speaks as the helper"),
        Said::Sshd(Sshd::Gone(..)) => {}
        Said::Sshd(_) => assert_eq!(uid, 0, "speaks as sshd"),
    }
}

/// A text log: what counts has sshd's or the helper's name where the daemon that writes the file puts it. Gives the
/// number of logins.
pub fn auth_log(data: &[u8]) -> usize {
    let mut turns = Turns::default();
    let first = lines::for_each(data, syslog::MAX_LINE, |line| {
        if let Some(line) = syslog::line(line) {
            turns.see(line.stamp);
        }
        Ok::<(), std::io::Error>(())
    });
    let mut years = turns.years(Moment::from_secs(END), TimeZone::UTC);
    let mut events = Vec::new();
    let second = lines::for_each(data, syslog::MAX_LINE, |text| {
        let parts = syslog::line(text).and_then(|line| Some((line, years.moment(line.stamp)?)));
        if let Some(event) = parts.and_then(|(line, time)| line.event(time)) {
            written_by_its_sender(text, &event);
            events.push(event);
        }
        Ok::<(), std::io::Error>(())
    });
    assert_eq!(first.ok(), second.ok());
    logins(&events, Proof::Text)
}

/// The prefix of a line, taken apart from its front: `TIME HOST NAME[PID]: `.
fn written_by_its_sender(line: &[u8], event: &Event) {
    let text = String::from_utf8_lossy(line);
    let words = if line.first().is_some_and(u8::is_ascii_digit) {
        2
    } else {
        4
    };
    // The day of an old time is padded with a blank.
    let rest = if words == 4 {
        text.get(16..)
    } else {
        text.split_once(' ').map(|(_, rest)| rest)
    };
    let tag = rest
        .and_then(|rest| rest.split(' ').nth(1))
        .expect("a host and a name");
    let (name, pid) = tag.split_once('[').expect("a pid");
    let pid = pid.strip_suffix("]:").expect("a pid");
    assert_eq!(pid.parse(), Ok(event.pid));
    match &event.said {
        Said::Helper(_) => assert_eq!(name, "ec2-instance-connect"),
        Said::Sshd(_) => assert!(matches!(name, "sshd" | "sshd-session"), "{name}"),
    }
}

/// Joins the events: no login without sshd's own word for it, by that connection, for that user and key, after the
/// helper had given the key, or had passed on the lines of the link that is named when sshd asked about it. Gives the
/// number of logins.
fn logins(events: &[Event], proof: Proof) -> usize {
    let mut join = Join::new(&|user| (user == "ec2-user").then_some(1000));
    if events.iter().any(|event| join.take(event).is_err()) {
        return 0;
    }
    let rows = join.finish();
    for row in &rows {
        assert!(row.proof == proof || proof == Proof::Text);
        if let Kind::Login | Kind::Linked | Kind::Partial = row.kind {
            assert!(
                events.iter().any(|event| accepts(event, row)),
                "nobody was let in: {row:?}"
            );
            assert!(row.fingerprint.is_some());
            if row.grants.is_empty() {
                assert_ne!(row.kind, Kind::Login);
                assert!(!row.links.is_empty(), "nobody gave the key: {row:?}");
            } else {
                assert_ne!(row.kind, Kind::Linked);
            }
            assert!(
                row.session
                    .iter()
                    .all(|session| is_address(&session.peer.address))
            );
        } else {
            assert!(row.session.is_none());
        }
        for link in &row.links {
            assert!(
                events.iter().any(|event| passed_on(event, row, link.as_str())),
                "{link} was not asked about it: {row:?}"
            );
        }
    }
    shown(&rows);
    let logins = rows
        .iter()
        .filter(|row| matches!(row.kind, Kind::Login | Kind::Linked));
    logins.count()
}

/// Whether `event` is the helper's word that lines of this link were given to sshd, on the row's connection and when
/// sshd had asked about the row's key. (By MD5 sshd names it otherwise than a pushed key's row.)
fn passed_on(event: &Event, row: &Row, name: &str) -> bool {
    let Said::Helper(Helper::Linked {
        link,
        lines: Lines::Passed(1..),
        fingerprint: Some(asked),
        connection,
    }) = &event.said
    else {
        return false;
    };
    let same_key = Some(*asked) == row.fingerprint || !row.grants.is_empty();
    // A wrapper's pid is not sshd's.
    let same_pid = row.pid == Some(connection.pid)
        || matches!(row.joined_by, JoinedBy::Fingerprint | JoinedBy::Ambiguous);
    same_key && same_pid && link.as_str() == name && row.user.as_ref() == Some(&connection.user)
}

/// Whether `event` is sshd's word that the row's connection was let in.
fn accepts(event: &Event, row: &Row) -> bool {
    let Said::Sshd(Sshd::Accepted { user, peer, .. }) = &event.said else {
        return false;
    };
    let Some(session) = &row.session else {
        return false;
    };
    let sender = matches!(event.sender, Sender::Uid(0) | Sender::Unproven);
    sender
        && row.pid == Some(event.pid)
        && row
            .user
            .as_ref()
            .is_some_and(|known| known.as_str() == user.as_str())
        && (session.accepted, &session.peer) == (event.time, peer)
}

/// IPv4, IPv6 with its zone, or sshd's word for what is no socket.
fn is_address(text: &str) -> bool {
    let number = text.split('%').next().unwrap_or_default();
    text == "UNKNOWN" || number.parse::<IpAddr>().is_ok()
}

/// What is shown is harmless to a terminal, and the JSON is JSON.
fn shown(rows: &[Row]) {
    let mut text = Vec::new();
    render::text(rows, false, &mut text).expect("memory does not fail");
    assert!(
        text.iter()
            .all(|b| b.is_ascii_graphic() || matches!(b, b' ' | b'\n'))
    );
    let mut json = Vec::new();
    let history = History {
        since: None,
        until: None,
        instances: Vec::new(),
        sources: vec![Source::default()],
        cloudtrail: None,
        rows: rows.to_vec(),
    };
    render::json(&history, &mut json).expect("memory does not fail");
    assert_eq!(json.iter().filter(|b| **b == b'\n').count(), 1);
    assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
}

/// CloudTrail's file: what is taken for a push is one, of this service, that was not refused; and what is shown of
/// it is harmless. Gives the number of pushes.
pub fn cloudtrail(data: &[u8]) -> usize {
    let mut found: Vec<Push> = Vec::new();
    let done = cloudtrail::read(data, |push| found.push(push));
    if let (Ok(tally), Ok(file)) = (&done, serde_json::from_slice::<serde_json::Value>(data)) {
        assert!(u64::try_from(found.len()).is_ok_and(|pushes| pushes <= tally.events));
        // JSON lets a name come twice; the value read here then has the last one only.
        let names = |name: &str| {
            data.windows(name.len())
                .filter(|window| *window == name.as_bytes())
                .count()
        };
        let once = names("Records") + names("Events") <= 1 && names("\\u") == 0;
        let records = file.get("Records").and_then(serde_json::Value::as_array);
        if let (true, Some(records)) = (once, records) {
            let is_push = |event: &&serde_json::Value| {
                let is = |name: &str, wanted: &str| event.get(name).is_some_and(|it| it == wanted);
                is("eventSource", "ec2-instance-connect.amazonaws.com") && is("eventName", "SendSSHPublicKey")
            };
            let refused =
                |event: &&serde_json::Value| event.get("errorCode").is_some_and(serde_json::Value::is_string);
            let granted = records
                .iter()
                .filter(is_push)
                .filter(|event| !refused(event))
                .count();
            assert!(found.len() <= granted, "a push that is none");
        }
    }
    let mut pushes = Pushes::default();
    for push in &found {
        let words = [
            &push.request_id,
            &push.event_id,
            &push.principal,
            &push.instance,
            &push.user,
        ];
        let words = words.into_iter().chain([&push.source, &push.agent]).flatten();
        for word in words {
            assert!(word.as_str().bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
        }
        pushes.add(push.clone());
    }
    // Every push is of the instances that are asked about, so each becomes a row, once.
    let instances = found.iter().filter_map(|push| push.instance.clone()).collect();
    let wanted = Wanted::new(&[], instances, Moment::MIN, Moment::MAX);
    let count = pushes.len();
    assert!(count <= found.len());
    let covered = done.ok().and_then(|tally| tally.span);
    let rows = reconcile(Vec::new(), pushes, &wanted, covered);
    assert!(rows.len() <= count && rows.iter().all(|row| row.kind == Kind::UnusedPush));
    shown(&rows);
    found.len()
}

/// Times, in the forms that logs and people use.
pub fn moment(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(moment) = Moment::from_rfc3339(text) {
        assert_eq!(
            Moment::from_rfc3339(&moment.to_string()).map(Moment::secs),
            Some(moment.secs())
        );
    }
    let now = Moment::from_secs(END);
    if let Err(complaint) = Moment::from_words(text, now, &TimeZone::UTC) {
        assert!(complaint.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
    }
}
