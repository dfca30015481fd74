//! The checks as people read them, and as JSON.
#![deny(clippy::disallowed_methods)]

use std::fmt::Write as _;

use serde::Serialize;

use super::check::{Check, Outcome};

/// Name and version of the JSON form. A field may be added under the same number; anything else takes a new one.
pub const SCHEMA: &str = "ec2-instance-connect/doctor/1";

/// Width of the widest check's code, so that what was seen stands in one column.
const CODE_WIDTH: usize = 21;

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    user: &'a str,
    checks: &'a [Check],
}

/// One JSON document on one line.
///
/// # Errors
/// None that can come of these types; serde's signature.
pub fn json(user: &str, checks: &[Check]) -> serde_json::Result<Vec<u8>> {
    let mut out = serde_json::to_vec(&Document {
        schema: SCHEMA,
        user,
        checks,
    })?;
    out.push(b'\n');
    Ok(out)
}

/// One line for each check, the remedy below it.
#[must_use]
pub fn text(checks: &[Check], colour: bool) -> String {
    let mut text = String::new();
    for check in checks {
        // SGR (ECMA-48 §8.3.117): green, yellow, red; dim for what was not looked at.
        let (on, off) = match (colour, check.outcome) {
            (false, _) => ("", ""),
            (true, Outcome::Pass) => ("\x1b[32m", "\x1b[0m"),
            (true, Outcome::Warn) => ("\x1b[33m", "\x1b[0m"),
            (true, Outcome::Fail) => ("\x1b[31m", "\x1b[0m"),
            (true, Outcome::Skip) => ("\x1b[2m", "\x1b[0m"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{on}{}{off}  {:CODE_WIDTH$}  {}",
            check.outcome.word(),
            check.id,
            check.seen
        );
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "      {:CODE_WIDTH$}  -> {remedy}", "");
        }
    }
    text
}
