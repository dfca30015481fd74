//! Which command sshd runs for this user, as whom, what stands beside it, and which line of which file makes it so.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::check::Finding;
use super::sshd::Sshd;
use crate::file;
use crate::sshd::call::Call;
use crate::sshd::dump;
use crate::sshd::system::judge::Opinion;
use crate::sshd::system::root::Root;
use crate::sshd::tree::{Keyword, Place, Scope, Setting};
use crate::sshd::{COMMANDS, LIBEXEC, RUN_AS};

/// As much of a foreign script as is searched. Hand-made ones have a few lines; a program is not read further.
const MAX_SCRIPT_BYTES: u64 = 256 * 1024;

/// What only a command that asks the metadata for keys itself would mention.
const METADATA_WORDS: [&str; 5] = [
    "169.254.169.254",
    "fd00:ec2::254",
    "managed-ssh-keys",
    "meta-data/public-keys",
    "active-keys",
];

impl Sshd {
    /// Which command is in force.
    pub fn command(&self, opinion: &Opinion, user: &str) -> Finding {
        let value =
            dump::value(&opinion.user.stdout, "authorizedkeyscommand").unwrap_or_else(|| "none".to_owned());
        let origin = self.origin(Keyword::Command, &value);
        let at = origin.map_or_else(String::new, |setting| format!(", by {}", scoped(setting)));
        if let Some(finding) = self.started_with_another(&value) {
            return finding;
        }
        if let Some(call) = Call::parse(&value) {
            return self.options(call, format!("for {user}: {value}{at}"));
        }
        let line = origin.map(|setting| setting.place.to_string());
        let program = value.split_ascii_whitespace().next().unwrap_or_default();
        if COMMANDS.contains(&program) {
            return Finding::warn(
                format!("for {user}: {value}{at}, the helper with arguments of somebody's own"),
                self.set(
                    "AuthorizedKeysCommand",
                    &format!("{program} {}", crate::sshd::ARGUMENTS),
                    line.as_deref().unwrap_or("sshd's command line"),
                ),
            );
        }
        if let (Some(line), true) = (&line, origin.is_some_and(|setting| self.is_argument(setting))) {
            return Finding::fail(
                format!("sshd is started with -o AuthorizedKeysCommand={value}{at}, which beats every file"),
                format!("take that -o out of {line}, then {}", self.restart()),
            );
        }
        match (value.as_str(), line) {
            ("none", None) => Finding::fail(
                format!("sshd asks no AuthorizedKeysCommand for {user}"),
                "run `ec2-instance-connect setup apply`",
            ),
            ("none", Some(_)) => Finding::fail(
                format!("AuthorizedKeysCommand none is in force for {user}{at}"),
                format!(
                    "take away {}, then run `ec2-instance-connect setup apply`, {}",
                    origin.map_or_else(|| "that line".to_owned(), |setting| self.with_user(setting)),
                    self.reload()
                ),
            ),
            (_, _) => Finding::fail(
                format!("another command is in force for {user}{at}: {value}"),
                format!(
                    "if it is not needed, take away {}, then run `ec2-instance-connect setup apply`, {}; only one \
                     command can be in force",
                    origin.map_or_else(|| "that line".to_owned(), |setting| self.with_user(setting)),
                    self.reload()
                ),
            ),
        }
    }

    /// Whether our line passes what the helper's configuration needs.
    fn options(&self, call: Call, seen: String) -> Finding {
        let facts = &self.machine.facts;
        let Some(needed) = facts.options else {
            return Finding::pass(seen);
        };
        let known = needed.known_to(facts.release);
        if known != call.options {
            let wanted = Call {
                options: known,
                ..call
            };
            let seen = format!("{seen}; the configuration needs {}", wanted.value());
            return Finding::warn(seen, "run `ec2-instance-connect setup apply`");
        }
        if let Some(token) = needed.iter().find(|token| !known.has(*token)) {
            let (option, word) = token.words();
            let (major, minor) = token.since();
            let seen =
                format!("{seen}; the configuration needs {option} {word}, which this sshd does not know");
            let remedy =
                format!("upgrade to OpenSSH {major}.{minor}, or take away the setting that needs it");
            return Finding::warn(seen, remedy);
        }
        Finding::pass(seen)
    }

    /// What the running daemon was started with, where the unit has been changed since: `value` is for the next start.
    fn started_with_another(&self, value: &str) -> Option<Finding> {
        let running = self.machine.facts.running.as_ref()?;
        let started = running.arguments.value_of("authorizedkeyscommand")?.value();
        (running.by_unit && started != value).then(|| {
            Finding::fail(
                format!(
                    "the running daemon was started with -o AuthorizedKeysCommand={started}, and keeps it"
                ),
                self.restart(),
            )
        })
    }

    /// As whom it runs. The name is for the probe.
    pub fn command_user(&self, opinion: &Opinion) -> (String, Finding) {
        let user = dump::value(&opinion.user.stdout, "authorizedkeyscommanduser")
            .unwrap_or_else(|| "none".to_owned());
        let origin = self.origin(Keyword::CommandUser, &user);
        let at = origin.map_or_else(String::new, |setting| format!(", by {}", scoped(setting)));
        let place = origin.map_or_else(
            || "sshd's command line".to_owned(),
            |setting| setting.place.to_string(),
        );
        let remedy = self.set("AuthorizedKeysCommandUser", RUN_AS, &place);
        let finding = if user == RUN_AS {
            Finding::pass(format!("{user}{at}"))
        } else if nix::unistd::User::from_name(&user).is_ok_and(|found| found.is_some()) {
            Finding::warn(
                format!("the command runs as {user}{at}, not as {RUN_AS}, a user that owns nothing"),
                remedy,
            )
        } else {
            Finding::fail(
                format!("the command would run as {user}{at}, a user that does not exist: sshd runs nothing"),
                remedy,
            )
        };
        (user, finding)
    }

    /// Commands beside the one in force: what comes after it, and what stands in a Match.
    pub fn shadows(&self, opinion: &Opinion) -> Finding {
        let value = dump::value(&opinion.user.stdout, "authorizedkeyscommand").unwrap_or_default();
        let settings = self.survey.reading.settings.iter();
        let (seen, places): (Vec<String>, Vec<String>) = settings
            .filter(|setting| setting.keyword == Keyword::Command && setting.value != value)
            .map(|setting| {
                let seen = format!("{} at {}", setting.value, scoped(setting));
                (seen, setting.place.to_string())
            })
            .unzip();
        if seen.is_empty() {
            return Finding::pass("no other command is configured");
        }
        Finding::warn(
            format!("others are configured: {}", seen.join("; ")),
            format!(
                "the first line that applies wins: if nobody needs it, take away {}, then {}",
                places.join(" and "),
                self.reload()
            ),
        )
    }

    /// The lines that run the helper and do not hand on `%f`.
    #[must_use]
    pub fn without_fingerprint(&self) -> Vec<String> {
        let settings = self.survey.in_force.iter().chain(&self.survey.reading.settings);
        settings
            .filter(|setting| setting.keyword == Keyword::Command)
            .filter(|setting| {
                let mut words = setting.value.split_ascii_whitespace();
                words.next().is_some_and(|path| COMMANDS.contains(&path)) && words.all(|word| word != "%f")
            })
            .map(|setting| format!("{} at {}", setting.value, scoped(setting)))
            .collect()
    }

    /// Commands that ask the metadata for keys themselves.
    pub fn unverified(&self, root: &Root) -> Finding {
        let settings = self.survey.in_force.iter().chain(&self.survey.reading.settings);
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        let mut places = Vec::new();
        for setting in settings.filter(|setting| setting.keyword == Keyword::Command) {
            if Call::parse(&setting.value).is_some() || !seen.insert(setting.place.to_string()) {
                continue;
            }
            if let Some(what) = asks_metadata(root, &setting.value) {
                found.push(format!("{what} ({})", scoped(setting)));
                places.push(self.with_user(setting));
            }
        }
        if found.is_empty() {
            Finding::pass("no command prints keys from the metadata unverified")
        } else {
            Finding::fail(
                format!(
                    "DANGEROUS: {}: it takes keys from the metadata without proof of who signed them, for whom and \
                     until when",
                    found.join("; ")
                ),
                format!(
                    "take away {}, then run `ec2-instance-connect setup apply`, {}: this helper verifies each key",
                    places.join(" and "),
                    self.reload()
                ),
            )
        }
    }

    /// A foreign command's place, and that of the foreign user that goes with it: setup takes neither away.
    fn with_user(&self, command: &Setting) -> String {
        let users = self.survey.reading.settings.iter().filter(|setting| {
            setting.keyword == Keyword::CommandUser
                && setting.value != RUN_AS
                && setting.scope == command.scope
        });
        let places = std::iter::once(command)
            .chain(users)
            .map(|setting| setting.place.to_string());
        places.collect::<Vec<_>>().join(" and ")
    }

    /// Whether a setting is one of sshd's arguments and stands in no file of its configuration.
    fn is_argument(&self, setting: &Setting) -> bool {
        !self.survey.reading.settings.contains(setting)
    }

    /// The setting that makes `value` effective: `-o`, or the first line that says so.
    fn origin(&self, keyword: Keyword, value: &str) -> Option<&Setting> {
        let settings = self.survey.in_force.iter().chain(&self.survey.reading.settings);
        settings
            .filter(|setting| setting.keyword == keyword)
            .find(|setting| setting.value == value)
    }
}

/// A place, and the Match line that it lies in.
fn scoped(setting: &Setting) -> String {
    match &setting.scope {
        Scope::Always => setting.place.to_string(),
        Scope::Everyone => format!("{} (below Match all)", setting.place),
        Scope::Within(Place { file, line }) => {
            format!("{} (Match at {}:{line})", setting.place, file.display())
        }
    }
}

/// Whether a command line, or a file that it names, mentions the metadata.
fn asks_metadata(root: &Root, command: &str) -> Option<String> {
    let mentions = |text: &str| METADATA_WORDS.iter().any(|word| text.contains(word));
    if mentions(command) {
        return Some(command.to_owned());
    }
    let files = command
        .split_ascii_whitespace()
        .map(|word| word.trim_matches(['"', '\'']))
        .filter(|word| word.starts_with('/'));
    files.map(PathBuf::from).find_map(|path| {
        let real = root.resolve(&path).ok()?;
        // Whatever it is that answers to Amazon's names, the check `package` says.
        if real.starts_with(LIBEXEC) {
            return None;
        }
        let bytes = file::read_kernel(&root.outside(&real), MAX_SCRIPT_BYTES).ok()?;
        mentions(&String::from_utf8_lossy(&bytes)).then(|| path.display().to_string())
    })
}
