"""The helper's cage on the oldest and the newest libc: a login meets its filter nowhere.

strace sees each call that the packaged program makes in the cage, and what the kernel answered. Nothing is booted.
"""

import os
import re
import shutil
import socket
import subprocess

from ec2 import INSTANCE, SIMULATOR, USER, serve
from testbed import run

HELPER = "/usr/lib/eic_run_authorized_keys"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
LINK_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti"
LINK = f'[[chain]]\nname = "other"\ncommand = ["/bin/echo", "{LINK_LINE}"]\ntimeout_ms = 5000\n'
# What a filter or Landlock can answer; ENOENT and the like are the system's own words.
STOPPED = ("ENOSYS", "EPERM", "EACCES", "SIGSYS")


def libc(suite, bed, release, stage):
    """Logins of different kinds, each under strace, with this release's libc."""
    if not shutil.which("strace"):
        suite.skip("no call of a login is stopped by the cage", "strace is not installed")
        return
    root = bed.unpack(release, "root")
    shutil.copy2(stage / "bin/eic_run_authorized_keys", root / HELPER.lstrip("/"))
    state, api, imds = simulator(bed)
    push(bed, api)
    # The configuration names files by their paths here: they are at the same paths inside.
    shutil.copytree(state, root / str(state).lstrip("/"))
    config = root / "etc/eic-cage.toml"
    own = state / INSTANCE
    shutil.copy2(own / "root.pem", root / BUNDLE.lstrip("/"))
    bed.on_close(listener(root).close)
    # The links' keeper is started by the path of the running program.
    run(["mount", "-t", "proc", "proc", root / "proc"])
    bed.on_close(lambda: run(["umount", "--lazy", root / "proc"], check=False))

    instance = f'[instance]\nsysfs = "{own}/sysfs"\n[imds]\nendpoint = "{imds}"\n[log]\nlevel = "debug"\n'
    one = f'[trust]\nanchors = "{own}/root.pem"\n'
    kinds = {
        "a bundle of the administrator's": one,
        "the system's bundle": '[trust]\nanchors = "system"\n',
        "a record that is refused": '[trust]\nanchors = "amazon"\n',
        "a link beside it": one + LINK,
    }
    version = run(["chroot", root, "ldd", "--version"]).stdout.split("\n")[0].split()[-1]
    for kind, text in kinds.items():
        config.write_text(instance + text)
        when = f"glibc {version}, {kind}"
        stdout, calls = traced(bed, root)
        given = "" if "refused" in kind else "key" if "link" not in kind else "key and line"
        saw = {"": "", "key": key(bed), "key and line": key(bed) + LINK_LINE + "\n"}[given]
        suite.check(f"{when}: gives {given or 'nothing'}", stdout == saw, stdout + "\n".join(calls[-20:]))
        inside = caged(calls)
        suite.check(f"{when}: the proof is made in the cage", len(inside) > 5, "\n".join(calls))
        stopped = [call for call in inside if any(word in call for word in STOPPED)]
        suite.check(f"{when}: no call is stopped", not stopped, "\n".join(stopped))


def simulator(bed):
    """A simulator on loopback: its directory, its API and its metadata service."""
    state, api, imds = serve(bed, "--api", "127.0.0.1:0", "--key-lifetime", "600")
    for directory, _, files in os.walk(state):
        os.chmod(directory, 0o755)
        for name in files:
            os.chmod(os.path.join(directory, name), 0o644)
    return state, api, imds


def push(bed, api):
    """A key for [`USER`]."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", bed.directory / "key"])
    run([SIMULATOR, "push", "--api", api, "--user", USER, "--key", bed.directory / "key.pub"])


def key(bed):
    """The pushed key as the helper prints it."""
    return (bed.directory / "key.pub").read_text().strip() + "\n"


def listener(root):
    """A logger that takes what it is sent."""
    path = root / "dev/log"
    path.unlink(missing_ok=True)
    logger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    logger.bind(str(path))
    path.chmod(0o666)
    return logger


def traced(bed, root):
    """Standard output of one login by nobody, and its own calls: those of the links' keepers are not its own."""
    log = bed.directory / "calls"
    argv = ["strace", "-f", "-o", log, "chroot", "--userspec=65534:65534", root]
    argv += [HELPER, "--config", "/etc/eic-cage.toml", USER]
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    lines = log.read_text(errors="replace").splitlines()
    own = lines[0].split()[0]
    return done.stdout, whole([line for line in lines if line.split()[0] == own])


def whole(lines):
    """One process's calls, each on one line: where another process came between, strace cuts one in two."""
    calls = []
    for line in lines:
        resumed = re.search(r"<\.\.\. \w+ resumed>(.*)", line)
        if resumed and calls:
            calls[-1] = calls[-1].removesuffix("<unfinished ...>") + resumed[1]
        else:
            calls.append(line)
    return calls


def caged(calls):
    """What comes after the second program of the filter was installed."""
    installed = [at for at, call in enumerate(calls) if re.search(r"seccomp\(SECCOMP_SET_MODE_FILTER, .* = 0", call)]
    return calls[installed[1] + 1 :] if len(installed) == 2 else []
