"""Each recipe as it stands in packaging/recipes, against a booted machine that knows a repository with the package."""

import shutil
from pathlib import Path

import snapshot
from debian_suites import APT, NAME, Moment, version
from ec2 import INSTANCE, Ec2, prepare
from testbed import run

TREE = Path(__file__).resolve().parents[2]
RECIPES = TREE / "packaging/recipes"
OURS = "/etc/ssh/sshd_config.d/60-ec2-instance-connect.conf"


def repository(machine, deb):
    """A repository on the machine itself, which is all that its apt knows."""
    where = machine.root / "srv/repository"
    where.mkdir(parents=True)
    shutil.copy(deb, where)
    (where / "Packages").write_text(run(["dpkg-scanpackages", "."], cwd=where).stdout.split("dpkg-scanpackages:")[0])
    for listed in [*(machine.root / "etc/apt").glob("sources.list*"), *(machine.root / "etc/apt/sources.list.d").glob("*")]:
        if listed.is_file():
            listed.unlink()
    machine.write("/etc/apt/sources.list", "deb [trusted=yes] file:/srv/repository ./\n")
    run(["chroot", machine.root, "apt-get", "-qq", "update"])


def copied(machine, recipe):
    """The recipe's files as they stand, on the machine."""
    shutil.copytree(RECIPES / recipe, machine.root / "srv" / recipe)
    return f"/srv/{recipe}"


def start(suite, bed, deb, before_boot=lambda machine: None):
    machine = bed.machine("recipes", suite.name, asset_tag=INSTANCE)
    prepare(machine)
    repository(machine, deb)
    before_boot(machine)
    return machine


def plain(suite, bed, deb):
    """Two lines in a configuration that the administrator keeps himself."""
    machine = start(suite, bed, deb).boot()
    ec2 = Ec2(bed, machine)
    before = Moment(machine)
    machine.sh(f"mkdir -p /etc/{NAME} && touch /etc/{NAME}/setup.off")
    machine.run(*APT, "install", NAME)
    suite.equal("the package leaves sshd alone", before.sshd["sshd -T"], snapshot.sshd(machine)["sshd -T"])
    machine.put(RECIPES / "plain/debian.conf", "/etc/ssh/sshd_config.d/20-ours.conf")
    machine.sh("sshd -t && systemctl reload ssh")
    ec2.login(suite, "with the two lines the pushed key logs in")
    machine.run(*APT, "install", "--reinstall", NAME)
    suite.check("installing again writes nothing of its own", not (machine.root / OURS.lstrip("/")).exists())
    ec2.login(suite, "and after that it still logs in")
    machine.sh("rm /etc/ssh/sshd_config.d/20-ours.conf && systemctl reload ssh")
    machine.run(*APT, "purge", NAME)
    before.same(suite, "after the lines and the package are gone")
    machine.power_off()


def managed(suite, machine, ec2, apply, undo):
    """What every configuration manager's recipe must do. `apply` and `undo` return (what was said, whether it changed anything)."""
    before = Moment(machine)
    ec2.refused(suite, "before the recipe the pushed key is refused")
    said, changed = apply()
    suite.check("the recipe installs", changed and version(machine) == "3.0.0", said)
    ec2.login(suite, "after the recipe the pushed key logs in")
    said, changed = apply()
    suite.check("a second run changes nothing", not changed, said)
    machine.run(NAME, "setup", "remove")
    ec2.refused(suite, "undone by hand it is refused")
    said, changed = apply()
    suite.check("the next run says that it mended something", changed, said)
    ec2.login(suite, "and the pushed key logs in again")
    said, changed = undo()
    suite.check("the recipe removes", changed, said)
    before.same(suite, "after the recipe's removal")
    ec2.refused(suite, "after the recipe's removal the pushed key is refused")
    said, changed = undo()
    suite.check("a second removal changes nothing", not changed, said)
    machine.power_off()


def ansible(suite, bed, deb):
    """The role over ssh, from the machine to itself."""
    machine = start(suite, bed, deb).boot()
    where = copied(machine, "ansible")
    machine.sh(
        "install -d -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 && "
        "cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys && "
        "ssh-keyscan -q 127.0.0.1 >/root/.ssh/known_hosts 2>/dev/null"
    )
    machine.write("/srv/inventory", "127.0.0.1 ansible_user=root ansible_python_interpreter=/usr/bin/python3\n")

    def play(book):
        said = machine.run("ansible-playbook", "-i", "/srv/inventory", f"{where}/{book}", env={"ANSIBLE_NOCOLOR": "1"}).stdout
        return said, "changed=0" not in said

    managed(suite, machine, Ec2(bed, machine), lambda: play("install.yml"), lambda: play("remove.yml"))


def puppet(suite, bed, deb):
    """The module through puppet apply."""
    machine = start(suite, bed, deb).boot()
    where = copied(machine, "puppet")

    def apply(example):
        done = machine.run(
            "puppet", "apply", "--detailed-exitcodes", "--color=false", "--modulepath", where,
            f"{where}/ec2_instance_connect/examples/{example}", check=False,
        )
        # 0 nothing to do, 2 something changed, 4 and 6 something failed.
        if done.returncode not in (0, 2):
            suite.check("puppet applies without failures", False, done.stdout)
        return done.stdout, done.returncode == 2

    managed(suite, machine, Ec2(bed, machine), lambda: apply("install.pp"), lambda: apply("remove.pp"))


def cloud_init(suite, bed, deb):
    """User data on a first boot, on another instance's first boot from the same disk, and for removal."""
    seed = "/var/lib/cloud/seed/nocloud"

    def seeded(machine, recipe, instance):
        machine.put(RECIPES / "cloud-init" / recipe, f"{seed}/user-data")
        machine.write(f"{seed}/meta-data", f"instance-id: {instance}\nlocal-hostname: {machine.name}\n")

    def before_boot(machine):
        machine.write(
            "/etc/cloud/cloud.cfg.d/99-test.cfg",
            # The machine's own ways stay: only what the recipe says is to be seen.
            "datasource_list: [NoCloud]\nssh_deletekeys: false\ndisable_root: false\nusers: []\nnetwork: {config: disabled}\n"
            "preserve_hostname: true\nmanage_etc_hosts: false\n",
        )
        seeded(machine, "install.yaml", "first")
        for recipe in ("install.yaml", "remove.yaml"):
            machine.put(RECIPES / "cloud-init" / recipe, f"/srv/{recipe}")
            done = run(["chroot", machine.root, "cloud-init", "schema", "-c", f"/srv/{recipe}"], check=False)
            suite.check(f"{recipe} is valid user data", done.returncode == 0, done.stdout)

    def ran(sentence):
        done = machine.run("cloud-init", "status", "--wait", "--long", check=False)
        log = machine.sh("tail -40 /var/log/cloud-init-output.log", check=False)
        suite.check(sentence, "status: done" in done.stdout and "errors: []" in done.stdout, done.stdout + log)

    machine = start(suite, bed, deb, before_boot).boot()
    ec2 = Ec2(bed, machine)
    ran("the first boot's user data runs without an error")
    ec2.login(suite, "after the first boot the pushed key logs in")
    config = snapshot.tree(machine.root, "/etc/ssh")
    seeded(machine, "install.yaml", "second")
    machine.reboot()
    ran("run again it has no error")
    suite.equal("and changes nothing below /etc/ssh", config, snapshot.tree(machine.root, "/etc/ssh"))
    ec2.login(suite, "and the pushed key logs in")
    seeded(machine, "remove.yaml", "third")
    machine.reboot()
    ran("the removal has no error")
    suite.check("the package is gone", machine.run("dpkg-query", "-W", NAME, check=False).returncode != 0)
    config.pop(OURS, None)
    suite.equal("/etc/ssh is as it was without it", config, snapshot.tree(machine.root, "/etc/ssh"))
    ec2.refused(suite, "after the removal the pushed key is refused")
    machine.power_off()
