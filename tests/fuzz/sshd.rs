//! sshd's configuration, its unit and its dump: read, patched and put back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ec2_instance_connect::sshd::args::{self, Arguments};
use ec2_instance_connect::sshd::call::{Call, Options, Token};
use ec2_instance_connect::sshd::config::{self, Statement};
use ec2_instance_connect::sshd::dump::{self, Check};
use ec2_instance_connect::sshd::layout::{self, Block, DropIn};
use ec2_instance_connect::sshd::plan::{
    self, By, CommandState, DropInFile, Facts, Goal, MainFile, Placement, State, Step,
};
use ec2_instance_connect::sshd::tree::{self, Snapshot};
use ec2_instance_connect::sshd::unit::{self, Override, UnitFile};
use ec2_instance_connect::sshd::{COMMANDS, DROPIN, DROPIN_DIR, HOLD, LIBEXEC, MAIN_CONFIG, glob};

/// One file: its lines are all of it, a directive that is printed reads as itself, and a patch taken back leaves
/// every byte where it was.
pub fn config(data: &[u8]) {
    let Ok(parsed) = config::parse(data) else {
        assert!(
            layout::find_block(data).is_err()
                && layout::insert_block(data, Call::plain(COMMANDS[0])).is_err()
        );
        return;
    };
    let mut end = 0;
    for (line, number) in parsed.lines.iter().zip(1..) {
        assert_eq!((line.number, line.span.start), (number, end));
        end = line.span.end;
        if let Statement::Directive(found) = &line.statement {
            prints_back(found);
        }
    }
    assert_eq!(end, data.len());
    let all: Vec<usize> = parsed.lines.iter().map(|line| line.number).collect();
    assert_eq!(layout::delete_lines(data, &[]).as_deref(), Ok(data));
    assert_eq!(layout::delete_lines(data, &all).as_deref(), Ok(&[][..]));

    let before = layout::find_block(data).expect("it was parsed");
    for call in [Call::plain(COMMANDS[0]), call(COMMANDS[1], 0xff)] {
        assert_eq!(Call::parse(&call.value()), Some(call));
        let patched = layout::insert_block(data, call).expect("it was parsed");
        let Some(patched) = patched else {
            assert_ne!(before, Block::Absent);
            continue;
        };
        assert_eq!(before, Block::Absent);
        let Ok(Block::Whole { span, call: found }) = layout::find_block(&patched) else {
            panic!("the block that was put in is not found");
        };
        assert_eq!(found, call);
        assert_eq!(
            layout::remove_block(&patched),
            Ok(Some(data.to_vec())),
            "a byte is lost"
        );
        // Nobody's line comes under a Match, or out of one; ours stands outside of all.
        let lines = config::parse(&patched).expect("it was parsed").lines;
        let is_match = |line: &&config::Line| matches!(&line.statement, Statement::Directive(it) if it.keyword == "match");
        let first = lines
            .iter()
            .find(is_match)
            .map_or(patched.len(), |line| line.span.start);
        assert!(span.end <= first, "the block stands under a Match");
    }
    if let Ok(DropIn::Ours { call, made_directory }) = layout::classify_dropin(data) {
        assert_eq!(data, layout::dropin_text(call, made_directory).as_bytes());
    }
}

/// A call with the options that the bits say.
fn call(path: &'static str, bits: u8) -> Call {
    let mut options = Options::default();
    for (token, bit) in Token::ALL.into_iter().zip(0..) {
        if bits >> bit & 1 == 1 {
            options.insert(token);
        }
    }
    Call { path, options }
}

/// What was read of a line, written as a line, is read as the same.
fn prints_back(found: &config::Directive) {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'=' | b'#');
    if !found.keyword.bytes().all(plain) {
        return;
    }
    let printed = [found.keyword.as_bytes(), b" = ", &found.rest].concat();
    assert_eq!(config::statement(&printed), Statement::Directive(found.clone()));
}

/// What the plan knows of a machine: files by their paths, and what it cannot change.
#[derive(Clone)]
struct Machine {
    files: BTreeMap<PathBuf, Vec<u8>>,
    directory: bool,
    commands: [CommandState; 2],
    unit: Vec<PathBuf>,
    options: Options,
    /// Whether sshd is recent.
    recent: bool,
}

/// The parts of a machine, in the order in which the input has them.
const PARTS: [&str; 8] = [
    MAIN_CONFIG,
    "/etc/ssh/sshd_config.d/10-a.conf",
    DROPIN,
    "/etc/ssh/sshd_config.d/90-z.conf",
    "/etc/ssh/more.conf",
    "/usr/lib/systemd/system/ssh.service",
    "/etc/systemd/system/ssh.service.d/ec2-instance-connect.conf",
    "/etc/default/ssh",
];

impl Machine {
    /// From the input: one byte of switches, then the files, divided by lines of `%%`; an empty one does not exist.
    fn new(data: &[u8]) -> Self {
        let (&switches, data) = data.split_first().unwrap_or((&0, &[]));
        let texts = super::parts(data);
        let mut files = BTreeMap::new();
        for (path, text) in PARTS.into_iter().zip(texts) {
            if path == MAIN_CONFIG || !text.is_empty() {
                files.insert(PathBuf::from(path), text.to_vec());
            }
        }
        let ours = CommandState::Safe {
            real: Path::new(LIBEXEC).join("eic_run_authorized_keys"),
        };
        let theirs = CommandState::Safe {
            real: PathBuf::from(COMMANDS[1]),
        };
        let commands = match switches % 4 {
            0 => [ours, CommandState::Absent],
            1 => [CommandState::Absent, ours],
            2 => [ours, theirs],
            _ => [CommandState::Absent, CommandState::Absent],
        };
        Self {
            directory: switches & 4 == 0 || files.keys().any(|path| path.starts_with(DROPIN_DIR)),
            files,
            commands,
            unit: PARTS[5..7].iter().map(PathBuf::from).collect(),
            options: call(COMMANDS[0], switches >> 4).options,
            recent: switches & 8 != 0,
        }
    }

    /// What setup would read, by what glob(3) is replaced with here.
    fn facts(&self) -> Facts {
        let config = |path: &&PathBuf| path.starts_with("/etc/ssh");
        let paths: Vec<&PathBuf> = self.files.keys().filter(config).collect();
        let mut globs = BTreeMap::new();
        let mut snapshot = Snapshot {
            main: MAIN_CONFIG.into(),
            ..Snapshot::default()
        };
        for path in &paths {
            let bytes = &self.files[*path];
            snapshot.files.insert((*path).clone(), bytes.clone());
            for line in config::parse(bytes)
                .map(|config| config.lines)
                .unwrap_or_default()
            {
                let Statement::Directive(directive) = &line.statement else {
                    continue;
                };
                for pattern in tree::include_patterns(directive) {
                    let matches = |path: &&&PathBuf| glob::path_matches(&pattern, &path.to_string_lossy());
                    let found = paths.iter().filter(matches).map(|path| (*path).clone()).collect();
                    globs.insert(pattern.clone(), found);
                }
            }
        }
        snapshot.globs = globs;
        let unit = self.unit.iter().filter_map(|path| {
            Some(UnitFile {
                path: path.clone(),
                bytes: self.files.get(path)?.clone(),
            })
        });
        let environment = [PathBuf::from(PARTS[7])];
        Facts {
            snapshot,
            main: Some(MainFile {
                real: MAIN_CONFIG.into(),
                links: 1,
                mode: 0o644,
            }),
            dropin: self.files.get(Path::new(DROPIN)).map(|bytes| DropInFile {
                symlink: false,
                bytes: bytes.clone(),
            }),
            dropin_dir: self.directory,
            commands: self.commands.clone(),
            run_as: true,
            unit: unit.collect(),
            environment: environment
                .into_iter()
                .filter_map(|path| Some((path.clone(), self.files.get(&path)?.clone())))
                .collect(),
            running: None,
            hold: self.files.get(Path::new(HOLD)).cloned(),
            hold_dir: true,
            config: None,
            files: BTreeMap::new(),
            options: Some(self.options),
            release: self.recent.then_some((9, 6)),
        }
    }

    /// Does the steps, each of which must find what it was planned on.
    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::MakeDirectory { path } => {
                    assert_eq!(path, Path::new(DROPIN_DIR));
                    self.directory = true;
                }
                Step::Write {
                    path, before, after, ..
                } => {
                    assert_eq!(
                        self.files.get(path),
                        before.as_ref(),
                        "{} is another",
                        path.display()
                    );
                    self.files.insert(path.clone(), after.clone());
                }
                Step::Delete { path, before } => {
                    assert_eq!(
                        self.files.remove(path).as_ref(),
                        Some(before),
                        "{} is another",
                        path.display()
                    );
                }
                Step::RemoveDirectory { path } => {
                    let empty = !self.files.keys().any(|file| file.starts_with(path));
                    self.directory &= !(path == Path::new(DROPIN_DIR) && empty);
                }
            }
            assert_eq!(
                step.diff().is_empty(),
                is_directory(step),
                "a change without a diff"
            );
        }
    }
}

fn is_directory(step: &Step) -> bool {
    matches!(step, Step::MakeDirectory { .. } | Step::RemoveDirectory { .. })
}

/// The whole decision of `setup`: applying puts ours in force and a second time changes nothing; removing gives every
/// byte back. Gives the number of steps that applying took.
pub fn plan(data: &[u8]) -> usize {
    let mut machine = Machine::new(data);
    let original = machine.clone();
    let facts = machine.facts();
    let Ok(survey) = plan::survey(&facts) else {
        return 0;
    };
    // Nobody's decision is overruled, whatever the layout.
    let Ok(apply) = plan::plan(&facts, &survey, Goal::Apply, By::Package, Placement::DropIn) else {
        remove(&mut machine);
        return 0;
    };
    assert!(
        !matches!(survey.state, State::Foreign | State::Damaged),
        "somebody's decision is overruled"
    );
    machine.run(&apply.steps);
    let facts = machine.facts();
    let after = plan::survey(&facts).expect("what was read before is read after");
    if apply.steps.is_empty() {
        assert_eq!(machine.files, original.files);
    }
    // A hold by a package's apply wants nothing; everything else is in force afterwards, also where nothing was to do.
    if let Some(wanted) = &apply.wanted {
        let winner = after.in_force.as_ref().map(|setting| Call::parse(&setting.value));
        let wanted = Call::parse(wanted);
        assert!(wanted.is_some() && winner == Some(wanted), "{:?}", after.in_force);
        assert!(
            matches!(after.state, State::Ours | State::Tradition),
            "{:?}",
            after.state
        );
    }
    let again = plan::plan(&facts, &after, Goal::Apply, By::Package, Placement::DropIn);
    let again = again.expect("what was applied can be applied");
    assert!(again.steps.is_empty(), "{:?}", again.steps);

    remove(&mut machine);
    // What Amazon's packages left was taken, on purpose: then there is less than before, and nothing else.
    if survey.state == State::Absent && layout_is_nobodys(&original) {
        assert_eq!(machine.files, original.files, "not every byte came back");
        assert_eq!(machine.directory, original.directory);
    }
    apply.steps.len()
}

/// Removes, and sees that nothing of ours is left and that a second time changes nothing.
fn remove(machine: &mut Machine) {
    let facts = machine.facts();
    let Ok(survey) = plan::survey(&facts) else {
        return;
    };
    let Ok(plan) = plan::plan(&facts, &survey, Goal::Remove, By::Package, Placement::DropIn) else {
        assert_eq!(survey.state, State::Damaged);
        return;
    };
    machine.run(&plan.steps);
    let facts = machine.facts();
    let survey = plan::survey(&facts).expect("what was read before is read after");
    assert_ne!(survey.state, State::Ours);
    let again = plan::plan(&facts, &survey, Goal::Remove, By::Package, Placement::DropIn);
    assert!(
        again.is_ok_and(|plan| plan.steps.is_empty()),
        "a second removal removes more"
    );
}

/// Whether no file names a command of ours or has anything of our form.
fn layout_is_nobodys(machine: &Machine) -> bool {
    machine.files.values().all(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        !text.contains("eic_run_authorized_keys") && !text.contains("ec2-instance-connect")
    })
}

/// `sshd -T` before and after, divided by a line of `%%`: what passes has the wanted pair in force, and nothing
/// changes unseen.
pub fn dump(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (before, after) = text.split_once("%%\n").unwrap_or((&text, ""));
    let settings = dump::settings(before);
    assert_eq!(
        settings.values().map(Vec::len).sum::<usize>(),
        before.lines().count()
    );
    assert!(
        !settings
            .keys()
            .any(|keyword| keyword.bytes().any(|b| b.is_ascii_uppercase()))
    );
    // Each look reads it all anew: a few are enough.
    for (keyword, values) in settings.iter().take(3).chain(settings.iter().next_back()) {
        assert_eq!(dump::value(before, keyword).as_ref(), values.first());
    }
    let check = |stdout: &str, ok| Check {
        ok,
        stdout: if ok { stdout.to_owned() } else { String::new() },
        stderr: if ok { String::new() } else { stdout.to_owned() },
    };
    let wanted = Call::plain(COMMANDS[0]).value();
    let user = ec2_instance_connect::sshd::RUN_AS;
    for (old_ok, new_ok) in [(true, true), (true, false), (false, true), (false, false)] {
        let (old, new) = (check(before, old_ok), check(after, new_ok));
        let Ok(passed) = dump::judge(&old, &new, Some((&wanted, user))) else {
            continue;
        };
        assert!(new_ok || (!old_ok && passed.already_broken));
        if new_ok {
            let value = |keyword| dump::value(after, keyword);
            assert_eq!(value("authorizedkeyscommand").as_deref(), Some(wanted.as_str()));
            assert_eq!(value("authorizedkeyscommanduser").as_deref(), Some(user));
        }
        if old_ok && new_ok {
            let (old, new) = (dump::settings(before), dump::settings(after));
            let changed = |keyword: &&String| {
                !keyword.starts_with("authorizedkeyscommand") && old.get(*keyword) != new.get(*keyword)
            };
            for keyword in old.keys().chain(new.keys()).filter(changed) {
                assert!(
                    passed
                        .side_effects
                        .iter()
                        .any(|effect| effect.keyword == *keyword),
                    "{keyword}"
                );
            }
        }
    }
    let same = check(before, true);
    assert!(dump::judge(&same, &same, None).is_ok_and(|passed| passed.side_effects.is_empty()));
}

/// A unit, its environment file, a daemon's command line, divided by lines of `%%`: what is read prints back, and
/// only an override of exactly the known form is taken for Amazon's.
pub fn unit(data: &[u8]) {
    let parts = super::parts(data);
    let part = |place: usize| parts.get(place).copied().unwrap_or_default();
    let (unit, environment, cmdline) = (part(0), part(1), part(2));
    let found = unit::assignments(unit);
    let lines = String::from_utf8_lossy(unit).lines().count();
    assert!(found.windows(2).all(|pair| pair[0].line < pair[1].line));
    for one in &found {
        assert!(one.line >= 1 && one.line <= lines);
        assert!(!one.key.contains('=') && one.key.trim() == one.key && one.value.trim() == one.value);
        if !one.value.ends_with('\\') && !one.key.starts_with(['[', '#', ';']) {
            let printed = format!("[{}]\n{}={}\n", one.section, one.key, one.value);
            let again = unit::assignments(printed.as_bytes());
            let same = |it: &unit::Assignment| {
                (&it.section, &it.key, &it.value) == (&one.section, &one.key, &one.value)
            };
            assert!(again.len() == 1 && again.iter().all(same), "{printed:?}");
        }
    }
    let file = UnitFile {
        path: "/u".into(),
        bytes: unit.to_vec(),
    };
    let read = |path: &str| (path == PARTS[7]).then(|| environment.to_vec());
    let start = unit::start(std::slice::from_ref(&file), &read);
    let commands = found.iter().any(|one| {
        (one.section.as_str(), one.key.as_str()) == ("Service", "ExecStart") && !one.value.is_empty()
    });
    assert!(commands || start.argv.is_empty());
    if let Some(Override::Whole { command }) = unit::reference_override(unit) {
        assert_eq!(found.len(), 2, "more than the two lines is taken away");
        let arguments = Arguments::parse(start.argv.get(1..).unwrap_or_default());
        let value = arguments.value_of("authorizedkeyscommand").map(|it| it.value());
        let value = value.as_deref().and_then(Call::parse);
        assert_eq!(value.map(|call| call.path), Some(command));
    }
    // A check that repeats the arguments sees the same configuration.
    for words in [
        start.argv.get(1..).unwrap_or_default().to_vec(),
        args::from_cmdline(cmdline),
    ] {
        let arguments = Arguments::parse(&words);
        let repeated = Arguments::parse(&arguments.repeat);
        assert_eq!(repeated, arguments);
    }
}
