"""The .rpm in a booted machine, through dnf, zypper and plain rpm.

The machine is Debian with rpm's tools: what is tested is the package, its scriptlets and the order in which each
tool runs them. What Debian has already is told to the rpm database by empty packages that say they provide it.
"""

import os
from pathlib import Path

import readme
import snapshot
from debian_suites import HELPER as DEB_HELPER
from debian_suites import NAME, TIMER, Moment, effective, gone, main_pid
from ec2 import CONFIG, INSTANCE, Ec2, prepare
from testbed import run

TREE = Path(__file__).resolve().parents[2]
HELPER = "/opt/aws/bin/eic_run_authorized_keys"

# What rpm 4.11, Amazon Linux 2's, can satisfy: its own `rpm --showrc | grep rpmlib`.
RPM_4_11_FEATURES = {
    "rpmlib(BuiltinLuaScripts)",
    "rpmlib(CompressedFileNames)",
    "rpmlib(ConcurrentAccess)",
    "rpmlib(ExplicitPackageProvide)",
    "rpmlib(FileCaps)",
    "rpmlib(FileDigests)",
    "rpmlib(HeaderLoadSortsTags)",
    "rpmlib(PartialHardlinkSets)",
    "rpmlib(PayloadFilesHavePrefix)",
    "rpmlib(PayloadIsBzip2)",
    "rpmlib(PayloadIsLzma)",
    "rpmlib(PayloadIsXz)",
    "rpmlib(ScriptletInterpreterArgs)",
    "rpmlib(VersionedDependencies)",
}


def build(directory, name, version, *, provides=(), body="", arch="noarch", release="1", scripts=""):
    """A small rpm from nothing but its spec; returns its path."""
    directory = Path(directory)
    spec = directory / f"{name}-{version}.spec"
    spec.write_text(
        f"%global _binary_payload w9.gzdio\n%global __os_install_post %{{nil}}\n%global _build_id_links none\n"
        f"Name: {name}\nVersion: {version}\nRelease: {release}\nSummary: Stand-in\nLicense: None\nBuildArch: {arch}\n"
        + "".join(f"Provides: {p}\n" for p in provides)
        + f"%description\nStand-in for tests.\n{scripts}\n{body or '%files'}\n"
    )
    top = directory / f"rpmbuild-{name}-{version}"
    run(["rpmbuild", "-bb", "--define", f"_topdir {top}", "--define", f"_tmppath {directory}", spec])
    return next(top.glob("RPMS/*/*.rpm"))


def newer(directory, rpm_stage, version="3.0.1"):
    """Our package under a later version, from the same spec: what an upgrade installs; main and -selinux."""
    top = Path(directory) / "rpmbuild-newer"
    spec = Path(directory) / "newer.spec"
    text = (TREE / f"rpm/{NAME}.spec").read_text()
    spec.write_text(text.replace("\nVersion:        3.0.0\n", f"\nVersion:        {version}\n"))
    run(
        ["rpmbuild", "-bb", "--define", f"_topdir {top}", "--define", f"_tmppath {directory}", "--define", f"eic_tree {TREE}"]
        + ["--define", f"eic_stage {rpm_stage}", spec],
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )
    return sorted(top.glob("RPMS/*/*.rpm"), key=lambda p: "-selinux-" in p.name)


def seed(machine, directory, rpms):
    """Tell the machine's rpm database what Debian's packages already installed."""
    # Debian gives each user a database of his own; dnf and zypper look for the system's.
    machine.write("/etc/rpm/macros", "%_dbpath /var/lib/rpm\n")
    wanted = set()
    for rpm in rpms:
        for line in run(["rpm", "-qp", "--requires", rpm]).stdout.splitlines():
            word = line.split(" ")[0]
            if word.startswith(("libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "ld-linux", "rtld(", "/usr/")):
                wanted.add(word)
    stubs = [
        build(directory, "distribution", "1", provides=sorted(wanted)),
        build(directory, "bash", "5", provides=["/bin/sh"]),
        build(directory, "openssh-server", "9.2p1"),
        build(directory, "openssh", "9.2p1"),
    ]
    inside = [machine.put(s, f"/var/tmp/{s.name}") for s in stubs]
    machine.run("rpm", "-i", *inside)


class Tool:
    """The same operations by different names. Several packages go in one transaction."""

    def __init__(self, machine):
        self.machine = machine

    def install_first(self, rpms):
        return self.install(rpms)

    def erase_all(self):
        return self.erase([NAME, f"{NAME}-selinux"])

    def copy(self, rpms):
        return [self.machine.put(r, f"/var/tmp/{Path(r).name}") for r in rpms]


class Rpm(Tool):
    def install(self, rpms):
        return self.machine.run("rpm", "-U", *self.copy(rpms)).stdout

    def erase(self, names):
        return self.machine.run("rpm", "-e", *names).stdout


class Dnf(Tool):
    # By the README's own lines, where it has them.
    def install_first(self, rpms):
        for rpm in rpms:
            self.machine.put(rpm, f"/srv/{Path(rpm).name}")
        said = readme.run(self.machine, "Install it", "dnf install", where="/srv")
        for rpm in rpms:
            (self.machine.root / "srv" / Path(rpm).name).unlink()
        return said

    def erase_all(self):
        return readme.run(self.machine, "Undo it", "dnf remove")

    def install(self, rpms):
        return self.machine.run("dnf", "-y", "--disablerepo=*", "--nogpgcheck", "install", *self.copy(rpms)).stdout

    def erase(self, names):
        return self.machine.run("dnf", "-y", "--disablerepo=*", "remove", *names).stdout


class Zypper(Tool):
    QUIETLY = ("zypper", "--non-interactive", "--no-refresh", "--no-gpg-checks")

    def install(self, rpms):
        return self.machine.run(*self.QUIETLY, "install", "--allow-unsigned-rpm", *self.copy(rpms)).stdout

    def erase(self, names):
        return self.machine.run(*self.QUIETLY, "remove", *names).stdout


TOOLS = {"rpm": Rpm, "dnf": Dnf, "zypper": Zypper}


def installed(machine):
    """Name-version of what the rpm database holds of us."""
    return sorted(machine.sh(f"rpm -qa --qf '%{{name}}-%{{version}}\\n' '{NAME}*'").split())


def lifecycle(suite, bed, tool, rpms, stage):
    """Refused, installed, let in, rebooted, upgraded, erased; then from Amazon's packages; kept off when told so."""
    machine = bed.machine("rpm", suite.name, asset_tag=INSTANCE)
    prepare(machine)
    machine.boot()
    ec2 = Ec2(bed, machine)
    seed(machine, ec2.directory, rpms)
    tool = TOOLS[tool](machine)

    before = Moment(machine)
    ec2.refused(suite, "before the installation the pushed key is refused")
    pid = main_pid(machine)
    said = tool.install_first(rpms)
    suite.check("both packages are installed", installed(machine) == [f"{NAME}-3.0.0", f"{NAME}-selinux-3.0.0"], said)
    suite.check("sshd names the traditional path", any(HELPER in line for line in effective(machine)), said)
    suite.check("sshd was reloaded, not restarted", pid == main_pid(machine), f"{pid} -> {main_pid(machine)}")
    ec2.login(suite, "after the installation the pushed key logs in")
    ec2.refused_without_push(suite, "a key that was not pushed is refused")
    machine.reboot()
    ec2.login(suite, "after a reboot the pushed key logs in")

    said = tool.install(newer(ec2.directory, stage))
    suite.check("the upgrade is installed", installed(machine) == [f"{NAME}-3.0.1", f"{NAME}-selinux-3.0.1"], said)
    suite.check("sshd's configuration survives the upgrade", any(HELPER in line for line in effective(machine)), said)
    suite.check("an edited configuration survives the upgrade", CONFIG == machine.sh(f"cat /etc/{NAME}/config.toml"))
    suite.check("the user survives the upgrade", machine.run("getent", "passwd", NAME, check=False).returncode == 0)
    ec2.login(suite, "after the upgrade the pushed key logs in")

    machine.run("systemctl", "enable", "--now", TIMER)
    said = tool.erase_all()
    gone(suite, machine, "after erase")
    suite.check("nothing of us is installed", installed(machine) == [], said)
    drop_rpmsave(suite, machine)
    before.same(suite, "after erase")
    suite.check("after erase the user is gone", machine.run("getent", "passwd", NAME, check=False).returncode == 2)
    ec2.refused(suite, "after erase the pushed key is refused")

    machine.sh(f"mkdir -p /etc/{NAME} && touch /etc/{NAME}/setup.off")
    tool.install(rpms)
    suite.equal("installed with setup.off, sshd -T is as before", before.sshd["sshd -T"], snapshot.sshd(machine)["sshd -T"])
    ec2.refused(suite, "installed with setup.off the pushed key is refused")
    tool.erase_all()
    suite.check("setup.off is the administrator's and stays", (machine.root / f"etc/{NAME}/setup.off").exists())
    machine.sh(f"rm -r /etc/{NAME}")

    refused(suite, machine, ec2, tool, rpms)
    from_amazon(suite, machine, ec2, tool, rpms)
    from_amazon(suite, machine, ec2, tool, rpms, rude=True)
    from_amazon_linux(suite, machine, ec2, tool, rpms)
    machine.power_off()


def refused(suite, machine, ec2, tool, rpms):
    """Somebody's own command: the package is installed all the same, says why, and touches nothing."""
    own = "/etc/ssh/sshd_config.d/10-directory.conf"
    machine.write(own, "AuthorizedKeysCommand /usr/bin/env false\nAuthorizedKeysCommandUser nobody\n")
    machine.sh("systemctl reload ssh")
    before = Moment(machine)
    said = tool.install(rpms)
    suite.check("where somebody has a command, both are installed all the same", len(installed(machine)) == 2, said)
    suite.check("and say whose it is", "refused [foreign-command]" in said and f"{own}:1" in said, said)
    suite.equal("and sshd -T is as before", before.sshd["sshd -T"], snapshot.sshd(machine)["sshd -T"])
    tool.erase_all()
    before.same(suite, "after erase there")
    machine.sh(f"rm {own} && systemctl reload ssh")


def drop_rpmsave(suite, machine):
    """An edited configuration is the administrator's: rpm keeps it aside. Check that, and that it is all there is."""
    left = sorted(p.name for p in (machine.root / f"etc/{NAME}").glob("*"))
    suite.check("only the edited configuration is kept, aside", left == ["config.toml.rpmsave"], left)
    machine.sh(f"rm -rf /etc/{NAME}")


AMAZON_OVERRIDE = f"""[Service]
ExecStart=
ExecStart=/usr/sbin/sshd -D -o "AuthorizedKeysCommand {HELPER} %%%%u %%%%f" -o "AuthorizedKeysCommandUser {NAME}" $SSHD_OPTS
"""


def amazon_rpms(directory, *, override=True, rude=False):
    """Packages with the layout of Amazon's scripts for rpm systems, and none of their content.

    `override`: they write sshd's unit an ExecStart, as where sshd_config has not the two lines. `rude`: their last
    script takes that and the user away on an upgrade too, when a newer package's %pre and %post have run already.
    """
    written = f"/usr/lib/systemd/system/sshd.service.d/{NAME}.conf"
    after = (
        f"mkdir -p $(dirname {written})\ncat >{written} <<'END'\n{AMAZON_OVERRIDE}END\n"
        "systemctl daemon-reload\nsystemctl restart sshd\n"
    )
    gone = "true" if rude else "[ $1 -eq 0 ]"
    main = build(
        directory,
        NAME,
        "1.1",
        release="19",
        body="%install\nmkdir -p %{buildroot}/opt/aws/bin\n"
        + "".join(
            f"printf '#!/bin/sh\\nexit 0\\n' >%{{buildroot}}/opt/aws/bin/{s}\n"
            for s in ("eic_run_authorized_keys", "eic_curl_authorized_keys", "eic_parse_authorized_keys")
        )
        + "%files\n%defattr(755,root,root,-)\n/opt/aws/bin/eic_run_authorized_keys\n"
        "/opt/aws/bin/eic_curl_authorized_keys\n/opt/aws/bin/eic_parse_authorized_keys\n",
        scripts=f"%pre\ngetent passwd {NAME} >/dev/null || useradd -r -M -s /sbin/nologin {NAME}\n"
        f"%post\n{after if override else ':'}\n"
        f"%preun\nif [ $1 -eq 0 ]; then rm -f {written}; fi\n"
        f"%postun\nif {gone}; then userdel {NAME}; rm -f {written}; fi\n",
    )
    return [main, build(directory, f"{NAME}-selinux", "1.1", release="19")]


def from_amazon(suite, machine, ec2, tool, rpms, rude=False):
    """Upgrading from Amazon's packages takes their override away and supersedes their -selinux."""
    scene = "from Amazon's rude packages" if rude else "from Amazon's packages"
    before = Moment(machine)
    tool.install(amazon_rpms(ec2.directory, rude=rude))
    suite.check(f"{scene}: their override is in force", NAME in machine.sh("systemctl cat ssh.service"))
    said = tool.install(rpms)
    suite.check(f"{scene}: both are superseded", installed(machine) == [f"{NAME}-3.0.0", f"{NAME}-selinux-3.0.0"], said)
    override = machine.root / f"usr/lib/systemd/system/sshd.service.d/{NAME}.conf"
    suite.check(f"{scene}: the upgrade took the override away", not override.exists(), said)
    # A directory that their script emptied is theirs to leave; it is looked at again after the erasure.
    suite.check(f"{scene}: and its directory", rude or not override.parent.exists(), said)
    machine.sh("systemctl daemon-reload")
    suite.check(f"{scene}: systemd has the unit without it", NAME not in machine.sh("systemctl cat ssh.service"))
    suite.check(f"{scene}: the user is there", machine.run("getent", "passwd", NAME, check=False).returncode == 0, said)
    suite.check(f"{scene}: sshd -T names our command", any(HELPER in line for line in effective(machine)), said)
    ec2.login(suite, f"{scene}: after the upgrade the pushed key logs in")
    tool.erase_all()
    drop_rpmsave(suite, machine)
    if rude and override.parent.exists():
        override.parent.rmdir()
    before.same(suite, f"{scene}: after erase following the upgrade")


def from_amazon_linux(suite, machine, ec2, tool, rpms):
    """Amazon Linux has the two lines in sshd_config: they stay while somebody answers to them, and go with the last."""
    before = Moment(machine)
    config = machine.root / "etc/ssh/sshd_config"
    original = config.read_bytes()
    config.write_bytes(original + f"AuthorizedKeysCommand {HELPER} %u %f\nAuthorizedKeysCommandUser {NAME}\n".encode())
    tool.install(amazon_rpms(ec2.directory, override=False))
    with_lines = config.read_bytes()
    machine.sh("systemctl reload ssh")
    said = tool.install(rpms)
    suite.check("on Amazon Linux the two lines stay as they are", config.read_bytes() == with_lines, said)
    ours = snapshot.tree(machine.root, "/etc/ssh/sshd_config.d").keys() - before.files.keys()
    suite.check("on Amazon Linux no file is added", not ours, ours)
    ec2.login(suite, "on Amazon Linux after the upgrade the pushed key logs in")
    tool.erase_all()
    drop_rpmsave(suite, machine)
    suite.check("on Amazon Linux after erase the lines are gone with their command", config.read_bytes() == original)
    before.same(suite, "on Amazon Linux after erase")


def static(suite, bed, rpms):
    """What the rpm asks of the rpm that installs it, and what it must not hold."""
    for rpm in rpms:
        requires = run(["rpm", "-qp", "--requires", rpm]).stdout
        features = {w for w in requires.split() if w.startswith("rpmlib(")}
        suite.check(f"{rpm.name} needs nothing that rpm 4.11 lacks", features <= RPM_4_11_FEATURES, features - RPM_4_11_FEATURES)
        suite.check(f"{rpm.name} has no rich dependency", not any(l.startswith("(") for l in requires.splitlines()), requires)
        payload = run(["rpm", "-qp", "--qf", "%{payloadcompressor}", rpm]).stdout
        suite.check(f"{rpm.name} has a gzip payload", payload == "gzip", payload)
        files = run(["rpm", "-qpl", rpm]).stdout
        suite.check(f"{rpm.name} has no build-id links", ".build-id" not in files, files)
    main = rpms[0]
    suite.check(
        "the -selinux package is recommended, not required",
        f"{NAME}-selinux" in run(["rpm", "-qp", "--recommends", main]).stdout
        and f"{NAME}-selinux" not in run(["rpm", "-qp", "--requires", main]).stdout,
    )
    suite.check("the rpm has no file at Debian's path", DEB_HELPER not in run(["rpm", "-qpl", main]).stdout)
