"""What a machine looks like, so that two moments can be compared byte for byte.

The package's promise is that removal gives the old machine back. The sharpest way to hold it to that is to
compare everything: each file with its bytes, mode, owner, link target and extended attributes.
"""

import hashlib
import os
import stat

# What a running system changes by itself, or what package managers keep about their own work.
ALIVE = (
    "/dev",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/var/tmp",
    "/var/log",
    "/var/cache",
    # dpkg-db-backup.timer writes here at midnight.
    "/var/backups",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/dnf",
    "/var/lib/rpm",
    "/var/lib/zypp",
    "/var/adm",
    "/var/lib/cloud",
    "/var/lib/puppet",
    "/etc/puppet",
    "/var/lib/systemd",
    "/var/spool",
    "/root",
    "/home",
    # Made by every program that edits the account files, ours or not.
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/etc/subuid-",
    "/etc/subgid-",
    "/etc/.pwd.lock",
    "/etc/.updated",
    "/var/.updated",
    "/etc/machine-id",
    "/etc/resolv.conf",
    "/etc/ld.so.cache",
)


def tree(root, below="/", skip=ALIVE):
    """Maps each path below `below` in the machine to all that identifies its content and attributes."""
    seen = {}
    start = str(root) + below.rstrip("/")
    for directory, subdirectories, files in os.walk(start):
        for name in subdirectories + files:
            path = os.path.join(directory, name)
            inside = path[len(str(root)) :]
            if inside in skip or inside.endswith((".pyc", "/__pycache__")):
                continue
            try:
                seen[inside] = _identity(path)
            except FileNotFoundError:
                continue
        subdirectories[:] = [
            d for d in subdirectories if os.path.join(directory, d)[len(str(root)) :] not in skip and d != "__pycache__"
        ]
    return seen


def _identity(path):
    status = os.lstat(path)
    facts = [f"{stat.S_IMODE(status.st_mode):o}", f"{status.st_uid}:{status.st_gid}"]
    if stat.S_ISLNK(status.st_mode):
        facts.append("-> " + os.readlink(path))
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            facts.append(hashlib.sha256(file.read()).hexdigest()[:16])
    else:
        facts.append("directory" if stat.S_ISDIR(status.st_mode) else "special")
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        facts.append(f"{name}={os.getxattr(path, name, follow_symlinks=False)!r}")
    return " ".join(facts)


def sshd_lines(machine):
    """What `sshd -T` prints. Under ssh.socket nobody may have made /run/sshd yet, and it must not stay made by us."""
    script = (
        "mkdir /run/sshd 2>/dev/null && made=yes; "
        # Up to 8.x a Match block makes -T ask for whom.
        "sshd -T -C user=alice,host=localhost,addr=127.0.0.1; code=$?; "
        "[ -z $made ] || rmdir /run/sshd; exit $code"
    )
    done = machine.run("sh", "-c", script, check=False)
    if done.returncode != 0 and "/run/sshd" in done.stdout:
        # A daemon that just ended took the directory with it between our two steps.
        done = machine.run("sh", "-c", script)
    if done.returncode != 0:
        raise RuntimeError(f"sshd -T: {done.stdout}")
    return done.stdout.splitlines()


def sshd(machine):
    """What is effective: sshd's own words, and the unit as systemd has it loaded."""
    effective = sorted(sshd_lines(machine))
    units = machine.sh(
        "for unit in ssh.service ssh.socket sshd.service ssh@.service; do systemctl cat $unit 2>/dev/null; done;"
        "systemctl show -p FragmentPath -p DropInPaths -p NeedDaemonReload -p UnitFileState ssh.service ssh.socket",
        check=False,
    )
    return {"sshd -T": "\n".join(effective), "units": units}
