//! A real sshd that runs the shipped helper, and a real ssh into it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use eic_simulator::Simulator;

use super::machine::sh;
use super::run::HELPER;

const SSHD: &str = "/usr/sbin/sshd";

/// An sshd of the test's own.
pub struct Sshd {
    child: Child,
    address: String,
    port: u16,
    directory: tempfile::TempDir,
}

impl Sshd {
    /// Starts sshd on `address`, with `command` as its AuthorizedKeysCommand, run as `user`.
    pub fn start(address: &str, command: &str, user: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        sh(&format!(
            "ssh-keygen -q -t ed25519 -N '' -f {0}/host; ssh-keygen -q -t ed25519 -N '' -f {0}/key; ssh-keygen -q -t ed25519 -N '' -f {0}/other",
            directory.path().display()
        ));
        let port = TcpListener::bind((address, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "ListenAddress {address}\nPort {port}\nHostKey {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nAuthorizedKeysFile none\n\
             AuthorizedKeysCommand {command}\nAuthorizedKeysCommandUser {user}\nLogLevel VERBOSE\n",
            path("host").display()
        );
        fs::write(path("sshd_config"), config).unwrap();
        if super::is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        // From 9.8 sshd shuts out an address after failures, and these tests fail logins on purpose.
        let known = Command::new(SSHD)
            .args(["-T", "-f"])
            .arg(path("sshd_config"))
            .output()
            .unwrap();
        if String::from_utf8_lossy(&known.stdout)
            .to_ascii_lowercase()
            .contains("\npersourcepenalties")
        {
            sh(&format!(
                "echo 'PerSourcePenalties no' >>{}",
                path("sshd_config").display()
            ));
        }
        let log = fs::File::create(path("log")).unwrap();
        let child = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(path("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd starts");
        let sshd = Self {
            child,
            address: address.to_owned(),
            port,
            directory,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((address, port)).is_err() {
            assert!(Instant::now() < deadline, "sshd does not listen: {}", sshd.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        sshd
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn public_key(&self, name: &str) -> String {
        fs::read_to_string(self.file(&format!("{name}.pub"))).unwrap()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The SHA-256 fingerprint of a key, as sshd's %f has it.
    pub fn fingerprint(&self, name: &str) -> String {
        let line = sh(&format!(
            "ssh-keygen -lf {}",
            self.file(&format!("{name}.pub")).display()
        ));
        line.split(' ').nth(1).unwrap().to_owned()
    }

    /// ssh with this key, as `user`, to run a command.
    pub fn ssh(&self, user: &str, key: &str) -> Output {
        self.ssh_with(user, key, &["-o", "LogLevel=ERROR"])
    }

    /// The same with options of the caller's own.
    pub fn ssh_with(&self, user: &str, key: &str, options: &[&str]) -> Output {
        self.session(user, key, options, "echo logged in as $USER")
    }

    /// The same to run a script of the caller's own.
    pub fn session(&self, user: &str, key: &str, options: &[&str], script: &str) -> Output {
        Command::new("ssh")
            .args([
                "-F",
                "/dev/null",
                "-o",
                "BatchMode=yes",
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "IdentityAgent=none",
            ])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args(options)
            .args(["-p", &self.port.to_string(), "-i"])
            .arg(self.file(key))
            .arg(format!("{user}@{}", self.address))
            .arg(script)
            .stdin(Stdio::null())
            .output()
            .expect("ssh starts")
    }

    #[track_caller]
    pub fn lets_in(&self, user: &str, key: &str) {
        let output = self.ssh(user, key);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            text.trim(),
            format!("logged in as {user}"),
            "{output:?}\n{}",
            self.log()
        );
    }

    /// Whether ssh with this key gets in, whatever sshd says of it.
    pub fn admits(&self, user: &str, key: &str) -> bool {
        self.ssh(user, key).status.success()
    }

    #[track_caller]
    pub fn keeps_out(&self, user: &str, key: &str) {
        let output = self.ssh(user, key);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains("Permission denied"),
            "{output:?}\n{}",
            self.log()
        );
        assert!(
            !self.log().contains("AuthorizedKeysCommand"),
            "sshd complains of the command: {}",
            self.log()
        );
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn tools(test: &str) -> bool {
    let there = Path::new(SSHD).exists() && Command::new("ssh").arg("-V").output().is_ok();
    if !there {
        super::skip(test, "needs sshd and ssh");
    }
    there
}

pub fn myself() -> String {
    sh("id -un").trim().to_owned()
}

/// Through `/usr/bin/env`, which is root's as sshd demands, so that this works without root and from any directory.
pub fn command(simulator: &Simulator) -> String {
    format!(
        "/usr/bin/env {HELPER} --config {} %u %f",
        simulator.config_file().display()
    )
}
