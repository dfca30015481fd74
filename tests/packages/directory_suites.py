"""A link to sssd with a real directory behind it: slapd on loopback, sssd's domain, logins by the directory's keys.

Two people have a key in the directory. `dora` is known to the directory alone; `alice` has an account of the machine's as
well, so that she is still somebody when sssd is stopped.
"""

import json
import time
from pathlib import Path

from debian_suites import install
from ec2 import INSTANCE, USER, Ec2, prepare
from testbed import run

DORA = "dora"
UID = 64210
SUFFIX = "dc=example,dc=test"
# sssd looks into its cache within milliseconds and into slapd within some hundred; a loaded machine is slower.
CHAIN = '[[chain]]\nname = "sssd"\ncommand = ["/usr/bin/sss_ssh_authorizedkeys", "%u"]\ntimeout_ms = 10000\n'
SETTINGS = f"[imds]\ntotal_timeout_ms = 10000\n{CHAIN}"
START_SECONDS = 60

# The schema of OpenSSH's LDAP public keys, whose names sssd knows (sssd-ldap(5), ldap_user_ssh_public_key).
SCHEMA = """attributetype ( 1.3.6.1.4.1.24552.500.1.1.1.13 NAME 'sshPublicKey'
    EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )
objectclass ( 1.3.6.1.4.1.24552.500.1.1.2.0 NAME 'ldapPublicKey' SUP top AUXILIARY MAY ( sshPublicKey $ uid ) )
"""

SLAPD = f"""include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/keys.schema
pidfile /run/slapd/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "{SUFFIX}"
directory /var/lib/ldap-test
maxsize 10485760
access to * by * read
"""

SSSD = f"""[sssd]
services = nss, ssh
domains = test
[domain/test]
id_provider = ldap
auth_provider = none
access_provider = permit
ldap_uri = ldap://127.0.0.1
ldap_search_base = {SUFFIX}
# On loopback, and no password is ever sent.
ldap_id_use_start_tls = false
"""


def person(name, number, public):
    """An entry of the directory."""
    return f"""dn: uid={name},{SUFFIX}
objectClass: account
objectClass: posixAccount
objectClass: ldapPublicKey
uid: {name}
cn: {name}
uidNumber: {number}
gidNumber: {number}
homeDirectory: /home/{name}
loginShell: /bin/sh
sshPublicKey: {public}

"""


def offline(machine, people):
    """The directory's content and both daemons' configuration, before the machine boots."""
    root = machine.root
    top = f"dn: {SUFFIX}\nobjectClass: domain\ndc: example\n\n"
    machine.write("/etc/ldap/schema/keys.schema", SCHEMA)
    machine.write("/etc/ldap/slapd.conf", SLAPD)
    machine.write("/srv/people.ldif", top + "".join(people))
    machine.write("/etc/default/slapd", 'SLAPD_CONF=/etc/ldap/slapd.conf\nSLAPD_USER=openldap\nSLAPD_GROUP=openldap\nSLAPD_SERVICES="ldap://127.0.0.1/"\n')
    (root / "var/lib/ldap-test").mkdir()
    run(["chroot", root, "slapadd", "-q", "-f", "/etc/ldap/slapd.conf", "-l", "/srv/people.ldif"])
    run(["chroot", root, "chown", "-R", "openldap:openldap", "/var/lib/ldap-test"])
    machine.write("/etc/sssd/sssd.conf", SSSD, 0o600)
    # libnss-sss has put its word into nsswitch.conf, and PAM asks for no password where there is a key.
    run(["chroot", root, "install", "-d", "-m", "0755", "-o", str(UID), "-g", str(UID), f"/home/{DORA}"])


def directory(suite, bed, deb):
    """Keys of the directory log in through the link, beside pushed ones; without sssd only the pushed do."""
    machine = bed.machine("chain", suite.name, asset_tag=INSTANCE)
    prepare(machine)
    his = {name: bed.directory / name for name in (DORA, USER, "stranger")}
    for name, path in his.items():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path])
    public = lambda name: Path(f"{his[name]}.pub").read_text().strip()
    own = int(run(["chroot", machine.root, "id", "-u", USER]).stdout)
    offline(machine, [person(DORA, UID, public(DORA)), person(USER, own, public(USER))])
    machine.boot()
    ec2 = Ec2(bed, machine)
    # systemd's own command, which another suite is about, would stand in the way.
    machine.sh("rm /etc/ssh/sshd_config.d/20-systemd-userdb.conf")
    install(machine, deb)
    ec2.configure()
    let_in = lambda sentence, user, key: suite.check(sentence, ec2.ssh(user=user, key=key) == (0, "let-in"), ec2.journal())
    kept_out = lambda sentence, user, key: suite.check(sentence, ec2.ssh(user=user, key=key)[0] == 255, ec2.journal())

    known = wait_for(machine, f"getent passwd {DORA}")
    suite.check("sssd knows the directory's user", known.startswith(f"{DORA}:") and f":{UID}:" in known, status(machine))
    suite.check("and the machine alone does not", DORA not in (machine.root / "etc/passwd").read_text())
    kept_out("without the link the directory's key is refused", DORA, his[DORA])

    ec2.settings = SETTINGS
    ec2.configure()
    let_in("with it the directory's user logs in by the directory's key", DORA, his[DORA])
    kept_out("and not by a stranger's", DORA, his["stranger"])
    ec2.push(user=DORA)
    let_in("and by a key that was pushed for her", DORA, ec2.key)
    let_in("a user of both logs in by the directory's key", USER, his[USER])
    kept_out("and not by the other's", USER, his[DORA])
    rows = json.loads(machine.run("ec2-instance-connect", "history", "--json").stdout)["rows"]
    logins = [(row["kind"], row["user"], row["links"]) for row in rows if row["session"]]
    expected = [("linked", DORA, ["sssd"]), ("login", DORA, ["sssd"]), ("linked", USER, ["sssd"])]
    suite.check("history tells whose key it was each time", logins == expected, rows)

    machine.sh("systemctl stop slapd.service")
    let_in("without the directory sssd's cache lets her in", DORA, his[DORA])
    machine.sh("systemctl stop sssd.service 'sssd-*.socket' 'sssd-*.service'")
    kept_out("without sssd the directory's key is refused", USER, his[USER])
    reasons = ec2.logged("EIC_LINK=sssd", "EIC_REASON=link-failed")
    suite.check("and the journal says why", "Passing on nothing of link sssd" in reasons, ec2.journal())
    said = machine.run("ec2-instance-connect", "explain", USER, check=False).stdout
    suite.check("as explain does", "sssd: link-failed" in said, said)
    ec2.push()
    let_in("a pushed key logs in all the same", USER, ec2.key)
    machine.sh("systemctl start slapd.service sssd.service")
    wait_for(machine, f"/usr/bin/sss_ssh_authorizedkeys {USER}")
    let_in("and with sssd back the directory's does", USER, his[USER])


def wait_for(machine, command):
    """What the command prints as soon as it prints something; sssd asks its directory a moment after it has started."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        said = machine.sh(f"{command} 2>/dev/null", check=False)
        if said or time.monotonic() > deadline:
            return said
        time.sleep(0.2)


def status(machine):
    """Both daemons' last words, for a failing check."""
    return machine.sh("systemctl status --no-pager slapd sssd; tail -n 20 /var/log/sssd/*.log", check=False)
