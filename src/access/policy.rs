//! The administrator's rules on one login's proven keys.

use std::net::IpAddr;

use super::judge::{Groups, Login, Ruling, judge};
use crate::authorize::Verdicts;
use crate::config::Config;
use crate::keys::AuthorizedKey;
use crate::request::Request;

/// What the rules ask about a login, looked up only where they ask it.
#[derive(Debug)]
pub struct Policy<'a> {
    config: &'a Config,
    user: &'a str,
    groups: Groups,
    source: Option<IpAddr>,
}

impl<'a> Policy<'a> {
    /// Asks this host for the login's groups and, where sshd told the connection, for its own addresses.
    #[must_use]
    pub fn look_up(request: &'a Request, config: &'a Config) -> Self {
        let user = request.user.as_str();
        let ask_source = config.access.ask_source();
        Self {
            config,
            user,
            groups: super::groups::look_up(user, &config.access.0),
            source: ask_source.then(|| request.origin.source()).flatten(),
        }
    }

    /// Where the login comes from, where a rule asks and it is known.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// What the rules say of a key that `caller` pushed.
    pub fn ruling(&self, caller: Option<&str>) -> Ruling {
        let login = Login {
            user: self.user,
            groups: &self.groups,
            source: self.source,
        };
        judge(&self.config.access.0, login, caller)
    }

    /// The verdicts with those keys refused whose caller may not have them, and the others with their options. Adds the
    /// ruling on each key to `rulings`.
    #[must_use]
    pub fn admit(&self, verdicts: Verdicts, rulings: &mut Vec<Ruling>) -> Verdicts {
        let mut admit_one = |key: AuthorizedKey| {
            let ruling = self.ruling(key.caller());
            rulings.push(ruling);
            ruling.refuse(key.caller(), self.source)?;
            let options = self.config.options.of_key(key.caller())?;
            Ok(key.with_options(options))
        };
        verdicts
            .into_iter()
            .map(|verdict| verdict.and_then(&mut admit_one))
            .collect()
    }
}
