#!/usr/bin/env python3
"""`history` on real journals: real sshd, PAM and journald in booted Debian machines, with forgeries beside them.

    tests/history/booted.py [bullseye] [bookworm] [trixie] [sid]

Needs root and what tests/packages needs; uses its machines. The helper is stood in for by a script that logs the
helper's lines as sshd's AuthorizedKeysCommandUser, since here only the logs matter. Each machine has three logins:
with PAM, as root (whose session has no process of another pid), and without PAM. The tool reads the journal from
outside, as it does an image's, so that it need not run on each release.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = Path(os.environ.get("EIC_TOOL") or REPOSITORY / "target/debug/ec2-instance-connect")
INSTANCE = "i-0123456789abcdef0"
FORGED_KEY = "SHA256:PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0"

HELPER = """#!/bin/sh
logger -t ec2-instance-connect -p authpriv.info "Querying EC2 Instance Connect keys for matching fingerprint: $2"
logger -t ec2-instance-connect -p authpriv.info "Providing ssh key from EC2 Instance Connect with \
fingerprint: {fingerprint}, request-id: request-$1, for IAM principal: arn:aws:iam::123456789012:user/alice user=$1 \
sshd-pid=$PPID expires=$(($(date +%s) + 60)) instance={instance}"
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

FORGE = f"""
log() {{ runuser -u eve -- logger -t "$@"; }}
log sshd 'Accepted publickey for root from 192.0.2.66 port 6 ssh2: RSA {FORGED_KEY}'
log ec2-instance-connect 'Providing ssh key from EC2 Instance Connect with fingerprint: {FORGED_KEY} user=root sshd-pid=4 expires=1'
"""

POLL = "for _ in $(seq 100); do ss -ltn | grep -q ':22 ' && exit 0; sleep 0.1; done; exit 1"


def history(root, *options):
    """The document that the tool prints about the system below `root`."""
    done = subprocess.run(
        [TOOL, "history", "--json", "--root", root, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def judge(testbed, bed, suite):
    """Log in three times to a machine of `suite`, forge, and hold the rows against what was done."""
    key = bed.directory / f"{suite}-key"
    testbed.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    fingerprint = testbed.run(["ssh-keygen", "-lf", key]).stdout.split()[1]
    machine = bed.machine(suite, suite)
    stand_in = machine.root / "usr/lib/eic-stand-in"
    public = key.with_suffix(".pub").read_text().strip()
    stand_in.write_text(HELPER.format(fingerprint=fingerprint, key=public, instance=INSTANCE))
    stand_in.chmod(0o755)
    drop_ins = machine.root / "etc/ssh/sshd_config.d"
    drop_ins.mkdir(exist_ok=True)
    (drop_ins / "60-stand-in.conf").write_text(SSHD)
    machine.boot()
    machine.sh(PREPARE)

    def login(user):
        machine.sh(POLL)
        options = ["BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=no"]
        options.append("UserKnownHostsFile=/dev/null")
        argv = ["ssh", "-i", key, *(word for option in options for word in ("-o", option))]
        machine.host_run(*argv, f"{user}@127.0.0.1", "sleep 1")

    login("alice")
    login("root")
    machine.sh(FORGE)
    machine.sh("echo UsePAM no >/etc/ssh/sshd_config.d/10-no-pam.conf; systemctl restart ssh")
    login("alice")
    machine.sh("sleep 1; journalctl --sync")
    machine.power_off()

    document = history(machine.root)
    assert document["instances"] == [INSTANCE], document
    seen = [(row["kind"], row["user"], row["joined_by"], row["proof"], row["session"]["end_by"]) for row in document["rows"]]
    assert seen == [
        ("login", "alice", "pid", "journal", "pam"),
        ("login", "root", "pid", "journal", "pam"),
        ("login", "alice", "pid", "journal", "disconnect"),
    ], seen
    for row in document["rows"]:
        assert row["fingerprint"] == fingerprint, row
        assert row["session"]["seconds"] >= 0, row
        assert [grant["request_id"] for grant in row["grants"]] == [f"request-{row['user']}"], row
    assert sum(source["forged"] for source in document["sources"]) == 2, document["sources"]
    assert len(history(machine.root, "--user", "root")["rows"]) == 1


def main():
    """Judge the named releases; the exit status says whether all of them held."""
    packages = REPOSITORY / "tests/packages"
    if os.geteuid() != 0 or not (packages / "testbed.py").exists():
        print("SKIPPED: history on real journals needs root and the machines of tests/packages")
        return 0
    sys.path.insert(0, str(packages))
    import testbed

    failed = False
    for suite in sys.argv[1:] or ["bullseye", "bookworm", "trixie", "sid"]:
        bed = testbed.Testbed()
        try:
            judge(testbed, bed, suite)
            print(f"ok      history on {suite}'s journal", flush=True)
        except (AssertionError, testbed.StepFailed) as error:
            failed = True
            print(f"FAILED  history on {suite}'s journal: {error}", flush=True)
        finally:
            bed.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
