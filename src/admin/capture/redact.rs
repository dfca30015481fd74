//! A capture made fit for sharing.
//!
//! What stays is what a person who looks for a fault needs: the shape of each record, times, the signer's
//! certificates and staples, which are public. What names somebody becomes a pseudonym: a hash with a salt that is
//! thrown away, so equal names stay equal within one capture and can be guessed from none. Keys and signatures go.
//!
//! Pure: text and a salt go in.

use sha2::{Digest as _, Sha256};

/// Bytes of a salt: nobody tries 2^128 of them.
pub const SALT_BYTES: usize = 16;

/// Hexadecimal digits of a pseudonym: enough that two names of one capture never share one.
const PSEUDONYM_DIGITS: usize = 16;

/// Hexadecimal digits of an instance id.
const INSTANCE_DIGITS: usize = 17;

/// What stands for a line that is of no known form: it could be anything.
const UNKNOWN_LINE: &str = "[redacted]";

/// In place of a signature: still base64, so that the record keeps its form and fails for a reason that is true.
const NO_SIGNATURE: &str = "UkVEQUNURUQ=";

/// The key types of `authorized_keys` (sshd(8)): the only first words of a key line that say nothing of anybody.
const KEY_TYPES: [&str; 8] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ssh-dss",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// Hides names within one capture.
pub struct Redactor {
    salt: [u8; SALT_BYTES],
}

impl Redactor {
    /// A redactor whose pseudonyms nobody can guess who does not know `salt`.
    #[must_use]
    pub fn new(salt: [u8; SALT_BYTES]) -> Self {
        Self { salt }
    }

    /// The pseudonym of `name`.
    #[must_use]
    pub fn name(&self, name: &str) -> String {
        format!("redacted-{}", self.digits(name, PSEUDONYM_DIGITS))
    }

    /// The pseudonym of an instance id, which is one of its form; of any other text, as of a name.
    #[must_use]
    pub fn instance(&self, id: &str) -> String {
        if crate::instance::InstanceId::new(id).is_some() {
            format!("i-{}", self.digits(id, INSTANCE_DIGITS))
        } else {
            self.name(id)
        }
    }

    /// A principal's ARN: service and the kind of principal stay, account and names do not.
    #[must_use]
    pub fn principal(&self, arn: &str) -> String {
        let mut fields = arn.splitn(6, ':');
        let (Some("arn"), Some(partition), Some(service), Some(_), Some(account), Some(resource)) = (
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
        ) else {
            return self.name(arn);
        };
        if !partition.starts_with("aws") || !matches!(service, "iam" | "sts") {
            return self.name(arn);
        }
        let mut words = resource.split('/');
        let kind = words.next().unwrap_or_default();
        let kind = match kind {
            "user" | "role" | "assumed-role" | "federated-user" | "root" => kind.to_owned(),
            other => self.name(other),
        };
        let names: String = words.map(|word| format!("/{}", self.name(word))).collect();
        format!("arn:aws:{service}::{}:{kind}{names}", self.name(account))
    }

    /// The key document: each record keeps its form, its time and its instance's pseudonym.
    #[must_use]
    pub fn records(&self, document: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(document);
        let mut redacted = String::new();
        let mut after_key = false;
        for line in text.split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            if line.is_empty() {
                after_key = false;
            } else if after_key {
                redacted.push_str(NO_SIGNATURE);
            } else if line.starts_with('#') {
                redacted.push_str(&self.header(line));
            } else {
                redacted.push_str(&self.key(line));
                after_key = true;
            }
            redacted.push_str(end);
        }
        redacted.into_bytes()
    }

    fn header(&self, line: &str) -> String {
        let Some((name, value)) = line.split_once('=') else {
            return format!("#{UNKNOWN_LINE}");
        };
        match name {
            "#Timestamp" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                line.to_owned()
            }
            "#Instance" => format!("{name}={}", self.instance(value)),
            "#Caller" => format!("{name}={}", self.principal(value)),
            "#Request" => format!("{name}={}", self.name(value)),
            _ => format!("#{UNKNOWN_LINE}={}", self.name(line)),
        }
    }

    /// The key's type where it is of one that is known, and a pseudonym of the whole line: equal keys stay equal.
    fn key(&self, line: &str) -> String {
        let kind = line.split(' ').next().unwrap_or_default();
        let known = KEY_TYPES.contains(&kind);
        let kind = if known { kind } else { UNKNOWN_LINE };
        format!("{kind} {}", self.name(line))
    }

    fn digits(&self, text: &str, count: usize) -> String {
        let mut digest = Sha256::new();
        digest.update(self.salt);
        digest.update(text);
        let digits: String = digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        digits.chars().take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "#Timestamp=1738233608\n#Instance=i-0123456789abcdef0\n\
        #Caller=arn:aws:sts::123456789012:assumed-role/Ops/alice\n#Request=c0ffee00\n#Novel=secret\n\
        ssh-ed25519 AAAAC3Nz alice@laptop\nc2lnbmF0dXJl\n\nno-pty ssh-rsa BBBB\nc2ln\nbmF0\n";

    fn redacted(text: &str) -> String {
        String::from_utf8(Redactor::new([7; SALT_BYTES]).records(text.as_bytes())).unwrap()
    }

    #[test]
    fn names_keys_and_signatures_are_gone_and_times_and_form_stay() {
        let text = redacted(RECORD);
        for secret in [
            "0123456789",
            "Ops",
            "alice",
            "c0ffee",
            "Novel",
            "secret",
            "AAAA",
            "laptop",
            "c2ln",
            "bmF0",
            "no-pty",
            "BBBB",
        ] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert_eq!(text.lines().count(), RECORD.lines().count());
        assert!(text.starts_with("#Timestamp=1738233608\n#Instance=i-"));
        assert!(text.contains("\n#Caller=arn:aws:sts::redacted-"));
        assert!(text.contains(":assumed-role/redacted-"));
        assert!(text.contains("\nssh-ed25519 redacted-"));
    }

    #[test]
    fn equal_names_stay_equal_within_one_capture_alone() {
        let (one, other) = (Redactor::new([1; SALT_BYTES]), Redactor::new([2; SALT_BYTES]));
        assert_eq!(one.name("alice"), one.name("alice"));
        assert_ne!(one.name("alice"), one.name("bob"));
        assert_ne!(one.name("alice"), other.name("alice"));
    }

    #[test]
    fn a_type_that_nobody_knows_is_gone() {
        for line in [
            "ssh-AAAAC3NzaC1lZDI1NTE5AAAAILM x",
            "ssh-alice",
            "sk-ssh-ed25519@example.com x",
        ] {
            assert!(redacted(line).starts_with("[redacted] redacted-"), "{line}");
        }
    }

    proptest::proptest! {
        /// Whatever the document is, no word of it that could be a key survives.
        #[test]
        fn no_long_base64_survives(prefix in "[ -~\n]{0,40}", blob in "[A-Za-z0-9+/]{20,60}", suffix in "[ -~\n]{0,40}") {
            let text = format!("{prefix}{blob}{suffix}");
            let digits = blob.bytes().all(|byte| byte.is_ascii_digit());
            proptest::prop_assert!(digits || !redacted(&text).contains(&blob));
        }
    }
}
