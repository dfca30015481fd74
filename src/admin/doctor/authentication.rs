//! What sshd asks of everybody who comes with a key: whether keys are taken, of root too, how many and for how long.

use super::check::Finding;
use super::sshd::Sshd;
use crate::sshd::dump;
use crate::sshd::system::judge::Opinion;

/// `MaxAuthTries` below this leaves no room for the keys that an agent offers first.
const FEW_TRIES: u32 = 3;

/// `LoginGraceTime` below this (seconds) is shorter than the helper may take twice, for probe and login: 2 x 2.5 s.
const SHORT_GRACE: u32 = 5;

impl Sshd {
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
}
