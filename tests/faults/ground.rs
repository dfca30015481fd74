//! The ground that every fault happens on: a logger, a user without rights, and the helper in a place of its own.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use eic_simulator::{Simulator, World};

use crate::common::case::{INSTANCE, KEY_LINE};
use crate::common::machine::{own_dev, sh};
use crate::common::run::{HELPER, sshd_environment};

pub(crate) const USER: &str = "ec2-user";

/// Whom the helper runs as: nobody's number, as little as an AuthorizedKeysCommandUser may have.
pub(crate) const UID: u32 = 64_123;

/// What the configuration of these tests allows for one request, and for all: more than the default, so that a busy
/// machine's own slowness is not taken for a fault.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_millis(1500);
pub(crate) const TOTAL_TIMEOUT: Duration = Duration::from_millis(4000);

/// When the helper is late: its deadline, and as much again as a busy machine may need to schedule it. Well below its
/// alarm, which would show in the exit code besides.
const LATE: Duration = Duration::from_secs(12);

/// Whether more than the short form was asked for.
pub(crate) fn long() -> bool {
    std::env::var("EIC_FAULTS").is_ok_and(|form| form == "long")
}

/// Skips `test` loudly where a tool is lacking.
pub(crate) fn tools(test: &str, tools: &[&str]) -> bool {
    for tool in tools {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {tool}")])
            .output()
            .unwrap();
        if !found.status.success() {
            crate::common::skip(test, &format!("needs {tool}: tests/requirements installs it"));
            return false;
        }
    }
    true
}

/// A simulator whose files the helper's user can read, with the usual key pushed for [`USER`].
pub(crate) fn simulator(world: World) -> Simulator {
    let simulator = Simulator::start(world.key_lifetime(3600)).unwrap();
    fs::set_permissions(simulator.state_dir(), fs::Permissions::from_mode(0o755)).unwrap();
    simulator.push(USER, KEY_LINE);
    simulator
}

pub(crate) fn nitro() -> Simulator {
    simulator(World::nitro(INSTANCE))
}

/// The helper's configuration for this simulator.
pub(crate) fn configuration(simulator: &Simulator) -> PathBuf {
    let lines = format!(
        "[imds]\nrequest_timeout_ms = {}\ntotal_timeout_ms = {}",
        REQUEST_TIMEOUT.as_millis(),
        TOTAL_TIMEOUT.as_millis()
    );
    let path = simulator.state_dir().join("faults.toml");
    fs::write(&path, simulator.config_toml().replace("[imds]", &lines)).unwrap();
    path
}

/// See the module. Must be made inside namespaces of the test's own.
pub(crate) struct Ground {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) helper: PathBuf,
    log: Log,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let ground = Self::without_log();
        ground.log.listen();
        ground
    }

    /// With nobody at `/dev/log` yet.
    pub(crate) fn without_log() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        own_dev(directory.path());
        let helper = PathBuf::from("/opt/faults/eic_run_authorized_keys");
        let from = std::env::var("EIC_HELPER").unwrap_or_else(|_| HELPER.to_owned());
        sh(&format!(
            "mount -t tmpfs -o mode=0755 tmpfs /opt; install -D -m 0755 {from} {}; mount -t tmpfs -o mode=0755 tmpfs /run",
            helper.display()
        ));
        Self {
            directory,
            helper,
            log: Log::default(),
        }
    }

    /// The helper for [`USER`] with this configuration, as sshd starts it.
    pub(crate) fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(&self.helper);
        self.dress(&mut command, config);
        command
    }

    /// The same below another program, which is given as its words.
    pub(crate) fn below(&self, words: &[&str], config: &Path) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(&self.helper);
        self.dress(&mut command, config);
        command
    }

    fn dress(&self, command: &mut Command, config: &Path) {
        sshd_environment(command);
        command.arg("--config").arg(config).arg(USER).uid(UID).gid(UID);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, mut command: Command) -> Run {
        let begun = Instant::now();
        let child = command.spawn().expect("the helper starts");
        let pid = child.id();
        // The helper's own alarm ends it, so that this cannot wait for ever.
        let output = child.wait_with_output().unwrap();
        Run {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            code: output.status.code(),
            took: begun.elapsed(),
            lines: self.log.of(pid),
        }
    }

    /// Runs the helper with this simulator's configuration.
    pub(crate) fn login(&self, simulator: &Simulator) -> Run {
        self.run(self.command(&configuration(simulator)))
    }
}

/// What one run left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) stdout: String,
    pub(crate) code: Option<i32>,
    pub(crate) took: Duration,
    /// What it said in the log.
    pub(crate) lines: Vec<String>,
}

impl Run {
    fn reasons(&self) -> Vec<&str> {
        let reason = |line: &'_ str| line.find("reason=").map(|at| at + "reason=".len());
        self.lines
            .iter()
            .filter_map(|line| reason(line).and_then(|at| line[at..].split(' ').next()))
            .collect()
    }

    /// Exit 0 in time with the pushed key and no other, and one line in the log that says so.
    pub(crate) fn key(&self) -> Result<(), String> {
        self.printed_the_key()?;
        match self.lines.as_slice() {
            [line] if line.contains("Providing ssh key from EC2 Instance Connect") => Ok(()),
            _ => Err(format!("not one line that says so: {self:?}")),
        }
    }

    /// The same without a word on the log, which is at fault itself.
    pub(crate) fn printed_the_key(&self) -> Result<(), String> {
        self.in_time()?;
        if self.stdout != format!("{KEY_LINE}\n") {
            return Err(format!("not the key: {self:?}"));
        }
        Ok(())
    }

    /// Exit 0 in time with nothing on standard output, and one line in the log, for one of these reasons. The reason
    /// `no-key` is not logged: it is every ordinary login.
    pub(crate) fn refusal(&self, reasons: &[&str]) -> Result<(), String> {
        self.in_time()?;
        if !self.stdout.is_empty() {
            return Err(format!("something was given: {self:?}"));
        }
        let silent = self.lines.is_empty() && reasons.contains(&"no-key");
        match self.reasons().as_slice() {
            [reason] if self.lines.len() == 1 && reasons.contains(reason) => Ok(()),
            _ if silent => Ok(()),
            _ => Err(format!("not one line for {reasons:?}: {self:?}")),
        }
    }

    /// Either of both: where chance decides.
    pub(crate) fn key_or_refusal(&self, reasons: &[&str]) -> Result<(), String> {
        if self.stdout.is_empty() {
            self.refusal(reasons)
        } else {
            self.key()
        }
    }

    fn in_time(&self) -> Result<(), String> {
        match self.code {
            Some(0) if self.took < LATE => Ok(()),
            _ => Err(format!("not exit 0 in time: {self:?}")),
        }
    }
}

/// A logger at `/dev/log` that keeps apart who said what.
#[derive(Default)]
struct Log(Mutex<Option<Listener>>);

struct Listener {
    socket: Arc<UnixDatagram>,
    said: Arc<Mutex<HashMap<u32, Vec<String>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    fn listen(&self) {
        let socket = Arc::new(UnixDatagram::bind("/dev/log").unwrap());
        fs::set_permissions("/dev/log", fs::Permissions::from_mode(0o666)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let said = Arc::new(Mutex::default());
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (socket, said, stop) = (Arc::clone(&socket), Arc::clone(&said), Arc::clone(&stop));
            std::thread::spawn(move || {
                // Several helpers at once would fill the queue of ten.
                while !stop.load(Ordering::Relaxed) {
                    drain(&socket, &said);
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        };
        *self.0.lock().unwrap() = Some(Listener {
            socket,
            said,
            stop,
            thread: Some(thread),
        });
    }

    /// What the helper with this process id said. It has ended, so all of it has arrived.
    fn of(&self, pid: u32) -> Vec<String> {
        let listener = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(listener) = listener.as_ref() else {
            return Vec::new();
        };
        drain(&listener.socket, &listener.said);
        listener.said.lock().unwrap().remove(&pid).unwrap_or_default()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Takes all that is in the queue, holding the lock while anything is in neither place.
fn drain(socket: &UnixDatagram, said: &Mutex<HashMap<u32, Vec<String>>>) {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    let mut buffer = [0; 8192];
    while let Ok(length) = socket.recv(&mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let pid = line
            .split_once("ec2-instance-connect[")
            .and_then(|(_, rest)| rest.split(']').next());
        if let Some(pid) = pid.and_then(|pid| pid.parse().ok()) {
            said.entry(pid).or_default().push(line);
        }
    }
}

/// Does `act` to every case, several at a time, since most of them wait for a time-out. Panics with all that failed.
#[track_caller]
pub(crate) fn each<T: Sync>(cases: &[T], act: impl Fn(&T) -> Result<(), String> + Sync) {
    const AT_A_TIME: usize = 6;
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(what) = act(case) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(what);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {}:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}
