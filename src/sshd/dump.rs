//! `sshd -T`: what it prints, and whether a candidate may take the old configuration's place.
//!
//! sshd itself is the judge; these functions only compare what it said before and after.

use std::collections::BTreeMap;

/// The two keywords that may change.
const OURS: [&str; 2] = ["authorizedkeyscommand", "authorizedkeyscommanduser"];

/// One run of `sshd -T`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// Whether it exited with 0.
    pub ok: bool,
    /// Effective settings, when it did.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// Effective settings: keyword in lower case (up to 10.3 sshd prints it so, later versions in mixed case), and all its
/// values in the order printed.
#[must_use]
pub fn settings(stdout: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in stdout.lines() {
        let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
        found
            .entry(keyword.to_ascii_lowercase())
            .or_default()
            .push(value.trim().to_owned());
    }
    found
}

/// The first value of a keyword; sshd's word for an unset command is `none`.
#[must_use]
pub fn value(stdout: &str, keyword: &str) -> Option<String> {
    settings(stdout)
        .get(keyword)
        .and_then(|values| values.first().cloned())
}

/// What a passed candidate does beside what it is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passed {
    /// sshd refuses the old configuration and the new one alike.
    pub already_broken: bool,
    /// Keywords of others whose effective value changes: keyword, before, after.
    pub side_effects: Vec<SideEffect>,
}

/// Another keyword's value, before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideEffect {
    /// In lower case.
    pub keyword: String,
    /// Values before, joined by commas.
    pub before: String,
    /// Values after.
    pub after: String,
}

/// Why a candidate may not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// sshd does not take it, and did not complain like that before.
    Fails {
        /// sshd's words.
        stderr: String,
    },
    /// Another command, or another user, would be in force.
    NotEffective {
        /// The keyword.
        keyword: &'static str,
        /// What would be in force.
        value: String,
    },
}

/// Compares sshd's opinion of the old and the new configuration. `wanted` is the command and the user that must be in
/// force afterwards; `None` when they only have to go.
///
/// # Errors
/// [`Rejected`] when the candidate must not be used. A configuration that was broken before blocks only when it is
/// now broken in another way: we are not the ones to mend it.
pub fn judge(before: &Check, after: &Check, wanted: Option<(&str, &str)>) -> Result<Passed, Rejected> {
    if !after.ok {
        let same = !before.ok && without_numbers(&before.stderr) == without_numbers(&after.stderr);
        return if same {
            Ok(Passed {
                already_broken: true,
                side_effects: Vec::new(),
            })
        } else {
            Err(Rejected::Fails {
                stderr: after.stderr.trim().to_owned(),
            })
        };
    }
    let new = settings(&after.stdout);
    if let Some((command, user)) = wanted {
        for (keyword, wanted) in OURS.into_iter().zip([command, user]) {
            let value = new
                .get(keyword)
                .and_then(|values| values.first())
                .map_or("none", String::as_str);
            if value != wanted {
                return Err(Rejected::NotEffective {
                    keyword,
                    value: value.to_owned(),
                });
            }
        }
    }
    if !before.ok {
        return Ok(Passed::default());
    }
    let old = settings(&before.stdout);
    let none = Vec::new();
    let keywords: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let side_effects = keywords
        .into_iter()
        .filter(|keyword| !OURS.contains(&keyword.as_str()))
        .filter_map(|keyword| {
            let (before, after) = (
                old.get(keyword).unwrap_or(&none),
                new.get(keyword).unwrap_or(&none),
            );
            (before != after).then(|| SideEffect {
                keyword: keyword.clone(),
                before: before.join(", "),
                after: after.join(", "),
            })
        })
        .collect();
    Ok(Passed {
        already_broken: false,
        side_effects,
    })
}

/// Complaints without their digits: our block moves the lines below it, which is no other complaint.
fn without_numbers(text: &str) -> String {
    text.trim()
        .chars()
        .filter(|letter| !letter.is_ascii_digit())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(stdout: &str) -> Check {
        Check {
            ok: true,
            stdout: stdout.into(),
            stderr: String::new(),
        }
    }

    fn bad(stderr: &str) -> Check {
        Check {
            ok: false,
            stdout: String::new(),
            stderr: stderr.into(),
        }
    }

    const WANTED: Option<(&str, &str)> = Some(("/x %u %f", "me"));
    const AFTER: &str = "AuthorizedKeysCommand /x %u %f\nauthorizedkeyscommanduser me\nport 22\n";

    #[test]
    fn candidate_with_our_value_passes_in_either_case() {
        assert_eq!(
            judge(&ok("authorizedkeyscommand none\nport 22\n"), &ok(AFTER), WANTED),
            Ok(Passed::default())
        );
    }

    #[test]
    fn other_value_is_rejected() {
        let after = ok("authorizedkeyscommand /y\nauthorizedkeyscommanduser me\n");
        assert_eq!(
            judge(&ok(""), &after, WANTED),
            Err(Rejected::NotEffective {
                keyword: "authorizedkeyscommand",
                value: "/y".into()
            })
        );
        let after = ok("authorizedkeyscommand /x %u %f\nauthorizedkeyscommanduser root\n");
        assert!(matches!(
            judge(&ok(""), &after, WANTED),
            Err(Rejected::NotEffective { .. })
        ));
    }

    #[test]
    fn side_effect_is_seen() {
        let before = ok("authorizedprincipalscommand /p\nport 22\n");
        let after = ok(&format!("authorizedprincipalscommand none\n{AFTER}"));
        let passed = judge(&before, &after, WANTED).unwrap();
        assert_eq!(passed.side_effects.len(), 1);
        assert_eq!(passed.side_effects[0].before, "/p");
    }

    #[test]
    fn new_complaint_is_rejected_and_old_one_is_not() {
        assert!(matches!(
            judge(&ok(""), &bad("line 3: Bad"), WANTED),
            Err(Rejected::Fails { .. })
        ));
        assert!(matches!(
            judge(&bad("line 3: Bad"), &bad("line 3: Worse"), WANTED),
            Err(Rejected::Fails { .. })
        ));
        assert!(
            judge(&bad("line 3: Bad"), &bad("line 7: Bad"), WANTED)
                .unwrap()
                .already_broken
        );
    }
}
