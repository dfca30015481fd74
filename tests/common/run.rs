//! The shipped helper, run as sshd runs it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use eic_simulator::Simulator;

/// The helper's binary.
pub const HELPER: &str = env!("CARGO_BIN_EXE_eic_run_authorized_keys");

/// What a run of the helper left.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What sshd would read.
    pub stdout: String,
    /// What a person at a terminal would see.
    pub stderr: String,
    /// The exit status; none for death by a signal.
    pub code: Option<i32>,
}

impl Outcome {
    /// The reasons that the person saw, in order.
    pub fn reasons(&self) -> Vec<&str> {
        let refused = self
            .stderr
            .lines()
            .filter(|line| line.starts_with("Refused EC2 Instance Connect keys for "));
        refused
            .filter_map(|line| line.split("reason=").nth(1)?.split(' ').next())
            .collect()
    }

    /// Exit 0 with exactly these keys, and nothing refused.
    #[track_caller]
    pub fn gave(&self, keys: &[&str]) {
        let expected: String = keys.iter().map(|key| format!("{key}\n")).collect();
        assert_eq!(
            (self.stdout.as_str(), self.code),
            (expected.as_str(), Some(0)),
            "{self:?}"
        );
    }

    /// Exit 0 with nothing on standard output, for this one reason.
    #[track_caller]
    pub fn refused(&self, reason: &str) {
        assert_eq!((self.stdout.as_str(), self.code), ("", Some(0)), "{self:?}");
        assert_eq!(self.reasons(), [reason], "{self:?}");
    }
}

/// Runs the helper with sshd's environment, its standard error a terminal.
pub fn helper<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Outcome {
    run(Command::new(HELPER).args(arguments))
}

/// Runs the helper against the simulator, for this user and any key.
pub fn login(simulator: &Simulator, user: &str) -> Outcome {
    with_config(&simulator.config_file(), &[user])
}

/// Runs the helper with this configuration.
pub fn with_config(config: &Path, words: &[&str]) -> Outcome {
    let config = config.to_str().unwrap();
    helper(["--config", config].iter().chain(words))
}

/// Runs a command with sshd's environment, its standard error a terminal.
pub fn run(command: &mut Command) -> Outcome {
    let terminal = nix::pty::openpty(None, None).unwrap();
    sshd_environment(command);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::from(terminal.slave))
        .spawn()
        .expect("the helper starts");
    // The command holds our copy of the slave; without it gone the terminal would never end.
    command.stderr(Stdio::null());
    let reader = std::thread::spawn(move || read_terminal(terminal.master));
    let mut stdout = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let code = child.wait().unwrap().code();
    Outcome {
        stdout,
        stderr: reader.join().unwrap(),
        code,
    }
}

/// What sshd gives to its command (`subprocess` in OpenSSH's misc.c).
pub fn sshd_environment(command: &mut Command) {
    command.stdin(Stdio::null()).env_clear().current_dir("/");
    command.envs([
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("USER", "x"),
        ("LOGNAME", "x"),
        ("HOME", "/"),
    ]);
}

/// Reads until the last writer is gone, which a terminal reports as EIO.
fn read_terminal(master: OwnedFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let mut master = File::from(master);
    while let Ok(read @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&text).replace("\r\n", "\n")
}
