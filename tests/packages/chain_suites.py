"""Links beside others who give keys: sssd's command, systemd's user database, a script that is adopted."""

import json
from pathlib import Path

import snapshot
from debian_suites import install
from ec2 import CONFIG, INSTANCE, USER, Ec2, prepare

SETUP = ("ec2-instance-connect", "setup")
OURS = "/usr/share/ec2-instance-connect/eic_run_authorized_keys"
DROPIN = "/etc/ssh/sshd_config.d/50-keys-of.conf"
SCRIPT = "/usr/local/sbin/keys-of"
SSSD = '[[chain]]\nname = "sssd"\ncommand = ["/usr/bin/sss_ssh_authorizedkeys", "%u"]\n'


def chain(suite, bed, deb):
    """Somebody's command is refused, adopted, logged in by, and given back; others are asked as links."""
    machine = bed.machine("chain", suite.name, asset_tag=INSTANCE)
    prepare(machine)
    machine.boot()
    ec2 = Ec2(bed, machine)
    his = ec2.new_key("his")
    public = Path(f"{his}.pub").read_text().strip()
    let_in = lambda sentence, key: suite.check(sentence, ec2.ssh(key=key) == (0, "let-in"), ec2.journal())
    kept_out = lambda sentence, key: suite.check(sentence, ec2.ssh(key=key)[0] == 255, ec2.journal())

    userdb(suite, machine, deb)

    machine.sh("mkdir -p -m 755 /usr/local/sbin; chown root:root /usr/local /usr/local/sbin; chmod 755 /usr/local /usr/local/sbin")
    machine.write(SCRIPT, f'#!/bin/sh\n[ "$1" = {USER} ] && echo "{public}"\n', 0o755)
    machine.write(DROPIN, f"# his\nAuthorizedKeysCommand {SCRIPT} %u\nAuthorizedKeysCommandUser nobody\n")
    machine.sh("systemctl reload ssh.service")
    ec2.configure()
    machine.sh("groupadd keyreaders; usermod -aG keyreaders ec2-instance-connect")
    before = snapshot.tree(machine.root, "/etc")
    let_in("his key logs in by his command", his)
    ec2.refused(suite, "and the pushed key is refused")

    said = machine.run(*SETUP, "apply", "--adopt", "root", check=False)
    suite.check("a user to whom it gives nothing proves nothing", "[adopt-unfit]" in said.stdout and said.returncode == 1, said.stdout)
    said = machine.run(*SETUP, "apply", "--adopt", USER, check=False)
    suite.check("for one with a key it is adopted", "[adopted]" in said.stdout and said.returncode == 0, said.stdout)
    let_in("his key logs in by the link", his)
    # The simulator's own configuration would replace the adopted one.
    ec2.push(configure=False)
    let_in("and the pushed key logs in", ec2.key)
    kept_out("and a stranger's does not", ec2.new_key("stranger"))
    log = ec2.logged("EIC_LINK=keys-of")
    suite.check("the journal names the link", "Passing on 1 lines of link keys-of" in log, log)
    rows = json.loads(machine.run("ec2-instance-connect", "history", "--json").stdout)["rows"]
    kinds = [(row["kind"], row["links"], row["joined_by"]) for row in rows if row["session"]]
    # The link is asked about the pushed key as well, and gives its lines.
    expected = [("linked", ["keys-of"], "pid"), ("login", ["keys-of"], "pid")]
    suite.check("history tells his login by the link from the pushed key's", kinds == expected, rows)

    machine.write("/srv/keys-of", f"{public}\n", 0o640)
    machine.sh("chgrp keyreaders /srv/keys-of")
    machine.write(SCRIPT, "#!/bin/sh\nexec cat /srv/keys-of\n", 0o755)
    let_in("his key logs in by a link that may read it by a group of ours", his)
    said = machine.run("ec2-instance-connect", "explain", USER, check=False).stdout
    suite.check("and explain sees it as well", "keys-of: 1 lines" in said, said)

    script = '#!/bin/sh\necho "$(cat /srv/keys-of)"\n'
    for when, reason, text, mode in (
        ("hangs", "link-timeout", "#!/bin/sh\nexec sleep 600\n", 0o755),
        ("floods", "link-too-large", "#!/bin/sh\nexec yes\n", 0o755),
        ("fails after its lines", "link-failed", f"{script}exit 3\n", 0o755),
        ("is anybody's to write", "link-path", script, 0o777),
    ):
        machine.write(SCRIPT, text, mode)
        ec2.push(configure=False)
        let_in(f"the pushed key logs in while the link {when}", ec2.key)
        kept_out(f"and where it {when} his does not", his)
        log = ec2.logged(f"EIC_REASON={reason}")
        suite.check(f"the journal says {reason}", f"reason={reason}" in log, log)
        said = machine.run("ec2-instance-connect", "explain", USER, check=False).stdout
        suite.check(f"and explain says {reason}", reason in said, said)
    left = machine.sh("pgrep -x 'sleep|yes' || true")
    suite.check("and nothing of it is left", left == "", left)

    machine.write(SCRIPT, f'#!/bin/sh\n[ "$1" = {USER} ] && echo "{public}"\n', 0o755)
    machine.run(*SETUP, "remove", "--package")
    suite.equal("removal gives every byte below /etc back", before, snapshot.tree(machine.root, "/etc"))
    let_in("and his key logs in by his command again", his)

    machine.sh(f"rm {DROPIN}")
    machine.write("/etc/ec2-instance-connect/config.toml", CONFIG + SSSD)
    machine.run(*SETUP, "apply", "--package")
    ec2.push(configure=False)
    let_in("beside sssd's command, which knows nobody here, the pushed key logs in", ec2.key)
    said = machine.run("ec2-instance-connect", "explain", USER, check=False).stdout
    suite.check("explain says how sssd's command ended", "sssd: link-failed: exit status 1" in said, said)


def userdb(suite, machine, deb):
    """systemd's own drop-in runs its command as root: in the way, and not to be adopted."""
    record = '{"userName":"bob","uid":64200,"gid":64200,"homeDirectory":"/","shell":"/bin/sh","disposition":"regular"}'
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti"
    machine.write("/etc/userdb/bob.user", record)
    machine.write("/etc/userdb/bob.user-privileged", '{"privileged":{"sshAuthorizedKeys":["%s"]}}' % key, 0o600)
    line = "\n".join(l for l in snapshot.sshd_lines(machine) if l.lower().startswith("authorizedkeyscommand"))
    suite.check("systemd's drop-in has its command run as root", "userdbctl" in line and "root" in line, line)
    asked = "userdbctl ssh-authorized-keys bob"
    said = machine.sh(asked, check=False)
    suite.check("root is given the record's key", key in said, said)
    said = machine.sh(f"setpriv --reuid nobody --regid nogroup --clear-groups {asked} 2>&1", check=False)
    suite.check("and another user is not", key not in said, said)
    said = install(machine, deb, check=False)
    suite.check("the package leaves it alone and names it", "[foreign-command]" in said and OURS not in line, said)
    said = machine.run(*SETUP, "apply", "--adopt", "bob", check=False).stdout
    suite.check("it is not adopted, since it runs as root", "[adopt-root]" in said and "CHAINING.md" in said, said)
    machine.sh("rm /etc/ssh/sshd_config.d/20-systemd-userdb.conf; systemctl reload ssh.service")
