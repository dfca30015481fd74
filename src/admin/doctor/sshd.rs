//! What sshd would do for this user, by its own word, and which line of which file makes it so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::file;
use crate::sshd::call::Call;
use crate::sshd::config::{self, Statement};
use crate::sshd::dump;
use crate::sshd::plan::{self, CommandState, Survey};
use crate::sshd::reason::Refusal;
use crate::sshd::system::facts::{self, Machine};
use crate::sshd::system::judge::{self, Opinion, Request, Verdict};
use crate::sshd::system::root::Root;
use crate::sshd::system::run::{TOOL_TIME, run, tool};
use crate::sshd::tree::{Keyword, Place, Scope, Setting};
use crate::sshd::{COMMANDS, LIBEXEC, RUN_AS};

use super::check::Finding;

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

/// `MaxAuthTries` below this leaves no room for the keys that an agent offers first.
const FEW_TRIES: u32 = 3;

/// `LoginGraceTime` below this (seconds) is shorter than the helper may take twice, for probe and login: 2 x 2.5 s.
const SHORT_GRACE: u32 = 5;

/// sshd, its configuration, and what it says of it.
#[derive(Debug)]
pub struct Sshd {
    /// Everything read.
    pub machine: Machine,
    /// What it comes to.
    pub survey: Survey,
}

/// Reads the machine.
///
/// # Errors
/// As setup's discovery.
pub fn survey(root: &Root) -> Result<Sshd, Refusal> {
    let machine = facts::collect(root)?;
    let survey = plan::survey(&machine.facts)?;
    Ok(Sshd { machine, survey })
}

/// A refusal of setup's as a finding.
pub fn refused(refusal: &Refusal) -> Finding {
    let at = refusal.file.as_ref().map_or_else(String::new, |file| {
        let line = refusal.line.map_or_else(String::new, |line| format!(":{line}"));
        format!("{}{line}: ", file.display())
    });
    Finding::fail(format!("{at}{}", refusal.message), &refusal.remedy)
}

impl Sshd {
    /// Asks sshd what it would do for `user`; with the finding for [`super::check::Id::Sshd`].
    pub fn ask(&self, root: &Root, user: &str) -> (Option<Opinion>, Finding) {
        let (arguments, _) = plan::effective_arguments(&self.machine.facts, &self.survey.start);
        let mut request = Request {
            root: root.dir().to_path_buf(),
            private: true,
            files: Default::default(),
            directories: Default::default(),
            sshd: self.machine.sshd.clone(),
            arguments: arguments.repeat,
            environment: self.survey.start.environment.clone(),
            user: user.to_owned(),
        };
        let mut verdict = judge::ask(&request);
        if matches!(verdict, Ok(Verdict::NoNamespace(_))) {
            // In a container without the right to mount: nothing is laid over, so the machine as it is will do.
            request.private = false;
            verdict = judge::ask(&request);
        }
        let by_hand = "run `sshd -t`: it names file and line";
        match verdict {
            Ok(Verdict::Heard(opinion)) if opinion.global.ok && opinion.user.ok => {
                let finding = Finding::pass(format!(
                    "{}, configuration {}",
                    self.version(),
                    self.machine.facts.snapshot.main.display()
                ));
                (Some(opinion), finding)
            }
            Ok(Verdict::Heard(opinion)) => {
                let check = if opinion.global.ok {
                    opinion.user
                } else {
                    opinion.global
                };
                let seen = format!(
                    "sshd does not take its configuration: {}",
                    one_line(&check.stderr)
                );
                let remedy = match complained_of(&check.stderr) {
                    Some(place) => format!(
                        "mend or take away {place}, until `sshd -t` is content, then {}",
                        self.reload()
                    ),
                    None => by_hand.to_owned(),
                };
                (None, Finding::fail(seen, remedy))
            }
            Ok(Verdict::NoNamespace(why) | Verdict::NotRunnable(why)) => (
                None,
                Finding::fail(format!("sshd could not be asked: {why}"), by_hand),
            ),
            Err(error) => (
                None,
                Finding::fail(format!("sshd could not be asked: {error}"), by_hand),
            ),
        }
    }

    fn version(&self) -> String {
        let text = facts::words_of(&self.machine.sshd);
        let line = text.lines().find(|line| line.starts_with("OpenSSH"));
        line.unwrap_or("sshd of an unknown version").trim().to_owned()
    }

    /// The traditional path to judge: the one in force, else the one that is there.
    #[must_use]
    pub fn helper(&self, opinion: Option<&Opinion>) -> (&'static str, &CommandState) {
        let in_force = opinion
            .and_then(|opinion| dump::value(&opinion.user.stdout, "authorizedkeyscommand"))
            .and_then(|value| Call::parse(&value))
            .map(|call| call.path);
        let states = COMMANDS.iter().zip(&self.machine.facts.commands);
        let of = |wanted: &dyn Fn(&str, &CommandState) -> bool| {
            states
                .clone()
                .find(|(path, state)| wanted(path, state))
                .map(|(path, state)| (*path, state))
        };
        let [debian, _] = COMMANDS;
        let [first, _] = &self.machine.facts.commands;
        of(&|path, _| Some(path) == in_force)
            .or_else(|| of(&|_, state| *state != CommandState::Absent))
            .unwrap_or((debian, first))
    }

    /// Where a keyword stands: the lines with the value in force, else all lines of it.
    fn places(&self, keyword: &str, value: &str) -> String {
        let mut found = Vec::new();
        let mut fitting = Vec::new();
        for (path, bytes) in &self.machine.facts.snapshot.files {
            for line in config::parse(bytes)
                .map(|config| config.lines)
                .unwrap_or_default()
            {
                if let Statement::Directive(directive) = &line.statement {
                    if directive.keyword.eq_ignore_ascii_case(keyword) {
                        let place = format!("{}:{}", path.display(), line.number);
                        if directive.value().eq_ignore_ascii_case(value) {
                            fitting.push(place.clone());
                        }
                        found.push(place);
                    }
                }
            }
        }
        if !fitting.is_empty() {
            found = fitting;
        }
        if found.is_empty() {
            "sshd's command line".to_owned()
        } else {
            found.join(", ")
        }
    }

    /// How to have the running daemon read its configuration, for a remedy.
    #[must_use]
    pub fn reload(&self) -> String {
        match &self.machine.service {
            Some(service) if service.by_socket => format!("`systemctl restart {}`", service.unit),
            Some(service) => format!("`systemctl reload {}`", service.unit),
            None => "reload sshd".to_owned(),
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

    /// How to have the daemon take other arguments, for a remedy: a reload keeps those that it was started with.
    fn restart(&self) -> String {
        match &self.machine.service {
            Some(service) => format!("`systemctl daemon-reload`, `systemctl restart {}`", service.unit),
            None => "restart sshd".to_owned(),
        }
    }

    /// Whether a setting is one of sshd's arguments and stands in no file of its configuration.
    fn is_argument(&self, setting: &Setting) -> bool {
        !self.survey.reading.settings.contains(setting)
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

    /// The remedy for a keyword's value.
    fn set(&self, keyword: &str, value: &str, at: &str) -> String {
        format!("set {keyword} to {value} at {at}, then {}", self.reload())
    }

    /// The setting that makes `value` effective: `-o`, or the first line that says so.
    fn origin(&self, keyword: Keyword, value: &str) -> Option<&Setting> {
        let settings = self.survey.in_force.iter().chain(&self.survey.reading.settings);
        settings
            .filter(|setting| setting.keyword == keyword)
            .find(|setting| setting.value == value)
    }

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

    /// Whether keys are taken.
    pub fn pubkey(&self, opinion: &Opinion) -> Finding {
        let value = |keyword: &str| dump::value(&opinion.user.stdout, keyword).unwrap_or_default();
        if value("pubkeyauthentication") != "yes" {
            let now = value("pubkeyauthentication");
            let at = self.places("pubkeyauthentication", &now);
            return Finding::fail(
                format!("PubkeyAuthentication {now} ({at})"),
                self.set("PubkeyAuthentication", "yes", &at),
            );
        }
        let methods = value("authenticationmethods");
        let lists: Vec<&str> = methods.split_ascii_whitespace().collect();
        if methods.is_empty() || lists.iter().any(|list| matches!(*list, "any" | "publickey")) {
            return Finding::pass("keys are taken");
        }
        let at = self.places("authenticationmethods", &methods);
        if lists.iter().any(|list| list.contains("publickey")) {
            Finding::warn(
                format!("AuthenticationMethods {methods} ({at}): a key alone does not log in"),
                "see that those who push keys have the other factor as well",
            )
        } else {
            Finding::fail(
                format!("AuthenticationMethods {methods} ({at}): no list has publickey"),
                self.set("AuthenticationMethods", "publickey", &at),
            )
        }
    }

    /// Whether root may.
    pub fn root_login(&self, opinion: &Opinion) -> Finding {
        let value = dump::value(&opinion.user.stdout, "permitrootlogin").unwrap_or_default();
        match value.as_str() {
            "no" | "forced-commands-only" => {
                let at = self.places("permitrootlogin", &value);
                Finding::fail(
                    format!("PermitRootLogin {value} ({at})"),
                    format!(
                        "log in as another user and become root; or {}",
                        self.set("PermitRootLogin", "prohibit-password", &at)
                    ),
                )
            }
            _ => Finding::pass(format!("PermitRootLogin {value}")),
        }
    }

    /// `MaxAuthTries`.
    pub fn tries(&self, opinion: &Opinion) -> Finding {
        let value = dump::value(&opinion.user.stdout, "maxauthtries").unwrap_or_default();
        match value.parse::<u32>() {
            Ok(tries) if tries < FEW_TRIES => {
                let at = self.places("maxauthtries", &value);
                Finding::warn(
                    format!("MaxAuthTries {tries} ({at})"),
                    format!(
                        "an agent that offers other keys first uses them up: ssh -o IdentitiesOnly=yes -i KEY; or {}",
                        self.set("MaxAuthTries", "6", &at)
                    ),
                )
            }
            _ => Finding::pass(format!("MaxAuthTries {value}")),
        }
    }

    /// `LoginGraceTime`.
    pub fn grace(&self, opinion: &Opinion) -> Finding {
        let value = dump::value(&opinion.user.stdout, "logingracetime").unwrap_or_default();
        match value.parse::<u32>() {
            Ok(seconds) if (1..SHORT_GRACE).contains(&seconds) => {
                let at = self.places("logingracetime", &value);
                Finding::fail(
                    format!(
                        "LoginGraceTime {seconds} s ({at}), and the helper is asked twice for each login"
                    ),
                    self.set("LoginGraceTime", "30 or more", &at),
                )
            }
            _ => Finding::pass(format!("LoginGraceTime {value} s")),
        }
    }

    /// All values of a list keyword, as `sshd -T` prints them.
    #[must_use]
    pub fn list(opinion: &Opinion, keyword: &str) -> Vec<String> {
        let all = dump::settings(&opinion.user.stdout)
            .remove(keyword)
            .unwrap_or_default();
        all.iter()
            .flat_map(|value| value.split_ascii_whitespace())
            .map(str::to_owned)
            .collect()
    }

    /// Where a list keyword stands, for a remedy: all of its lines make the list.
    #[must_use]
    pub fn list_at(&self, keyword: &str) -> String {
        self.places(keyword, "")
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

/// The place that sshd complains of, in its own form: `FILE: line N: ...`, and `FILE line N: ...` for a bad value.
fn complained_of(stderr: &str) -> Option<String> {
    stderr.lines().find_map(|text| {
        let (file, rest) = text.split_once(" line ")?;
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let file = file.trim_end_matches(':');
        (file.starts_with('/') && !number.is_empty()).then(|| format!("{file}:{number}"))
    })
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

/// Whose the helper is.
pub fn package(root: &Root, path: &str, state: &CommandState) -> Finding {
    let reinstall = "install the package again: `apt-get install --reinstall ec2-instance-connect` or `dnf reinstall \
                     ec2-instance-connect`";
    match state {
        CommandState::Absent => Finding::fail(
            format!("there is no {path}"),
            "install the package ec2-instance-connect",
        ),
        CommandState::Safe { real } | CommandState::Unsafe { real, .. } => {
            let owner = facts::owner(root, real).or_else(|| facts::owner(root, Path::new(path)));
            let whose = owner.map_or_else(
                || "no package's".to_owned(),
                |owner| format!("of the package {owner}"),
            );
            if real.starts_with(LIBEXEC) {
                Finding::pass(format!("{path} is {}, {whose}", real.display()))
            } else if *real == Path::new(path)
                && root.exists(&Path::new(LIBEXEC).join("eic_run_authorized_keys"))
            {
                Finding::fail(
                    format!(
                        "{path} is not our symlink but a file, {whose}: a later package may have replaced it"
                    ),
                    format!("`ln -sfn {LIBEXEC}/eic_run_authorized_keys {path}`, or {reinstall}"),
                )
            } else {
                Finding::fail(
                    format!("{path} is {}, {whose}, and not this helper", real.display()),
                    reinstall,
                )
            }
        }
    }
}

/// Whether sshd would run it.
pub fn safe(path: &str, state: &CommandState) -> Finding {
    match state {
        CommandState::Absent => Finding::fail(
            format!("there is no {path}"),
            "install the package ec2-instance-connect",
        ),
        CommandState::Safe { real } => Finding::pass(format!(
            "{} and every directory above it belong to root and are writable by nobody else",
            real.display()
        )),
        CommandState::Unsafe { what, .. } => {
            let at = what.split(' ').next().unwrap_or_default();
            let remedy = if what.ends_with("is not executable") {
                format!("`chmod 0755 {at}`")
            } else if what.ends_with("belong to root") {
                format!("`chown root: {at}`")
            } else if what.contains("writable") {
                format!("`chmod go-w {at}`")
            } else {
                "install the package again".to_owned()
            };
            // Debian's patch to `secure_permissions` takes a group that has nobody but the owner in it.
            let tolerated = if what.contains("writable by its group") {
                " (Debian's lets a private group pass)"
            } else {
                ""
            };
            Finding::fail(format!("sshd will not run {path}: {what}{tolerated}"), remedy)
        }
    }
}

/// Whether the helper is of this tool's version.
pub fn version(state: &CommandState) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let CommandState::Safe { real } = state else {
        return Finding::skip("see helper-path");
    };
    if !real.starts_with(LIBEXEC) {
        return Finding::skip("see package");
    }
    let answer = run(tool(&real.to_string_lossy()).arg("--version"), b"", TOOL_TIME);
    let said = answer.map_or_else(|error| error.to_string(), |output| one_line(&output.text()));
    match said.rsplit(' ').next() {
        Some(theirs) if theirs == ours => Finding::pass(format!("helper and tool are {ours}")),
        _ => Finding::warn(
            format!("this tool is {ours}, the helper says: {said}"),
            "install the package again",
        ),
    }
}

fn one_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" / ")
}
