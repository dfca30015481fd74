//! The daemon that listens: whether there is one, and whether it has read its configuration as it is now.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::time::{ClockId, clock_gettime};

use crate::sshd::DROPIN_DIR;
use crate::sshd::system::root::Root;
use crate::sshd::system::service::{self, Service};

use super::check::Finding;
use super::sshd::Sshd;

/// Nanoseconds in a second, and in a microsecond.
const SECOND: i128 = 1_000_000_000;
const MICROSECOND: i128 = 1_000;

/// Whether sshd runs with the files that stand there.
pub fn finding(root: &Root, sshd: &Sshd) -> Finding {
    let Some(service) = &sshd.machine.service else {
        return match &sshd.machine.facts.running {
            Some(running) => Finding::pass(format!("sshd runs as process {}", running.pid)),
            None => Finding::skip("systemd is not in charge of sshd here"),
        };
    };
    let unit = &service.unit;
    if !service.active && !service.by_socket {
        return Finding::fail(
            format!("{unit} is not running, and no socket of systemd's listens for it"),
            format!("`systemctl start {unit}`; if it does not stay up, `journalctl -u {unit}` says why"),
        );
    }
    if let Some(file) = unread(root, sshd, service) {
        return Finding::warn(
            format!(
                "{} has changed since systemd last had {unit} read it",
                file.display()
            ),
            sshd.reload(),
        );
    }
    Finding::pass(if service.active {
        format!("{unit} runs as process {}", service.main_pid)
    } else {
        "systemd listens for sshd".to_owned()
    })
}

/// A file of the configuration, or the directory of drop-ins, that changed after the daemon read it.
fn unread(root: &Root, sshd: &Sshd, service: &Service) -> Option<PathBuf> {
    // A daemon that is not running reads all when it is started.
    let read = service
        .active
        .then(|| service::last_changed(&service.unit))
        .flatten()?;
    let read = i128::from(read)
        .checked_mul(MICROSECOND)?
        .checked_add(monotonic_began()?)?;
    // The inode's time, which a moved file has of its move. A directory has the time of what came or went.
    let changed = |path: &Path| {
        let meta = root.stat(path).ok()?;
        i128::from(meta.ctime())
            .checked_mul(SECOND)?
            .checked_add(i128::from(meta.ctime_nsec()))
    };
    let files = sshd.machine.facts.snapshot.files.keys().map(PathBuf::as_path);
    files
        .chain([Path::new(DROPIN_DIR)])
        .find(|path| changed(path).is_some_and(|changed| changed > read))
        .map(Path::to_path_buf)
}

/// The wall clock's nanoseconds at which the monotonic clock was 0, by today's wall clock.
fn monotonic_began() -> Option<i128> {
    let nanoseconds = |clock| {
        let time = clock_gettime(clock).ok()?;
        i128::from(time.tv_sec())
            .checked_mul(SECOND)?
            .checked_add(i128::from(time.tv_nsec()))
    };
    nanoseconds(ClockId::CLOCK_REALTIME)?.checked_sub(nanoseconds(ClockId::CLOCK_MONOTONIC)?)
}
