//! The keeper: the process between us and one link's command.
//!
//! It is this program again, called with [`WORD`]. It holds the command's output, its deadline and whatever the
//! command starts, and gives its caller a verdict only when all of that has come to an end:
//!
//! * the command is a group of its own, so that no `kill 0` of a script reaches sshd or us (sshd demands that *we* stay
//!   in its group: it ends the group when a login takes too long, see `grace_alarm_handler` in its sshd.c);
//! * what leaves that group is caught all the same, since the keeper is the subreaper of what it started (prctl(2));
//! * it is told of its caller's death, so that nothing outlives us, however we end;
//! * its caller needs no more than a pipe to read, and no right to see or signal another process.
//!
//! A process that became another user's (a set-user-ID program) can't be ended; it is not waited for either.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal as Caught};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fs::{CWD, Dir, DirEntry, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, chdir, getpid, getppid, kill_process, kill_process_group, set_child_subreaper,
    set_parent_process_death_signal, wait,
};

use super::lines::{MAX_OUTPUT, too_large};
use super::process::{Group, Process};
use crate::reason::{Reason, Refusal};
use crate::stat::Stat;

/// The first word of a keeper's command line. sshd never puts a login name in that place with as many words after it.
pub const WORD: &str = "--link";

/// This program, whatever it is called and wherever it is.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// What sshd gives its command of an environment (auth.c, `subprocess`); the command gets no more of it.
pub const ENVIRONMENT: [&str; 5] = ["PATH", "LANG", "USER", "LOGNAME", "HOME"];

/// How a verdict begins that has lines; the number of bytes follows.
const GAVE: &str = "gave ";

/// A verdict's first line is no longer: a code, and a sentence of ours.
pub const MAX_HEADER: usize = 1024;

/// How long what a command left running is hunted. Each round ends a generation, and a round takes microseconds.
const HUNT_TIME: Duration = Duration::from_millis(200);

/// Between two looks at what does not end at once, in milliseconds.
const HUNT_PAUSE: u8 = 2;

/// How much is read at once: a pipe's capacity (pipe(7)).
const CHUNK: usize = 64 * 1024;

/// What a keeper is to run.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// The program, symlinks resolved.
    pub program: &'a Path,
    /// What it is told it is called.
    pub name: &'a Path,
    /// Its arguments.
    pub arguments: &'a [OsString],
    /// How long it may take.
    pub timeout: Duration,
}

impl Order<'_> {
    /// Starts a keeper for `caller`, in the environment that sshd gave us.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(&self, caller: Pid) -> io::Result<Process> {
        self.start_in(&[WORD.as_ref()], caller, environment())
    }

    /// Starts this program with `words`, then with what a keeper for `caller` is told.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start_in(
        &self,
        words: &[&OsStr],
        caller: Pid,
        environment: impl IntoIterator<Item = (&'static str, OsString)>,
    ) -> io::Result<Process> {
        let told = [
            self.timeout.as_millis().to_string().into(),
            caller.to_string().into(),
            self.program.into(),
            self.name.into(),
        ];
        let words = std::iter::once(THIS_PROGRAM.into()).chain(words.iter().map(OsString::from));
        let arguments = words.chain(told).chain(self.arguments.iter().cloned());
        Process::start(Path::new(THIS_PROGRAM), arguments, environment, Group::Parents)
    }
}

/// What of our environment a command gets.
fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    ENVIRONMENT
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Runs a keeper, if that is what the arguments (without the program's name) ask for.
pub fn asked(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.next()? != WORD {
        return None;
    }
    let mut number = || arguments.next()?.to_str()?.parse::<u32>().ok();
    let (timeout, caller) = (number()?, number()?);
    let (program, name) = (arguments.next()?, arguments.next()?);
    let arguments: Vec<OsString> = arguments.collect();
    let order = Order {
        program: program.as_ref(),
        name: name.as_ref(),
        arguments: &arguments,
        timeout: Duration::from_millis(timeout.into()),
    };
    let caller = Pid::from_raw(i32::try_from(caller).ok()?)?;
    Some(keep(&order, caller).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

/// Reads a verdict, whole: the output of a command that ended well, or why there is none.
///
/// # Errors
/// One of the `link-…` reasons.
pub fn verdict(text: &[u8]) -> Result<Vec<u8>, Refusal> {
    let lost = || Refusal::new(Reason::LinkFailed, "its keeper was ended");
    let end = text.iter().position(|byte| *byte == b'\n').ok_or_else(lost)?;
    let (header, rest) = text.split_at_checked(end).ok_or_else(lost)?;
    let header = std::str::from_utf8(header).map_err(|_| lost())?;
    let output = rest.get(1..).unwrap_or_default();
    if let Some(length) = header.strip_prefix(GAVE) {
        // Less than all of it is nothing: a cut line could mean something else.
        let whole = length == output.len().to_string();
        return whole.then(|| output.to_vec()).ok_or_else(lost);
    }
    let (code, detail) = header.split_once(' ').ok_or_else(lost)?;
    let reasons = [Reason::LinkFailed, Reason::LinkTimeout, Reason::LinkTooLarge];
    let reason = reasons.into_iter().find(|reason| reason.code() == code);
    Err(Refusal::new(reason.ok_or_else(lost)?, detail.to_owned()))
}

fn keep(order: &Order<'_>, caller: Pid) -> io::Result<()> {
    let deadline = Instant::now()
        .checked_add(order.timeout)
        .unwrap_or_else(Instant::now);
    close_inherited()?;
    // What its command starts in, whatever sshd's is.
    chdir("/")?;
    set_parent_process_death_signal(Some(Signal::TERM))?;
    if getppid() != Some(caller) {
        // It died before it could be watched.
        return Ok(());
    }
    set_child_subreaper(Some(getpid()))?;
    // SIGTERM is the caller's end, or sshd's word that the login takes too long.
    let watched: SigSet = [
        Caught::SIGTERM,
        Caught::SIGHUP,
        Caught::SIGINT,
        Caught::SIGQUIT,
        Caught::SIGCHLD,
    ]
    .into_iter()
    .collect();
    watched.thread_block()?;
    let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;

    let verdict = match start(order) {
        Ok(mut child) => {
            let outcome = watch(&mut child, &signals, deadline, order.timeout);
            end_all(&child);
            outcome
        }
        Err(error) => Err(Refusal::new(
            Reason::LinkFailed,
            format!("it can't be started: {error}"),
        )),
    };
    let text = match verdict {
        Ok(output) => [format!("{GAVE}{}\n", output.len()).into_bytes(), output].concat(),
        Err(refusal) => format!("{} {}\n", refusal.reason, refusal.detail).into_bytes(),
    };
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    stdout.write_all(&text)
}

/// Closes what a careless caller of our caller left open: a command gets three descriptors and no other.
fn close_inherited() -> io::Result<()> {
    for number in numbers_in("/proc/self/fd")?
        .into_iter()
        .filter(|number| *number > 2)
    {
        // The directory's own is among them, and closed by now.
        let _ = nix::unistd::close(number);
    }
    Ok(())
}

/// The names in a directory of /proc that are numbers.
fn numbers_in(directory: &str) -> io::Result<Vec<i32>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let entries = Dir::new(openat(CWD, directory, flags, Mode::empty())?)?;
    let number = |entry: DirEntry| entry.file_name().to_str().ok()?.parse::<i32>().ok();
    let numbers = entries.filter_map(|entry| entry.map(number).transpose());
    Ok(numbers.collect::<Result<_, Errno>>()?)
}

fn start(order: &Order<'_>) -> io::Result<Process> {
    let arguments = std::iter::once(order.name.into()).chain(order.arguments.iter().cloned());
    // The working directory is the keeper's own.
    Process::start(order.program, arguments, environment(), Group::Own)
}

/// Waits until the command has ended, and takes its output.
fn watch(
    child: &mut Process,
    signals: &SignalFd,
    deadline: Instant,
    timeout: Duration,
) -> Result<Vec<u8>, Refusal> {
    let failed = |error: io::Error| Refusal::new(Reason::LinkFailed, format!("it can't be watched: {error}"));
    let mut output = Vec::new();
    let mut pipe = child.stdout.take();
    if let Some(pipe) = &pipe {
        fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| failed(error.into()))?;
    }
    loop {
        // Asked first: what it wrote before its end is in the pipe by now, whoever else holds the other side.
        let status = child.try_wait().map_err(failed)?;
        let more = match &mut pipe {
            Some(pipe) => drain(pipe, &mut output)?,
            None => false,
        };
        if let Some(status) = status {
            return ended(status).map(|()| output);
        }
        if !more {
            pipe = None;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let detail = format!("no end within {} ms", timeout.as_millis());
            return Err(Refusal::new(Reason::LinkTimeout, detail));
        }
        let mut wanted = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        wanted.extend(
            pipe.as_ref()
                .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)),
        );
        // Rounded up, so that the last look is not one too early.
        let left = left.saturating_add(Duration::from_millis(1));
        match poll(
            &mut wanted,
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            if Caught::try_from(number) != Ok(Caught::SIGCHLD) {
                return Err(Refusal::new(Reason::LinkFailed, "its caller has gone"));
            }
        }
    }
}

/// Reads what is there; tells whether there can be more.
fn drain(pipe: &mut File, output: &mut Vec<u8>) -> Result<bool, Refusal> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(length) => output.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let detail = format!("its output can't be read: {error}");
                return Err(Refusal::new(Reason::LinkFailed, detail));
            }
        }
        if output.len() > MAX_OUTPUT {
            return Err(too_large());
        }
    }
}

/// As sshd has it: any other end than exit 0 throws the output away.
fn ended(status: ExitStatus) -> Result<(), Refusal> {
    let detail = match (status.code(), status.signal()) {
        (Some(0), _) => return Ok(()),
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => match Caught::try_from(signal) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => "it did not end".to_owned(),
    };
    Err(Refusal::new(Reason::LinkFailed, detail))
}

/// Ends the command and all that it started, as far as they are ours to end. Its orphans become our children, so
/// there is always somebody to find until there is nobody.
fn end_all(child: &Process) {
    // Its group has its number. Often there is nobody left.
    let _ = kill_process_group(child.pid(), Signal::KILL);
    let begun = Instant::now();
    while begun.elapsed() < HUNT_TIME {
        match wait(WaitOptions::NOHANG) {
            Ok(None) => {
                for pid in children() {
                    let _ = kill_process(pid, Signal::KILL);
                }
                // A pause: nothing is waited for.
                let _ = poll(&mut [], HUNT_PAUSE);
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            // ECHILD: nobody is left.
            Err(_) => return,
        }
    }
}

/// Our children, by their own word on who is their parent (proc_pid_stat(5)).
fn children() -> Vec<Pid> {
    let me = u32::try_from(getpid().as_raw_pid()).ok();
    let is_mine = |pid: &i32| {
        let text = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        Stat::parse(&text).is_some_and(|process| Some(process.parent) == me)
    };
    let pids = numbers_in("/proc").unwrap_or_default();
    pids.into_iter()
        .filter(is_mine)
        .filter_map(Pid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_whole_or_nothing() {
        assert_eq!(verdict(b"gave 3\na\nb").unwrap(), b"a\nb");
        assert_eq!(verdict(b"gave 0\n").unwrap(), b"");
        for cut in [
            &b""[..],
            b"gave 3",
            b"gave 3\na",
            b"gave 3\na\nbc",
            b"gave x\nabc",
            b"gave +0\n",
            b"nothing\n",
            b"no-key x\n",
            b"\xff\n",
        ] {
            assert_eq!(verdict(cut).unwrap_err().reason, Reason::LinkFailed, "{cut:?}");
        }
        let refusal = verdict(b"link-timeout no end within 50 ms\n").unwrap_err();
        assert_eq!(
            (refusal.reason, &*refusal.detail),
            (Reason::LinkTimeout, "no end within 50 ms")
        );
    }

    #[test]
    fn only_exit_status_0_is_an_end_that_counts() {
        // As wait(2) puts them.
        assert!(ended(ExitStatus::from_raw(0)).is_ok());
        for (status, words) in [
            (3 << 8, "exit status 3"),
            (9, "killed by SIGKILL"),
            (34, "killed by signal 34"),
            (19 << 8 | 0x7f, "it did not end"),
        ] {
            assert_eq!(ended(ExitStatus::from_raw(status)).unwrap_err().detail, words);
        }
    }

    #[test]
    fn other_command_lines_start_no_keeper() {
        for words in [
            &["ec2-user"][..],
            &[],
            &["--link"],
            &["--link", "SHA256:x"],
            &["--link", "1", "x", "/a", "a"],
        ] {
            assert!(asked(words.iter().map(OsString::from)).is_none(), "{words:?}");
        }
    }
}
