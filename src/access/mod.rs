//! Who may: rules on the signed caller, the login and its source.
//!
//! ```text
//! [[access]] ──▶ Rules ─────────┐
//! #Caller, signed ─▶ Principal ─┼─▶ judge ─▶ Ruling
//! %C, groups ──────▶ Login ─────┘
//! ```
//!
//! IAM decides at push time by instance and login name. The host knows, signed, who pushed, and can say more. Its
//! rules are asked after the proof: nothing in them can make a key of what is none. docs/ACCESS.md has examples.

pub mod connection;
pub mod groups;
pub mod judge;
pub mod network;
pub mod pattern;
pub mod policy;
pub mod principal;
pub mod remarks;
pub mod rule;

use serde::Deserialize;

pub use judge::{Groups, Login, Ruling, judge};
pub use rule::{Effect, Rule};

/// All rules, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// Whether a rule asks where the login comes from, which only sshd can say.
    #[must_use]
    pub fn ask_source(&self) -> bool {
        self.0.iter().any(|rule| !rule.from.is_empty())
    }
}

/// The error for an entry of a list: toml's errors have the list's line, so the entry itself is named.
fn not_a(text: &str, expected: &str) -> String {
    format!("\"{text}\" is not {expected}")
}
