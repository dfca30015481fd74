"""A make-believe EC2 around one machine: the metadata service in its network, keys pushed, logins tried."""

import os
import re
import subprocess
import threading
import time
from pathlib import Path

from testbed import METADATA_IPV4, METADATA_IPV6, StepFailed, run

INSTANCE = "i-0123456789abcdef0"
USER = "alice"
# sshd pads and a loaded machine is slow; a login that takes longer than this has hung.
LOGIN_SECONDS = 60


API = "127.0.0.1:8181"
# The simulator's user who may push any key anywhere.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIAALICE0000EXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-checked"}
REGION = "us-east-1"
# What the helper is told about this make-believe EC2: whom to trust. The rest is as on an instance.
ANCHORS = "/srv/eic-test-root.pem"
CONFIG = f'[trust]\nanchors = "{ANCHORS}"\n'
START_SECONDS = 60

TREE = Path(__file__).resolve().parents[2]
SIMULATOR = Path(os.environ.get("EIC_SIMULATOR") or TREE / "target/debug/eic-simulator")

_clients = threading.Lock()


def ready(log):
    """Waits until the simulator that writes there serves, and gives the addresses of its API and its metadata service."""
    deadline = time.monotonic() + START_SECONDS
    while not (found := re.search(r"# READY api=http://(\S+) imds=(\S+)", log.read_text())):
        if time.monotonic() > deadline:
            raise StepFailed(f"the simulator did not start:\n{log.read_text()}")
        time.sleep(0.05)
    return found.groups()


def serve(bed, *options, inside=()):
    """A simulator that belongs to no machine, started by the words `inside`: its directory, and as `ready`."""
    state, log = bed.directory / "state", bed.directory / "simulator.log"
    with open(log, "w") as out:
        process = subprocess.Popen(
            [*inside, SIMULATOR, "serve", "--state", state, "--instance", INSTANCE, *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    bed.on_close(lambda: (process.kill(), process.wait()))
    return state, *ready(log)


class Ec2:
    """Puts the simulator at the metadata address of a machine."""

    # Further lines of the configuration.
    settings = ""

    def __init__(self, testbed, machine, *options):
        """`options` are further words for the simulator's `serve`."""
        self.options = options
        self.testbed = testbed
        self.machine = machine
        self.directory = testbed.directory / f"{machine.name}.ec2"
        self.directory.mkdir()
        self.key = self.new_key("key")
        self.start()
        roots = sorted((self.directory / "state").rglob("root.pem"))
        machine.put(roots[0], ANCHORS)
        (machine.root / ANCHORS.lstrip("/")).chmod(0o644)

    def start(self):
        """The simulator, in the machine's network: IMDS where IMDS is, the API beside it."""
        log = self.directory / "simulator.log"
        self.machine.popen(
            [SIMULATOR, "serve", "--state", self.directory / "state", "--api", API]
            + ["--instance", INSTANCE, "--imds", f"{METADATA_IPV4}:80,[{METADATA_IPV6}]:80", *self.options],
            log,
        )
        ready(log)

    def tell(self, *words):
        """The simulator's own command line: `put`, `fault`, `clear-faults` and the rest; returns what it printed."""
        return self.machine.host_run(SIMULATOR, *words, "--api", API).stdout

    def new_key(self, name):
        """A fresh key pair; returns the private half's path."""
        path = self.directory / name
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path])
        return path

    def configure(self):
        """Tell the installed helper about the simulator's CA, as an administrator would: in the configuration file."""
        if (self.machine.root / "etc/ec2-instance-connect/config.toml").exists():
            self.machine.write("/etc/ec2-instance-connect/config.toml", CONFIG + self.settings)

    def push(self, key=None, user=USER, configure=True):
        """What SendSSHPublicKey does: the key is good for this user for a minute."""
        if configure:
            self.configure()
        self.machine.host_run(SIMULATOR, "push", "--api", API, "--user", user, "--key", f"{key or self.key}.pub")

    def aws(self, *argv, stdin=None):
        """Amazon's own client, in a root file system of its own and in the machine's network."""
        with _clients:
            root = self.testbed.directory / "clients"
            if not root.exists():
                self.testbed.unpack("clients", "clients")
                # The client calls ssh by itself, which would ask a person about the host key.
                (root / "etc/ssh/ssh_config.d/test.conf").write_text(
                    "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
                )
        environment = {
            **CREDENTIALS,
            "PATH": "/usr/bin:/bin",
            "HOME": "/tmp",
            "AWS_ENDPOINT_URL": f"http://{API}",
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        words = ["env", "-i", *[f"{k}={v}" for k, v in environment.items()], "aws", "ec2-instance-connect", *argv]
        return self.machine.host_run("chroot", root, *words, check=False, stdin=stdin)

    def aws_login(self, suite, sentence):
        """A key sent by send-ssh-public-key logs in; and so does `aws ec2-instance-connect ssh`, all in one."""
        self.configure()
        key = self.new_key(f"aws-{time.monotonic_ns()}")
        public = Path(f"{key}.pub").read_text()
        arguments = ("--instance-id", INSTANCE, "--instance-os-user", USER, "--ssh-public-key", public)
        sent = self.aws("send-ssh-public-key", *arguments)
        code, output = self.ssh(key=key)
        suite.check(sentence, sent.returncode == 0 and output == "let-in", f"{sent.stdout}\nssh: exit {code}: {output}\n{self.journal()}")
        done = self.aws(
            "ssh", "--instance-id", INSTANCE, "--os-user", USER, "--connection-type", "direct", "--instance-ip", "127.0.0.1",
            stdin="echo let-in\n",
        )
        suite.check(f"{sentence}, and so does its own ssh", "let-in" in done.stdout, f"{done.stdout}\n{self.journal()}")

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

    def logged(self, *matches):
        """What the helper has logged, of what `matches` in journalctl's words."""
        self.machine.sh("journalctl --sync", check=False)
        return self.machine.run("journalctl", "-q", "--no-pager", "-o", "cat", "-t", "ec2-instance-connect", *matches, check=False).stdout

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

