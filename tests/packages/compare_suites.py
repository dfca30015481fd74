"""`compare` on a machine that people log in to: another implementation beside ours, once and as a watch."""

import json
import time

from debian_suites import install
from ec2 import INSTANCE, USER, Ec2, prepare

NAME = "ec2-instance-connect"
# Another implementation: it gives the keys that somebody put into a file, and proves nothing.
THEIRS = "/opt/theirs/authorized_keys"
KEYS = "/opt/theirs/keys"
WATCH = "compare-watch"


def compare(suite, bed, deb):
    """Both agree; then a record is tampered with, which only one of them sees."""
    machine = bed.machine("bookworm", suite.name, asset_tag=INSTANCE)
    prepare(machine)
    machine.boot()
    ec2 = Ec2(bed, machine)
    install(machine, deb)
    machine.write(THEIRS, f"#!/bin/sh\nexec cat {KEYS}\n", 0o755)
    machine.write(KEYS, ec2.key.with_suffix(".pub").read_text(), 0o644)
    compared = lambda: machine.run(NAME, "compare", "--json", "--user", USER, "--with", THEIRS, check=False)
    logged = lambda: ec2.logged("EIC_EVENT=compared")

    ec2.login(suite, "the pushed key logs in")
    same = compared()
    suite.check("and both give it", same.returncode == 0 and not json.loads(same.stdout.splitlines()[0])["only_ours"], same.stdout)
    suite.check("which is not worth a line in the log", logged() == "", logged())

    ec2.tell("tamper", "--user", USER, "--from", "user/alice", "--to", "user/bob")
    code, output = ec2.ssh()
    suite.check("a record that somebody tampered with lets nobody in", code == 255 and "Permission denied" in output, output)
    reason = "record-signature"
    journal = ec2.logged(f"EIC_REASON={reason}")
    suite.check(f"the journal has reason={reason}", f"reason={reason} " in journal, journal)
    explained = machine.run(NAME, "explain", USER, check=False).stdout
    suite.check("and explain has it", reason in explained, explained)
    different = compared()
    only = [json.loads(line) for line in different.stdout.splitlines()]
    theirs = all(row["only_theirs"] and not row["only_ours"] for row in only)
    suite.check("compare says that only theirs gives it", different.returncode == 1 and only and theirs, different.stdout)
    suite.check("and why, in the log", f"our reasons: {reason}" in logged(), logged())

    ec2.tell("expire")
    ec2.tell("restore")
    before = logged()
    machine.sh(f"systemd-run --unit {WATCH} {NAME} compare --watch --json --user {USER} --with {THEIRS}")
    other = ec2.new_key("other")
    ec2.push(other)
    for _ in range(300):
        if logged() != before:
            break
        time.sleep(0.2)
    machine.sh(f"systemctl stop {WATCH}")
    news = logged().removeprefix(before)
    suite.check("a watch sees by itself that the next pushed key is ours alone", "only-ours=1 only-theirs=1" in news, news)
    suite.check("which logs in", ec2.ssh(key=other) == (0, "let-in"), ec2.journal())
    machine.power_off()
