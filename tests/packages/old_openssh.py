"""The path for an sshd too old for Include: a real OpenSSH 8.0p1, as Enterprise Linux 8 has it.

No distribution that can be booted here ships one, so it is built from its public source beforehand:

    autoreconf && ./configure --without-openssl --with-sandbox=rlimit --sysconfdir=/etc/ssh \\
        --with-privsep-path=/run/sshd && make sshd
    OPENSSH_OLD=$PWD/sshd make test-packages
"""

import os
import shutil

import once_suites
from debian_suites import APT, HELPER, NAME, Moment, effective, install, main_pid
from ec2 import INSTANCE, Ec2, USER, prepare
from testbed import run

CONFIG = """# An administrator's configuration.
PermitRootLogin no
PubkeyAuthentication yes

Match User nobody-at-all
    AuthorizedKeysCommand none
"""

# Upstream's sshd of that age does not speak to systemd: it is started in the foreground.
UNIT = """[Unit]
Description=OpenSSH 8.0
[Service]
ExecStartPre=/usr/sbin/sshd -t
ExecStart=/usr/sbin/sshd -D
ExecReload=/usr/sbin/sshd -t
ExecReload=/bin/kill -HUP $MAINPID
RuntimeDirectory=sshd
[Install]
WantedBy=multi-user.target
Alias=sshd.service
"""


def lifecycle(suite, bed, deb):
    """Installed, let in, the command asked before the files, rebooted, removed."""
    binary = os.environ.get("OPENSSH_OLD")
    if not binary:
        suite.skip("sshd 8.0p1, without Include and with the command before the files", "OPENSSH_OLD=/path/to/sshd is not set")
        return
    machine = bed.machine("bookworm", suite.name, asset_tag=INSTANCE)
    shutil.copy(binary, machine.root / "usr/sbin/sshd")
    prepare(machine)
    machine.write("/etc/ssh/sshd_config", CONFIG, mode=0o600)
    (machine.root / "etc/systemd/system/ssh.service").unlink(missing_ok=True)
    machine.write("/etc/systemd/system/ssh.service", UNIT)
    machine.boot()
    ec2 = Ec2(bed, machine)
    banner = machine.sh("timeout 2 bash -c 'head -1 </dev/tcp/127.0.0.1/22'", check=False)
    suite.check("the old sshd is what answers", "OpenSSH_8.0" in banner, banner)

    before = Moment(machine)
    ec2.refused(suite, "before the installation the pushed key is refused")
    pid = main_pid(machine)
    said = install(machine, deb)
    suite.check("sshd was told to read it", "Received SIGHUP" in machine.sh("journalctl -q -u ssh -u sshd"), said)
    suite.check("sshd was reloaded, not restarted", pid == main_pid(machine), f"{pid} -> {main_pid(machine)}")
    config = (machine.root / "etc/ssh/sshd_config").read_text()
    suite.check("our lines stand in sshd_config before the first Match", 0 < config.find(HELPER) < config.find("Match"), config + said)
    suite.check("and what the administrator wrote is all there", all(l in config.splitlines() for l in CONFIG.splitlines()), config)
    suite.check("no drop-in was written for nobody to read", not list((machine.root / "etc/ssh/sshd_config.d").glob("60-*")))
    mode = (machine.root / "etc/ssh/sshd_config").stat().st_mode & 0o777
    suite.check("the mode is kept", mode == 0o600, oct(mode))
    suite.check("sshd names the traditional path", any(HELPER in line for line in effective(machine)), said)
    ec2.login(suite, "after the installation the pushed key logs in")
    ec2.refused_without_push(suite, "a key that was not pushed is refused")

    # Up to 8.0 the command runs before the files, on every login: it must not stand in a file's way.
    own = ec2.new_key("own")
    run(["chroot", machine.root, "install", "-d", "-o", USER, "-g", USER, "-m", "700", f"/home/{USER}/.ssh"])
    machine.write(f"/home/{USER}/.ssh/authorized_keys", (own.with_suffix(".pub")).read_text())
    code, output = ec2.ssh(key=own)
    suite.check("a key of the user's own file still logs in", code == 0 and output == "let-in", output)
    machine.sh(f"rm -r /home/{USER}/.ssh")

    machine.reboot()
    ec2.login(suite, "after a reboot the pushed key logs in")
    # Built without OpenSSL it knows chacha20-poly1305 alone, which paramiko does not.
    once_suites.hold(suite, machine, ec2, paramiko=False)
    ec2.settings = ""
    machine.run(*APT, "purge", NAME)
    before.same(suite, "after purge")
    ec2.refused(suite, "after purge the pushed key is refused")
    machine.power_off()
