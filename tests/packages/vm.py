"""A virtual machine in which a script does the work, and says its verdicts on the serial line."""

import os
import shutil
import signal
import subprocess
import sys

from ec2 import TREE
from report import Report
from testbed import Testbed

# For the script: a verdict on what went before, the last word, and a login with one of /srv's keys.
SAYS = """\
say() { echo "EIC $*"; }
verdict() { if [ "$1" = 0 ]; then say "ok $2"; else say "FAIL $2"; fi; }
log_in() { ssh -F none -i "${1:-/srv/key}" -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no \\
    -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "${2:-alice}@127.0.0.1" 'echo let-in' </dev/null; }"""

# An emulated processor boots Debian in seconds or a minute, and many times that on a loaded machine.
VM_SECONDS = 1800


def verdicts(bed, suite, argv):
    """Runs the machine to its end. What its script said becomes this suite's: `EIC ok SENTENCE`, `EIC FAIL SENTENCE`."""
    console = bed.directory / "console.log"
    with open(console, "w") as out:
        machine = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    bed.on_close(lambda: (machine.kill(), machine.wait()))
    try:
        machine.wait(timeout=VM_SECONDS)
    except subprocess.TimeoutExpired:
        machine.kill()
    text = console.read_text(errors="replace")
    if "EIC_KEEP" in os.environ:
        shutil.copy(console, os.environ["EIC_KEEP"])
    for line in text.splitlines():
        words = line.strip().split(" ", 2)
        if words[0] == "EIC" and len(words) == 3:
            # What the machine said before it.
            suite.check(words[2], words[1] == "ok", text[: text.find(line)][-3000:])
    suite.check("the script in the machine ran to its end", "EIC end" in text, text[-3000:])


def package(architecture, target):
    """The one package of that architecture that was built; `target` is make's word for it."""
    found = sorted((TREE / "target/packages").glob(f"*_{architecture}.deb"))
    if len(found) != 1:
        sys.exit(f"no {architecture} package in target/packages: run `make {target}` first")
    return found[0]


def main(name, needs_root, test):
    """Runs `test` on a suite and a bed of its own, as root; the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report, bed = Report(), Testbed()
    suite = report.suite(name)
    if os.geteuid() != 0:
        suite.skip("everything", needs_root)
        return report.close()
    try:
        test(suite, bed)
    except Exception as error:
        suite.check("runs to its end", False, error)
    finally:
        bed.close()
    return report.close()
