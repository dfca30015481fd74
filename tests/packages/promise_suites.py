"""What docs/SETUP.md promises of machines that are not as they were installed, tried on one that runs systemd."""

import time

import readme
from debian_suites import APT, DROPIN, NAME, Moment, effective, install, main_pid, purge, reference_deb, version
from ec2 import INSTANCE, Ec2, prepare
from recipe_suites import repository
from testbed import StepFailed

MAIN = "/etc/ssh/sshd_config"


def promises(suite, bed, deb):
    """One machine, put into one state after another; from each the package is installed and purged again."""
    machine = bed.machine("bookworm", suite.name, asset_tag=INSTANCE)
    prepare(machine)
    machine.boot()
    ec2 = Ec2(bed, machine)
    for state in (foreign_command, foreign_option, policy, stopped, broken, read_only, symlinked, vendor, full, gone):
        state(suite, machine, ec2, deb)
    machine.power_off()


def gone(suite, machine, ec2, deb):
    """Somebody deleted the program: removing the package says so, and what it left goes with the next removal."""
    before = Moment(machine)
    install(machine, deb)
    machine.sh(f"rm /usr/bin/{NAME}")
    said = purge(machine)
    suite.check("without its program, the removal says what is left", "its program is gone" in said, said)
    suite.check("and sshd's configuration is sound", machine.run("sshd", "-t", check=False).returncode == 0)
    install(machine, deb)
    ec2.login(suite, "installed once more, the pushed key logs in")
    purge(machine)
    before.same(suite, "and removed once more")


def reload(machine):
    """Have sshd read its configuration, and wait until it has: systemctl only sends the signal."""
    listening = lambda: machine.sh("journalctl -q -o cat -u ssh").count("Server listening")
    before = listening()
    machine.sh("systemctl reload ssh")
    for _ in range(100):
        if listening() > before:
            return
        time.sleep(0.1)
    raise StepFailed("sshd did not come back from its reload")


def there_and_back(suite, machine, ec2, deb, when, logs_in=True):
    """Installed and purged: in between the pushed key logs in or not, afterwards all is as before. What apt said."""
    before = Moment(machine)
    said = install(machine, deb)
    (ec2.login if logs_in else ec2.refused)(suite, f"{when}, the pushed key {'logs in' if logs_in else 'is refused'}")
    purge(machine)
    before.same(suite, f"{when}, after purge")
    return said


def refused(suite, machine, deb, when, code, place, remedy):
    """Installed all the same, saying why and what to do; sshd and its files as before. Purged again."""
    before = Moment(machine)
    pid = main_pid(machine)
    said = install(machine, deb)
    status = machine.run("dpkg-query", "-W", "-f", "${Status}", NAME).stdout
    suite.check(f"{when}, the package is installed all the same", status == "install ok installed", status)
    for word in (f"refused [{code}]", place, f"what to do: {remedy}"):
        suite.check(f"{when}, it says {word!r}", word in said, said)
    now = Moment(machine)
    same = before.sshd["sshd -T"] == now.sshd["sshd -T"] and before.sshd["units"] == now.sshd["units"]
    suite.check(f"{when}, sshd is as before", same and main_pid(machine) == pid, now.sshd)
    ssh = lambda moment: {p: v for p, v in moment.files.items() if p.startswith("/etc/ssh")}
    suite.equal(f"{when}, /etc/ssh is byte-identical", ssh(before), ssh(now))
    purge(machine)
    before.same(suite, f"{when}, after purge")
    return said


def foreign_command(suite, machine, ec2, deb):
    """An administrator's own command, in a file of his own and in one that a package owns."""
    machine.write("/etc/ssh/sshd_config.d/10-directory.conf",
                  "# from our directory\nAuthorizedKeysCommand /usr/bin/env false\nAuthorizedKeysCommandUser nobody\n")
    machine.sh("systemctl reload ssh")
    refused(suite, machine, deb, "where somebody has a command", "foreign-command",
            "/etc/ssh/sshd_config.d/10-directory.conf:2", "sshd runs one command only")
    machine.sh("rm /etc/ssh/sshd_config.d/10-directory.conf && systemctl reload ssh")

    machine.sh(f"cp -p {MAIN} /srv/kept && echo 'AuthorizedKeysCommand none' >>{MAIN} && systemctl reload ssh")
    refused(suite, machine, deb, "where somebody wants no command", "foreign-none", f"{MAIN}:", "delete the line")
    machine.sh(f"cp -p /srv/kept {MAIN} && rm /srv/kept && systemctl reload ssh")


def foreign_option(suite, machine, ec2, deb):
    """`-o` in the unit's environment file, which openssh-server owns."""
    machine.sh(
        "cp -p /etc/default/ssh /srv/kept && "
        "echo 'SSHD_OPTS=\"-o AuthorizedKeysCommand=/usr/bin/false -o AuthorizedKeysCommandUser=nobody\"' >/etc/default/ssh && "
        "systemctl restart ssh"
    )
    refused(suite, machine, deb, "where sshd is started with a command", "foreign-argument",
            "/etc/default/ssh:1 (package openssh-server)", "take the option away")
    machine.sh("cp -p /srv/kept /etc/default/ssh && rm /srv/kept && systemctl restart ssh")


def policy(suite, machine, ec2, deb):
    """policy-rc.d(8) forbids reloads: files change, the daemon does not, and it is said."""
    machine.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", mode=0o755)
    before = Moment(machine)
    said = install(machine, deb)
    suite.check("under policy-rc.d it says that sshd was not reloaded", "[not-reloaded]" in said and "policy-rc.d" in said, said)
    ec2.refused(suite, "under policy-rc.d the running sshd knows nothing yet")
    reload(machine)
    ec2.login(suite, "and after a reload by hand the pushed key logs in")
    purge(machine)
    before.same(suite, "under policy-rc.d, after purge")
    machine.sh("rm /usr/sbin/policy-rc.d && systemctl reload ssh")


def stopped(suite, machine, ec2, deb):
    """A daemon that an administrator stopped stays stopped, and knows us when he starts it."""
    machine.sh("systemctl stop ssh")
    before = Moment(machine)
    install(machine, deb)
    suite.check("a stopped sshd is not started", machine.sh("systemctl is-active ssh", check=False).strip() == "inactive")
    machine.sh("systemctl start ssh")
    ec2.login(suite, "started by hand it lets the pushed key in")
    ec2.login(suite, "and root by a pushed key, as PermitRootLogin prohibit-password allows", user="root")
    machine.sh("systemctl stop ssh")
    purge(machine)
    before.same(suite, "with a stopped sshd, after purge")
    machine.sh("systemctl start ssh")


def broken(suite, machine, ec2, deb):
    """A configuration that sshd refuses already: nothing is made worse, and nobody is locked out."""
    machine.write("/etc/ssh/sshd_config.d/50-typo.conf", "PermitRotLogin no\n")
    pid = main_pid(machine)
    said = install(machine, deb)
    suite.check("a configuration that was broken before is told", "[already-broken]" in said, said)
    suite.check("and not loaded into the running sshd", main_pid(machine) == pid and "[not-reloaded]" in said, said)
    machine.sh("rm /etc/ssh/sshd_config.d/50-typo.conf && systemctl reload ssh")
    ec2.login(suite, "once mended the pushed key logs in")
    purge(machine)
    suite.check("after that purge no command is left", effective(machine)[0].split()[1] == "none", effective(machine))


def read_only(suite, machine, ec2, deb):
    """A file system that takes no change."""
    machine.sh("mount --bind /etc/ssh /etc/ssh && mount -o remount,bind,ro /etc/ssh")
    refused(suite, machine, deb, "where /etc/ssh is read-only", "io", DROPIN, "")
    machine.sh("umount /etc/ssh")


def symlinked(suite, machine, ec2, deb):
    """A configuration that is a link into a managed place, without Include: the block goes where it leads."""
    machine.sh(
        f"mkdir /srv/managed && mv {MAIN} /srv/managed/sshd_config && ln -s /srv/managed/sshd_config {MAIN} && "
        "sed -i /^Include/d /srv/managed/sshd_config && systemctl reload ssh"
    )
    said = there_and_back(suite, machine, ec2, deb, "with a symlinked configuration")
    suite.check("it said where the lines went", "[block-chosen]" in said and "/srv/managed/sshd_config" in said, said)
    machine.sh(
        f"rm {MAIN} && mv /srv/managed/sshd_config {MAIN} && rmdir /srv/managed && "
        f"sed -i '1i Include /etc/ssh/sshd_config.d/*.conf' {MAIN} && systemctl reload ssh"
    )


def vendor(suite, machine, ec2, deb):
    """SUSE's layout: the vendor's configuration below /usr, which includes what is in /etc."""
    # Our sshd has no such default: both the daemon and who calls it by hand have to be told.
    machine.sh(f"mkdir -p /usr/etc/ssh && mv {MAIN} /usr/etc/ssh/")
    machine.write("/usr/local/sbin/sshd", '#!/bin/sh\nexec /usr/sbin/sshd -f /usr/etc/ssh/sshd_config "$@"\n', mode=0o755)
    machine.write(
        "/etc/systemd/system/ssh.service.d/vendor.conf",
        "[Service]\nExecStartPre=\nExecStart=\nExecStart=/usr/sbin/sshd -D -f /usr/etc/ssh/sshd_config\n"
        "ExecReload=\nExecReload=/bin/kill -HUP $MAINPID\n",
    )
    machine.sh("systemctl daemon-reload && systemctl restart ssh")
    there_and_back(suite, machine, ec2, deb, "with the configuration below /usr/etc")
    machine.sh(
        f"rm -r /usr/local/sbin/sshd /etc/systemd/system/ssh.service.d && mv /usr/etc/ssh/sshd_config {MAIN} && "
        "rmdir /usr/etc/ssh /usr/etc && systemctl daemon-reload && systemctl restart ssh"
    )


def full(suite, machine, ec2, deb):
    """No byte left where sshd's configuration lives: nothing changes; with room again, setup by hand finishes."""
    # Mounted inside the machine: the comparison of files, made from outside, does not see it.
    machine.sh(
        "mkdir /srv/ssh && cp -a /etc/ssh/. /srv/ssh/ && mount -t tmpfs -o mode=755,size=1m full /etc/ssh && "
        "cp -a /srv/ssh/. /etc/ssh/ && rm -r /srv/ssh; dd if=/dev/zero of=/etc/ssh/fill bs=4k 2>/dev/null; true"
    )
    before = Moment(machine)
    said = install(machine, deb)
    suite.check("on a full disk it says so", "refused [io]" in said and "No space left" in said, said)
    ec2.refused(suite, "on a full disk the pushed key is refused")
    machine.sh("rm /etc/ssh/fill")
    machine.run(NAME, "setup", "apply")
    ec2.login(suite, "with room again, setup apply lets it in")
    purge(machine)
    before.same(suite, "on a disk that was full, after purge")
    left = machine.sh("ls -A /etc/ssh/sshd_config.d").split()
    suite.check("and nothing of ours is left on it", left == [], left)
    machine.sh("umount /etc/ssh && systemctl reload ssh")


def held(suite, bed, deb):
    """A later package of Amazon's does not come back, by either of the README's ways; without them it would."""
    machine = bed.machine("bookworm", suite.name, asset_tag=INSTANCE)
    prepare(machine)
    directory = bed.directory / "reference-later"
    directory.mkdir()
    repository(machine, reference_deb(directory, version="99.0"))
    machine.boot()
    install(machine, deb)
    upgrade = lambda: machine.run(*APT, "upgrade", check=False).stdout

    readme.run(machine, "Install it", "apt-mark hold")
    said = upgrade()
    suite.check("held, it is not replaced", version(machine) == "3.0.0", said)
    machine.run("apt-mark", "unhold", NAME)
    pin = f"/etc/apt/preferences.d/{NAME}"
    machine.write(pin, readme.file("Install it", pin))
    said = upgrade()
    suite.check("pinned, it is not replaced", version(machine) == "3.0.0", said)
    machine.sh(f"rm {pin}")
    said = upgrade()
    suite.check("with neither, a later one of Amazon's would replace it", version(machine) == "99.0", said)
    machine.power_off()
