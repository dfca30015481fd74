//! The links of one login: started early, beside our own conversation with the metadata, and listened to at its end.
//!
//! Each runs under its [`keeper`]. From here on only the pipe to that is read: a process that may open
//! nothing and signal nobody can still [collect](Links::collect).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Signal, getpid};

use super::keeper::{self, MAX_HEADER, Order};
use super::lines::{Lines, MAX_OUTPUT};
use super::process::Process;
use super::{Link, When};
use crate::config::Config;
use crate::file;
use crate::reason::{Reason, Refusal};
use crate::request::Words;

/// What a keeper gets beyond its link's time: to start, to end what the link left running, and to say so.
pub(crate) const GRACE: Duration = Duration::from_millis(300);

/// What came of one link.
#[derive(Debug)]
pub struct Outcome {
    /// The link's name.
    pub name: String,
    /// Its lines, or why there are none.
    pub lines: Result<Lines, Refusal>,
    /// From its start to its verdict.
    pub elapsed: Duration,
}

/// The links of one login.
#[derive(Debug)]
pub struct Links<'a> {
    links: Vec<(&'a Link, State)>,
    /// When the whole login began.
    begun: Instant,
    /// How long it may take.
    whole: Duration,
}

#[derive(Debug)]
enum State {
    /// Waiting for word that there is no key, with the arguments for this login.
    Waiting(Result<Vec<OsString>, Refusal>),
    Running {
        keeper: Process,
        since: Instant,
        timeout: Duration,
    },
    /// It could not be started.
    Refused(Refusal),
}

impl<'a> Links<'a> {
    /// Starts the links that are always asked.
    #[must_use]
    pub fn start(config: &'a Config, words: &Words) -> Self {
        let waiting = |link: &'a Link| (link, State::Waiting(link.command().expand(words)));
        let mut links = Self {
            links: config.chain.iter().map(waiting).collect(),
            begun: Instant::now(),
            whole: config.imds.total_timeout,
        };
        links.start_those(|link| link.when == When::Always);
        links
    }

    /// No link: for those who look at our own decision alone.
    #[must_use]
    pub fn none() -> Self {
        Self {
            links: Vec::new(),
            begun: Instant::now(),
            whole: Duration::ZERO,
        }
    }

    /// Whether there is a keeper to listen to.
    #[must_use]
    pub fn are_running(&self) -> bool {
        let is_running = |state: &State| matches!(state, State::Running { .. });
        self.links.iter().any(|(_, state)| is_running(state))
    }

    /// The latest moment at which those that wait can be started and still have their time: word on our own keys may
    /// take longer. `None` where none waits.
    #[must_use]
    pub fn latest_start(&self) -> Option<Instant> {
        let waiting = self
            .links
            .iter()
            .filter(|(_, state)| matches!(state, State::Waiting(_)));
        let longest = waiting.map(|(link, _)| link.timeout).max()?;
        self.begun.checked_add(self.whole.saturating_sub(longest))
    }

    /// Starts those that still wait.
    pub fn start_waiting(&mut self) {
        self.start_those(|_| true);
    }

    fn start_those(&mut self, wanted: impl Fn(&Link) -> bool) {
        for (link, state) in &mut self.links {
            let State::Waiting(arguments) = state else {
                continue;
            };
            if wanted(link) {
                let left = self.whole.saturating_sub(self.begun.elapsed());
                let arguments = std::mem::replace(arguments, Ok(Vec::new()));
                *state = arguments
                    .and_then(|arguments| start(link, &arguments, link.timeout.min(left)))
                    .unwrap_or_else(State::Refused);
            }
        }
    }

    /// Listens to each link until its time is over, and gives what came of it, in the configuration's order. With
    /// `have_key`, those that are asked only without one are ended and say nothing.
    #[must_use]
    pub fn collect(self, have_key: bool) -> Vec<Outcome> {
        let (heard, unheard): (Vec<_>, Vec<_>) = self
            .links
            .into_iter()
            .partition(|(link, _)| link.when == When::Always || !have_key);
        // These first: they end while the others are listened to.
        for (_, state) in &unheard {
            if let State::Running { keeper, .. } = state {
                keeper.signal(Signal::TERM);
            }
        }
        let outcomes = heard
            .into_iter()
            .filter_map(|(link, state)| outcome(link, state))
            .collect();
        for (_, state) in unheard {
            if let State::Running { mut keeper, .. } = state {
                if let Some(pipe) = keeper.stdout.take() {
                    let _ = listen(pipe, Instant::now().checked_add(GRACE));
                }
                let _ = keeper.try_wait();
            }
        }
        outcomes
    }
}

/// A program that sshd itself would run (misc.c, `safe_path`) is started behind its symlinks, so that it is the one
/// that was looked at.
fn start(link: &Link, arguments: &[OsString], timeout: Duration) -> Result<State, Refusal> {
    let command = link.command();
    let program =
        file::safe_program(command.program()).map_err(|what| Refusal::new(Reason::LinkPath, what))?;
    let order = Order {
        program: &program,
        name: command.program(),
        arguments,
        timeout,
    };
    let since = Instant::now();
    let keeper = order
        .start(getpid())
        .map_err(|error| Refusal::new(Reason::LinkFailed, format!("no keeper: {error}")))?;
    Ok(State::Running {
        keeper,
        since,
        timeout,
    })
}

fn outcome(link: &Link, state: State) -> Option<Outcome> {
    let (lines, elapsed) = match state {
        State::Waiting(_) => return None,
        State::Refused(refusal) => (Err(refusal), Duration::ZERO),
        State::Running {
            mut keeper,
            since,
            timeout,
        } => {
            // Also when another link has taken that time already: what is there can be read still.
            let deadline = since
                .checked_add(timeout)
                .map(|end| end.max(Instant::now()))
                .and_then(|end| end.checked_add(GRACE));
            let lines = heard(&mut keeper, deadline, timeout).and_then(Lines::new);
            (lines, since.elapsed())
        }
    };
    Some(Outcome {
        name: link.name.clone(),
        lines,
        elapsed,
    })
}

/// A keeper's verdict.
pub(crate) fn heard(
    keeper: &mut Process,
    deadline: Option<Instant>,
    timeout: Duration,
) -> Result<Vec<u8>, Refusal> {
    let failed =
        |error: io::Error| Refusal::new(Reason::LinkFailed, format!("its keeper is not heard: {error}"));
    let pipe = keeper
        .stdout
        .take()
        .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let text = listen(pipe, deadline).map_err(|error| {
        // It ends its command and itself. Where we may not ask it to, our own end does.
        keeper.signal(Signal::TERM);
        if error.kind() == io::ErrorKind::TimedOut {
            let detail = format!("no end within {} ms", timeout.as_millis());
            Refusal::new(Reason::LinkTimeout, detail)
        } else {
            failed(error)
        }
    })?;
    // It has closed its side and is as good as gone.
    let status = keeper.wait().map_err(failed)?;
    if status.success() {
        keeper::verdict(&text)
    } else {
        Err(Refusal::new(Reason::LinkFailed, "its keeper was ended"))
    }
}

/// Reads to the end of a pipe.
fn listen(mut pipe: File, deadline: Option<Instant>) -> io::Result<Vec<u8>> {
    let limit = MAX_OUTPUT.saturating_add(MAX_HEADER);
    let mut text = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let left = deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
            .unwrap_or_default();
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(_) => {}
        }
        match pipe.read(&mut chunk)? {
            0 => return Ok(text),
            length => text.extend_from_slice(chunk.get(..length).unwrap_or_default()),
        }
        if text.len() > limit {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}
