"""What `make bench` and `make load` stand on: a machine in namespaces of its own that its files say is the instance,
the simulator at the metadata service's real address, and sshds."""

import collections
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
HELPER = os.path.join(TOP, "target/release/eic_run_authorized_keys")
DEBUG_HELPER = os.path.join(TOP, "target/debug/eic_run_authorized_keys")
SIMULATOR = os.path.join(TOP, "target/debug/eic-simulator")
INSTANCE = "i-0123456789abcdef0"
USER = "ec2-user"
OURS = "/opt/ours/eic_run_authorized_keys --config"
SSH = ["ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o",
       "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]


def sh(line, **more):
    return subprocess.run(["sh", "-ec", line], check=True, text=True, capture_output=True, **more).stdout


def enter(script, tools, packages, release=True):
    """Builds, the helper for `release` or for tests, and starts `script` again as the first process of new namespaces; returns there."""
    if os.geteuid() != 0:
        sys.exit("this needs root, for namespaces of its own")
    if "EIC_BENCH_INSIDE" in os.environ:
        return
    for tool in tools:
        if not shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin"):
            sys.exit(f"this needs {tool}: apt-get install {packages}")
    if release:
        subprocess.run(["cargo", "build", "--locked", "--release"], cwd=TOP, check=True)
        subprocess.run(["cargo", "build", "--locked", "--release", "--package", "cage-cost"], cwd=TOP, check=True)
    subprocess.run(["cargo", "build", "--locked", "--workspace"], cwd=TOP, check=True)
    os.environ["EIC_BENCH_INSIDE"] = "1"
    # A shell is the first process there, since it takes the orphans that sshd leaves.
    os.execvp("unshare", ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child",
                          "--propagation", "private", "sh", "-c", '"$@"; exit $?', "sh", sys.executable,
                          os.path.realpath(script)])


class Rows:
    """Figures with their limits, printed as they come and as a table at the end."""

    def __init__(self):
        self.rows, self.passed = [], []

    def add(self, what, value, limit=None, holds=None):
        self.rows.append((what, value, limit or ""))
        if holds is False:
            self.passed.append(f"{what}: {value}, limit {limit}")
        print(f"{what}: {value}" + (f" (limit {limit})" if limit else ""), flush=True)

    def skipped(self, what, why):
        print(f"SKIPPED: {what}: {why}", flush=True)
        self.rows.append((what, f"SKIPPED: {why}", ""))

    def end(self, name):
        """Prints the table, also into target/NAME, and exits with 1 where a limit was passed."""
        table = ["| what | measured | limit |", "|---|---|---|"]
        table += [f"| {what} | {value} | {limit} |" for what, value, limit in self.rows]
        os.makedirs(os.path.join(TOP, "target"), exist_ok=True)
        with open(os.path.join(TOP, "target", name), "w") as out:
            out.write("\n".join(table) + "\n")
        print("\n" + "\n".join(table))
        if self.passed:
            sys.exit("limits passed:\n" + "\n".join(self.passed))


class Simulator:
    """The make-believe EC2 at 169.254.169.254, as long as the `with` lasts."""

    def __init__(self, work, *options):
        self.work, self.options = work, options

    def __enter__(self):
        sh("ip link set lo up; ip addr add 169.254.169.254/32 dev lo")
        log = open(f"{self.work}/simulator.log", "w+")
        self.process = subprocess.Popen([SIMULATOR, "serve", "--state", f"{self.work}/ec2", "--instance", INSTANCE,
                                         "--imds", "169.254.169.254:80", *self.options], stdout=log, stderr=log)
        for _ in range(200):
            ready = re.search(r"# READY api=(\S+)", open(log.name).read())
            if ready:
                break
            time.sleep(0.1)
        self.api = ready.group(1)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def ask(self, verb, **arguments):
        """One verb of the control interface; those that only tell are GETs."""
        post = verb not in ("instances", "requests", "trail")
        request = urllib.request.Request(f"{self.api}/_simulator/{verb}", method="POST" if post else "GET",
                                         data=json.dumps(arguments).encode() if arguments else None,
                                         headers={"X-Simulator": "ground"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return json.load(answer)

    def push(self, key, user=USER):
        with open(key) as line:
            return self.ask("push", user=user, key=line.read())["requestId"]


class Journal(threading.Thread):
    """journald's socket, on a /run of our own: the reasons that the helper gives, counted."""

    def __init__(self):
        super().__init__(daemon=True)
        self.reasons = collections.Counter()
        os.makedirs("/run/systemd/journal")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("/run/systemd/journal/socket")
        os.chmod("/run/systemd/journal/socket", 0o666)
        self.start()

    def run(self):
        while True:
            self.reasons.update(re.findall(rb"^EIC_REASON=(.*)$", self.socket.recv(65536), re.M))

    def take(self):
        """What was counted since the last time, in words; the ordinary `fingerprint` of a wrong key left out."""
        reasons, self.reasons = self.reasons, collections.Counter()
        return ", ".join(f"{count} {reason.decode()}" for reason, count in reasons.items() if reason != b"fingerprint")


def scratch():
    """A directory that every user of the machine may enter."""
    work = tempfile.mkdtemp(prefix="eic-bench-")
    os.chmod(work, 0o755)
    return work


def prepare(work, helper=HELPER, settings=""):
    """A machine whose files say that it is the instance, with the simulator's root where each program looks."""
    state = f"{work}/ec2/{INSTANCE}"
    sh(f"""
      mount -t overlay overlay -o lowerdir={state}/sysfs/devices/virtual:/sys/devices/virtual /sys/devices/virtual
      mount -t tmpfs -o mode=0755 tmpfs /opt; mkdir -p /opt/ours /opt/reference
      install -m 0755 {helper} /opt/ours/eic_run_authorized_keys
      mount -t tmpfs -o mode=0755 tmpfs /run; mkdir -p /run/sshd
      mkdir -p {work}/etc; cp -a /etc/passwd /etc/shadow {work}/etc/
      echo 'ec2-instance-connect:x:64123:65534::/nonexistent:/usr/sbin/nologin' >>{work}/etc/passwd
      echo '{USER}:x:64124:65534::/:/bin/sh' >>{work}/etc/passwd; echo '{USER}:*:1::::::' >>{work}/etc/shadow
      for file in passwd shadow; do mount --bind {work}/etc/$file /etc/$file; done
      mkdir -p {work}/eic; cp {state}/root.pem {work}/eic/one.pem
      cat /etc/ssl/certs/ca-certificates.crt {state}/root.pem >{work}/eic/many.pem
      for set in one many; do printf '[trust]\\nanchors = "{work}/eic/%s.pem"\\n{settings}' $set >{work}/eic/$set.toml; done
      chmod 644 {work}/eic/*
      ssh-keygen -q -t ed25519 -N '' -f {work}/key; ssh-keygen -q -t ed25519 -N '' -f {work}/hostkey
    """)


COMMAND = "AuthorizedKeysFile none\nAuthorizedKeysCommand {} %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n"


class Sshd:
    """An sshd on a port of loopback. No PAM, no throttling of its own: what is measured is the keys' way."""

    def __init__(self, work, port, lines):
        self.port = port
        config = f"{work}/sshd_{port}"
        with open(config, "w") as out:
            out.write(f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {work}/hostkey\nPidFile none\nUsePAM no\n"
                      "StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
                      f"MaxStartups 2000:30:4000\n{lines}")
        known = subprocess.run(["/usr/sbin/sshd", "-T", "-f", config], text=True, capture_output=True).stdout.lower()
        if "persourcepenalties" in known:
            with open(config, "a") as out:
                out.write("PerSourcePenalties no\n")
        self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
        for _ in range(100):
            if sh(f"ss -Hltn sport = :{port}"):
                break
            time.sleep(0.1)

    def ssh(self, key):
        """Seconds that a login with this key took; `None` where it was refused."""
        begun = time.monotonic()
        done = subprocess.run([*SSH, "-i", key, "-p", str(self.port), f"{USER}@127.0.0.1", "true"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode == 0:
            return time.monotonic() - begun
        if "Permission denied" not in done.stderr:
            raise RuntimeError(f"ssh: {done.stderr}")
        return None

    def end(self):
        """Ends it; returns the seconds of CPU that it and all its children took, the helper's among them."""
        self.process.terminate()
        _, _, used = os.wait4(self.process.pid, 0)
        self.process.returncode = 0
        return used.ru_utime + used.ru_stime
