//! `ec2-instance-connect access check`: which rule would decide.
//!
//! The decision is the helper's own, [`Guards::check`](crate::guards::Guards::check), [`Policy::ruling`] and
//! [`Options::of_key`](crate::options::Options::of_key); this module only tells it. Neither metadata nor sshd are asked.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::EXIT_REFUSED;
use super::output::Page;
use super::verify::view::{RefusalView, line, shown};
use crate::access::Ruling;
use crate::access::connection::Origin;
use crate::access::policy::Policy;
use crate::access::principal::Principal;
use crate::config::Config;
use crate::reason::Refusal;
use crate::request::Request;

/// Name and version of the JSON form. A field may be added under the same number; anything else takes a new one.
const SCHEMA: &str = "ec2-instance-connect/access-check/1";

/// Look at the rules on who may
#[derive(Debug, Args)]
pub struct AccessCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say which rule decides about a key
    ///
    /// Asks guards, access rules and options of the configuration, as the helper does, about a key that PRINCIPAL pushed
    /// for USER. Exits with 0 if it would be given, with 1 if not, with 2 for wrong usage.
    Check(Check),
}

#[derive(Debug, Args)]
struct Check {
    /// The login name
    #[arg(long, value_name = "NAME")]
    user: String,
    /// Who pushed the key; without it, a record that names nobody
    #[arg(long, value_name = "ARN")]
    principal: Option<String>,
    /// Where the login comes from; without it, an sshd that does not say
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// Read FILE, not /etc/ec2-instance-connect/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The JSON form.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    user: String,
    principal: Option<String>,
    from: Option<IpAddr>,
    /// Whether the key would be given, if it is proven.
    given: bool,
    /// What the access rules say; `None` where it did not come to that.
    ruling: Option<String>,
    /// The rule that decides, counted from 1.
    rule: Option<usize>,
    refusal: Option<RefusalView>,
    /// What would stand before the key.
    options: String,
    /// What is worth a word.
    note: Option<&'static str>,
}

impl AccessCommand {
    /// Decides, and writes the page.
    #[must_use]
    pub fn run(&self) -> Page {
        let Action::Check(check) = &self.action;
        check.run()
    }
}

impl Check {
    fn run(&self) -> Page {
        let mut ruling = None;
        let decided = self.decide(&mut ruling);
        let report = self.report(ruling, decided);
        let exit = if report.given { 0 } else { EXIT_REFUSED };
        if self.json {
            return super::json_page(&report, exit);
        }
        Page {
            out: text(&report).into_bytes(),
            exit,
            ..Page::default()
        }
    }

    /// The helper's own questions in the helper's order: gives what would stand before the key.
    fn decide(&self, ruling: &mut Option<Ruling>) -> Result<String, Refusal> {
        let origin = self.from.map_or(Origin::Unknown, Origin::Address);
        let request = Request::new(&self.user, None)?.coming_from(origin);
        let config = Config::load(self.config.as_deref())?;
        config.guards.check(&self.user)?;
        let caller = self.principal.as_deref();
        let policy = Policy::look_up(&request, &config);
        let said = *ruling.insert(policy.ruling(caller));
        said.refuse(caller, policy.source())?;
        Ok(config.options.of_key(caller)?.to_string())
    }

    fn report(&self, ruling: Option<Ruling>, decided: Result<String, Refusal>) -> Report {
        let is_known = |arn: &String| Principal::parse(arn).is_some();
        let unknown = self.principal.as_ref().is_some_and(|arn| !is_known(arn));
        Report {
            schema: SCHEMA,
            user: shown(&self.user),
            principal: self.principal.as_deref().map(shown),
            from: self.from,
            given: decided.is_ok(),
            ruling: ruling.map(|ruling| ruling.to_string()),
            rule: ruling.and_then(Ruling::rule),
            refusal: decided.as_ref().err().map(RefusalView::of),
            options: decided.unwrap_or_default().trim_end().to_owned(),
            note: unknown.then_some("not the ARN of a principal that can push a key: it counts as nobody"),
        }
    }
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    line(&mut out, "user", &report.user);
    line(
        &mut out,
        "principal",
        report.principal.as_deref().unwrap_or("nobody named"),
    );
    if let Some(note) = report.note {
        line(&mut out, "", note);
    }
    let from = report
        .from
        .map_or_else(|| "unknown".to_owned(), |from| from.to_string());
    line(&mut out, "from", &from);
    if let Some(ruling) = &report.ruling {
        line(&mut out, "access", ruling);
    }
    if !report.options.is_empty() {
        line(&mut out, "options", &report.options);
    }
    let verdict = match &report.refusal {
        None => "a proven key would be given".to_owned(),
        Some(refusal) => format!("REFUSED {}: {}", refusal.reason, refusal.detail),
    };
    line(&mut out, "verdict", &verdict);
    out
}
