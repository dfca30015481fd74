//! The decision, from sshd's question to the keys: the one place that calls across the rooms.
//!
//! ```text
//! Request ─▶ Host ─▶ Session ─▶ active keys ─▶ signer, place, staples ─▶ TrustedSigner ─▶ AuthorizedKeys
//! ```
//!
//! Beside it run the links, other commands whose lines are passed on behind our keys.
//!
//! Nothing on the right can be made without what stands on its left. It reads the clock once and owns the
//! deadline; it parses nothing and knows no cryptography.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use pki_types::UnixTime;
use tokio::time::Instant;

use crate::access::Ruling;
use crate::access::policy::Policy;
use crate::audit::Log;
use crate::cage::{self, InForce};
use crate::claim::{self, Desk};
use crate::config::Config;
use crate::imds::{Session, SignerDocuments, StapleName, Staples, limits};
use crate::instance::{Host, InstanceId};
use crate::keys::{self, AuthorizedKey, Question};
use crate::link::run::{Links, Outcome};
use crate::place::Place;
use crate::reason::{Reason, Refusal};
use crate::request::{Fingerprint, Request, Words};
use crate::trust::anchors::{self, AnchorSet};
use crate::trust::{self, Chain, TrustedSigner, VerifiedChain};

/// What a decision is made for.
pub enum Purpose<'a> {
    /// sshd waits for it: what only a login may do is done. The log is opened before the cage is entered.
    Login(&'a mut Log),
    /// Somebody wants to know what it would be: nothing is spent, run or given up by it.
    Look,
}

/// What was decided, and why.
#[derive(Debug)]
#[must_use]
pub struct Decision {
    /// The keys that sshd may use.
    pub keys: Vec<AuthorizedKey>,
    /// What was refused: one for the whole login, or one for each reason that records were dropped for, with
    /// the number of those records.
    pub refusals: Vec<(Refusal, usize)>,
    /// What came of each link, in their order; empty where none was asked.
    pub links: Vec<Outcome>,
    /// What the decision rested on.
    pub facts: Facts,
}

/// What the decision rested on, as far as it came. For the log and for people; nothing is decided by it.
#[derive(Debug, Default)]
pub struct Facts {
    /// What the host says of itself.
    pub host: Option<Host>,
    /// Where the metadata service answered.
    pub address: Option<SocketAddr>,
    /// The metadata's clock, as its `Date` header gave it just before ours was read.
    pub date: Option<String>,
    /// Our clock, as the decision read it.
    pub now: Option<UnixTime>,
    /// The instance that we are.
    pub instance: Option<InstanceId>,
    /// Where it is.
    pub place: Option<Place>,
    /// Which anchors held.
    pub anchors: Option<String>,
    /// Until when the signer is proven, once it is.
    pub signer: Option<Until>,
    /// Whether there was a key document for the user.
    pub key_document: bool,
    /// What the access rules said of each key that was proven, in the order of the document.
    pub rulings: Vec<Ruling>,
    /// What was judged, once all of it had arrived.
    pub evidence: Option<Evidence>,
    /// Why a staple could not be fetched, where that was so.
    pub lost_staple: Option<Refusal>,
    /// The cage that the proof was made in; `None` where none was entered.
    pub cage: Option<InForce>,
    /// Requests sent to the metadata service.
    pub requests: u32,
    /// How long it took.
    pub elapsed: Duration,
}

/// Until when a signer's proof can hold, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    /// When the first certificate of the path ends.
    pub not_after: i64,
    /// When the first staple ends; `None` where policy let all be absent.
    pub next_update: Option<i64>,
}

impl Until {
    fn of(signer: &TrustedSigner) -> Self {
        Self {
            not_after: signer.not_after(),
            next_update: signer.next_update(),
        }
    }
}

impl Decision {
    /// A login that was refused before anything was asked.
    pub fn refused(refusal: Refusal) -> Self {
        Self {
            keys: Vec::new(),
            refusals: vec![(refusal, 1)],
            links: Vec::new(),
            facts: Facts::default(),
        }
    }
}

/// Decides which keys may be used in the login that sshd's `words` describe, and asks the links. Whatever becomes of
/// our own keys, the links' lines are passed on; whatever becomes of a link, our own keys are given.
pub fn authorize(words: &Words, config: &Config, log: &mut Log) -> Decision {
    let mut links = Links::start(config, words);
    let mut decision = match words.request() {
        Ok(request) => decision(examine(Some(&request), Purpose::Login(log), config, &mut links)),
        Err(refusal) => Decision::refused(refusal),
    };
    links.start_waiting();
    decision.links = links.collect(!decision.keys.is_empty());
    decision
}

fn decision(Examination { verdicts, facts }: Examination) -> Decision {
    match verdicts {
        Err(refusal) => Decision {
            facts,
            ..Decision::refused(refusal)
        },
        Ok(verdicts) => {
            let mut decision = Decision {
                keys: Vec::new(),
                refusals: Vec::new(),
                links: Vec::new(),
                facts,
            };
            for verdict in verdicts {
                match verdict {
                    Ok(key) => decision.keys.push(key),
                    Err(refusal) => count(&mut decision.refusals, refusal),
                }
            }
            decision
        }
    }
}

/// A decision before its verdicts are counted.
#[derive(Debug)]
#[must_use]
pub struct Examination {
    /// The verdict on each record, or what refuses them all.
    pub verdicts: Result<Verdicts, Refusal>,
    /// What they rested on.
    pub facts: Facts,
}

/// Comes to the verdicts of one login; without a request, of a login whose user has no key: metadata, signer and
/// staples are proven as for every other, and there is no record to judge. The links that wait for word on our keys
/// are started as soon as there is such word.
pub fn examine(
    asked: Option<&Request>,
    purpose: Purpose<'_>,
    config: &Config,
    links: &mut Links<'_>,
) -> Examination {
    let begun = std::time::Instant::now();
    let mut facts = Facts::default();
    let verdicts = decide(asked, purpose, config, links, &mut facts);
    facts.elapsed = begun.elapsed();
    Examination { verdicts, facts }
}

/// One refusal for each reason, the first one's words standing for all; but each caller whom the rules refuse is named.
fn count(refusals: &mut Vec<(Refusal, usize)>, refusal: Refusal) {
    let is_same = |known: &Refusal| {
        known.reason == refusal.reason && (known.reason != Reason::Policy || *known == refusal)
    };
    match refusals.iter_mut().find(|(known, _)| is_same(known)) {
        Some((_, count)) => *count = count.saturating_add(1),
        None => refusals.push((refusal, 1)),
    }
}

/// The verdict on each record, in the order of the document. A login with one-time keys leaves out those that hold and
/// are left for other connections.
pub type Verdicts = Vec<Result<AuthorizedKey, Refusal>>;

/// All that must be asked is asked first; what came back is parsed and proven after that, for a login in a cage.
fn decide(
    asked: Option<&Request>,
    purpose: Purpose<'_>,
    config: &Config,
    links: &mut Links<'_>,
    facts: &mut Facts,
) -> Result<Verdicts, Refusal> {
    if let Some(request) = asked {
        config.guards.check(request.user.as_str())?;
    }
    let host = Host::detect(&config.instance.sysfs, config.instance.id.as_ref())?;
    facts.host = Some(host.clone());
    // Who looks wants the whole verdict, also on keys that sshd would not ask about.
    let wanted = asked
        .and_then(|request| request.fingerprint)
        .filter(|_| matches!(purpose, Purpose::Login(_)));
    let evidence = converse(asked, wanted, config, &host, links, facts);
    links.start_waiting();
    let evidence = evidence?;
    let now = now()?;
    let policy = asked.map(|request| Policy::look_up(request, config));
    // Looked for before the proof, and whatever is amiss with it: a key that is refused for its own sake needs none.
    let desk = config.keys.one_time.then(|| Desk::open(asked, &purpose, now));
    if let Purpose::Login(log) = purpose {
        log.open();
        facts.cage = Some(cage::enter(&cage::Needs {
            read: &anchors::files(&config.trust.anchors),
            claims: desk
                .as_ref()
                .and_then(|desk| desk.as_ref().ok())
                .map(Desk::directory),
            children: links.are_running(),
        }));
    }
    let verdicts = prove(asked, &evidence, &host, config, now, facts);
    facts.evidence = Some(evidence);
    let verdicts = verdicts?;
    let verdicts = match policy {
        Some(policy) => policy.admit(verdicts, &mut facts.rulings),
        None => verdicts,
    };
    Ok(match desk {
        Some(desk) => claim::settle(desk, verdicts, self::now),
        None => verdicts,
    })
}

/// The verdicts on evidence that has arrived, for the instance that we are.
fn prove(
    asked: Option<&Request>,
    evidence: &Evidence,
    host: &Host,
    config: &Config,
    now: UnixTime,
    facts: &mut Facts,
) -> Result<Verdicts, Refusal> {
    let instance = instance(host, &evidence.documents)?;
    facts.instance = Some(instance.clone());
    let question = Question {
        instance: &instance,
        fingerprint: asked.and_then(|request| request.fingerprint),
        now,
    };
    judge(evidence, question, config, facts).map_err(|refusal| true_reason(refusal, facts.lost_staple.take()))
}

/// A staple that is missing because it could not be fetched: what failed is what must be mended, and who read
/// `staple-missing` might switch revocation off instead.
pub fn true_reason(refusal: Refusal, lost: Option<Refusal>) -> Refusal {
    match lost {
        Some(lost) if refusal.reason == Reason::StapleMissing => lost,
        _ => refusal,
    }
}

/// The whole conversation with the metadata service, within its deadline.
fn converse(
    asked: Option<&Request>,
    wanted: Option<Fingerprint>,
    config: &Config,
    host: &Host,
    links: &mut Links<'_>,
    facts: &mut Facts,
) -> Result<Evidence, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Refusal::new(Reason::Internal, format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let deadline = Instant::now()
            .checked_add(config.imds.total_timeout)
            .unwrap_or_else(Instant::now);
        let mut evidence = std::pin::pin!(gather(asked, wanted, config, host, deadline, facts));
        if let Some(latest) = links.latest_start() {
            // A metadata service that does not answer must not take the links' time.
            match tokio::time::timeout_at(latest.into(), &mut evidence).await {
                Ok(evidence) => return evidence,
                Err(_) => links.start_waiting(),
            }
        }
        let evidence = tokio::time::timeout_at(deadline, evidence);
        evidence.await.unwrap_or_else(|_| {
            let detail = format!("no decision within {} ms", config.imds.total_timeout.as_millis());
            Err(Refusal::new(Reason::Deadline, detail))
        })
    })
}

/// Asks for everything that the proof can need. Without a key document, or with one that has only other keys than
/// `wanted`, nothing more is asked.
async fn gather(
    asked: Option<&Request>,
    wanted: Option<Fingerprint>,
    config: &Config,
    host: &Host,
    deadline: Instant,
    facts: &mut Facts,
) -> Result<Evidence, Refusal> {
    let session = Session::open(&config.imds, deadline).await?;
    facts.address = Some(session.address());
    let active_keys = match asked {
        Some(request) => {
            let document = session.active_keys(&request.user).await;
            facts.requests = session.requests();
            let Some(document) = document? else {
                return Err(Refusal::new(Reason::NoKey, "no key is active for this user"));
            };
            facts.key_document = true;
            if let Some(wanted) = wanted.filter(|wanted| keys::holds_only_others(&document, *wanted)) {
                let detail = format!("no record's key is {wanted}, which sshd asks about");
                return Err(Refusal::new(Reason::Fingerprint, detail));
            }
            document
        }
        None => Vec::new(),
    };
    let documents = session.signer_documents(host.known_id().is_none()).await;
    facts.requests = session.requests();
    facts.date = session.date();
    let documents = documents?;
    let staples = fetch_staples(&session, &documents).await;
    facts.requests = session.requests();
    facts.lost_staple = staples.lost;
    Ok(Evidence {
        active_keys,
        documents,
        staples: staples.arrived,
    })
}

/// The staples, all at once. Where there are more than the limit allows, those that bear the name of a certificate of the
/// chain go first. A name is only a hint. Nothing is proven here, and nothing is parsed but PEM.
pub async fn fetch_staples(session: &Session, documents: &SignerDocuments) -> Staples {
    let mut names = documents.staple_names.clone();
    names.sort_unstable();
    names.dedup();
    if names.len() > limits::MAX_STAPLES {
        let expected = trust::staple_names(&documents.signer_cert);
        let is_expected = |name: &StapleName| {
            expected
                .iter()
                .any(|hash| hash.eq_ignore_ascii_case(name.as_str()))
        };
        let (likely, others): (Vec<_>, Vec<_>) = names.into_iter().partition(is_expected);
        names = likely
            .into_iter()
            .chain(others)
            .take(limits::MAX_STAPLES)
            .collect();
    }
    session.staples(names).await
}

/// All that the metadata said in one login: what [`judge`] judges again, at any time and on any machine.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The records pushed for the user.
    pub active_keys: Vec<u8>,
    /// Region, DNS suffix, the signer's chain.
    pub documents: SignerDocuments,
    /// The staples, in base64.
    pub staples: Vec<(StapleName, Vec<u8>)>,
}

/// Judges evidence as a login would, without a network: the same proof, for `question.now`.
///
/// # Errors
/// What refuses all records alike; the verdict on each one is in the list.
pub fn judge(
    evidence: &Evidence,
    question: Question<'_>,
    config: &Config,
    facts: &mut Facts,
) -> Result<Verdicts, Refusal> {
    facts.now = Some(question.now);
    let path = signer_path(&evidence.documents, config, question.now, facts)?;
    let signer = revocation(&path, &evidence.staples, config, question.now)?;
    facts.signer = Some(Until::of(&signer));
    Ok(keys::judge(&evidence.active_keys, question, &signer))
}

/// The signer's chain, verified for the place that the metadata names. `doctor` asks this apart from the staples.
///
/// # Errors
/// The place's reasons, or one of the `signer-…` reasons and `anchors`.
pub fn signer_path(
    documents: &SignerDocuments,
    config: &Config,
    now: UnixTime,
    facts: &mut Facts,
) -> Result<VerifiedChain, Refusal> {
    let extra = &config.trust.extra_domains;
    let place = Place::new(
        &documents.region,
        &documents.domain,
        config.instance.partition,
        extra,
    )?;
    let place = facts.place.insert(place);
    let chain = Chain::from_pem(&documents.signer_cert)?;
    let (verified, source) = reach_anchor(&chain, place, config, now)?;
    facts.anchors = Some(source);
    Ok(verified)
}

/// The clock, read once for the whole decision.
///
/// # Errors
/// [`Reason::Internal`] before 1970.
pub fn now() -> Result<UnixTime, Refusal> {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map(UnixTime::since_unix_epoch)
        .map_err(|_| Refusal::new(Reason::Internal, "the clock is before 1970"))
}

/// The instance's id: the host's or the configuration's word, and only where neither knows, the metadata's.
fn instance(host: &Host, documents: &SignerDocuments) -> Result<InstanceId, Refusal> {
    if let Some(id) = host.known_id() {
        return Ok(id.clone());
    }
    let id = documents.instance_id.as_deref().unwrap_or_default();
    InstanceId::new(id).ok_or_else(|| {
        Refusal::new(
            Reason::InstanceId,
            format!("the metadata's instance id is `{id}`"),
        )
    })
}

/// The chain, verified to the first source of anchors that holds; that source's name beside it.
fn reach_anchor(
    chain: &Chain,
    place: &Place,
    config: &Config,
    now: UnixTime,
) -> Result<(VerifiedChain, String), Refusal> {
    let mut first = None;
    for source in anchors::sources(&config.trust.anchors, place.partition()) {
        let attempt = AnchorSet::load(source, config.owner, chain)
            .and_then(|anchors| chain.verify(&anchors, &place.signer_name(), now));
        match attempt {
            Ok(verified) => return Ok((verified, source.to_string())),
            // Another store can help where no path was found; nothing helps a wrong name or an expired signer.
            Err(refusal) if refusal.reason == Reason::SignerChain => {
                first.get_or_insert(refusal);
            }
            Err(refusal) => return Err(first.unwrap_or(refusal)),
        }
    }
    Err(first.unwrap_or_else(|| Refusal::new(Reason::Anchors, "no trust anchors are configured")))
}

/// The signer, once no certificate of its path is revoked. `doctor` asks this apart from the path.
///
/// # Errors
/// One of the `staple-…` reasons.
pub fn revocation(
    chain: &VerifiedChain,
    staples: &[(StapleName, Vec<u8>)],
    config: &Config,
    now: UnixTime,
) -> Result<TrustedSigner, Refusal> {
    TrustedSigner::prove(
        chain,
        staples.iter().map(|(_, base64)| base64.as_slice()),
        config.trust.ocsp,
        now,
    )
}
