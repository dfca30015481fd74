"""A make-believe EC2 around one machine: the metadata service in its network, keys pushed, logins tried."""

import subprocess
import time
from pathlib import Path

from testbed import run

INSTANCE = "i-0123456789abcdef0"
USER = "alice"
# sshd pads and a loaded machine is slow; a login that takes longer than this has hung.
LOGIN_SECONDS = 60


class Ec2:
    """Puts the simulator at the metadata address of a machine."""

    def __init__(self, testbed, machine):
        self.machine = machine
        self.directory = testbed.directory / f"{machine.name}.ec2"
        self.directory.mkdir()
        self.key = self.new_key("key")

    def new_key(self, name):
        path = self.directory / name
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path])
        return path

    def push(self, key=None, user=USER):
        """What SendSSHPublicKey does: the key is good for this user for a minute."""
        public = Path(f"{key or self.key}.pub").read_text()
        self.machine.write(f"/run/eic-stub/{user}", public)
        self.machine.sh(f"mkdir -p /run/eic-stub && cat >/run/eic-stub/{user}", stdin=public)

    def ssh(self, command="echo let-in", user=USER, key=None):
        """One ssh attempt from a neighbour; returns (exit code, output)."""
        argv = [
            "ssh",
            "-F",
            "none",
            "-i",
            str(key or self.key),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "ConnectTimeout=20",
            f"{user}@127.0.0.1",
            command,
        ]
        deadline = time.monotonic() + LOGIN_SECONDS
        while True:
            try:
                done = self.machine.host_run(*argv, check=False, timeout=LOGIN_SECONDS)
            except subprocess.TimeoutExpired:
                return 255, "ssh hung"
            # A reload closes the port for a moment: that is no verdict about keys.
            if "Connection refused" in done.stdout and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            return done.returncode, done.stdout.strip()

    def login(self, suite, sentence, user=USER):
        """A pushed key logs in."""
        self.push(user=user)
        code, output = self.ssh(user=user)
        return suite.check(sentence, code == 0 and output == "let-in", f"ssh: exit {code}: {output}\n{self.journal()}")

    def refused(self, suite, sentence, user=USER):
        """The same pushed key does not."""
        self.push(user=user)
        code, output = self.ssh(user=user)
        return suite.check(
            sentence, code == 255 and "Permission denied" in output, f"ssh: exit {code}: {output}\n{self.journal()}"
        )

    def refused_without_push(self, suite, sentence):
        """A key that nobody pushed does not log in."""
        key = self.new_key("stranger")
        code, output = self.ssh(key=key)
        return suite.check(sentence, code == 255 and "Permission denied" in output, f"ssh: exit {code}: {output}")

    def aws_login(self, suite, sentence):
        suite.skip(sentence, "stub")

    def start(self):
        """Start what a reboot of the machine ended."""

    def journal(self):
        """The machine's last words about ssh, for a failing check."""
        return self.machine.sh("journalctl -q --no-pager -n 15 -o cat 2>&1", check=False)


def prepare(machine, *, host_keys=True):
    """The state every suite starts from: a user without any key of his own, and an sshd that can start."""
    root = machine.root
    run(["chroot", root, "useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", USER])
    if host_keys:
        run(["chroot", root, "ssh-keygen", "-A"])
    version = run(["chroot", root, "dpkg-query", "-W", "-f", "${Version}", "openssh-server"]).stdout
    major, minor = version.split(":")[1].split("p")[0].split(".")[:2]
    if (int(major), int(minor)) >= (9, 8):
        # From 9.8 on sshd locks a source address out after failures, and our refusals all come from one.
        machine.write("/etc/ssh/sshd_config.d/00-test.conf", "PerSourcePenalties no\n")
