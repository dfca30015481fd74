//! Does a path match an `Include` pattern? glob(7) without extensions, as sshd calls glob(3) with no flags:
//! `*`, `?` and `[…]` never match a `/`, nor a leading dot; a backslash takes the next character as it is.

/// Steps that one pattern may cost. A pattern of many stars against a long name is quadratic here, never
/// exponential; the bound is what a fuzzer may spend.
const MAX_STEPS: usize = 1 << 20;

/// Whether `path` matches `pattern`, component by component.
#[must_use]
pub fn path_matches(pattern: &str, path: &str) -> bool {
    let mut patterns = pattern.split('/').filter(|part| !part.is_empty());
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    loop {
        match (patterns.next(), parts.next()) {
            (None, None) => return pattern.starts_with('/') == path.starts_with('/'),
            (Some(pattern), Some(part)) if name_matches(pattern, part) => {}
            _ => return false,
        }
    }
}

/// Whether a pattern's component holds anything that glob(3) would expand.
#[must_use]
pub fn is_wild(component: &str) -> bool {
    component.contains(['*', '?', '['])
}

/// Whether one file name matches one component of a pattern.
#[must_use]
pub fn name_matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    if name.first() == Some(&'.') && pattern.first() != Some(&'.') {
        return false;
    }
    let (mut at, mut from) = (0_usize, 0_usize);
    // Where to start again when a literal fails: the last star, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    for _ in 0..MAX_STEPS {
        if pattern.get(at) == Some(&'*') {
            star = Some((at, from));
            at = at.saturating_add(1);
            continue;
        }
        let next = name.get(from).copied();
        if let (None, None) = (pattern.get(at), next) {
            return true;
        }
        if let Some(width) = next.and_then(|letter| one(pattern.get(at..).unwrap_or_default(), letter)) {
            at = at.saturating_add(width);
            from = from.saturating_add(1);
            continue;
        }
        match star {
            Some((back, taken)) if taken < name.len() => {
                star = Some((back, taken.saturating_add(1)));
                at = back.saturating_add(1);
                from = taken.saturating_add(1);
            }
            _ => return false,
        }
    }
    false
}

/// How many pattern characters match this one letter; `None` when they don't.
fn one(pattern: &[char], letter: char) -> Option<usize> {
    match pattern {
        ['?', ..] => Some(1),
        ['\\', escaped, ..] => (*escaped == letter).then_some(2),
        ['[', rest @ ..] => match set(rest, letter) {
            Some((hit, width)) => hit.then_some(width.saturating_add(1)),
            // An unclosed bracket stands for itself.
            None => (letter == '[').then_some(1),
        },
        [literal, ..] => (*literal == letter).then_some(1),
        [] => None,
    }
}

/// Reads `[…]` behind its bracket: whether the letter is in it, and how long it is with its closing bracket.
fn set(pattern: &[char], letter: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.first(), Some('!' | '^'));
    let mut at = usize::from(negated);
    let first = at;
    let mut hit = false;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > first {
            return Some((hit != negated, at.saturating_add(1)));
        }
        let high = match (
            pattern.get(at.saturating_add(1)),
            pattern.get(at.saturating_add(2)),
        ) {
            (Some('-'), Some(high)) if *high != ']' => {
                at = at.saturating_add(2);
                *high
            }
            _ => low,
        };
        hit |= (low..=high).contains(&letter);
        at = at.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_glob_matches_them() {
        for (pattern, name) in [
            ("*.conf", "60-x.conf"),
            ("*", "a"),
            ("6?-*", "60-x"),
            ("[0-5]0*", "50-cloud-init.conf"),
            ("[!a]b", "cb"),
            ("a\\*", "a*"),
            (".*", ".hidden"),
            ("a*b*c", "aXbYbZc"),
            ("[]]", "]"),
        ] {
            assert!(name_matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.conf", "60-x.conf.tmp"),
            ("*", ".hidden"),
            ("?hidden", ".hidden"),
            ("[0-5]0*", "60-x"),
            ("a", "ab"),
            ("a*b*c", "aXc"),
        ] {
            assert!(!name_matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn star_stops_at_a_slash() {
        assert!(path_matches(
            "/etc/ssh/sshd_config.d/*.conf",
            "/etc/ssh/sshd_config.d/60-ec2-instance-connect.conf"
        ));
        assert!(path_matches(
            "/etc/ssh/*/*.conf",
            "/etc//ssh/sshd_config.d/a.conf"
        ));
        assert!(!path_matches("/etc/ssh/*.conf", "/etc/ssh/sshd_config.d/a.conf"));
        assert!(!path_matches("etc/*", "/etc/a"));
    }
}
