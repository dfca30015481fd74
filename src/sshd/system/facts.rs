//! Reading the machine: everything that [`crate::sshd::plan`] decides on, at one moment.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::User;

use super::root::Root;
use super::run::{TOOL_TIME, run, tool};
use super::service::{self, Service, UNITS};
use crate::config::{Config, DEFAULT_PATH};
use crate::sshd::args::{Arguments, from_cmdline};
use crate::sshd::call::{self, Options};
use crate::sshd::config::{self, MAX_CONFIG_BYTES, Statement};
use crate::sshd::plan::{CommandState, DropInFile, Facts, MainFile, Running, effective_arguments};
use crate::sshd::reason::{Refusal, Refused};
use crate::sshd::tree::{MAX_FILES_READ, Snapshot, include_patterns};
use crate::sshd::unit::{self, UnitFile};
use crate::sshd::{COMMANDS, DROPIN, DROPIN_DIR, HOLD, MAIN_CONFIG, RUN_AS, VENDOR_CONFIG};

/// Where systemd looks for units, in the order of precedence (systemd.unit(5)).
const UNIT_DIRS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// sshd, where neither a process nor a unit says otherwise.
const SSHD: &str = "/usr/sbin/sshd";

/// Where a daemon without systemd leaves its number.
const PID_FILES: [&str; 2] = ["/run/sshd.pid", "/var/run/sshd.pid"];

/// First uid of people rather than services, on every distribution of this decade (login.defs(5)).
const FIRST_PERSON: u32 = 1000;
/// And the first beyond them: `nobody` and dynamic users live above.
const AFTER_PERSONS: u32 = 60_000;

/// The machine, read.
#[derive(Debug)]
pub struct Machine {
    /// For the decision.
    pub facts: Facts,
    /// sshd's unit, where systemd is in charge.
    pub service: Option<Service>,
    /// The sshd to ask.
    pub sshd: PathBuf,
}

/// Reads everything.
///
/// # Errors
/// A refusal when there is no sshd, or a file can't be read.
pub fn collect(root: &Root) -> Result<Machine, Refusal> {
    let alive = root.is_live() && !service::in_chroot();
    let service = if alive && service::systemd_runs() {
        service::find()
    } else {
        None
    };
    let unit = unit_files(root);
    let environment = environment_files(root, &unit);
    let read_environment = |path: &str| environment.get(Path::new(path)).cloned();
    let start = unit::start(&unit, &read_environment);
    let running = if alive { running(service.as_ref()) } else { None };

    let mut facts = Facts {
        unit,
        environment,
        running,
        ..Facts::default()
    };
    let (arguments, _) = effective_arguments(&facts, &start);
    facts.snapshot = snapshot(root, main_config(root, &arguments))?;
    facts.main = main_file(root, &facts.snapshot.main);
    let paths = facts.snapshot.files.keys();
    facts.files = paths
        .filter_map(|path| Some((path.clone(), main_file(root, path)?)))
        .collect();
    facts.dropin = dropin(root)?;
    facts.dropin_dir = root.exists(Path::new(DROPIN_DIR));
    facts.commands = COMMANDS.map(|path| command_state(root, path));
    facts.run_as = user_exists(root, RUN_AS);
    facts.hold = root
        .read_if_exists(Path::new(HOLD))
        .map_err(|error| Refusal::io("can't be read", HOLD, &error))?;
    facts.hold_dir = Path::new(HOLD).parent().is_some_and(|dir| root.exists(dir));

    let config = Path::new(DEFAULT_PATH);
    let text = root
        .read_if_exists(config)
        .map_err(|error| Refusal::io("can't be read", config, &error))?;
    facts.options = helper_config(text.as_deref()).map(|config| Options::of(&config));
    facts.config = main_file(root, config).zip(text);

    let candidates = [
        facts
            .running
            .as_ref()
            .and_then(|running| fs::read_link(format!("/proc/{}/exe", running.pid)).ok()),
        start.argv.first().map(PathBuf::from),
        Some(PathBuf::from(SSHD)),
    ];
    // A daemon whose program was upgraded under it has an exe that is "(deleted)": the unit's is the one that comes.
    let sshd = candidates
        .into_iter()
        .flatten()
        .find(|path| path.is_absolute() && root.exists(path));
    let Some(sshd) = sshd else {
        let remedy = "install openssh-server, then run `ec2-instance-connect setup apply`";
        return Err(Refusal::new(Refused::SshdMissing, "there is no sshd", remedy).in_file(SSHD));
    };
    // A line without options has no token that an sshd of today does not know.
    if alive && facts.options.is_some_and(|options| !options.is_empty()) {
        facts.release = call::release(&words_of(&sshd));
    }
    Ok(Machine { facts, service, sshd })
}

/// The helper's configuration; `None` where it would refuse to use it.
fn helper_config(text: Option<&[u8]>) -> Option<Config> {
    match text {
        Some(text) => Config::parse(std::str::from_utf8(text).ok()?).ok(),
        None => Some(Config::default()),
    }
}

/// What sshd says of itself. Before 9.2 there is no -V, and the usage that it gives has the version in it.
#[must_use]
pub fn words_of(sshd: &Path) -> String {
    let answer = run(tool(&sshd.to_string_lossy()).arg("-V"), b"", TOOL_TIME);
    answer
        .map(|output| format!("{}\n{}", output.stderr, output.text()))
        .unwrap_or_default()
}

/// The unit's fragment, then its drop-ins by name; both of sshd's names count, one being an alias of the other.
fn unit_files(root: &Root) -> Vec<UnitFile> {
    let read = |path: PathBuf| root.read(&path).ok().map(|bytes| UnitFile { path, bytes });
    let mut files = Vec::new();
    'units: for unit in UNITS {
        for dir in UNIT_DIRS {
            let path = Path::new(dir).join(unit);
            if root.lstat(&path).is_some() {
                files.extend(read(path));
                break 'units;
            }
        }
    }
    let mut dropins: BTreeMap<String, PathBuf> = BTreeMap::new();
    for dir in UNIT_DIRS {
        for unit in UNITS {
            let dir = Path::new(dir).join(format!("{unit}.d"));
            for name in root.list(&dir).into_iter().filter(|name| name.ends_with(".conf")) {
                let path = dir.join(&name);
                dropins.entry(name).or_insert(path);
            }
        }
    }
    files.extend(dropins.into_values().filter_map(read));
    files
}

fn environment_files(root: &Root, unit: &[UnitFile]) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = unit.iter().flat_map(|file| unit::assignments(&file.bytes));
    let named = all
        .filter(|one| one.key == "EnvironmentFile")
        .map(|one| PathBuf::from(one.value.trim_start_matches('-')));
    named
        .filter_map(|path| root.read(&path).ok().map(|bytes| (path, bytes)))
        .collect()
}

fn running(service: Option<&Service>) -> Option<Running> {
    let by_unit = service
        .filter(|service| service.active && service.main_pid > 0)
        .map(|service| service.main_pid);
    let by_file = || {
        let texts = PID_FILES.iter().filter_map(|path| fs::read_to_string(path).ok());
        let mut pids = texts.filter_map(|text| text.trim().parse::<u32>().ok());
        pids.find(|pid| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            exe.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("sshd"))
        })
    };
    let pid = by_unit.or_else(by_file)?;
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(Running {
        pid,
        arguments: Arguments::parse(&from_cmdline(&cmdline)),
        by_unit: by_unit.is_some(),
    })
}

fn main_config(root: &Root, arguments: &Arguments) -> PathBuf {
    if let Some(path) = &arguments.config {
        return path.clone();
    }
    let vendor = Path::new(VENDOR_CONFIG);
    let own = Path::new(MAIN_CONFIG);
    if !root.exists(own) && root.exists(vendor) {
        vendor.to_path_buf()
    } else {
        own.to_path_buf()
    }
}

fn main_file(root: &Root, path: &Path) -> Option<MainFile> {
    let real = root.resolve(path).ok()?;
    let meta = root.stat(path).ok()?;
    Some(MainFile {
        real,
        links: meta.nlink(),
        mode: meta.mode() & 0o7777,
    })
}

fn dropin(root: &Root) -> Result<Option<DropInFile>, Refusal> {
    let path = Path::new(DROPIN);
    let Some(meta) = root.lstat(path) else {
        return Ok(None);
    };
    let symlink = !meta.is_file();
    let bytes = if symlink {
        Vec::new()
    } else {
        read_config(root, path)?
    };
    Ok(Some(DropInFile { symlink, bytes }))
}

/// Reads the main file and everything it includes. A file that is missing is left out: the walk says so.
fn snapshot(root: &Root, main: PathBuf) -> Result<Snapshot, Refusal> {
    let mut snapshot = Snapshot {
        main: main.clone(),
        ..Snapshot::default()
    };
    let mut todo = vec![main];
    while let Some(path) = todo.pop() {
        if snapshot.files.contains_key(&path) || snapshot.files.len() > MAX_FILES_READ || !root.exists(&path)
        {
            continue;
        }
        let bytes = read_config(root, &path)?;
        // What can't be cut into lines is told by the walk, with its file and line.
        for line in config::parse(&bytes)
            .map(|config| config.lines)
            .unwrap_or_default()
        {
            let Statement::Directive(directive) = line.statement else {
                continue;
            };
            for pattern in include_patterns(&directive) {
                let found = snapshot
                    .globs
                    .entry(pattern)
                    .or_insert_with_key(|pattern| root.glob(pattern));
                todo.extend(found.iter().cloned());
            }
        }
        snapshot.files.insert(path, bytes);
    }
    Ok(snapshot)
}

fn read_config(root: &Root, path: &Path) -> Result<Vec<u8>, Refusal> {
    let unreadable = |error: &std::io::Error| {
        let mut refusal = Refusal::io("can't be read", path, error);
        refusal.code = Refused::ConfigUnreadable;
        refusal
    };
    let meta = root.stat(path).map_err(|error| unreadable(&error))?;
    // The usual way of switching a drop-in off: sshd reads nothing from it.
    if root
        .resolve(path)
        .is_ok_and(|real| real == Path::new("/dev/null"))
    {
        return Ok(Vec::new());
    }
    let too_large = usize::try_from(meta.len()).map_or(true, |len| len > MAX_CONFIG_BYTES);
    if !meta.is_file() || too_large {
        return Err(unreadable(&std::io::Error::other(
            "no regular file of a configuration's size",
        )));
    }
    root.read(path).map_err(|error| unreadable(&error))
}

fn command_state(root: &Root, path: &str) -> CommandState {
    let path = Path::new(path);
    if root.lstat(path).is_none() {
        return CommandState::Absent;
    }
    match root.safe_program(path) {
        Ok(real) => CommandState::Safe { real },
        Err((real, what)) => CommandState::Unsafe { real, what },
    }
}

/// Whether a user exists: of the machine by NSS, of an image by its own file.
fn user_exists(root: &Root, name: &str) -> bool {
    if root.is_live() {
        return User::from_name(name).is_ok_and(|user| user.is_some());
    }
    passwd(root).iter().any(|user| user.name == name)
}

struct Account {
    name: String,
    uid: u32,
    shell: String,
}

fn passwd(root: &Root) -> Vec<Account> {
    let text = root
        .read(Path::new("/etc/passwd"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let account = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        Some(Account {
            name,
            uid,
            shell: fields.nth(3)?.to_owned(),
        })
    };
    text.lines().filter_map(account).collect()
}

/// Somebody who might log in: the first person with a shell, else root.
#[must_use]
pub fn somebody(root: &Root) -> String {
    let person = |account: &Account| {
        (FIRST_PERSON..AFTER_PERSONS).contains(&account.uid)
            && !account.shell.ends_with("nologin")
            && !account.shell.ends_with("false")
    };
    passwd(root)
        .into_iter()
        .find(person)
        .map_or_else(|| "root".to_owned(), |account| account.name)
}

/// Which package a file belongs to, in the words of dpkg or rpm; `None` when neither knows it.
#[must_use]
pub fn owner(root: &Root, path: &Path) -> Option<String> {
    // On a merged /usr dpkg knows a file by the name that its package has shipped it under.
    let text = path.to_string_lossy();
    let other = text
        .strip_prefix("/usr")
        .map_or_else(|| format!("/usr{text}"), str::to_owned);
    let ask = |mut command: std::process::Command| -> Option<String> {
        let output = run(&mut command, b"", TOOL_TIME).ok()?;
        let answer = output.text();
        let first = answer.lines().next().unwrap_or_default().trim().to_owned();
        (output.status.success() && !first.is_empty()).then_some(first)
    };
    for path in [text.as_ref(), other.as_str()] {
        let mut dpkg = tool("dpkg");
        dpkg.arg(format!("--root={}", root.dir().display()))
            .args(["-S", path]);
        if let Some(answer) = ask(dpkg) {
            return answer.split(": ").next().map(str::to_owned);
        }
    }
    let mut rpm = tool("rpm");
    rpm.arg("--root")
        .arg(root.dir())
        .args(["-qf", "--qf", "%{NAME}\n", text.as_ref()]);
    ask(rpm)
}

/// Whether SELinux enforces here and our module is not in the loaded policy's store.
#[must_use]
pub fn selinux_lacks_module(root: &Root) -> bool {
    if !root.is_live() || fs::read("/sys/fs/selinux/enforce").ok().as_deref() != Some(b"1") {
        return false;
    }
    // /etc until RHEL 7 and Amazon Linux 2, /var/lib since; a directory per priority in either.
    let stores = [
        "/var/lib/selinux/*/active/modules/*/*",
        "/etc/selinux/*/active/modules/*/*",
    ];
    let names = ["ec2-instance-connect", "ec2_instance_connect"];
    !stores.iter().flat_map(|store| root.glob(store)).any(|path| {
        path.file_name()
            .is_some_and(|found| names.iter().any(|name| found.to_string_lossy().starts_with(name)))
    })
}
