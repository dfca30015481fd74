"""A virtual machine in which a script does the work, and says its verdicts on the serial line."""

import os
import shutil
import subprocess

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
