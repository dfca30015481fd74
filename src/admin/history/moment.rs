//! Points in time, and how people and logs write them.
#![deny(clippy::disallowed_methods)]

use std::fmt;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A point in time: microseconds since the Unix epoch, as journald counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(i64);

impl Moment {
    /// Earlier than everything.
    pub const MIN: Self = Self(i64::MIN);
    /// Later than everything.
    pub const MAX: Self = Self(i64::MAX);

    /// From microseconds since the epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From seconds since the epoch.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This moment and `secs` seconds.
    #[must_use]
    pub const fn plus_secs(self, secs: i64) -> Self {
        Self(self.0.saturating_add(secs.saturating_mul(1_000_000)))
    }

    /// Seconds from `earlier` to here, negative if it was later, rounded down.
    #[must_use]
    pub const fn secs_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0).div_euclid(1_000_000)
    }

    /// RFC 3339, as CloudTrail and modern syslog daemons write it.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        // jiff's grammar is wider (a zone in brackets, weeks, a year with a sign): only what RFC 3339 is made of goes in.
        let plain = |b: u8| b.is_ascii_digit() || b"-+:.TZtz".contains(&b);
        let year = text.bytes().next().is_some_and(|b| b.is_ascii_digit());
        if text.len() > MAX_RFC3339 || !year || !text.bytes().all(plain) {
            return None;
        }
        text.parse::<Timestamp>().ok().map(Self::from)
    }

    /// Local time in `zone`. Of an hour that a clock change repeats, the first is meant; one that it skips is
    /// read as the hour after.
    #[must_use]
    pub fn from_local(local: DateTime, zone: &TimeZone) -> Option<Self> {
        zone.to_timestamp(local).ok().map(Self::from)
    }

    /// What an administrator means by `text` at `now`, in `zone`: `2h` (ago; s, m, h, d, w), `@1738233608`,
    /// RFC 3339, or a local `2025-01-30`, `2025-01-30 10:40`, `2025-01-30 10:40:08`.
    ///
    /// # Errors
    /// A sentence for the person who wrote it.
    pub fn from_words(text: &str, now: Self, zone: &TimeZone) -> Result<Self, String> {
        if let Some(secs) = text.strip_prefix('@').and_then(|secs| secs.parse().ok()) {
            return Ok(Self::from_secs(secs));
        }
        if let Some(ago) = seconds_ago(text) {
            return Ok(now.plus_secs(ago.saturating_neg()));
        }
        if let Some(moment) = Self::from_rfc3339(text) {
            return Ok(moment);
        }
        local(text)
            .and_then(|local| Self::from_local(local, zone))
            .ok_or_else(|| {
                format!(
                    "`{}` is no time: write 2h, 3d, 2025-01-30, \"2025-01-30 10:40\", 2025-01-30T10:40:08Z or @1738233608",
                    crate::escape::text(text)
                )
            })
    }
}

/// Longer than any RFC 3339 time with nanoseconds and an offset.
const MAX_RFC3339: usize = 40;

/// `90s`, `15m`, `2h`, `3d`, `1w` in seconds.
fn seconds_ago(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let unit: i64 = match text.strip_prefix(digits)? {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    digits.parse::<i64>().ok()?.checked_mul(unit)
}

/// A date, or a date and a time of day, with a blank or a `T` between.
fn local(text: &str) -> Option<DateTime> {
    let plain = |b: u8| b.is_ascii_digit() || b"-: T".contains(&b);
    if text.len() > MAX_RFC3339 || !text.bytes().all(plain) {
        return None;
    }
    if text.contains(':') {
        text.parse().ok()
    } else {
        text.parse::<Date>()
            .ok()
            .map(|date| date.to_datetime(jiff::civil::Time::midnight()))
    }
}

impl From<Timestamp> for Moment {
    fn from(timestamp: Timestamp) -> Self {
        Self(timestamp.as_microsecond())
    }
}

/// RFC 3339 in UTC, whole seconds, as CloudTrail has it.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_second(self.secs()) {
            Ok(timestamp) => write!(f, "{timestamp}"),
            Err(_) => write!(f, "@{}", self.secs()),
        }
    }
}

impl serde::Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A length of time as people say it: `42s`, `12m05s`, `3h07m`, `2d04h`.
#[must_use]
pub fn length(secs: i64) -> String {
    let span = SignedDuration::from_secs(secs.max(0));
    let (days, hours) = (span.as_hours().div_euclid(24), span.as_hours().rem_euclid(24));
    let (minutes, seconds) = (span.as_mins().rem_euclid(60), span.as_secs().rem_euclid(60));
    match (days, span.as_hours(), span.as_mins()) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{seconds:02}s"),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_secs(1_738_233_608);

    fn words(text: &str) -> Option<String> {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        Moment::from_words(text, NOW, &zone)
            .ok()
            .map(|moment| moment.to_string())
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, meant) in [
            ("@1738233608", "2025-01-30T10:40:08Z"),
            ("8s", "2025-01-30T10:40:00Z"),
            ("40m", "2025-01-30T10:00:08Z"),
            ("1d", "2025-01-29T10:40:08Z"),
            ("1w", "2025-01-23T10:40:08Z"),
            ("2025-01-30T10:40:08Z", "2025-01-30T10:40:08Z"),
            ("2025-01-30T10:40:08.9+02:00", "2025-01-30T08:40:08Z"),
            ("2025-01-30", "2025-01-29T22:00:00Z"),
            ("2025-01-30 10:40", "2025-01-30T08:40:00Z"),
            ("2025-01-30 10:40:08", "2025-01-30T08:40:08Z"),
        ] {
            assert_eq!(words(text).as_deref(), Some(meant), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "h",
            "2",
            "2y",
            "-2h",
            "@",
            "yesterday",
            "2025-13-01",
            "2025-01-30T10:40:08[Europe/Berlin]",
            "+002025-01-30T10:40:08Z",
            "99999999999999999999d",
        ] {
            assert_eq!(words(text), None, "{text}");
        }
    }

    #[test]
    fn lengths_are_short() {
        for (secs, shown) in [
            (-5, "0s"),
            (42, "42s"),
            (725, "12m05s"),
            (11_220, "3h07m"),
            (187_200, "2d04h"),
        ] {
            assert_eq!(length(secs), shown);
        }
    }
}
