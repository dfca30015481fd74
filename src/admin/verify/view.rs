//! What a decision rested on, in the two forms that are shown: serde's for `--json`, lines for people.
//!
//! Shared by `verify` and `explain`, so that both tell one verdict in one way. No usable key is in any of it.
//! All foreign text is escaped on its way in.

use std::fmt::Write as _;

use serde::Serialize;

use crate::admin::history::moment::{self, Moment};
use crate::admin::paint::{self, Shade};
use crate::authorize::{Evidence, Facts, Verdicts};
use crate::escape;
use crate::keys::{self, AuthorizedKey, Description};
use crate::reason::{Reason, Refusal};
use crate::trust::describe;

/// Width of the first column.
const LABEL: usize = 12;

/// A refusal, escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusalView {
    /// The stable code.
    pub reason: &'static str,
    /// What was seen.
    pub detail: String,
}

impl RefusalView {
    /// The view of `refusal`.
    #[must_use]
    pub fn of(refusal: &Refusal) -> Self {
        Self {
            reason: refusal.reason.code(),
            detail: shown(&refusal.detail),
        }
    }
}

/// One record: the verdict, and what it says of itself.
#[derive(Debug, Serialize)]
pub struct RecordView {
    /// `holds`, `refused`, or `not-judged` where something refused all records alike.
    pub verdict: &'static str,
    /// Why it was refused.
    #[serde(flatten)]
    pub refusal: Option<RefusalView>,
    /// The key's fingerprint, where it could be read. Proven only where the record holds, as all that follows.
    pub fingerprint: Option<String>,
    /// When it expires.
    pub expires: Option<Moment>,
    /// The instance that it is for.
    pub instance: Option<String>,
    /// Who pushed the key.
    pub caller: Option<String>,
    /// The push's request id.
    pub request_id: Option<String>,
    /// A sentence about its time.
    pub note: Option<String>,
}

/// The proven signer.
#[derive(Debug, Serialize)]
pub struct SignerView {
    /// Its name.
    pub name: String,
    /// The partition.
    pub partition: &'static str,
    /// When the first certificate of its path ends.
    pub not_after: Moment,
    /// When the first staple ends.
    pub next_update: Option<Moment>,
}

/// A certificate as it was served.
#[derive(Debug, Serialize)]
pub struct CertificateView {
    /// The subject.
    pub subject: String,
    /// The issuer.
    pub issuer: String,
    /// In hexadecimal.
    pub serial: String,
    /// From then,
    pub not_before: Moment,
    /// until then.
    pub not_after: Moment,
}

/// What a staple as it was served says of one certificate.
#[derive(Debug, Serialize)]
pub struct StapleView {
    /// The document's name.
    pub name: String,
    /// `good`, `revoked`, `unknown`; `unreadable` where the document is no OCSP response.
    pub status: &'static str,
    /// The certificate that it is about, where it is a served one; else its serial.
    pub about: Option<String>,
    /// From then,
    pub this_update: Option<Moment>,
    /// until then.
    pub next_update: Option<Moment>,
}

/// Foreign text, made harmless.
#[must_use]
pub fn shown(text: &str) -> String {
    escape::text(text).to_string()
}

/// The record views of a judged document: each verdict beside what its record says of itself.
///
/// `ahead` is how many seconds our clock was ahead of the metadata's, where the metadata said.
#[must_use]
pub fn records(
    document: &[u8],
    verdicts: Result<&Verdicts, &Refusal>,
    now: Moment,
    ahead: Option<i64>,
) -> Vec<RecordView> {
    let mut descriptions = keys::describe(document).into_iter();
    match verdicts {
        Ok(verdicts) => {
            let described = verdicts
                .iter()
                .map(|verdict| (verdict, descriptions.next().flatten()));
            described
                .map(|(verdict, said)| judged(verdict, said.as_ref(), now, ahead))
                .collect()
        }
        Err(_) => descriptions
            .map(|said| record("not-judged", said.as_ref()))
            .collect(),
    }
}

fn judged(
    verdict: &Result<AuthorizedKey, Refusal>,
    said: Option<&Description>,
    now: Moment,
    ahead: Option<i64>,
) -> RecordView {
    let view = record(if verdict.is_ok() { "holds" } else { "refused" }, said);
    let left = view.expires.map(|expires| expires.secs_since(now));
    let note = match (verdict, left) {
        (Ok(_), Some(left)) => Some(format!("expires in {}", moment::length(left))),
        (Err(refusal), Some(left)) if refusal.reason == Reason::RecordExpired => {
            Some(expired(left.saturating_neg(), ahead))
        }
        _ => None,
    };
    RecordView {
        refusal: verdict.as_ref().err().map(RefusalView::of),
        note,
        ..view
    }
}

/// How long ago a record expired, and whether only by a wrong clock.
fn expired(ago: i64, ahead: Option<i64>) -> String {
    let mut note = format!("expired {ago} s ago");
    let left = ahead.map(|ahead| ahead.saturating_sub(ago));
    if let Some(left) = left.filter(|left| *left > 0) {
        let _ = write!(
            note,
            "; by the metadata's clock it still had {left} s: fix the clock"
        );
    }
    note
}

fn record(verdict: &'static str, said: Option<&Description>) -> RecordView {
    let text = |text: Option<&String>| text.map(|text| shown(text));
    RecordView {
        verdict,
        refusal: None,
        fingerprint: said
            .and_then(|said| said.fingerprint)
            .map(|fingerprint| fingerprint.to_string()),
        expires: said.map(|said| seconds(i64::try_from(said.expires).unwrap_or(i64::MAX))),
        instance: text(said.map(|said| &said.instance)),
        caller: text(said.and_then(|said| said.caller.as_ref())),
        request_id: text(said.and_then(|said| said.request_id.as_ref())),
        note: None,
    }
}

/// The proven signer, if it was proven.
#[must_use]
pub fn signer(facts: &Facts) -> Option<SignerView> {
    let (place, until) = (facts.place.as_ref()?, facts.signer?);
    Some(SignerView {
        name: place.signer_name(),
        partition: place.partition().name(),
        not_after: seconds(until.not_after),
        next_update: until.next_update.map(seconds),
    })
}

/// The certificates as they were served, proven or not.
#[must_use]
pub fn certificates(evidence: &Evidence) -> Vec<CertificateView> {
    let certificates = describe::certificates(&evidence.documents.signer_cert);
    certificates
        .into_iter()
        .map(|certificate| CertificateView {
            subject: shown(&certificate.subject),
            issuer: shown(&certificate.issuer),
            serial: certificate.serial,
            not_before: seconds(certificate.not_before),
            not_after: seconds(certificate.not_after),
        })
        .collect()
}

/// The staples as they were served, proven or not.
#[must_use]
pub fn staples(evidence: &Evidence) -> Vec<StapleView> {
    let certificates = describe::certificates(&evidence.documents.signer_cert);
    let mut views = Vec::new();
    for (name, base64) in &evidence.staples {
        let name = name.as_str().to_owned();
        let Some(responses) = describe::staple(base64) else {
            views.push(StapleView {
                name,
                status: "unreadable",
                about: None,
                this_update: None,
                next_update: None,
            });
            continue;
        };
        views.extend(responses.into_iter().map(|response| {
            let subject = certificates
                .iter()
                .find(|certificate| certificate.serial == response.serial)
                .map(|certificate| shown(&certificate.subject));
            StapleView {
                name: name.clone(),
                status: response.status,
                about: Some(subject.unwrap_or_else(|| format!("serial {}", shown(&response.serial)))),
                this_update: Some(seconds(response.this_update)),
                next_update: response.next_update.map(seconds),
            }
        }));
    }
    views
}

/// Unix seconds as a moment, whatever foreign number they are.
#[must_use]
pub fn seconds(seconds: i64) -> Moment {
    // A number that has no microseconds in an i64 is as good as the end of time.
    const FARTHEST: i64 = i64::MAX.div_euclid(1_000_000);
    Moment::from_secs(seconds.clamp(FARTHEST.saturating_neg(), FARTHEST))
}

/// Writes one line: a label, and what there is to say.
pub fn line(out: &mut String, label: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{label:<LABEL$}{text}");
}

/// Writes the verdict, which is what a person looks for first.
pub fn verdict_line(out: &mut String, verdict: &str, good: bool, colour: bool) {
    let shade = if good { Shade::Good } else { Shade::Bad };
    line(out, "verdict", &paint::word(verdict, shade, colour).to_string());
}

/// Writes the signer's lines.
pub fn signer_lines(out: &mut String, signer: &SignerView, anchors: Option<&str>) {
    let SignerView {
        name,
        partition,
        not_after,
        ..
    } = signer;
    let anchors = anchors.unwrap_or("none");
    line(
        out,
        "signer",
        &format!("{name} (partition {partition}), to anchors {anchors}, until {not_after}"),
    );
    let staples = match signer.next_update {
        Some(next_update) => format!("each certificate of the path is good, until {next_update}"),
        None => "no staple was needed".to_owned(),
    };
    line(out, "revocation", &staples);
}

/// Writes what was served, for a person who looks closer.
pub fn served_lines(out: &mut String, certificates: &[CertificateView], staples: &[StapleView]) {
    for certificate in certificates {
        let CertificateView {
            subject,
            not_before,
            not_after,
            ..
        } = certificate;
        line(
            out,
            "certificate",
            &format!("{subject}, {not_before} to {not_after}"),
        );
    }
    for staple in staples {
        let mut text = staple.status.to_owned();
        if let Some(about) = &staple.about {
            let _ = write!(text, ": {about}");
        }
        if let Some(this_update) = staple.this_update {
            let _ = write!(text, ", {this_update}");
        }
        match staple.next_update {
            Some(next_update) => {
                let _ = write!(text, " to {next_update}");
            }
            None if staple.this_update.is_some() => text.push_str(" without an end"),
            None => {}
        }
        line(out, "staple", &text);
    }
}

/// Writes one line for each record.
pub fn record_lines(out: &mut String, records: &[RecordView], colour: bool) {
    for (number, record) in (1_usize..).zip(records) {
        let shade = match record.verdict {
            "holds" => Shade::Good,
            "refused" => Shade::Bad,
            _ => Shade::Faint,
        };
        let mut text = paint::word(record.verdict, shade, colour).to_string();
        if let Some(refusal) = &record.refusal {
            let _ = write!(text, " {}: {}", refusal.reason, refusal.detail);
        }
        for (label, value) in [
            ("", record.fingerprint.as_ref()),
            ("for ", record.instance.as_ref()),
            ("pushed by ", record.caller.as_ref()),
            ("request ", record.request_id.as_ref()),
        ] {
            if let Some(value) = value {
                let _ = write!(text, ", {label}{value}");
            }
        }
        if let Some(expires) = record.expires {
            let _ = write!(text, ", expires {expires}");
        }
        if let Some(note) = &record.note {
            let _ = write!(text, " ({note})");
        }
        line(out, &format!("record {number}"), &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_clock_is_named_only_where_the_metadatas_clock_would_have_let_the_record_live() {
        assert_eq!(expired(41, None), "expired 41 s ago");
        assert_eq!(expired(41, Some(30)), "expired 41 s ago");
        assert_eq!(expired(41, Some(41)), "expired 41 s ago");
        assert_eq!(
            expired(41, Some(56)),
            "expired 41 s ago; by the metadata's clock it still had 15 s: fix the clock"
        );
    }

    #[test]
    fn no_number_of_seconds_is_too_large_to_show() {
        for number in [i64::MIN, -1, 0, i64::MAX] {
            assert!(!seconds(number).to_string().is_empty());
        }
    }
}
