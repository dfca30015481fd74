//! The checks as people read them, and as JSON.
#![deny(clippy::disallowed_methods)]

use std::fmt::Write as _;

use serde::Serialize;

use super::check::{Check, Outcome};
use crate::admin::output;
use crate::admin::paint::{self, Shade};

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
    output::json_line(&Document {
        schema: SCHEMA,
        user,
        checks,
    })
}

/// One line for each check, the remedy below it.
#[must_use]
pub fn text(checks: &[Check], colour: bool) -> String {
    let mut text = String::new();
    for check in checks {
        let shade = match check.outcome {
            Outcome::Pass => Shade::Good,
            Outcome::Warn => Shade::Notable,
            Outcome::Fail => Shade::Bad,
            Outcome::Skip => Shade::Faint,
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}  {:CODE_WIDTH$}  {}",
            paint::word(check.outcome.word(), shade, colour),
            check.id,
            check.seen
        );
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "      {:CODE_WIDTH$}  -> {remedy}", "");
        }
    }
    text
}
