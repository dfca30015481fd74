#!/usr/bin/python3 -B
"""Booted Debian machines for the package tests, and the certainty that nothing of them stays behind.

A machine is a root file system unpacked from a cached tar, a network namespace of its own in which
169.254.169.254 is a local address, a cgroup of its own, and systemd-nspawn running the real init in it.
Everything made is registered with `Testbed` the moment it is made and torn down in reverse order.

Needs root, Linux with namespaces and a cgroup2 hierarchy, and the programs `requirements` installs.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

METADATA_IPV4 = "169.254.169.254"
METADATA_IPV6 = "fd00:ec2::254"

# A container boots in a second on an idle machine; on a loaded one with two cores it has been seen to take twenty.
BOOT_SECONDS = 120
# The longest single step inside a machine is a package manager installing our package.
STEP_SECONDS = 300

# Four machines of up to 1.5 GiB side by side, and room for the rest of the host.
MEMORY_FOR_TMPFS = 10 << 30

CACHE = Path(os.environ.get("EIC_CACHE") or Path.home() / ".cache" / "ec2-instance-connect")

# What every machine has: the system under test (systemd, sshd), and nothing that a minimal EC2 image lacks.
COMMON = [
    "systemd",
    "systemd-sysv",
    "libpam-systemd",
    "dbus",
    "openssh-server",
    "ca-certificates",
    "iproute2",
    "procps",
]

ROOTS = {
    "bullseye": ("bullseye", COMMON),
    "bookworm": ("bookworm", COMMON),
    "trixie": ("trixie", COMMON),
    "sid": ("sid", COMMON + ["passwd", "mount"]),
    # Two others who give keys: sssd's command with a directory for it, and systemd's user database with its own drop-in.
    "chain": ("trixie", COMMON + ["sssd-common", "sssd-ldap", "libnss-sss", "slapd", "systemd-userdbd"]),
    # rpm, dnf and zypper as Debian packages them; the rpm database is seeded by the suite.
    "rpm": ("bookworm", COMMON + ["rpm", "dnf", "zypper"]),
    # The three configuration managers, each talking to the machine it runs on.
    "recipes": ("trixie", COMMON + ["python3", "python3-apt", "ansible-core", "puppet-agent", "cloud-init", "openssh-client"]),
    # A kernel and SELinux's policy: booted as a virtual machine, since a container shares its host's policy.
    "selinux": (
        "trixie",
        COMMON
        + ["passwd", "linux-image-cloud-amd64", "initramfs-tools", "selinux-policy-default", "policycoreutils"]
        + ["auditd", "selinux-basics", "policycoreutils-python-utils"],
    ),
    # The files of one that a processor of another architecture is emulated for. None of their scripts can run here.
    "arm64": (
        "trixie",
        ["base-files", "dash", "coreutils", "libc-bin", "busybox", "openssh-server", "openssh-client", "linux-image-cloud-arm64", "kmod"]
        + ["iproute2", "mount", "procps", "sed", "grep", "findutils", "diffutils", "util-linux", "passwd", "strace"],
    ),
    # No machine either: the one place where a Rust compiler for arm64 is to be had as a package.
    "cross-arm64": (
        "trixie",
        ["rustc", "cargo", "libstd-rust-dev:arm64", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    ),
    # No machine, a toolbox: Amazon's own client, run by chroot in a machine's network namespace.
    "clients": ("trixie", ["awscli", "openssh-client", "ca-certificates"]),
}


class StepFailed(Exception):
    """A command that had to succeed did not; the message holds its output."""


def run(argv, *, check=True, timeout=STEP_SECONDS, stdin=None, env=None, cwd=None):
    """Run a command on the host; stdout and stderr are captured as one text."""
    done = subprocess.run(
        [str(a) for a in argv],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        env=env,
        cwd=cwd,
    )
    if check and done.returncode != 0:
        shown = " ".join(str(a) for a in argv)
        raise StepFailed(f"exit {done.returncode}: {shown}\n{done.stdout[-4000:]}")
    return done


# Where they are not this machine's packages alone.
ARCHITECTURES = {"cross-arm64": "amd64,arm64", "arm64": "arm64"}
# Unpacked alone, where an installation would run programs of another architecture.
VARIANTS = {"arm64": "extract"}


def cached_root(name):
    """The tar of one root file system, made by mmdebstrap the first time; returns its path."""
    suite, packages = ROOTS[name]
    recipe = "\n".join(["2", suite, *packages])
    tar = CACHE / "rootfs" / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.tar"
    if tar.exists():
        return tar
    tar.parent.mkdir(parents=True, exist_ok=True)
    # Two at once fight over memory and the network for no gain, and two runs must not make the same one.
    with open(tar.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if tar.exists():
            return tar
        part = tar.with_suffix(".part.tar")
        run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=" + VARIANTS.get(name, "apt"),
                # Old releases' lists expire; sid's mirror can lag behind its own date.
                '--aptopt=Acquire::Check-Valid-Until "false"',
                "--include=" + ",".join(packages),
                "--architectures=" + ARCHITECTURES.get(name, "amd64"),
                # A machine without a name of its own, and the same for all: first boot sets it.
                '--customize-hook=echo uninitialized >"$1/etc/machine-id"',
                "--customize-hook=rm -f $1/etc/ssh/ssh_host_*",
                "--customize-hook=rm -f $1/etc/resolv.conf",
                suite,
                str(part),
            ],
            timeout=900,
        )
        part.rename(tar)
    return tar


def available_memory():
    """Bytes that could be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


class Testbed:
    """Owns everything that must go away again. `close` may be called from any state and more than once."""

    def __init__(self, parent=None, name=""):
        """The whole run's, or with a parent one suite's share of it, which can be given back early."""
        self._undo = []
        self._lock = threading.Lock()
        # What names of machines, namespaces and cgroups may all hold.
        self.tag = f"{os.getpid():x}"
        if parent:
            self.directory = parent.directory / name
            self.directory.mkdir()
            parent.on_close(self.close)
            self.on_close(lambda: shutil.rmtree(self.directory, ignore_errors=True))
            return
        self.directory = Path(tempfile.mkdtemp(prefix="eic-packages.", dir="/var/tmp"))
        self.on_close(lambda: shutil.rmtree(self.directory, ignore_errors=True))
        if available_memory() > MEMORY_FOR_TMPFS:
            # Unpacking and deleting whole systems keeps a disk busy for longer than the tests take.
            run(["mount", "-t", "tmpfs", "-o", "mode=0755,size=75%", "eic-packages", self.directory])
            self.on_close(lambda: run(["umount", "--lazy", self.directory]))

    def on_close(self, action):
        """Register what undoes the thing just made."""
        with self._lock:
            self._undo.append(action)

    def close(self):
        """Undo everything, last made first; a step that fails does not stop the others."""
        while True:
            with self._lock:
                if not self._undo:
                    return
                action = self._undo.pop()
            try:
                action()
            except Exception as error:  # the next thing must still go away
                print(f"cleanup: {error}", flush=True)

    def unpack(self, root_name, as_name):
        """A fresh copy of a cached root file system; returns its directory."""
        root = self.directory / as_name
        root.mkdir()
        run(["tar", "-C", root, "--xattrs", "--numeric-owner", "-xf", cached_root(root_name)])
        return root

    def machine(self, root_name, name, **kwargs):
        """A machine that is unpacked but not yet booted."""
        return Machine(self, self.unpack(root_name, name), name, **kwargs)


def cgroup2():
    """Where the unified hierarchy is mounted, alone or beside the old ones."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise StepFailed("no cgroup2 hierarchy is mounted")


class Machine:
    """One container with systemd as its init, in its own network namespace."""

    def __init__(self, testbed, root, name, asset_tag=None):
        self.testbed = testbed
        self.root = root
        self.name = f"eic-{testbed.tag}-{name}"
        self.asset_tag = asset_tag
        self.log = testbed.directory / f"{name}.log"
        self._nspawn = None
        self._leader = None
        self._cgroup = cgroup2() / self.name
        self._make_network()
        testbed.on_close(self.power_off)
        # A name for the host, or every sudo and sshd look-up waits for a DNS server that is not there.
        (root / "etc/hosts").write_text(f"127.0.0.1 localhost {self.name}\n::1 localhost\n")
        (root / "etc/hostname").write_text(self.name + "\n")

    def _make_network(self):
        ip = lambda *args: run(["ip", *args])
        ip("netns", "add", self.name)
        self.testbed.on_close(lambda: run(["ip", "netns", "del", self.name], check=False))
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "addr", "add", f"{METADATA_IPV4}/32", "dev", "lo")
        ip("-n", self.name, "addr", "add", f"{METADATA_IPV6}/128", "dev", "lo", "nodad")

    # -- power -----------------------------------------------------------------------------------------------

    def boot(self):
        """Start init and wait until the system says that it is up."""
        self._cgroup.mkdir(exist_ok=True)
        argv = [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            f"--network-namespace-path=/run/netns/{self.name}",
            f"--directory={self.root}",
            f"--machine={self.name}",
            "--boot",
            "--console=pipe",
        ]
        with open(self.log, "a") as log:
            # Its own cgroup: containers that share one kill each other's units.
            self._nspawn = subprocess.Popen(
                ["sh", "-c", 'echo 0 >"$1/cgroup.procs"; shift; exec "$@"', "boot", str(self._cgroup), *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        deadline = time.monotonic() + BOOT_SECONDS
        state = ""
        while time.monotonic() < deadline:
            if self._nspawn.poll() is not None:
                break
            self._leader = self._find_leader()
            if self._leader:
                state = self.sh("systemctl is-system-running 2>/dev/null", check=False).strip()
                if state in ("running", "degraded"):
                    if self.asset_tag:
                        self._show_asset_tag()
                    return self
            time.sleep(0.1)
        raise StepFailed(f"{self.name} did not boot (state {state!r}):\n{self.log.read_text()[-3000:]}")

    def _find_leader(self):
        """The container's init is nspawn's one child, found as soon as it has its own root."""
        try:
            children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        except OSError:
            return None
        for child in children:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{child}/ns/mnt") != os.readlink("/proc/self/ns/mnt"):
                    comm = Path(f"/proc/{child}/comm").read_text().strip()
                    if comm in ("systemd", "init"):
                        return int(child)
        return None

    def _show_asset_tag(self):
        """Give the machine the DMI asset tag of a Nitro instance; /sys knows no mkdir, so a layer goes over it."""
        tag = "/run/eic-test/sys/dmi/id"
        self.sh(
            f"mkdir -p {tag} && echo {self.asset_tag} >{tag}/board_asset_tag && "
            "mount -t overlay eic-test -o lowerdir=/run/eic-test/sys:/sys/devices/virtual /sys/devices/virtual"
        )

    def power_off(self):
        """End the machine at once, whatever it is doing."""
        if self._nspawn is not None:
            with contextlib.suppress(OSError):
                (self._cgroup / "cgroup.kill").write_text("1")
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._nspawn.pid, signal.SIGKILL)
            self._nspawn.wait()
            self._nspawn = None
        for _ in range(50):
            # cgroups can only be removed leaf first, and only when the last process has been reaped.
            for directory, _, _ in os.walk(self._cgroup, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            if not self._cgroup.exists():
                return
            time.sleep(0.1)

    def reboot(self):
        """A clean shutdown by the machine itself, then a new boot."""
        self.sh("systemctl reboot", check=False)
        try:
            self._nspawn.wait(timeout=BOOT_SECONDS)
        except subprocess.TimeoutExpired:
            raise StepFailed(f"{self.name} did not shut down") from None
        self.power_off()
        return self.boot()

    # -- doing things in it ----------------------------------------------------------------------------------

    def run(self, *argv, check=True, timeout=STEP_SECONDS, stdin=None, env=None):
        """Run a command inside the booted machine."""
        inside = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **(env or {}),
        }
        return run(
            ["nsenter", "-t", str(self._leader), "-a", "--", *argv],
            check=check,
            timeout=timeout,
            stdin=stdin,
            env=inside,
        )

    def sh(self, script, **kwargs):
        """Run a shell script inside; returns what it printed."""
        return self.run("sh", "-c", script, **kwargs).stdout

    def host_run(self, *argv, **kwargs):
        """Run a host command in the machine's network only: a neighbour who can reach its ports."""
        return run(["ip", "netns", "exec", self.name, *argv], **kwargs)

    def popen(self, argv, log):
        """Start a host program in the machine's network; it ends with the testbed."""
        with open(log, "a") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *[str(a) for a in argv]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.testbed.on_close(lambda: (process.kill(), process.wait()))
        return process

    def put(self, source, inside):
        """Copy a host file to a path inside; returns the path."""
        target = self.root / inside.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        return inside

    def write(self, inside, text, mode=0o644):
        """Write a file inside."""
        target = self.root / inside.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)


if __name__ == "__main__":
    import sys

    # For scripts: the path of each cached root file system's tar, made if need be; of all that the tests use, without
    # names.
    for name in sys.argv[1:] or ROOTS:
        print(cached_root(name), flush=True)
