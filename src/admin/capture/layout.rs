//! The captured directory: one file for each document as the metadata served it, and a manifest.
//!
//! `docs/FORENSICS.md` describes it for people. Names and meaning are an interface: `verify` reads captures of
//! every version that wrote this schema.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Name and version of the layout. A file or field may be added under the same number; anything else takes a new one.
pub const SCHEMA: &str = "ec2-instance-connect/capture/1";

/// What the capture says of itself.
pub const MANIFEST: &str = "manifest.json";
/// The records pushed for the user.
pub const ACTIVE_KEYS: &str = "active-keys";
/// The signer's certificates, PEM.
pub const SIGNER_CERT: &str = "signer-cert.pem";
/// A directory: the staples by their names, each in base64.
pub const SIGNER_OCSP: &str = "signer-ocsp";
/// The region.
pub const REGION: &str = "region";
/// The DNS suffix.
pub const DOMAIN: &str = "domain";
/// The metadata's instance id.
pub const INSTANCE_ID: &str = "instance-id";
/// The configuration file in force, where there is one.
pub const CONFIG: &str = "config.toml";

/// `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    /// The version of this program.
    pub version: String,
    /// When it was captured, by this machine's clock, in Unix seconds.
    pub captured_at: i64,
    /// The same for people, in RFC 3339.
    pub captured_at_text: String,
    /// The metadata's clock then: its `Date` header.
    pub metadata_date: Option<String>,
    /// Where the metadata service answered.
    pub metadata_address: Option<String>,
    /// Whose keys these are: no record says, only where it was read from.
    pub user: Option<String>,
    /// The instance that the records must be for, as a login would have taken it.
    pub instance: Option<String>,
    /// What the host says of itself.
    pub host: HostView,
    /// The settings in force that a judgement rests on.
    pub settings: Settings,
    /// Whether keys, signatures and names were removed.
    pub redacted: bool,
    /// What could not be captured, and why.
    pub problems: Vec<Problem>,
    /// The files beside this one.
    pub documents: Vec<Document>,
}

/// What the host says of itself.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct HostView {
    /// `nitro`, `xen`, or nothing where it is no EC2 instance.
    pub kind: Option<String>,
    /// The hypervisor's uuid.
    pub hypervisor_uuid: Option<String>,
    /// The board's asset tag.
    pub board_asset_tag: Option<String>,
}

/// The settings in force.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    /// The file they are from; nothing where they are the defaults.
    pub file: Option<String>,
    /// `auto`, `amazon`, `system` or a path. `verify` does not follow it: who judges chooses.
    pub anchors: Option<String>,
    /// `require` or `if-present`.
    pub ocsp: Option<String>,
    /// DNS suffixes beside AWS's.
    pub extra_domains: Vec<String>,
}

/// Something that could not be captured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Problem {
    /// What: a document's name, `host`, `config` or `metadata`.
    pub what: String,
    /// The stable reason code.
    pub reason: String,
    /// What was seen.
    pub detail: String,
}

/// A file of the capture.
#[derive(Debug, Serialize, Deserialize)]
pub struct Document {
    /// Its path below the directory.
    pub file: String,
    /// Its length.
    pub bytes: usize,
    /// Its SHA-256, in hexadecimal: to notice damage on the way. It proves nothing about who wrote it.
    pub sha256: String,
}

/// A new directory that is being filled.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    documents: Vec<Document>,
}

impl Writer {
    /// Creates the directory, for its owner alone.
    ///
    /// # Errors
    /// Also where anything of that name exists: nothing is ever overwritten.
    pub fn create(directory: &Path) -> io::Result<Self> {
        make_directory(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            documents: Vec::new(),
        })
    }

    /// Writes one document.
    ///
    /// # Errors
    /// From the file system.
    pub fn document(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        write(&self.directory.join(name), content)?;
        let digest = Sha256::digest(content);
        self.documents.push(Document {
            file: name.to_owned(),
            bytes: content.len(),
            sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        });
        Ok(())
    }

    /// Creates a directory below.
    ///
    /// # Errors
    /// From the file system.
    pub fn subdirectory(&self, name: &str) -> io::Result<()> {
        make_directory(&self.directory.join(name))
    }

    /// Writes the manifest, last: a capture without one is not whole.
    ///
    /// # Errors
    /// From the file system.
    pub fn finish(self, mut manifest: Manifest) -> io::Result<Manifest> {
        manifest.documents = self.documents;
        let mut content = serde_json::to_vec_pretty(&manifest).map_err(io::Error::other)?;
        content.push(b'\n');
        write(&self.directory.join(MANIFEST), &content)?;
        Ok(manifest)
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file: File = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
