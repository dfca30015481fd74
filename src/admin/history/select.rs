//! Which rows were asked for.
#![deny(clippy::disallowed_methods)]

use super::join::Row;
use super::moment::Moment;

/// A pattern for an ARN: `*` is any text, also none, and crosses `:` and `/`; `?` is any one character.
///
/// It only chooses what is shown. In an IAM policy the same signs mean nearly the same; nothing is granted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<u8>);

impl Pattern {
    /// The pattern that `text` writes.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }

    /// Whether all of `text` fits. In time of at most the product of both lengths.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let (mut pattern, mut text) = (self.0.as_slice(), text.as_bytes());
        // Behind the last star: where to go on after it has taken one byte more.
        let mut retry: Option<(&[u8], &[u8])> = None;
        loop {
            match (pattern.split_first(), text.split_first()) {
                (Some((b'*', behind)), _) => {
                    retry = Some((behind, text));
                    pattern = behind;
                }
                (Some((p, pattern_rest)), Some((t, text_rest))) if *p == b'?' || p == t => {
                    pattern = pattern_rest;
                    text = text_rest;
                }
                (None, None) => return true,
                _ => match retry {
                    Some((behind, [_, rest @ ..])) => {
                        retry = Some((behind, rest));
                        pattern = behind;
                        text = rest;
                    }
                    _ => return false,
                },
            }
        }
    }
}

/// Which rows were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Not before.
    pub since: Moment,
    /// Not after.
    pub until: Moment,
    /// This OS user's.
    pub user: Option<String>,
    /// Those of a principal that fits.
    pub principal: Option<Pattern>,
}

impl Selection {
    /// Whether `row` was asked for.
    #[must_use]
    pub fn keeps(&self, row: &Row) -> bool {
        let user = self
            .user
            .as_ref()
            .is_none_or(|wanted| row.user.as_ref().is_some_and(|user| user.as_str() == wanted));
        let principal = self.principal.as_ref().is_none_or(|pattern| {
            row.grants.iter().any(|(grant, matched)| {
                let logged = grant.principal.as_ref();
                let pushed = match matched {
                    super::join::Match::Found(push, _) => push.principal.as_ref(),
                    _ => None,
                };
                logged
                    .into_iter()
                    .chain(pushed)
                    .any(|arn| pattern.fits(arn.as_str()))
            })
        });
        (self.since..=self.until).contains(&row.time) && user && principal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:sts::123456789012:assumed-role/Admin/alice@example.com";

    #[test]
    fn patterns_fit_as_people_expect() {
        for (pattern, fits) in [
            ("*", true),
            (ARN, true),
            ("*/alice@*", true),
            ("*:assumed-role/Admin/*", true),
            ("arn:aws:sts::????????????:*", true),
            ("*alice", false),
            ("alice*", false),
            ("", false),
            ("*ADMIN*", false),
            ("**a**e**", true),
            ("**m", true),
        ] {
            assert_eq!(Pattern::new(pattern).fits(ARN), fits, "{pattern}");
        }
        assert!(Pattern::new("").fits("") && Pattern::new("**").fits(""));
    }

    #[test]
    fn a_pattern_of_stars_costs_no_exponential_time() {
        let pattern = Pattern::new(&"*a".repeat(200));
        assert!(!pattern.fits(&format!("{}b", "a".repeat(500))));
    }
}
