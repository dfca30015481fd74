//! What changes while the simulator runs: live keys, tokens, faults, the signer, the request log.

use crate::clock;
use crate::faults::Faults;
use crate::principals::Principals;
use crate::record::Record;
use crate::signer::{Signer, SignerSpec};
use crate::world::{Instance, World};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// One request that a metadata service answered, or refused to.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Request {
    /// The instance asked.
    pub instance: String,
    /// `GET`, `PUT`, …
    pub method: String,
    /// Path as sent.
    pub path: String,
    /// Status of the honest answer; an installed fault may have changed it on the way.
    pub status: u16,
    /// Number of the connection.
    pub connection: u64,
    /// Whether a fault struck.
    pub fault: bool,
    /// When it came.
    pub time: SystemTime,
}

/// A pushed key while it lives.
pub(crate) struct LiveKey {
    pub(crate) user: String,
    pub(crate) record: Vec<u8>,
    pub(crate) until: Instant,
}

pub(crate) struct Running {
    pub(crate) facts: Instance,
    pub(crate) spec: SignerSpec,
    pub(crate) signer: Signer,
    pub(crate) turn: usize,
    pub(crate) keys: Vec<LiveKey>,
    /// Bodies put in place of what the paths would say.
    pub(crate) replaced: BTreeMap<String, Vec<u8>>,
    pub(crate) faults: Faults,
    /// Tokens and when they end.
    pub(crate) tokens: HashMap<String, Instant>,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Running {
    fn new(facts: Instance) -> Self {
        let spec = facts.signer_spec();
        let signer = spec.build(clock::now());
        Self {
            facts,
            spec,
            signer,
            turn: 0,
            keys: Vec::new(),
            replaced: BTreeMap::new(),
            faults: Faults::default(),
            tokens: HashMap::new(),
            addresses: Vec::new(),
        }
    }

    /// The document of a user's live keys; `None` when there is none.
    pub(crate) fn document(&mut self, user: &str) -> Option<Vec<u8>> {
        let now = Instant::now();
        self.keys.retain(|key| key.until > now);
        let records: Vec<&LiveKey> = self.keys.iter().filter(|key| key.user == user).collect();
        if records.is_empty() {
            return None;
        }
        Some(
            records
                .iter()
                .flat_map(|key| [key.record.as_slice(), b"\n"].concat())
                .collect(),
        )
    }

    pub(crate) fn users(&mut self) -> Vec<String> {
        let now = Instant::now();
        self.keys.retain(|key| key.until > now);
        let mut users: Vec<String> = self.keys.iter().map(|key| key.user.clone()).collect();
        users.sort();
        users.dedup();
        users
    }

    /// Signs `record` with the signer's key and lets it live for `lifetime` seconds.
    pub(crate) fn add(&mut self, user: &str, record: &Record, lifetime: i64) {
        let rendered = record.render(self.signer.key(), clock::now());
        self.add_bytes(user, rendered, lifetime);
    }

    pub(crate) fn add_bytes(&mut self, user: &str, record: Vec<u8>, lifetime: i64) {
        let until = Instant::now() + Duration::from_secs(lifetime.max(0).unsigned_abs());
        self.keys.push(LiveKey {
            user: user.to_owned(),
            record,
            until,
        });
    }

    pub(crate) fn sign_anew(&mut self, spec: SignerSpec) {
        self.signer = spec.build(clock::now());
        self.spec = spec;
    }
}

/// Everything that the servers and the owner share.
pub(crate) struct Shared {
    pub(crate) instances: Vec<Mutex<Running>>,
    pub(crate) principals: Principals,
    pub(crate) key_lifetime: i64,
    pub(crate) keep_alive: Arc<AtomicBool>,
    pub(crate) log: Mutex<Vec<Request>>,
    pub(crate) state_dir: PathBuf,
    pub(crate) trail: Mutex<crate::trail::Trail>,
    pub(crate) api_faults: Mutex<Faults>,
}

impl Shared {
    pub(crate) fn new(world: World, state_dir: PathBuf) -> Self {
        let trail = crate::trail::Trail::at(state_dir.join("cloudtrail.json"));
        Self {
            instances: world
                .instances
                .into_iter()
                .map(|facts| Mutex::new(Running::new(facts)))
                .collect(),
            principals: world.principals,
            key_lifetime: world.key_lifetime,
            keep_alive: Arc::new(AtomicBool::new(world.keep_alive)),
            log: Mutex::default(),
            state_dir,
            trail: Mutex::new(trail),
            api_faults: Mutex::default(),
        }
    }

    /// The number of the instance with this id.
    pub(crate) fn find(&self, id: &str) -> Option<usize> {
        self.instances
            .iter()
            .position(|instance| lock(instance).facts.id == id)
    }
}

/// A panic in one test thread must not take the others' simulator along.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random version 4 UUID (RFC 9562).
pub(crate) fn uuid() -> String {
    let mut b = random::<16>();
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|b| format!("{b:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    use rand_core::RngCore;
    let mut bytes = [0; N];
    rand_core::OsRng.fill_bytes(&mut bytes);
    bytes
}
