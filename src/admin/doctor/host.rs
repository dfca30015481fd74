//! The host around: SELinux, AppArmor and what they have refused.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use crate::sshd::system::facts;
use crate::sshd::system::root::Root;
use crate::sshd::system::run::{TOOL_TIME, run, tool};

use super::check::Finding;
use crate::admin::selinux::{self, Lacking};
use crate::config::Config;

/// How much of the end of a log is looked at: hours of an ordinary host.
const TAIL_BYTES: u64 = 1024 * 1024;

/// Where refusals are written: auditd's log; without auditd the kernel's lines in syslog's files.
const LOGS: [&str; 4] = [
    "/var/log/audit/audit.log",
    "/var/log/kern.log",
    "/var/log/messages",
    "/var/log/syslog",
];

/// Where our programs appear in a refusal: by comm= (15 characters), profile or path.
const OURS: [&str; 3] = ["eic_run_author", "ec2-instance-connect", "ec2_instance_connect"];

/// The last refusal that concerns us, in one line, where `marks` all stand in it.
fn last_refusal(marks: &[&str]) -> Option<String> {
    let mut found = None;
    for text in LOGS
        .iter()
        .filter_map(|path| tail(Path::new(path)))
        .chain(kernel())
    {
        let line = text.lines().rev().find(|line| {
            marks.iter().all(|mark| line.contains(mark)) && OURS.iter().any(|name| line.contains(name))
        });
        found = found.or_else(|| line.map(str::to_owned));
    }
    found
}

/// The end of a file, from a whole line on.
fn tail(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok().filter(fs::Metadata::is_file)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The journal's kernel lines of the last day, where there is a journal.
fn kernel() -> Option<String> {
    let mut journal = tool("journalctl");
    journal.args(["-k", "-q", "--no-pager", "-o", "cat", "--since=-1d", "-n", "5000"]);
    let output = run(&mut journal, b"", TOOL_TIME).ok()?;
    output.status.success().then(|| output.text())
}

/// SELinux, and what this configuration needs of it.
pub fn selinux(root: &Root) -> Finding {
    let Some(enforcing) = selinux::enforcing() else {
        return Finding::pass("not in this kernel, or switched off");
    };
    if facts::selinux_lacks_module(root) {
        return Finding::fail(
            "enforcing, and the module that lets sshd's command reach the metadata is not loaded",
            "`semodule -X 200 -i /usr/share/selinux/packages/ec2-instance-connect/ec2-instance-connect.cil`",
        );
    }
    // A configuration that can't be used is the business of another check.
    let lacking = Config::load(None).map_or_else(|_| Vec::new(), |config| selinux::lacking(&config));
    if !lacking.is_empty() {
        return switched_off(&lacking);
    }
    match last_refusal(&["avc:", "denied"]) {
        Some(line) if enforcing => Finding::warn(
            format!("enforcing; the last refusal: {line}"),
            "see `ausearch -m avc -ts recent`; load the package's module again",
        ),
        _ if enforcing => Finding::pass("enforcing, our module is loaded, no refusal is logged"),
        _ => Finding::pass("permissive"),
    }
}

/// doctor itself runs in no domain of ours, so that what the probe could do says nothing of it.
fn switched_off(lacking: &[Lacking]) -> Finding {
    let each = lacking
        .iter()
        .map(|it| format!("{} is off, so that with {} {}", it.boolean, it.setting, it.effect));
    let seen = format!("enforcing; {}", each.collect::<Vec<_>>().join("; "));
    let remedy = format!("`{}`", selinux::remedy(lacking));
    if lacking.iter().any(|it| it.keeps_out) {
        Finding::fail(seen, remedy)
    } else {
        Finding::warn(seen, remedy)
    }
}

/// AppArmor.
pub fn apparmor() -> Finding {
    if fs::read("/sys/module/apparmor/parameters/enabled")
        .ok()
        .as_deref()
        != Some(b"Y\n")
    {
        return Finding::pass("not in this kernel, or switched off");
    }
    match last_refusal(&["apparmor=", "DENIED"]) {
        Some(line) => Finding::warn(
            format!("the last refusal: {line}"),
            "see which profile names our files, and let them be read and run there",
        ),
        None => Finding::pass("on; no refusal concerns us"),
    }
}
