//! A machine of the test's own: namespaces for network and mounts, gone when the test's process is.

use std::path::Path;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// Set inside of the namespaces.
const INSIDE: &str = "EIC_TEST_INSIDE_NAMESPACES";

/// Runs `test`, named `name`, as root in new network and mount namespaces: this test program starts itself again
/// there. Skipped loudly without root.
pub fn in_namespaces(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        sh("ip link set lo up");
        return test();
    }
    if !super::is_root() {
        return super::skip(name, "needs root for namespaces of its own");
    }
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare starts");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && text.contains("1 passed"),
        "inside the namespaces:\n{text}"
    );
}

/// Runs a line of shell, which must succeed; returns its output.
#[track_caller]
pub fn sh(line: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", line])
        .output()
        .expect("sh starts");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{line}: {text}");
    text
}

/// Puts a directory of our own in place of `/dev`, with the devices that a process needs, so that `/dev/log` is ours.
pub fn own_dev(directory: &Path) {
    let dev = directory.join("dev");
    let dev = dev.display();
    sh(&format!(
        "mkdir -p {dev}/pts {dev}/shm && for node in null zero random urandom tty ptmx; do cp -a /dev/$node {dev}/; done \
         && mount --rbind /dev/pts {dev}/pts && mount --rbind {dev} /dev"
    ));
}

/// Does `work` where `calls` are refused with EPERM, to it and to what it starts, as by a container's own filter.
pub fn without_calls<T: Send>(calls: &[i64], work: impl FnOnce() -> T + Send) -> T {
    let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
    let refused = SeccompAction::Errno(nix::libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    // A filter is the thread's for good.
    std::thread::scope(|scope| {
        let outside = || {
            apply_filter(&program).unwrap();
            work()
        };
        scope.spawn(outside).join().unwrap()
    })
}
