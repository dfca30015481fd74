//! `ec2-instance-connect verify`: evidence judged again, at any time and on any machine, by the helper's own code.
//!
//! ```text
//! DIR, or one file for each document ─▶ Evidence ─▶ authorize::judge at --at ─▶ Report ─▶ text or JSON
//! ```
//!
//! What is believed is the verifier's own choice: trust anchors and policy come from the command line, never from
//! the captured directory, which whoever made it could have filled at will.

mod evidence;
pub mod view;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::tz::TimeZone;
use pki_types::UnixTime;
use serde::Serialize;

use super::history::moment::Moment;
use super::output::Page;
use super::paint;
use super::{EXIT_REFUSED, history};
use crate::authorize::{self, Facts};
use crate::config::{Anchors, Config, OcspPolicy};
use crate::file::Owner;
use crate::instance::InstanceId;
use crate::keys::Question;
use crate::place::{DnsSuffix, Partition};
use crate::reason::{Reason, Refusal};
use crate::request::Fingerprint;
use evidence::Material;
use view::{CertificateView, RecordView, RefusalView, SignerView, StapleView};

/// Name and version of the JSON form. A field may be added under the same number; anything else takes a new one.
const SCHEMA: &str = "ec2-instance-connect/verify/1";

/// Judge captured evidence as a login would have, offline
///
/// Exits with 0 if at least one record holds, with 1 if none does, with 2 for wrong usage.
#[derive(Debug, Args)]
pub struct Verify {
    /// A directory that `capture` wrote
    #[arg(value_name = "DIR", required_unless_present = "keys", conflicts_with_all = ["keys", "signer_cert", "ocsp"])]
    directory: Option<PathBuf>,
    /// The records: the metadata's managed-ssh-keys/active-keys/USER/
    #[arg(long, value_name = "FILE", requires_all = ["signer_cert", "instance_id", "region", "domain"])]
    keys: Option<PathBuf>,
    /// The signer's certificates: managed-ssh-keys/signer-cert/
    #[arg(long, value_name = "FILE", requires = "keys")]
    signer_cert: Option<PathBuf>,
    /// A directory of staples, in base64 or DER: managed-ssh-keys/signer-ocsp/
    #[arg(long, value_name = "DIR", requires = "keys")]
    ocsp: Option<PathBuf>,
    /// The instance that the records must be for, in place of the captured one
    #[arg(long, value_name = "ID")]
    instance_id: Option<String>,
    /// Its region, in place of the captured one
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Its DNS suffix, in place of the captured one
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Judge as of TIME: now, 2h (ago), 2025-01-30T10:40:08Z, @1738233608. Without it: the time of the capture, or now
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Trust anchors: auto, amazon, system, or a PEM bundle
    #[arg(long, value_name = "ANCHORS", default_value = "auto")]
    anchors: String,
    /// Whether each certificate needs a staple
    #[arg(long, value_name = "POLICY", default_value = "require")]
    ocsp_policy: Policy,
    /// Refuse evidence that places the instance in any other partition: aws, aws-cn, aws-us-gov, ...
    #[arg(long, value_name = "PARTITION")]
    partition: Option<String>,
    /// A DNS suffix to take beside those of AWS's partitions (may be repeated)
    #[arg(long, value_name = "DOMAIN")]
    extra_domain: Vec<String>,
    /// Only the key with this fingerprint: SHA256:... or MD5:...
    #[arg(long, value_name = "FINGERPRINT")]
    fingerprint: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    /// A certificate without a good staple is a refusal
    Require,
    /// A certificate without any staple is taken; one with a bad staple is not
    IfPresent,
}

/// The command line, understood.
struct Asked {
    config: Config,
    fingerprint: Option<Fingerprint>,
    instance: Option<InstanceId>,
    at: Option<Moment>,
    now: Moment,
}

/// The JSON form.
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    /// Whether at least one record holds.
    holds: bool,
    /// The time that it was judged for.
    at: Moment,
    /// Where that time is from: `command-line`, `capture` or `now`.
    at_from: &'static str,
    /// Whether the capture was redacted, so that no record of it can hold.
    redacted: bool,
    instance: Option<String>,
    user: Option<String>,
    /// What refused all records alike.
    refusal: Option<RefusalView>,
    signer: Option<SignerView>,
    anchors: Option<String>,
    certificates: Vec<CertificateView>,
    staples: Vec<StapleView>,
    records: Vec<RecordView>,
}

impl Verify {
    /// Judges, and writes the page.
    #[must_use]
    pub fn run(&self) -> Page {
        let material = self
            .asked()
            .and_then(|asked| self.material().map(|material| (asked, material)));
        let (asked, material) = match material {
            Ok(understood) => understood,
            Err(complaint) => {
                return Page {
                    err: format!("{complaint}\n"),
                    exit: history::EXIT_USAGE,
                    ..Page::default()
                };
            }
        };
        let report = report(&asked, material);
        let exit = if report.holds { 0 } else { EXIT_REFUSED };
        if self.json {
            return super::json_page(&report, exit);
        }
        Page {
            out: text(&report, paint::wanted()).into_bytes(),
            exit,
            ..Page::default()
        }
    }

    fn asked(&self) -> Result<Asked, String> {
        let now = Moment::from(jiff::Timestamp::now());
        let mut config = Config {
            // Who judges chooses the bundle, and it need not be root.
            owner: Owner::RootOrSelf,
            ..Config::default()
        };
        config.trust.anchors = match self.anchors.as_str() {
            "auto" => Anchors::Auto,
            "amazon" => Anchors::Amazon,
            "system" => Anchors::System,
            path => Anchors::File(PathBuf::from(path)),
        };
        config.trust.ocsp = match self.ocsp_policy {
            Policy::Require => OcspPolicy::Require,
            Policy::IfPresent => OcspPolicy::IfPresent,
        };
        let partition = |name: &str| {
            Partition::from_name(name).ok_or_else(|| format!("`{}` is no partition", view::shown(name)))
        };
        config.instance.partition = self.partition.as_deref().map(partition).transpose()?;
        let suffix = |name: &String| {
            DnsSuffix::new(name).ok_or_else(|| format!("`{}` is no DNS suffix", view::shown(name)))
        };
        config.trust.extra_domains = self.extra_domain.iter().map(suffix).collect::<Result<_, _>>()?;
        let fingerprint = self.fingerprint.as_deref().map(Fingerprint::new).transpose();
        let instance = self
            .instance_id
            .as_deref()
            .map(|id| InstanceId::new(id).ok_or_else(|| format!("`{}` is no instance id", view::shown(id))));
        let at = match self.at.as_deref() {
            None => None,
            Some("now") => Some(now),
            Some(words) => Some(Moment::from_words(words, now, &TimeZone::system())?),
        };
        Ok(Asked {
            config,
            fingerprint: fingerprint.map_err(|refusal| refusal.to_string())?,
            instance: instance.transpose()?,
            at,
            now,
        })
    }

    /// The evidence, with what the command line says in place of it.
    fn material(&self) -> Result<Material, String> {
        let mut material = match (&self.directory, &self.keys, &self.signer_cert) {
            (Some(directory), ..) => evidence::directory(directory)?,
            (None, Some(keys), Some(signer_cert)) => {
                evidence::files(keys, signer_cert, self.ocsp.as_deref())?
            }
            _ => return Err("name a captured directory, or --keys and --signer-cert".to_owned()),
        };
        let documents = &mut material.evidence.documents;
        if let Some(region) = &self.region {
            documents.region.clone_from(region);
        }
        if let Some(domain) = &self.domain {
            documents.domain.clone_from(domain);
        }
        Ok(material)
    }
}

fn report(asked: &Asked, material: Material) -> Report {
    let Material {
        evidence,
        captured,
        absent,
    } = material;
    let (at, at_from) = match (asked.at, &captured) {
        (Some(at), _) => (at, "command-line"),
        (None, Some(captured)) => (captured.at, "capture"),
        (None, None) => (asked.now, "now"),
    };
    let mut facts = Facts::default();
    let instance = asked.instance.clone().or_else(|| {
        let captured = captured.as_ref()?.instance.as_deref();
        captured.and_then(InstanceId::new)
    });
    let verdicts = match (&instance, absent) {
        (_, Some(refusal)) => Err(refusal),
        (None, None) => Err(Refusal::new(
            Reason::InstanceId,
            "the capture does not say for which instance; --instance-id can",
        )),
        (Some(instance), None) => {
            let question = Question {
                instance,
                fingerprint: asked.fingerprint,
                now: UnixTime::since_unix_epoch(Duration::from_secs(
                    u64::try_from(at.secs()).unwrap_or_default(),
                )),
            };
            authorize::judge(&evidence, question, &asked.config, &mut facts)
        }
    };
    Report {
        schema: SCHEMA,
        holds: verdicts
            .as_ref()
            .is_ok_and(|verdicts| verdicts.iter().any(Result::is_ok)),
        at,
        at_from,
        redacted: captured.as_ref().is_some_and(|captured| captured.redacted),
        instance: instance.map(|instance| instance.to_string()),
        user: captured
            .and_then(|captured| captured.user)
            .map(|user| view::shown(&user)),
        refusal: verdicts.as_ref().err().map(RefusalView::of),
        signer: view::signer(&facts),
        anchors: facts.anchors.as_deref().map(view::shown),
        certificates: view::certificates(&evidence),
        staples: view::staples(&evidence),
        records: view::records(&evidence.active_keys, verdicts.as_ref(), at, None),
    }
}

/// The form for people.
fn text(report: &Report, colour: bool) -> String {
    let mut out = String::new();
    let from = match report.at_from {
        "command-line" => "",
        "capture" => " (the time of the capture)",
        _ => " (now)",
    };
    view::line(&mut out, "judged as of", &format!(" {}{from}", report.at));
    if report.redacted {
        view::line(
            &mut out,
            "redacted",
            "keys and signatures were removed: no record of this capture can hold",
        );
    }
    if let Some(user) = &report.user {
        view::line(&mut out, "user", user);
    }
    view::line(
        &mut out,
        "instance",
        report.instance.as_deref().unwrap_or("unknown"),
    );
    view::served_lines(&mut out, &report.certificates, &report.staples);
    if let Some(signer) = &report.signer {
        view::signer_lines(&mut out, signer, report.anchors.as_deref());
    }
    view::record_lines(&mut out, &report.records, colour);
    let held = report.records.iter().filter(|record| record.verdict == "holds");
    let verdict = match &report.refusal {
        Some(refusal) => format!("refused {}: {}", refusal.reason, refusal.detail),
        None => format!("{} of {} records hold", held.count(), report.records.len()),
    };
    view::verdict_line(&mut out, &verdict, report.holds, colour);
    out
}

/// What is wrong with a file, for people.
fn complaint(path: &Path, what: &dyn std::fmt::Display) -> String {
    format!(
        "{}: {}",
        view::shown(&path.display().to_string()),
        view::shown(&what.to_string())
    )
}
