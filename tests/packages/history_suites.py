"""`history` on real journals: real sshd, PAM and journald of each release, with forgeries beside them.

The helper is stood in for by a script that logs the helper's lines as sshd's AuthorizedKeysCommandUser, since here only
the logs matter. Each machine has three logins: with PAM, as root (whose session has no process of another pid), and
without PAM. The tool reads the journal from outside, as it does an image's, so that it need not run on each release.
"""

import json

from ec2 import INSTANCE
from testbed import run

FORGED_KEY = "SHA256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0"

HELPER = """#!/bin/sh
logger -t ec2-instance-connect -p authpriv.info "Querying EC2 Instance Connect keys for matching fingerprint: $2"
logger -t ec2-instance-connect -p authpriv.info "Providing ssh key from EC2 Instance Connect with \
fingerprint: {fingerprint}, request-id: request-$1, for IAM principal: arn:aws:iam::123456789012:user/alice user=$1 \
sshd-pid=$PPID expires=$(($(date +%s) / 3600 * 3600 + 7200)) instance={instance}"
echo '{key}'
"""

SSHD = "AuthorizedKeysCommand /usr/lib/eic-stand-in %u %f\nAuthorizedKeysCommandUser ec2-instance-connect\n"

PREPARE = """
set -e
useradd -r -s /usr/sbin/nologin ec2-instance-connect
for user in alice eve; do useradd -m -s /bin/bash -p '*' $user; done
mkdir -p /var/log/journal
systemd-tmpfiles --create --prefix /var/log/journal
systemctl restart systemd-journald
journalctl --flush
ssh-keygen -A
systemctl reset-failed ssh || true
systemctl restart ssh
"""

# What any local user can log: under any name, with any text; journald keeps who it was.
FORGE = f"""
log() {{ runuser -u eve -- logger -t "$@"; }}
log sshd 'Accepted publickey for root from 192.0.2.66 port 6 ssh2: RSA {FORGED_KEY}'
log ec2-instance-connect 'Providing ssh key from EC2 Instance Connect with fingerprint: {FORGED_KEY} user=root sshd-pid=4 expires=1'
"""

# What anybody on the network can have sshd log: a name that says what it likes, and one that is very long.
HOSTILE_NAMES = [
    "x from 192.0.2.66 port 6 ssh2\nAccepted publickey for root from 192.0.2.66 port 6 ssh2: RSA " + FORGED_KEY,
    "\x1b]0;owned\x07\x1b[2J",
    "A" * 30_000,
]

POLL = "for _ in $(seq 100); do ss -ltn | grep -q ':22 ' && exit 0; sleep 0.1; done; exit 1"


def logins(suite, bed, release, tool):
    """Log in three times, forge, and hold the rows against what was done."""
    key = bed.directory / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    fingerprint = run(["ssh-keygen", "-lf", key]).stdout.split()[1]
    machine = bed.machine(release, suite.name)
    public = key.with_suffix(".pub").read_text().strip()
    machine.write("/usr/lib/eic-stand-in", HELPER.format(fingerprint=fingerprint, key=public, instance=INSTANCE), 0o755)
    machine.write("/etc/ssh/sshd_config.d/60-stand-in.conf", SSHD)
    machine.boot()
    machine.sh(PREPARE)

    def ssh(user, command, check=True):
        machine.sh(POLL)
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=no"]
        options.append("UserKnownHostsFile=/dev/null")
        argv = ["ssh", "-i", key, *(word for option in options for word in ("-o", option))]
        return machine.host_run(*argv, "-l", user, "127.0.0.1", command, check=check)

    ssh("alice", "sleep 1")
    ssh("root", "sleep 1")
    machine.sh(FORGE)
    for name in HOSTILE_NAMES:
        ssh(name, "true", check=False)
    machine.sh("echo UsePAM no >/etc/ssh/sshd_config.d/10-no-pam.conf; systemctl restart ssh")
    ssh("alice", "sleep 1")
    machine.sh("sleep 1; journalctl --sync")
    machine.power_off()

    def history(*options):
        done = run([tool, "history", "--root", machine.root, *options])
        return done.stdout

    document = json.loads(history("--json"))
    suite.equal("the instance is known from the log", [INSTANCE], document["instances"])
    rows = document["rows"]
    seen = [(row["kind"], row["user"], row["joined_by"], row["proof"], (row["session"] or {}).get("end_by")) for row in rows]
    suite.equal(
        "each login is one row, joined by sshd's pid; nothing forged is one",
        [
            ("login", "alice", "pid", "journal", "pam"),
            ("login", "root", "pid", "journal", "pam"),
            ("login", "alice", "pid", "journal", "disconnect"),
        ],
        seen,
    )
    suite.check("each has the key that was offered", all(row["fingerprint"] == fingerprint for row in rows), rows)
    suite.check("each has an end", all(row["session"] and row["session"]["seconds"] >= 0 for row in rows), rows)
    requests = [[grant["request_id"] for grant in row["grants"]] for row in rows]
    suite.equal("each has its push's request", [[f"request-{row['user']}"] for row in rows], requests)
    forged = sum(source["forged"] for source in document["sources"])
    suite.equal("lines that their sender may not say are counted", 2, forged)
    suite.equal("it can be asked for one user", 1, len(json.loads(history("--json", "--user", "root"))["rows"]))
    page = history()
    suite.check("the page for people is printable", all(c == "\n" or c.isprintable() for c in page), repr(page[:2000]))
