//! The time, as Unix seconds; certificates, staples and records all count in them.

use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// Seconds in a day.
pub const DAY: i64 = 86_400;

/// Unix seconds now.
pub fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// The calendar's view of Unix seconds; outside year ±9999 the epoch.
pub(crate) fn date(unix: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(unix).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// `2025-01-30T11:59:08Z`, as AWS writes times.
pub fn iso8601(unix: i64) -> String {
    let t = date(unix);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    )
}
