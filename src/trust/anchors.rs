//! Trust anchors: Amazon's five roots, built in, the system's store, or a bundle that the configuration names.

use std::path::Path;

use pki_types::{CertificateDer, TrustAnchor};

use super::{Chain, pem};
use crate::config::Anchors;
use crate::file::{self, FileError, Owner};
use crate::place::Partition;
use crate::reason::{Reason, Refusal};

/// Amazon Trust Services' roots. Amazon's advice to those who pin is to pin all five.
static AMAZON: [&[u8]; 5] = [
    include_bytes!("roots/amazon-root-ca-1.der"),
    include_bytes!("roots/amazon-root-ca-2.der"),
    include_bytes!("roots/amazon-root-ca-3.der"),
    include_bytes!("roots/amazon-root-ca-4.der"),
    include_bytes!("roots/starfield-services-root-ca-g2.der"),
];

/// The system's bundle, where distributions keep it: Debian, Ubuntu; RHEL, Fedora, Amazon Linux; SUSE.
const SYSTEM_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// A system bundle has about 150 certificates in 250 KiB.
const MAX_BUNDLE_BYTES: u64 = 4 * 1024 * 1024;

/// Where anchors come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// Built in.
    Amazon,
    /// The system's store.
    System,
    /// A bundle of the administrator's.
    File(&'a Path),
}

impl std::fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Amazon => f.write_str("amazon"),
            Self::System => f.write_str("system"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The sources to ask, one after the other, for a signer of `partition`.
///
/// Which roots the signers outside partition `aws` lead to is not published, so there the system's store is
/// asked where Amazon's own roots do not hold.
#[must_use]
pub fn sources(configured: &Anchors, partition: Partition) -> Vec<Source<'_>> {
    match configured {
        Anchors::Auto if partition == Partition::Aws => vec![Source::Amazon],
        Anchors::Auto => vec![Source::Amazon, Source::System],
        Anchors::Amazon => vec![Source::Amazon],
        Anchors::System => vec![Source::System],
        Anchors::File(path) => vec![Source::File(path)],
    }
}

/// The files that [`AnchorSet::load`] can come to read, whatever the partition.
#[must_use]
pub fn files(configured: &Anchors) -> Vec<&Path> {
    match configured {
        Anchors::Amazon => Vec::new(),
        Anchors::Auto | Anchors::System => SYSTEM_BUNDLES.map(Path::new).to_vec(),
        Anchors::File(path) => vec![path],
    }
}

/// Certificates that are trusted because they are where they are.
#[derive(Debug, Clone)]
pub struct AnchorSet {
    certificates: Vec<CertificateDer<'static>>,
}

impl AnchorSet {
    /// Loads from `source` what can be an anchor for `chain`. A named file must belong to `owner`.
    ///
    /// # Errors
    /// [`Reason::Anchors`] where the file cannot be read, or is not a bundle of certificates.
    pub fn load(source: Source<'_>, owner: Owner, chain: &Chain) -> Result<Self, Refusal> {
        match bundle(source, owner)? {
            None => Ok(Self::amazon()),
            Some((path, bundle)) => {
                Self::from_pem(&bundle, &chain.issuer_names()).map_err(|what| unreadable(path, &what))
            }
        }
    }

    /// Whether `source` can be loaded from at all, whatever the chain.
    ///
    /// # Errors
    /// As [`AnchorSet::load`].
    pub fn check(source: Source<'_>, owner: Owner) -> Result<(), Refusal> {
        match bundle(source, owner)? {
            None => Ok(()),
            Some((path, bundle)) => Self::from_pem(&bundle, &[])
                .map(drop)
                .map_err(|what| unreadable(path, &what)),
        }
    }

    /// Amazon's five roots.
    #[must_use]
    pub fn amazon() -> Self {
        Self {
            certificates: AMAZON.map(CertificateDer::from).to_vec(),
        }
    }

    /// The certificates of a PEM bundle whose subject is among `issuers`, those of a chain's certificates: no other
    /// can be that chain's anchor, and a system's bundle has 150.
    ///
    /// # Errors
    /// What is wrong with the bundle: also one that holds no certificate at all is no bundle.
    fn from_pem(bundle: &[u8], issuers: &[&[u8]]) -> Result<Self, &'static str> {
        let mut certificates = Vec::new();
        let mut empty = true;
        for certificate in pem::certificates(bundle) {
            let certificate = certificate.map_err(|error| error.0)?;
            empty = false;
            // A store may hold certificates that are too odd to be an anchor; they harm nobody.
            let wanted = webpki::anchor_from_trusted_cert(&certificate)
                .is_ok_and(|anchor| issuers.iter().any(|issuer| *issuer == &*anchor.subject));
            if wanted {
                certificates.push(certificate);
            }
        }
        if empty {
            Err("holds no certificate")
        } else {
            Ok(Self { certificates })
        }
    }

    /// The anchors, in the verifier's form.
    pub(super) fn trust_anchors(&self) -> Vec<TrustAnchor<'_>> {
        self.certificates
            .iter()
            .filter_map(|certificate| webpki::anchor_from_trusted_cert(certificate).ok())
            .collect()
    }
}

/// The file that `source` stands for, read; none for what is built in.
fn bundle(source: Source<'_>, owner: Owner) -> Result<Option<(&Path, Vec<u8>)>, Refusal> {
    let read = |path, owner| file::read_trusted(path, owner, MAX_BUNDLE_BYTES);
    match source {
        Source::Amazon => Ok(None),
        Source::File(path) => match read(path, owner) {
            Ok(bundle) => Ok(Some((path, bundle))),
            Err(error) => Err(unreadable(path, &error)),
        },
        Source::System => {
            for path in SYSTEM_BUNDLES.map(Path::new) {
                match read(path, Owner::Root) {
                    Err(FileError::NotFound) => {}
                    Err(error) => return Err(unreadable(path, &error)),
                    Ok(bundle) => return Ok(Some((path, bundle))),
                }
            }
            Err(Refusal::new(
                Reason::Anchors,
                "the system has no bundle of trust anchors where one is known to be",
            ))
        }
    }
}

fn unreadable(path: &Path, what: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Reason::Anchors, format!("{}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    /// SHA-256 of each root's SubjectPublicKeyInfo, as Amazon Trust Services' repository publishes them.
    const PUBLISHED: [&str; 5] = [
        "fbe3018031f9586bcbf41727e417b7d1c45c2f47f93be372a17b96b50757d5a2",
        "7f4296fc5b6a4e3b35d3c369623e364ab1af381d8fa7121533c9d6c633ea2461",
        "36abc32656acfc645c61b71613c4bf21c787f5cabbee48348d58597803d7abc9",
        "f7ecded5c66047d28ed6466b543c40e0743abe81d109254dcf845d4c2c7853c5",
        "2b071c59a0a0ae76b0eadb2bad23bad4580b69c3601b630c2eaf0613afa83f92",
    ];

    #[test]
    fn the_built_in_roots_are_the_published_ones() {
        let anchors = AnchorSet::amazon();
        let hashes: Vec<String> = anchors
            .trust_anchors()
            .iter()
            .map(|anchor| {
                Sha256::digest(webpki::spki_for_anchor(anchor))
                    .iter()
                    .map(|b| format!("{b:02x}"))
                    .collect()
            })
            .collect();
        assert_eq!(hashes, PUBLISHED);
    }

    #[test]
    fn the_systems_store_is_asked_only_outside_partition_aws() {
        assert_eq!(sources(&Anchors::Auto, Partition::Aws), [Source::Amazon]);
        assert_eq!(
            sources(&Anchors::Auto, Partition::UsGov),
            [Source::Amazon, Source::System]
        );
        assert_eq!(sources(&Anchors::Amazon, Partition::Cn), [Source::Amazon]);
    }
}
