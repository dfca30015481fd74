//! A whole configuration: the main file and everything it includes, walked in the order in which sshd reads it.
//!
//! In: a [`Snapshot`] of files that somebody else has read. Out: a [`Reading`]: every setting that has to do with an
//! `AuthorizedKeysCommand`, with its file, line and scope, in order; first value wins (sshd_config(5)). It says who
//! wins and why. Whether that is true is for `sshd -T` to say; the two are compared before anything is trusted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::config::{self, Config, ConfigError, Directive, Statement};

/// servconf.c, `SERVCONF_MAX_DEPTH`.
pub const MAX_INCLUDE_DEPTH: usize = 16;

/// Files that one configuration may consist of. sshd has no limit; hundreds are a mistake, and an Include that
/// matches itself would be read 2^16 times.
pub const MAX_FILES_READ: usize = 2_048;

/// The directory to which a relative `Include` belongs, wherever the file with it lies (servconf.c, `SSHDIR`).
pub const SSH_DIR: &str = "/etc/ssh";

/// All bytes that sshd's configuration consists of, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The main file's path, as sshd is told it.
    pub main: PathBuf,
    /// Every file read, by the path under which sshd opens it.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// What each absolute `Include` pattern found, in glob(3)'s order.
    pub globs: BTreeMap<String, Vec<PathBuf>>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Path as sshd names it.
    pub file: PathBuf,
    /// One-based.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.file.display(), self.line)
    }
}

/// The keywords that decide which command gives keys, and one that OpenSSH confuses with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyword {
    /// `AuthorizedKeysCommand`.
    Command,
    /// `AuthorizedKeysCommandUser`.
    CommandUser,
    /// `AuthorizedKeysCommandRunAs`: what Red Hat's OpenSSH before 6.2 called it; an error in any other.
    RunAs,
}

impl Keyword {
    fn of(directive: &Directive) -> Option<Self> {
        match directive.keyword.as_str() {
            "authorizedkeyscommand" => Some(Self::Command),
            "authorizedkeyscommanduser" => Some(Self::CommandUser),
            "authorizedkeyscommandrunas" => Some(Self::RunAs),
            _ => None,
        }
    }

    /// The keyword as the manual writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "AuthorizedKeysCommand",
            Self::CommandUser => "AuthorizedKeysCommandUser",
            Self::RunAs => "AuthorizedKeysCommandRunAs",
        }
    }
}

/// For whom a line counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// For every connection: outside any Match block, or below `Match all`.
    Always,
    /// Only where this Match line's condition holds.
    Within(Place),
}

/// One setting of interest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Which one.
    pub keyword: Keyword,
    /// Its value, as `sshd -T` would print it.
    pub value: String,
    /// Where it stands.
    pub place: Place,
    /// For whom.
    pub scope: Scope,
}

/// An `Include` that sshd follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    /// The pattern, made absolute.
    pub pattern: String,
    /// Where it stands.
    pub place: Place,
    /// For whom its files count.
    pub scope: Scope,
}

/// What a configuration says, in the order in which sshd reads it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Settings of interest.
    pub settings: Vec<Setting>,
    /// Includes, each as often as it is reached.
    pub includes: Vec<Include>,
}

impl Reading {
    /// The setting that counts for everyone: the first one outside a condition.
    #[must_use]
    pub fn winner(&self, keyword: Keyword) -> Option<&Setting> {
        self.always().find(|setting| setting.keyword == keyword)
    }

    /// All settings outside a condition, in order.
    pub fn always(&self) -> impl Iterator<Item = &Setting> {
        self.settings
            .iter()
            .filter(|setting| setting.scope == Scope::Always)
    }

    /// The Include outside a condition that would read this file, if there is one.
    #[must_use]
    pub fn include_of(&self, path: &Path) -> Option<&Include> {
        let path = path.to_string_lossy();
        self.includes.iter().find(|include| {
            include.scope == Scope::Always && super::glob::path_matches(&include.pattern, &path)
        })
    }
}

/// Why a configuration can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeError {
    /// A file that the snapshot does not hold.
    Missing(PathBuf),
    /// A file that is no configuration.
    Config(PathBuf, ConfigError),
    /// More than [`MAX_INCLUDE_DEPTH`] files inside one another.
    Depth(Place),
    /// More than [`MAX_FILES_READ`] files.
    TooMany(Place),
}

/// The patterns of an Include line, made absolute as servconf.c does it (`sInclude`).
#[must_use]
pub fn include_patterns(directive: &Directive) -> Vec<String> {
    if directive.keyword != "include" {
        return Vec::new();
    }
    let words = directive.words.iter().map(|word| String::from_utf8_lossy(word));
    words
        .map(|word| {
            if word.starts_with(['/', '~']) {
                word.into_owned()
            } else {
                format!("{SSH_DIR}/{word}")
            }
        })
        .collect()
}

/// Whether a `Match` line holds for every connection: `Match all` stands alone (servconf.c, `match_cfg_line`).
#[must_use]
pub fn is_match_all(directive: &Directive) -> bool {
    matches!(directive.words.as_slice(), [only] if only.eq_ignore_ascii_case(b"all"))
}

/// Walks a snapshot as sshd would.
///
/// # Errors
/// [`TreeError`] where the walk can't be finished.
pub fn read(snapshot: &Snapshot) -> Result<Reading, TreeError> {
    let mut parsed = BTreeMap::new();
    for (path, bytes) in &snapshot.files {
        let config = config::parse(bytes).map_err(|error| TreeError::Config(path.clone(), error))?;
        parsed.insert(path.as_path(), config);
    }
    let mut walk = Walk {
        snapshot,
        parsed,
        reading: Reading::default(),
        budget: MAX_FILES_READ,
    };
    walk.file(&snapshot.main, &Scope::Always, 0)?;
    Ok(walk.reading)
}

struct Walk<'a> {
    snapshot: &'a Snapshot,
    parsed: BTreeMap<&'a Path, Config>,
    reading: Reading,
    budget: usize,
}

impl Walk<'_> {
    /// Reads one file. A Match inside it ends with it ("don't let included files clobber the containing file's
    /// Match state", servconf.c), and one inside a condition can't leave that condition.
    fn file(&mut self, path: &Path, outer: &Scope, depth: usize) -> Result<(), TreeError> {
        let Some(config) = self.parsed.get(path).cloned() else {
            return Err(TreeError::Missing(path.to_path_buf()));
        };
        let mut scope = outer.clone();
        for line in &config.lines {
            let Statement::Directive(directive) = &line.statement else {
                continue;
            };
            let place = Place {
                file: path.to_path_buf(),
                line: line.number,
            };
            if directive.keyword == "match" {
                if *outer == Scope::Always {
                    scope = if is_match_all(directive) {
                        Scope::Always
                    } else {
                        Scope::Within(place)
                    };
                }
            } else if directive.keyword == "include" {
                self.include(directive, &place, &scope, depth)?;
            } else if let Some(keyword) = Keyword::of(directive) {
                let value = match keyword {
                    Keyword::Command => directive.value(),
                    Keyword::CommandUser | Keyword::RunAs => directive.first_word(),
                };
                self.reading.settings.push(Setting {
                    keyword,
                    value,
                    place,
                    scope: scope.clone(),
                });
            }
        }
        Ok(())
    }

    fn include(
        &mut self,
        directive: &Directive,
        place: &Place,
        scope: &Scope,
        depth: usize,
    ) -> Result<(), TreeError> {
        if depth >= MAX_INCLUDE_DEPTH {
            return Err(TreeError::Depth(place.clone()));
        }
        for pattern in include_patterns(directive) {
            let found = self.snapshot.globs.get(&pattern).cloned().unwrap_or_default();
            self.reading.includes.push(Include {
                pattern,
                place: place.clone(),
                scope: scope.clone(),
            });
            for file in found {
                self.budget = self
                    .budget
                    .checked_sub(1)
                    .ok_or_else(|| TreeError::TooMany(place.clone()))?;
                self.file(&file, scope, depth.saturating_add(1))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(files: &[(&str, &str)], globs: &[(&str, &[&str])]) -> Snapshot {
        Snapshot {
            main: "/etc/ssh/sshd_config".into(),
            files: files
                .iter()
                .map(|(path, text)| (path.into(), text.as_bytes().to_vec()))
                .collect(),
            globs: globs
                .iter()
                .map(|(pattern, found)| ((*pattern).to_owned(), found.iter().map(PathBuf::from).collect()))
                .collect(),
        }
    }

    const GLOB: &str = "/etc/ssh/sshd_config.d/*.conf";

    #[test]
    fn earliest_line_wins_across_files() {
        let reading = read(&snapshot(
            &[
                (
                    "/etc/ssh/sshd_config",
                    "Include sshd_config.d/*.conf\nAuthorizedKeysCommand /late\n",
                ),
                (
                    "/etc/ssh/sshd_config.d/a.conf",
                    "# x\nauthorizedkeyscommand = /early %u\n",
                ),
            ],
            &[(GLOB, &["/etc/ssh/sshd_config.d/a.conf"])],
        ))
        .unwrap();
        let winner = reading.winner(Keyword::Command).unwrap();
        assert_eq!(winner.value, "/early %u");
        assert_eq!(winner.place.to_string(), "/etc/ssh/sshd_config.d/a.conf:2");
        assert_eq!(reading.settings.len(), 2);
    }

    #[test]
    fn match_inside_an_included_file_ends_with_it() {
        let reading = read(&snapshot(
            &[
                (
                    "/etc/ssh/sshd_config",
                    "Include sshd_config.d/*.conf\nAuthorizedKeysCommand /global\n",
                ),
                (
                    "/etc/ssh/sshd_config.d/a.conf",
                    "Match User bob\nAuthorizedKeysCommand /bobs\n",
                ),
            ],
            &[(GLOB, &["/etc/ssh/sshd_config.d/a.conf"])],
        ))
        .unwrap();
        assert_eq!(reading.winner(Keyword::Command).unwrap().value, "/global");
        assert!(matches!(&reading.settings[0].scope, Scope::Within(place) if place.line == 1));
    }

    #[test]
    fn include_below_a_match_reaches_only_that_match() {
        let reading = read(&snapshot(
            &[
                (
                    "/etc/ssh/sshd_config",
                    "Match User bob\nInclude sshd_config.d/*.conf\n",
                ),
                (
                    "/etc/ssh/sshd_config.d/a.conf",
                    "Match all\nAuthorizedKeysCommand /x\n",
                ),
            ],
            &[(GLOB, &["/etc/ssh/sshd_config.d/a.conf"])],
        ))
        .unwrap();
        assert!(reading.winner(Keyword::Command).is_none());
        assert!(
            reading
                .include_of(Path::new("/etc/ssh/sshd_config.d/60-x.conf"))
                .is_none()
        );
    }

    #[test]
    fn match_all_counts_for_everyone() {
        let reading = read(&snapshot(
            &[(
                "/etc/ssh/sshd_config",
                "Match User b\nMatch All\nAuthorizedKeysCommand none\n",
            )],
            &[],
        ))
        .unwrap();
        assert_eq!(reading.winner(Keyword::Command).unwrap().value, "none");
    }

    #[test]
    fn file_that_includes_itself_is_refused() {
        let path = "/etc/ssh/sshd_config.d/a.conf";
        let error = read(&snapshot(
            &[
                ("/etc/ssh/sshd_config", "Include sshd_config.d/*.conf\n"),
                (path, "Include sshd_config.d/*.conf\n"),
            ],
            &[(GLOB, &[path])],
        ))
        .unwrap_err();
        assert!(matches!(error, TreeError::Depth(_)));
    }
}
