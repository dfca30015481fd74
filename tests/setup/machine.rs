//! A throwaway machine: this one's files under an overlay, in namespaces of its own, with a real sshd.
//!
//! Everything below `/etc`, `/usr`, `/var` may be written; nothing of it is seen outside, and all of it is gone when
//! the machine is dropped. systemd is a stand-in (`systemctl.sh`) that starts, signals and counts; the package tests
//! use the real one.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

pub const DROPIN: &str = "/etc/ssh/sshd_config.d/60-ec2-instance-connect.conf";
pub const MAIN: &str = "/etc/ssh/sshd_config";
pub const DEB: &str = "/usr/share/ec2-instance-connect/eic_run_authorized_keys";
pub const RPM: &str = "/opt/aws/bin/eic_run_authorized_keys";
pub const HOLD: &str = "/etc/ec2-instance-connect/setup.off";
pub const STATE: &str = "/var/lib/ec2-instance-connect";

/// What Debian's openssh-server has in `sshd_config`, comments aside.
pub const DEFAULT: &str = "\
# This is the sshd server system-wide configuration file.

Include /etc/ssh/sshd_config.d/*.conf

#Port 22
KbdInteractiveAuthentication no
UsePAM yes
X11Forwarding yes
Subsystem\tsftp\t/usr/lib/openssh/sftp-server
";

/// The unit of Debian's openssh-server, shortened.
pub const UNIT: &str = "\
[Service]
EnvironmentFile=-/etc/default/ssh
ExecStartPre=/usr/sbin/sshd -t
ExecStart=/usr/sbin/sshd -D $SSHD_OPTS
ExecReload=/usr/sbin/sshd -t
ExecReload=/bin/kill -HUP $MAINPID
Type=notify
";

const SCRIPT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" machine "$1/root"
cd "$1/root"
mount --rbind /dev dev
mount --rbind /sys sys
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mkdir -p .old
pivot_root . .old
cd /
mount -t proc proc /proc
umount -l /.old
rmdir /.old
ip link set lo up
mkdir -p /run/systemd/system
echo ready
while :; do sleep 1; done
"#;

pub struct Machine {
    unshare: Child,
    init: u32,
    _dir: tempfile::TempDir,
}

/// One file as it must be again after an undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    mode: u32,
    owner: (u32, u32),
    content: Vec<u8>,
    attributes: BTreeMap<String, Vec<u8>>,
}

pub type Picture = BTreeMap<PathBuf, Entry>;

/// What a call of setup gave: status, JSON, standard error.
pub struct Answer {
    pub code: i32,
    pub json: serde_json::Value,
    pub stderr: String,
}

impl Answer {
    pub fn refusal(&self) -> &str {
        self.json["refusal"]["code"].as_str().unwrap_or("none")
    }

    pub fn result(&self) -> &str {
        self.json["result"].as_str().unwrap_or("none")
    }

    pub fn state(&self) -> &str {
        self.json["state"].as_str().unwrap_or("none")
    }

    pub fn notes(&self) -> Vec<&str> {
        let list = self.json["notices"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        list.iter().filter_map(|notice| notice["code"].as_str()).collect()
    }

    /// `FILE:LINE` of the refusal.
    pub fn place(&self) -> String {
        let refusal = &self.json["refusal"];
        format!("{}:{}", refusal["file"].as_str().unwrap_or("-"), refusal["line"])
    }
}

/// Says loudly why a test did not run. CI runs as root with every tool and skips none.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".into());
    }
    let tools = [
        "unshare",
        "nsenter",
        "sshd",
        "ssh-keygen",
        "ip",
        "useradd",
        "strace",
        "bash",
    ];
    let absent = |tool: &&&str| {
        !Command::new("sh")
            .args(["-c", &format!("command -v {tool}")])
            .output()
            .unwrap()
            .status
            .success()
    };
    tools.iter().find(absent).map(|tool| format!("no {tool}"))
}

#[macro_export]
macro_rules! machine {
    () => {
        match $crate::machine::missing() {
            Some(why) => {
                eprintln!("SKIPPED: {}:{}: {why}", file!(), line!());
                return;
            }
            None => $crate::machine::Machine::new(),
        }
    };
}

impl Machine {
    /// A machine with the Debian layout, the package's files and user, and no daemon running.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut unshare = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--net",
                "--kill-child",
                "bash",
                "-c",
                SCRIPT,
                "machine",
            ])
            .arg(dir.path())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(unshare.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n", "the machine did not come up");
        let init = child_of(unshare.id());
        let machine = Self {
            unshare,
            init,
            _dir: dir,
        };
        machine.furnish();
        machine
    }

    fn furnish(&self) {
        self.ok("rm -rf /etc/ssh/sshd_config.d /etc/ssh/ssh_host_* /etc/ec2-instance-connect /var/lib/ec2-instance-connect \
                 /usr/share/ec2-instance-connect /opt/aws /etc/systemd/system/ssh* \
                 /usr/lib/systemd/system/ssh.service.d /usr/lib/systemd/system/sshd.service.d /usr/sbin/policy-rc.d; \
                 mkdir -p /etc/ssh/sshd_config.d /etc/default /usr/lib/systemd/system; \
                 ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; \
                 getent passwd ec2-instance-connect >/dev/null || useradd -r -M -s /usr/sbin/nologin ec2-instance-connect");
        self.write(MAIN, DEFAULT);
        self.write("/etc/default/ssh", "SSHD_OPTS=\n");
        self.write("/usr/lib/systemd/system/ssh.service", UNIT);
        self.program("/usr/bin/systemctl", include_str!("systemctl.sh"));
        self.install_command(DEB);
        let binary = env!("CARGO_BIN_EXE_ec2-instance-connect");
        fs::copy(binary, self.path("/usr/bin/ec2-instance-connect")).unwrap();
    }

    /// The package's file and the symlink under which the world knows it.
    pub fn install_command(&self, link: &str) {
        self.program(
            "/usr/libexec/ec2-instance-connect/eic_run_authorized_keys",
            "#!/bin/sh\nexit 0\n",
        );
        let parent = Path::new(link).parent().unwrap();
        self.ok(&format!(
            "mkdir -p {} && ln -sf /usr/libexec/ec2-instance-connect/eic_run_authorized_keys {link}",
            parent.display()
        ));
    }

    /// A path of the machine as it is seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let real = self.path(path);
        fs::create_dir_all(real.parent().unwrap()).unwrap();
        fs::write(&real, text).unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    }

    pub fn program(&self, path: &str, text: &str) {
        // The file of the lower layer may be a symlink.
        let _ = fs::remove_file(self.path(path));
        self.write(path, text);
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(path)).unwrap_or_default()).into_owned()
    }

    pub fn exists(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// Runs a shell line inside.
    pub fn sh(&self, line: &str) -> Output {
        Command::new("nsenter")
            .args([
                "-t",
                &self.init.to_string(),
                "-m",
                "-p",
                "-n",
                "-r",
                "-w",
                "sh",
                "-c",
                line,
            ])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a shell line that must succeed, and gives its output.
    pub fn ok(&self, line: &str) -> String {
        let output = self.sh(line);
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `ec2-instance-connect setup ARGUMENTS --json`.
    pub fn setup(&self, arguments: &str) -> Answer {
        self.call(&format!("ec2-instance-connect setup {arguments} --json"))
    }

    /// The same behind anything else that passes standard output on.
    pub fn call(&self, line: &str) -> Answer {
        let output = self.sh(line);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = serde_json::from_slice(&output.stdout).unwrap_or(serde_json::Value::Null);
        Answer {
            code: output.status.code().unwrap_or(-1),
            json,
            stderr,
        }
    }

    /// A call that must change something.
    pub fn changed(&self, arguments: &str) -> Answer {
        let answer = self.setup(arguments);
        assert_eq!(
            (answer.code, answer.result()),
            (0, "changed"),
            "{arguments}: {} {}",
            answer.json,
            answer.stderr
        );
        answer
    }

    /// A call that must be refused for this reason, with nothing changed.
    pub fn refused(&self, arguments: &str, code: &str) -> Answer {
        let before = self.picture();
        let answer = self.setup(arguments);
        assert_eq!(
            (answer.code, answer.refusal()),
            (1, code),
            "{arguments}: {} {}",
            answer.json,
            answer.stderr
        );
        assert!(!answer.json["refusal"]["remedy"].as_str().unwrap().is_empty());
        assert_eq!(self.picture(), before, "a refusal changed something");
        answer
    }

    /// sshd's own word on a keyword, for everyone.
    pub fn effective(&self, keyword: &str) -> String {
        let text = self.ok("mkdir -p /run/sshd; /usr/sbin/sshd -T");
        let line = text.lines().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix(&format!("{keyword} "))
                .map(|_| line)
        });
        line.and_then(|line| line.split_once(' '))
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    }

    /// sshd's own word on the command.
    pub fn command(&self) -> String {
        self.effective("authorizedkeyscommand")
    }

    /// Starts the daemon by the stand-in for systemd.
    pub fn start_sshd(&self) -> String {
        self.ok("systemctl start ssh.service");
        self.main_pid()
    }

    pub fn main_pid(&self) -> String {
        let text = self.ok("systemctl show -p MainPID ssh.service");
        text.lines()
            .find_map(|line| line.strip_prefix("MainPID="))
            .unwrap()
            .to_owned()
    }

    /// Whether sshd answers.
    pub fn answers(&self) -> bool {
        let line = "for i in 1 2 3 4 5 6 7 8 9 10; do \
                    timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/22; head -c 4 <&3' | grep -q SSH- && exit 0; sleep 0.3; done; exit 1";
        self.sh(line).status.success()
    }

    /// How often the stand-in was asked for this.
    pub fn count(&self, what: &str) -> usize {
        self.read("/run/systemctl.log")
            .lines()
            .filter(|line| *line == what)
            .count()
    }

    /// Everything that setup may touch.
    pub fn picture(&self) -> Picture {
        let mut picture = Picture::new();
        for top in [
            "/etc/ssh",
            "/etc/ec2-instance-connect",
            "/etc/systemd/system",
            "/usr/lib/systemd/system",
            "/srv",
        ] {
            collect(&self.path(top), Path::new(top), &mut picture);
        }
        picture.retain(|path, _| {
            let name = path.to_string_lossy();
            !name.contains("systemd") || name.contains("ssh")
        });
        picture
    }

    /// What a transaction must never leave.
    pub fn assert_no_leftovers(&self) {
        for path in self.picture().keys() {
            assert!(
                !path.to_string_lossy().contains(".ec2-instance-connect."),
                "{} is left",
                path.display()
            );
        }
        let state = self.ok(&format!("ls -A {STATE} 2>/dev/null || true"));
        let left: Vec<&str> = state.lines().filter(|name| *name != "setup.lock").collect();
        assert!(left.is_empty(), "left in {STATE}: {left:?}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // --kill-child takes the machine's init along, and the kernel everything in its namespaces.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

fn child_of(parent: u32) -> u32 {
    let output = Command::new("pgrep")
        .args(["-P", &parent.to_string()])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

fn collect(real: &Path, shown: &Path, picture: &mut Picture) {
    let Ok(meta) = fs::symlink_metadata(real) else {
        return;
    };
    let content = if meta.is_symlink() {
        fs::read_link(real).unwrap().into_os_string().into_encoded_bytes()
    } else if meta.is_file() {
        fs::read(real).unwrap()
    } else {
        Vec::new()
    };
    let mut attributes = BTreeMap::new();
    if meta.is_file() {
        for name in xattr::list(real).into_iter().flatten() {
            let value = xattr::get(real, &name).unwrap().unwrap_or_default();
            attributes.insert(name.to_string_lossy().into_owned(), value);
        }
    }
    let owner = (meta.uid(), meta.gid());
    picture.insert(
        shown.to_path_buf(),
        Entry {
            mode: meta.mode(),
            owner,
            content,
            attributes,
        },
    );
    if meta.is_dir() {
        for entry in fs::read_dir(real).unwrap().flatten() {
            collect(&entry.path(), &shown.join(entry.file_name()), picture);
        }
    }
}
