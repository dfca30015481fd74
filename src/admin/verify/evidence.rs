//! Evidence read back from files: what `capture` wrote, or one file for each document.
//!
//! Whoever gave it to us may have written anything into it. Each file is read up to the limit that the metadata's
//! document has, no FIFO holds us up, and nothing is believed: judging it is [`crate::authorize::judge`]'s.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::complaint;
use crate::admin::capture::layout::{self, Manifest};
use crate::admin::history::moment::Moment;
use crate::authorize::Evidence;
use crate::file::{self, FileError};
use crate::imds::{SignerDocuments, StapleName, limits};
use crate::reason::{Reason, Refusal};

/// Most staples read: what the helper would fetch at the most for a chain of ten, by name and by search.
const MAX_STAPLES: usize = 64;

/// The first byte of every OCSPResponse in DER, a SEQUENCE; no base64 of one begins so.
const DER_SEQUENCE: u8 = 0x30;

/// Evidence, and what its manifest says of it.
pub(super) struct Material {
    pub(super) evidence: Evidence,
    pub(super) captured: Option<Captured>,
    /// Why there is nothing to judge: a login would have been refused for it.
    pub(super) absent: Option<Refusal>,
}

/// What a manifest says.
pub(super) struct Captured {
    pub(super) at: Moment,
    pub(super) instance: Option<String>,
    pub(super) user: Option<String>,
    pub(super) redacted: bool,
}

/// The directory that `capture` wrote.
pub(super) fn directory(directory: &Path) -> Result<Material, String> {
    let path = directory.join(layout::MANIFEST);
    let manifest = read(&path, limits::MAX_DOCUMENT_BYTES)?;
    let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|error| complaint(&path, &error))?;
    if manifest.schema != layout::SCHEMA {
        return Err(complaint(
            &path,
            &format!("is of schema {}, not {}", manifest.schema, layout::SCHEMA),
        ));
    }
    let word = |name: &str| -> Result<Option<String>, String> {
        let document = optional(&directory.join(name), limits::MAX_DOCUMENT_BYTES)?;
        Ok(document.map(|text| String::from_utf8_lossy(&text).trim_ascii_end().to_owned()))
    };
    let active_keys = optional(&directory.join(layout::ACTIVE_KEYS), limits::MAX_KEYS_BYTES)?;
    let signer_cert = optional(&directory.join(layout::SIGNER_CERT), limits::MAX_DOCUMENT_BYTES)?;
    let (region, domain) = (word(layout::REGION)?, word(layout::DOMAIN)?);
    // What the capture lacked refuses as it refused then.
    let absent = if active_keys
        .as_deref()
        .is_none_or(|keys| keys.trim_ascii().is_empty())
    {
        Some(Refusal::new(Reason::NoKey, "the capture holds no record"))
    } else if signer_cert.is_none() || region.is_none() || domain.is_none() {
        Some(Refusal::new(
            Reason::ImdsAbsent,
            "the capture lacks region, domain or the signer's certificates",
        ))
    } else {
        None
    };
    let ocsp = directory.join(layout::SIGNER_OCSP);
    let staples = if ocsp.is_dir() {
        staples(&ocsp)?
    } else {
        Vec::new()
    };
    Ok(Material {
        evidence: Evidence {
            active_keys: active_keys.unwrap_or_default(),
            documents: SignerDocuments {
                instance_id: word(layout::INSTANCE_ID)?,
                region: region.unwrap_or_default(),
                domain: domain.unwrap_or_default(),
                signer_cert: signer_cert.unwrap_or_default(),
                staple_names: staples.iter().map(|(name, _)| name.clone()).collect(),
            },
            staples,
        },
        captured: Some(Captured {
            at: super::view::seconds(manifest.captured_at),
            instance: manifest.instance,
            user: manifest.user,
            redacted: manifest.redacted,
        }),
        absent,
    })
}

/// One file for each document; region and domain are still to be filled in.
pub(super) fn files(keys: &Path, signer_cert: &Path, ocsp: Option<&Path>) -> Result<Material, String> {
    let staples = ocsp.map(staples).transpose()?.unwrap_or_default();
    Ok(Material {
        evidence: Evidence {
            active_keys: read(keys, limits::MAX_KEYS_BYTES)?,
            documents: SignerDocuments {
                instance_id: None,
                region: String::new(),
                domain: String::new(),
                signer_cert: read(signer_cert, limits::MAX_DOCUMENT_BYTES)?,
                staple_names: staples.iter().map(|(name, _)| name.clone()).collect(),
            },
            staples,
        },
        captured: None,
        absent: None,
    })
}

/// The staples in a directory, in the order of their names; files whose names no staple can have are no staples.
fn staples(directory: &Path) -> Result<Vec<(StapleName, Vec<u8>)>, String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| complaint(directory, &error))? {
        let entry = entry.map_err(|error| complaint(directory, &error))?;
        names.extend(entry.file_name().to_str().and_then(StapleName::new));
    }
    names.sort_unstable();
    if names.len() > MAX_STAPLES {
        return Err(complaint(
            directory,
            &format!("holds more than {MAX_STAPLES} staples"),
        ));
    }
    let mut staples = Vec::new();
    for name in names {
        let content = read(&directory.join(name.as_str()), limits::MAX_DOCUMENT_BYTES)?;
        let base64 = if content.first() == Some(&DER_SEQUENCE) {
            STANDARD.encode(&content).into_bytes()
        } else {
            content
        };
        staples.push((name, base64));
    }
    Ok(staples)
}

fn optional(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, String> {
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    match file::read_kernel(path, limit) {
        Ok(content) => Ok(Some(content)),
        Err(FileError::NotFound) => Ok(None),
        Err(error) => Err(complaint(path, &error)),
    }
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    optional(path, limit)?.ok_or_else(|| complaint(path, &FileError::NotFound))
}
