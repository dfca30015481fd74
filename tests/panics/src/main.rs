//! The rooms that decide, linked without the rest of the program: one login's evidence goes in as files, and what sshd
//! would read comes out. `tests/panics/run` takes this program apart, and looks for a call that could panic.
//!
//! What the rooms offer is called with what nobody can know when this is compiled, and what it gives is used, so that
//! nothing of it can be left out.
#![forbid(unsafe_code)]

mod control;

use std::fmt::{Display, Write as _};
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use ec2_instance_connect::access::policy::Policy;
use ec2_instance_connect::access::remarks::remarks;
use ec2_instance_connect::config::Config;
use ec2_instance_connect::instance::{Host, InstanceId};
use ec2_instance_connect::keys::{self, AuthorizedKey, Question};
use ec2_instance_connect::link::lines::Lines;
use ec2_instance_connect::place::Place;
use ec2_instance_connect::reason::{Reason, Refusal};
use ec2_instance_connect::request::Words;
use ec2_instance_connect::stat::Stat;
use ec2_instance_connect::trust::anchors::{self, AnchorSet};
use ec2_instance_connect::trust::{self, Chain, TrustedSigner, VerifiedChain, describe};
use ec2_instance_connect::{claim, escape, output};
use pki_types::UnixTime;

/// Where one login's evidence lies.
struct Evidence<'a>(&'a Path);

impl Evidence<'_> {
    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.0.join(name)).ok()
    }

    fn text(&self, name: &str) -> String {
        let text = self.bytes(name).and_then(|bytes| String::from_utf8(bytes).ok());
        text.unwrap_or_default()
    }

    fn staples(&self) -> Vec<Vec<u8>> {
        ["staple-1", "staple-2", "staple-3", "staple-4"]
            .iter()
            .filter_map(|name| self.bytes(name))
            .collect()
    }
}

/// `panics DIRECTORY NOW USER [FINGERPRINT [CONNECTION [KEY]]]`. With fewer words the control group runs, which dies.
fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(directory), Some(now), Some(user)) = (words.next(), words.next(), words.next()) else {
        control::run();
        return ExitCode::FAILURE;
    };
    let words = Words {
        user,
        fingerprint: words.next(),
        connection: words.next(),
        key: words.next(),
        ..Words::default()
    };
    let evidence = Evidence(Path::new(&directory));
    let now = now
        .to_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_default();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    describe_all(&evidence);
    match login(&evidence, now, &words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            say(&refusal);
            ExitCode::FAILURE
        }
    }
}

/// The decision, in the order of the helper's.
fn login(evidence: &Evidence<'_>, now: UnixTime, words: &Words) -> Result<(), Refusal> {
    let config = Config::load(Some(&evidence.0.join("config.toml")))?;
    black_box(remarks(&config));
    let request = words.request()?;
    config.guards.check(request.user.as_str())?;
    let host = Host::detect(&config.instance.sysfs, config.instance.id.as_ref())?;
    let said = InstanceId::new(&evidence.text("instance-id"));
    let Some(instance) = host.known_id().or(said.as_ref()) else {
        return Err(Refusal::new(
            Reason::InstanceId,
            "nobody says which instance this is",
        ));
    };
    let policy = Policy::look_up(&request, &config);

    let path = signer_path(evidence, &config, now)?;
    path.certificates()
        .for_each(|certificate| say(&certificate.len()));
    say(&path.not_after());
    let staples = evidence.staples();
    let staples = staples.iter().map(Vec::as_slice);
    let signer = TrustedSigner::prove(&path, staples, config.trust.ocsp, now)?;
    black_box((signer.not_after(), signer.next_update()));
    let question = Question {
        instance,
        fingerprint: request.fingerprint,
        now,
    };
    let document = evidence.bytes("active-keys").unwrap_or_default();
    if let Some(wanted) = request.fingerprint {
        black_box(keys::holds_only_others(&document, wanted));
    }
    let mut rulings = Vec::new();
    let verdicts = policy.admit(keys::judge(&document, question, &signer), &mut rulings);
    rulings.iter().for_each(|ruling| say(ruling));
    let keys: Vec<AuthorizedKey> = verdicts
        .into_iter()
        .filter_map(|verdict| verdict.inspect_err(|refusal| say(refusal)).ok())
        .collect();
    for key in &keys {
        say(&key.fingerprint());
        black_box((key.expires(), key.signed_digest(), key.caller(), key.request_id()));
    }

    for link in &config.chain {
        let command = link.command();
        black_box((command.words(), command.program()));
        say(&command.expand(words)?.len());
        say(&link.sshd_tokens().count());
    }
    let lines = Lines::new(evidence.bytes("link").unwrap_or_default())?;
    say(&lines.count());
    output::print(&keys, std::iter::once(&lines))
        .map_err(|error| Refusal::new(Reason::Internal, error.to_string()))
}

/// The signer's chain, verified to the first source of anchors that holds.
fn signer_path(evidence: &Evidence<'_>, config: &Config, now: UnixTime) -> Result<VerifiedChain, Refusal> {
    let place = Place::new(
        &evidence.text("region"),
        &evidence.text("domain"),
        config.instance.partition,
        &config.trust.extra_domains,
    )?;
    say(&place.region().as_str());
    let chain = Chain::from_pem(&evidence.bytes("signer-cert").unwrap_or_default())?;
    black_box(anchors::files(&config.trust.anchors));
    let mut outcome = Err(Refusal::new(Reason::Anchors, "no trust anchors are configured"));
    for source in anchors::sources(&config.trust.anchors, place.partition()) {
        say(&source);
        AnchorSet::check(source, config.owner)?;
        outcome = AnchorSet::load(source, config.owner, &chain)
            .and_then(|anchors| chain.verify(&anchors, &place.signer_name(), now));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// What the documents say of themselves, before anything is proven.
fn describe_all(evidence: &Evidence<'_>) {
    let certificates = evidence.bytes("signer-cert").unwrap_or_default();
    black_box(describe::certificates(&certificates));
    black_box(trust::staple_names(&certificates));
    for staple in evidence.staples() {
        black_box(describe::staple(&staple));
    }
    let document = evidence.bytes("active-keys").unwrap_or_default();
    black_box(keys::describe(&document));
    black_box(keys::bare(&evidence.text("key")));
    say(&escape::token(&document));
    for name in ["stat", "claim"] {
        let line = evidence.bytes(name).unwrap_or_default();
        black_box(Stat::parse(&line));
        claim::Entry::parse(&line).iter().for_each(|entry| say(entry));
        claim::Connection::parse(&line)
            .iter()
            .for_each(|connection| say(connection));
    }
}

/// Prints as the log would be written, and shows it to nobody.
fn say(what: &dyn Display) {
    let mut text = String::new();
    let _ = write!(text, "{what}");
    black_box(text);
}
