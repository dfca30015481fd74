//! The running daemon: found, told to read its configuration again, and proven alive.
//!
//! sshd is reloaded, never restarted: a restart of a daemon that does not come up locks everybody out. The one
//! exception is a daemon that systemd handed its sockets to (ssh.socket): on SIGHUP sshd executes itself again without
//! them, can't bind the addresses that systemd holds, and ends. There a restart is the gentle way: connections wait in
//! systemd's socket meanwhile, and sessions live on where the unit says `KillMode=process`, as distributions' units do.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::root::Root;
use super::run::{TOOL_TIME, run, tool};

/// How long sshd has to answer after a reload.
const PROOF_TIME: Duration = Duration::from_secs(5);

/// How long one attempt to read a banner may take.
const BANNER_TIME: Duration = Duration::from_secs(1);

/// Time for systemd to do what it is told; its own default for a job is 90 s.
const SYSTEMD_TIME: Duration = Duration::from_secs(100);

/// Between two looks at something that is about to change.
const POLL: Duration = Duration::from_millis(50);

/// Addresses that are tried for a banner. A daemon with more is no better proven by all of them.
const MAX_ADDRESSES: usize = 4;

/// The names under which distributions know sshd's unit.
pub const UNITS: [&str; 2] = ["ssh.service", "sshd.service"];
/// And its socket's.
const SOCKETS: [&str; 2] = ["ssh.socket", "sshd.socket"];

/// sshd as systemd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The unit's name.
    pub unit: String,
    /// Whether it runs.
    pub active: bool,
    /// Its main process; 0 when there is none.
    pub main_pid: u32,
    /// Whether a socket unit of systemd's holds what it listens on.
    pub by_socket: bool,
    /// Whether a stop ends the daemon alone and leaves sessions (systemd.kill(5), `KillMode=process`).
    pub spares_sessions: bool,
}

/// Whether systemd is in charge and may be asked.
#[must_use]
pub fn systemd_runs() -> bool {
    // sd_booted(3).
    Path::new("/run/systemd/system").is_dir()
}

/// Whether this process lives in a chroot: then services are none of its business. Unknown counts as yes.
#[must_use]
pub fn in_chroot() -> bool {
    match (fs::metadata("/"), fs::metadata("/proc/1/root/")) {
        (Ok(here), Ok(init)) => (here.dev(), here.ino()) != (init.dev(), init.ino()),
        _ => true,
    }
}

/// sshd's unit: the one that runs, else the first that exists.
#[must_use]
pub fn find() -> Option<Service> {
    let found: Vec<Service> = UNITS.iter().filter_map(|unit| show(unit)).collect();
    found
        .iter()
        .find(|service| service.active)
        .or_else(|| found.first())
        .cloned()
}

/// When `unit` last changed its state, in microseconds of the monotonic clock: a reload is such a change.
#[must_use]
pub fn last_changed(unit: &str) -> Option<u64> {
    let text = systemctl(&["show", "-p", "StateChangeTimestampMonotonic", unit]).ok()?;
    text.trim()
        .strip_prefix("StateChangeTimestampMonotonic=")?
        .parse()
        .ok()
}

fn show(unit: &str) -> Option<Service> {
    let text = systemctl(&["show", "-p", "Id,LoadState,ActiveState,MainPID,KillMode", unit]).ok()?;
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    };
    (value("LoadState") == Some("loaded")).then(|| Service {
        unit: value("Id").unwrap_or(unit).to_owned(),
        active: matches!(value("ActiveState"), Some("active" | "reloading")),
        main_pid: value("MainPID").and_then(|pid| pid.parse().ok()).unwrap_or(0),
        by_socket: !socket_addresses().is_empty(),
        spares_sessions: value("KillMode") == Some("process"),
    })
}

/// Where sockets of sshd's that systemd holds listen, when one is active.
#[must_use]
pub fn socket_addresses() -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for socket in SOCKETS {
        let Ok(text) = systemctl(&["show", "-p", "ActiveState,Listen", socket]) else {
            continue;
        };
        if text.lines().any(|line| line == "ActiveState=active") {
            let listens = text.lines().filter_map(|line| line.strip_prefix("Listen="));
            found.extend(listens.filter_map(|value| reachable(value.split_whitespace().next()?)));
        }
    }
    found
}

fn systemctl(arguments: &[&str]) -> io::Result<String> {
    let output = run(tool("systemctl").args(arguments), b"", SYSTEMD_TIME)?;
    if output.status.success() {
        Ok(output.text())
    } else {
        Err(io::Error::other(format!(
            "systemctl {}: {}",
            arguments.join(" "),
            output.stderr.trim()
        )))
    }
}

/// Has systemd read changed units.
///
/// # Errors
/// When systemctl fails.
pub fn daemon_reload() -> io::Result<()> {
    systemctl(&["daemon-reload"]).map(drop)
}

/// Has the daemon read its configuration: by a reload, or by a restart where systemd holds its sockets.
///
/// # Errors
/// When systemctl fails: Debian's unit checks the configuration first.
pub fn reload(service: &Service) -> io::Result<()> {
    if service.by_socket {
        return begin("restart", service);
    }
    systemctl(&["reload", &service.unit]).map(drop)
}

/// Starts a daemon that died.
///
/// # Errors
/// When systemctl fails.
pub fn start(service: &Service) -> io::Result<()> {
    begin("start", service)
}

/// Starts or restarts, however often that was done or failed of late: systemd.unit(5), StartLimitIntervalSec, counts
/// what an administrator asks for among what crashed.
fn begin(verb: &str, service: &Service) -> io::Result<()> {
    // There may be nothing to reset.
    let _ = systemctl(&["reset-failed", &service.unit]);
    systemctl(&[verb, &service.unit]).map(drop)
}

/// Why services must not be touched here, if so.
#[must_use]
pub fn forbidden(root: &Root, service: Option<&Service>) -> Option<String> {
    if !root.is_live() {
        return Some("this is an image".to_owned());
    }
    if in_chroot() {
        return Some("this is a chroot".to_owned());
    }
    if !systemd_runs() {
        return Some(
            "systemd is not running here; a running sshd takes the change with `kill -HUP`".to_owned(),
        );
    }
    if service.is_some_and(|service| service.active && service.by_socket && !service.spares_sessions) {
        return Some(
            "systemd holds sshd's socket, so only a restart would do, and this unit's KillMode would end sessions with it"
                .to_owned(),
        );
    }
    let name = service.map_or("ssh", |service| service.unit.trim_end_matches(".service"));
    policy(name)
}

/// What policy-rc.d(8), if there is one, says about a reload. Codes as invoke-rc.d(8) reads them.
fn policy(name: &str) -> Option<String> {
    const POLICY: &str = "/usr/sbin/policy-rc.d";
    if !Path::new(POLICY).exists() {
        return None;
    }
    let code = run(tool(POLICY).args([name, "reload"]), b"", TOOL_TIME)
        .ok()
        .and_then(|output| output.status.code());
    match code {
        Some(0 | 1 | 100 | 104 | 105) => None,
        _ => Some(format!("{POLICY} does not allow it")),
    }
}

/// What proves later that the daemon is as alive as it was.
#[derive(Debug)]
pub struct Witness {
    service: Service,
    answering: Vec<SocketAddr>,
    sockets: BTreeSet<String>,
}

impl Witness {
    /// Looks at a running daemon before the change.
    #[must_use]
    pub fn before(service: &Service, listen: &[String]) -> Self {
        let mut addresses: Vec<SocketAddr> = listen.iter().filter_map(|text| reachable(text)).collect();
        addresses.extend(socket_addresses());
        addresses.sort();
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        addresses.retain(|address| banner(*address));
        Self {
            service: service.clone(),
            answering: addresses,
            sockets: sockets_of(service.main_pid),
        }
    }

    /// Looks again after the reload: the process lives, and every address that answered answers.
    ///
    /// # Errors
    /// What is missing.
    pub fn after(&self) -> Result<(), String> {
        let deadline = Instant::now().checked_add(PROOF_TIME);
        let late = || deadline.is_none_or(|deadline| Instant::now() > deadline);
        // A signal is not yet a reload: until the listening sockets are new ones, the old configuration answers.
        while !self.service.by_socket
            && sockets_of(self.service.main_pid) == self.sockets
            && !self.sockets.is_empty()
            && !late()
        {
            thread::sleep(POLL);
        }
        let mut open = self.answering.clone();
        let grace = Instant::now().checked_add(PROOF_TIME);
        loop {
            open.retain(|address| !banner(*address));
            if open.is_empty() {
                break;
            }
            if grace.is_none_or(|grace| Instant::now() > grace) {
                let names: Vec<String> = open.iter().map(ToString::to_string).collect();
                return Err(format!(
                    "no SSH banner from {} within {} s",
                    names.join(", "),
                    PROOF_TIME.as_secs()
                ));
            }
            thread::sleep(POLL);
        }
        match show(&self.service.unit) {
            // A restarted one has another process, and one that systemd starts for a connection may be about to.
            Some(now) if now.by_socket || (now.active && now.main_pid == self.service.main_pid) => Ok(()),
            Some(now) if now.active => Err(format!("{} has another main process than before", now.unit)),
            _ => Err(format!("{} is no longer running", self.service.unit)),
        }
    }
}

/// The kernel's names of a process's sockets.
fn sockets_of(pid: u32) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeSet::new();
    };
    let links = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    let names = links.map(|link| link.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("socket:")).collect()
}

/// `ADDRESS:PORT` as `sshd -T` or systemd prints it, as an address that can be connected to from here.
fn reachable(text: &str) -> Option<SocketAddr> {
    let address: SocketAddr = match text.parse() {
        Ok(address) => address,
        Err(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), text.parse().ok()?),
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    Some(SocketAddr::new(ip, address.port()))
}

/// Whether an SSH server answers there (RFC 4253, section 4.2).
fn banner(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, BANNER_TIME) else {
        return false;
    };
    let mut start = [0; 4];
    stream.set_read_timeout(Some(BANNER_TIME)).is_ok()
        && stream.read_exact(&mut start).is_ok()
        && start == *b"SSH-"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcard_addresses_are_tried_on_loopback() {
        for (text, address) in [
            ("0.0.0.0:22", "127.0.0.1:22"),
            ("[::]:2222", "[::1]:2222"),
            ("22", "127.0.0.1:22"),
            ("10.1.2.3:22", "10.1.2.3:22"),
        ] {
            assert_eq!(reachable(text), Some(address.parse().unwrap()), "{text}");
        }
        assert_eq!(reachable("/run/ssh.sock"), None);
    }
}
