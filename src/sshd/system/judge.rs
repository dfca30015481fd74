//! Asking the real sshd about a candidate, at the real paths, before anything is changed.
//!
//! The program runs itself again with a hidden subcommand. That child takes a private mount namespace, lays the
//! candidate's files over the real ones (a tmpfs over each directory concerned, everything else in it bound back),
//! and there runs the machine's own `sshd -T` with the daemon's own arguments. When the child ends, the kernel
//! forgets all of it: nothing is written to a disk, not even for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use super::root::Root;
use super::run::{PATH, TOOL_TIME, run, tool};
use crate::sshd::dump::Check;
use crate::sshd::plan::Step;

/// The hidden subcommand under which the child runs.
pub const SUBCOMMAND: &str = "judge";

/// sshd's privilege separation directory on Debian: on a tmpfs, and made only when the service starts.
const PRIVSEP_DIR: &str = "/run/sshd";

/// Where the child keeps a throwaway host key.
const KEY_NAME: &str = "throwaway_host_key";

/// Kinds of throwaway keys, tried in this order: every sshd but one built without OpenSSL takes RSA, in FIPS mode too;
/// that one takes Ed25519.
const KEY_TYPES: [&str; 2] = ["rsa", "ed25519"];

/// Time for the child: up to four runs of sshd.
const CHILD_TIME: Duration = TOOL_TIME.saturating_mul(4);

/// What the child is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The tree's directory.
    pub root: PathBuf,
    /// Whether to take a namespace and lay the files over. Without it the machine is looked at as it is.
    pub private: bool,
    /// Files to lay over, by their real paths inside the root; `None` hides the file.
    pub files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// Directories that are to be there.
    pub directories: BTreeSet<PathBuf>,
    /// sshd, inside the root.
    pub sshd: PathBuf,
    /// The daemon's arguments that matter.
    pub arguments: Vec<String>,
    /// The daemon's environment.
    pub environment: BTreeMap<String, String>,
    /// The user for a second run with `-C`.
    pub user: String,
}

/// What sshd said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opinion {
    /// For everyone.
    pub global: Check,
    /// For the user.
    pub user: Check,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// sshd has spoken.
    Heard(Opinion),
    /// No private namespace is to be had (a container without the right to mount): ask in place.
    NoNamespace(String),
    /// The image's sshd does not run here (another architecture, or it is missing).
    NotRunnable(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    Heard([CheckText; 2]),
    NoNamespace(String),
    NotRunnable(String),
}

#[derive(Serialize, Deserialize)]
struct CheckText {
    ok: bool,
    stdout: String,
    stderr: String,
}

impl From<CheckText> for Check {
    fn from(text: CheckText) -> Self {
        Self {
            ok: text.ok,
            stdout: text.stdout,
            stderr: text.stderr,
        }
    }
}

impl Request {
    /// The same machine with these steps done. Steps that sshd does not read are left out by the caller.
    #[must_use]
    pub fn with(&self, steps: &[Step]) -> Self {
        let mut request = self.clone();
        for step in steps {
            match step {
                Step::MakeDirectory { path } => {
                    request.directories.insert(path.clone());
                }
                Step::Write { path, after, .. } => {
                    request.files.insert(path.clone(), Some(after.clone()));
                }
                Step::Delete { path, .. } => {
                    request.files.insert(path.clone(), None);
                }
                Step::RemoveDirectory { .. } => {}
            }
        }
        request
    }
}

/// Asks, in a child.
///
/// # Errors
/// When the child can't be run or does not answer.
pub fn ask(request: &Request) -> io::Result<Verdict> {
    let input = serde_json::to_vec(request).map_err(io::Error::other)?;
    let mut child = Command::new("/proc/self/exe");
    child
        .arg0("ec2-instance-connect")
        .arg(SUBCOMMAND)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/");
    let output = run(&mut child, &input, CHILD_TIME)?;
    if !output.status.success() {
        return Err(io::Error::other(format!(
            "the check ended with {}: {}",
            output.status,
            output.stderr.trim()
        )));
    }
    Ok(
        match serde_json::from_slice(&output.stdout).map_err(io::Error::other)? {
            Answer::Heard([global, user]) => Verdict::Heard(Opinion {
                global: global.into(),
                user: user.into(),
            }),
            Answer::NoNamespace(why) => Verdict::NoNamespace(why),
            Answer::NotRunnable(why) => Verdict::NotRunnable(why),
        },
    )
}

/// The child: a request as JSON in, the answer as JSON out.
///
/// # Errors
/// When the request is none, or the candidate's files can't be laid out.
pub fn serve(request: &[u8]) -> io::Result<Vec<u8>> {
    let request: Request = serde_json::from_slice(request).map_err(io::Error::other)?;
    let root = Root::new(&request.root)?;
    serde_json::to_vec(&answer(&request, &root)?).map_err(io::Error::other)
}

fn answer(request: &Request, root: &Root) -> io::Result<Answer> {
    if request.private {
        if let Err(why) = take_namespace() {
            return Ok(Answer::NoNamespace(why.to_string()));
        }
        lay_out(request, root)?;
    }
    let had_privsep = fs::symlink_metadata(root.outside(Path::new(PRIVSEP_DIR))).is_ok();
    if !root.is_live() {
        bind_dev(root)?;
        std::os::unix::fs::chroot(root.dir())?;
        std::env::set_current_dir("/")?;
    }
    let scratch = Scratch::new(request.private, had_privsep)?;
    let result = run_twice(request, &scratch);
    scratch.clean(had_privsep);
    result
}

/// A mount namespace in which nothing that we mount is seen by anybody else.
fn take_namespace() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    // Fails with EINVAL in a chroot, whose "/" is no mount point: then our mounts could spread, so none are made.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

/// Lays the candidate's files over the machine's.
fn lay_out(request: &Request, root: &Root) -> io::Result<()> {
    // What changes in which directory: a file, its absence, or a new directory.
    let mut changes: BTreeMap<PathBuf, BTreeMap<String, Change<'_>>> = BTreeMap::new();
    let mut note = |path: &Path, change| {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            changes
                .entry(parent.to_path_buf())
                .or_default()
                .insert(name.to_string_lossy().into_owned(), change);
        }
    };
    for path in &request.directories {
        note(path, Change::Directory);
    }
    for (path, content) in &request.files {
        note(path, content.as_deref().map_or(Change::Hidden, Change::File));
    }
    if !root.exists(Path::new(PRIVSEP_DIR)) && root.exists(Path::new("/run")) {
        note(Path::new(PRIVSEP_DIR), Change::Directory);
    }
    // A parent sorts before its children, so a directory that is to be new is there when its files come.
    for (directory, names) in &changes {
        let real = root.outside(&root.resolve(directory)?);
        if !request.directories.contains(directory) {
            rebuild(&real, names)?;
        }
        for (name, change) in names {
            let path = real.join(name);
            match change {
                Change::File(text) => {
                    // The mode of the old one is of no account to a parser that runs as root.
                    fs::write(&path, text)?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
                }
                Change::Directory => fs::create_dir(&path)?,
                Change::Hidden => {}
            }
        }
    }
    Ok(())
}

enum Change<'a> {
    File(&'a [u8]),
    Directory,
    Hidden,
}

/// Puts a tmpfs over a directory and binds everything back into it, but for the names that change.
fn rebuild(directory: &Path, changed: &BTreeMap<String, Change<'_>>) -> io::Result<()> {
    // The descriptor keeps the covered directory within reach.
    let handle = File::open(directory)?;
    let meta = handle.metadata()?;
    let covered = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    let entries: Vec<fs::DirEntry> = fs::read_dir(&covered)?.collect::<io::Result<_>>()?;
    mount(
        Some("tmpfs"),
        directory,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0755"),
    )?;
    let fresh = File::open(directory)?;
    fchown(&fresh, Some(meta.uid()), Some(meta.gid()))?;
    fresh.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    for entry in entries {
        let name = entry.file_name();
        if changed.contains_key(name.to_string_lossy().as_ref()) {
            continue;
        }
        let (from, to) = (covered.join(&name), directory.join(&name));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&to)?;
        } else {
            File::create(&to)?;
        }
        let none: Option<&str> = None;
        mount(Some(&from), &to, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    }
    Ok(())
}

/// sshd opens /dev/null before anything else; an unpacked image often has none.
fn bind_dev(root: &Root) -> io::Result<()> {
    let dev = root.outside(Path::new("/dev"));
    if dev.is_dir() && fs::metadata(dev.join("null")).map_or(true, |meta| meta.rdev() == 0) {
        let none: Option<&str> = None;
        // Without a namespace this is refused, and sshd says the rest.
        let _ = mount(Some("/dev"), &dev, none, MsFlags::MS_BIND | MsFlags::MS_REC, none);
    }
    Ok(())
}

/// A place for the throwaway key, and sshd's directory where it is missing.
struct Scratch {
    dir: PathBuf,
}

impl Scratch {
    fn new(private: bool, had_privsep: bool) -> io::Result<Self> {
        let privsep = Path::new(PRIVSEP_DIR);
        if private {
            if had_privsep && privsep.is_dir() {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
                // On a tmpfs that lay_out made, or over the service's own directory: either way it is only ours.
                mount(Some("tmpfs"), privsep, Some("tmpfs"), flags, Some("mode=0755"))?;
                return Ok(Self {
                    dir: privsep.to_path_buf(),
                });
            }
        } else if !had_privsep && Path::new("/run").is_dir() {
            fs::create_dir(privsep)?;
            fs::set_permissions(privsep, fs::Permissions::from_mode(0o755))?;
        }
        let dir = std::env::temp_dir().join(format!(".ec2-instance-connect.{}", std::process::id()));
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        Ok(Self { dir })
    }

    /// Takes away what was made on a real file system; in a namespace it goes by itself.
    fn clean(&self, had_privsep: bool) {
        // Leftovers in /tmp or /run harm nothing; there is nobody to tell.
        if self.dir == Path::new(PRIVSEP_DIR) {
            return;
        }
        let _ = fs::remove_dir_all(&self.dir);
        if !had_privsep {
            let _ = fs::remove_dir(PRIVSEP_DIR);
        }
    }

    /// A host key of one of [`KEY_TYPES`] that is thrown away.
    fn key(&self, kind: &str) -> io::Result<PathBuf> {
        let path = self.dir.join(format!("{KEY_NAME}_{kind}"));
        if !path.exists() {
            let mut keygen = tool("ssh-keygen");
            keygen.args(["-q", "-t", kind, "-N", "", "-f"]).arg(&path);
            let output = run(&mut keygen, b"", TOOL_TIME)?;
            if !output.status.success() {
                return Err(io::Error::other(format!("ssh-keygen: {}", output.stderr.trim())));
            }
        }
        Ok(path)
    }
}

fn run_twice(request: &Request, scratch: &Scratch) -> io::Result<Answer> {
    // 7.x wants every criterion of a Match to be given, so all that it knows are.
    let connection = format!(
        "user={},host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22",
        request.user
    );
    let nobody = "user=nobody,host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22".to_owned();
    let mut found = Vec::new();
    let everyone = match run_sshd(request, &[], None) {
        // Up to 8.x sshd says nothing of a configuration with a Match unless it is asked about somebody.
        Ok(check) if !check.ok && check.stderr.contains("in connection test specification") => {
            vec!["-C".to_owned(), nobody]
        }
        _ => Vec::new(),
    };
    for extra in [everyone, vec!["-C".to_owned(), connection]] {
        let extra = extra.as_slice();
        match run_sshd(request, extra, None) {
            Err(error) => {
                return Ok(Answer::NotRunnable(format!(
                    "{}: {error}",
                    request.sshd.display()
                )));
            }
            Ok(check) => found.push(with_host_key(request, extra, scratch, check)?),
        }
    }
    let [global, user] =
        <[CheckText; 2]>::try_from(found).map_err(|_| io::Error::other("two answers were due"))?;
    Ok(Answer::Heard([global, user]))
}

/// The answer once sshd has a host key: an image often has none yet, and sshd says nothing without.
fn with_host_key(
    request: &Request,
    extra: &[String],
    scratch: &Scratch,
    mut check: CheckText,
) -> io::Result<CheckText> {
    for kind in KEY_TYPES {
        if check.ok || !check.stderr.contains("no hostkeys available") {
            break;
        }
        let key = scratch.key(kind)?;
        check = run_sshd(request, extra, Some(&key))?;
        // Its path is our doing, and differs from one question to the next.
        let line = format!("hostkey {}", key.display());
        let others = check
            .stdout
            .lines()
            .filter(|other| !other.eq_ignore_ascii_case(&line));
        check.stdout = others.map(|other| format!("{other}\n")).collect();
    }
    Ok(check)
}

fn run_sshd(request: &Request, extra: &[String], key: Option<&Path>) -> io::Result<CheckText> {
    let mut command = Command::new(&request.sshd);
    command
        .env_clear()
        .env("PATH", PATH)
        .envs(&request.environment)
        .current_dir("/");
    command.args(&request.arguments).arg("-T").args(extra);
    if let Some(key) = key {
        command.arg("-h").arg(key);
    }
    let output = run(&mut command, b"", TOOL_TIME)?;
    Ok(CheckText {
        ok: output.status.success(),
        stdout: output.text(),
        stderr: output.stderr,
    })
}
