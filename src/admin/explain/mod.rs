//! `ec2-instance-connect explain`: the helper's whole decision for one login, stage by stage.
//!
//! The decision is the helper's own, [`authorize::examine`] on the same configuration, and links are run as in a login;
//! this module only tells it.
//! Root asks as the user that sshd runs the helper as, since a firewall or a file may treat the two differently.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use nix::unistd::User;
use serde::Serialize;

use super::EXIT_REFUSED;
use super::history::moment::Moment;
use super::output::Page;
use super::paint::{self, Shade};
use super::run_as;
use super::verify::view::{self, CertificateView, RecordView, RefusalView, SignerView, StapleView, shown};
use crate::access::connection::Origin;
use crate::authorize::{self, Examination, Facts, Purpose};
use crate::config::{Config, DEFAULT_PATH};
use crate::guards::Guards;
use crate::instance::Host;
use crate::link::run::{Links, Outcome};
use crate::reason::{Reason, Refusal};
use crate::request::{Request, Words};

/// Name and version of the JSON form. A field may be added under the same number; anything else takes a new one.
const SCHEMA: &str = "ec2-instance-connect/explain/1";

/// A difference of clocks that is worth a word: the header has whole seconds, and the answer took some time.
const NOTABLE_SKEW: i64 = 2;

/// Show why a login would or would not be given a key
///
/// Makes the helper's decision for USER and shows it stage by stage. Prints no usable key. Exits with 0 if a key
/// would be given, with 1 if none would.
#[derive(Debug, Args)]
pub struct Explain {
    /// The login name (sshd's %u)
    #[arg(value_name = "USER", allow_hyphen_values = true)]
    user: String,
    /// Only this key: SHA256:... or MD5:... (sshd's %f)
    #[arg(value_name = "FINGERPRINT")]
    fingerprint: Option<String>,
    /// Read FILE, not /etc/ec2-instance-connect/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The login comes from ADDRESS: for access rules that name networks
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// Ask as whoever runs this; without it, root asks as the user ec2-instance-connect where there is one
    #[arg(long)]
    here: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The stages of a decision, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Request,
    Config,
    Guards,
    Host,
    Metadata,
    Keys,
    Signer,
    Revocation,
    Records,
    Access,
    OneTime,
    /// Of a link's reasons; what each link did stands in lines of its own, since links run whatever is refused.
    Links,
}

impl Stage {
    const ALL: [Self; 11] = [
        Self::Request,
        Self::Config,
        Self::Guards,
        Self::Host,
        Self::Metadata,
        Self::Keys,
        Self::Signer,
        Self::Revocation,
        Self::Records,
        Self::Access,
        Self::OneTime,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Config => "config",
            Self::Guards => "guards",
            Self::Host => "host",
            Self::Metadata => "metadata",
            Self::Keys => "keys",
            Self::Signer => "signer",
            Self::Revocation => "revocation",
            Self::Records => "records",
            Self::Access => "access",
            Self::OneTime => "one-time",
            Self::Links => "link",
        }
    }

    /// Where a refusal of all records fell.
    fn of(reason: Reason, facts: &Facts) -> Self {
        match reason {
            Reason::User | Reason::FingerprintForm => Self::Request,
            Reason::Config => Self::Config,
            Reason::DenyUser | Reason::Maintenance | Reason::NoSuchUser | Reason::MinUid | Reason::Shell => {
                Self::Guards
            }
            Reason::NotEc2 => Self::Host,
            Reason::InstanceId if facts.host.is_none() => Self::Host,
            Reason::NoKey => Self::Keys,
            Reason::Partition
            | Reason::Anchors
            | Reason::SignerMalformed
            | Reason::SignerChain
            | Reason::SignerExpired
            | Reason::SignerName
            | Reason::SignerUsage
            | Reason::SignerKey => Self::Signer,
            // The region's form is asked where the signer's name is made of it.
            Reason::ImdsMalformed if facts.now.is_some() => Self::Signer,
            Reason::StapleMissing
            | Reason::StapleMalformed
            | Reason::StapleRevoked
            | Reason::StapleUnknown
            | Reason::StapleStale
            | Reason::StapleSignature => Self::Revocation,
            Reason::RecordMalformed
            | Reason::RecordKey
            | Reason::RecordInstance
            | Reason::RecordExpired
            | Reason::Fingerprint
            | Reason::RecordSignature => Self::Records,
            Reason::Policy => Self::Access,
            Reason::Used | Reason::OneTimeUnavailable => Self::OneTime,
            Reason::LinkPath
            | Reason::LinkToken
            | Reason::LinkFailed
            | Reason::LinkTimeout
            | Reason::LinkTooLarge
            | Reason::LinkMalformed => Self::Links,
            Reason::InstanceId
            | Reason::ImdsUnreachable
            | Reason::ImdsTimeout
            | Reason::ImdsForbidden
            | Reason::ImdsThrottled
            | Reason::ImdsStatus
            | Reason::ImdsAbsent
            | Reason::ImdsTooLarge
            | Reason::ImdsMalformed
            | Reason::Deadline
            | Reason::Internal => Self::Metadata,
        }
    }
}

/// One stage's line.
#[derive(Debug, Serialize)]
struct StageView {
    stage: &'static str,
    /// `ok`, `refused` or `not-reached`.
    outcome: &'static str,
    detail: String,
}

/// The JSON form.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    /// How many keys would be given.
    keys: usize,
    /// How many lines of links would be passed on.
    link_lines: usize,
    user: String,
    fingerprint: Option<String>,
    /// As whom the metadata was asked.
    run_as: String,
    refusal: Option<RefusalView>,
    stages: Vec<StageView>,
    signer: Option<SignerView>,
    anchors: Option<String>,
    certificates: Vec<CertificateView>,
    staples: Vec<StapleView>,
    records: Vec<RecordView>,
    /// Our clock at the decision.
    at: Option<Moment>,
    /// How many seconds our clock is ahead of the metadata's.
    clock_ahead: Option<i64>,
    requests: u32,
    milliseconds: u64,
}

impl Explain {
    /// Decides, and writes the page.
    #[must_use]
    pub fn run(&self) -> Page {
        let remark = match run_as::ask_as_helper_user(self.here, &self.arguments()) {
            run_as::Asked::There(page) => return page,
            run_as::Asked::Here(why) => why,
        };
        let config = Config::load(self.config.as_deref());
        let origin = self.from.map_or(Origin::Unknown, Origin::Address);
        let request =
            Request::new(&self.user, self.fingerprint.as_deref()).map(|request| request.coming_from(origin));
        // As for a login: links run whatever is refused, but a configuration that cannot be used.
        let words = self.words();
        let mut links = config
            .as_ref()
            .map_or_else(|_| Links::none(), |config| Links::start(config, &words));
        let Examination { verdicts, facts } = match (&request, &config) {
            (Ok(request), Ok(config)) => authorize::examine(Some(request), Purpose::Look, config, &mut links),
            // The helper's order: what sshd asks, then what the administrator wrote.
            (Err(refusal), _) | (_, Err(refusal)) => Examination {
                verdicts: Err(refusal.clone()),
                facts: Facts::default(),
            },
        };
        let mut report = self.report(&config, &verdicts, &facts);
        links.start_waiting();
        for outcome in links.collect(report.keys > 0) {
            report.add(&outcome);
        }
        let exit = if report.keys == 0 && report.link_lines == 0 {
            EXIT_REFUSED
        } else {
            0
        };
        let page = if self.json {
            super::json_page(&report, exit)
        } else {
            Page {
                out: text(&report, paint::wanted()).into_bytes(),
                exit,
                ..Page::default()
            }
        };
        Page { err: remark, ..page }
    }

    /// What sshd would say of this login, as far as it can be known without the offered key.
    fn words(&self) -> Words {
        let account = User::from_name(&self.user).ok().flatten();
        Words {
            user: self.user.clone().into(),
            fingerprint: self.fingerprint.clone().map(Into::into),
            home: account.map(|account| account.dir.into()),
            ..Words::default()
        }
    }

    /// The same call, for whoever asks in our place.
    fn arguments(&self) -> Vec<std::ffi::OsString> {
        let mut arguments: Vec<std::ffi::OsString> = vec!["explain".into(), "--here".into()];
        if self.json {
            arguments.push("--json".into());
        }
        if let Some(config) = &self.config {
            arguments.extend(["--config".into(), config.into()]);
        }
        if let Some(from) = self.from {
            arguments.extend(["--from".into(), from.to_string().into()]);
        }
        arguments.extend(["--".into(), self.user.clone().into()]);
        arguments.extend(self.fingerprint.clone().map(Into::into));
        arguments
    }

    fn report(
        &self,
        config: &Result<Config, Refusal>,
        verdicts: &Result<authorize::Verdicts, Refusal>,
        facts: &Facts,
    ) -> Report {
        let at = facts
            .now
            .map(|now| view::seconds(i64::try_from(now.as_secs()).unwrap_or(i64::MAX)));
        let clock_ahead = clock_ahead(facts);
        let records =
            facts.evidence.as_ref().zip(at).map(|(evidence, at)| {
                view::records(&evidence.active_keys, verdicts.as_ref(), at, clock_ahead)
            });
        Report {
            schema: SCHEMA,
            keys: verdicts.as_ref().map_or(0, |verdicts| {
                verdicts.iter().filter(|verdict| verdict.is_ok()).count()
            }),
            link_lines: 0,
            user: shown(&self.user),
            fingerprint: self.fingerprint.as_deref().map(shown),
            run_as: run_as::me(),
            refusal: verdicts.as_ref().err().map(RefusalView::of),
            stages: self.stages(config, verdicts.as_ref(), facts, clock_ahead),
            signer: view::signer(facts),
            anchors: facts.anchors.as_deref().map(shown),
            certificates: facts
                .evidence
                .as_ref()
                .map(view::certificates)
                .unwrap_or_default(),
            staples: facts.evidence.as_ref().map(view::staples).unwrap_or_default(),
            records: records.unwrap_or_default(),
            at,
            clock_ahead,
            requests: facts.requests,
            milliseconds: u64::try_from(facts.elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn stages(
        &self,
        config: &Result<Config, Refusal>,
        verdicts: Result<&authorize::Verdicts, &Refusal>,
        facts: &Facts,
        clock_ahead: Option<i64>,
    ) -> Vec<StageView> {
        let refused = verdicts
            .err()
            .map(|refusal| (Stage::of(refusal.reason, facts), refusal));
        let by_rules = verdicts.ok().and_then(|verdicts| refused_by_rules(verdicts));
        let because = |refusal: &Refusal| format!("{}: {}", refusal.reason, shown(&refusal.detail));
        let view = |stage: Stage| {
            let (outcome, detail) = match (refused, by_rules) {
                (Some((at, refusal)), _) if at == stage => ("refused", because(refusal)),
                (Some((at, _)), _) if at < stage => ("not-reached", String::new()),
                (None, Some(refusal)) if stage == Stage::Access => ("refused", because(refusal)),
                _ => ("ok", self.detail(stage, config, facts, clock_ahead)),
            };
            StageView {
                stage: stage.name(),
                outcome,
                detail,
            }
        };
        // A stage that is not in force is none.
        let in_force = |stage: &Stage| match (stage, config) {
            (Stage::Guards, Ok(config)) => config.guards != Guards::default(),
            (Stage::Access, Ok(config)) => !config.access.0.is_empty() || config.options.name_principal(),
            (Stage::OneTime, Ok(config)) => config.keys.one_time,
            (Stage::Guards | Stage::Access | Stage::OneTime, Err(_)) => false,
            _ => true,
        };
        let stages = Stage::ALL.into_iter().filter(in_force);
        stages.map(view).collect()
    }

    /// What a stage that was passed found.
    fn detail(
        &self,
        stage: Stage,
        config: &Result<Config, Refusal>,
        facts: &Facts,
        clock_ahead: Option<i64>,
    ) -> String {
        let records = || {
            let evidence = facts.evidence.as_ref();
            evidence.map_or(0, |evidence| crate::keys::describe(&evidence.active_keys).len())
        };
        match stage {
            Stage::Request => match &self.fingerprint {
                Some(fingerprint) => format!("{}, key {}", shown(&self.user), shown(fingerprint)),
                None => format!("{}, any key", shown(&self.user)),
            },
            Stage::Config => match (&self.config, config) {
                (Some(path), _) => shown(&path.display().to_string()),
                (None, Ok(config)) if *config == Config::default() => "the defaults".to_owned(),
                (None, _) => DEFAULT_PATH.to_owned(),
            },
            Stage::Guards => "none keeps this login out".to_owned(),
            Stage::Host => match &facts.host {
                Some(Host::Nitro(id)) => format!("the firmware says {id}"),
                Some(Host::Xen(Some(id))) => format!("Xen; the configuration says {id}"),
                Some(Host::Xen(None)) => "Xen; the metadata names the instance".to_owned(),
                None => String::new(),
            },
            Stage::Metadata => {
                let address = facts
                    .address
                    .map(|address| format!("{address}, "))
                    .unwrap_or_default();
                let clock = match clock_ahead {
                    Some(ahead) if ahead > NOTABLE_SKEW => {
                        format!(", this clock is {ahead} s ahead of the metadata's")
                    }
                    Some(ahead) if ahead < -NOTABLE_SKEW => {
                        format!(
                            ", this clock is {} s behind the metadata's",
                            ahead.saturating_neg()
                        )
                    }
                    Some(_) => ", the clocks agree".to_owned(),
                    None => String::new(),
                };
                let elapsed = facts.elapsed.as_millis();
                format!("{address}{} requests, {elapsed} ms in all{clock}", facts.requests)
            }
            Stage::Keys => format!("{} records for {}", records(), shown(&self.user)),
            Stage::Signer | Stage::Revocation => String::new(),
            Stage::Records => format!("{} judged", records()),
            Stage::Access => {
                let rulings: Vec<String> = facts.rulings.iter().map(ToString::to_string).collect();
                if rulings.is_empty() {
                    "no key came this far".to_owned()
                } else {
                    rulings.join("; ")
                }
            }
            Stage::OneTime => "each key is good for one connection; nothing was claimed".to_owned(),
            Stage::Links => String::new(),
        }
    }
}

/// The administrator's rules judge each key by itself: their first refusal, where they let no key through.
fn refused_by_rules(verdicts: &authorize::Verdicts) -> Option<&Refusal> {
    let came_further = |reason| matches!(reason, Reason::Used | Reason::OneTimeUnavailable);
    let mut refused = None;
    for verdict in verdicts {
        match verdict {
            Err(refusal) if refusal.reason == Reason::Policy => refused = refused.or(Some(refusal)),
            Err(refusal) if !came_further(refusal.reason) => {}
            _ => return None,
        }
    }
    refused
}

impl Report {
    /// What came of one link.
    fn add(&mut self, link: &Outcome) {
        let (outcome, detail) = match &link.lines {
            Ok(lines) => {
                self.link_lines = self.link_lines.saturating_add(lines.count());
                (
                    "ok",
                    format!("{} lines in {} ms", lines.count(), link.elapsed.as_millis()),
                )
            }
            Err(refusal) => (
                "refused",
                format!("{}: {}", refusal.reason, shown(&refusal.detail)),
            ),
        };
        self.stages.push(StageView {
            stage: Stage::Links.name(),
            outcome,
            detail: format!("{}: {detail}", link.name),
        });
    }
}

/// How many seconds our clock was ahead of the metadata's, where that said.
fn clock_ahead(facts: &Facts) -> Option<i64> {
    let ours = i64::try_from(facts.now?.as_secs()).ok()?;
    let theirs = http_date(facts.date.as_deref()?)?;
    Some(ours.saturating_sub(theirs))
}

/// An HTTP date in its one form that may be sent today (RFC 9110 §5.6.7, IMF-fixdate), in Unix seconds.
#[must_use]
pub(super) fn http_date(text: &str) -> Option<i64> {
    /// `Sun, 06 Nov 1994 08:49:37 GMT`.
    const LENGTH: usize = 29;
    if text.len() != LENGTH || !text.ends_with(" GMT") {
        return None;
    }
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    parser.parse_timestamp(text).ok().map(jiff::Timestamp::as_second)
}

/// The form for people.
fn text(report: &Report, colour: bool) -> String {
    let mut out = String::new();
    view::line(&mut out, "asked as", &report.run_as);
    let is_link = |stage: &&StageView| stage.stage == Stage::Links.name();
    for stage in report.stages.iter().filter(|stage| !is_link(stage)) {
        match (stage.stage, &report.signer) {
            ("signer", Some(signer)) if stage.outcome == "ok" => {
                view::served_lines(&mut out, &report.certificates, &report.staples);
                view::signer_lines(&mut out, signer, report.anchors.as_deref());
            }
            ("revocation", Some(_)) if stage.outcome == "ok" => {}
            _ if stage.outcome == "ok" && stage.detail.is_empty() => view::line(&mut out, stage.stage, "ok"),
            _ if stage.outcome == "ok" => view::line(&mut out, stage.stage, &stage.detail),
            _ if stage.outcome == "refused" => {
                if matches!(stage.stage, "signer" | "revocation") {
                    view::served_lines(&mut out, &report.certificates, &report.staples);
                }
                let refused = paint::word("REFUSED", Shade::Bad, colour);
                view::line(&mut out, stage.stage, &format!("{refused} {}", stage.detail));
            }
            _ => {
                let unreached = paint::word("not reached", Shade::Faint, colour).to_string();
                view::line(&mut out, stage.stage, &unreached);
            }
        }
    }
    view::record_lines(&mut out, &report.records, colour);
    for link in report.stages.iter().filter(is_link) {
        let mark = match link.outcome {
            "refused" => format!("{} ", paint::word("REFUSED", Shade::Bad, colour)),
            _ => String::new(),
        };
        view::line(&mut out, link.stage, &format!("{mark}{}", link.detail));
    }
    let verdict = match report.keys {
        0 => "no key would be given".to_owned(),
        1 => "1 key would be given".to_owned(),
        more => format!("{more} keys would be given"),
    };
    let verdict = match report.link_lines {
        0 => verdict,
        lines => format!("{verdict}, and {lines} lines of links"),
    };
    let given = report.keys > 0 || report.link_lines > 0;
    view::verdict_line(&mut out, &verdict, given, colour);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_of_every_reason_is_in_the_order_of_a_login() {
        let facts = Facts {
            host: Some(Host::Xen(None)),
            ..Facts::default()
        };
        let reached: Vec<Stage> = Reason::ALL
            .iter()
            .filter(|reason| !matches!(reason, Reason::InstanceId | Reason::Internal))
            .map(|reason| Stage::of(*reason, &facts))
            .collect();
        assert!(reached.is_sorted(), "{reached:?}");
    }

    #[test]
    fn only_the_http_date_that_may_be_sent_is_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for other in [
            "",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06 Nov 1994 08:49:37 +01",
            "Xxx, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(http_date(other), None, "{other}");
        }
    }
}
