//! A process of ours, started by posix_spawn(3), and the pipe that it writes to.
//!
//! The standard library's `Command` would do. But the loader binds every symbol of libc that a program names when it
//! starts, wanted or not, and `Command` brings thirty: each login would pay for links that nobody configured. For the
//! same reason what can be asked of the kernel directly is asked by rustix, which names none.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SIGPIPE, SigSet};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// Which group of processes it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Its parent's.
    Parents,
    /// One of its own, named by its own number.
    Own,
}

/// A child.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    /// What it prints, until somebody takes it.
    pub stdout: Option<File>,
}

impl Process {
    /// Starts `program`, whose argument 0 is `arguments`' first. It reads /dev/null, its errors go there, no signal is
    /// held back from it or ignored, and it has the environment given and no more. Its working directory is ours.
    ///
    /// # Errors
    /// The kernel's. A glibc before 2.24 does not tell that a program can't be executed: the process then ends with 127.
    pub fn start(
        program: &Path,
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (impl AsRef<OsStr>, OsString)>,
        group: Group,
    ) -> io::Result<Self> {
        let arguments = arguments
            .into_iter()
            .map(|argument| Ok(CString::new(argument.into_vec())?));
        let variables = environment.into_iter().map(|(name, value)| {
            let pair = [name.as_ref().as_bytes(), value.as_bytes()].join(&b'=');
            Ok(CString::new(pair)?)
        });
        let arguments: Vec<CString> = arguments.collect::<io::Result<_>>()?;
        let variables: Vec<CString> = variables.collect::<io::Result<_>>()?;

        let (stdout, its_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let mut files = PosixSpawnFileActions::init()?;
        files.add_dup2(null.as_raw_fd(), 0)?;
        files.add_dup2(its_stdout.as_raw_fd(), 1)?;
        files.add_dup2(null.as_raw_fd(), 2)?;
        let mut manner = PosixSpawnAttr::init()?;
        // What the keeper blocks, and what Rust's start ignores.
        manner.set_sigmask(&SigSet::empty())?;
        manner.set_sigdefault(&SIGPIPE.into())?;
        let mut flags = PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
        if group == Group::Own {
            // The attribute's default, 0, is the group of its own number.
            flags |= PosixSpawnFlags::POSIX_SPAWN_SETPGROUP;
        }
        manner.set_flags(flags)?;
        let pid = posix_spawn(program, &files, &manner, &arguments, &variables)?;
        Ok(Self {
            pid: Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound)?,
            stdout: Some(File::from(stdout)),
        })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended, if it has. To be asked no more once it said so.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        match waitpid(Some(self.pid), WaitOptions::NOHANG) {
            Ok(ended) => Ok(ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw()))),
            Err(Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        loop {
            match waitpid(Some(self.pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => return Ok(ExitStatus::from_raw(status.as_raw())),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends it a signal. It may have ended or belong to another user by now: nothing is to be done about that.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }
}
