"""What can be said of the packages without installing them."""

import os
import re
import shutil
from pathlib import Path

from debian_suites import NAME
from testbed import run

TREE = Path(__file__).resolve().parents[2]
# sshd starts the helper twice for a login: it must stay small enough to be read from a cold disk unnoticed.
HELPER_BYTES = 2_500_000
# Amazon Linux 2's is 2.26; Enterprise Linux 7's, the oldest anywhere near, is this.
GLIBC = (2, 17)
# Longer ones begin to have logic of their own, which belongs into `setup`, where it is tested.
SCRIPT_LINES = 10


def unpacked(bed, deb, rpm):
    """The contents of both packages as directories."""
    directories = bed.directory / "unpacked-deb", bed.directory / "unpacked-rpm"
    run(["dpkg-deb", "-x", deb, directories[0]])
    directories[1].mkdir()
    run(["sh", "-c", 'rpm2cpio "$1" | (cd "$2" && cpio -idm --quiet)', "unpack", rpm, directories[1]])
    return directories


def contents(suite, bed, deb, rpms):
    """Versions, sizes, what the programs need, and that both packages hold the same programs."""
    in_deb, in_rpm = unpacked(bed, deb, rpms[0])
    programs = ["usr/libexec/ec2-instance-connect/eic_run_authorized_keys", "usr/bin/ec2-instance-connect"]
    for program in programs:
        name = Path(program).name
        suite.check(f"{name} is the same in both packages", (in_deb / program).read_bytes() == (in_rpm / program).read_bytes())
        needed = re.findall(r"GLIBC_([0-9]+)\.([0-9]+)", run(["readelf", "-V", in_deb / program]).stdout)
        newest = max((int(a), int(b)) for a, b in needed)
        suite.check(f"{name} runs with glibc 2.17", newest <= GLIBC, f"needs {newest}")
        text = (in_deb / program).read_bytes()
        leaks = [p for p in (str(TREE), str(Path.home() / ".cargo"), str(Path.home() / ".rustup")) if p.encode() in text]
        suite.check(f"{name} names no path of the machine that built it", leaks == [], leaks)
    size = (in_deb / programs[0]).stat().st_size
    suite.check(f"the helper is at most {HELPER_BYTES} bytes", size <= HELPER_BYTES, size)
    print(f"      the helper has {size} bytes", flush=True)

    shipped = ["usr/lib/sysusers.d/ec2-instance-connect.conf", "usr/lib/tmpfiles.d/ec2-instance-connect.conf"]
    shipped += ["usr/lib/systemd/system-preset/90-ec2-instance-connect.preset"]
    shipped += [f"usr/lib/systemd/system/{p.name}" for p in (TREE / "systemd").iterdir() if p.suffix in (".service", ".timer")]
    shipped += [f"usr/share/man/man{p.suffix[1:]}/{p.name}.gz" for p in (TREE / "packaging/man").iterdir()]
    shipped += [f"usr/share/man/man8/{page}.8.gz" for page in ("ec2-instance-connect", "ec2-instance-connect-setup-apply")]
    shipped += [f"usr/share/bash-completion/completions/{NAME}", f"usr/share/fish/vendor_completions.d/{NAME}.fish"]
    documents = [p.name for p in [*(TREE / "docs").glob("*.md"), TREE / "README.md", TREE / "SECURITY.md"]]
    recipes = [p.relative_to(TREE / "packaging") for p in (TREE / "packaging/recipes").rglob("*") if p.is_file()]
    documents += [f"examples/{r}" for r in recipes]
    for package, root, zsh in (("deb", in_deb, "vendor-completions"), ("rpm", in_rpm, "site-functions")):
        wanted = [*shipped, *(f"usr/share/doc/{NAME}/{d}" for d in documents), f"usr/share/zsh/{zsh}/_{NAME}"]
        # dh_compress packs what is long; rpm leaves it.
        missing = [w for w in wanted if not (root / w).exists() and not (root / f"{w}.gz").exists()]
        suite.check(f"the {package} has units, presets, manuals, completions and every document", missing == [], missing)

    traditional = in_deb / "usr/share/ec2-instance-connect/eic_run_authorized_keys"
    suite.check("the deb's traditional path leads to the helper", (in_deb / programs[0]).samefile(traditional))
    link = os.readlink(in_rpm / "opt/aws/bin/eic_run_authorized_keys")
    suite.check("the rpm's traditional path leads to the helper", link == "/" + programs[0], link)

    cargo = re.search(r'^version = "(.*)"', (TREE / "Cargo.toml").read_text(), re.M).group(1)
    changelog = re.match(r".*\((.*)\)", (TREE / "debian/changelog").read_text()).group(1)
    spec = re.search(r"^Version:\s*(.*)$", (TREE / f"rpm/{NAME}.spec").read_text(), re.M).group(1)
    suite.check("Cargo.toml, debian/changelog and the spec have one version", cargo == changelog == spec, (cargo, changelog, spec))

    members = run(["ar", "t", deb]).stdout.split()
    suite.check("the deb is compressed with xz, which every dpkg reads", members[1:] == ["control.tar.xz", "data.tar.xz"], members)
    for script in sorted((TREE / "debian").glob("*.p*")):
        if script.suffix in (".postinst", ".prerm", ".postrm", ".preinst"):
            text = script.read_text()
            lines = [l for l in text.splitlines() if l.strip() and not l.startswith("#")]
            suite.check(f"{script.name} is under ten lines", len(lines) < SCRIPT_LINES, len(lines))
            suite.check(f"{script.name} leaves /etc/ssh to setup", "/etc/ssh" not in text)
    modes = [oct((in_deb / p).stat().st_mode & 0o777) for p in (f"etc/{NAME}/config.toml", f"etc/{NAME}")]
    suite.check("the configuration is 0644 in a directory of 0755", modes == ["0o644", "0o755"], modes)
    conffiles = run(["dpkg-deb", "-I", deb, "conffiles"]).stdout.split()
    suite.check("the deb's configuration is a conffile", f"/etc/{NAME}/config.toml" in conffiles, conffiles)
    flags = run(["rpm", "-qp", "--qf", "[%{FILENAMES} %{FILEFLAGS:fflags}\\n]", rpms[0]]).stdout
    suite.check("the rpm's configuration is %config(noreplace)", f"/etc/{NAME}/config.toml cn" in flags.splitlines(), flags)


def lint(suite, bed, deb, rpms):
    """The distributions' own critics."""
    done = run(["lintian", "--fail-on", "error,warning", "--tag-display-limit", "0", deb], check=False)
    suite.check("lintian has no error and no warning", done.returncode == 0, done.stdout)
    overrides = [str(p) for p in (TREE / "debian").rglob("*lintian-overrides*")]
    suite.check("and nothing is hidden from it", overrides == [], overrides)
    rpmlint = shutil.which("rpmlint")
    if rpmlint:
        done = run([rpmlint, "-c", TREE / "tests/packages/rpmlint.toml", *rpms, TREE / f"rpm/{NAME}.spec"], check=False)
        summary = done.stdout.strip().splitlines()[-1]
        suite.check("rpmlint has no error and no warning", "0 errors, 0 warnings" in summary, done.stdout)
    else:
        suite.skip("rpmlint has no error and no warning", "rpmlint is not installed")
    units = sorted(str(p) for ending in ("service", "timer", "socket") for p in (TREE / "systemd").glob(f"*.{ending}"))
    if units:
        in_deb = bed.directory / "units"
        run(["dpkg-deb", "-x", deb, in_deb])
        installed = [in_deb / "usr/lib/systemd/system" / Path(u).name for u in units]
        done = run(["systemd-analyze", "verify", "--man=no", f"--root={in_deb}", *installed], check=False)
        # The package alone has none of systemd's own units; a missing one of those says nothing of ours.
        ours = [l for l in done.stdout.splitlines() if NAME in l and "Unit sysinit.target not found" not in l]
        suite.check("systemd-analyze verify has nothing to say about the units", ours == [], done.stdout)
    if shutil.which("shellcheck"):
        scripts = ["packaging/build", "packaging/build-cross", "packaging/install", "packaging/stage", "packaging/glibc-needed"]
        scripts += ["tests/packages/requirements"]
        done = run(["shellcheck", "-s", "sh", *[TREE / s for s in scripts if (TREE / s).exists()]], check=False)
        suite.check("shellcheck has nothing to say about the scripts", done.returncode == 0, done.stdout)


def reproducible(suite, bed, deb, rpms):
    """The packages built again from the same stage are the same bytes. (`packaging/build verify` does that from source.)"""
    tree = bed.directory / "again"
    tree.mkdir()
    listed = run(["git", "-C", TREE, "ls-files", "--cached", "--others", "--exclude-standard"]).stdout.splitlines()
    for name in listed:
        if (TREE / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TREE / name, tree / name)
    shutil.copytree(TREE / "target/packages/stage-amd64", tree / "target/packages/stage-amd64")
    for kind in ("deb", "rpm"):
        run(["sh", "-c", f"umask 077; exec packaging/build {kind} amd64"], cwd=tree)
    for package in [deb, *rpms]:
        again = tree / "target/packages" / package.name
        suite.check(f"{package.name} built elsewhere is the same bytes", again.read_bytes() == package.read_bytes())


def source(suite, bed, deb, rpms):
    """The plain ways, dpkg-buildpackage and rpmbuild in the sources alone, give packages with the same files."""
    if not os.environ.get("EIC_SOURCE"):
        suite.skip("the packages built from source by dpkg-buildpackage and rpmbuild", "`make test-source` does that: it compiles twice")
        return
    listed = run(["git", "-C", TREE, "ls-files", "--cached", "--others", "--exclude-standard"]).stdout.splitlines()
    version = re.match(r".*\((.*)\)", (TREE / "debian/changelog").read_text()).group(1)
    top = bed.directory / f"{NAME}-{version}"
    for name in listed:
        if (TREE / name).is_file():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TREE / name, top / name)
    run(["tar", "-C", bed.directory, "-cJf", bed.directory / f"{NAME}-{version}.tar.xz", top.name])
    # What the optimizer does is the packages' own business; here the recipes are tried. Debian's and the rpm world's
    # compilers are not on this machine, rustup's is, so the build dependencies cannot be met.
    environment = {**os.environ, "CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}
    limit = 1800
    done = run(["dpkg-buildpackage", "-us", "-uc", "-d"], cwd=top, env=environment, check=False, timeout=limit)
    suite.check("dpkg-buildpackage builds source and binary", done.returncode == 0, done.stdout[-3000:])
    suite.check("and the source package is there", (bed.directory / f"{NAME}_{version}.dsc").exists())
    files = lambda package: sorted(re.sub(r"\s+\d+ [\d-]+ [\d:]+", "", l) for l in run(["dpkg-deb", "-c", package]).stdout.splitlines())
    suite.equal("the .deb from source has the same files", "\n".join(files(deb)), "\n".join(files(bed.directory / deb.name)))

    rpmtop = bed.directory / "rpmbuild"
    done = run(
        ["rpmbuild", "-ba", "--nodeps", "--define", f"_topdir {rpmtop}", "--define", f"_sourcedir {bed.directory}", top / f"rpm/{NAME}.spec"],
        env=environment, check=False, timeout=limit,
    )
    suite.check("rpmbuild builds source and binary", done.returncode == 0, done.stdout[-3000:])
    suite.check("and the source package is there", len(list(rpmtop.glob("SRPMS/*.src.rpm"))) == 1)
    for rpm in rpms:
        what = lambda package: run(["rpm", "-qp", "--qf", "[%{FILEMODES:perms} %{FILENAMES} %{FILEFLAGS:fflags}\n]", package]).stdout
        suite.equal(f"{rpm.name} from source has the same files", what(rpm), what(next(rpmtop.glob(f"RPMS/*/{rpm.name}"))))


def policy(suite, bed):
    """The SELinux module is accepted by a real policy store; what it then does is seen in the virtual machine."""
    root = bed.unpack("selinux", suite.name)
    shutil.copy(TREE / f"packaging/selinux/{NAME}.cil", root / "tmp")
    done = run(["chroot", root, "semodule", "--noreload", "-X", "200", "-i", f"/tmp/{NAME}.cil"], check=False)
    suite.check("the module compiles against the reference policy", done.returncode == 0, done.stdout)
    listed = run(["chroot", root, "semodule", "-l"]).stdout.split()
    suite.check("and is installed under the package's name", NAME in listed)
    listed = run(["chroot", root, "semanage", "boolean", "-l", "--noheading"]).stdout
    for boolean in BOOLEANS:
        suite.check(f"{boolean} exists and is off", re.search(rf"^{boolean}\s+\(off\s*,\s*off\)", listed, re.M), listed[-500:])
    (root / "tmp/query.py").write_text(QUERY)
    rules = run(["chroot", root, "python3", "/tmp/query.py"]).stdout.splitlines()
    for boolean, needle in BOOLEANS.items():
        suite.check(f"{boolean} has its rules", any(needle in r and r.endswith(f"[ {boolean} ]:True") for r in rules), rules)
    always = [r for r in rules if not r.endswith("]:True")]
    # What every process may run: the libraries, and here itself.
    foreign = [r for r in always if not re.match(r"allow \w+ (ec2_instance_connect_(t|exec_t)|(textrel_sh)?lib_t|ld_so_t):", r)]
    suite.check("without them it runs no other program, starts no process and makes no file", foreign == [], foreign)


# What each boolean is for, by a rule that must be among its own.
BOOLEANS = {
    "ec2_instance_connect_links": "ec2_instance_connect_t bin_t:file { execute",
    "ec2_instance_connect_one_time": "ec2_instance_connect_run_t:lnk_file { create",
}

# Run in the machine, whose setools know the policy's format: every rule that lets us run, start or make something.
QUERY = """
import glob, setools
policy = setools.SELinuxPolicy(glob.glob("/etc/selinux/default/policy/policy.*")[0])
for kind, permissions in (
    ("file", "execute execute_no_trans entrypoint create write append unlink rename"),
    ("lnk_file", "create unlink"),
    ("dir", "add_name remove_name write"),
    ("process", "transition dyntransition setexec"),
):
    found = setools.TERuleQuery(
        policy, source="ec2_instance_connect_t", ruletype=["allow"], tclass=[kind], perms=permissions.split()
    )
    for rule in found.results():
        print(rule)
"""
