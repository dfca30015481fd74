//! Running a tool to its end, with a deadline.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Where tools are looked for. An administrator's PATH has no say in what runs as root.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a tool that only reads may take. `sshd -T` may ask a directory service for a user.
pub const TOOL_TIME: Duration = Duration::from_secs(30);

/// How often a running tool is looked at.
const POLL: Duration = Duration::from_millis(5);

/// What a tool said.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a command to its end with `input` on its standard input.
///
/// # Errors
/// When it can't be started, or takes longer than `limit`; then it is killed.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> io::Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // A tool that does not read its input closes the pipe; that is its own affair.
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input)));
        let out = scope.spawn(move || drain(stdout));
        let err = scope.spawn(move || drain(stderr));
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Ok(status);
            }
            if started.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                break Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {} s", limit.as_secs()),
                ));
            }
            thread::sleep(POLL);
        };
        let stdout = out.join().unwrap_or_default();
        let stderr = String::from_utf8_lossy(&err.join().unwrap_or_default()).into_owned();
        Ok(Output {
            status: status?,
            stdout,
            stderr,
        })
    })
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What could be read until an error is all there is.
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// A tool from the trusted directories, with a plain environment.
#[must_use]
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .current_dir("/");
    command
}
