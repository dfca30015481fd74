//! One line of `/var/log/auth.log` or `/var/log/secure`.
//!
//! ```text
//! Jan 30 10:40:08 host sshd[812]: Accepted publickey for ...                  RFC 3164 §4.1.2: no year, local time
//! 2025-01-30T10:40:08.123456+00:00 host sshd-session[812]: Accepted ...       RFC 3339, rsyslog's newer default
//! ```
//!
//! Such a file proves nothing about who sent a line: whoever may log may write any identifier and any pid. The
//! daemon that writes the file escapes newlines (rsyslog as `#012`), so a line's own prefix is the daemon's.
#![deny(clippy::disallowed_methods)]

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::event::{Event, Said, Sender};
use super::journal::is_sshd;
use super::message;
use super::moment::Moment;

/// The longest line that is read: the longest message that can be ours, and its prefix.
pub const MAX_LINE: usize = message::MAX_MESSAGE + 1024;

/// The helper's identifier.
const HELPER: &[u8] = b"ec2-instance-connect";

/// A line, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was written.
    pub stamp: Stamp,
    /// Everything behind the time.
    rest: &'a [u8],
}

/// The time at the front of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// All of it.
    Full(Moment),
    /// Local time without a year.
    NoYear(NoYear),
}

/// Month, day, hour, minute, second. Ordered as within one year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NoYear {
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
}

/// The line's time, and the rest of it; nothing if it has none.
#[must_use]
pub fn line(line: &[u8]) -> Option<Line<'_>> {
    if let Some((stamp, rest)) = no_year(line) {
        return Some(Line { stamp, rest });
    }
    let blank = line.iter().position(|&b| b == b' ')?;
    let (word, rest) = line.split_at_checked(blank)?;
    let moment = Moment::from_rfc3339(std::str::from_utf8(word).ok()?)?;
    Some(Line {
        stamp: Stamp::Full(moment),
        rest: rest.strip_prefix(b" ")?,
    })
}

/// `Mmm dd hh:mm:ss `, the day padded with a blank.
fn no_year(line: &[u8]) -> Option<(Stamp, &[u8])> {
    const MONTHS: [&[u8]; 12] = [
        b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
    ];
    let (stamp, rest) = line.split_at_checked(16)?;
    let &[
        m1,
        m2,
        m3,
        b' ',
        d1,
        d2,
        b' ',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b' ',
    ] = stamp
    else {
        return None;
    };
    let month = MONTHS.iter().position(|month| *month == [m1, m2, m3])?;
    let pair = |tens: u8, ones: u8| -> Option<i8> {
        let digit = |b: u8| b.is_ascii_digit().then(|| b.wrapping_sub(b'0'));
        let value = digit(tens)?.checked_mul(10)?.checked_add(digit(ones)?)?;
        i8::try_from(value).ok()
    };
    let stamp = NoYear {
        month: i8::try_from(month).ok()?.checked_add(1)?,
        day: pair(if d1 == b' ' { b'0' } else { d1 }, d2)?,
        hour: pair(h1, h2)?,
        minute: pair(n1, n2)?,
        second: pair(s1, s2)?,
    };
    // A leap year has every date that there is.
    stamp.in_year(2024)?;
    Some((Stamp::NoYear(stamp), rest))
}

impl NoYear {
    fn in_year(self, year: i16) -> Option<DateTime> {
        // A leap second is the second before.
        DateTime::new(
            year,
            self.month,
            self.day,
            self.hour,
            self.minute,
            self.second.min(59),
            0,
        )
        .ok()
    }
}

impl Line<'_> {
    /// What the line means to us, written at `time`; nothing if it means nothing.
    #[must_use]
    pub fn event(&self, time: Moment) -> Option<Event> {
        let (_host, rest) = split(self.rest, b' ')?;
        let (tag, rest) = split(rest, b'[')?;
        let (pid, rest) = split(rest, b']')?;
        let message = rest.strip_prefix(b": ")?;
        let said = if is_sshd(tag) {
            Said::Sshd(message::sshd(message)?)
        } else if tag == HELPER {
            Said::Helper(message::helper(message)?)
        } else {
            return None;
        };
        let digits = pid.iter().all(u8::is_ascii_digit);
        let pid = std::str::from_utf8(pid).ok().filter(|_| digits)?.parse().ok()?;
        Some(Event {
            time,
            boot: None,
            sender: Sender::Unproven,
            pid,
            said,
        })
    }
}

/// What stands before and behind the first `at`.
fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (before, behind) = text.split_at_checked(text.iter().position(|&b| b == at)?)?;
    Some((before, behind.get(1..)?))
}

/// How often the year changes within a file, learnt in a first reading.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turns {
    last: Option<NoYear>,
    turns: i16,
}

/// Months that a clock set back, or lines out of order, never go back by; a new year does.
const NEW_YEAR: i8 = 6;

impl Turns {
    /// Takes note of the next line.
    pub fn see(&mut self, stamp: Stamp) {
        let Stamp::NoYear(next) = stamp else { return };
        if self.last.is_some_and(|last| is_new_year(last, next)) {
            self.turns = self.turns.saturating_add(1);
        }
        self.last = Some(next);
    }

    /// The years of the file's lines, where the last one was written by `end`.
    #[must_use]
    pub fn years(self, end: Moment, zone: TimeZone) -> Years {
        // One day for a clock that has since been set back.
        let latest = end.plus_secs(86_400);
        let this_year: i16 =
            jiff::Timestamp::from_second(end.secs()).map_or(1970, |end| zone.to_datetime(end).year());
        let written_in = |year: &i16| {
            let moment = self
                .last
                .and_then(|last| Moment::from_local(last.in_year(*year)?, &zone));
            moment.is_some_and(|moment| moment <= latest)
        };
        // Nine years back there is a 29 February, also around 1900 and 2100.
        let last_year = (0..9)
            .map(|back| this_year.saturating_sub(back))
            .find(written_in)
            .unwrap_or(this_year);
        Years {
            year: last_year.saturating_sub(self.turns),
            last: None,
            zone,
        }
    }
}

fn is_new_year(last: NoYear, next: NoYear) -> bool {
    last.month.saturating_sub(next.month) >= NEW_YEAR
}

/// Gives each line its year, in the second reading.
#[derive(Debug, Clone)]
pub struct Years {
    year: i16,
    last: Option<NoYear>,
    zone: TimeZone,
}

impl Years {
    /// When the next line was written; nothing for a date that this year does not have.
    pub fn moment(&mut self, stamp: Stamp) -> Option<Moment> {
        let next = match stamp {
            Stamp::Full(moment) => return Some(moment),
            Stamp::NoYear(next) => next,
        };
        if self.last.is_some_and(|last| is_new_year(last, next)) {
            self.year = self.year.saturating_add(1);
        }
        self.last = Some(next);
        Moment::from_local(next.in_year(self.year)?, &self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times of `lines` in a file last written at `end`.
    fn times(lines: &[&str], end: &str, zone: &TimeZone) -> Vec<String> {
        let stamps: Vec<Stamp> = lines
            .iter()
            .map(|text| line(text.as_bytes()).unwrap().stamp)
            .collect();
        let mut turns = Turns::default();
        stamps.iter().for_each(|stamp| turns.see(*stamp));
        let mut years = turns.years(Moment::from_rfc3339(end).unwrap(), zone.clone());
        stamps
            .iter()
            .map(|stamp| {
                years
                    .moment(*stamp)
                    .map_or("-".to_owned(), |moment| moment.to_string())
            })
            .collect()
    }

    #[test]
    fn the_year_comes_from_the_files_own_time() {
        let lines = [
            "Dec 30 23:59:59 h x",
            "Dec 31 23:59:59 h x",
            "Jan  1 00:00:00 h x",
            "Jan 30 10:40:08 h x",
        ];
        assert_eq!(
            times(&lines, "2025-01-30T10:40:08Z", &TimeZone::UTC),
            [
                "2024-12-30T23:59:59Z",
                "2024-12-31T23:59:59Z",
                "2025-01-01T00:00:00Z",
                "2025-01-30T10:40:08Z"
            ]
        );
    }

    #[test]
    fn a_file_of_last_year_is_of_last_year() {
        assert_eq!(
            times(&["Dec 30 10:00:00 h x"], "2025-01-02T00:00:00Z", &TimeZone::UTC),
            ["2024-12-30T10:00:00Z"]
        );
        assert_eq!(
            times(&["Feb 29 10:00:00 h x"], "2025-01-02T00:00:00Z", &TimeZone::UTC),
            ["2024-02-29T10:00:00Z"]
        );
    }

    #[test]
    fn a_clock_set_back_over_a_months_end_is_no_new_year() {
        let lines = [
            "Mar  1 00:00:01 h x",
            "Feb 28 23:59:59 h x",
            "Mar  1 00:00:02 h x",
        ];
        assert_eq!(
            times(&lines, "2025-03-01T00:00:02Z", &TimeZone::UTC)[1],
            "2025-02-28T23:59:59Z"
        );
    }

    #[test]
    fn local_time_is_read_in_its_zone() {
        let zone = TimeZone::fixed(jiff::tz::offset(-8));
        let lines = ["Dec 31 16:30:00 h x", "2025-01-01T00:40:00.5+00:00 h x"];
        assert_eq!(
            times(&lines, "2025-01-01T00:40:00Z", &zone),
            ["2025-01-01T00:30:00Z", "2025-01-01T00:40:00Z"]
        );
    }

    #[test]
    fn a_line_without_a_time_is_none() {
        for text in [
            "",
            "Jan 30",
            "Jan 32 10:40:08 h x",
            "Feb 30 10:40:08 h x",
            "jan 30 10:40:08 h x",
            "Jan 30 24:40:08 h x",
            "2025-01-30 10:40:08 h x",
            "Accepted publickey for",
        ] {
            assert_eq!(line(text.as_bytes()), None, "{text}");
        }
    }

    fn event(text: &str) -> Option<Event> {
        line(text.as_bytes())?.event(Moment::from_secs(0))
    }

    const ENDED: &str = "pam_unix(sshd:session): session closed for user u";

    #[test]
    fn identifier_and_pid_stand_where_the_daemon_puts_them() {
        let good = event(&format!("Jan 30 10:40:08 host sshd[812]: {ENDED}")).unwrap();
        assert_eq!((good.pid, good.sender), (812, Sender::Unproven));
        assert!(
            event(&format!(
                "2025-01-30T10:40:08+00:00 host sshd-session[812]: {ENDED}"
            ))
            .is_some()
        );
        for wrong in [
            format!("Jan 30 10:40:08 host x sshd[812]: {ENDED}"),
            format!("Jan 30 10:40:08 host evil[1]: sshd[812]: {ENDED}"),
            format!("Jan 30 10:40:08 host sshd: {ENDED}"),
            format!("Jan 30 10:40:08 host sshd[-1]: {ENDED}"),
            format!("Jan 30 10:40:08 host sshd[]: {ENDED}"),
            format!("Jan 30 10:40:08 host sshd[812] {ENDED}"),
            format!(
                "Jan 30 10:40:08 host sshd[812]: Invalid user x#012Jan 30 10:40:08 host sshd[812]: {ENDED}"
            ),
            format!("Jan 30 10:40:08 host ec2-instance-connect[812]: {ENDED}"),
        ] {
            assert_eq!(event(&wrong), None, "{wrong}");
        }
    }
}
