//! What the run-as user sees: the helper's own steps, one by one, in a child that has become that user.
//!
//! A firewall by uid, a file that only root may read, a log socket: root would not notice any of them. The program
//! runs itself again with a hidden option, as that user, and the child says what it saw as JSON.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::unistd::User;
use pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::admin::run_as;
use crate::authorize::{self, Facts, Purpose};
use crate::cage::{self, InForce, Needs};
use crate::claim::Desk;
use crate::config::{Config, Endpoint, Imds};
use crate::imds::Session;
use crate::instance::Host;
use crate::link::keeper::THIS_PROGRAM;
use crate::place::Place;
use crate::reason::{Reason, Refusal};
use crate::sshd::system::run::{run, tool};

/// The longest that the child may take: three conversations, each within the longest deadline that can be
/// configured (10 s), and a margin for a slow machine.
const CHILD_TIME: Duration = Duration::from_secs(40);

/// How long the bare connection may take that tells a firewall from a hop limit.
const CONNECT_TIME: Duration = Duration::from_secs(1);

/// One step: what it found, or why it found nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step<T> {
    /// What it found.
    Held(T),
    /// A refusal.
    Refused(Refused),
}

/// A [`Refusal`] on its way through a pipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The reason's code.
    pub reason: String,
    /// The sentence.
    pub detail: String,
}

impl Refused {
    /// Whether it is for this reason.
    #[must_use]
    pub fn is(&self, reason: Reason) -> bool {
        self.reason == reason.code()
    }
}

impl<T> From<Result<T, Refusal>> for Step<T> {
    fn from(result: Result<T, Refusal>) -> Self {
        match result {
            Ok(value) => Self::Held(value),
            Err(refusal) => Self::Refused(Refused {
                reason: refusal.reason.code().to_owned(),
                detail: refusal.detail.into_owned(),
            }),
        }
    }
}

/// A metadata address that answered, or not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reach {
    /// The address that gave a token.
    pub token: Step<SocketAddr>,
    /// After a time-out: whether a connection alone can be made.
    pub connects: bool,
}

/// Everything the child saw. What could not be asked is `None`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Whether the configuration holds.
    pub config: Step<()>,
    /// Whether a one-time key's connection could be seen and noted; `None` where keys are not for one connection.
    pub one_time: Option<Step<()>>,
    /// The host's own words: Nitro's id, or Xen.
    pub host: Option<Step<String>>,
    /// The metadata, as the configuration has it.
    pub imds: Option<Reach>,
    /// The metadata at its IPv4 address; `None` where the configuration names another address.
    pub ipv4: Option<Reach>,
    /// The same for IPv6.
    pub ipv6: Option<Reach>,
    /// The metadata's `Date`, and the clock when it came, in Unix seconds.
    pub date: Option<(Option<String>, u64)>,
    /// Region, partition, signer's name.
    pub place: Option<Step<String>>,
    /// When the first certificate of the signer's path ends, in Unix seconds.
    pub signer: Option<Step<i64>>,
    /// Which anchors held it.
    pub anchors: Option<String>,
    /// When the first staple ends, in Unix seconds; `None` inside where policy let all be absent.
    pub staples: Option<Step<Option<i64>>>,
    /// Whether a logger takes a connection: which, or why not.
    pub log: Result<String, String>,
    /// What of the helper's cage is in force, entered when all else was asked.
    pub cage: Option<InForce>,
}

/// Asks the child, as `user`, who we are root to become; `None` is whoever we are.
///
/// # Errors
/// When it can't be run or does not answer.
pub fn ask(user: Option<&User>) -> io::Result<Report> {
    let mut child = match user {
        Some(user) => run_as::command(user),
        None => tool(THIS_PROGRAM),
    };
    let output = run(child.args(["doctor", "--probe"]), b"", CHILD_TIME)?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        io::Error::other(format!(
            "it ended with {}: {}",
            output.status,
            output.stderr.trim()
        ))
    })
}

/// The child's work. Afterwards it is in the helper's cage, and can do nothing more than print.
#[must_use]
pub fn serve() -> Report {
    let mut report = look();
    report.cage = Some(cage::enter(&Needs::default()));
    report
}

fn look() -> Report {
    let mut report = Report {
        config: Step::Held(()),
        one_time: None,
        host: None,
        imds: None,
        ipv4: None,
        ipv6: None,
        date: None,
        place: None,
        signer: None,
        anchors: None,
        staples: None,
        log: logger(),
        cage: None,
    };
    let config = match Config::load(None) {
        Ok(config) => config,
        Err(refusal) => {
            report.config = Err(refusal).into();
            return report;
        }
    };
    if config.keys.one_time {
        let desk = authorize::now().and_then(|now| Desk::open(None, &Purpose::Look, now));
        report.one_time = Some(desk.map(|_| ()).into());
    }
    let host = Host::detect(&config.instance.sysfs, config.instance.id.as_ref());
    let words = host.as_ref().map(|host| match host {
        Host::Nitro(id) => format!("Nitro, {id} by the firmware"),
        Host::Xen(Some(id)) => format!("Xen, {id} by the configuration"),
        Host::Xen(None) => "Xen, whose instance id comes from the metadata".to_owned(),
    });
    report.host = Some(words.map_err(Clone::clone).into());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    match (host, runtime) {
        (Ok(host), Ok(runtime)) => runtime.block_on(converse(&config, &host, &mut report)),
        (Ok(_), Err(error)) => {
            let refusal = Refusal::new(Reason::Internal, format!("no runtime: {error}"));
            report.imds = Some(Reach {
                token: Err(refusal).into(),
                connects: false,
            });
        }
        (Err(_), _) => {}
    }
    report
}

async fn converse(config: &Config, host: &Host, report: &mut Report) {
    let (reach, session) = reach(&config.imds).await;
    report.imds = Some(reach);
    if !matches!(config.imds.endpoint, Endpoint::At(_)) {
        for (endpoint, at) in [
            (Endpoint::Ipv4, &mut report.ipv4),
            (Endpoint::Ipv6, &mut report.ipv6),
        ] {
            let alone = Imds {
                endpoint,
                ..config.imds.clone()
            };
            *at = Some(self::reach(&alone).await.0);
        }
    }
    // The first session's deadline may have passed over these.
    let Ok(session) = (match session {
        Some(_) => Session::open(&config.imds, deadline(&config.imds)).await,
        None => return,
    }) else {
        return;
    };
    let now = authorize::now();
    if let Ok(now) = &now {
        report.date = Some((session.date(), now.as_secs()));
    }
    match (session.signer_documents(host.known_id().is_none()).await, now) {
        (Ok(documents), Ok(now)) => {
            let place = Place::new(
                &documents.region,
                &documents.domain,
                config.instance.partition,
                &config.trust.extra_domains,
            );
            report.place = Some(
                place
                    .map(|place| format!("partition {}, signer {}", place.partition(), place.signer_name()))
                    .into(),
            );
            judge_signer(config, &session, &documents, now, report).await;
        }
        (Err(refusal), _) | (_, Err(refusal)) => report.place = Some(Err(refusal).into()),
    }
}

async fn judge_signer(
    config: &Config,
    session: &Session,
    documents: &crate::imds::SignerDocuments,
    now: UnixTime,
    report: &mut Report,
) {
    if !matches!(report.place, Some(Step::Held(_))) {
        return;
    }
    let mut facts = Facts::default();
    match authorize::signer_path(documents, config, now, &mut facts) {
        Err(refusal) => report.signer = Some(Err(refusal).into()),
        Ok(path) => {
            report.signer = Some(Step::Held(path.not_after()));
            report.anchors = facts.anchors;
            let staples = authorize::fetch_staples(session, documents).await;
            let signer = authorize::revocation(&path, &staples.arrived, config, now)
                .map_err(|refusal| authorize::true_reason(refusal, staples.lost));
            report.staples = Some(signer.map(|signer| signer.next_update()).into());
        }
    }
}

fn deadline(imds: &Imds) -> Instant {
    let now = Instant::now();
    now.checked_add(imds.total_timeout).unwrap_or(now)
}

/// Asks for a token, and after a time-out whether a connection can be made.
async fn reach(imds: &Imds) -> (Reach, Option<Session>) {
    match Session::open(imds, deadline(imds)).await {
        Ok(session) => {
            let reach = Reach {
                token: Step::Held(session.address()),
                connects: true,
            };
            (reach, Some(session))
        }
        Err(refusal) => {
            let connects = refusal.reason == Reason::ImdsTimeout
                && Session::addresses(&imds.endpoint)
                    .iter()
                    .any(|address| TcpStream::connect_timeout(address, CONNECT_TIME).is_ok());
            let reach = Reach {
                token: Err(refusal).into(),
                connects,
            };
            (reach, None)
        }
    }
}

/// Whether a logger takes what [`crate::audit`] would send: the same sockets in the same order.
fn logger() -> Result<String, String> {
    let socket = UnixDatagram::unbound().map_err(|error| error.to_string())?;
    let mut complaint = String::new();
    for path in crate::audit::SOCKETS {
        match socket.connect(path) {
            Ok(()) => return Ok(path.to_owned()),
            Err(error) => complaint = format!("{path}: {error}"),
        }
    }
    Err(complaint)
}
