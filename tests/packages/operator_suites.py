"""The operator's tools on booted machines: what is broken is named, and its printed remedy mends it.

Each case of `MACHINE` and `LOGIN` breaks one thing, sees `doctor` name just that, does what the remedy says, to the
letter, and sees all be well again. A check of doctor's without a case fails the suite.
"""

import dataclasses
import json
import re
import time

from debian_suites import HELPER, NAME, install
from ec2 import ANCHORS, CONFIG as BASE, INSTANCE, USER, Ec2, prepare
from testbed import METADATA_IPV4

LIBEXEC = f"/usr/libexec/{NAME}/eic_run_authorized_keys"
CONFIG = f"/etc/{NAME}/config.toml"
DROPINS = "/etc/ssh/sshd_config.d"
# Sorts before the package's own drop-in: the first value wins.
EARLY = f"{DROPINS}/10-early.conf"
RELOAD = "systemctl reload ssh.service"
METADATA = "/latest/meta-data"

# One family of addresses is enough, so these two are never worse than skipped; this EC2's authority is nobody's, so its
# anchors can never be Amazon's, and the warning about that is what is well here; the cage is the host kernel's affair.
NEVER_WELL_OR_NEVER_WORSE = {"imds-ipv4", "imds-ipv6", "anchors", "cage"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing that somebody broke."""

    check: str
    outcome: str
    # Shell inside of the machine, or words for the simulator.
    breaking: str | tuple
    # What must stand in what was seen.
    seen: str
    # What is done where the remedy is prose about the world around (a clock, AWS, a firewall), or needs a package.
    remedy: str | tuple | None = None
    # Words of the remedy that says so.
    says: str = ""
    # Which of the remedy's alternatives is followed.
    alternative: int = 0
    user: str = USER
    # Also see a real login refused meanwhile.
    refuses: bool = False
    # Outcomes that the remedy leaves other than they were at first.
    leaves: tuple = ()


def drop_in(text):
    """Shell that writes an administrator's file and has sshd read it; one that sshd refuses is not read."""
    return f"cat >{EARLY} <<'END'\n{text}\nEND\n{RELOAD} || true"


def sshd(check, outcome, text, seen, **more):
    """A case of one file in sshd's configuration."""
    return Case(check, outcome, drop_in(text), seen, **more)


def rules(text):
    """Shell that writes the helper's configuration, with this in it."""
    return f"cat >{CONFIG} <<'END'\n{BASE}{text}END\n"


REINSTALL = f"apt-get -y -qq -o Dpkg::Use-Pty=0 install --reinstall /var/tmp/{NAME}.deb"
FETCH = f"/usr/bin/curl -s http://{METADATA_IPV4}{METADATA}/managed-ssh-keys/active-keys/%u"
AVC = 'type=AVC msg=audit(1): avc:  denied  { name_connect } for comm="eic_run_authori" dest=80'
APPARMOR = f'apparmor="DENIED" operation="exec" name="{LIBEXEC}"'

MACHINE = [
    Case("package", "fail", f"rm {HELPER}; printf '#!/bin/sh\\n' >{HELPER}; chmod 755 {HELPER}", "later package", refuses=True),
    Case("package", "fail", f"rm {HELPER}", "there is no", remedy=REINSTALL, says="install the package"),
    Case("version", "warn", f"printf '#!/bin/sh\\necho helper 0.1\\n' >{LIBEXEC}", "0.1", remedy=REINSTALL, says="install the package again"),
    Case("config", "fail", f"printf '[imds]\\nendpiont = 1\\n' >>{CONFIG}", "config.toml:4:1", remedy=f"sed -i 3,4d {CONFIG}", says="config check", refuses=True),
    Case("config", "fail", f"chmod 0600 {CONFIG}", "Permission denied"),
    Case("config", "fail", f"chmod 0666 {CONFIG}", "written by others"),
    Case("config", "fail", f"chown {USER}: {CONFIG}", "owned by uid"),
    Case("run-as-user", "fail", f"userdel {NAME}", "no user", refuses=True),
    # Debian's sshd takes a directory that root's own group may write; everybody's none takes.
    Case("helper-path", "fail", f"chmod g+w /usr/libexec/{NAME}", "private group"),
    Case("helper-path", "fail", f"chmod o+w /usr/libexec/{NAME}", "by everyone", refuses=True),
    Case("helper-path", "fail", f"chown {USER} {LIBEXEC}", LIBEXEC),
    Case("helper-path", "fail", f"chmod 0644 {LIBEXEC}", "executable"),
    sshd("sshd", "fail", "# x\nNonsense yes", f"{EARLY}: line 2"),
    Case("daemon", "fail", "systemctl stop ssh.service", "not running"),
    Case("daemon", "warn", f"touch {EARLY}; echo MaxSessions 9 >{EARLY}", EARLY),
    Case("setup-off", "warn", f"touch /etc/{NAME}/setup.off", "setup.off"),
    sshd("command-unverified", "fail", f"AuthorizedKeysCommand {FETCH}\nAuthorizedKeysCommandUser nobody", "DANGEROUS"),
    sshd("command", "fail", "# x\nAuthorizedKeysCommand none", f"{EARLY}:2", refuses=True),
    sshd("command", "fail", f"Match User {USER}\nAuthorizedKeysCommand none", "Match at"),
    sshd("command", "fail", "AuthorizedKeysCommand /bin/echo\nAuthorizedKeysCommandUser nobody", f"{EARLY}:1"),
    sshd("command", "warn", f"AuthorizedKeysCommand {HELPER} %u\nAuthorizedKeysCommandUser {NAME}", "arguments"),
    Case("command", "fail", f"rm {DROPINS}/60-{NAME}.conf; {RELOAD}", "no AuthorizedKeysCommand", refuses=True),
    # -o beats every file, and outlives a reload.
    Case(
        "command",
        "fail",
        "echo 'SSHD_OPTS=-oAuthorizedKeysCommand=none' >/etc/default/ssh; systemctl restart ssh.service",
        "/etc/default/ssh:1",
        refuses=True,
    ),
    Case(
        "command",
        "fail",
        "echo 'SSHD_OPTS=-oAuthorizedKeysCommand=none' >/etc/default/ssh; systemctl restart ssh.service; echo SSHD_OPTS= >/etc/default/ssh",
        "the running daemon was started with",
    ),
    sshd("command-user", "warn", "AuthorizedKeysCommandUser nobody", "nobody"),
    sshd("command-user", "fail", "AuthorizedKeysCommandUser nosuchuser", "does not exist", refuses=True),
    sshd("command-shadows", "warn", "Match User bob\nAuthorizedKeysCommand none", f"{EARLY}:2"),
    Case(
        "selinux",
        "fail",
        "mount -t tmpfs tmpfs /sys/fs; mkdir /sys/fs/selinux; printf 1 >/sys/fs/selinux/enforce",
        "not loaded",
        # There is no SELinux here to load it: the place where semodule would have left it.
        remedy="mkdir -p /var/lib/selinux/targeted/active/modules/200/ec2-instance-connect",
        says="semodule",
    ),
    Case(
        "selinux",
        "warn",
        rules('[[chain]]\ncommand = ["/bin/true"]\n')
        + "mkdir /sys/fs/selinux/booleans; printf '0 0' >/sys/fs/selinux/booleans/ec2_instance_connect_links",
        "no link is run",
        remedy="printf '1 1' >/sys/fs/selinux/booleans/ec2_instance_connect_links; " + rules(""),
        says="`setsebool -P ec2_instance_connect_links=on`",
    ),
    Case("selinux", "warn", f"mkdir -p /var/log/audit; echo '{AVC}' >/var/log/audit/audit.log", "name_connect", remedy="rm /var/log/audit/audit.log; umount /sys/fs", says="ausearch"),
    Case(
        "apparmor",
        "warn",
        f"mount -t tmpfs tmpfs /sys/module; mkdir -p /sys/module/apparmor/parameters; echo Y >/sys/module/apparmor/parameters/enabled; echo '{APPARMOR}' >/var/log/audit/audit.log",
        "exec",
        remedy="rm /var/log/audit/audit.log; umount /sys/module",
        says="profile",
    ),
    Case(
        "log",
        "warn",
        "systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service",
        "no logger listens",
        remedy="systemctl start systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service",
        says="start systemd-journald",
    ),
]

MACHINE += [
    Case("access", "warn", rules('[[access]]\neffect = "allow"\ngroups = ["nosuchgroup"]\n'), "no group nosuchgroup", remedy=rules(""), says="mend the rules"),
    Case("guards", "fail", rules(f'[guards]\ndeny_users = ["{USER}"]\n'), "deny", remedy=rules(""), says="log in as another user", refuses=True),
    Case(
        "links",
        "warn",
        rules('[[chain]]\ncommand = ["/opt/other-keys", "%u"]\n') + "printf '#!/bin/sh\\n' >/opt/other-keys; chmod 775 /opt/other-keys",
        "other-keys",
        remedy="chown root: /opt/other-keys && chmod go-w /opt/other-keys",
        says="`chmod go-w`",
    ),
    Case("one-time", "fail", rules("[keys]\none_time = true\n") + f"rm -r /run/{NAME}", f"/run/{NAME}", refuses=True),
    Case(
        "user-environment",
        "warn",
        rules("[options]\nprincipal_environment = true\n"),
        "PermitUserEnvironment no",
        remedy=drop_in("PermitUserEnvironment EIC_PRINCIPAL"),
        says="PermitUserEnvironment EIC_PRINCIPAL",
        leaves=(("user-environment", "pass"),),
    ),
]

SKEW = "Date:Thu, 01 Jan 2026 00:00:00 GMT"

LOGIN = [
    Case("ec2", "fail", "umount /sys/devices/virtual", "asset tag", remedy=("asset-tag",), says="sysfs visible", refuses=True),
    Case("imds", "fail", ("fault", "--prefix", "/", "status=403"), "switched off", remedy=("clear-faults",), says="--http-endpoint enabled", refuses=True),
    Case(
        "imds",
        "fail",
        ("fault", "--path", "/latest/api/token", "--method", "PUT", "stall"),
        "hop limit",
        remedy=("clear-faults",),
        says="--http-put-response-hop-limit 2",
    ),
    # A firewall by uid: root gets a token and would notice nothing.
    Case(
        "imds",
        "fail",
        f"ip rule add pref 10 lookup local; ip rule del pref 0; u=$(id -u {NAME}); "
        f"ip rule add pref 5 uidrange $u-$u to {METADATA_IPV4} prohibit; ip -6 rule add pref 5 uidrange $u-$u to fd00:ec2::254 prohibit",
        f"as {NAME}",
        remedy="ip rule del pref 5; ip -6 rule del pref 5",
        says="let this uid reach",
        refuses=True,
    ),
    Case("clock", "fail", ("fault", "--prefix", "/latest/", f"header={SKEW}"), "ahead of", remedy=("clear-faults",), says="chronyc makestep"),
    Case("place", "fail", ("put", "--path", f"{METADATA}/services/domain/", "--text", "example.com"), "example.com", remedy=("restore",), says="REASONS.md", refuses=True),
    Case("signer", "fail", ("put", "--path", f"{METADATA}/managed-ssh-keys/signer-cert/", "--text", "x"), "signer-malformed", remedy=("restore",), says="REASONS.md"),
    Case("staples", "fail", ("put", "--path", f"{METADATA}/managed-ssh-keys/signer-ocsp/", "--text", ""), "staple-missing", remedy=("restore",), says="REASONS.md", refuses=True),
    Case("account", "fail", f"userdel {USER}", f"no user {USER}", alternative=1),
    Case("account-locked", "fail", f"usermod -e 2001-01-01 {USER}", "expired", refuses=True),
    sshd("account-locked", "fail", "UsePAM no", "UsePAM", refuses=True),
    Case("shell", "fail", f"usermod -s /bin/false {USER}", "at once"),
    Case("shell", "fail", f"usermod -s /nonexistent {USER}", "not a program", refuses=True),
    Case("nologin", "fail", "echo later >/etc/nologin", "/etc/nologin"),
    sshd("pubkey-authentication", "fail", "PubkeyAuthentication no", f"{EARLY}:1", refuses=True),
    sshd("pubkey-authentication", "fail", "AuthenticationMethods password", "no list"),
    sshd("allowed-users", "fail", f"DenyUsers bob {USER[:2]}*", "DenyUsers", refuses=True),
    sshd("allowed-users", "fail", "AllowUsers bob", "AllowUsers", refuses=True),
    sshd("allowed-users", "fail", f"DenyGroups {USER}", "DenyGroups"),
    sshd("allowed-users", "fail", "AllowGroups wheel", "AllowGroups"),
    sshd("root-login", "fail", "PermitRootLogin no", f"{EARLY}:1", user="root", alternative=1),
    sshd("max-auth-tries", "warn", "MaxAuthTries 1", "MaxAuthTries 1", alternative=1),
    sshd("login-grace-time", "fail", "LoginGraceTime 3", "LoginGraceTime 3"),
]
# Checked apart: they are about who asks and for whom.
APART = {"privileges", "user-name"}


class Patient:
    """A machine on which all is well, until somebody breaks one thing."""

    def __init__(self, suite, bed, deb, *options):
        self.suite = suite
        self.machine = bed.machine("trixie", suite.name, asset_tag=INSTANCE)
        prepare(self.machine)
        self.machine.boot()
        self.ec2 = Ec2(bed, self.machine, *options)
        self.machine.put(deb, f"/var/tmp/{NAME}.deb")
        install(self.machine, deb)
        self.ec2.configure()
        self.well = {user: self.outcomes(user) for user in (USER, "root")}
        odd = {check: word for check, word in self.well[USER].items() if word != "pass"}
        odd.pop("cage", None)
        well = {"anchors": "warn", "root-login": "skip", "user-environment": "skip"}
        suite.equal("at first all is well", well, odd)

    def doctor(self, user=USER, by=()):
        """One run; returns its exit status and the checks by name."""
        done = self.machine.run(*by, "ec2-instance-connect", "doctor", "--json", "--user", user, check=False)
        try:
            checks = json.loads(done.stdout)["checks"]
        except ValueError:
            return done.returncode, {"none": {"outcome": "fail", "seen": done.stdout, "remedy": ""}}
        return done.returncode, {check["id"]: check for check in checks}

    def outcomes(self, user=USER):
        return {check: found["outcome"] for check, found in self.doctor(user)[1].items()}

    def do(self, what):
        """Shell inside, or words for the simulator."""
        if what == ("asset-tag",):
            self.machine._show_asset_tag()
        elif isinstance(what, tuple):
            self.ec2.tell(*what)
        else:
            self.machine.sh(what)

    def case(self, case):
        """Break, see it named, follow the remedy, see all well."""
        name = f"{case.check} ({case.outcome}: {case.seen})"
        # A remedy may leave a sound line in the file that was broken: each case begins without it.
        early = self.machine.root / EARLY.lstrip("/")
        if early.exists() and early.stat().st_size:
            self.machine.sh(f"rm {EARLY}; {RELOAD}")
        self.do(case.breaking)
        status, checks = self.doctor(case.user)
        found = checks.get(case.check, {})
        first = next((check for check, one in checks.items() if one["outcome"] == "fail"), None)
        named = found.get("outcome") == case.outcome and case.seen in found["seen"]
        alone = first == case.check and status == 1 if case.outcome == "fail" else first is None and status == 0
        shown = json.dumps({check: one for check, one in checks.items() if one["outcome"] in ("warn", "fail")}, indent=1)
        self.suite.check(f"{name} is named, and is the first to fail", named and alone, shown)
        if case.refuses:
            self.ec2.push(user=case.user, configure=False)
            code, output = self.ec2.ssh(user=case.user)
            self.suite.check(f"{name} really keeps the pushed key out", code == 255, f"{code}: {output}")
        remedy = found.get("remedy") or ""
        if case.remedy is None:
            follow(self.machine, remedy, case.alternative)
        else:
            self.suite.check(f"{name}: the remedy says what to do", case.says in remedy, remedy)
            self.do(case.remedy)
        after = self.doctor(case.user)[1]
        self.suite.equal(
            f"{name}: all is well once the remedy was followed",
            {**self.well[case.user], **dict(case.leaves)},
            {check: one["outcome"] for check, one in after.items()},
        ) or print(f"      | remedy: {remedy}\n      | {after.get(case.check)}", flush=True)


def follow(machine, remedy, alternative=0):
    """Does what a remedy says: `take away FILE:LINE`, `set KEYWORD to VALUE at FILE:LINE`, `` `command` ``."""
    words = re.split(r"[,;] or ", remedy)[alternative]
    place = r"(/\S+):(\d+)"
    lines = re.findall(rf"(?:take away|and) {place}", words)
    for file, line in sorted(lines, key=lambda at: -int(at[1])):
        edit(machine, file, int(line), lambda text: None)
    if at := re.search(rf"set (\w+) to (.+?) at {place}", words):
        keyword, value, file, line = at.groups()
        edit(machine, file, int(line), lambda text: f"{keyword} {value.removesuffix(' or more')}")
    if at := re.search(rf"add (\S+) to (\w+) at {place}", words):
        edit(machine, at[3], int(at[4]), lambda text: f"{text} {at[1]}")
    if at := re.search(rf"take (\S+) out of (\w+) at {place}", words):
        left = lambda text: [word for word in text.split() if word != at[1]]
        edit(machine, at[3], int(at[4]), lambda text: " ".join(left(text)) if len(left(text)) > 1 else None)
    if at := re.search(rf"take that -o out of {place}", words):
        edit(machine, at[1], int(at[2]), lambda text: re.sub(r"-oAuthorizedKeysCommand=\S+", "", text))
    for command in re.findall(r"`([^`]+)`", words):
        machine.sh(command)


def edit(machine, file, line, change):
    """Changes one line of a file, or takes it away where the change is none."""
    path = machine.root / file.lstrip("/")
    lines = path.read_text().splitlines()
    changed = change(lines[line - 1])
    lines[line - 1 : line] = [] if changed is None else [changed]
    path.write_text("".join(f"{text}\n" for text in lines))


def cases(suite, patient, every):
    """All of them, and a login at the end of it."""
    for case in every:
        patient.case(case)
    patient.ec2.login(suite, "after all of that a pushed key logs in")


def machine(suite, bed, deb):
    """What is broken in the package, in sshd's configuration, and around them."""
    patient = Patient(suite, bed, deb)
    known = set(patient.well[USER])
    covered = {case.check for case in MACHINE + LOGIN} | APART | NEVER_WELL_OR_NEVER_WORSE
    suite.equal("each of doctor's checks has a case", sorted(known), sorted(covered))
    status, checks = patient.doctor(by=("runuser", "-u", USER, "--"))
    asked = checks["privileges"]
    suite.check("without root doctor warns, and says how to ask", asked["outcome"] == "warn" and "sudo" in asked["remedy"], asked)
    cases(suite, patient, MACHINE)
    patient.machine.power_off()


def login(suite, bed, deb):
    """What is broken in the metadata, the account, and sshd's view of it."""
    patient = Patient(suite, bed, deb)
    _, checks = patient.doctor("a" * 33)
    first = next((check for check, one in checks.items() if one["outcome"] == "fail"), None)
    suite.check("a name for which no key can be pushed is named", first == "user-name", checks.get("user-name"))
    cases(suite, patient, LOGIN)
    patient.machine.power_off()


# What `aws` and sshd leave of one login, and who pushed.
CALLER = "arn:aws:iam::123456789012:user/alice"
SELFTEST = f"{NAME}-selftest"
TEXTFILE = f"/run/{SELFTEST}/selftest.prom"


def tools(suite, bed, deb):
    """Who logged in by the real AWS CLI a minute ago; the journal's fields; the selftest's units."""
    # Staples that hold for today and not until tomorrow: what the selftest is to warn of beforehand.
    patient = Patient(suite, bed, deb, "--staple-hours", "20")
    began = time.time()
    patient.ec2.aws_login(suite, "a key pushed by the AWS CLI logs in")
    other = patient.ec2.new_key("other")
    patient.ec2.push(key=other)
    patient.ec2.tell("put", "--path", f"{METADATA}/managed-ssh-keys/signer-ocsp/", "--text", "")
    code, _ = patient.ec2.ssh(key=other)
    patient.ec2.tell("restore")
    suite.check("without a word that the signer is not revoked none does", code == 255)
    patient.machine.sh("journalctl --sync")
    who_was_here(suite, patient, began)
    fields(suite, patient)
    told(suite, patient)
    timer(suite, patient)
    patient.machine.power_off()


def history(patient, *words):
    """The document of `history` inside, on the machine's own journal."""
    return json.loads(patient.machine.run(NAME, "history", "--json", *words).stdout)


def who_was_here(suite, patient, began):
    """`history` after logins by Amazon's own client, with CloudTrail's word and without."""
    trail = patient.machine.put(patient.ec2.directory / "state/cloudtrail.json", "/var/tmp/cloudtrail.json")
    document = history(patient, "--since", f"@{int(began)}", "--cloudtrail", trail)
    rows = document["rows"]
    kinds = [row["kind"] for row in rows]
    suite.equal("history has the two logins and the refusal, one row each", ["login", "login", "refused"], kinds)
    for row in [row for row in rows if row["kind"] == "login"]:
        grant = row["grants"][0]
        says = {
            "user": row["user"],
            "by": grant["principal"],
            "from": row["session"]["address"],
            "joined": row["joined_by"],
            "proof": row["proof"],
            "cloudtrail": grant["cloudtrail"],
            "contradicts": grant["contradicts"],
        }
        suite.equal(
            "a login's row says who pushed the key, and CloudTrail agrees",
            {"user": USER, "by": CALLER, "from": "127.0.0.1", "joined": "pid", "proof": "journal", "cloudtrail": "found", "contradicts": []},
            says,
        )
        suite.check("and how long the session was", row["session"]["seconds"] is not None, row["session"])
        agent = grant["push"]["user_agent"]
        suite.check("and by which program it was pushed", "aws-cli" in agent, agent)
    one = history(patient, "--principal", "*:user/alice", "--user", USER)
    suite.check("it is found by principal and user", len(one["rows"]) >= 2, one)
    none = history(patient, "--principal", "*:user/mallory")
    suite.equal("and not by another principal", [], none["rows"])
    text = patient.machine.run(NAME, "history").stdout
    suite.check("the page for people names the principal, and has no escape sequence", CALLER in text and "\x1b" not in text, text)


def fields(suite, patient):
    """Each fact of the helper's line is a field to search by."""
    row = next(row for row in history(patient)["rows"] if row["kind"] == "login")
    request = row["grants"][0]["request_id"]
    entries = journal(patient, f"EIC_REQUEST_ID={request}")
    suite.check("journalctl EIC_REQUEST_ID=... finds the login", len(entries) >= 1, entries)
    wanted = {
        "EIC_EVENT": "provided",
        "EIC_USER": USER,
        "EIC_FINGERPRINT": row["fingerprint"],
        "EIC_CALLER": CALLER,
        "EIC_INSTANCE": INSTANCE,
        "EIC_SSHD_PID": str(row["sshd_pid"]),
        "SYSLOG_IDENTIFIER": NAME,
        "SYSLOG_FACILITY": "10",
        "PRIORITY": "6",
    }
    suite.equal("with all that is known of it", wanted, {name: entries[0].get(name) for name in wanted} if entries else {})
    suite.check("and how long the helper took", entries and entries[0]["EIC_MILLISECONDS"].isdigit(), entries)
    for name in ("EIC_USER", "EIC_FINGERPRINT", "EIC_CALLER", "EIC_SSHD_PID"):
        found = journal(patient, f"{name}={wanted[name]}", f"EIC_REQUEST_ID={request}")
        suite.equal(f"journalctl {name}=... finds it too", len(entries), len(found))
    refused = journal(patient, "EIC_REASON=staple-missing", f"EIC_USER={USER}")
    suite.check("journalctl EIC_REASON=... finds the refusal", len(refused) >= 1, refused)
    pid = journal(patient, f"_PID={row['sshd_pid']}")
    suite.check("sshd's own lines have that pid", any("Accepted publickey" in entry["MESSAGE"] for entry in pid), pid)


def journal(patient, *matches):
    """The journal's entries that match, as dictionaries."""
    lines = patient.machine.run("journalctl", "-q", "-o", "json", *matches, check=False).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def told(suite, patient):
    """explain, capture and verify on a booted machine, as the helper's user where they ask the metadata."""
    machine = patient.machine
    patient.ec2.push()
    shown = json.loads(machine.run(NAME, "explain", "--json", USER).stdout)
    suite.check("explain gives the pushed key", shown["keys"] >= 1 and shown["run_as"].startswith(f"{NAME} "), shown)
    code = machine.run(NAME, "capture", "/root/evidence", "--user", USER).returncode
    suite.check("capture saves the evidence", code == 0, code)
    judged = machine.run(NAME, "verify", "/root/evidence", "--anchors", ANCHORS, "--json", check=False)
    suite.check("verify judges it, and a record holds", judged.returncode == 0 and json.loads(judged.stdout)["holds"], judged.stdout)
    amazon = machine.run(NAME, "verify", "/root/evidence", check=False)
    suite.check("not by Amazon's own roots", amazon.returncode == 1, amazon.stdout)
    check = machine.run(NAME, "config", "check")
    suite.equal("config check takes the file", f"{CONFIG}: sound\n", check.stdout)


def timer(suite, patient):
    """The selftest's units: off by default, sandboxed, and loud before it is too late."""
    machine = patient.machine
    enabled = machine.run("systemctl", "is-enabled", f"{SELFTEST}.timer", check=False).stdout.strip()
    suite.equal("the timer is disabled as it comes", "disabled", enabled)
    machine.run("systemctl", "enable", "--now", f"{SELFTEST}.timer")
    listed = machine.sh(f"systemctl list-timers {SELFTEST}.timer")
    suite.check("enabled, it waits for its time", f"{SELFTEST}.service" in listed, listed)
    machine.run("systemctl", "start", f"{SELFTEST}.service")
    text = machine.sh(f"cat {TEXTFILE}")
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    prefix = "ec2_instance_connect_selftest"
    suite.equal(
        "the metrics say that a login would work now, and not tomorrow",
        {"success": "1", "success_ahead": "0", "ok": "1"},
        {
            "success": samples.get(f"{prefix}_success"),
            "success_ahead": samples.get(f"{prefix}_success_ahead"),
            "ok": samples.get(f'{prefix}_result{{reason="ok"}}'),
        },
    )
    left = float(samples.get(f"{prefix}_staple_validity_seconds", 0))
    suite.check("and how long the staples still hold", 19 * 3600 < left <= 20 * 3600, left)
    mode = machine.sh(f"stat -c %a:%U {TEXTFILE}").strip()
    suite.equal("a collector may read them", f"644:{NAME}", mode)
    warned = said(patient, "4")
    suite.check("the journal has a warning before the staples run out", any("in 24 hours" in line for line in warned), warned)

    patient.ec2.tell("fault", "--prefix", "/", "status=403")
    failed = machine.run("systemctl", "start", f"{SELFTEST}.service", check=False).returncode
    patient.ec2.tell("clear-faults")
    errors = said(patient, "3")
    suite.check("without metadata the unit fails, and the journal has the reason", failed != 0 and any("imds-forbidden" in line for line in errors), errors)
    machine.run("systemctl", "start", f"{SELFTEST}.service")
    suite.check("with it again the unit is well again", True)

    exposure = machine.run("systemd-analyze", "security", "--no-pager", f"{SELFTEST}.service", check=False).stdout
    overall = exposure.strip().splitlines()[-1] if exposure.strip() else "nothing"
    print(f"      | {overall}", flush=True)
    score = re.search(r"([0-9.]+) ", overall)
    suite.check("systemd-analyze security finds little to say", score and float(score[1]) <= 1.5, exposure[-3000:])


def said(patient, priority):
    """The selftest's lines of one priority."""
    entries = journal(patient, f"_SYSTEMD_UNIT={SELFTEST}.service", f"PRIORITY={priority}")
    return [entry["MESSAGE"] for entry in entries]
