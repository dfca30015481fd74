//! The metadata service as a liar: at each of its documents in each way, and from each request on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eic_simulator::faults::{Effect, Fault};
use eic_simulator::{Simulator, World, imds};

use crate::common::case::INSTANCE;
use crate::common::machine::in_namespaces;
use crate::ground::{Ground, USER, configuration, each, nitro, simulator};

/// The documents of one login, in the order in which it can need them.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Document {
    Token,
    Keys,
    Region,
    /// Asked for where there is no [`Document::Region`].
    Identity,
    Domain,
    Certificate,
    StapleList,
    LeafStaple,
    IssuerStaple,
    /// Of a certificate that is served and not needed.
    OtherStaple,
    /// Asked for on Xen alone, where nothing on the host names the instance.
    InstanceId,
}

impl Document {
    const ALL: [Self; 11] = [
        Self::Token,
        Self::Keys,
        Self::Region,
        Self::Identity,
        Self::Domain,
        Self::Certificate,
        Self::StapleList,
        Self::LeafStaple,
        Self::IssuerStaple,
        Self::OtherStaple,
        Self::InstanceId,
    ];

    /// The path, as the helper asks for it.
    fn path(self, simulator: &Simulator) -> String {
        let staple = |number: usize| format!("{}{}", imds::SIGNER_OCSP, simulator.signer().staples[number].0);
        match self {
            Self::Token => imds::TOKEN.to_owned(),
            Self::Keys => format!("{}{USER}/", imds::ACTIVE_KEYS),
            Self::Region => imds::REGION.to_owned(),
            Self::Identity => imds::IDENTITY.to_owned(),
            Self::Domain => imds::DOMAIN.to_owned(),
            Self::Certificate => imds::SIGNER_CERT.to_owned(),
            Self::StapleList => imds::SIGNER_OCSP.to_owned(),
            Self::LeafStaple => staple(0),
            Self::IssuerStaple => staple(1),
            Self::OtherStaple => staple(2),
            Self::InstanceId => imds::INSTANCE_ID.to_owned(),
        }
    }

    /// An instance that asks for it.
    fn world(self) -> Simulator {
        let simulator = match self {
            Self::InstanceId => simulator(World::xen(INSTANCE)),
            _ => nitro(),
        };
        if self == Self::Identity {
            simulator.fault(Fault::on(imds::REGION, Effect::Status(404)));
        }
        simulator
    }
}

/// The ways to fail at any document.
fn failures() -> Vec<(Effect, &'static str)> {
    vec![
        (Effect::Reset, "imds-unreachable"),
        (Effect::Close, "imds-unreachable"),
        (Effect::Truncate(3), "imds-unreachable"),
        (Effect::Stall, "imds-timeout"),
        (
            Effect::Drip {
                bytes: 1,
                every_ms: 400,
            },
            "imds-timeout",
        ),
        (Effect::Endless, "imds-too-large"),
        (Effect::HugeHeader(1_000_000), "imds-too-large"),
        (Effect::Bytes(vec![b'x'; 2_000_000]), "imds-too-large"),
        (Effect::Status(400), "imds-status"),
        (Effect::Status(401), "imds-status"),
        (Effect::Status(403), "imds-forbidden"),
        (Effect::Status(404), "imds-absent"),
        (Effect::Status(429), "imds-throttled"),
        (Effect::Status(500), "imds-status"),
        (Effect::Status(503), "imds-throttled"),
        (
            Effect::Redirect("http://169.254.169.254/elsewhere".to_owned()),
            "imds-status",
        ),
    ]
}

/// What a failure is called at this document, where it is not what it is called at all others.
fn refusal_of(document: Document, effect: &Effect, usual: &'static str) -> Verdict {
    match (document, effect) {
        (Document::Token, Effect::Status(404)) => Verdict::Refused("imds-status"),
        (Document::Keys, Effect::Status(404)) => Verdict::Refused("no-key"),
        // The identity document has it too.
        (Document::Region, Effect::Status(404)) => Verdict::Given,
        (Document::StapleList, Effect::Status(404)) => Verdict::Refused("staple-missing"),
        (Document::OtherStaple, _) => Verdict::Given,
        (Document::LeafStaple | Document::IssuerStaple, Effect::Status(404)) => {
            Verdict::Refused("staple-missing")
        }
        _ => Verdict::Refused(usual),
    }
}

#[derive(Debug, Clone, Copy)]
enum Verdict {
    Given,
    Refused(&'static str),
}

struct Case {
    document: Document,
    lie: Effect,
    verdict: Verdict,
}

impl Case {
    fn holds(&self, ground: &Ground) -> Result<(), String> {
        let Self {
            document,
            lie,
            verdict,
        } = self;
        let simulator = document.world();
        let config = configuration(&simulator);
        if *document == Document::InstanceId {
            let unpinned = std::fs::read_to_string(&config)
                .unwrap()
                .replace("\nid = ", "\n# id = ");
            std::fs::write(&config, unpinned).unwrap();
        }
        let login = || ground.run(ground.command(&config));
        let name = |what: &str, outcome: Result<(), String>| {
            outcome.map_err(|error| {
                format!(
                    "{document:?} {lie:.80?} {what}: {error}",
                    lie = format!("{lie:?}")
                )
            })
        };
        name("beforehand", login().key())?;
        simulator.fault(Fault::on(&document.path(&simulator), lie.clone()));
        let outcome = login();
        name(
            "struck",
            match verdict {
                Verdict::Given => outcome.key(),
                Verdict::Refused(reason) => outcome.refusal(&[reason]),
            },
        )
    }
}

#[test]
fn failure_at_any_document_is_refused_for_what_it_is() {
    in_namespaces("lies::failure_at_any_document_is_refused_for_what_it_is", || {
        let ground = Ground::new();
        let mut cases = Vec::new();
        for document in Document::ALL {
            cases.extend(failures().into_iter().map(|(lie, usual)| Case {
                document,
                verdict: refusal_of(document, &lie, usual),
                lie,
            }));
        }
        each(&cases, |case| case.holds(&ground));
    });
}

#[test]
fn false_document_is_refused_for_what_is_false() {
    in_namespaces("lies::false_document_is_refused_for_what_is_false", || {
        let ground = Ground::new();
        let strange = simulator(World::nitro("i-0fedcba9876543210").region("eu-west-1"));
        let (empty, words, noise) = (
            || Effect::Bytes(Vec::new()),
            || Effect::Body("two words".to_owned()),
            || Effect::Bytes(vec![0xff, 0x00, 0xfe]),
        );
        let mut cases = Vec::new();
        for (document, lie, reason) in [
            (Document::Token, empty(), "imds-malformed"),
            (Document::Token, words(), "imds-malformed"),
            (Document::Token, noise(), "imds-malformed"),
            (Document::Keys, empty(), "no-key"),
            (Document::Keys, words(), "record-malformed"),
            (Document::Keys, noise(), "record-malformed"),
            (
                Document::Keys,
                Effect::Bytes(strange.document(USER).unwrap()),
                "record-instance",
            ),
            (Document::Region, empty(), "imds-malformed"),
            (Document::Region, words(), "imds-malformed"),
            (Document::Region, noise(), "imds-malformed"),
            (
                Document::Region,
                Effect::Body("eu-west-1".to_owned()),
                "signer-name",
            ),
            (Document::Identity, empty(), "imds-malformed"),
            (Document::Identity, words(), "imds-malformed"),
            (Document::Identity, noise(), "imds-malformed"),
            (
                Document::Identity,
                Effect::Body(r#"{"region":"eu-west-1"}"#.to_owned()),
                "signer-name",
            ),
            (Document::Domain, empty(), "partition"),
            (Document::Domain, words(), "partition"),
            (Document::Domain, noise(), "imds-malformed"),
            (
                Document::Domain,
                Effect::Body("amazonaws.com.cn".to_owned()),
                "partition",
            ),
            (Document::Certificate, empty(), "signer-malformed"),
            (Document::Certificate, words(), "signer-malformed"),
            (Document::Certificate, noise(), "signer-malformed"),
            (
                Document::Certificate,
                Effect::Body(strange.signer().chain),
                "signer-name",
            ),
            (Document::StapleList, empty(), "staple-missing"),
            (Document::StapleList, words(), "staple-missing"),
            (Document::StapleList, noise(), "imds-malformed"),
            (Document::InstanceId, empty(), "instance-id"),
            (Document::InstanceId, words(), "instance-id"),
            (Document::InstanceId, noise(), "imds-malformed"),
            (
                Document::InstanceId,
                Effect::Body("i-0fedcba9876543210".to_owned()),
                "record-instance",
            ),
        ] {
            cases.push(Case {
                document,
                lie,
                verdict: Verdict::Refused(reason),
            });
        }
        for document in [Document::LeafStaple, Document::IssuerStaple] {
            for lie in [empty(), words(), noise()] {
                cases.push(Case {
                    document,
                    lie,
                    verdict: Verdict::Refused("staple-malformed"),
                });
            }
            // A true staple, for another certificate.
            let strange = STANDARD.encode(&strange.signer().staples[0].1);
            cases.push(Case {
                document,
                lie: Effect::Body(strange),
                verdict: Verdict::Refused("staple-missing"),
            });
        }
        each(&cases, |case| case.holds(&ground));
    });
}

/// Honest for so many requests, a liar from then on: at every step of the conversation.
#[test]
fn service_that_fails_from_any_request_on_gives_no_key_until_after_the_last() {
    let name = "lies::service_that_fails_from_any_request_on_gives_no_key_until_after_the_last";
    in_namespaces(name, || {
        let ground = Ground::new();
        let quiet = nitro();
        ground.login(&quiet).key().unwrap();
        let requests = u32::try_from(quiet.requests().len()).unwrap();
        let mut cases = Vec::new();
        for step in 0..=requests {
            for (effect, reason) in failures() {
                cases.push((step, effect, reason));
            }
            let noise = Effect::Body("what nobody asked for".to_owned());
            cases.push((step, noise, "imds-malformed"));
        }
        each(&cases, |(step, effect, reason)| {
            let simulator = nitro();
            simulator.fault(Fault::under("/", effect.clone()).skip(*step));
            let run = ground.login(&simulator);
            if *step == requests {
                return run.key();
            }
            // Which document came at that step is chance where several are asked for at once.
            let by_document = [
                "no-key",
                "imds-absent",
                "imds-status",
                "partition",
                "signer-malformed",
                "record-malformed",
            ];
            let reasons: Vec<&str> = [*reason, "staple-missing", "staple-malformed"]
                .into_iter()
                .chain(by_document)
                .collect();
            // The last of the three staples to come may be the one that is not needed.
            let outcome = if *step + 1 == requests {
                run.key_or_refusal(&reasons)
            } else {
                run.refusal(&reasons)
            };
            outcome.map_err(|error| format!("{:.60} from request {step} on: {error}", format!("{effect:?}")))
        });
    });
}
