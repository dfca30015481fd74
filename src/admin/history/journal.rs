//! One entry of the journal, as `journalctl --output=json` writes it: one JSON object on a line.
//!
//! Anybody may log a line with any identifier and any text. What the kernel says of the sender cannot be
//! chosen: `_UID`, `_PID`, `_BOOT_ID` (systemd.journal-fields(7), "Trusted journal fields"). So the helper's
//! lines count only from the user that sshd runs it as, and sshd's only from root. `_COMM` is no proof, any
//! process names itself (prctl(2), PR_SET_NAME), and of a short-lived one it may be missing; it only keeps out
//! root's other daemons.
#![deny(clippy::disallowed_methods)]

use serde::Deserialize;

use super::event::{Boot, Event, Said, Sender};
use super::message;
use super::moment::Moment;

/// The longest entry that is read. Without `--all`, journalctl leaves out values of more than 4096 bytes
/// (sd_journal's JSON_THRESHOLD); one that is not text comes as an array of up to five characters for a byte.
pub const MAX_ENTRY: usize = 256 * 1024;

/// Who may speak as whom.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    /// The user that sshd runs the helper as, if there is one.
    pub helper: Option<u32>,
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on the stack")]
pub enum Entry {
    /// It means something to us.
    Event(Event),
    /// It means nothing to us.
    Other,
    /// It says what only the helper or sshd may say, and neither sent it.
    Forged,
    /// It is no entry at all.
    Malformed,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    time: String,
    #[serde(rename = "_BOOT_ID")]
    boot: Option<String>,
    #[serde(rename = "_UID")]
    uid: Option<String>,
    #[serde(rename = "_PID")]
    pid: Option<String>,
    #[serde(rename = "_COMM")]
    command: Option<Value>,
    #[serde(rename = "SYSLOG_IDENTIFIER")]
    identifier: Option<Value>,
    #[serde(rename = "MESSAGE")]
    message: Option<Value>,
}

/// A value that its sender chose: text, bytes, nothing where it was too long, several where the sender gave
/// the field more than once.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Other(serde::de::IgnoredAny),
}

impl Value {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
            Self::Other(_) => &[],
        }
    }
}

/// Reads one line of journalctl's.
#[must_use]
pub fn entry(line: &[u8], trust: &Trust) -> Entry {
    let Ok(fields) = serde_json::from_slice::<Fields>(line) else {
        return Entry::Malformed;
    };
    let message = fields.message.as_ref().map(Value::bytes).unwrap_or_default();
    let Some((said, genuine)) = said(&fields, message, trust) else {
        return Entry::Other;
    };
    let number = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<u32>().ok());
    let (Ok(time), Some(pid), Some(uid)) = (fields.time.parse(), number(&fields.pid), number(&fields.uid))
    else {
        return Entry::Malformed;
    };
    if !genuine {
        return Entry::Forged;
    }
    Entry::Event(Event {
        time: Moment::from_micros(time),
        boot: fields.boot.as_deref().and_then(Boot::new),
        sender: Sender::Uid(uid),
        pid,
        said,
    })
}

/// What the message says, and whether its sender may.
fn said(fields: &Fields, message: &[u8], trust: &Trust) -> Option<(Said, bool)> {
    let uid = fields.uid.as_ref().and_then(|uid| uid.parse::<u32>().ok());
    let root = uid == Some(0);
    if is_sshd(fields.identifier.as_ref().map(Value::bytes).unwrap_or_default()) {
        let said = message::sshd(message)?;
        let named_sshd = fields
            .command
            .as_ref()
            .is_none_or(|command| is_sshd(command.bytes()));
        // A session's own process runs as its user; whose end it may tell is for the join to ask.
        let own_end = matches!(said, super::event::Sshd::Gone(..));
        return Some((Said::Sshd(said), named_sshd && (root || own_end)));
    }
    let said = message::helper(message)?;
    // sshd runs the helper as its own user, or, badly configured, as root.
    let genuine = root || (uid.is_some() && uid == trust.helper);
    Some((Said::Helper(said), genuine))
}

/// sshd up to OpenSSH 9.7 and `sshd-session` since: the same for identifiers and for process names.
#[must_use]
pub fn is_sshd(name: &[u8]) -> bool {
    matches!(name, b"sshd" | b"sshd-session")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::history::event::Sshd;

    const TRUST: Trust = Trust { helper: Some(998) };
    const PROVIDED: &str = "Providing ssh key from EC2 Instance Connect with fingerprint: \
                            SHA256:Zg1HnF8UMBuHm2bZ8XGZrTnQ+0d5hN6Ww3kkoS2pPGo user=u sshd-pid=7 expires=60";
    const ACCEPTED: &str = "Accepted publickey for u from 192.0.2.7 port 9 ssh2: RSA \
                            SHA256:Zg1HnF8UMBuHm2bZ8XGZrTnQ+0d5hN6Ww3kkoS2pPGo";

    fn line(identifier: &str, uid: &str, command: &str, message: &serde_json::Value) -> Vec<u8> {
        serde_json::json!({
            "__REALTIME_TIMESTAMP": "1738233608000001", "_BOOT_ID": "0123456789abcdef0123456789abcdef",
            "_UID": uid, "_PID": "42", "_COMM": command, "SYSLOG_IDENTIFIER": identifier, "MESSAGE": message,
            "PRIORITY": "6",
        })
        .to_string()
        .into_bytes()
    }

    fn judge(identifier: &str, uid: &str, command: &str, message: &str) -> Entry {
        entry(&line(identifier, uid, command, &message.into()), &TRUST)
    }

    #[test]
    fn the_helpers_line_from_its_user_counts() {
        let Entry::Event(event) = judge("ec2-instance-connect", "998", "eic_run_authori", PROVIDED) else {
            panic!("not taken");
        };
        assert_eq!(
            (event.time, event.pid),
            (Moment::from_micros(1_738_233_608_000_001), 42)
        );
        assert_eq!(event.sender, Sender::Uid(998));
        assert_eq!(
            event.boot.unwrap().to_string(),
            "0123456789abcdef0123456789abcdef"
        );
    }

    #[test]
    fn a_line_of_another_users_is_forged_whatever_it_calls_itself() {
        assert_eq!(
            judge("ec2-instance-connect", "1000", "eic_run_authori", PROVIDED),
            Entry::Forged
        );
        assert_eq!(judge("sshd", "1000", "sshd", ACCEPTED), Entry::Forged);
        assert_eq!(
            judge(
                "sshd",
                "1000",
                "sshd",
                "pam_unix(sshd:session): session closed for user u"
            ),
            Entry::Forged
        );
        assert_eq!(judge("sshd", "0", "cron", ACCEPTED), Entry::Forged);
        let nobody = Trust { helper: None };
        let line = line("ec2-instance-connect", "998", "x", &PROVIDED.into());
        assert_eq!(entry(&line, &nobody), Entry::Forged);
    }

    #[test]
    fn sshd_counts_as_root_alone_but_for_the_end_of_a_session() {
        assert!(matches!(
            judge("sshd-session", "0", "sshd-session", ACCEPTED),
            Entry::Event(_)
        ));
        let end = judge(
            "sshd",
            "1000",
            "sshd",
            "Disconnected from user u 192.0.2.7 port 9",
        );
        let Entry::Event(Event {
            sender: Sender::Uid(1000),
            said: Said::Sshd(Sshd::Gone(..)),
            ..
        }) = end
        else {
            panic!("{end:?}");
        };
    }

    #[test]
    fn bytes_nulls_and_lists_are_only_other_entries() {
        for message in [
            serde_json::json!(null),
            serde_json::json!([65, 27, 300]),
            serde_json::json!([ACCEPTED, ACCEPTED]),
            serde_json::json!({"a": 1}),
        ] {
            assert_eq!(
                entry(&line("sshd", "0", "sshd", &message), &TRUST),
                Entry::Other,
                "{message}"
            );
        }
        let bytes = serde_json::json!(ACCEPTED.as_bytes());
        assert!(matches!(
            entry(&line("sshd", "0", "sshd", &bytes), &TRUST),
            Entry::Event(_)
        ));
    }

    #[test]
    fn what_is_no_entry_says_so() {
        for line in [&b""[..], b"{}", b"[]", b"\xff", b"{\"__REALTIME_TIMESTAMP\":1}"] {
            assert_eq!(entry(line, &TRUST), Entry::Malformed);
        }
    }
}
