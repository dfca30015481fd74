//! The key line: a bare OpenSSH public key, parsed whole and encoded again.
//!
//! sshd gives every line that we print to its full `authorized_keys` parser, where options such as
//! `environment=` or `cert-authority` are live. So nothing of the original text is ever printed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Md5;
use sha2::{Digest as _, Sha256};
use ssh_key::public::KeyData;

use crate::reason::{Reason, Refusal};
use crate::request::Fingerprint;

/// The key types that OpenSSH names (sshd_config(5), `PubkeyAcceptedAlgorithms`), certificates excluded: in an
/// `authorized_keys` line a certificate means nothing. The service takes fewer; that is its rule, not ours.
const TYPES: [&str; 8] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-dss",
];

/// A public key: its canonical line and its fingerprints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    line: String,
    sha256: [u8; 32],
    md5: [u8; 16],
}

impl PublicKey {
    /// Parses `type base64`, and a comment, which is dropped.
    ///
    /// # Errors
    /// [`Reason::RecordKey`]: an unknown type, options in front, a blob of another type, bytes left over.
    pub(super) fn parse(line: &str) -> Result<Self, Refusal> {
        let refuse = |what| Refusal::new(Reason::RecordKey, what);
        let mut words = line.split(' ');
        let (kind, base64) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if !TYPES.contains(&kind) {
            return Err(refuse("the key line does not begin with a key type of OpenSSH's"));
        }
        let unreadable = |_| refuse("the key is not of its type");
        let parsed = ssh_key::PublicKey::from_openssh(line).map_err(unreadable)?;
        if matches!(parsed.key_data(), KeyData::Other(_)) || parsed.algorithm().as_str() != kind {
            return Err(refuse("the key is not of its type"));
        }
        // The parser stops where the key ends; only what it would have written itself was a key and nothing more.
        let blob = parsed.to_bytes().map_err(unreadable)?;
        let bare = ssh_key::PublicKey::new(parsed.key_data().clone(), "");
        let line = bare.to_openssh().map_err(unreadable)?.trim_end().to_owned();
        if line.split(' ').nth(1) != Some(base64) {
            return Err(refuse(
                "the key is followed by something, or not in its canonical form",
            ));
        }
        Ok(Self {
            line,
            sha256: Sha256::digest(&blob).into(),
            md5: Md5::digest(&blob).into(),
        })
    }

    pub(super) fn line(&self) -> &str {
        &self.line
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::Sha256(self.sha256)
    }

    pub(super) fn has_fingerprint(&self, wanted: Fingerprint) -> bool {
        match wanted {
            Fingerprint::Sha256(digest) => digest == self.sha256,
            Fingerprint::Md5(digest) => digest == self.md5,
        }
    }
}

/// Whether `line` is plainly the line of another key than `wanted`: of a type and a blob that begins with it (RFC 4253
/// §6.6), and of another fingerprint. Whether it is a key at all is for [`PublicKey::parse`] to say.
pub(super) fn is_plainly_another(line: &str, wanted: Fingerprint) -> bool {
    let mut words = line.split(' ');
    let (kind, base64) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Ok(blob) = STANDARD.decode(base64) else {
        return false;
    };
    let begins = |blob: &[u8]| {
        blob.get(4..)
            .is_some_and(|blob| blob.starts_with(kind.as_bytes()))
    };
    let differs = match wanted {
        Fingerprint::Sha256(digest) => digest != <[u8; 32]>::from(Sha256::digest(&blob)),
        Fingerprint::Md5(digest) => digest != <[u8; 16]>::from(Md5::digest(&blob)),
    };
    TYPES.contains(&kind) && begins(&blob) && differs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    /// Made by `ssh-keygen -t …`; the security keys put together from the same points, in the form of OpenSSH's PROTOCOL.u2f.
    const GOOD: [&str; 8] = [
        ED25519,
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBKF9VgxhQXTHoXiE+H3c6AzH/xcwGz3zGvjYXgYsdEnOj6ljaBAI8Rsu6vhX/f6JX7gcfZnqqhAn4XtEgNPDuzk=",
        "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBEZHAlkNisxhtFmlHeSPdUzyZpOW6pJuOELDvAPZGatXm9NVR3yVou9sbdZmgE4kOyWgEM3s5Lkq45UGPAimN6ubbr7/53CD6ph23KoKEHH/A9MWAiwiHpo1yDBhy6oJTg==",
        "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAFZSBCxx4SxURy6Bi8xkbUML8L45KxrEAGCsmnCR03dxkcjif3bc4on4h2L9wUTuBqwQ/K22JqwnboRC2QqBasnJQHlobZaOG86bWuli0vq78zhmIGZp6eNOyJrxuA6PJ+JXjdg4C/QNhdLDsGELgiAedwTX33hqGHFH5zt7VrrtT1VNA==",
        "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqtiAAAABHNzaDo=",
        "sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBKF9VgxhQXTHoXiE+H3c6AzH/xcwGz3zGvjYXgYsdEnOj6ljaBAI8Rsu6vhX/f6JX7gcfZnqqhAn4XtEgNPDuzkAAAAEc3NoOg==",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDOCD2XhOxJkwy+tkL5cci4kLhk6XbBsuolGnwsp3tKl1w2azyMJXJiYPd7aR2+v/NpccQSdfrqpJGldsQYd0ZAd6YWs/emQnuq808a/LNG8eEgDNeMrqiql0j45GVQI5B5zhsAgIRXhpDJLps5Fo0zoOK13doPKDyM4FvNiJxwmpbcUFTrdj46PewT9+MySRskzXZbeqLm9LigeqWtOZY22unz4rT/q6/N/XZ/qNtL9jdrAwrfdeObsDuyMfPRrcL43HxbHD2Lohl1gufA2kSbVV1mdKoMg0f8GiXnO+1qmxjIF3gjI2ZiL4WeQuHnK2ZYdCFS7hMau93xFQfWF3+D",
        "ssh-dss AAAAB3NzaC1kc3MAAACBAM+BFcTv0TXpFxj1t6zchJopHsGetsb1rJJzSPrIQW2S/ctQ0Kmv3z8BCkfNzAKqTX5T3ThSaFmGZ0SM8gvYtYFtinlWH0qulwVIhdLTRTK/FMPIsp2Kcw1rEQxG0V0EzqIFT8WxvJ5WfKH25w2FIg3lUHmP+sXbgdb2JNGq3HBvAAAAFQCl/+xm16YqXy4/qe5wcg8h2dgCkwAAAIABiPq8V4hYwcp7RC1M78+6RtZuzzDYJMAW+7N7g7vUYgHiU+TeLGzjiBz9pKHKimnnO7rlAGi3aq3YDhPpZg/xAEFiWSFudqbS6RI2UzrllFX8OiG/ZS+gUH8S/7sw0z+pXKZRmj5W/Z8ivcoM5/IN14ZgAzgk1p7feyPlLcKwQwAAAIBMlaAQkf+rYd9c6BokyAoVM38uuhiBrOBH9S9X2t3C64X640QTHZIzeeYI0GeADeWZrk67rD0lxa09+gQnnSuHBNonsMi3wvBJgnG6pHanb7COzEhgHl8e8rjGajkjn/d/xr4GCZnDPzUasqEONJXVpzQtBbkx1yfdwits9AVK5g==",
    ];

    #[test]
    fn a_key_is_printed_as_type_and_base64_alone() {
        for line in GOOD {
            assert_eq!(PublicKey::parse(line).unwrap().line(), line);
        }
        assert_eq!(
            PublicKey::parse(&format!("{ED25519} a comment, with \"all\" in it"))
                .unwrap()
                .line(),
            ED25519
        );
    }

    #[test]
    fn both_fingerprints_are_known() {
        let key = PublicKey::parse(ED25519).unwrap();
        // ssh-keygen -lf and ssh-keygen -E md5 -lf of the same line.
        for text in [
            "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ",
            "MD5:ae:6f:ba:1b:70:2c:ae:c7:5c:ab:6e:4d:5e:d4:c7:23",
        ] {
            assert!(key.has_fingerprint(Fingerprint::new(text).unwrap()), "{text}");
        }
        assert!(!key.has_fingerprint(Fingerprint::Md5([0; 16])));
        assert!(!key.has_fingerprint(Fingerprint::Sha256([0; 32])));
    }

    #[test]
    fn options_foreign_types_and_misfits_are_refused() {
        let blob = ED25519.split(' ').nth(1).unwrap();
        for line in [
            String::new(),
            "ssh-ed25519".to_owned(),
            "ssh-ed25519 ".to_owned(),
            blob.to_owned(),
            format!("restrict {ED25519}"),
            format!("command=\"id\" {ED25519}"),
            format!(" {ED25519}"),
            format!("\t{ED25519}"),
            format!("ssh-ed25519\t{blob}"),
            format!("ssh-rsa {blob}"),
            format!("SSH-ED25519 {blob}"),
            format!("ssh-ed25519-cert-v01@openssh.com {blob}"),
            format!("ssh-new@example.com {blob}"),
            format!("ssh-ed25519  {blob}"),
            // One byte more in the blob, one less, and a length that lies.
            format!("{ED25519}AAAA"),
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSq".to_owned(),
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIbM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti".to_owned(),
        ] {
            assert_eq!(
                PublicKey::parse(&line).unwrap_err().reason,
                Reason::RecordKey,
                "{line:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_the_line_nothing_but_a_bare_key_comes_out(prefix in ".{0,8}", suffix in "\\PC{0,40}") {
            for line in [format!("{prefix}{ED25519}"), format!("{ED25519}{suffix}"), suffix] {
                if let Ok(key) = PublicKey::parse(&line) {
                    let words: Vec<&str> = key.line().split(' ').collect();
                    prop_assert_eq!(words.len(), 2);
                    prop_assert!(TYPES.contains(&words[0]));
                    prop_assert!(words[1].bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)));
                }
            }
        }
    }
}
