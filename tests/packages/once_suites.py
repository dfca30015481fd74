"""One-time keys with each release's sshd: `[keys] one_time = true` as an administrator would set it."""

import concurrent.futures
import re
import shutil

from debian_suites import install
from ec2 import INSTANCE, USER, Ec2, prepare
from testbed import CACHE, run

DIRECTORY = "/run/ec2-instance-connect"
# Below sshd's own limit on connections that have not logged in (MaxStartups 10).
CLIENTS = 8
PARAMIKO = CACHE / "paramiko-1/bin/python"
# Signs at once, as paramiko does, without asking first whether the key would do.
SIGN_AT_ONCE = """
import sys, paramiko
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
key = paramiko.Ed25519Key.from_private_key_file(sys.argv[1])
client.connect("127.0.0.1", username=sys.argv[2], pkey=key, look_for_keys=False, allow_agent=False)
print(client.exec_command("echo let-in")[1].read().decode())
"""


def used(suite, ec2, sentence, reason="used"):
    """The key is refused, and the log says why."""
    before = ec2.logged("-b")
    code, output = ec2.ssh()
    said = ec2.logged("-b")[len(before) :]
    held = code == 255 and "Permission denied" in output and f"reason={reason} " in said and "Providing" not in said
    suite.check(sentence, held, f"ssh: exit {code}: {output}\n{said}")
    return said


def let_in(suite, ec2, sentence):
    """The key logs in; nothing is pushed for it."""
    code, output = ec2.ssh()
    suite.check(sentence, code == 0 and output == "let-in", f"ssh: exit {code}: {output}\n{ec2.journal()}")


def logins(suite, bed, release, deb):
    """A booted machine with the package."""
    machine = bed.machine(release, suite.name, asset_tag=INSTANCE)
    prepare(machine)
    machine.boot()
    ec2 = Ec2(bed, machine)
    install(machine, deb)
    hold(suite, machine, ec2)
    machine.reboot()
    # A key of its own: a reboot forgets the claims, and those of a minute ago are still good.
    ec2.key = ec2.new_key("after-the-reboot")
    ec2.push()
    let_in(suite, ec2, "after a reboot the pushed key logs in")
    used(suite, ec2, "and once only")
    machine.power_off()


def hold(suite, machine, ec2, paramiko=True):
    """What one-time keys promise, on a machine that has the package and boots with it."""
    ec2.settings = "[keys]\none_time = true\n"
    # A key that nobody pushed before.
    ec2.key = ec2.new_key("one-time")
    stat = machine.sh(f"stat -c '%U %a' {DIRECTORY}").strip()
    suite.equal("the directory of claims is the helper's user's alone", "ec2-instance-connect 700", stat)

    ec2.push()
    let_in(suite, ec2, "a pushed key logs in, in a probe and a signature")
    said = used(suite, ec2, "a second connection with it is refused")
    pid = re.search(r"sshd\[(\d+)\] has used it", said)
    accepted = machine.sh("journalctl -q --no-pager | grep 'Accepted publickey'")
    suite.check("and told which sshd has used it", pid and f"[{pid.group(1)}]: Accepted" in accepted, said + accepted)
    fingerprint = run(["ssh-keygen", "-lf", f"{ec2.key}.pub"]).stdout.split()[1]
    explained = machine.sh(f"ec2-instance-connect explain {USER} {fingerprint}", check=False)
    suite.check("explain says the same", "refused used" in explained and "no key would be given" in explained, explained)
    ec2.push()
    let_in(suite, ec2, "pushed again it logs in again")

    for pushed in (1, 2):
        for _ in range(pushed):
            ec2.push()
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            outcomes = list(pool.map(lambda _: ec2.ssh(), range(CLIENTS)))
        inside = sum(output == "let-in" for _, output in outcomes)
        denied = sum("Permission denied" in output for _, output in outcomes)
        sentence = f"of {CLIENTS} simultaneous logins with {pushed} pushes exactly {pushed} get in"
        suite.check(sentence, (inside, denied) == (pushed, CLIENTS - pushed), f"{outcomes}\n{ec2.journal()}")

    # A public half alone can only ask.
    stranger = ec2.directory / "stranger.pub"
    shutil.copy(f"{ec2.key}.pub", stranger)
    ec2.push()
    code, output = ec2.ssh(key=stranger)
    suite.check("a stranger who has the public key alone is not let in", code == 255, output)
    used(suite, ec2, "and his probe has spent it")

    if not paramiko:
        pass
    elif PARAMIKO.exists():
        ec2.push()
        attempt = lambda: machine.host_run(PARAMIKO, "-c", SIGN_AT_ONCE, ec2.key, USER, check=False)
        first, second = attempt(), attempt()
        suite.check("paramiko, which asks nothing first, logs in", "let-in" in first.stdout, first.stdout + ec2.journal())
        suite.check("and once only", "Authentication failed" in second.stdout, second.stdout)
    else:
        suite.skip("paramiko, which asks nothing first, logs in", f"{PARAMIKO} is not there")

    machine.sh("mount -o remount,hidepid=2 /proc")
    ec2.push()
    used(suite, ec2, "where /proc hides sshd the key is refused", reason="one-time-unavailable")
    doctor = machine.sh(f"ec2-instance-connect doctor --user {USER}", check=False)
    suite.check("doctor says so", re.search(r"fail +one-time ", doctor), doctor)
    checked = machine.sh("ec2-instance-connect config check", check=False)
    suite.check("and so does config check", "hidepid" in checked, checked)
    machine.sh("mount -o remount,hidepid=0 /proc")
    let_in(suite, ec2, "and the same key logs in when it no longer does")
