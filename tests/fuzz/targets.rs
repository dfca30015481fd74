//! What each fuzz target does with its input. `cargo test` runs the same functions over the committed corpus.
#![allow(dead_code, missing_docs, reason = "each target is its own program and uses one of these")]

use ec2_instance_connect::config::Config;
use ec2_instance_connect::escape;
use ec2_instance_connect::imds::StapleName;
use ec2_instance_connect::instance::InstanceId;
use ec2_instance_connect::place::{DnsSuffix, Place};
use ec2_instance_connect::request::{Fingerprint, LoginName};
use ec2_instance_connect::trust::anchors::AnchorSet;
use ec2_instance_connect::trust::{Chain, Staple};
use pki_types::UnixTime;

/// Names, fingerprints, ids: what is taken is printed as it was given, and is harmless where it goes.
pub fn request(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
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

/// A configuration is read whole or its error has a place in it.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = Config::parse(text) {
        if let Some((line, column)) = error.position {
            assert!(line >= 1 && column >= 1 && line <= text.split('\n').count());
        }
    }
}

/// Region and suffix: a place's signer is a domain name made of exactly these two.
pub fn place(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (region, domain) = text.split_once('\n').unwrap_or((text, "amazonaws.com"));
    if let Ok(place) = Place::new(region, domain, None, &[]) {
        let name = place.signer_name();
        assert_eq!(name, format!("managed-ssh-signer.{region}.{domain}"));
        assert!(DnsSuffix::new(&name).is_some());
    }
}

/// A chain that was not made by Amazon leads to none of its roots.
pub fn chain(data: &[u8]) {
    if let Ok(chain) = Chain::from_pem(data) {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_763_900_000));
        assert!(chain.verify(&AnchorSet::amazon(), "managed-ssh-signer.us-east-1.amazonaws.com", now).is_err());
    }
}

/// An OCSP response is parsed or refused.
pub fn staple(data: &[u8]) {
    let _ = Staple::parse(data);
}
