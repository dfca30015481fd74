//! Which keys count: the only maker of [`AuthorizedKey`].
//!
//! ```text
//! active-keys/USER/ ──blank lines──▶ Record ──for this instance, not expired, the wanted key,
//!                                             signed by the TrustedSigner──▶ AuthorizedKey
//! ```
//!
//! Pure: the document, the question and the proven signer go in. One bad record drops that record, never its
//! neighbours.
#![deny(clippy::disallowed_methods)]

mod public_key;
mod record;
mod signature;

use pki_types::UnixTime;
use sha2::{Digest as _, Sha256};

use crate::instance::InstanceId;
use crate::options::LineOptions;
use crate::reason::{Reason, Refusal};
use crate::request::Fingerprint;
use crate::trust::TrustedSigner;
use public_key::PublicKey;
use record::Record;

/// A key that passed every check, with what the signed record says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizedKey {
    key: PublicKey,
    signed: Box<[u8]>,
    expires: u64,
    caller: Option<String>,
    request_id: Option<String>,
    options: LineOptions,
}

impl AuthorizedKey {
    /// The key: type and base64, encoded again from the parsed key. No options, no comment, no LF.
    #[must_use]
    pub fn line(&self) -> &str {
        self.key.line()
    }

    /// What stands before the key in the line for sshd.
    #[must_use]
    pub fn options(&self) -> &LineOptions {
        &self.options
    }

    /// The same key, to be printed with `options`.
    #[must_use]
    pub fn with_options(self, options: LineOptions) -> Self {
        Self { options, ..self }
    }

    /// The key's SHA-256 fingerprint, as sshd logs it.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }

    /// When the record expires, in Unix seconds.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// SHA-256 of the bytes that the signature is over: which record this is, whatever its signature looks like.
    #[must_use]
    pub fn signed_digest(&self) -> [u8; 32] {
        Sha256::digest(&self.signed).into()
    }

    /// The IAM principal that pushed the key, if the record says: signed, but still foreign text.
    #[must_use]
    pub fn caller(&self) -> Option<&str> {
        self.caller.as_deref()
    }

    /// The push's request id, as in CloudTrail, if the record says: signed, but still foreign text.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }
}

/// What is asked of each record.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The instance that we are.
    pub instance: &'a InstanceId,
    /// The key that sshd asks about; any where it did not say.
    pub fingerprint: Option<Fingerprint>,
    /// The time.
    pub now: UnixTime,
}

/// The verdict on each record of `document`, in order.
#[must_use]
pub fn judge(
    document: &[u8],
    question: Question<'_>,
    signer: &TrustedSigner,
) -> Vec<Result<AuthorizedKey, Refusal>> {
    let judge_one = |text| Record::parse(text).and_then(|record| judge_record(&record, question, signer));
    record::split(document).map(judge_one).collect()
}

/// Whether every key of `document` is plainly another than `wanted`, so that no proof could make it one to give: the
/// ordinary case of an agent with several keys, and of whoever tries keys on a host. Base64 and a hash are all that is
/// looked at; what is odd in any way is left to [`judge`], which says what is wrong with it.
#[must_use]
pub fn holds_only_others(document: &[u8], wanted: Fingerprint) -> bool {
    let Ok(text) = std::str::from_utf8(document) else {
        return false;
    };
    // A record's other lines begin with `#` or are base64, which has no space.
    let mut keys = text
        .split('\n')
        .filter(|line| !line.starts_with('#') && line.contains(' '))
        .peekable();
    keys.peek().is_some() && keys.all(|line| public_key::is_plainly_another(line, wanted))
}

/// What a record says of itself, with nothing proven: to tell a person which record a verdict is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// When the record expires, in Unix seconds.
    pub expires: u64,
    /// The instance that it is for.
    pub instance: String,
    /// The IAM principal that pushed the key, if the record says.
    pub caller: Option<String>,
    /// The push's request id, if the record says.
    pub request_id: Option<String>,
    /// The key's fingerprint, where the key line is one that can be read.
    pub fingerprint: Option<Fingerprint>,
}

/// What each record of `document` says of itself, in the order of [`judge`]'s verdicts; `None` where it is not of
/// a record's form.
#[must_use]
pub fn describe(document: &[u8]) -> Vec<Option<Description>> {
    let describe_one = |text| {
        Record::parse(text).ok().map(|record| Description {
            expires: record.expires,
            instance: record.instance.to_owned(),
            caller: record.caller.map(str::to_owned),
            request_id: record.request_id.map(str::to_owned),
            fingerprint: PublicKey::parse(record.key).ok().map(|key| key.fingerprint()),
        })
    };
    record::split(document).map(describe_one).collect()
}

/// What a bare `authorized_keys` line holds: the key's canonical line and its SHA-256 fingerprint; `None` for a line with
/// options or of no known type. Nothing is proven of it.
#[must_use]
pub fn bare(line: &str) -> Option<(String, Fingerprint)> {
    let key = PublicKey::parse(line).ok()?;
    Some((key.line().to_owned(), key.fingerprint()))
}

/// The cheap questions come first: a document full of other people's keys costs no signature check.
fn judge_record(
    record: &Record<'_>,
    question: Question<'_>,
    signer: &TrustedSigner,
) -> Result<AuthorizedKey, Refusal> {
    if record.instance != question.instance.as_str() {
        let detail = format!(
            "the record is for `{}`, this is {}",
            record.instance, question.instance
        );
        return Err(Refusal::new(Reason::RecordInstance, detail));
    }
    let now = question.now.as_secs();
    if record.expires <= now {
        let detail = format!("the record expired {} s ago", now.saturating_sub(record.expires));
        return Err(Refusal::new(Reason::RecordExpired, detail));
    }
    let key = PublicKey::parse(record.key)?;
    if let Some(wanted) = question
        .fingerprint
        .filter(|wanted| !key.has_fingerprint(*wanted))
    {
        let detail = format!(
            "the record's key is {}, sshd asks about {wanted}",
            key.fingerprint()
        );
        return Err(Refusal::new(Reason::Fingerprint, detail));
    }
    signature::verify(signer.key(), record.signed, &record.signature)?;
    Ok(AuthorizedKey {
        key,
        signed: record.signed.into(),
        expires: record.expires,
        caller: record.caller.map(str::to_owned),
        request_id: record.request_id.map(str::to_owned),
        options: LineOptions::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    const WANTED: [&str; 2] = [
        "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ",
        "MD5:ae:6f:ba:1b:70:2c:ae:c7:5c:ab:6e:4d:5e:d4:c7:23",
    ];

    #[test]
    fn only_a_document_of_sound_lines_with_other_keys_holds_only_others() {
        let only_others = |keys: &[&str]| {
            let record = |key: &&str| format!("#Timestamp=1\n#Instance=i a\n{key}\nYWJj\n\n");
            let document: String = keys.iter().map(record).collect();
            let answers =
                WANTED.map(|text| holds_only_others(document.as_bytes(), Fingerprint::new(text).unwrap()));
            assert_eq!(answers[0], answers[1], "{document}");
            answers[0]
        };
        assert!(only_others(&[OTHER]));
        assert!(only_others(&[OTHER, &format!("{OTHER} a comment")]));
        assert!(!only_others(&[KEY]));
        assert!(!only_others(&[OTHER, KEY, OTHER]));
        assert!(!only_others(&[&format!("{KEY} a comment")]));
        // Whatever is odd is judged in full.
        assert!(!only_others(&[]));
        assert!(!only_others(&["nonsense"]));
        assert!(!only_others(&[OTHER, "two words"]));
        assert!(!only_others(&[&format!("restrict {OTHER}")]));
        assert!(!only_others(&[&OTHER.replace("ssh-ed25519 ", "ssh-rsa ")]));
        assert!(!only_others(&[&format!("{OTHER}\r")]));
        assert!(!holds_only_others(b"\xff", Fingerprint::new(WANTED[0]).unwrap()));
    }
}
