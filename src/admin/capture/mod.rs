//! `ec2-instance-connect capture`: the evidence of this moment, saved for [`super::verify`] to judge at any time.
//!
//! It asks the metadata as the helper does, through [`crate::imds`], but wants everything there is and stops at
//! nothing: what could not be had is in the manifest, with the reason.

pub mod layout;
pub mod redact;

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use ring::rand::SecureRandom as _;
use serde::Serialize;
use tokio::time::Instant;

use super::EXIT_REFUSED;
use super::history::moment::Moment;
use super::output::Page;
use super::verify::view::shown;
use crate::config::{Anchors, Config, DEFAULT_PATH, OcspPolicy};
use crate::file;
use crate::imds::{Session, SignerDocuments, StapleName, limits};
use crate::instance::Host;
use crate::reason::{Reason, Refusal};
use crate::request::LoginName;
use layout::{HostView, Manifest, Problem, Settings, Writer};
use redact::{Redactor, SALT_BYTES};

/// Name and version of the JSON form of what this command prints.
const SCHEMA: &str = "ec2-instance-connect/capture-result/1";

/// sysfs gives at most a page.
const SYSFS_LIMIT: u64 = 4096;

/// Larger than any configuration that the helper reads.
const CONFIG_LIMIT: u64 = 256 * 1024;

/// Save all evidence of this moment into a new directory, for `verify`
///
/// Exits with 1 if something could not be captured; what could be is kept.
#[derive(Debug, Args)]
pub struct Capture {
    /// The directory to make: it must not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Also the records pushed for this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Make it fit for sharing: keys and signatures go, so that no record of it can be proven any more, and names of
    /// people, accounts and instances become pseudonyms
    #[arg(long)]
    redact: bool,
    /// Read FILE, not /etc/ec2-instance-connect/config.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What was seen, before it is written.
#[derive(Default)]
struct Seen {
    active_keys: Option<Vec<u8>>,
    documents: Option<SignerDocuments>,
    staples: Vec<(StapleName, Vec<u8>)>,
    address: Option<String>,
    date: Option<String>,
    problems: Vec<(&'static str, Refusal)>,
}

/// The JSON form of what is printed.
#[derive(Serialize)]
struct Outcome<'a> {
    schema: &'static str,
    directory: String,
    manifest: &'a Manifest,
}

impl Capture {
    /// Captures, and writes the page.
    #[must_use]
    pub fn run(&self) -> Page {
        match self.capture() {
            Ok(manifest) => self.page(&manifest),
            Err(error) => Page {
                err: format!(
                    "{}: {}\n",
                    shown(&self.directory.display().to_string()),
                    shown(&error.to_string())
                ),
                exit: EXIT_REFUSED,
                ..Page::default()
            },
        }
    }

    fn capture(&self) -> io::Result<Manifest> {
        // First, so that nothing is asked for that then has no place.
        let mut writer = Writer::create(&self.directory)?;
        let redactor = if self.redact { Some(redactor()?) } else { None };
        let mut seen = Seen::default();
        let config = Config::load(self.config.as_deref()).unwrap_or_else(|refusal| {
            seen.problems.push(("config", refusal));
            Config::default()
        });
        let host = Host::detect(&config.instance.sysfs, config.instance.id.as_ref());
        let host = host.map_err(|refusal| seen.problems.push(("host", refusal))).ok();
        let user = match self.user.as_deref().map(LoginName::new) {
            None => None,
            Some(Ok(user)) => Some(user),
            Some(Err(refusal)) => {
                seen.problems.push(("user", refusal));
                None
            }
        };
        let captured_at = Moment::from(jiff::Timestamp::now());
        // As the helper: what is no instance has no business with the metadata's address.
        let elsewhere = seen
            .problems
            .iter()
            .any(|(_, refusal)| refusal.reason == Reason::NotEc2);
        if !elsewhere {
            ask(&config, user.as_ref(), &mut seen)?;
        }

        let instance = host.as_ref().and_then(Host::known_id).map(ToString::to_string);
        let instance = instance.or_else(|| seen.documents.as_ref()?.instance_id.clone());
        let name = |text: String| redactor.as_ref().map_or_else(|| text.clone(), |r| r.name(&text));
        let id = |text: String| {
            redactor
                .as_ref()
                .map_or_else(|| text.clone(), |r| r.instance(&text))
        };
        self.write_documents(&mut writer, &seen, redactor.as_ref())?;
        let settings = self.settings(&mut writer, &config)?;
        writer.finish(Manifest {
            schema: layout::SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            captured_at: captured_at.secs(),
            captured_at_text: captured_at.to_string(),
            metadata_date: seen.date,
            metadata_address: seen.address,
            user: self.user.clone().map(name),
            instance: instance.map(id),
            host: self.host(&config, host.as_ref(), redactor.as_ref()),
            settings,
            redacted: self.redact,
            problems: seen
                .problems
                .into_iter()
                .map(|(what, refusal)| Problem {
                    what: what.to_owned(),
                    reason: refusal.reason.code().to_owned(),
                    // A detail may quote an id or an ARN.
                    detail: if self.redact {
                        String::new()
                    } else {
                        shown(&refusal.detail)
                    },
                })
                .collect(),
            documents: Vec::new(),
        })
    }

    fn write_documents(
        &self,
        writer: &mut Writer,
        seen: &Seen,
        redactor: Option<&Redactor>,
    ) -> io::Result<()> {
        if let Some(document) = &seen.active_keys {
            let redacted = redactor.map(|redactor| redactor.records(document));
            writer.document(layout::ACTIVE_KEYS, redacted.as_ref().unwrap_or(document))?;
        }
        if let Some(documents) = &seen.documents {
            writer.document(layout::SIGNER_CERT, &documents.signer_cert)?;
            writer.document(layout::REGION, documents.region.as_bytes())?;
            writer.document(layout::DOMAIN, documents.domain.as_bytes())?;
            if let Some(id) = &documents.instance_id {
                let redacted = redactor.map(|redactor| redactor.instance(id));
                writer.document(layout::INSTANCE_ID, redacted.as_ref().unwrap_or(id).as_bytes())?;
            }
        }
        writer.subdirectory(layout::SIGNER_OCSP)?;
        for (staple, base64) in &seen.staples {
            writer.document(&format!("{}/{}", layout::SIGNER_OCSP, staple.as_str()), base64)?;
        }
        Ok(())
    }

    /// The settings in force; the file itself is copied unless it is to be shared: it may hold anything.
    fn settings(&self, writer: &mut Writer, config: &Config) -> io::Result<Settings> {
        let path = self.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
        let content = file::read_trusted(path, config.owner, CONFIG_LIMIT).ok();
        if let Some(content) = content.as_ref().filter(|_| !self.redact) {
            writer.document(layout::CONFIG, content)?;
        }
        let anchors = match &config.trust.anchors {
            Anchors::Auto => "auto".to_owned(),
            Anchors::Amazon => "amazon".to_owned(),
            Anchors::System => "system".to_owned(),
            Anchors::File(_) if self.redact => "file".to_owned(),
            Anchors::File(path) => path.display().to_string(),
        };
        let ocsp = match config.trust.ocsp {
            OcspPolicy::Require => "require",
            OcspPolicy::IfPresent => "if-present",
        };
        let domains = config.trust.extra_domains.iter();
        let file = content.map(|_| path.display().to_string());
        Ok(Settings {
            file: file.filter(|_| !self.redact),
            anchors: Some(anchors),
            ocsp: Some(ocsp.to_owned()),
            extra_domains: domains.map(|domain| domain.as_str().to_owned()).collect(),
        })
    }

    fn host(&self, config: &Config, host: Option<&Host>, redactor: Option<&Redactor>) -> HostView {
        let line = |path: &str| {
            let content = file::read_kernel(&config.instance.sysfs.join(path), SYSFS_LIMIT).ok()?;
            let text = shown(String::from_utf8_lossy(&content).trim_ascii());
            Some(redactor.map_or_else(|| text.clone(), |redactor| redactor.instance(&text)))
        };
        HostView {
            kind: host.map(|host| {
                match host {
                    Host::Nitro(_) => "nitro",
                    Host::Xen(_) => "xen",
                }
                .to_owned()
            }),
            hypervisor_uuid: line("hypervisor/uuid"),
            board_asset_tag: line("devices/virtual/dmi/id/board_asset_tag"),
        }
    }

    fn page(&self, manifest: &Manifest) -> Page {
        let exit = if manifest.problems.is_empty() {
            0
        } else {
            EXIT_REFUSED
        };
        let directory = shown(&self.directory.display().to_string());
        if self.json {
            let outcome = Outcome {
                schema: SCHEMA,
                directory,
                manifest,
            };
            return super::json_page(&outcome, exit);
        }
        let mut out = format!("{directory}: {} documents\n", manifest.documents.len());
        if self.redact {
            out.push_str(
                "Redacted: keys and signatures are gone, so no record of this capture can be proven any more.\n",
            );
        } else {
            out.push_str("It names people and accounts: share one made with --redact.\n");
        }
        let mut err = String::new();
        for Problem { what, reason, detail } in &manifest.problems {
            err.push_str(&format!("not captured: {what}: {reason}: {detail}\n"));
        }
        Page {
            out: out.into_bytes(),
            err,
            exit,
        }
    }
}

fn redactor() -> io::Result<Redactor> {
    let mut salt = [0; SALT_BYTES];
    ring::rand::SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| io::Error::other("the system has no randomness to give"))?;
    Ok(Redactor::new(salt))
}

/// Asks for everything, as far as it goes.
fn ask(config: &Config, user: Option<&LoginName>, seen: &mut Seen) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    runtime.block_on(async {
        let deadline = Instant::now()
            .checked_add(config.imds.total_timeout)
            .unwrap_or_else(Instant::now);
        if tokio::time::timeout_at(deadline, collect(config, user, deadline, seen))
            .await
            .is_err()
        {
            let detail = format!("not all within {} ms", config.imds.total_timeout.as_millis());
            seen.problems
                .push(("metadata", Refusal::new(Reason::Deadline, detail)));
        }
    });
    Ok(())
}

async fn collect(config: &Config, user: Option<&LoginName>, deadline: Instant, seen: &mut Seen) {
    let session = match Session::open(&config.imds, deadline).await {
        Ok(session) => session,
        Err(refusal) => return seen.problems.push(("metadata", refusal)),
    };
    seen.address = Some(session.address().to_string());
    if let Some(user) = user {
        match session.active_keys(user).await {
            Ok(Some(document)) => seen.active_keys = Some(document),
            Ok(None) => {
                let refusal = Refusal::new(Reason::NoKey, "no key is active for this user");
                seen.problems.push((layout::ACTIVE_KEYS, refusal));
            }
            Err(refusal) => seen.problems.push((layout::ACTIVE_KEYS, refusal)),
        }
    }
    match session.signer_documents(true).await {
        Ok(documents) => {
            let names = documents.staple_names.iter().take(limits::MAX_STAPLES).cloned();
            seen.staples = session.staples(names).await.arrived;
            if seen.staples.len() < documents.staple_names.len() {
                let refusal = Refusal::new(
                    Reason::StapleMissing,
                    format!(
                        "{} of {} listed staples were captured",
                        seen.staples.len(),
                        documents.staple_names.len()
                    ),
                );
                seen.problems.push((layout::SIGNER_OCSP, refusal));
            }
            seen.documents = Some(documents);
        }
        Err(refusal) => seen.problems.push(("signer", refusal)),
    }
    seen.date = session.date();
}
