//! What each fuzz target does with its input. `cargo test` runs the same functions over the committed corpus.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each target is its own program and uses one of these"
)]

use std::time::Duration;

use ec2_instance_connect::claim::{Connection, Entry};
use ec2_instance_connect::config::Config;
use ec2_instance_connect::escape;
use ec2_instance_connect::imds::StapleName;
use ec2_instance_connect::instance::InstanceId;
use ec2_instance_connect::place::{DnsSuffix, Place};
use ec2_instance_connect::request::{Fingerprint, LoginName};
use ec2_instance_connect::stat::Stat;
use ec2_instance_connect::trust::anchors::AnchorSet;
use ec2_instance_connect::trust::{Chain, Staple};
use pki_types::UnixTime;

#[path = "access.rs"]
pub mod access;
#[path = "capture.rs"]
pub mod capture;
#[path = "decision.rs"]
pub mod decision;
#[path = "evidence.rs"]
pub mod evidence;
#[path = "history.rs"]
pub mod history;
#[path = "http.rs"]
pub mod http;
#[path = "link.rs"]
pub mod link;
#[path = "sshd.rs"]
pub mod sshd;

/// The input, divided by lines of `%%`.
pub fn parts(data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut begin, mut at) = (0, 0);
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        if line == b"%%\n" {
            parts.push(&data[begin..at]);
            begin = at + line.len();
        }
        at += line.len();
    }
    parts.push(&data[begin..]);
    parts
}

/// Names, fingerprints, ids: what is taken is printed as it was given, and is harmless where it goes.
pub fn request(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(name) = LoginName::new(text) {
        assert_eq!(name.as_str(), text);
        assert!(text.len() <= LoginName::MAX_LEN && !text.contains(['/', '%', '?', '#', '\\', ' ']));
        assert!(text != "." && text != "..");
    }
    if let Ok(fingerprint) = Fingerprint::new(text) {
        assert!(fingerprint.to_string().eq_ignore_ascii_case(text));
    }
    if let Some(id) = InstanceId::new(text) {
        assert_eq!(id.as_str(), text);
    }
    if let Some(name) = StapleName::new(text) {
        assert!(!name.as_str().contains('/') && !name.as_str().starts_with('.'));
    }
    let shown = escape::text(data).to_string();
    assert!(shown.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
}

/// The names, targets and process lines of one-time keys: what is taken is printed as it came, and whatever a process
/// calls itself, the fields behind its name stay what they are.
pub fn claim(data: &[u8]) -> usize {
    let mut taken = 0;
    if let Some(entry) = Entry::parse(data) {
        assert_eq!(entry.to_string().as_bytes(), data);
        taken += 1;
    }
    if let Some(connection) = Connection::parse(data) {
        assert_eq!(connection.to_string().as_bytes(), data);
        taken += 1;
    }
    if let Some(process) = Stat::parse(data) {
        taken += 1;
        // The same line with another name: the input's own bytes, in parentheses as the kernel writes them.
        let text = String::from_utf8_lossy(data);
        let (_, fields) = text
            .rsplit_once(") ")
            .expect("a line that was taken has its name in parentheses");
        let name = text.replace(['\n', '\u{fffd}'], " ");
        let renamed = Stat::parse(format!("{} ({name}) {fields}", process.pid).as_bytes())
            .expect("a name decides nothing");
        assert_eq!(
            (renamed.pid, renamed.parent, renamed.start, renamed.name),
            (process.pid, process.parent, process.start, name)
        );
    }
    taken
}

/// A configuration is read whole or its error has a place in it.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Err(error) = Config::parse(text) {
        if let Some((line, column)) = error.position {
            assert!(line >= 1 && column >= 1 && line <= text.split('\n').count());
        }
    }
    // These quotes mean nothing in a comment, but keep all of it before TOML's own reader.
    if text.ends_with('\n') && !text.contains("\"\"\"") && !text.contains("'''") {
        assert_eq!(
            Config::parse(text).ok(),
            Config::parse(&format!("{text}# '''\n")).ok()
        );
    }
}

/// Region and suffix: a place's signer is a domain name made of exactly these two.
pub fn place(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (region, domain) = text.split_once('\n').unwrap_or((text, "amazonaws.com"));
    if let Ok(place) = Place::new(region, domain, None, &[]) {
        let name = place.signer_name();
        assert_eq!(name, format!("managed-ssh-signer.{region}.{domain}"));
        assert!(DnsSuffix::new(&name).is_some());
    }
}

/// A chain that was not made by Amazon leads to none of its roots; one that the make-believe root signed, and
/// nothing else does, leads there.
pub fn chain(data: &[u8]) {
    let Ok(chain) = Chain::from_pem(data) else {
        return;
    };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(evidence::NOW));
    assert!(chain.verify(&AnchorSet::amazon(), evidence::HOST, now).is_err());
    if evidence::verify(&chain, now).is_ok() {
        let certificates = evidence::pem_contents(data);
        assert!(evidence::holds(
            &certificates[..1],
            evidence::signed_part(evidence::LEAF)
        ));
        assert!(evidence::holds(
            &certificates,
            evidence::signed_part(evidence::ISSUER)
        ));
    }
}

/// A document of certificates: what is read of it, written anew, is read as the same; and its limits hold.
pub fn pem(data: &[u8]) -> usize {
    let Ok(chain) = Chain::from_pem(data) else {
        return 0;
    };
    let contents = evidence::pem_contents(data);
    // An explanatory text may have the words in the middle of a line: then the other reader is wrong.
    let is_begin = |line: &&[u8]| line.trim_ascii() == b"-----BEGIN CERTIFICATE-----";
    let count = data.split(|byte| *byte == b'\n').filter(is_begin).count();
    assert!(count >= 1 && (1..=10).contains(&chain.issuer_names().len()));
    if contents.len() == count {
        let written: Vec<u8> = contents.iter().flat_map(|der| evidence::pem(der)).collect();
        let again = Chain::from_pem(&written).expect("what is read can be written and read");
        assert_eq!(again.issuer_names(), chain.issuer_names());
    }
    count
}

/// An OCSP response is parsed or refused.
pub fn staple(data: &[u8]) {
    let _ = Staple::parse(data);
}

/// Whatever the document, a key that comes out of it is one that the signer signed, for this instance and a time
/// still to come. Gives the number of keys.
pub fn records(data: &[u8]) -> usize {
    evidence::keys_of(data, evidence::INSTANCE, evidence::NOW)
}
