//! Where the events come from: journalctl, log files, CloudTrail's files. All I/O of `history` is here.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flate2::bufread::MultiGzDecoder;
use jiff::tz::TimeZone;

use super::cloudtrail::{self, Push, Tally};
use super::event::{Event, Safe};
use super::join::{MAX_ROWS, TooMany};
use super::journal::{self, Entry, Trust};
use super::lines;
use super::moment::Moment;
use super::reconcile::{Pushes, Wanted};
use super::render::{Source, Trail};
use super::syslog::{self, Turns};

/// Why reading ended early.
#[derive(Debug)]
pub enum ReadError {
    /// The source said so.
    Io(io::Error),
    /// There is too much to hold.
    TooMany(TooMany),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::TooMany(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<TooMany> for ReadError {
    fn from(error: TooMany) -> Self {
        Self::TooMany(error)
    }
}

/// Takes the events as they come.
pub type Sink<'a> = &'a mut dyn FnMut(&Event) -> Result<(), TooMany>;

/// The accounts of the system below a root directory.
#[derive(Debug)]
pub struct Accounts {
    root: PathBuf,
    known: std::cell::RefCell<BTreeMap<String, Option<u32>>>,
}

/// The largest /etc/passwd of an image that is read.
const MAX_PASSWD: u64 = 16 * 1024 * 1024;

impl Accounts {
    /// Those of the system below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            known: std::cell::RefCell::default(),
        }
    }

    /// The uid of `user`: as the system resolves it, or, of an image, from its own file.
    #[must_use]
    pub fn uid(&self, user: &str) -> Option<u32> {
        if let Some(uid) = self.known.borrow().get(user) {
            return *uid;
        }
        let uid = if self.root == Path::new("/") {
            nix::unistd::User::from_name(user)
                .ok()
                .flatten()
                .map(|user| user.uid.as_raw())
        } else {
            self.uid_in_file(user).ok().flatten()
        };
        self.known.borrow_mut().insert(user.to_owned(), uid);
        uid
    }

    fn uid_in_file(&self, user: &str) -> io::Result<Option<u32>> {
        let mut text = Vec::new();
        File::open(self.root.join("etc/passwd"))?
            .take(MAX_PASSWD)
            .read_to_end(&mut text)?;
        let mut lines = text
            .split(|&b| b == b'\n')
            .filter_map(|line| std::str::from_utf8(line).ok());
        Ok(lines.find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(user))
                .then(|| fields.nth(1)?.parse().ok())
                .flatten()
        }))
    }
}

/// journalctl, on the running system or on an image's journal.
#[derive(Debug)]
pub struct Journal {
    directory: Option<PathBuf>,
}

/// Who logs what matters here.
const IDENTIFIERS: [&str; 3] = ["ec2-instance-connect", "sshd", "sshd-session"];

/// What is kept of journalctl's complaints.
const MAX_COMPLAINT: u64 = 1024;

impl Journal {
    /// The journal below `root`, if journald keeps one there and journalctl is installed here.
    #[must_use]
    pub fn find(root: &Path) -> Option<Self> {
        let kept = ["var/log/journal", "run/log/journal"].map(|place| root.join(place));
        let kept = kept
            .iter()
            .find(|place| fs::read_dir(place).is_ok_and(|mut dir| dir.next().is_some()))?;
        let journal = Self {
            directory: (root != Path::new("/")).then(|| kept.clone()),
        };
        let version = journal.command().arg("--version").output();
        version
            .is_ok_and(|output| output.status.success())
            .then_some(journal)
    }

    /// Whether journalctl shows everybody's entries. It says so to people only, never beside JSON.
    fn shows_all(&self) -> io::Result<()> {
        let mut command = self.plain_command();
        let output = command
            .args(["--no-pager", "--lines=0"])
            .stdout(Stdio::null())
            .output()?;
        let words = String::from_utf8_lossy(&output.stderr);
        if words.contains("not seeing messages from other users")
            || words.contains("insufficient permissions")
        {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "other users' entries may not be read: run as root or in the group systemd-journal",
            ));
        }
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = self.plain_command();
        command.args(["--no-pager", "--output=json"]);
        command
    }

    fn plain_command(&self) -> Command {
        let mut command = Command::new("journalctl");
        command
            .stdin(Stdio::null())
            .env("LC_ALL", "C")
            .env("SYSTEMD_COLORS", "0");
        if let Some(directory) = &self.directory {
            let mut option = std::ffi::OsString::from("--directory=");
            option.push(directory);
            command.arg(option);
        }
        command
    }

    /// The time of the first entry of any kind; nothing of an empty journal, or one that may not be read.
    ///
    /// # Errors
    /// That journalctl cannot be run.
    pub fn begins(&self) -> io::Result<Option<Moment>> {
        #[derive(serde::Deserialize)]
        struct First {
            #[serde(rename = "__REALTIME_TIMESTAMP")]
            time: String,
        }
        let mut child = Running(
            self.command()
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?,
        );
        let Some(stdout) = child.0.stdout.take() else {
            return Ok(None);
        };
        let mut first = Vec::new();
        let limit = u64::try_from(journal::MAX_ENTRY).unwrap_or(u64::MAX);
        BufReader::new(stdout).take(limit).read_until(b'\n', &mut first)?;
        let first = serde_json::from_slice::<First>(&first).ok();
        Ok(first
            .and_then(|first| first.time.parse().ok())
            .map(Moment::from_micros))
    }

    /// Reads all entries from `since` on.
    ///
    /// # Errors
    /// That journalctl cannot be run or says that it cannot read; `sink`'s.
    pub fn read(&self, since: Moment, trust: &Trust, sink: Sink<'_>) -> Result<Source, ReadError> {
        self.shows_all()?;
        let mut command = self.command();
        if since != Moment::MIN {
            command.arg(format!("--since=@{}", since.secs().max(0)));
        }
        command.args(IDENTIFIERS.map(|name| format!("SYSLOG_IDENTIFIER={name}")));
        let mut child = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
        let complaint = child.0.stderr.take().map(|stderr| {
            std::thread::spawn(move || {
                let mut kept = Vec::new();
                let mut stderr = stderr;
                // What cannot be read is not told; the rest is drained, so that journalctl never waits for us.
                let _ = stderr.by_ref().take(MAX_COMPLAINT).read_to_end(&mut kept);
                let _ = io::copy(&mut stderr, &mut io::sink());
                kept
            })
        });
        let mut source = Source {
            name: "journal".to_owned(),
            ..Source::default()
        };
        if let Some(stdout) = child.0.stdout.take() {
            let too_long = lines::for_each(BufReader::new(stdout), journal::MAX_ENTRY, |line| {
                match journal::entry(line, trust) {
                    Entry::Event(event) => {
                        source.events = source.events.saturating_add(1);
                        sink(&event)?;
                    }
                    Entry::Forged => source.forged = source.forged.saturating_add(1),
                    // `-- No entries --` stands among them.
                    Entry::Malformed if !line.starts_with(b"--") => {
                        source.unreadable = source.unreadable.saturating_add(1);
                    }
                    Entry::Malformed | Entry::Other => {}
                }
                Ok::<(), ReadError>(())
            })?;
            source.unreadable = source.unreadable.saturating_add(too_long);
        }
        let status = child.0.wait()?;
        let complaint = complaint
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        let complaint = String::from_utf8_lossy(&complaint);
        if !status.success() {
            let words = complaint.lines().next().unwrap_or_default();
            return Err(io::Error::other(format!("journalctl: {}", crate::escape::text(words))).into());
        }
        Ok(source)
    }
}

/// A child that does not outlive its reader.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, which is all that is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The log files below `root` that sshd's lines go to, the oldest first: `auth.log` (Debian) and `secure` (RHEL,
/// Amazon Linux) with what logrotate made of them: `.1`, `.2.gz`, `-20250126`, `-20250126.gz`.
///
/// # Errors
/// That the directory cannot be read.
pub fn log_files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join("var/log"))? {
        let entry = entry?;
        if is_auth_log(entry.file_name().as_bytes()) {
            let modified = entry.metadata()?.modified()?;
            files.push((modified, entry.path()));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

fn is_auth_log(name: &[u8]) -> bool {
    let name = name.strip_suffix(b".gz").unwrap_or(name);
    ["auth.log", "secure"]
        .iter()
        .any(|base| match name.strip_prefix(base.as_bytes()) {
            Some([]) => true,
            Some([b'.' | b'-', digits @ ..]) => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
            _ => false,
        })
}

/// A file, plain or gzip.
fn open(path: &Path) -> io::Result<(Box<dyn BufRead>, Moment)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let modified = jiff::Timestamp::try_from(metadata.modified()?).map_or(Moment::MAX, Moment::from);
    let mut file = BufReader::new(file);
    let gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    let file: Box<dyn BufRead> = if gzip {
        Box::new(BufReader::new(MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    };
    Ok((file, modified))
}

/// Reads one log file: lines from `since` on and before `until`.
///
/// Twice, where its lines have no year: the year of the last line follows from the file's own time, that of the
/// first from how many years turned between.
///
/// # Errors
/// The file's; `sink`'s.
pub fn log_file(
    path: &Path,
    since: Moment,
    until: Moment,
    zone: &TimeZone,
    sink: Sink<'_>,
) -> Result<Source, ReadError> {
    let mut source = Source {
        name: crate::escape::text(path.as_os_str().as_bytes()).to_string(),
        ..Source::default()
    };
    let (file, modified) = open(path)?;
    if modified < since {
        return Ok(source);
    }
    let mut turns = Turns::default();
    lines::for_each(file, syslog::MAX_LINE, |line| {
        if let Some(line) = syslog::line(line) {
            turns.see(line.stamp);
        }
        Ok::<(), ReadError>(())
    })?;
    let mut years = turns.years(modified, zone.clone());
    let (file, _) = open(path)?;
    let too_long = lines::for_each(file, syslog::MAX_LINE, |line| {
        let parts = syslog::line(line).and_then(|line| Some((line, years.moment(line.stamp)?)));
        let Some((line, time)) = parts else {
            source.unreadable = source.unreadable.saturating_add(1);
            return Ok(());
        };
        if let Some(event) = line.event(time).filter(|_| since <= time && time < until) {
            source.events = source.events.saturating_add(1);
            sink(&event)?;
        }
        Ok::<(), ReadError>(())
    })?;
    source.unreadable = source.unreadable.saturating_add(too_long);
    Ok(source)
}

/// The deepest tree that CloudTrail's files are looked for in: S3's
/// `AWSLogs/o-ORG/ACCOUNT/CloudTrail/REGION/YYYY/MM/DD` and a prefix before.
const MAX_DEPTH: usize = 32;

/// Reads CloudTrail's files: one, or all `.json` and `.json.gz` of a tree. What is wrong with a file is told to
/// `complain`, and the others are read nevertheless.
///
/// # Errors
/// [`TooMany`].
pub fn cloudtrail(
    path: &Path,
    wanted: &Wanted,
    complain: &mut dyn FnMut(&Path, &io::Error),
) -> Result<(Pushes, Tally, Trail), TooMany> {
    let mut progress = Progress::new(path);
    let mut pushes = Pushes::default();
    let mut tally = Tally::default();
    let mut files: u64 = 0;
    let mut too_many = false;
    let mut complaints = Vec::new();
    walk(path, 0, &mut |file| {
        if too_many {
            return;
        }
        let take = |push: Push| {
            // Checked again below: here it only keeps one file from filling the memory.
            if pushes.len() <= MAX_ROWS && wanted.wants(&push) {
                pushes.add(push);
            }
        };
        let outcome = File::open(file).and_then(|file| cloudtrail::read(BufReader::new(file), take));
        match outcome {
            Ok(found) => {
                tally.add(found);
                files = files.saturating_add(1);
            }
            Err(error) => complaints.push((file.to_owned(), error)),
        }
        too_many = pushes.len() > MAX_ROWS || complaints.len() > MAX_ROWS;
        progress.step(tally.events);
    })
    .unwrap_or_else(|(path, error)| complaints.push((path, error)));
    progress.clear();
    for (path, error) in &complaints {
        complain(path, error);
    }
    if too_many {
        return Err(TooMany);
    }
    let trail = Trail {
        files,
        events: tally.events,
        pushes: pushes.len(),
        earliest: tally.span.map(|(earliest, _)| earliest),
        latest: tally.span.map(|(_, latest)| latest),
    };
    Ok((pushes, tally, trail))
}

/// Calls `take` for `path`, or for each JSON file below it. Links within the tree are not followed.
fn walk(path: &Path, depth: usize, take: &mut dyn FnMut(&Path)) -> Result<(), (PathBuf, io::Error)> {
    let told = |error| (path.to_owned(), error);
    if !fs::metadata(path).map_err(told)?.is_dir() {
        take(path);
        return Ok(());
    }
    if depth >= MAX_DEPTH {
        return Err(told(io::Error::other("the tree is too deep")));
    }
    for entry in fs::read_dir(path).map_err(told)? {
        let entry = entry.map_err(told)?;
        let kind = entry.file_type().map_err(told)?;
        if kind.is_dir() {
            walk(&entry.path(), depth.saturating_add(1), take)?;
        } else if kind.is_file() && is_json(&entry.file_name()) {
            take(&entry.path());
        }
    }
    Ok(())
}

fn is_json(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.ends_with(b".json") || name.ends_with(b".json.gz")
}

/// A bar on standard error, where that is a terminal.
struct Progress {
    /// All files; none where nobody sees it.
    total: Option<u64>,
    done: u64,
    drawn: Option<Instant>,
}

/// How often the bar is drawn.
const REDRAW: Duration = Duration::from_millis(100);

/// The bar's length in characters.
const BAR: u64 = 30;

impl Progress {
    fn new(path: &Path) -> Self {
        let mut files: u64 = 0;
        let counted = io::stderr().is_terminal().then(|| {
            // What cannot be read is told when it is read.
            let _ = walk(path, 0, &mut |_| files = files.saturating_add(1));
        });
        Self {
            total: counted.map(|()| files),
            done: 0,
            drawn: None,
        }
    }

    fn step(&mut self, events: u64) {
        self.done = self.done.saturating_add(1);
        let Some(total) = self.total else { return };
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        let full = self
            .done
            .saturating_mul(BAR)
            .checked_div(total)
            .unwrap_or(BAR)
            .min(BAR);
        let part = |n: u64, sign: &str| sign.repeat(usize::try_from(n).unwrap_or_default());
        let bar = format!("{}{}", part(full, "#"), part(BAR.saturating_sub(full), "."));
        draw(&format!("\r[{bar}] {}/{total} files, {events} events", self.done));
    }

    fn clear(&self) {
        if self.drawn.is_some() {
            draw("\r\x1b[K");
        }
    }
}

/// A bar that cannot be drawn is no failure.
fn draw(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// The instance that this host is, if the host itself says so.
#[must_use]
pub fn this_instance() -> Option<Safe> {
    let host = crate::instance::Host::detect(Path::new("/sys"), None).ok()?;
    host.known_id().map(|id| Safe::new(id.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_logs_are_found_and_others_are_not() {
        for name in [
            "auth.log",
            "secure",
            "auth.log.1",
            "auth.log.2.gz",
            "secure-20250126",
            "secure-20250126.gz",
        ] {
            assert!(is_auth_log(name.as_bytes()), "{name}");
        }
        for name in [
            "auth.log.bak",
            "auth.logx",
            "secure.",
            "securetty",
            "auth.log.1.xz",
            "syslog",
        ] {
            assert!(!is_auth_log(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn accounts_of_an_image_come_from_its_own_file() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nec2-instance-connect:x:4711:1::/:/x\n",
        )
        .unwrap();
        let accounts = Accounts::new(root.path());
        assert_eq!(accounts.uid("ec2-instance-connect"), Some(4711));
        assert_eq!(accounts.uid("ec2-instance"), None);
    }
}
