//! The checks by name, and what came of each.
#![deny(clippy::disallowed_methods)]

use serde::Serialize;

use crate::escape;

/// Declares the checks in the order in which they are made and shown.
macro_rules! checks {
    ($($(#[$doc:meta])* $variant:ident = $code:literal,)*) => {
        /// A check. Its code is stable: never renamed, never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Id { $($(#[$doc])* $variant,)* }

        impl Id {
            /// All of them, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable code.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }
        }
    };
}

// What stands above can be the cause of what fails below, never the other way round.
checks! {
    /// Whether doctor may look everywhere.
    Privileges = "privileges",
    /// Whose the command is that sshd is told to run.
    Package = "package",
    /// Whether the helper is of this tool's version.
    Version = "version",
    /// Whether the helper's configuration can be used.
    Config = "config",
    /// What is odd about the access rules.
    Access = "access",
    /// Whether sshd would run the commands that the configuration chains to.
    Links = "links",
    /// Whether the user exists as whom sshd runs the command.
    RunAsUser = "run-as-user",
    /// Whether sshd would run the command, by owner and mode.
    HelperPath = "helper-path",
    /// Whether sshd is there and takes its own configuration.
    Sshd = "sshd",
    /// Whether sshd runs, and has read its configuration as it is now.
    Daemon = "daemon",
    /// Whether a hold keeps packages from configuring sshd.
    SetupOff = "setup-off",
    /// A command that prints the metadata's keys without a proof.
    CommandUnverified = "command-unverified",
    /// Which command is in force for the user.
    Command = "command",
    /// As whom it is run.
    CommandUser = "command-user",
    /// Other commands in sshd's configuration.
    CommandShadows = "command-shadows",
    /// Whether this is an EC2 instance.
    Ec2 = "ec2",
    /// Whether the metadata service answers the run-as user, as the helper asks it.
    Imds = "imds",
    /// The same at the IPv4 address alone.
    ImdsIpv4 = "imds-ipv4",
    /// The same at the IPv6 address alone.
    ImdsIpv6 = "imds-ipv6",
    /// Whether our clock is the metadata's.
    Clock = "clock",
    /// Whether region and suffix are of one partition.
    Place = "place",
    /// Whether the signer's chain holds, and for how long.
    Signer = "signer",
    /// Which trust anchors hold it.
    Anchors = "anchors",
    /// Whether nobody has revoked it, and for how long that is known.
    Staples = "staples",
    /// Whether one-time keys could be told and noted, where they are asked for.
    OneTime = "one-time",
    /// Whether a key can be pushed for the user's name.
    UserName = "user-name",
    /// Whether the user exists here.
    Account = "account",
    /// Whether a guard of the helper's keeps the user out.
    Guards = "guards",
    /// Whether sshd or PAM takes the account for locked or expired.
    AccountLocked = "account-locked",
    /// Whether the account's shell can be started.
    Shell = "shell",
    /// Whether logins are switched off altogether.
    Nologin = "nologin",
    /// Whether keys are taken at all.
    PubkeyAuthentication = "pubkey-authentication",
    /// Whether sshd lets the session be told who pushed its key.
    UserEnvironment = "user-environment",
    /// Whether sshd's lists let the user in.
    AllowedUsers = "allowed-users",
    /// Whether root may come in.
    RootLogin = "root-login",
    /// Whether `MaxAuthTries` leaves room for the pushed key.
    MaxAuthTries = "max-auth-tries",
    /// Whether `LoginGraceTime` leaves time for the helper.
    LoginGraceTime = "login-grace-time",
    /// Whether SELinux lets sshd's command reach the metadata.
    Selinux = "selinux",
    /// Whether AppArmor has refused something to it.
    Apparmor = "apparmor",
    /// What of the helper's cage this kernel has.
    Cage = "cage",
    /// Whether a logger listens.
    Log = "log",
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it must be.
    Pass,
    /// Logins work, but somebody should know.
    Warn,
    /// This keeps people out, or lets the wrong ones in.
    Fail,
    /// Not looked at; what was seen says why.
    Skip,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// One check, made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its stable code.
    pub id: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen; safe to show.
    pub seen: String,
    /// How to mend it. What stands between backticks is a command for root's shell.
    pub remedy: Option<String>,
}

/// What was found, before it has its check's name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Finding {
    outcome: Outcome,
    seen: String,
    remedy: Option<String>,
}

impl Finding {
    fn new(outcome: Outcome, seen: &str, remedy: Option<&str>) -> Self {
        // Paths, sshd's words and the metadata's are foreign text.
        Self {
            outcome,
            seen: escape::text(seen).to_string(),
            remedy: remedy.map(|text| escape::text(text).to_string()),
        }
    }

    /// All is well.
    pub fn pass(seen: impl AsRef<str>) -> Self {
        Self::new(Outcome::Pass, seen.as_ref(), None)
    }

    /// Worth a look.
    pub fn warn(seen: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Self::new(Outcome::Warn, seen.as_ref(), Some(remedy.as_ref()))
    }

    /// To be mended.
    pub fn fail(seen: impl AsRef<str>, remedy: impl AsRef<str>) -> Self {
        Self::new(Outcome::Fail, seen.as_ref(), Some(remedy.as_ref()))
    }

    /// Not looked at, because of `why`.
    pub fn skip(why: impl AsRef<str>) -> Self {
        Self::new(Outcome::Skip, why.as_ref(), None)
    }
}

/// The checks made so far.
#[derive(Debug, Default)]
pub struct Sheet {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Sheet {
    /// Notes one down; tells whether what depends on it can be looked at.
    pub fn note(&mut self, id: Id, finding: Finding) -> bool {
        let usable = matches!(finding.outcome, Outcome::Pass | Outcome::Warn);
        self.checks.push(Check {
            id: id.code(),
            outcome: finding.outcome,
            seen: finding.seen,
            remedy: finding.remedy,
        });
        usable
    }

    /// Notes `ids` down as not looked at, because `cause` has failed.
    pub fn skip(&mut self, ids: &[Id], cause: Id) {
        for id in ids {
            let _ = self.note(*id, Finding::skip(format!("see {}", cause.code())));
        }
    }

    /// Whether something fails.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.checks.iter().any(|check| check.outcome == Outcome::Fail)
    }

    /// Puts the checks into the order of [`Id::ALL`], whatever the order they were made in.
    pub fn sort(&mut self) {
        let place = |code: &str| Id::ALL.iter().position(|id| id.code() == code);
        self.checks.sort_by_key(|check| place(check.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_is_documented_in_order_and_no_other() {
        let documented: Vec<&str> = include_str!("../../../docs/DOCTOR.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let known: Vec<&str> = Id::ALL.iter().map(|id| id.code()).collect();
        assert_eq!(documented, known);
    }
}
