//! Links: whatever another command does, its lines are passed on whole or not at all, our own keys are given, and
//! nothing that it started is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that fails shall say so at once"
)]

mod common;

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::case::{INSTANCE, KEY_LINE, SHA256};
use common::run::{self, HELPER, Outcome, helper, with_config};
use eic_simulator::faults::{Effect, Fault};
use eic_simulator::record::Record;
use eic_simulator::{Simulator, World};

const USER: &str = "ec2-user";
const TOKEN: &str = "/latest/api/token";
/// A line that no key of ours is.
const LINE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIForeign of-a-link";
/// A link's time where it is to run out. The commands hang far longer, so no test depends on the machine's load.
const SHORT: u32 = 300;
/// And where it is not.
const LONG: u32 = 8000;

/// A simulator with one key pushed for [`USER`], and configurations beside it.
struct Machine {
    simulator: Simulator,
    directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
        simulator.push(USER, KEY_LINE);
        let directory = tempfile::tempdir().unwrap();
        Self { simulator, directory }
    }

    /// The simulator's configuration with these tables.
    fn with(&self, chain: &str) -> PathBuf {
        let path = self.directory.path().join("config.toml");
        let text = self
            .simulator
            .config_toml()
            .replace("[imds]\n", "[imds]\ntotal_timeout_ms = 10000\n");
        fs::write(&path, format!("{text}{chain}")).unwrap();
        path
    }

    fn login(&self, chain: &str) -> Outcome {
        with_config(&self.with(chain), &[USER])
    }
}

/// A link that runs this program text with the login name behind it.
fn script(name: &str, text: &str, timeout: u32) -> String {
    let text = serde_json::Value::from(text);
    format!(
        "[[chain]]\nname = \"{name}\"\ntimeout_ms = {timeout}\ncommand = [\"/bin/sh\", \"-c\", {text}, \"link\", \"%u\"]\n"
    )
}

fn gives(name: &str, line: &str) -> String {
    script(name, &format!("echo '{line}'"), LONG)
}

/// The reasons of links, in order.
fn reasons(outcome: &Outcome) -> Vec<&str> {
    let links = outcome
        .stderr
        .lines()
        .filter(|line| line.starts_with("Passing on nothing of link "));
    links
        .filter_map(|line| line.split("reason=").nth(1)?.split(' ').next())
        .collect()
}

/// Our key and nothing else comes out, for this reason of the link's.
#[track_caller]
fn costs_only_itself(machine: &Machine, chain: &str, reason: &str) {
    let outcome = machine.login(chain);
    outcome.gave(&[KEY_LINE]);
    assert_eq!(reasons(&outcome), [reason], "{outcome:?}");
}

/// A word for a command line by which its process is found.
fn mark(what: &str) -> String {
    format!("eic-{what}-{}", std::process::id())
}

/// The processes, whoever's children they are, that have this word on their command line.
fn marked(mark: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(mark)).collect()
}

/// Waits until a condition holds that must come to hold.
#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn nothing_is_left(mark: &str) {
    until(&format!("nothing of {mark} runs: {:?}", marked(mark)), || {
        marked(mark).is_empty()
    });
}

#[test]
fn lines_of_links_are_passed_on_as_they_are_behind_the_pushed_key() {
    let machine = Machine::new();
    let odd = "restrict,command=\"echo  two  blanks\" ssh-rsa AAAA  caf\u{e9}\t# x";
    let chain = gives("one", LINE) + &gives("two", odd);
    let outcome = with_config(&machine.with(&chain), &[USER, SHA256]);
    outcome.gave(&[KEY_LINE, LINE, odd]);
    for (name, lines) in [("one", 1), ("two", 1)] {
        let said = format!("Passing on {lines} lines of link {name} for {USER}: lines={lines} user={USER}");
        let mut known = outcome.stderr.lines().filter(|line| line.starts_with(&said));
        let line = known.next().unwrap_or_else(|| panic!("{outcome:?}"));
        // `history` reads it, and finds the login by connection and key.
        assert!(
            line.ends_with(&format!(" link={name} fingerprint={SHA256}")),
            "{line}"
        );
    }
}

#[test]
fn a_link_for_want_of_a_key_speaks_only_without_one() {
    let machine = Machine::new();
    let chain = gives("link", LINE) + "when = \"no-key\"\n";
    let outcome = machine.login(&chain);
    outcome.gave(&[KEY_LINE]);
    assert!(!outcome.stderr.contains("link"), "{outcome:?}");
    let elsewhere = Record::new("i-0fedcba9876543210", KEY_LINE);
    machine.simulator.push_record("bob", &elsewhere);
    let outcome = with_config(&machine.with(&chain), &["bob"]);
    outcome.gave(&[LINE]);
    assert_eq!(outcome.reasons(), ["record-instance"]);
    let config = machine.with(&chain);
    let outcome = with_config(&config, &["nobody"]);
    outcome.gave(&[LINE]);
    assert_eq!(outcome.reasons(), ["no-key"]);
}

#[test]
fn links_speak_where_we_can_not() {
    let machine = Machine::new();
    for when in ["always", "no-key"] {
        let chain = gives("link", LINE) + &format!("when = \"{when}\"\n");
        let config = machine.with(&chain);
        for name in ["a b", "-", "\u{e9}", "a/b"]
            .into_iter()
            .filter(|name| *name != "-")
        {
            with_config(&config, &[name]).gave(&[LINE]);
        }
        with_config(&config, &[USER, "no fingerprint"]).gave(&[LINE]);
        for effect in [Effect::Stall, Effect::Status(403)] {
            machine.simulator.fault(Fault::on(TOKEN, effect));
            machine.login(&chain).gave(&[LINE]);
            machine.simulator.clear_faults();
        }
        let text = fs::read_to_string(&config).unwrap();
        let no_instance = text.lines().map(|line| match line.starts_with("sysfs") {
            true => "sysfs = \"/nonexistent\"",
            false => line,
        });
        fs::write(&config, no_instance.collect::<Vec<_>>().join("\n")).unwrap();
        let outcome = with_config(&config, &[USER]);
        outcome.gave(&[LINE]);
        assert_eq!(outcome.reasons(), ["not-ec2"]);
    }
}

/// With the default times the metadata's silence lasts longer than what is left for the link after it.
#[test]
fn a_silent_metadata_service_does_not_take_the_links_time() {
    let machine = Machine::new();
    let chain = gives("link", LINE) + "when = \"no-key\"\n";
    let config = machine.with(&chain.replace(&LONG.to_string(), "5000"));
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("[imds]\n", "[imds]\nrequest_timeout_ms = 5000\n"),
    )
    .unwrap();
    machine.simulator.fault(Fault::on(TOKEN, Effect::Stall));
    let outcome = with_config(&config, &[USER]);
    outcome.gave(&[LINE]);
    assert_eq!(outcome.reasons().len(), 1, "{outcome:?}");
}

#[test]
fn a_configuration_that_is_wrong_runs_no_link() {
    let machine = Machine::new();
    let seen = machine.directory.path().join("seen");
    let touch = script("link", &format!("touch {}", seen.display()), LONG);
    let outcome = machine.login(&(touch.clone() + "\n[nonsense]\n"));
    outcome.refused("config");
    assert!(!seen.exists());
    machine.login(&touch).gave(&[KEY_LINE]);
    assert!(seen.exists());
}

#[test]
fn a_link_that_ends_badly_gives_nothing() {
    let machine = Machine::new();
    for end in ["exit 3", "kill -9 $$", "kill -SEGV $$", "exec /nonexistent"] {
        let text = format!("echo '{LINE}'; {end}");
        costs_only_itself(&machine, &script("link", &text, LONG), "link-failed");
    }
    machine
        .login(&script("link", &format!("echo '{LINE}'; exit 0"), LONG))
        .gave(&[KEY_LINE, LINE]);
}

#[test]
fn a_link_that_hangs_or_drips_gives_nothing_and_is_ended() {
    let machine = Machine::new();
    for (what, text) in [
        ("hang", "echo \"$LINE\"; sleep 600 # $MARK"),
        ("drip", "while true; do printf x; sleep 0.01; done # $MARK"),
        (
            "deaf",
            "trap '' TERM HUP INT; echo \"$LINE\"; sleep 600 & wait # $MARK",
        ),
        ("silent", "exec >&-; sleep 600 # $MARK"),
    ] {
        let mark = mark(what);
        let text = text.replace("$MARK", &mark).replace("$LINE", LINE);
        costs_only_itself(&machine, &script("link", &text, SHORT), "link-timeout");
        nothing_is_left(&mark);
    }
}

#[test]
fn a_link_that_floods_gives_nothing_and_is_ended() {
    let machine = Machine::new();
    let mark = mark("flood");
    let flood = script("link", &format!("yes '{LINE}' # {mark}"), LONG);
    costs_only_itself(&machine, &flood, "link-too-large");
    nothing_is_left(&mark);
    let long = |length: u32| {
        let text = format!("head -c {length} /dev/zero | tr '\\0' a");
        script("link", &text, LONG)
    };
    costs_only_itself(&machine, &long(16 * 1024 + 1), "link-too-large");
    let outcome = machine.login(&long(16 * 1024));
    assert_eq!(outcome.stdout.len(), KEY_LINE.len() + 1 + 16 * 1024 + 1);
}

#[test]
fn a_link_that_prints_garbage_gives_nothing() {
    let machine = Machine::new();
    for garbage in ["\\0000", "\\033[2J", "\\r", "\\0177"] {
        let text = format!("printf '%%s%%b%%s\\n' '{LINE}' '{garbage}' x");
        costs_only_itself(&machine, &script("link", &text, LONG), "link-malformed");
    }
    let text = format!("printf '%%s%%b%%s\\n' '{LINE}' '\\t' x");
    machine
        .login(&script("link", &text, LONG))
        .gave(&[KEY_LINE, &format!("{LINE}\tx")]);
}

/// It is done when the command is, whoever else still holds the pipe; and what it left running goes with it.
#[test]
fn a_link_that_forks_away_holds_up_nothing_and_leaves_nothing() {
    let machine = Machine::new();
    for (what, fork) in [
        ("background", "sleep 600 && : $MARK &"),
        ("session", "setsid sh -c 'sleep 600; : $MARK' &"),
        (
            "daemon",
            "(setsid sh -c '(trap \"\" TERM HUP; sleep 600; : $MARK) & exit' &)",
        ),
        (
            "breeder",
            "setsid sh -c 'while true; do setsid sh -c \"sleep 600; : $MARK\" & sleep 0.01; done' & sleep 0.2",
        ),
        // Its name, which it may choose, is no text, or reads like what follows a name.
        (
            "no-text",
            "setsid sh -c 'printf \"\\377\" >/proc/$$/comm; sleep 600; : $MARK' & sleep 0.2",
        ),
        (
            "parenthesis",
            "setsid sh -c 'printf \"x) S 1 (y\" >/proc/$$/comm; sleep 600; : $MARK' & sleep 0.2",
        ),
    ] {
        let mark = mark(what);
        let text = format!("{}\necho '{LINE}'", fork.replace("$MARK", &mark));
        let outcome = machine.login(&script("link", &text, LONG));
        outcome.gave(&[KEY_LINE, LINE]);
        nothing_is_left(&mark);
    }
}

#[test]
fn a_link_that_ends_its_group_does_not_end_us() {
    let machine = Machine::new();
    costs_only_itself(&machine, &script("link", "kill -9 0", LONG), "link-failed");
}

/// A helper that waits for a link which will not end.
fn waiting(machine: &Machine, mark: &str) -> Child {
    let text = format!("setsid sh -c 'sleep 600; : {mark}-daemon' & sleep 600; : {mark}");
    let config = machine.with(&script("link", &text, LONG));
    let child = Command::new(HELPER)
        .arg("--config")
        .arg(config)
        .arg(USER)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("both run", || {
        let running = marked(mark);
        running
            .iter()
            .any(|line| line.contains("setsid") || line.contains("-daemon"))
            && running.len() >= 2
    });
    child
}

#[test]
fn nothing_of_a_link_outlives_a_helper_that_is_killed() {
    use nix::sys::signal::{Signal, kill};
    let machine = Machine::new();
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGALRM] {
        let mark = mark(signal.as_str());
        let mut helper = waiting(&machine, &mark);
        kill(
            nix::unistd::Pid::from_raw(i32::try_from(helper.id()).unwrap()),
            signal,
        )
        .unwrap();
        assert!(!helper.wait().unwrap().success());
        nothing_is_left(&mark);
    }
}

#[test]
fn a_link_gets_sshds_environment_and_three_descriptors() {
    let machine = Machine::new();
    // With builtins alone, since a program run by the shell would have descriptors of its own.
    let text = "env; pwd; for fd in /proc/self/fd/*; do echo fd ${fd##*/}; done; readlink /proc/$$/fd/0 /proc/$$/fd/2";
    let config = machine.with(&script("link", text, LONG));
    // What nobody closed before it started the helper.
    let leak = fs::File::open("/dev/zero").unwrap();
    nix::fcntl::fcntl(
        leak.as_fd(),
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let mut command = Command::new(HELPER);
    command
        .arg("--config")
        .arg(config)
        .arg(USER)
        .env("SECRET", "1")
        .env("LD_DEBUG_X", "1");
    let outcome = run::run(&mut command);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("SECRET") || line.contains("LD_DEBUG_X")),
        "{lines:?}"
    );
    for name in ["PATH=", "USER=", "LOGNAME=", "HOME="] {
        assert!(
            lines.iter().any(|line| line.starts_with(name)),
            "{name} {lines:?}"
        );
    }
    assert!(lines.contains(&"/"));
    assert_eq!(
        lines.iter().filter(|line| **line == "/dev/null").count(),
        2,
        "{lines:?}"
    );
    let leaked = format!("fd {}", leak.as_raw_fd());
    assert!(
        lines.contains(&"fd 1") && !lines.contains(&leaked.as_str()),
        "{lines:?}"
    );
}

#[test]
fn sshds_tokens_arrive_as_they_are_each_as_one_word() {
    let machine = Machine::new();
    let chain =
        "[[chain]]\ncommand = [\"/usr/bin/printf\", \"<%%s>\\\\n\", \"%u\", \"%f\", \"%h/x\", \"%t %k\"]\n";
    let config = machine.with(chain);
    let words = |user: OsString| -> Vec<OsString> {
        let options = [
            "--config".into(),
            config.clone().into_os_string(),
            "--home".into(),
            "/home/a b".into(),
        ];
        let rest = [
            "--key".into(),
            "AAAA".into(),
            "--type".into(),
            "ssh-rsa".into(),
            user,
            SHA256.into(),
        ];
        options.into_iter().chain(rest).collect()
    };
    let expected = |user: &str| ["<", user, ">\n<", SHA256, ">\n</home/a b/x>\n<ssh-rsa AAAA>\n"].concat();
    for user in ["ec2-user@corp.example", "a b;$(reboot)`x`'\"", "%u"] {
        assert_eq!(helper(words(user.into())).stdout, expected(user));
    }
    // Nothing stands for nothing: text behind it would begin the argument.
    assert_eq!(helper(words("".into())).stdout, "");
    // What is not UTF-8 is not changed either.
    let output = Command::new(HELPER)
        .args(words(OsString::from_vec(b"caf\xe9".to_vec())))
        .output()
        .unwrap();
    assert!(output.stdout.starts_with(b"<caf\xe9>\n"), "{output:?}");
}

#[test]
fn a_token_that_is_missing_or_could_be_an_option_runs_no_link() {
    let machine = Machine::new();
    let chain = "[[chain]]\ncommand = [\"/bin/echo\", \"%h\"]\n";
    costs_only_itself(&machine, chain, "link-token");
    let config = machine.with(&gives("link", LINE));
    let outcome = with_config(&config, &["-x", SHA256]);
    assert_eq!(
        (outcome.stdout.as_str(), reasons(&outcome)),
        ("", vec!["link-token"]),
        "{outcome:?}"
    );
    with_config(&config, &["x-", SHA256]).gave(&[LINE]);
}

#[test]
fn a_program_that_others_than_root_could_change_is_not_run() {
    let machine = Machine::new();
    let make = |directory: &Path| {
        let path = directory.join("link");
        let mut file = fs::File::create(&path).unwrap();
        writeln!(file, "#!/bin/sh\necho '{LINE}'").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let link = |path: &Path| format!("[[chain]]\ncommand = [\"{}\"]\n", path.display());
    // Everybody may write to the directory of temporary files.
    costs_only_itself(&machine, &link(&make(machine.directory.path())), "link-path");
    costs_only_itself(
        &machine,
        "[[chain]]\ncommand = [\"/usr/bin/no-such-program\"]\n",
        "link-path",
    );
    if !common::is_root() {
        common::skip(
            "a_program_that_others_than_root_could_change_is_not_run",
            "needs root for its twin",
        );
        return;
    }
    let sound = tempfile::tempdir_in("/var/lib").unwrap();
    fs::set_permissions(sound.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = make(sound.path());
    machine.login(&link(&path)).gave(&[KEY_LINE, LINE]);
    for mode in [0o775, 0o757] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        costs_only_itself(&machine, &link(&path), "link-path");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(sound.path(), fs::Permissions::from_mode(mode)).unwrap();
        costs_only_itself(&machine, &link(&path), "link-path");
        fs::set_permissions(sound.path(), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    costs_only_itself(&machine, &link(&path), "link-path");
}
