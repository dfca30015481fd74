//! The service's signer on one instance: chain, staples, and the authorities behind them.

use crate::certificate::{Cert, CertSpec, name};
use crate::key::{Hash, Key};
use crate::ocsp::Response;

/// Keys of the usual hierarchy, so that tests can name a part's key or surely another's.
pub mod keys {
    use crate::key::Key;
    /// The self-signed root that the instance trusts.
    pub const ROOT: Key = Key::Rsa2048(0);
    /// The older root that cross-signed it.
    pub const OLD_ROOT: Key = Key::Rsa2048(1);
    /// The oldest root, which cross-signed that one.
    pub const OLDEST_ROOT: Key = Key::Rsa2048(2);
    /// The issuing authorities, which take turns.
    pub const ISSUERS: [Key; 4] = [Key::Rsa2048(3), Key::Rsa2048(4), Key::Rsa2048(5), Key::Rsa2048(6)];
    /// The signer's own keys, which take turns.
    pub const LEAVES: [Key; 2] = [Key::Rsa2048(7), Key::Rsa2048(8)];
    /// A delegated OCSP responder.
    pub const RESPONDER: Key = Key::Rsa2048(9);
    /// Somebody who has nothing to do with any of it.
    pub const STRANGER: Key = Key::Rsa2048(10);
    /// The stranger's own authority.
    pub const STRANGE_ROOT: Key = Key::Rsa2048(11);
    /// A second issuing authority, for longer chains.
    pub const MIDDLE: Key = Key::Rsa2048(12);
}

/// A certificate of the hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The signer's certificate.
    Leaf,
    /// An issuing authority, counted from the leaf upwards.
    Issuer(usize),
    /// The self-signed root.
    Root,
    /// The root as the older root signed it.
    CrossRoot,
    /// The older root as the oldest signed it.
    CrossOldRoot,
    /// A certificate of somebody else's.
    Unrelated,
}

/// How a staple is named in the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StapleName {
    /// Upper-case hex of the certificate's fingerprint; SHA-1 is what the service documents.
    Fingerprint(Hash),
    /// Anything else.
    Text(String),
}

/// One staple to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    /// Which certificate it is about.
    pub about: Part,
    /// Its name.
    pub name: StapleName,
    /// What it says.
    pub response: Response,
}

impl Staple {
    /// A sound staple, named as documented.
    pub fn good(about: Part) -> Self {
        Self {
            about,
            name: StapleName::Fingerprint(Hash::Sha1),
            response: Response::good(),
        }
    }
}

/// A signer to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerSpec {
    /// The signer's certificate.
    pub leaf: CertSpec,
    /// Its issuers, from the leaf upwards; the last is signed by the root.
    pub issuers: Vec<CertSpec>,
    /// The root that the instance is to trust.
    pub root: CertSpec,
    /// What `signer-cert/` serves, in order.
    pub served: Vec<Part>,
    /// What `signer-ocsp/` serves, in order.
    pub staples: Vec<Staple>,
    /// What ends each line of the PEM text.
    pub line_end: &'static str,
}

impl SignerSpec {
    /// Production's shape: leaf, one issuing authority, the cross-signed root and the cross-signed older root,
    /// with a staple for each but the last.
    pub fn production(host: &str) -> Self {
        Self {
            served: vec![Part::Leaf, Part::Issuer(0), Part::CrossRoot, Part::CrossOldRoot],
            staples: vec![
                Staple::good(Part::Leaf),
                Staple::good(Part::Issuer(0)),
                Staple::good(Part::CrossRoot),
            ],
            ..Self::plain(host)
        }
    }

    /// No more than is needed: leaf and issuing authority, and a staple for each.
    pub fn plain(host: &str) -> Self {
        Self {
            leaf: CertSpec::signer(host, keys::LEAVES[0]),
            issuers: vec![Self::issuer(0)],
            root: CertSpec::root("Make-Believe Root CA 1", keys::ROOT),
            served: vec![Part::Leaf, Part::Issuer(0)],
            staples: vec![Staple::good(Part::Leaf), Staple::good(Part::Issuer(0))],
            line_end: "\n",
        }
    }

    /// The issuing authority whose turn it is.
    pub fn issuer(turn: usize) -> CertSpec {
        let turn = turn % keys::ISSUERS.len();
        CertSpec::intermediate(
            &format!("Make-Believe RSA 2048 M{:02}", turn + 1),
            keys::ISSUERS[turn],
        )
    }

    /// The same signer with the next issuing authority and the next key.
    #[must_use]
    pub fn rotated(mut self, turn: usize) -> Self {
        if let Some(first) = self.issuers.first_mut() {
            *first = Self::issuer(turn);
        }
        self.leaf.key = keys::LEAVES[turn % keys::LEAVES.len()];
        self
    }

    /// Changes the staple about `part`.
    #[must_use]
    pub fn staple(mut self, part: Part, change: impl FnOnce(&mut Staple)) -> Self {
        if let Some(staple) = self.staples.iter_mut().find(|s| s.about == part) {
            change(staple);
        }
        self
    }

    /// Makes certificates and staples as of `now`.
    pub fn build(&self, now: i64) -> Signer {
        let root = self.root.self_signed(now);
        let old = CertSpec::root("Make-Believe Services Root - G2", keys::OLD_ROOT);
        let oldest = CertSpec {
            subject: name("Make-Believe Class 2 Authority"),
            ..CertSpec::root("", keys::OLDEST_ROOT)
        }
        .self_signed(now);
        let cross_old_root = old.signed_by(&oldest, now);
        let cross_root = self.root.signed_by(&cross_old_root, now);
        let strange_root = CertSpec::root("Strange Root", keys::STRANGE_ROOT).self_signed(now);
        let unrelated = CertSpec::signer("somebody.example", keys::STRANGER).signed_by(&strange_root, now);

        let mut issuers: Vec<Cert> = Vec::new();
        for spec in self.issuers.iter().rev() {
            let above = issuers.first().unwrap_or(&root);
            let issuer = spec.signed_by(above, now);
            issuers.insert(0, issuer);
        }
        let leaf = self.leaf.signed_by(issuers.first().unwrap_or(&root), now);
        let mut signer = Signer {
            leaf,
            issuers,
            root,
            cross_root,
            cross_old_root,
            oldest_root: oldest,
            strange_root,
            unrelated,
            chain: String::new(),
            staples: Vec::new(),
        };
        signer.chain = self
            .served
            .iter()
            .filter_map(|part| signer.part(*part))
            .map(|cert| cert.pem().replace('\n', self.line_end))
            .collect();
        signer.staples = self
            .staples
            .iter()
            .filter_map(|staple| signer.staple(staple, now))
            .collect();
        signer
    }
}

/// A finished signer.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The signer's certificate.
    pub leaf: Cert,
    /// Its issuers, from the leaf upwards.
    pub issuers: Vec<Cert>,
    /// The root to trust.
    pub root: Cert,
    /// The same root, signed by the older one.
    pub cross_root: Cert,
    /// The older root, signed by the oldest.
    pub cross_old_root: Cert,
    /// The oldest root, signed by itself; never served.
    pub oldest_root: Cert,
    /// Somebody else's root.
    pub strange_root: Cert,
    /// Somebody else's certificate.
    pub unrelated: Cert,
    /// PEM text as `signer-cert/` serves it.
    pub chain: String,
    /// Names and DER as `signer-ocsp/` serves them (there in base64).
    pub staples: Vec<(String, Vec<u8>)>,
}

impl Signer {
    /// The certificate that `part` names.
    pub fn part(&self, part: Part) -> Option<&Cert> {
        match part {
            Part::Leaf => Some(&self.leaf),
            Part::Issuer(n) => self.issuers.get(n),
            Part::Root => Some(&self.root),
            Part::CrossRoot => Some(&self.cross_root),
            Part::CrossOldRoot => Some(&self.cross_old_root),
            Part::Unrelated => Some(&self.unrelated),
        }
    }

    /// Who issued the certificate that `part` names.
    pub fn issuer_of(&self, part: Part) -> &Cert {
        match part {
            Part::Leaf => self.issuers.first().unwrap_or(&self.root),
            Part::Issuer(n) => self.issuers.get(n.saturating_add(1)).unwrap_or(&self.root),
            Part::Root => &self.root,
            Part::CrossRoot => &self.cross_old_root,
            Part::CrossOldRoot => &self.oldest_root,
            Part::Unrelated => &self.strange_root,
        }
    }

    fn staple(&self, staple: &Staple, now: i64) -> Option<(String, Vec<u8>)> {
        let subject = self.part(staple.about)?;
        let name = match &staple.name {
            StapleName::Fingerprint(hash) => subject.fingerprint(*hash),
            StapleName::Text(text) => text.clone(),
        };
        Some((
            name,
            staple.response.build(subject, self.issuer_of(staple.about), now),
        ))
    }

    /// The key that signs records.
    pub fn key(&self) -> Key {
        self.leaf.spec.key
    }
}
