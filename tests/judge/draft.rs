//! What is put before the judges: a scene, and what a scene alone cannot say.

use eic_simulator::certificate::CertSpec;
use eic_simulator::evidence::{Scene, Touches, VARIATIONS};
use eic_simulator::key::{Key, Scheme};
use eic_simulator::ocsp::{Responder, Response, Single};
use eic_simulator::record::Record;
use eic_simulator::signer::{Part, keys};

/// A case in the making.
#[derive(Clone)]
pub(crate) struct Draft {
    /// Chain, staples and records.
    pub(crate) scene: Scene,
    /// The certificate to trust.
    pub(crate) anchor: Anchor,
    /// What is done to the PEM text of the chain.
    pub(crate) served: Vec<fn(String) -> String>,
    /// What is done to the key document.
    pub(crate) document: Vec<fn(Vec<u8>) -> Vec<u8>>,
    /// The certificate whose staple is judged.
    pub(crate) link: Part,
    /// The fingerprint that sshd gives.
    pub(crate) fingerprint: Option<&'static str>,
}

/// The certificate that is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// The scene's root, self-signed.
    Root,
    /// The root as the older root signed it.
    CrossRoot,
    /// The oldest of the roots that signed one another.
    OldestRoot,
    /// The leaf's issuer.
    Issuer,
    /// Somebody else's root.
    Strange,
}

impl Draft {
    /// What production serves.
    pub(crate) fn usual() -> Self {
        Self {
            scene: Scene::usual(),
            anchor: Anchor::Root,
            served: Vec::new(),
            document: Vec::new(),
            link: Part::Leaf,
            fingerprint: None,
        }
    }

    pub(crate) fn leaf(&mut self) -> &mut CertSpec {
        &mut self.scene.signer.leaf
    }

    pub(crate) fn issuer(&mut self) -> &mut CertSpec {
        &mut self.scene.signer.issuers[0]
    }

    pub(crate) fn root(&mut self) -> &mut CertSpec {
        &mut self.scene.signer.root
    }

    /// The response that is judged.
    pub(crate) fn response(&mut self) -> &mut Response {
        let link = self.link;
        let staples = &mut self.scene.signer.staples;
        &mut staples
            .iter_mut()
            .find(|staple| staple.about == link)
            .unwrap()
            .response
    }

    pub(crate) fn single(&mut self) -> &mut Single {
        let singles = &mut self.response().singles;
        if singles.is_empty() {
            singles.push(Single::good());
        }
        &mut singles[0]
    }

    /// Has a delegate sign the response that is judged, changed by `change`.
    pub(crate) fn delegate(&mut self, change: impl FnOnce(&mut CertSpec)) {
        let mut spec = CertSpec::responder("Make-Believe OCSP Responder", keys::RESPONDER);
        change(&mut spec);
        self.response().responder = Responder::Delegate(Box::new(spec));
    }

    pub(crate) fn record(&mut self) -> &mut Record {
        &mut self.scene.records[0]
    }

    /// Whether every signature that is asked for can be made: two changes may ask a key for what it cannot do.
    pub(crate) fn can_be_made(&self) -> bool {
        let signer = &self.scene.signer;
        let above = |place: usize| signer.issuers.get(place).unwrap_or(&signer.root).key;
        let signed = |spec: &CertSpec, by: Key| fits(spec.signed_with.unwrap_or(by), spec.scheme);
        let chain = signed(&signer.leaf, above(0)) && signed(&signer.root, signer.root.key);
        let issuers = signer.issuers.iter().enumerate();
        let mut issuers = issuers.map(|(place, spec)| signed(spec, above(place + 1)));
        let staples = signer.staples.iter().all(|staple| {
            let issuer = if staple.about == Part::Leaf {
                above(0)
            } else {
                signer.root.key
            };
            let response = &staple.response;
            match &response.responder {
                Responder::Issuer => fits(issuer, response.scheme),
                Responder::Impostor(key) => fits(*key, response.scheme),
                Responder::Delegate(spec) => signed(spec, issuer) && fits(spec.key, response.scheme),
                Responder::SelfSigned(spec) | Responder::SignedBySubject(spec) => {
                    spec.scheme.is_none() && fits(spec.key, response.scheme)
                }
            }
        });
        chain && issuers.all(|fits| fits) && staples
    }

    pub(crate) fn headers(&mut self, change: impl FnOnce(Record) -> Record) {
        self.scene.records[0] = change(self.scene.records[0].clone());
    }
}

/// Whether `key` can sign by `scheme`; every key has a usual one.
fn fits(key: Key, scheme: Option<Scheme>) -> bool {
    let elliptic = matches!(key, Key::P256(_) | Key::P384(_));
    match scheme {
        None => true,
        Some(Scheme::Ecdsa(_)) => elliptic,
        Some(Scheme::RsaPkcs1(_)) => !elliptic,
        // A hash and a salt of 64 bytes each have no room in 128.
        Some(Scheme::RsaPss { salt, .. }) => !elliptic && (key != Key::Rsa1024 || salt < 60),
    }
}

/// A named change.
#[derive(Clone, Copy)]
pub(crate) struct Knob {
    pub(crate) name: &'static str,
    turn: Turn,
}

#[derive(Clone, Copy)]
enum Turn {
    Draft(fn(&mut Draft)),
    Scene(fn(&mut Scene)),
}

impl Knob {
    pub(crate) const fn new(name: &'static str, turn: fn(&mut Draft)) -> Self {
        Self {
            name,
            turn: Turn::Draft(turn),
        }
    }

    pub(crate) fn turn(&self, draft: &mut Draft) {
        match self.turn {
            Turn::Draft(turn) => turn(draft),
            Turn::Scene(turn) => turn(&mut draft.scene),
        }
    }

    /// The simulator's own named variations of these parts.
    pub(crate) fn named(parts: &[Touches]) -> Vec<Self> {
        let of_parts = VARIATIONS
            .iter()
            .filter(|variation| parts.contains(&variation.touches));
        of_parts
            .map(|variation| Self {
                name: variation.name,
                turn: Turn::Scene(variation.apply),
            })
            .collect()
    }
}

/// Sebastiano Vigna's splitmix64: one seed, one series.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap() % limit
    }
}
