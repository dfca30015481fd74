"""The .deb in booted Debian machines, from refused login to a machine as if nothing had been."""

import shutil
from pathlib import Path

import readme
import snapshot
from ec2 import INSTANCE, Ec2, prepare
from testbed import run

NAME = "ec2-instance-connect"
DROPIN = "/etc/ssh/sshd_config.d/60-ec2-instance-connect.conf"
HELPER = "/usr/share/ec2-instance-connect/eic_run_authorized_keys"
TIMER = f"{NAME}-selftest.timer"
# Quiet enough that a failing check shows our own words, not progress.
APT = ("apt-get", "-y", "-qq", "-o", "Dpkg::Use-Pty=0")


def install_as_told(machine, deb):
    """The README's own line, in the directory where the package is; returns what apt printed."""
    machine.put(deb, f"/srv/{Path(deb).name}")
    said = readme.run(machine, "Install it", "apt install", where="/srv")
    (machine.root / "srv" / Path(deb).name).unlink()
    return said


def install(machine, deb, check=True):
    """A package from a file; returns what apt printed."""
    inside = machine.put(deb, f"/var/tmp/{Path(deb).name}")
    return machine.run(*APT, "install", inside, check=check).stdout


def main_pid(machine):
    """The pid of the listening sshd as systemd knows it."""
    return machine.sh("systemctl show -p MainPID --value ssh.service").strip()


def effective(machine):
    """The AuthorizedKeysCommand lines of sshd -T."""
    return [l for l in snapshot.sshd_lines(machine) if l.lower().startswith("authorizedkeyscommand")]


def newer(deb, directory, version="3.0.1"):
    """The same package under a later version: what an upgrade installs."""
    tree = Path(directory) / "newer"
    run(["dpkg-deb", "-R", deb, tree])
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: 3.0.0\n", f"\nVersion: {version}\n"))
    out = Path(directory) / f"{NAME}_{version}.deb"
    run(["dpkg-deb", "--root-owner-group", "-Zxz", "-b", tree, out])
    shutil.rmtree(tree)
    return out


class Moment:
    """Everything that must be as before: taken once before the installation and compared afterwards."""

    def __init__(self, machine):
        self.machine = machine
        self.files = snapshot.tree(machine.root)
        self.sshd = snapshot.sshd(machine)

    def same(self, suite, when, whole=True):
        """Check sshd's view, /etc/ssh, the units, and with `whole` every other file too."""
        now = snapshot.tree(self.machine.root)
        sshd = snapshot.sshd(self.machine)
        suite.equal(f"{when}, sshd -T is as before", self.sshd["sshd -T"], sshd["sshd -T"])
        suite.equal(f"{when}, the loaded units are as before", self.sshd["units"], sshd["units"])
        for part in ("/etc/ssh", "/etc/systemd", "/usr/lib/systemd", "/lib/systemd"):
            only = lambda files: {p: v for p, v in files.items() if p.startswith(part + "/")}
            suite.equal(f"{when}, {part} is byte-identical", only(self.files), only(now))
        if whole:
            suite.equal(f"{when}, no other file differs", self.files, now)


def lifecycle(suite, bed, release, deb, socket=False):
    """Refused, installed, let in, reloaded, rebooted, upgraded, removed, purged."""
    machine = bed.machine(release, suite.name, asset_tag=INSTANCE)
    prepare(machine)
    if socket:
        run(["chroot", machine.root, "systemctl", "disable", "ssh.service"])
        run(["chroot", machine.root, "systemctl", "enable", "ssh.socket"])
    machine.boot()
    ec2 = Ec2(bed, machine)
    if socket:
        suite.check("ssh.socket listens, not the service", machine.sh("systemctl is-active ssh.socket").strip() == "active")

    before = Moment(machine)
    ec2.refused(suite, "before the installation the pushed key is refused")

    pid = main_pid(machine)
    said = install_as_told(machine, deb)
    suite.check("sshd names the traditional path", any(HELPER in line for line in effective(machine)), said)
    suite.check(
        "the only new file below /etc/ssh is our drop-in",
        set(snapshot.tree(machine.root, "/etc/ssh")) - set(before.files)
        == {DROPIN},
        snapshot.tree(machine.root, "/etc/ssh").keys() - before.files.keys(),
    )
    if not socket:
        suite.check("sshd was reloaded, not restarted", pid == main_pid(machine), f"{pid} -> {main_pid(machine)}")
    said = readme.run(machine, "Install it", "ec2-instance-connect setup status")
    suite.check("setup status says that ours is in force", "state: ours" in said and HELPER in said, said)
    said = readme.run(machine, "Install it", "ec2-instance-connect setup plan")
    suite.check("setup plan has nothing to do", said == "nothing to do\n", said)
    ec2.login(suite, "after the installation the pushed key logs in")
    ec2.refused_without_push(suite, "a key that was not pushed is refused")
    ec2.aws_login(suite, "a key pushed by the AWS CLI logs in")

    if not socket:
        machine.sh("systemctl reload ssh.service")
        ec2.login(suite, "after a reload the pushed key logs in")
    machine.reboot()
    ec2.login(suite, "after a reboot the pushed key logs in")

    later = newer(deb, ec2.directory)
    pid = main_pid(machine)
    install(machine, later)
    suite.check("the upgrade is installed", version(machine) == "3.0.1", version(machine))
    if not socket:
        suite.check("the upgrade did not restart sshd", pid == main_pid(machine), f"{pid} -> {main_pid(machine)}")
    ec2.login(suite, "after the upgrade the pushed key logs in")

    if socket:
        # Each is a restart: systemd allows five within ten seconds, crashes among them (systemd-system.conf(5)).
        for _ in range(4):
            machine.run("ec2-instance-connect", "setup", "remove")
            machine.run("ec2-instance-connect", "setup", "apply")
        ec2.login(suite, "after eight changes at once the pushed key logs in")

    remove(machine)
    before.same(suite, "after remove", whole=False)
    ec2.refused(suite, "after remove the pushed key is refused")
    install(machine, later)
    ec2.login(suite, "installed again it logs in again")
    machine.run("systemctl", "enable", "--now", TIMER)
    readme.run(machine, "Undo it", "apt purge")
    gone(suite, machine, "after purge")
    before.same(suite, "after purge")
    suite.check("after purge the user is gone", machine.run("getent", "passwd", NAME, check=False).returncode == 2)
    ec2.refused(suite, "after purge the pushed key is refused")

    kept_off(suite, machine, ec2, before, deb, later)
    from_reference(suite, bed, machine, ec2, deb)
    machine.power_off()


def gone(suite, machine, when):
    """A timer that somebody turned on does not outlive the package."""
    # systemd remembers a unit whose file is gone until it reads them again.
    machine.sh("systemctl daemon-reload")
    state = machine.sh(f"systemctl show -p ActiveState -p LoadState --value {TIMER}").split()
    suite.check(f"{when}, the timer that somebody turned on is gone", state == ["not-found", "inactive"], state)


def remove(machine):
    machine.run(*APT, "remove", NAME)


def purge(machine):
    """What apt said."""
    return machine.run(*APT, "purge", NAME).stdout


def version(machine):
    return machine.run("dpkg-query", "-W", "-f", "${Version}", NAME).stdout


def kept_off(suite, machine, ec2, before, deb, later):
    """An administrator's no outlives upgrades, and may be said before the first installation."""
    machine.sh("mkdir -p /etc/ec2-instance-connect && touch /etc/ec2-instance-connect/setup.off")
    install(machine, deb)
    suite.equal("installed with setup.off, sshd -T is as before", before.sshd["sshd -T"], snapshot.sshd(machine)["sshd -T"])
    ec2.refused(suite, "installed with setup.off the pushed key is refused")

    machine.run("ec2-instance-connect", "setup", "apply")
    ec2.login(suite, "setup apply by hand turns it on")
    machine.run("ec2-instance-connect", "setup", "remove")
    ec2.refused(suite, "setup remove by hand turns it off")
    install(machine, later)
    suite.equal("an upgrade leaves it off", before.sshd["sshd -T"], snapshot.sshd(machine)["sshd -T"])
    ec2.refused(suite, "after that upgrade the pushed key is still refused")
    purge(machine)
    before.same(suite, "after that purge")


REFERENCE_OVERRIDE = f"""[Service]
ExecStart=
ExecStart=/usr/sbin/sshd -D -o "AuthorizedKeysCommand {HELPER} %%u %%f" -o "AuthorizedKeysCommandUser {NAME}" $SSHD_OPTS
"""


def reference_deb(directory, version="1.1.19", dropin=False):
    """A package with the layout of Amazon's scripts for Debian and Ubuntu, and none of their content: with the unit's
    override, or with the drop-in of later ones as a conffile."""
    tree = Path(directory) / "reference"
    scripts = tree / "usr/share/ec2-instance-connect"
    scripts.mkdir(parents=True)
    for script in ("eic_run_authorized_keys", "eic_curl_authorized_keys", "eic_parse_authorized_keys"):
        (scripts / script).write_text("#!/bin/sh\nexit 0\n")
        (scripts / script).chmod(0o755)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        f"Package: {NAME}\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <nobody@example.invalid>\n"
        "Depends: openssh-server\nDescription: stand-in for the scripts\n"
    )
    scripts = {
        # Its user has no group of its own, and its override is written at run time below /lib, owned by nobody.
        "preinst": f"useradd --system --gid nogroup --no-create-home --home /nonexistent --shell /usr/sbin/nologin {NAME} || :\n",
        "postinst": "mkdir -p /lib/systemd/system/ssh.service.d\n"
        f"cat >/lib/systemd/system/ssh.service.d/{NAME}.conf <<'END'\n{REFERENCE_OVERRIDE}END\n"
        "systemctl daemon-reload\nsystemctl restart ssh.service\n",
        "prerm": f"if [ \"$1\" = remove ]; then rm -f /lib/systemd/system/ssh.service.d/{NAME}.conf; fi\n",
        "postrm": f"if [ \"$1\" = remove ]; then userdel {NAME}; fi\n",
    }
    if dropin:
        path = tree / DROPIN.lstrip("/")
        path.parent.mkdir(parents=True)
        path.write_text(f"AuthorizedKeysCommand {HELPER} %u %f\nAuthorizedKeysCommandUser {NAME}\n")
        (tree / "DEBIAN/conffiles").write_text(f"{DROPIN}\n")
        scripts |= {"postinst": "systemctl restart ssh.service\n", "prerm": ""}
    for name, body in scripts.items():
        (tree / "DEBIAN" / name).write_text("#!/bin/sh\nset -e\n" + body)
        (tree / "DEBIAN" / name).chmod(0o755)
    out = Path(directory) / f"{NAME}_{version}_all.deb"
    run(["dpkg-deb", "--root-owner-group", "-Zxz", "-b", tree, out])
    return out


def from_reference(suite, bed, machine, ec2, deb):
    """Upgrading from Amazon's scripts takes their override away and leaves nothing of them behind."""
    before = Moment(machine)
    install(machine, reference_deb(ec2.directory))
    override = f"/lib/systemd/system/ssh.service.d/{NAME}.conf"
    suite.check("the scripts' override is in force", NAME in machine.sh("systemctl cat ssh.service"))

    said = install(machine, deb)
    suite.check("the upgrade took the override away", not (machine.root / override.lstrip("/")).exists(), said)
    suite.check("and its directory", not (machine.root / override.lstrip("/")).parent.exists(), said)
    suite.check("systemd has the unit without it", NAME not in machine.sh("systemctl cat ssh.service"))
    suite.check("sshd -T names our command", any(HELPER in line for line in effective(machine)), said)
    ec2.login(suite, "after the upgrade from the scripts the pushed key logs in")
    machine.reboot()
    ec2.login(suite, "and after a reboot")
    purge(machine)
    before.same(suite, "after purge following that upgrade")

    shutil.rmtree(ec2.directory / "reference")
    install(machine, reference_deb(ec2.directory, dropin=True))
    suite.check("the scripts' drop-in is in force", any(HELPER in line for line in effective(machine)), effective(machine))
    said = install(machine, deb)
    suite.check("the upgrade makes that drop-in ours", "[tradition-taken]" in said, said)
    ec2.login(suite, "after the upgrade from the scripts with a drop-in the pushed key logs in")
    purge(machine)
    before.same(suite, "after purge following that one")


def image(suite, bed, release, deb):
    """Installed in a chroot without host keys or a running systemd, as image builders do; then booted."""
    machine = bed.machine(release, suite.name, asset_tag=INSTANCE)
    prepare(machine, host_keys=False)
    inside = machine.put(deb, f"/var/tmp/{Path(deb).name}")
    (machine.root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (machine.root / "usr/sbin/policy-rc.d").chmod(0o755)
    keys = lambda: sorted(p.name for p in (machine.root / "etc/ssh").glob("ssh_host_*"))
    suite.check("the image has no host keys", keys() == [], keys())
    done = run(
        # A namespace for processes and mounts of its own, so that nothing of the host's is seen or touched.
        ["unshare", "--mount", "--pid", "--fork", "chroot", machine.root, "sh", "-c",
         "mount -t proc proc /proc && " + " ".join(APT) + " install " + inside],
        check=False,
    )
    suite.check("the package installs in the image", done.returncode == 0, done.stdout)
    drop_in = machine.root / DROPIN.lstrip("/")
    suite.check("sshd is configured in the image", drop_in.exists(), done.stdout)
    suite.check("no host keys were made", keys() == [], keys())
    leftovers = [str(p) for p in (machine.root / "run/sshd",) if p.exists()]
    suite.check("nothing is left in the image's /run", leftovers == [], leftovers)
    (machine.root / "usr/sbin/policy-rc.d").unlink()
    # What cloud-init does on the first boot of such an image.
    machine.write(
        "/etc/systemd/system/first-boot-keys.service",
        "[Unit]\nBefore=ssh.service\n[Service]\nType=oneshot\nExecStart=/usr/bin/ssh-keygen -A\n"
        "[Install]\nWantedBy=ssh.service\n",
    )
    run(["chroot", machine.root, "systemctl", "enable", "first-boot-keys.service"])
    machine.boot()
    ec2 = Ec2(bed, machine)
    ec2.login(suite, "on its first boot the pushed key logs in")
    machine.run(*APT, "purge", NAME)
    ec2.refused(suite, "after purge the pushed key is refused")
    machine.power_off()
