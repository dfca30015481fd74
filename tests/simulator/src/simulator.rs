//! The running simulator and the handle that tests hold: blocking calls, servers on a thread of their own.

use crate::faults::Fault;
use crate::http::{Handler, serve};
use crate::imds;
use crate::record::Record;
use crate::signer::{Signer, SignerSpec};
use crate::state::{Request, Running, Shared, lock, uuid};
use crate::world::{Hypervisor, Instance, World};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// The caller that [`Handle::push`] puts into a record.
pub const CALLER: &str = "arn:aws:iam::123456789012:user/alice";

/// A make-believe EC2. Ends when dropped. Its methods, by way of [`Handle`], mean the first instance.
pub struct Simulator {
    first: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Removes the state directory when it was ours to choose.
    _temporary: Option<tempfile::TempDir>,
}

/// One instance of a running simulator.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
    number: usize,
    api: SocketAddr,
}

impl Simulator {
    /// Starts with its state in a temporary directory.
    ///
    /// # Errors
    /// When an address cannot be had or the directory cannot be written.
    pub fn start(world: World) -> io::Result<Self> {
        let directory = tempfile::Builder::new().prefix("eic-simulator-").tempdir()?;
        let mut simulator = Self::start_in(world, directory.path())?;
        simulator._temporary = Some(directory);
        Ok(simulator)
    }

    /// Starts with its state in `directory`, which is made if need be and stays.
    ///
    /// # Errors
    /// When an address cannot be had or the directory cannot be written.
    pub fn start_in(world: World, directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let directory = std::fs::canonicalize(directory)?;
        let api = listen(world.api)?;
        let api_address = api.local_addr()?;
        let places: Vec<Vec<SocketAddr>> = world.instances.iter().map(|i| i.listen.clone()).collect();
        let shared = Arc::new(Shared::new(world, directory));

        let mut servers: Vec<(TcpListener, Handler)> = Vec::new();
        for (number, addresses) in places.into_iter().enumerate() {
            for address in addresses {
                let listener = listen(address)?;
                if let Some(instance) = shared.instances.get(number) {
                    lock(instance).addresses.push(listener.local_addr()?);
                }
                let shared = Arc::clone(&shared);
                servers.push((
                    listener,
                    Arc::new(move |asked| imds::answer(&shared, number, asked)),
                ));
            }
        }
        let first = Handle {
            shared: Arc::clone(&shared),
            number: 0,
            api: api_address,
        };
        first.write_state()?;
        let for_api = first.clone();
        servers.push((api, Arc::new(move |asked| crate::api::answer(&for_api, asked))));

        let (stop, stopped) = oneshot::channel();
        let keep_alive = Arc::clone(&shared.keep_alive);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("eic-simulator".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    let mut tasks = tokio::task::JoinSet::new();
                    for (listener, handler) in servers {
                        // The listener is set to non-blocking already; failure means no descriptors are left.
                        if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                            tasks.spawn(serve(listener, Arc::clone(&keep_alive), handler));
                        }
                    }
                    let _ = stopped.await;
                });
            })?;

        let first = Handle {
            shared,
            number: 0,
            api: api_address,
        };
        first.write_state()?;
        Ok(Self {
            first,
            stop: Some(stop),
            thread: Some(thread),
            _temporary: None,
        })
    }

    /// The instance with this id.
    pub fn at(&self, id: &str) -> Option<Handle> {
        self.first.shared.find(id).map(|number| Handle {
            number,
            ..self.first.clone()
        })
    }
}

impl Deref for Simulator {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.first
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Handle {
    fn with<T>(&self, act: impl FnOnce(&mut Running) -> T) -> T {
        // `number` came from the list itself
        act(&mut lock(&self.shared.instances[self.number]))
    }

    /// The instance with this number in the world's order.
    pub(crate) fn numbered(&self, number: usize) -> Self {
        Self {
            number,
            ..self.clone()
        }
    }

    /// All instances.
    pub fn all(&self) -> Vec<Self> {
        (0..self.shared.instances.len())
            .map(|number| self.numbered(number))
            .collect()
    }

    // --- what is there ---

    /// The instance's facts as they are now.
    pub fn facts(&self) -> Instance {
        self.with(|i| i.facts.clone())
    }

    /// Changes the instance's facts: what the metadata says from now on. The signer stays.
    pub fn change(&self, change: impl FnOnce(&mut Instance)) {
        self.with(|i| change(&mut i.facts));
    }

    /// The first address of its metadata service.
    pub fn imds_address(&self) -> SocketAddr {
        self.with(|i| i.addresses.first().copied())
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// `http://ADDRESS:PORT` of its metadata service.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.imds_address())
    }

    /// `http://ADDRESS:PORT` of the API: what `AWS_ENDPOINT_URL` takes.
    pub fn api_endpoint(&self) -> String {
        format!("http://{}", self.api)
    }

    /// The signer as it is now.
    pub fn signer(&self) -> Signer {
        self.with(|i| i.signer.clone())
    }

    /// The description of the signer as it is now.
    pub fn signer_spec(&self) -> SignerSpec {
        self.with(|i| i.spec.clone())
    }

    // --- keys ---

    /// Pushes a key as the API would for the default caller; returns the request's id.
    pub fn push(&self, user: &str, key_line: &str) -> String {
        self.push_as(user, key_line, CALLER)
    }

    /// Pushes a key as the API would for `caller`; returns the request's id.
    pub fn push_as(&self, user: &str, key_line: &str, caller: &str) -> String {
        self.push_expiring(user, key_line, caller, None)
    }

    /// As [`Handle::push_as`], with a record that expires so many seconds from now, whatever the key's lifetime.
    pub fn push_expiring(&self, user: &str, key_line: &str, caller: &str, expires: Option<i64>) -> String {
        let id = uuid();
        let lifetime = self.shared.key_lifetime;
        let record = Record::new(&self.facts().id, &bare(key_line))
            .expires(expires.unwrap_or(lifetime))
            .caller(caller)
            .request(&id);
        self.with(|i| i.add(user, &record, lifetime));
        id
    }

    /// Serves any record, signed by the current signer unless it says otherwise, for a key's lifetime.
    pub fn push_record(&self, user: &str, record: &Record) {
        let lifetime = self.shared.key_lifetime;
        self.with(|i| i.add(user, record, lifetime));
    }

    /// The document that the user's path serves now.
    pub fn document(&self, user: &str) -> Option<Vec<u8>> {
        self.with(|i| {
            i.replaced
                .get(&keys_path(user))
                .cloned()
                .or_else(|| i.document(user))
        })
    }

    /// Serves `bytes` as the user's document until [`Handle::restore`].
    pub fn put_document(&self, user: &str, bytes: impl Into<Vec<u8>>) {
        self.with(|i| i.replaced.insert(keys_path(user), bytes.into()));
    }

    /// Replaces text in the user's document: what a liar on the network would do.
    pub fn tamper(&self, user: &str, from: &str, to: &str) {
        let document = self.document(user).unwrap_or_default();
        self.put_document(user, String::from_utf8_lossy(&document).replace(from, to));
    }

    /// Forgets every pushed key, as time would.
    pub fn expire_keys(&self) {
        self.with(|i| i.keys.clear());
    }

    // --- other documents, the signer, faults ---

    /// Serves `bytes` at `path` (such as [`imds::REGION`]) until [`Handle::restore`].
    pub fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        if let Some(path) = imds::normal(path) {
            self.with(|i| i.replaced.insert(path, bytes.into()));
        }
    }

    /// Undoes [`Handle::put`], [`Handle::put_document`] and [`Handle::tamper`].
    pub fn restore(&self) {
        self.with(|i| i.replaced.clear());
    }

    /// Serves another signer from now on; keys pushed earlier keep their signatures.
    pub fn set_signer(&self, spec: SignerSpec) {
        self.with(|i| i.sign_anew(spec));
    }

    /// Changes the signer's description and serves the result from now on.
    pub fn change_signer(&self, change: impl FnOnce(&mut SignerSpec)) {
        let mut spec = self.signer_spec();
        change(&mut spec);
        self.set_signer(spec);
    }

    /// The service takes its next issuing authority and its next key.
    pub fn rotate(&self) {
        self.with(|i| {
            i.turn += 1;
            let spec = i.spec.clone().rotated(i.turn);
            i.sign_anew(spec);
        });
    }

    /// Installs a fault.
    pub fn fault(&self, fault: Fault) {
        self.with(|i| i.faults.install(fault));
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.with(|i| i.faults.clear());
    }

    /// Installs a fault on the API, whose paths are the actions' names, such as `SendSSHPublicKey`.
    pub fn api_fault(&self, fault: Fault) {
        lock(&self.shared.api_faults).install(fault);
    }

    /// Whether metadata connections stay open from the next one on.
    pub fn set_keep_alive(&self, keep: bool) {
        self.shared.keep_alive.store(keep, Ordering::Relaxed);
    }

    // --- what happened ---

    /// The requests to this instance's metadata service so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        let id = self.facts().id;
        lock(&self.shared.log)
            .iter()
            .filter(|r| r.instance == id)
            .cloned()
            .collect()
    }

    /// The requests to all metadata services so far, in order.
    pub fn all_requests(&self) -> Vec<Request> {
        lock(&self.shared.log).clone()
    }

    /// Forgets the requests of all instances.
    pub fn clear_requests(&self) {
        lock(&self.shared.log).clear();
    }

    /// The CloudTrail events so far.
    pub fn trail(&self) -> Vec<serde_json::Value> {
        lock(&self.shared.trail).records()
    }

    // --- files ---

    /// Where the simulator keeps its files.
    pub fn state_dir(&self) -> PathBuf {
        self.shared.state_dir.clone()
    }

    /// The PEM file of the root that the instance must trust.
    pub fn root_pem(&self) -> PathBuf {
        self.directory().join("root.pem")
    }

    /// The tree that stands in for /sys.
    pub fn sysfs(&self) -> PathBuf {
        self.directory().join("sysfs")
    }

    /// A file with [`Handle::config_toml`].
    pub fn config_file(&self) -> PathBuf {
        self.directory().join("config.toml")
    }

    /// The helper's configuration that makes it trust this instance of the simulator.
    pub fn config_toml(&self) -> String {
        let facts = self.facts();
        let quote = |text: &str| serde_json::Value::from(text).to_string();
        let pin = match facts.hypervisor {
            Hypervisor::Nitro => String::new(),
            Hypervisor::Xen => format!("id = {}\n", quote(&facts.id)),
        };
        format!(
            "[instance]\nsysfs = {}\n{pin}\n[imds]\nendpoint = {}\n\n[trust]\nanchors = {}\n",
            quote(&self.sysfs().to_string_lossy()),
            quote(&self.endpoint()),
            quote(&self.root_pem().to_string_lossy()),
        )
    }

    fn directory(&self) -> PathBuf {
        self.shared.state_dir.join(self.facts().id)
    }

    /// Every instance's files.
    fn write_state(&self) -> io::Result<()> {
        for number in 0..self.shared.instances.len() {
            Self {
                number,
                ..self.clone()
            }
            .write_instance()?;
        }
        let principals = serde_json::to_string_pretty(&self.shared.principals)?;
        std::fs::write(self.shared.state_dir.join("principals.json"), principals)
    }

    fn write_instance(&self) -> io::Result<()> {
        let facts = self.facts();
        let (file, text) = match facts.hypervisor {
            Hypervisor::Nitro => (
                "devices/virtual/dmi/id/board_asset_tag",
                format!("{}\n", facts.id),
            ),
            Hypervisor::Xen => (
                "hypervisor/uuid",
                "ec2e1916-9099-7caf-fd21-012345abcdef\n".to_owned(),
            ),
        };
        let file = self.sysfs().join(file);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(file, text)?;
        std::fs::write(self.root_pem(), self.signer().root.pem())?;
        std::fs::write(self.config_file(), self.config_toml())
    }
}

/// `type base64` of a key line: the service drops comment and newline.
pub(crate) fn bare(key_line: &str) -> String {
    key_line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn keys_path(user: &str) -> String {
    format!("latest/meta-data/managed-ssh-keys/active-keys/{user}")
}
