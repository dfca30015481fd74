//! Why a login was refused: one closed list of stable codes.
//!
//! The codes are an interface. They appear in the log, in `doctor` and `explain`, in `docs/REASONS.md` and in
//! the tests; operators write alerts against them. A code is never renamed or reused.
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;
use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// The reason of a refusal.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason there is, in the order in which a login can meet them.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The stable code, as it stands in logs and documentation.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$name => $code,)* }
            }
        }
    };
}

reasons! {
    /// The login name is outside the service's pattern, so no key can ever have been pushed for it.
    User = "user",
    /// sshd's fingerprint argument is neither `SHA256:…` nor `MD5:…`.
    FingerprintForm = "fingerprint-form",
    /// The configuration file cannot be used: unreadable, not root's, or wrong.
    Config = "config",
    /// `[guards] deny_users` names the login.
    DenyUser = "deny-user",
    /// The maintenance file is there, and the login is not one of those that may still come in.
    Maintenance = "maintenance",
    /// A guard must look at the account, and there is none, or it cannot be looked up.
    NoSuchUser = "no-such-user",
    /// The account's uid is below `[guards] min_uid`.
    MinUid = "min-uid",
    /// The account's shell starts no session, or is not one of this host's shells.
    Shell = "shell",
    /// Nothing on this host says that it is an EC2 instance.
    NotEc2 = "not-ec2",
    /// The instance id that the host, the configuration or the metadata gives is malformed or contradicts another.
    InstanceId = "instance-id",
    /// The metadata service could not be reached, or dropped the connection.
    ImdsUnreachable = "imds-unreachable",
    /// The metadata service did not answer a request in time.
    ImdsTimeout = "imds-timeout",
    /// The metadata service answered 403: switched off, or not allowed.
    ImdsForbidden = "imds-forbidden",
    /// The metadata service throttles (429 or 503), also after retries.
    ImdsThrottled = "imds-throttled",
    /// The metadata service answered with a status that the protocol does not give.
    ImdsStatus = "imds-status",
    /// A document that must accompany a key is absent (404).
    ImdsAbsent = "imds-absent",
    /// A document or its headers are larger than their limit.
    ImdsTooLarge = "imds-too-large",
    /// A document is not of its form: not text, not a region, not an instance id.
    ImdsMalformed = "imds-malformed",
    /// The whole decision took longer than its deadline.
    Deadline = "deadline",
    /// No key is active for this user. The ordinary case of a login that has nothing to do with us.
    NoKey = "no-key",
    /// Region and DNS suffix do not name one partition, or not the pinned one.
    Partition = "partition",
    /// The trust anchors could not be loaded.
    Anchors = "anchors",
    /// The signer's certificates are not PEM, not DER, too many or too few.
    SignerMalformed = "signer-malformed",
    /// No path leads from the signer's certificate to a trust anchor.
    SignerChain = "signer-chain",
    /// A certificate of the path is outside its validity.
    SignerExpired = "signer-expired",
    /// The certificate names another signer.
    SignerName = "signer-name",
    /// A certificate of the path may not be used for this: extended key usage, key usage.
    SignerUsage = "signer-usage",
    /// The signer's key is not RSA of at least 2048 bits.
    SignerKey = "signer-key",
    /// A certificate of the path has no OCSP staple.
    StapleMissing = "staple-missing",
    /// A staple is not an OCSP response, and the certificate it may have been for has no other.
    StapleMalformed = "staple-malformed",
    /// A certificate of the path is revoked.
    StapleRevoked = "staple-revoked",
    /// The responder does not know a certificate of the path.
    StapleUnknown = "staple-unknown",
    /// The staple of a certificate of the path is outside its window.
    StapleStale = "staple-stale",
    /// The staple of a certificate of the path is not signed by one who may.
    StapleSignature = "staple-signature",
    /// The record is not of the record's form.
    RecordMalformed = "record-malformed",
    /// The record's key line is not a bare OpenSSH public key of a known type.
    RecordKey = "record-key",
    /// The record is for another instance.
    RecordInstance = "record-instance",
    /// The record has expired.
    RecordExpired = "record-expired",
    /// The record's key is not the one that sshd asks about.
    Fingerprint = "fingerprint",
    /// The record's signature does not hold.
    RecordSignature = "record-signature",
    /// An access rule denies the key's signed caller, or none allows it.
    Policy = "policy",
    /// Another connection has used the record's key.
    Used = "used",
    /// Keys are good for one connection, and which one asks cannot be told or noted.
    OneTimeUnavailable = "one-time-unavailable",
    /// sshd would not run the link's program: owner or mode of it or of a directory above.
    LinkPath = "link-path",
    /// A token that the link is called with is not known in this login, or could be taken for an option.
    LinkToken = "link-token",
    /// The link ended with another status than 0, or could not be run.
    LinkFailed = "link-failed",
    /// The link did not end in its time.
    LinkTimeout = "link-timeout",
    /// The link's output, or a line of it, is larger than its limit.
    LinkTooLarge = "link-too-large",
    /// The link's output is not text.
    LinkMalformed = "link-malformed",
    /// The helper could not start its own machinery (memory, file descriptors).
    Internal = "internal",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A refusal: the stable reason, and a sentence for the person who reads the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Refusal {
    /// The stable reason.
    pub reason: Reason,
    /// What was seen, for people. May hold foreign text: it is escaped where it is shown, never before.
    pub detail: Cow<'static, str>,
}

impl Refusal {
    /// A refusal for `reason`, explained by `detail`.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, crate::escape::text(&*self.detail))
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_documented_and_no_other() {
        let documented: Vec<&str> = include_str!("../docs/REASONS.md")
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect();
        let known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(documented, known);
    }

    #[test]
    fn codes_are_unique_and_of_one_shape() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in Reason::ALL {
            let code = reason.code();
            assert!(seen.insert(code), "{code} twice");
            assert!(
                code.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{code} is not lower case with hyphens"
            );
        }
    }
}
