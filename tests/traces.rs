//! What a run of the helper leaves and takes, as the kernel saw it: strace(1) lists its system calls.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that fails shall say so at once"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::case::{INSTANCE, KEY_LINE};
use common::run;
use eic_simulator::{Simulator, World};

const USER: &str = "ec2-user";

/// An unprivileged user and group that own nothing: nobody's.
const NOBODY: &str = "65534";

/// A user's group of no special right, a file of which proves that the groups are really there.
const GROUP: u32 = 54_321;

fn simulator() -> Simulator {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    simulator.push(USER, KEY_LINE);
    simulator
}

/// Whether strace works here, and setpriv where it is wanted.
fn traceable(test: &str, tools: &[&str]) -> bool {
    let works = |tool: &&str| {
        Command::new(tool)
            .arg("--version")
            .output()
            .is_ok_and(|it| it.status.success())
    };
    let missing = tools.iter().find(|tool| !works(tool));
    if let Some(tool) = missing {
        common::skip(test, &format!("there is no {tool}"));
    }
    missing.is_none()
}

/// A place that everybody may look into, with the helper and its configuration in it; the binary of a build directory
/// may lie where nobody else may go.
fn open_place(simulator: &Simulator) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let put = |name: &str, from: &Path, mode| {
        let path = place.path().join(name);
        fs::copy(from, &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    put("helper", Path::new(run::HELPER), 0o755);
    let root = put("root.pem", &simulator.root_pem(), 0o644);
    let sysfs = place.path().join("sys");
    let tag = "devices/virtual/dmi/id/board_asset_tag";
    fs::create_dir_all(sysfs.join(tag).parent().unwrap()).unwrap();
    fs::write(sysfs.join(tag), format!("{INSTANCE}\n")).unwrap();
    let config = simulator
        .config_toml()
        .replace(&*simulator.root_pem().to_string_lossy(), &root.to_string_lossy())
        .replace(&*simulator.sysfs().to_string_lossy(), &sysfs.to_string_lossy());
    fs::write(place.path().join("config.toml"), config).unwrap();
    place
}

/// Runs the helper below `wrapper` and strace; gives the key lines and the calls.
fn trace(place: &Path, wrapper: &[&str]) -> (String, Vec<String>) {
    let calls = tempfile::NamedTempFile::new_in(place).unwrap();
    fs::set_permissions(calls.path(), fs::Permissions::from_mode(0o666)).unwrap();
    let mut words: Vec<String> = wrapper.iter().map(|word| (*word).to_owned()).collect();
    words.extend(["strace", "-f", "-qq", "-y", "-o"].map(str::to_owned));
    words.push(calls.path().to_string_lossy().into_owned());
    words.push(place.join("helper").to_string_lossy().into_owned());
    words.push("--config".to_owned());
    words.push(place.join("config.toml").to_string_lossy().into_owned());
    words.push(USER.to_owned());
    let mut command = Command::new(&words[0]);
    run::sshd_environment(command.args(&words[1..]));
    let outcome = run::run(&mut command);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let calls = fs::read_to_string(calls.path()).unwrap();
    // `-f` puts the thread in front of each call.
    let calls = calls
        .lines()
        .map(|line| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' '));
    (outcome.stdout, calls.map(str::to_owned).collect())
}

fn call_of(line: &str) -> &str {
    line.split('(').next().unwrap_or_default()
}

/// No process to hijack, no temporary file to race for, no name to replace: nothing is there to be attacked.
#[test]
fn a_login_starts_no_process_and_writes_no_file() {
    let test = "a_login_starts_no_process_and_writes_no_file";
    if !traceable(test, &["strace"]) {
        return;
    }
    let simulator = simulator();
    let place = open_place(&simulator);
    let (printed, calls) = trace(place.path(), &[]);
    assert_eq!(printed, format!("{KEY_LINE}\n"));
    let count = |name: &str| calls.iter().filter(|line| call_of(line) == name).count();
    assert_eq!(count("execve"), 1, "only strace's own");
    assert!(count("openat") > 2, "strace is not at work");
    let processes = ["fork", "vfork", "clone", "clone3", "execveat"];
    let names = [
        "creat",
        "rename",
        "renameat",
        "renameat2",
        "link",
        "linkat",
        "symlink",
        "symlinkat",
        "unlink",
        "unlinkat",
        "mkdir",
        "mkdirat",
        "rmdir",
        "truncate",
        "ftruncate",
        "chmod",
        "fchmod",
        "fchmodat",
        "chown",
        "fchown",
        "lchown",
        "fchownat",
        "mknod",
        "mknodat",
        "utimensat",
        "memfd_create",
    ];
    for name in processes.into_iter().chain(names) {
        assert_eq!(count(name), 0, "{name} was called");
    }
    let writable = [
        "O_CREAT",
        "O_WRONLY",
        "O_RDWR",
        "O_TRUNC",
        "O_APPEND",
        "O_TMPFILE",
    ];
    for line in calls
        .iter()
        .filter(|line| matches!(call_of(line), "open" | "openat" | "openat2"))
    {
        assert!(!writable.iter().any(|flag| line.contains(flag)), "{line}");
    }
    // The answer to sshd, which is the only pipe.
    let answers = calls
        .iter()
        .filter(|line| call_of(line).starts_with("write") && line.contains("<pipe:"));
    assert_eq!(answers.count(), 1, "standard output is written once");
}

/// The files that were opened, with the answer.
fn opened(calls: &[String]) -> BTreeSet<PathBuf> {
    let opens = calls.iter().filter(|line| call_of(line).starts_with("open"));
    opens
        .filter(|line| !line.contains(" = -1 "))
        .filter_map(|line| line.split('"').nth(1).map(PathBuf::from))
        .filter(|path| !path.starts_with("/proc") && !path.starts_with("/dev"))
        .collect()
}

/// CVE-2021-41617: from 6.2 to 8.7 sshd ran its commands with the groups that it was itself started with. The helper
/// reads only what everybody may read, so a group more or less is worth nothing to it, nor to who gets hold of it.
#[test]
fn groups_inherited_from_sshd_gain_nothing() {
    let test = "groups_inherited_from_sshd_gain_nothing";
    if !common::is_root() {
        return common::skip(test, "it needs root");
    }
    if !traceable(test, &["strace", "setpriv"]) {
        return;
    }
    let simulator = simulator();
    let place = open_place(&simulator);
    // The groups are really there: what only they may read can be read with them.
    let secret = place.path().join("secret");
    fs::write(&secret, "x").unwrap();
    std::os::unix::fs::chown(&secret, Some(0), Some(GROUP)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o640)).unwrap();
    let nobody = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY];
    let groups = format!("0,{GROUP}");
    let with = [&nobody[..], &["--groups", &groups]].concat();
    let without = [&nobody[..], &["--clear-groups"]].concat();
    let reads = |wrapper: &[&str]| {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg("cat").arg(&secret);
        command.output().unwrap().status.success()
    };
    assert!(reads(&with) && !reads(&without), "the groups are not in force");

    let (printed, calls) = trace(place.path(), &with);
    let (alone, fewer) = trace(place.path(), &without);
    let wanted = format!("{KEY_LINE}\n");
    assert_eq!((printed, alone), (wanted.clone(), wanted));
    let files = opened(&calls);
    assert!(files.contains(&place.path().join("config.toml")), "{files:?}");
    assert_eq!(files, opened(&fewer), "the groups changed what is read");
    for file in files {
        // A file that is gone since was not ours to begin with.
        let mode = fs::metadata(&file).map(|found| found.mode());
        assert!(
            mode.is_ok_and(|mode| mode & 0o004 != 0),
            "{} is not for everybody",
            file.display()
        );
    }
}
